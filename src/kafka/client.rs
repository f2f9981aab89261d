//! librdkafka's configuration: the bridge's defaults, the user's properties and the fixed
//! properties.

use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::producer::BaseProducer;
use secrecy::ExposeSecret;

use crate::config;
use butlr_event::EventType;
use butlr_event::destination::Destination;

/// Margin between librdkafka's message timeout and the response deadline, so that the final report
/// usually arrives while the request still waits.
const REPORT_MARGIN: Duration = Duration::from_millis(200);

/// Time that librdkafka has to deliver a record, with a spool.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time that a broker has for one request, with a spool.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Default `linger.ms`: the time a record may wait for a fuller batch.
///
/// A longer linger costs less CPU per event at a given rate, because fewer produce requests carry
/// one or two records (open loop, 2,000 events/s: 183 µs with 0, 163 with 2, 137 with 5 for the
/// smallest program). It also slows senders that wait for each response (64 closed-loop
/// connections: 24,000 events/s with 0, 9,200 with 5). The vendor's number of connections is not
/// known, hence a short linger.
const LINGER_MS: &str = "2";

/// Limit on the bytes that one topic may have in flight: a tenth of the listener's limit, so that a
/// dead topic cannot use up all of it.
pub fn lane_bytes(http: &config::HttpConfig) -> usize {
    http.max_in_flight_bytes / EventType::ALL.len()
}

/// Configuration shared by all clients: addresses, login and reconnection.
pub fn base_config(kafka: &config::KafkaConfig, bootstrap_servers: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("client.id", "butlr-bridge")
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.timeout.ms", "10000")
        .set("log.connection.close", "false")
        // A topic with more partitions maps keys differently; all replicas must learn of it soon.
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

/// Configuration of the producer.
///
/// Compression (stock Flink cannot read zstd), batch size and `LINGER_MS` are defaults, so a
/// configured value wins. Everything on which the promise of a 2xx and the response deadline depend
/// is set last and cannot be changed.
pub fn producer_config(config: &config::Config, bootstrap: &str) -> ClientConfig {
    let (kafka, http) = (&config.kafka, &config.http);
    let queue = Destination::COUNT * kafka.max_in_flight_per_topic;
    let queue_kib = Destination::COUNT * lane_bytes(http) / 1024;
    let [message_timeout, request_timeout] = delivery_timeouts(config);
    let mut client = base_config(kafka, bootstrap);
    // A broker's max.message.bytes limits the whole batch, and a batch that is too large fails all
    // its records, large and small. A batch therefore is no larger than the largest event.
    let batch_bytes = (http.max_event_bytes + config::RECORD_OVERHEAD).to_string();
    let defaults: [(&[&str], &str); 3] = [
        (&["compression.type", "compression.codec"], "lz4"),
        (&["batch.size"], &batch_bytes),
        (&config::LINGER_PROPERTIES, LINGER_MS),
    ];
    for (aliases, default) in defaults {
        if !aliases.iter().any(|a| kafka.properties.contains_key(*a)) {
            client.set(aliases[0], default);
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
        // The lanes are the limit. librdkafka's own limit lies above their sum, with room for
        // records that consist mostly of key and headers.
        .set("queue.buffering.max.messages", (queue + 1000).to_string())
        .set(
            "queue.buffering.max.kbytes",
            (4 * queue_kib).clamp(65_536, 2_097_151).to_string(),
        )
        // The watch detects missing topics; a record that slips through must fail before the
        // response deadline.
        .set("topic.metadata.propagation.max.ms", "1000")
        .set("statistics.interval.ms", "5000");
    client
}

/// Time that librdkafka has to deliver a record, and time that a broker has for one request.
pub fn delivery_timeouts(config: &config::Config) -> [Duration; 2] {
    if config.spool.dir.is_some() {
        // The entry on disk waits for the delivery report. While librdkafka itself retries, no copy
        // can result.
        return [DELIVERY_TIMEOUT, REQUEST_TIMEOUT];
    }
    let answer_within = config.http.answer_within;
    let message = answer_within.saturating_sub(REPORT_MARGIN.min(answer_within / 4));
    // The broker must give up before librdkafka does, which would close the whole connection.
    [message, message.mul_f32(0.75)]
}

/// Lets librdkafka check one property, for `check-config`; needs no Kafka.
///
/// # Errors
/// librdkafka's message, which may quote the value.
pub fn check_property(name: &str, value: &str) -> Result<(), String> {
    let mut client = ClientConfig::new();
    client.set(name, value);
    match client.create_native_config() {
        Ok(_) => Ok(()),
        Err(rdkafka::error::KafkaError::ClientConfig(_, text, _, _)) => Err(text),
        Err(other) => Err(other.to_string()),
    }
}

/// Lets librdkafka check all properties together, to find what `serve` would fail with (a mechanism
/// without a user, a missing certificate). Connects to nothing.
///
/// # Errors
/// librdkafka's message.
pub fn check_properties(config: &config::Config) -> Result<(), String> {
    let mut client = producer_config(config, "");
    client.remove("bootstrap.servers");
    let created: Result<BaseProducer, _> = client.create();
    created.map(drop).map_err(|e| e.to_string())
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
    fn a_configured_linger_wins() {
        let linger = |property: Option<(&str, i64)>| {
            let properties = property.map(|(name, ms)| (name.to_owned(), toml::Value::Integer(ms)));
            let properties = toml::Value::Table(properties.into_iter().collect());
            let sources = config::ConfigSources {
                flags: vec![("kafka.properties".to_owned(), properties)],
                ..Default::default()
            };
            let config = config::load(&sources, &|_, _| Ok(())).unwrap();
            let native = producer_config(&config, "").create_native_config().unwrap();
            native.get("linger.ms").unwrap()
        };
        assert_eq!(linger(None), LINGER_MS);
        for name in config::LINGER_PROPERTIES {
            assert_eq!(linger(Some((name, 7))), "7", "{name}");
            assert_eq!(linger(Some((name, 0))), "0", "{name}");
        }
    }

    #[test]
    fn an_error_names_the_unknown_property() {
        assert_eq!(check_property("sasl.mechanisms", "PLAIN"), Ok(()));
        assert!(
            check_property("no.such.property", "1")
                .unwrap_err()
                .contains("no.such.property")
        );
        assert!(check_property("linger.ms", "soon").is_err());
    }
}
