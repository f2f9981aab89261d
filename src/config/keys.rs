//! Table of all configuration keys: type, allowed range, default and meaning.
//!
//! The reader takes types, ranges and defaults from here and rejects every other key. The reference
//! in `docs/configuration.md` and the example `deploy/butlr-bridge.toml` are generated from this
//! table. In a key, `*` stands for a name that the user chooses and `[]` for the items of an array.

use std::ops::RangeInclusive;
use std::time::Duration;

use DefaultValue::{Described, Literal};
use ValueType::{Boolean, Choice, DurationOrForever, Integer, Size, Text};

/// Default of a key.
pub(super) enum DefaultValue {
    /// A value, read as if the user had written it.
    Literal(&'static str),
    /// No fixed value; the text describes what applies instead.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "a test generates the documentation")
    )]
    Described(&'static str),
}

/// Type of a key's value, with the allowed values.
pub(super) enum ValueType {
    /// A text of this kind; the section that reads it checks it.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "a test generates the documentation")
    )]
    Text(&'static str),
    Boolean,
    Integer(RangeInclusive<i64>),
    Size(RangeInclusive<u64>),
    Duration(RangeInclusive<Duration>),
    DurationOrForever(RangeInclusive<Duration>),
    Choice(&'static [&'static str]),
}

/// One key of the configuration.
pub(super) struct KeySpec {
    pub key: &'static str,
    pub value_type: ValueType,
    pub default: DefaultValue,
    /// Meaning, for the generated documentation; starts with a space.
    #[cfg(test)]
    pub doc: &'static str,
}

/// Defines [`KEYS`]. The doc comment of a key is its meaning in the generated documentation.
macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $key:literal: $value_type:expr, $default:expr;)+) => {
        /// All keys, in the order of the documentation.
        pub(super) static KEYS: &[KeySpec] = &[$(KeySpec {
            key: $key,
            value_type: $value_type,
            default: $default,
            #[cfg(test)]
            doc: concat!($($doc),+),
        }),+];
    };
}

