//! Every key of the configuration, once: its default and what it means.
//!
//! The reader takes defaults from here, unknown keys are recognised by their absence here, and the README's table is
//! compared with it. In a key, `*` stands for a name that the user chooses and `[]` for the items of an array.

/// Where a key's value comes from when nobody gives one.
#[derive(Clone, Copy)]
pub(super) enum DefaultValue {
    /// A text that is read exactly as if the user had written it.
    Literal(&'static str),
    /// There is no fixed text; this says what happens instead.
    Described(&'static str),
}

pub(super) struct KeySpec {
    pub key: &'static str,
    pub default: DefaultValue,
    pub doc: &'static str,
}

/// One line of the configuration's reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyDoc {
    /// The dotted key; `*` stands for a name of the user's, `[]` for the items of an array.
    pub key: &'static str,
    /// The default as it would be written, or in words where it is not a fixed value.
    pub default: &'static str,
    /// What the key means.
    pub doc: &'static str,
}

/// Every key with its default and meaning, in the order of the sections.
pub fn reference() -> Vec<KeyDoc> {
    KEYS.iter()
        .map(
            |&KeySpec {
                 key,
                 default: Literal(default) | Described(default),
                 doc,
             }| KeyDoc { key, default, doc },
        )
        .collect()
}

use DefaultValue::{Described, Literal};

const fn key(key: &'static str, preset: DefaultValue, doc: &'static str) -> KeySpec {
    KeySpec {
        key,
        default: preset,
        doc,
    }
}

#[rustfmt::skip]
pub(super) static KEYS: &[KeySpec] = &[
    key("http.bind", Literal("127.0.0.1:8080"), "Address and port of the ingest listener; beyond loopback only with credentials"),
    key("http.workers", Described("the number of processors"), "Threads that serve requests"),
    key("http.max_body_bytes", Literal("1MiB"), "Largest request body, also after decompression"),
    key("http.max_event_bytes", Literal("256KiB"), "Largest single event"),
    key("http.max_events", Literal("1000"), "Most events in one array"),
    key("http.answer_within", Literal("2s"), "Longest time from a request's last byte to its answer"),
    key("http.sender_timeout", Described("unknown"), "How long the sender waits for an answer, as its subscription says; answer_within must be shorter"),
    key("http.header_timeout", Literal("5s"), "Longest time a client may take to send a request's headers"),
    key("http.body_timeout", Literal("5s"), "Longest time a client may take to send a request's body"),
    key("http.keep_alive", Literal("75s"), "How long an idle connection stays open"),
    key("http.max_connections", Literal("10000"), "Most open connections"),
    key("http.max_in_flight_events", Literal("100000"), "Most events waiting for Kafka at one time; more are answered 503"),
    key("http.max_in_flight_bytes", Literal("256MiB"), "Most bytes of request bodies held at one time; more are answered 503"),
    key("http.tls.cert_file", Described("no TLS"), "PEM file with the certificate chain"),
    key("http.tls.key_file", Described("no TLS"), "PEM file with the certificate's private key"),

    key("admin.bind", Literal("127.0.0.1:9464"), "Address and port of the admin listener"),
    key("admin.username", Described("none"), "User of the status pages; beyond loopback they are served only with credentials"),
    key("admin.password", Described("none"), "That user's password"),
    key("admin.password_file", Described("none"), "File with that user's password"),

    key("kafka.bootstrap_servers", Described("needed by serve and topics"), "Brokers to start from: host:port, separated by commas"),
    key("kafka.timestamp", Literal("event"), "A record's timestamp: the event's own (event) or the time of receipt (received)"),
    key("kafka.max_future", Literal("1m"), "An event's time further ahead than this is replaced by the time of publishing; below 1h"),
    key("kafka.max_past", Literal("3d"), "An event's time further back than this is replaced by the time of publishing; below every retention"),
    key("kafka.max_in_flight_per_topic", Literal("10000"), "Most events of one topic waiting for Kafka; more are spooled (without a spool answered 503), so that one topic cannot stall the others"),
    key("kafka.confirm_within", Literal("1s"), "How long Kafka may take to confirm an event before it is stored in the spool instead"),
    key("kafka.away_after", Literal("10s"), "Without a spool that can be written: after this long without a reachable broker the bridge is no longer ready"),
    key("kafka.properties.*", Described("none"), "A librdkafka property, its name in quotes; what the bridge's promise rests on is refused"),
    key("kafka.secret_files.*", Described("none"), "File with the value of a librdkafka property"),

    key("topics.template", Literal("butlr.event.{type}.v1"), "Topic names; {type} becomes the event type, as in room-occupancy-1min"),
    key("topics.partitions", Literal("6"), "Partitions of a topic"),
    key("topics.replication_factor", Described("the broker's default"), "Replicas of a partition"),
    key("topics.min_insync_replicas", Described("the broker's default"), "Replicas that must have a record before it counts as stored"),
    key("topics.retention", Literal("7d"), "How long records are kept, or forever; above kafka.max_past"),
    key("topics.quarantine", Literal("butlr.quarantine.v1"), "The topic of what is no valid event"),
    key("topics.quarantine_retention", Literal("30d"), "How long its records are kept, or forever"),
    key("topics.types.*.name", Described("from topics.template"), "The topic of one event type"),
    key("topics.types.*.partitions", Described("topics.partitions"), "The same for one event type"),
    key("topics.types.*.replication_factor", Described("topics.replication_factor"), "The same for one event type"),
    key("topics.types.*.min_insync_replicas", Described("topics.min_insync_replicas"), "The same for one event type"),
    key("topics.types.*.retention", Described("topics.retention"), "The same for one event type"),

    key("auth.api_keys[].name", Described("required"), "What metrics and logs call this credential"),
    key("auth.api_keys[].header", Described("required"), "Request header that carries the key"),
    key("auth.api_keys[].value", Described("required, or value_file"), "The key"),
    key("auth.api_keys[].value_file", Described("required, or value"), "File with the key"),
    key("auth.basic[].name", Described("required"), "What metrics and logs call this credential"),
    key("auth.basic[].username", Described("required"), "User name of HTTP Basic authentication"),
    key("auth.basic[].password", Described("required, or password_file"), "Password of HTTP Basic authentication"),
    key("auth.basic[].password_file", Described("required, or password"), "File with the password"),

    key("dedup.store", Literal("memory"), "Where it is remembered what is stored: memory (of this process) or redis (shared by all replicas)"),
    key("dedup.redis_url", Described("needed by redis"), "redis://user:password@host:port/database, or rediss:// with TLS; user, password and database may be left out"),
    key("dedup.redis_url_file", Described("none"), "File with that address"),
    key("dedup.redis_prefix", Literal("butlr-bridge"), "What the keys in Redis begin with; bridges of different Kafka clusters on one Redis need different ones"),
    key("dedup.redis_timeout", Literal("100ms"), "How long an event waits for Redis before the bridge goes on with its own memory"),
    key("dedup.redelivery", Literal("drop"), "The same event again: drop (not published), tag (published with ce_duplicate) or, with repeat, off"),
    key("dedup.repeat", Literal("drop"), "An occupancy computed again with the current value: drop, tag or off (published as if new); both off: nothing is compared"),
    key("dedup.id_window", Literal("15m"), "How long the id of a stored event is remembered"),
    key("dedup.reading_window", Literal("15m"), "How long the current value of an occupancy (type, space, timestamp) is remembered"),
    key("dedup.max_ids", Literal("4000000"), "Most ids remembered; beyond, the oldest is forgotten (check-config tells the bytes)"),
    key("dedup.max_readings", Literal("1000000"), "Most current values, and most spaces and sensors, remembered; beyond, the oldest is forgotten"),
    key("dedup.rebuild_within", Literal("30s"), "After a start, longest time for reading what is remembered back from the topics, counted from Kafka's first answer; 0s: not at all"),

    key("spool.dir", Described("no spool"), "Folder for events that Kafka does not confirm in time, for this process alone; without one they are answered 503"),
    key("spool.max_bytes", Literal("10GiB"), "Most bytes of the spool on disk; beyond, events are answered 503"),
    key("spool.min_free_bytes", Literal("1GiB"), "Bytes of the disk that the spool leaves free"),
    key("spool.segment_bytes", Literal("32MiB"), "Size of one file of the spool; each is deleted whole, once all in it is in Kafka"),
    key("spool.drain", Literal("ordered"), "While events of a topic wait on disk its new ones queue behind them (ordered) or pass (concurrent)"),
    key("spool.recover_within", Literal("30s"), "After a start, longest time for looking in Kafka for what the spool holds and may be there already; 0s: not at all"),

    key("quarantine.keep", Literal("true"), "Whether what is no valid event is published to topics.quarantine (true or false)"),
    key("quarantine.answer", Literal("reject"), "What the sender of such an event is told: its 4xx (reject) or 202 (accept)"),

    key("log.format", Literal("text"), "text for people, json for machines"),
    key("log.level", Literal("info"), "error, warn, info, debug or trace"),

    key("shutdown.drain_delay", Literal("0s"), "How long /readyz says 503 before the listener closes"),
    key("shutdown.timeout", Literal("10s"), "Longest time the whole shutdown may take, drain_delay included"),
];

/// What stands at a key, by the table above.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyShape {
    Value,
    Table,
    Array,
}

