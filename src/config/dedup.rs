//! `[dedup]`: duplicate detection.

use super::reader::SectionReader;
use super::secret;
use redis::IntoConnectionInfo;
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;

/// Duplicate detection.
#[derive(Clone, Debug)]
pub struct DedupConfig {
    /// Store of the claims.
    pub store: DedupStore,
    /// Handling of redeliveries: the same event again.
    pub redelivery: DuplicateHandling,
    /// Handling of repeats: an occupancy computed again with the current value.
    pub repeat: DuplicateHandling,
    /// Time for which the id of a stored event is remembered.
    pub id_window: Duration,
    /// Time for which the current value of an occupancy (type, space, timestamp) is remembered.
    pub reading_window: Duration,
    /// Maximum number of ids; above it, the oldest is forgotten.
    pub max_ids: usize,
    /// Maximum number of current values, and of spaces and sensors whose newest event is
    /// remembered; above it, the oldest is forgotten.
    pub max_readings: usize,
    /// After a start, maximum time for rebuilding the dedup window from the topics; zero disables
    /// it.
    pub rebuild_within: Duration,
}

/// Store of the claims.
#[derive(Clone, Debug)]
pub enum DedupStore {
    /// Memory of this process: copies that reach different replicas are not recognised.
    Memory,
    /// Redis, shared by all replicas.
    Redis(RedisConfig),
}

/// The Redis that replicas share.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// `redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS.
    pub url: SecretString,
    /// Prefix of all keys.
    pub prefix: String,
    /// Time that an event waits for Redis before the bridge uses its own memory.
    pub timeout: Duration,
}

/// Handling of a duplicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuplicateHandling {
    /// It is not published; the response calls it a duplicate.
    Drop,
    /// It is published with the header `ce_duplicate`.
    Tag,
    /// It is published as a new event.
    Off,
}

impl DedupConfig {
    /// Returns `true` unless both kinds of duplicates are published as new events.
    pub fn is_enabled(&self) -> bool {
        (self.redelivery, self.repeat) != (DuplicateHandling::Off, DuplicateHandling::Off)
    }
}

const HANDLINGS: [(&str, DuplicateHandling); 3] = [
    ("drop", DuplicateHandling::Drop),
    ("tag", DuplicateHandling::Tag),
    ("off", DuplicateHandling::Off),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum StoreKind {
    Memory,
    Redis,
}

pub(super) fn read(section: &SectionReader<'_>) -> DedupConfig {
    let redelivery = section.choice("redelivery", &HANDLINGS);
    let repeat = section.choice("repeat", &HANDLINGS);
    if redelivery == DuplicateHandling::Off && repeat != DuplicateHandling::Off {
        // A redelivery would become the current value, and later events would be compared with it.
        section.report_error(
            "redelivery",
            "\"off\" requires repeat = \"off\"; otherwise use drop or tag",
        );
    }
    DedupConfig {
        store: read_store(section),
        redelivery,
        repeat,
        id_window: section.duration("id_window"),
        reading_window: section.duration("reading_window"),
        max_ids: section.integer("max_ids"),
        max_readings: section.integer("max_readings"),
        rebuild_within: section.duration("rebuild_within"),
    }
}

fn read_store(section: &SectionReader<'_>) -> DedupStore {
    let kinds = [("memory", StoreKind::Memory), ("redis", StoreKind::Redis)];
    let kind = section.choice("store", &kinds);
    let timeout = section.duration("redis_timeout");
    let url_key = ["redis_url", "redis_url_file"]
        .into_iter()
        .find(|name| section.is_set(name));
    if kind == StoreKind::Memory {
        if let Some(url_key) = url_key
            && section.is_valid(&["dedup.store"])
        {
            section.report_error(
                url_key,
                "has no effect while dedup.store is \"memory\"; set dedup.store to \"redis\", or \
                 remove this key",
            );
        }
        return DedupStore::Memory;
    }
    let Some(url) = secret::read_required(section, "redis_url") else {
        return DedupStore::Memory;
    };
    let prefix = section.read("redis_prefix", |written| parse_prefix(written.text()?));
    let checked = check_redis_url(&url);
    match section.ok_or_report(url_key.unwrap_or("redis_url"), checked) {
        Some(()) => DedupStore::Redis(RedisConfig {
            url,
            prefix,
            timeout,
        }),
        None => DedupStore::Memory,
    }
}

/// Reads a prefix. It is part of each key, so only short ones are allowed.
fn parse_prefix(text: &str) -> Result<String, String> {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if (1..=64).contains(&text.len()) && text.chars().all(is_legal) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is not a valid prefix; use 1 to 64 of A-Z a-z 0-9 - _ . :"
        ))
    }
}

/// Checks the address of Redis. Errors never quote it, because it may contain a password.
fn check_redis_url(url: &SecretString) -> Result<(), String> {
    let text = url.expose_secret();
    let has_scheme = text.starts_with("redis://") || text.starts_with("rediss://");
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let host = rest.rsplit('@').next().unwrap_or(rest);
    // A fragment (#insecure) would turn off the check of the server's certificate.
    if has_scheme
        && !text.contains('#')
        && text.into_connection_info().is_ok()
        && !host.is_empty()
        && !host.starts_with([':', '/'])
    {
        return Ok(());
    }
    Err(
        "is not a valid address; write redis://host:6379 or, with TLS, rediss://host:6379; with a \
         password redis://user:password@host:6379/0, where special characters are percent-encoded, \
         such as %40 for @"
            .to_owned(),
    )
}