const fn duration(min: Duration, max: Duration) -> ValueType {
    ValueType::Duration(min..=max)
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const HOUR: Duration = Duration::from_secs(3600);
const CENTURY: Duration = Duration::from_secs(36_500 * 86_400);
const ADDRESS: ValueType = Text("IP address and port");
const TEXT: ValueType = Text("text");
const FILE: ValueType = Text("file");
const TOPIC: ValueType = Text("topic name");
const CLIENT_TIMEOUT: ValueType = duration(ms(100), Duration::from_secs(600));
const MESSAGE_BYTES: ValueType = Size(1 << 10..=1 << 30);
const PARTITIONS: ValueType = Integer(1..=10_000);
/// A broker keeps the number of replicas in 16 bits.
const REPLICAS: ValueType = Integer(1..=i16::MAX as i64);
const RETENTION: ValueType = DurationOrForever(ms(1000)..=CENTURY);
const HANDLING: ValueType = Choice(&["drop", "tag", "off"]);
const WINDOW: ValueType = duration(ms(1000), Duration::from_secs(7 * 86_400));
const MAX_ENTRIES: ValueType = Integer(1_000..=1_000_000_000);
/// 1 PiB: no disk is larger.
const MAX_DISK_BYTES: u64 = 1 << 50;

keys! {
    /// Address of the ingest listener. An address that other machines can reach requires
    /// credentials (`auth`); without them `serve` does not start.
    "http.bind": ADDRESS, Literal("127.0.0.1:8080");
    /// Threads that serve requests.
    "http.workers": Integer(1..=1024), Described("number of processors");
    /// Maximum size of a request body, both before and after decompression.
    "http.max_body_bytes": MESSAGE_BYTES, Literal("1MiB");
    /// Maximum size of one event. At most `max_body_bytes`, and at least 16KiB less than
    /// librdkafka's `message.max.bytes` (1MB), to leave room for the record's key and headers.
    "http.max_event_bytes": MESSAGE_BYTES, Literal("256KiB");
    /// Maximum number of events in one array.
    "http.max_events": Integer(1..=100_000), Literal("1000");
    /// Response deadline, counted from the last byte of the request. Keep it below the sender's
    /// timeout: to the sender a later response is a failure, and it sends the events again.
    "http.answer_within": duration(ms(100), ms(60_000)), Literal("2s");
    /// Time that the sender waits for a response, as its subscription says (`http_timeout`). If it
    /// is set, `answer_within` must be shorter.
    "http.sender_timeout": CLIENT_TIMEOUT, Described("not known");
    /// Maximum time for a client to send the headers of a request.
    "http.header_timeout": CLIENT_TIMEOUT, Literal("5s");
    /// Maximum time for a client to send the body of a request.
    "http.body_timeout": CLIENT_TIMEOUT, Literal("5s");
    /// Time after which an idle connection is closed.
    "http.keep_alive": duration(ms(100), HOUR), Literal("75s");
    /// Maximum number of open connections. The first connections above it get a 503; further ones
    /// are closed without a response.
    "http.max_connections": Integer(1..=1_000_000), Literal("10000");
    /// Maximum number of events that wait for Kafka. Above it, requests get a 503. At least
    /// `max_events`.
    "http.max_in_flight_events": Integer(1..=10_000_000), Literal("100000");
    /// Maximum size of all request bodies in memory. Above it, requests get a 503. At least
    /// `max_body_bytes`.
    "http.max_in_flight_bytes": Size(1 << 10..=1 << 40), Literal("256MiB");
    /// PEM file with the certificate chain. Set both files or neither.
    "http.tls.cert_file": FILE, Described("no TLS");
    /// PEM file with the private key of the certificate.
    "http.tls.key_file": FILE, Described("no TLS");

    /// Address of the admin listener. If other machines can reach it, the status pages are served
    /// only with the credentials below.
    "admin.bind": ADDRESS, Literal("127.0.0.1:9464");
    /// User name for the status pages (HTTP Basic).
    "admin.username": TEXT, Described("none");
    /// Password of that user. Set `password` or `password_file`.
    "admin.password": TEXT, Described("none");
    /// File with the password of that user.
    "admin.password_file": FILE, Described("none");

    /// Brokers to connect to first: `host:port`, separated by commas.
    "kafka.bootstrap_servers": TEXT, Described("required");
    /// Timestamp of a record: the time in the event (`event`) or the time of receipt (`received`).
    "kafka.timestamp": Choice(&["event", "received"]), Literal("event");
    /// An event further in the future gets the time of publishing as its record's timestamp, and
    /// the header `ce_timereplaced`. Less than 1h, because a broker refuses the whole batch that
    /// contains such a record.
    "kafka.max_future": duration(ms(1), HOUR), Literal("1m");
    /// An event further in the past gets the time of publishing as its record's timestamp, and the
    /// header `ce_timereplaced`. Less than the retention of every topic.
    "kafka.max_past": duration(ms(1000), CENTURY), Literal("3d");
    /// Maximum number of events of one topic that wait for Kafka. Further ones are spooled, or get
    /// a 503 if there is no spool. This keeps one topic from stalling the others.
    "kafka.max_in_flight_per_topic": Integer(1..=10_000_000), Literal("10000");
    /// Time for Kafka to confirm an event before the event is stored in the spool; at most three
    /// quarters of `http.answer_within`. Without a spool, Kafka has until the response deadline.
    "kafka.confirm_within": duration(ms(10), ms(60_000)), Literal("1s");
    /// Without a writable spool: `/readyz` returns 503 after this time without a reachable broker.
    "kafka.away_after": duration(ms(100), HOUR), Literal("10s");
    /// A property of librdkafka, its name in quotes. A value given here overrides the bridge's
    /// default, such as 2 for `linger.ms` and lz4 for `compression.type`. Properties that the
    /// guarantee of a 2xx depends on are refused: acks, idempotence, partitioner, timeouts, queue
    /// limits and topic creation.
    "kafka.properties.*": Text("text, number or boolean"), Described("none");
    /// File with the value of a librdkafka property, for secrets.
    "kafka.secret_files.*": FILE, Described("none");

    /// Names of the topics. `{type}` is replaced by the event type in the form
    /// `room-occupancy-1min`.
    "topics.template": TEXT, Literal("butlr.event.{type}.v1");
    /// Number of partitions of a topic.
    "topics.partitions": PARTITIONS, Literal("6");
    /// Number of replicas of a partition. Use 3, with `min_insync_replicas` 2, so that confirmed
    /// events survive the loss of a broker.
    "topics.replication_factor": REPLICAS, Described("set by the broker");
    /// Number of replicas that must have a record before Kafka confirms it. At most
    /// `replication_factor`.
    "topics.min_insync_replicas": REPLICAS, Described("set by the broker");
    /// Time for which Kafka keeps records. More than `kafka.max_past`.
    "topics.retention": RETENTION, Literal("7d");
    /// Topic for rejected items.
    "topics.quarantine": TOPIC, Literal("butlr.quarantine.v1");
    /// Time for which Kafka keeps the records of that topic.
    "topics.quarantine_retention": RETENTION, Literal("30d");
    /// Topic of this event type.
    "topics.types.*.name": TOPIC, Described("from `topics.template`");
    /// Number of partitions of this topic.
    "topics.types.*.partitions": PARTITIONS, Described("`topics.partitions`");
    /// Number of replicas of its partitions.
    "topics.types.*.replication_factor": REPLICAS, Described("`topics.replication_factor`");
    /// Number of replicas that must have a record of this topic.
    "topics.types.*.min_insync_replicas": REPLICAS, Described("`topics.min_insync_replicas`");
    /// Time for which Kafka keeps records of this topic.
    "topics.types.*.retention": RETENTION, Described("`topics.retention`");

    /// Name of this credential in metrics and logs, unique among all credentials: 1 to 64 letters,
    /// digits, underscores, dots and hyphens.
    "auth.api_keys[].name": TEXT, Described("required");
    /// Request header that carries the key, such as `x-api-key`.
    "auth.api_keys[].header": TEXT, Described("required");
    /// The key. Set `value` or `value_file`.
    "auth.api_keys[].value": TEXT, Described("none");
    /// File with the key.
    "auth.api_keys[].value_file": FILE, Described("none");
    /// Name of this credential in metrics and logs, unique among all credentials.
    "auth.basic[].name": TEXT, Described("required");
    /// User name of HTTP Basic authentication.
    "auth.basic[].username": TEXT, Described("required");
    /// Password of that user. Set `password` or `password_file`.
    "auth.basic[].password": TEXT, Described("none");
    /// File with the password of that user.
    "auth.basic[].password_file": FILE, Described("none");

    /// Store of the dedup window. `memory`: in this process, so copies of an event that reach
    /// different replicas are not recognised. `redis`: shared by all replicas; requires `redis_url`
    /// or `redis_url_file`.
    "dedup.store": Choice(&["memory", "redis"]), Literal("memory");
    /// Address of Redis: `redis://user:password@host:port/database`, or `rediss://` for TLS. User,
    /// password and database are optional. Use one primary, no cluster, with `maxmemory-policy
    /// noeviction`. `SSL_CERT_FILE` names the certificate authority if it is your own.
    "dedup.redis_url": TEXT, Described("none");
    /// File with the address of Redis.
    "dedup.redis_url_file": FILE, Described("none");
    /// Prefix of the keys in Redis. Use a different one for each Kafka cluster if their bridges
    /// share one Redis.
    "dedup.redis_prefix": TEXT, Literal("butlr-bridge");
    /// Time that an event waits for Redis before the bridge uses its own memory.
    "dedup.redis_timeout": duration(ms(1), ms(1000)), Literal("100ms");
    /// A redelivery is the same event again. `drop`: it is not published. `tag`: it is published
    /// with the header `ce_duplicate`. `off`: it is published as new; requires `repeat` = `off`.
    "dedup.redelivery": HANDLING, Literal("drop");
    /// A repeat is an occupancy computed again with the current value. `drop`, `tag` or `off`, as
    /// for `redelivery`. If both are `off`, duplicate detection is disabled.
    "dedup.repeat": HANDLING, Literal("drop");
    /// Time for which the ID of a stored event is remembered.
    "dedup.id_window": WINDOW, Literal("15m");
    /// Time for which the current value of an occupancy (type, space, timestamp) is remembered.
    "dedup.reading_window": WINDOW, Literal("15m");
    /// Maximum number of IDs remembered; above it, the oldest is forgotten. `check-config` prints
    /// the memory this may take.
    "dedup.max_ids": MAX_ENTRIES, Literal("4000000");
    /// Maximum number of current values remembered, and of spaces and sensors; above it, the oldest
    /// is forgotten.
    "dedup.max_readings": MAX_ENTRIES, Literal("1000000");
    /// After a start: maximum time for reading back from the topics what is remembered, counted
    /// from Kafka's first response. `0s` disables it.
    "dedup.rebuild_within": duration(Duration::ZERO, HOUR), Literal("30s");

    /// Folder for events that Kafka does not confirm in time; they are answered 202. It is created
    /// if it is missing. Each replica needs its own, on a disk that outlives the process, never on
    /// tmpfs. Without a spool such events get a 503, and the sender drops them after its retries.
    "spool.dir": Text("folder"), Described("no spool");
    /// Maximum size of the spool on disk. When it is full, events get a 503. At least twice
    /// `segment_bytes`.
    "spool.max_bytes": Size(4 << 20..=MAX_DISK_BYTES), Literal("10GiB");
    /// Disk space that the spool leaves free. When less is free, events get a 503.
    "spool.min_free_bytes": Size(0..=MAX_DISK_BYTES), Literal("1GiB");
    /// Size of one file of the spool. A file is deleted as a whole, once all its events are in
    /// Kafka.
    "spool.segment_bytes": Size(1 << 20..=1 << 30), Literal("32MiB");
    /// New events of a topic while older ones are in the spool: they queue behind these
    /// (`ordered`), or are published as soon as Kafka confirms events of the topic again
    /// (`concurrent`).
    "spool.drain": Choice(&["ordered", "concurrent"]), Literal("ordered");
    /// After a start: maximum time for finding out which entries of the spool Kafka already has,
    /// counted from Kafka's first response. `0s` disables it.
    "spool.recover_within": duration(Duration::ZERO, HOUR), Literal("30s");

    /// Publishes rejected items to `topics.quarantine` before the response is sent. With `false`
    /// they are kept nowhere.
    "quarantine.keep": Boolean, Literal("true");
    /// Response to an item that is in the quarantine: its 4xx (`reject`), or 202 (`accept`) for
    /// senders that give up after a 4xx.
    "quarantine.answer": Choice(&["reject", "accept"]), Literal("reject");

    /// Format of the log: `text` for people, `json` for machines.
    "log.format": Choice(&["text", "json"]), Literal("text");
    /// Lowest level that is logged.
    "log.level": Choice(&["error", "warn", "info", "debug", "trace"]), Literal("info");

    /// Time for which `/readyz` returns 503 before the listener closes, so that a load balancer can
    /// notice.
    "shutdown.drain_delay": duration(Duration::ZERO, HOUR), Literal("0s");
    /// Maximum time for the whole shutdown, including `drain_delay`. Keep the grace period of the
    /// orchestrator above it.
    "shutdown.timeout": duration(ms(100), HOUR), Literal("10s");
}

/// Shape of the value at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyShape {
    Value,
    Table,
    Array,
}

