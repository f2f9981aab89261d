//! librdkafka's configuration: what the bridge insists on, its defaults, and what the user adds.

use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::producer::BaseProducer;
use secrecy::ExposeSecret;

use super::destination::Destination;
use crate::config;
use crate::event::EventType;

/// Below the answer's bound by this much, so that the final report usually still finds its request waiting.
const REPORT_MARGIN: Duration = Duration::from_millis(200);

/// With a spool: how long librdkafka goes on with a record.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// With a spool: how long a broker may take for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of values that one topic may have in flight: a tenth of what the listener may hold, so that a dead topic cannot
/// use up all of it.
pub fn lane_bytes(http: &config::Http) -> usize {
    http.max_in_flight_bytes / EventType::ALL.len()
}

/// What producer and admin clients share: where Kafka is, how to log in, and how soon to try again.
pub fn base(kafka: &config::Kafka, bootstrap_servers: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("client.id", "butlr-bridge")
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.timeout.ms", "10000")
        .set("log.connection.close", "false")
        // A topic that grew sends keys elsewhere: all replicas of the bridge are to know it soon.
        .set("topic.metadata.refresh.interval.ms", "30000");
    for (name, value) in &kafka.properties {
        client.set(name, value.expose_secret());
    }
    client
        .set("bootstrap.servers", bootstrap_servers)
        .set("allow.auto.create.topics", "false")
        .set_log_level(RDKafkaLogLevel::Info);
    client
}

/// The producer's configuration.
///
/// Set first, and so the user's to change: compression (stock Flink cannot read zstd) and the size of batches; likewise
/// `linger.ms`, by [`linger`]. Set last, and so not: all that "a 2xx is a promise" and the bound on an answer rest on.
pub fn producer(config: &config::Config, bootstrap: &str) -> ClientConfig {
    let (kafka, http) = (&config.kafka, &config.http);
    let queue = Destination::COUNT * kafka.max_in_flight_per_topic;
    let queue_kib = Destination::COUNT * lane_bytes(http) / 1024;
    let [message_timeout, request_timeout] = timeouts(config);
    let mut client = base(kafka, bootstrap);
    // A broker's max.message.bytes is about the whole batch, and a batch that is too large fails all its records, large and
    // small: batches need not be larger than the largest event.
    let batch_bytes = (http.max_event_bytes + config::RECORD_OVERHEAD).to_string();
    let defaults = [
        ("compression.type", "lz4"),
        ("batch.size", batch_bytes.as_str()),
    ];
    for (name, default) in defaults {
        let aliases: &[&str] = match name {
            "compression.type" => &["compression.type", "compression.codec"],
            _ => &["batch.size"],
        };
        if !aliases.iter().any(|a| kafka.properties.contains_key(*a)) {
            client.set(name, default);
        }
    }
    client
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set(
            "message.timeout.ms",
            message_timeout.as_millis().to_string(),
        )
        .set(
            "request.timeout.ms",
            request_timeout.as_millis().to_string(),
        )
        // The lanes are the limit; librdkafka's own lies above their sum, with room for records whose size is mostly
        // key and headers.
        .set("queue.buffering.max.messages", (queue + 1000).to_string())
        .set(
            "queue.buffering.max.kbytes",
            (4 * queue_kib).clamp(65_536, 2_097_151).to_string(),
        )
        // The watch tells missing topics apart; a record that slips through shall fail within the answer's bound.
        .set("topic.metadata.propagation.max.ms", "1000")
        .set("statistics.interval.ms", "5000");
    client
}

/// Has a producer linger for so long, unless the user says how long. Returns whether it does.
pub fn linger(client: &mut ClientConfig, linger: Duration) -> bool {
    let is_open = config::LINGER.iter().all(|name| client.get(name).is_none());
    if is_open {
        client.set(config::LINGER[0], linger.as_millis().to_string());
    }
    is_open
}

/// How long librdkafka goes on with a record, and how long a broker may take for one request.
pub fn timeouts(config: &config::Config) -> [Duration; 2] {
    if config.spool.dir.is_some() {
        // The entry on disk waits for the final word. As long as librdkafka goes on by itself no copy can come of it.
        return [DELIVERY_TIMEOUT, REQUEST_TIMEOUT];
    }
    let answer_within = config.http.answer_within;
    let message = answer_within.saturating_sub(REPORT_MARGIN.min(answer_within / 4));
    // The broker gives up before librdkafka does, which would take the whole connection down.
    [message, message.mul_f32(0.75)]
}

/// What librdkafka says of one property, for `check-config`: needs no Kafka.
///
/// # Errors
/// The text of librdkafka, which may quote the value.
pub fn check_property(name: &str, value: &str) -> Result<(), String> {
    let mut client = ClientConfig::new();
    client.set(name, value);
    match client.create_native_config() {
        Ok(_) => Ok(()),
        Err(rdkafka::error::KafkaError::ClientConfig(_, text, _, _)) => Err(text),
        Err(other) => Err(other.to_string()),
    }
}

/// What librdkafka says of all properties together (a mechanism without a user, a certificate that is not there): what
/// `serve` would fail with. Connects to nothing.
///
/// # Errors
/// The text of librdkafka.
pub fn check(config: &config::Config) -> Result<(), String> {
    let mut client = producer(config, "");
    client.remove("bootstrap.servers");
    let made: Result<BaseProducer, _> = client.create();
    made.map(drop).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_plain_and_scram_are_in_the_build() {
        let features = ClientConfig::new()
            .create_native_config()
            .and_then(|native| native.get("builtin.features"))
            .unwrap();
        for feature in [
            "ssl",
            "sasl_plain",
            "sasl_scram",
            "sasl_oauthbearer",
            "lz4",
            "gzip",
        ] {
            assert!(
                features.split(',').any(|f| f == feature),
                "{feature}: {features}"
            );
        }
    }

    #[test]
    fn a_linger_of_the_user_stays() {
        for name in ["linger.ms", "queue.buffering.max.ms"] {
            let mut client = ClientConfig::new();
            client.set(name, "0");
            assert!(!linger(&mut client, Duration::from_millis(3)), "{name}");
            let lingers = client.create_native_config().unwrap().get("linger.ms");
            assert_eq!(lingers.unwrap(), "0", "{name}");
        }
        let mut client = ClientConfig::new();
        assert!(linger(&mut client, Duration::from_millis(3)));
        assert_eq!(client.get("linger.ms"), Some("3"));
    }

    #[test]
    fn librdkafka_names_what_it_does_not_know() {
        assert_eq!(check_property("sasl.mechanisms", "PLAIN"), Ok(()));
        assert!(
            check_property("no.such.property", "1")
                .unwrap_err()
                .contains("no.such.property")
        );
        assert!(check_property("linger.ms", "soon").is_err());
    }
}
