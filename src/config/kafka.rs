//! `[kafka]`: connection to the brokers, and publishing of records.

use super::http::HttpConfig;
use super::properties::{self, PropertyCheck};
use super::reader::SectionReader;
use super::units::{format_duration, format_size};
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::Duration;

/// Connection to the brokers, and publishing of records.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// Brokers to connect to first: `host:port`, separated by commas, without spaces. See
    /// [`super::Config::require_bootstrap_servers`].
    pub bootstrap_servers: Option<String>,
    /// Timestamp of a record.
    pub timestamp: TimestampMode,
    /// An event further in the future gets the time of publishing as its record's timestamp.
    pub max_future: Duration,
    /// An event further in the past gets the time of publishing as its record's timestamp.
    pub max_past: Duration,
    /// Maximum number of events of one topic that wait for Kafka.
    pub max_in_flight_per_topic: usize,
    /// Time for Kafka to confirm an event before the event is spooled. Without a spool, Kafka has
    /// until the response deadline.
    pub confirm_within: Duration,
    /// Without a writable spool, the bridge is not ready after this time without a reachable
    /// broker.
    pub away_after: Duration,
    /// Properties of librdkafka besides the bridge's own settings: `kafka.properties` and the
    /// contents of `kafka.secret_files`.
    pub properties: BTreeMap<String, SecretString>,
}

/// Timestamp of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampMode {
    /// The time in the event.
    Event,
    /// The time of receipt.
    Received,
}

/// `message.timestamp.after.max.ms` of a stock broker. For a record with a later timestamp the
/// broker refuses the whole batch.
const BROKER_MAX_FUTURE: Duration = Duration::from_secs(3600);
/// Default of `message.max.bytes` in librdkafka.
const MESSAGE_MAX_BYTES: u64 = 1_000_000;
/// Bytes that key, headers and framing may add to an event. The ids that the bridge requires have
/// at most 256 bytes each; only an extremely long org_id, which has no limit of its own, exceeds
/// this.
pub const RECORD_OVERHEAD: usize = 16 << 10;

pub(super) fn read(section: &SectionReader<'_>, property_check: &PropertyCheck) -> KafkaConfig {
    let timestamps = [
        ("event", TimestampMode::Event),
        ("received", TimestampMode::Received),
    ];
    KafkaConfig {
        bootstrap_servers: section.read_optional("bootstrap_servers", |written| {
            parse_bootstrap_servers(written.text()?)
        }),
        timestamp: section.choice("timestamp", &timestamps),
        max_future: section.read("max_future", |written| {
            check_max_future(written.parse_duration()?)?;
            written.parse_duration_within(section.duration_bounds("max_future"))
        }),
        max_past: section.duration("max_past"),
        max_in_flight_per_topic: section.integer("max_in_flight_per_topic"),
        confirm_within: section.duration("confirm_within"),
        away_after: section.duration("away_after"),
        properties: properties::read(section, property_check),
    }
}

fn check_max_future(duration: Duration) -> Result<(), String> {
    if duration < BROKER_MAX_FUTURE {
        return Ok(());
    }
    Err(format!(
        "{} is too long: a broker refuses the whole batch if one record lies 1h in the future; \
         allowed: less than 1h",
        format_duration(duration)
    ))
}

/// Checks the list, and returns it without spaces.
fn parse_bootstrap_servers(list: &str) -> Result<String, String> {
    let servers: Vec<&str> = list.split(',').map(str::trim).collect();
    for (index, server) in servers.iter().enumerate() {
        if let Err(problem) = check_bootstrap_server(server) {
            // Not quoted if it may contain a password, as in a URL.
            let shown = if server.contains('@') { "…" } else { server };
            return Err(format!(
                "entry {} ({shown:?}) {problem}; write host:port, separated by commas",
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
        return Err("has a scheme (set kafka.properties.\"security.protocol\" instead)");
    }
    let (is_host_valid, port) = match server.strip_prefix('[') {
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
            let in_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            (!host.is_empty() && host.bytes().all(in_name), port)
        }
    };
    if !is_host_valid {
        return Err("has no valid host (write an IPv6 address in brackets)");
    }
    let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    match port {
        Some(port) if !digits(port) || !matches!(port.parse::<u16>(), Ok(1..)) => {
            Err("has no valid port (1 to 65535)")
        }
        _ => Ok(()),
    }
}

/// Checks the rules between this section and `[http]`.
pub(super) fn check(kafka: &KafkaConfig, http: &HttpConfig, root: &SectionReader<'_>) {
    check_event_size(kafka, http, root);
    check_linger(kafka, http, root);
}

fn check_event_size(kafka: &KafkaConfig, http: &HttpConfig, root: &SectionReader<'_>) {
    const LIMIT_KEY: &str = "kafka.properties.\"message.max.bytes\"";
    let (limit, limit_name) = match property(kafka, "message.max.bytes") {
        Some(value) => (value.parse().unwrap_or(MESSAGE_MAX_BYTES), LIMIT_KEY),
        None => (MESSAGE_MAX_BYTES, "librdkafka's message.max.bytes"),
    };
    root.check_rule(&["http.max_event_bytes", LIMIT_KEY], || {
        let [event, overhead] = [http.max_event_bytes, RECORD_OVERHEAD].map(|bytes| bytes as u64);
        (event + overhead > limit).then(|| {
            let [event, overhead, limit] = [event, overhead, limit].map(format_size);
            format!(
                "{event} and up to {overhead} for key and headers exceed {limit_name} ({limit}); \
                 allowed: at least {overhead} less than that"
            )
        })
    });
}

/// The two names in librdkafka of the time, in ms, that a record waits for others.
pub const LINGER_PROPERTIES: [&str; 2] = ["linger.ms", "queue.buffering.max.ms"];

fn check_linger(kafka: &KafkaConfig, http: &HttpConfig, root: &SectionReader<'_>) {
    let max_linger = http.answer_within.as_secs_f64() * 500.0;
    for name in LINGER_PROPERTIES {
        let value = property(kafka, name).and_then(|value| value.trim().parse::<f64>().ok());
        if let Some(linger) = value.filter(|linger| *linger >= max_linger)
            && root.is_valid(&["http.answer_within"])
        {
            let answer = format_duration(http.answer_within);
            root.section("kafka").section("properties").report_error(
                name,
                format!(
                    "{linger}ms leaves too little of http.answer_within ({answer}) for the broker; \
                     allowed: less than half of that"
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
    fn bootstrap_servers() {
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
    fn max_future_is_below_the_limit_of_brokers() {
        assert_eq!(check_max_future(Duration::from_secs(3599)), Ok(()));
        let problem = check_max_future(Duration::from_secs(3600)).unwrap_err();
        assert!(problem.contains("whole batch"), "{problem}");
    }
}