/// The shape of a pattern (a key as it stands in [`KEYS`], or the start of one); `None` where there is no such key.
pub(super) fn find_shape(pattern: &str) -> Option<KeyShape> {
    if pattern.is_empty() {
        return Some(KeyShape::Table);
    }
    KEYS.iter()
        .find_map(|known| match known.key.strip_prefix(pattern)? {
            "" => Some(KeyShape::Value),
            rest if rest.starts_with('.') => Some(KeyShape::Table),
            rest if rest.starts_with("[]") => Some(KeyShape::Array),
            _ => None,
        })
}

/// The default of the key with this pattern.
pub(super) fn find_default(pattern: &str) -> Option<DefaultValue> {
    KEYS.iter()
        .find(|known| known.key == pattern)
        .map(|known| known.default)
}

/// The pattern of `name` inside the table with this pattern; `None` where no such name is known.
pub(super) fn child_pattern(pattern: &str, name: &str) -> Option<String> {
    let written_out = join(pattern, name);
    if !name.is_empty() && !name.contains(['.', '*', '[']) && find_shape(&written_out).is_some() {
        return Some(written_out);
    }
    let any_name = join(pattern, "*");
    find_shape(&any_name).map(|_| any_name)
}

/// The names that a table with this pattern can hold.
pub(super) fn child_names(pattern: &str) -> Vec<&'static str> {
    let start = if pattern.is_empty() {
        String::new()
    } else {
        format!("{pattern}.")
    };
    let mut names: Vec<&'static str> = KEYS
        .iter()
        .filter_map(|known| known.key.strip_prefix(&start))
        .map(|rest| rest.split(['.', '[']).next().unwrap_or(rest))
        .collect();
    names.dedup();
    names
}

