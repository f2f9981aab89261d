//! `[kafka]`: the brokers and how records get there.

use super::http::HttpConfig;
use super::properties::{self, PropertyCheck};
use super::reader::SectionReader;
use super::units::{format_duration, format_size};
use super::written_value::check_bounds;
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The brokers and how records get there.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// Brokers to start from: `host:port`, separated by commas, without spaces. See [`super::Config::require_kafka`].
    pub bootstrap_servers: Option<String>,
    /// Which time a record gets. Default: the event's.
    pub timestamp: TimestampMode,
    /// An event's time further ahead than this is replaced by the time of publishing. Below 1 h. Default 1 min.
    pub max_future: Duration,
    /// An event's time further back than this is replaced by the time of publishing. Default 3 d.
    pub max_past: Duration,
    /// Most events of one topic waiting for Kafka. Default 10,000.
    pub max_in_flight_per_topic: usize,
    /// How long Kafka may take to confirm an event before that is stored on disk instead; without a spool it may take as
    /// long as an answer. Default 1 s.
    pub confirm_within: Duration,
    /// After this long without a reachable broker the bridge is no longer ready. Default 10 s.
    pub away_after: Duration,
    /// What librdkafka gets besides the bridge's own settings: `kafka.properties` and the contents of
    /// `kafka.secret_files`.
    pub properties: BTreeMap<String, SecretString>,
}

/// Which time a record gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampMode {
    /// The event's own.
    Event,
    /// When the bridge received it.
    Received,
}

/// Above this (`message.timestamp.after.max.ms`, 1 h on a stock broker) a broker refuses the whole batch that a record is in.
const BROKER_MAX_FUTURE: Duration = Duration::from_secs(3600);
/// librdkafka's default of `message.max.bytes`.
const MESSAGE_MAX_BYTES: u64 = 1_000_000;
/// What key, headers and framing may add to an event. The ids that the bridge requires have at most 256 bytes each; only
/// an extremely long org_id, which has no limit of its own, outgrows this.
pub const RECORD_OVERHEAD: usize = 16 << 10;

const DAY: u64 = 86_400;
const MAX_PAST: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(36_500 * DAY);
const AWAY_AFTER: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const CONFIRM_WITHIN: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(60);
const HAS_DEFAULT: &str = "the table of keys has a default for it";

pub(super) fn read(section: &SectionReader<'_>, property_check: &PropertyCheck) -> KafkaConfig {
    let timestamps = [
        ("event", TimestampMode::Event),
        ("received", TimestampMode::Received),
    ];
    KafkaConfig {
        bootstrap_servers: section.read("bootstrap_servers", |written| {
            parse_bootstrap_servers(written.text()?)
        }),
        timestamp: section.choice("timestamp", &timestamps).expect(HAS_DEFAULT),
        max_future: section
            .read("max_future", |written| {
                parse_max_future(written.parse_duration()?)
            })
            .expect(HAS_DEFAULT),
        max_past: section.duration("max_past", MAX_PAST).expect(HAS_DEFAULT),
        max_in_flight_per_topic: section
            .integer("max_in_flight_per_topic", 1..=10_000_000)
            .expect(HAS_DEFAULT),
        confirm_within: section
            .duration("confirm_within", CONFIRM_WITHIN)
            .expect(HAS_DEFAULT),
        away_after: section
            .duration("away_after", AWAY_AFTER)
            .expect(HAS_DEFAULT),
        properties: properties::read(section, property_check),
    }
}

fn parse_max_future(duration: Duration) -> Result<Duration, String> {
    if duration >= BROKER_MAX_FUTURE {
        let duration = format_duration(duration);
        return Err(format!(
            "{duration} is too far: a broker refuses the whole batch for one record that \
             lies 1h ahead; allowed: 1ms to less than 1h"
        ));
    }
    check_bounds(duration, &(Duration::from_millis(1)..=BROKER_MAX_FUTURE))
}

/// Checks the list and gives it back without spaces.
fn parse_bootstrap_servers(list: &str) -> Result<String, String> {
    let servers: Vec<&str> = list.split(',').map(str::trim).collect();
    for (index, server) in servers.iter().enumerate() {
        if let Err(problem) = check_bootstrap_server(server) {
            // Somebody who writes a password there, as in a URL, must not find it in a log.
            let shown = if server.contains('@') { "…" } else { server };
            return Err(format!(
                "entry {} ({shown:?}) {problem}; allowed: host:port, separated by commas",
                index + 1
            ));
        }
    }
    Ok(servers.join(","))
}

