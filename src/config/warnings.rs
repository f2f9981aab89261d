//! What is legal but weak.

use super::kafka::property;
use super::units::format_duration;
use super::validation::is_loopback;
use super::{Config, DedupStore, RedisConfig};
use butlr_event::EventType;
use secrecy::ExposeSecret;
use std::time::Duration;

/// For how long the sender computes an occupancy again, and what its delivery takes.
const RECOMPUTATION_WINDOW: Duration = Duration::from_secs(6 * 60);

fn has_cleartext_password(redis: &RedisConfig) -> bool {
    let url = redis.url.expose_secret();
    let has_password = url.contains('@');
    let is_near = ["@localhost", "@127.", "@[::1]"]
        .iter()
        .any(|near| url.contains(near));
    url.starts_with("redis://") && has_password && !is_near
}

/// One sentence for each weakness.
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
    let mut warn = |when: bool, text: String| {
        if when {
            warnings.push(text);
        }
    };
    warn(
        !is_loopback(http.bind) && http.tls.is_none(),
        format!(
            "http.bind: {} is reached without TLS, so credentials travel in the clear \
             unless a proxy in front adds it",
            http.bind
        ),
    );
    warn(
        is_loopback(http.bind) && auth.is_empty() && http.tls.is_some(),
        "auth: no credentials are configured, so any program of this machine may send events"
            .to_owned(),
    );
    warn(
        !is_loopback(admin.bind) && admin.credentials.is_none(),
        format!(
            "admin.bind: {} can be reached from other machines and has no credentials, so \
             only metrics and probes are served there",
            admin.bind
        ),
    );
    warn(
        kafka.max_in_flight_per_topic > http.max_in_flight_events,
        format!(
            "kafka.max_in_flight_per_topic: {} is more than http.max_in_flight_events \
             ({}), so one topic can stall the others",
            kafka.max_in_flight_per_topic, http.max_in_flight_events
        ),
    );
    warn(
        kafka.max_in_flight_per_topic < http.max_events,
        format!(
            "kafka.max_in_flight_per_topic: {} is less than http.max_events ({}), so a \
             full array of one type never gets through at once",
            kafka.max_in_flight_per_topic, http.max_events
        ),
    );
    warn(
        shutdown.timeout.saturating_sub(shutdown.drain_delay) < http.answer_within,
        "shutdown.timeout: less drain_delay it is shorter than http.answer_within, so \
         a shutdown may cut requests off"
            .to_owned(),
    );
    warn(
        ["compression.type", "compression.codec"]
            .iter()
            .any(|name| property(kafka, name) == Some("zstd")),
        "kafka.properties: a stock Flink cannot read records compressed with zstd; \
         lz4 is the bridge's default"
            .to_owned(),
    );
    warn(
        property(kafka, "security.protocol")
            .is_some_and(|protocol| protocol.eq_ignore_ascii_case("sasl_plaintext")),
        "kafka.properties.\"security.protocol\": sasl_plaintext sends Kafka's \
         password in the clear; sasl_ssl does not"
            .to_owned(),
    );
    warn(
        spool.dir.is_none(),
        "spool.dir: there is no spool, so while Kafka is away events are answered 503, and the sender \
         drops them after its tries"
            .to_owned(),
    );
    warn(
        dedup.is_enabled() && dedup.reading_window < RECOMPUTATION_WINDOW,
        format!(
            "dedup.reading_window: the sender computes occupancy again for some five minutes, so \
             {} is too short to recognise all repeats and revisions",
            format_duration(dedup.reading_window)
        ),
    );
    warn(
        matches!(&dedup.store, DedupStore::Redis(redis) if has_cleartext_password(redis)),
        "dedup.redis_url: redis:// sends Redis' password in the clear; rediss:// does not"
            .to_owned(),
    );
    let weak = |event_type: &EventType| {
        let spec = topics.for_type(*event_type);
        spec.replication_factor.is_some_and(|all| all < 2)
            || spec.min_insync_replicas.is_some_and(|least| least < 2)
    };
    let weak: Vec<&str> = EventType::ALL
        .iter()
        .filter(|event_type| weak(event_type))
        .map(|event_type| event_type.name())
        .collect();
    warn(
        !weak.is_empty(),
        format!(
            "topics: a 2xx rests on a single replica for {}; replication_factor 3 with \
             min_insync_replicas 2 survives a broker",
            weak.join(", ")
        ),
    );
    warnings
}
