//! `[kafka.properties]` and `[kafka.secret_files]`: what librdkafka is told besides the bridge's own settings.

use super::reader::SectionReader;
use super::secret;
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::path::Path;

/// Asks librdkafka whether it knows a property and takes its value; `Err` is its answer, which may repeat the value.
pub type PropertyCheck = dyn Fn(&str, &str) -> Result<(), String>;

/// What the bridge's promises rest on, and why nobody else may set it.
const RESERVED_PROPERTIES: &[(&[&str], &str)] = &[
    (
        &["bootstrap.servers", "metadata.broker.list"],
        "the brokers are given by kafka.bootstrap_servers",
    ),
    (
        &["acks", "request.required.acks"],
        "a 2xx promises that all in-sync replicas have the record, so the bridge sets acks=all",
    ),
    (
        &["enable.idempotence", "enable.gapless.guarantee"],
        "the bridge sets enable.idempotence=true without the gapless guarantee: \
         retries must not store a record twice, and one record that failed must not \
         stop all others",
    ),
    (
        &["transactional.id", "transaction.timeout.ms"],
        "the bridge uses no transactions: a 2xx promises a record that readers see",
    ),
    (
        &["partitioner", "partitioner_cb"],
        "the bridge sets murmur2_random, so that keys land where Java's clients expect them",
    ),
    (
        &["allow.auto.create.topics"],
        "the bridge never creates topics by writing to them; see `butlr-bridge topics --apply`",
    ),
    (
        &[
            "message.timeout.ms",
            "delivery.timeout.ms",
            "request.timeout.ms",
            "socket.timeout.ms",
            "topic.metadata.propagation.max.ms",
        ],
        "the bridge sets it, so that every request is answered within http.answer_within",
    ),
    (
        &["queue.buffering.max.messages", "queue.buffering.max.kbytes"],
        "the bridge sets it above its own limits, such as kafka.max_in_flight_per_topic",
    ),
    (
        &["delivery.report.only.error"],
        "the bridge answers 2xx only once a record's delivery was reported",
    ),
    (
        &["statistics.interval.ms"],
        "the bridge's metrics and its readiness rest on librdkafka's statistics",
    ),
    (
        &["api.version.request", "broker.version.fallback"],
        "records need headers and timestamps, so the bridge asks brokers for their version",
    ),
];

/// Names of this start make librdkafka a broker in memory, from which nothing is ever stored.
const MOCK_PREFIX: &str = "test.mock.";

/// What stands in the names of properties whose values are secrets.
const SECRET_WORDS: &[&str] = &[
    "password",
    "secret",
    "key",
    "pem",
    "token",
    "jaas",
    "oauthbearer.config",
];

pub(super) fn read(
    kafka: &SectionReader<'_>,
    check: &PropertyCheck,
) -> BTreeMap<String, SecretString> {
    let (plain, files) = (kafka.section("properties"), kafka.section("secret_files"));
    let mut properties = BTreeMap::new();
    for name in plain.key_names() {
        if files.is_set(name) {
            plain.report_error(
                name,
                "kafka.secret_files has it too; allowed is one of the two",
            );
            continue;
        }
        let value = plain.read(name, |written| written.parse_property());
        if let Some(value) =
            value.filter(|value| is_accepted(&plain, name, value, check, is_secret(name)))
        {
            properties.insert(name.to_owned(), SecretString::from(value));
        }
    }
    for name in files.key_names() {
        let Some(path) = files.text(name) else {
            continue;
        };
        match secret::read_file(Path::new(&path)) {
            Ok(value) if is_accepted(&files, name, &value, check, true) => {
                properties.insert(name.to_owned(), SecretString::from(value));
            }
            Ok(_) => {}
            Err(problem) => files.report_error(name, problem),
        }
    }
    properties
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// Reports what is wrong with a property; whether nothing is.
fn is_accepted(
    section: &SectionReader<'_>,
    name: &str,
    value: &str,
    check: &PropertyCheck,
    secret: bool,
) -> bool {
    let result = match find_refusal(name, value) {
        Some(problem) => Err(problem),
        None => check(name, value).map_err(|told| match secret {
            true => {
                "librdkafka refuses this property or its value (which is not shown here)".to_owned()
            }
            false => format!("librdkafka refuses it: {told}"),
        }),
    };
    result
        .map_err(|problem| section.report_error(name, problem))
        .is_ok()
}

/// Why the bridge cannot let this property have this value.
fn find_refusal(name: &str, value: &str) -> Option<String> {
    if name.contains('\0') || value.contains('\0') {
        return Some("contains a NUL character, which librdkafka cannot take".to_owned());
    }
    if let Some((_, reason)) = RESERVED_PROPERTIES
        .iter()
        .find(|(names, _)| names.contains(&name))
    {
        return Some(format!("not to be set here: {reason}"));
    }
    if name.starts_with(MOCK_PREFIX) {
        return Some(
            "not to be set here: it replaces Kafka by a memory of this process, and a 2xx \
             would promise nothing"
                .to_owned(),
        );
    }
    let number = value.trim().parse::<i64>().ok();
    match name {
        "max.in.flight" | "max.in.flight.requests.per.connection"
            if number.is_some_and(|n| !(1..=5).contains(&n)) =>
        {
            Some(format!(
                "{value} is out of bounds: the idempotent producer keeps order with 5 at \
                 most; allowed: 1 to 5"
            ))
        }
        "retries" | "message.send.max.retries" if number.is_some_and(|n| n < 1) => Some(format!(
            "{value} is out of bounds: the idempotent producer needs retries, which \
             http.answer_within ends in time; allowed: from 1 on"
        )),
        "queuing.strategy" if value != "fifo" => {
            Some("the idempotent producer keeps the order of records; allowed: fifo".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridges_own_are_refused_with_the_reason() {
        for name in RESERVED_PROPERTIES.iter().flat_map(|(names, _)| *names) {
            assert!(
                find_refusal(name, "1")
                    .unwrap()
                    .starts_with("not to be set here: "),
                "{name}"
            );
        }
        assert!(
            find_refusal("metadata.broker.list", "x")
                .unwrap()
                .contains("kafka.bootstrap_servers")
        );
        assert!(
            find_refusal("test.mock.num.brokers", "3")
                .unwrap()
                .contains("promise nothing")
        );
    }

    #[test]
    fn what_would_break_idempotence_is_refused() {
        for (name, good, bad) in [
            ("max.in.flight", "5", "6"),
            ("max.in.flight.requests.per.connection", "1", "1000000"),
            ("retries", "1", "0"),
            ("message.send.max.retries", "2147483647", "-1"),
            ("queuing.strategy", "fifo", "lifo"),
        ] {
            assert_eq!(find_refusal(name, good), None);
            assert!(find_refusal(name, bad).is_some(), "{name}={bad}");
        }
        for name in [
            "linger.ms",
            "compression.type",
            "sasl.username",
            "reconnect.backoff.max.ms",
        ] {
            assert_eq!(find_refusal(name, "1"), None);
        }
        assert!(find_refusal("client.id", "a\0b").unwrap().contains("NUL"));
    }

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in [
            "sasl.password",
            "ssl.key.password",
            "ssl.key.pem",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.config",
            "SASL.JAAS.config",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["sasl.username", "linger.ms", "security.protocol"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