fn check_bootstrap_server(server: &str) -> Result<(), &'static str> {
    if server.is_empty() {
        return Err("is empty");
    }
    if server.contains("://") {
        return Err(
            "has a scheme, which is said by kafka.properties.\"security.protocol\" instead",
        );
    }
    let (host_is_good, port) = match server.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => (host.parse::<Ipv6Addr>().is_ok(), None),
            Some((host, port)) => (
                host.parse::<Ipv6Addr>().is_ok() && port.starts_with(':'),
                port.strip_prefix(':'),
            ),
            None => (false, None),
        },
        None => {
            let (host, port) = server
                .split_once(':')
                .map_or((server, None), |(host, port)| (host, Some(port)));
            let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            (!host.is_empty() && host.bytes().all(name), port)
        }
    };
    if !host_is_good {
        return Err("has no valid host (an IPv6 address stands in brackets)");
    }
    let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    match port {
        Some(port) if !digits(port) || !matches!(port.parse::<u16>(), Ok(1..)) => {
            Err("has no valid port (1 to 65535)")
        }
        _ => Ok(()),
    }
}

/// The rules between this section and the listener's.
pub(super) fn check(kafka: &KafkaConfig, http: &HttpConfig, root: &SectionReader<'_>) {
    check_event_size(kafka, http, root);
    check_linger(kafka, http, root);
}

fn check_event_size(kafka: &KafkaConfig, http: &HttpConfig, root: &SectionReader<'_>) {
    let given = property(kafka, "message.max.bytes");
    if !root.is_valid(&[
        "http.max_event_bytes",
        "kafka.properties.\"message.max.bytes\"",
    ]) {
        return;
    }
    let (limit, whose) = match given {
        Some(given) => (
            given.parse().unwrap_or(MESSAGE_MAX_BYTES),
            "kafka.properties.\"message.max.bytes\"",
        ),
        None => (MESSAGE_MAX_BYTES, "librdkafka's message.max.bytes"),
    };
    let event = http.max_event_bytes as u64;
    if event + RECORD_OVERHEAD as u64 > limit {
        let (event, overhead, limit) = (
            format_size(event),
            format_size(RECORD_OVERHEAD as u64),
            format_size(limit),
        );
        root.section("http").report_error(
            "max_event_bytes",
            format!(
                "{event} and up to {overhead} for key and headers do not fit into {whose} \
                 ({limit}); allowed: at least {overhead} less than that"
            ),
        );
    }
}

/// What librdkafka calls the time that a record waits for others, ms: one property of two names.
pub const LINGER_PROPERTIES: [&str; 2] = ["linger.ms", "queue.buffering.max.ms"];

fn check_linger(kafka: &KafkaConfig, http: &HttpConfig, root: &SectionReader<'_>) {
    for name in LINGER_PROPERTIES {
        let Some(linger) = property(kafka, name).and_then(|value| value.trim().parse::<f64>().ok())
        else {
            continue;
        };
        if root.is_valid(&["http.answer_within"])
            && linger >= http.answer_within.as_secs_f64() * 500.0
        {
            let answer = format_duration(http.answer_within);
            root.section("kafka").section("properties").report_error(
                name,
                format!(
                    "waiting {linger}ms for a batch leaves too little of http.answer_within \
                     ({answer}) for the broker; allowed: less than half of that"
                ),
            );
        }
    }
}

pub(super) fn property<'k>(kafka: &'k KafkaConfig, name: &str) -> Option<&'k str> {
    kafka.properties.get(name).map(ExposeSecret::expose_secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_servers() {
        assert_eq!(
            parse_bootstrap_servers("a:9092, b.example.org:1 ,[::1]:9092,10.0.0.1,[::1]").unwrap(),
            "a:9092,b.example.org:1,[::1]:9092,10.0.0.1,[::1]"
        );
        for (bad, problem) in [
            ("", "entry 1 (\"\") is empty"),
            ("a:9092,", "entry 2 (\"\") is empty"),
            ("a:0", "valid port"),
            ("a:+1", "valid port"),
            ("a:65536", "valid port"),
            ("a:", "valid port"),
            (":9092", "valid host"),
            ("::1", "valid host"),
            ("[::1", "valid host"),
            ("[::1]9092", "valid host"),
            ("a b", "valid host"),
            ("SASL_SSL://a:9093", "has a scheme"),
        ] {
            let problem_text = parse_bootstrap_servers(bad).unwrap_err();
            assert!(problem_text.contains(problem), "{bad}: {problem_text}");
        }
        assert!(
            !parse_bootstrap_servers("user:s3cret@host:1")
                .unwrap_err()
                .contains("s3cret")
        );
    }

    #[test]
    fn the_future_ends_before_the_brokers() {
        assert!(parse_max_future(Duration::from_secs(3599)).is_ok());
        assert!(
            parse_max_future(Duration::from_secs(3600))
                .unwrap_err()
                .contains("whole batch")
        );
        assert!(
            parse_max_future(Duration::ZERO)
                .unwrap_err()
                .contains("out of bounds")
        );
    }
}
