//! `[dedup]`: what becomes of events that came before.

use super::reader::SectionReader;
use super::secret;
use redis::IntoConnectionInfo;
use secrecy::{ExposeSecret, SecretString};
use std::ops::RangeInclusive;
use std::time::Duration;

/// What becomes of events that came before.
#[derive(Clone, Debug)]
pub struct DedupConfig {
    /// Where claims are kept. Default memory.
    pub store: DedupStore,
    /// What becomes of the same event, delivered again. Default drop.
    pub redelivery: DuplicateHandling,
    /// What becomes of an occupancy computed again with the value that is there. Default drop.
    pub repeat: DuplicateHandling,
    /// For how long an event's id is remembered after it was stored. Default 15 min.
    pub id_window: Duration,
    /// For how long the current value of an occupancy (type, space, timestamp) is remembered. Default 15 min.
    pub reading_window: Duration,
    /// Most ids remembered; beyond, the oldest goes. Default 4,000,000.
    pub max_ids: usize,
    /// Most current values remembered, and most spaces and sensors whose newest event is; beyond, the oldest goes. Default
    /// 1,000,000.
    pub max_readings: usize,
    /// For how long the windows are rebuilt from the topics after a start, at most; zero: not at all. Default 30 s.
    pub rebuild_within: Duration,
}

/// Where claims are kept.
#[derive(Clone, Debug)]
pub enum DedupStore {
    /// In this process: copies that reach different replicas are not recognised.
    Memory,
    /// Shared by all replicas.
    Redis(RedisConfig),
}

/// The store that replicas share.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// `redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS.
    pub url: SecretString,
    /// What all keys begin with. Default `butlr-bridge`.
    pub prefix: String,
    /// How long an event waits for its answer before the bridge goes on with what it knows itself. Default 100 ms.
    pub timeout: Duration,
}

/// What becomes of a duplicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuplicateHandling {
    /// Not published, and answered as a duplicate.
    Drop,
    /// Published with the header `ce_duplicate`.
    Tag,
    /// Published as if it were new.
    Off,
}

impl DedupConfig {
    /// Whether events are compared with what is stored at all.
    pub fn is_enabled(&self) -> bool {
        (self.redelivery, self.repeat) != (DuplicateHandling::Off, DuplicateHandling::Off)
    }
}

const HAS_DEFAULT: &str = "the table of keys has a default for it";
const WINDOW: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
const REBUILD_WITHIN: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
const REDIS_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(1);
const HANDLINGS: [(&str, DuplicateHandling); 3] = [
    ("drop", DuplicateHandling::Drop),
    ("tag", DuplicateHandling::Tag),
    ("off", DuplicateHandling::Off),
];

pub(super) fn read(section: &SectionReader<'_>) -> DedupConfig {
    let handling = |name| section.choice(name, &HANDLINGS).expect(HAS_DEFAULT);
    let window = |name| section.duration(name, WINDOW).expect(HAS_DEFAULT);
    let most = |name| section.integer(name, 1_000..=1_000_000_000);
    let (redelivery, repeat) = (handling("redelivery"), handling("repeat"));
    if redelivery == DuplicateHandling::Off && repeat != DuplicateHandling::Off {
        // An event that came before would count as the current value, and what follows be judged by that.
        section.report_error(
            "redelivery",
            "\"off\" goes only together with repeat = \"off\"; allowed otherwise: drop, tag",
        );
    }
    DedupConfig {
        store: read_store(section),
        redelivery,
        repeat,
        id_window: window("id_window"),
        reading_window: window("reading_window"),
        max_ids: most("max_ids").expect(HAS_DEFAULT),
        max_readings: most("max_readings").expect(HAS_DEFAULT),
        rebuild_within: section
            .duration("rebuild_within", REBUILD_WITHIN)
            .expect(HAS_DEFAULT),
    }
}

fn read_store(section: &SectionReader<'_>) -> DedupStore {
    let stores = [("memory", false), ("redis", true)];
    let is_redis = section.choice("store", &stores).expect(HAS_DEFAULT);
    let timeout = section
        .duration("redis_timeout", REDIS_TIMEOUT)
        .expect(HAS_DEFAULT);
    let given = ["redis_url", "redis_url_file"]
        .into_iter()
        .find(|name| section.is_set(name));
    if !is_redis {
        if let Some(name) = given
            && section.is_valid(&["dedup.store"])
        {
            section.report_error(
                name,
                "is of no use while dedup.store is \"memory\"; set that to \"redis\", or leave this out",
            );
        }
        return DedupStore::Memory;
    }
    let Some(url) = secret::read_required(section, "redis_url") else {
        return DedupStore::Memory;
    };
    let prefix = section.read("redis_prefix", |written| parse_prefix(written.text()?));
    if let Err(problem) = check_redis_url(&url) {
        section.report_error(given.unwrap_or("redis_url"), problem);
        return DedupStore::Memory;
    }
    DedupStore::Redis(RedisConfig {
        url,
        prefix: prefix.expect(HAS_DEFAULT),
        timeout,
    })
}

/// Part of each key, so short ones.
fn parse_prefix(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if (1..=64).contains(&text.len()) && text.chars().all(good) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is no prefix; allowed: 1 to 64 of A-Z a-z 0-9 - _ . :"
        ))
    }
}

/// The value is never repeated: it may hold a password.
fn check_redis_url(url: &SecretString) -> Result<(), &'static str> {
    const ALLOWED: &str = "is no such address; allowed: redis://host:6379 (rediss:// with TLS), with user and password as in redis://user:password@host:6379/0, where characters with a meaning in addresses stand as %40";
    let text = url.expose_secret();
    let known = text.starts_with("redis://") || text.starts_with("rediss://");
    // What comes behind # would turn off the check of the server's certificate.
    if !known || text.contains('#') || text.into_connection_info().is_err() {
        return Err(ALLOWED);
    }
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let host = rest.rsplit('@').next().unwrap_or(rest);
    if host.is_empty() || host.starts_with([':', '/']) {
        return Err(ALLOWED);
    }
    Ok(())
}
