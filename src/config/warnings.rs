//! Warnings about settings that are legal but weak.

use super::kafka::property;
use super::units::format_duration;
use super::validation::is_loopback;
use super::{Config, DedupStore, RedisConfig};
use butlr_event::EventType;
use secrecy::ExposeSecret;
use std::time::Duration;

/// Time for which the sender recomputes an occupancy, some five minutes, and a minute for delivery.
const RECOMPUTATION_WINDOW: Duration = Duration::from_secs(6 * 60);

fn has_cleartext_password(redis: &RedisConfig) -> bool {
    let url = redis.url.expose_secret();
    let is_local = ["@localhost", "@127.", "@[::1]"]
        .iter()
        .any(|host| url.contains(host));
    url.starts_with("redis://") && url.contains('@') && !is_local
}

/// Returns a sentence for each weak setting.
pub(super) fn collect_warnings(config: &Config) -> Vec<String> {
    let Config {
        http,
        admin,
        kafka,
        topics,
        auth,
        dedup,
        spool,
        shutdown,
        ..
    } = config;
    let mut warnings = Vec::new();
    let mut warn = |is_weak: bool, text: String| {
        if is_weak {
            warnings.push(text);
        }
    };
    warn(
        !is_loopback(http.bind) && http.tls.is_none(),
        format!(
            "http.bind: {} has no TLS, so credentials are sent unencrypted unless a proxy in front \
             adds TLS",
            http.bind
        ),
    );
    warn(
        is_loopback(http.bind) && auth.is_empty() && http.tls.is_some(),
        "auth: no credentials are configured, so every program on this machine can send events"
            .to_owned(),
    );
    warn(
        !is_loopback(admin.bind) && admin.credentials.is_none(),
        format!(
            "admin.bind: other machines can reach {}, and it has no credentials, so it serves only \
             metrics and probes",
            admin.bind
        ),
    );
    warn(
        kafka.max_in_flight_per_topic > http.max_in_flight_events,
        format!(
            "kafka.max_in_flight_per_topic: {} is more than http.max_in_flight_events ({}), so one \
             topic can stall the others",
            kafka.max_in_flight_per_topic, http.max_in_flight_events
        ),
    );
    warn(
        kafka.max_in_flight_per_topic < http.max_events,
        format!(
            "kafka.max_in_flight_per_topic: {} is less than http.max_events ({}), so a full array of \
             one event type never fits at once",
            kafka.max_in_flight_per_topic, http.max_events
        ),
    );
    warn(
        shutdown.timeout.saturating_sub(shutdown.drain_delay) < http.answer_within,
        "shutdown.timeout: without drain_delay it is shorter than http.answer_within, so a \
         shutdown can interrupt requests"
            .to_owned(),
    );
    warn(
        ["compression.type", "compression.codec"]
            .iter()
            .any(|name| property(kafka, name) == Some("zstd")),
        "kafka.properties: a stock Flink cannot read records compressed with zstd; use lz4, the \
         default of the bridge"
            .to_owned(),
    );
    warn(
        property(kafka, "security.protocol")
            .is_some_and(|protocol| protocol.eq_ignore_ascii_case("sasl_plaintext")),
        "kafka.properties.\"security.protocol\": sasl_plaintext sends the password for Kafka \
         unencrypted; use sasl_ssl"
            .to_owned(),
    );
    warn(
        spool.dir.is_none(),
        "spool.dir: there is no spool, so while Kafka is unavailable events get a 503, and the \
         sender drops them after its retries"
            .to_owned(),
    );
    warn(
        dedup.is_enabled() && dedup.reading_window < RECOMPUTATION_WINDOW,
        format!(
            "dedup.reading_window: {} is too short to recognise all repeats and revisions, because \
             the sender recomputes occupancy for some five minutes",
            format_duration(dedup.reading_window)
        ),
    );
    warn(
        matches!(&dedup.store, DedupStore::Redis(redis) if has_cleartext_password(redis)),
        "dedup.redis_url: redis:// sends the password for Redis unencrypted; use rediss://"
            .to_owned(),
    );
    let is_on_one_replica = |event_type: &EventType| {
        let spec = topics.for_type(*event_type);
        [spec.replication_factor, spec.min_insync_replicas]
            .iter()
            .any(|replicas| replicas.is_some_and(|replicas| replicas < 2))
    };
    let types: Vec<&str> = EventType::ALL
        .into_iter()
        .filter(is_on_one_replica)
        .map(EventType::name)
        .collect();
    warn(
        !types.is_empty(),
        format!(
            "topics: a 2xx depends on a single replica for {}; use replication_factor 3 and \
             min_insync_replicas 2 to survive the loss of a broker",
            types.join(", ")
        ),
    );
    warnings
}