/// Returns the shape of a pattern: a key as it stands in [`KEYS`], or the start of one.
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

/// Returns the key with this pattern.
pub(super) fn find_key(pattern: &str) -> Option<&'static KeySpec> {
    KEYS.iter().find(|known| known.key == pattern)
}

/// Returns the pattern of `name` in the table with this pattern; `None` if the table has no such
/// key.
pub(super) fn child_pattern(pattern: &str, name: &str) -> Option<String> {
    let literal = join(pattern, name);
    if !name.is_empty() && !name.contains(['.', '*', '[']) && find_shape(&literal).is_some() {
        return Some(literal);
    }
    let any_name = join(pattern, "*");
    find_shape(&any_name).map(|_| any_name)
}

/// Returns the names that a table with this pattern can hold.
pub(super) fn child_names(pattern: &str) -> Vec<&'static str> {
    let start = join(pattern, "");
    let mut names: Vec<&'static str> = KEYS
        .iter()
        .filter_map(|known| known.key.strip_prefix(&start))
        .map(|rest| rest.split(['.', '[']).next().unwrap_or(rest))
        .collect();
    names.dedup();
    names
}

/// `table.name`; `name` alone at the root.
pub(super) fn join(table: &str, name: &str) -> String {
    if table.is_empty() {
        name.to_owned()
    } else {
        format!("{table}.{name}")
    }
}

/// `table.name` as TOML writes it: a name that is not a bare key is quoted.
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
    fn every_key_is_unique_and_documented() {
        for known in KEYS {
            assert_eq!(
                find_shape(known.key),
                Some(KeyShape::Value),
                "{}",
                known.key
            );
            let same = KEYS.iter().filter(|other| other.key == known.key);
            assert_eq!(same.count(), 1, "{}", known.key);
            let (Literal(default) | Described(default)) = known.default;
            assert!(
                !default.is_empty() && !known.doc.is_empty(),
                "{}",
                known.key
            );
        }
    }

    #[test]
    fn shapes() {
        assert_eq!(find_shape("http"), Some(KeyShape::Table));
        assert_eq!(find_shape("htt"), None);
        assert_eq!(find_shape("auth.api_keys"), Some(KeyShape::Array));
        assert_eq!(find_shape("auth.api_keys[]"), Some(KeyShape::Table));
        assert_eq!(find_shape("topics.types.*"), Some(KeyShape::Table));
    }

    #[test]
    fn a_user_chosen_name_never_reaches_into_another_table() {
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
    fn names_are_quoted_where_toml_requires_it() {
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
    fn child_names_are_listed_once() {
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