/// `table.name`.
pub(super) fn join(table: &str, name: &str) -> String {
    if table.is_empty() {
        name.to_owned()
    } else {
        format!("{table}.{name}")
    }
}

/// `table.name` as TOML would write it: a name with other characters than a bare key's stands in quotes.
pub(super) fn join_quoted(table: &str, name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) {
        join(table, name)
    } else {
        join(table, &format!("{name:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_shape_and_stands_once() {
        for known in KEYS {
            assert!(
                find_shape(known.key) == Some(KeyShape::Value),
                "{}",
                known.key
            );
            assert_eq!(
                KEYS.iter().filter(|other| other.key == known.key).count(),
                1,
                "{}",
                known.key
            );
        }
        assert!(find_shape("http") == Some(KeyShape::Table));
        assert!(find_shape("htt").is_none());
        assert!(find_shape("auth.api_keys") == Some(KeyShape::Array));
        assert!(find_shape("auth.api_keys[]") == Some(KeyShape::Table));
        assert!(find_shape("topics.types.*") == Some(KeyShape::Table));
    }

    #[test]
    fn a_name_of_the_users_never_reaches_into_another_table() {
        assert_eq!(child_pattern("http", "bind").as_deref(), Some("http.bind"));
        assert_eq!(child_pattern("http", "tls.cert_file"), None);
        assert_eq!(child_pattern("auth", "api_keys[]"), None);
        assert_eq!(
            child_pattern("topics.types", "*").as_deref(),
            Some("topics.types.*")
        );
        assert_eq!(
            child_pattern("kafka.properties", "sasl.username").as_deref(),
            Some("kafka.properties.*")
        );
    }

    #[test]
    fn the_reference_tells_every_key() {
        let reference = reference();
        assert_eq!(reference.len(), KEYS.len());
        assert!(
            reference
                .iter()
                .all(|line| !line.default.is_empty() && !line.doc.is_empty())
        );
        assert!(reference.contains(&KeyDoc {
            key: "kafka.max_future",
            default: "1m",
            doc: "An event's time further ahead than this is replaced by the time of \
                  publishing; below 1h"
        }));
    }

    #[test]
    fn names_are_quoted_where_toml_needs_it() {
        assert_eq!(
            join_quoted("kafka.properties", "sasl.username"),
            "kafka.properties.\"sasl.username\""
        );
        assert_eq!(
            join_quoted("kafka.properties", "acks"),
            "kafka.properties.acks"
        );
        assert_eq!(join_quoted("", ""), "\"\"");
    }

    #[test]
    fn children_are_told_once_each() {
        assert_eq!(
            child_names(""),
            [
                "http",
                "admin",
                "kafka",
                "topics",
                "auth",
                "dedup",
                "spool",
                "quarantine",
                "log",
                "shutdown"
            ]
        );
        assert_eq!(
            child_names("auth.basic[]"),
            ["name", "username", "password", "password_file"]
        );
        assert_eq!(child_names("topics.types"), ["*"]);
    }
}
