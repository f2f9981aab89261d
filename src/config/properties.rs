//! `[kafka.properties]` and `[kafka.secret_files]`: properties of librdkafka.

use super::reader::SectionReader;
use super::secret;
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::path::Path;

/// Check of a property's name and value by librdkafka. `Err` is its message, which may quote the
/// value.
pub type PropertyCheck = dyn Fn(&str, &str) -> Result<(), String>;

/// Properties that the guarantee of a 2xx depends on, and the reason why users may not set them.
const RESERVED_PROPERTIES: &[(&[&str], &str)] = &[
    (
        &["bootstrap.servers", "metadata.broker.list"],
        "kafka.bootstrap_servers names the brokers",
    ),
    (
        &["acks", "request.required.acks"],
        "a 2xx promises that all in-sync replicas have the record, so the bridge sets acks=all",
    ),
    (
        &["enable.idempotence", "enable.gapless.guarantee"],
        "the bridge sets enable.idempotence=true without the gapless guarantee: a retry must not \
         store a record twice, and a failed record must not stop all others",
    ),
    (
        &["transactional.id", "transaction.timeout.ms"],
        "the bridge uses no transactions: a 2xx promises a record that consumers see",
    ),
    (
        &["partitioner", "partitioner_cb"],
        "the bridge sets murmur2_random, so that keys go to the same partitions as with Java clients",
    ),
    (
        &["allow.auto.create.topics"],
        "the bridge never creates topics by publishing; use `butlr-bridge topics --apply`",
    ),
    (
        &[
            "message.timeout.ms",
            "delivery.timeout.ms",
            "request.timeout.ms",
            "socket.timeout.ms",
            "topic.metadata.propagation.max.ms",
        ],
        "the bridge sets it, so that every request gets its response within http.answer_within",
    ),
    (
        &["queue.buffering.max.messages", "queue.buffering.max.kbytes"],
        "the bridge sets it higher than its own limits, such as kafka.max_in_flight_per_topic",
    ),
    (
        &["delivery.report.only.error"],
        "a 2xx needs the delivery report of each record",
    ),
    (
        &["statistics.interval.ms"],
        "metrics and readiness depend on librdkafka's statistics",
    ),
    (
        &["api.version.request", "broker.version.fallback"],
        "records need headers and timestamps, so the bridge asks brokers for their version",
    ),
];

/// Prefix of the properties that replace Kafka by a mock broker, which stores nothing.
const MOCK_PREFIX: &str = "test.mock.";

/// Words in the names of properties whose values are secrets.
const SECRET_WORDS: &[&str] = &[
    "password",
    "secret",
    "key",
    "pem",
    "token",
    "jaas",
    "oauthbearer.config",
];

/// Secrecy of a property's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sensitivity {
    Public,
    Secret,
}

pub(super) fn read(
    kafka: &SectionReader<'_>,
    check: &PropertyCheck,
) -> BTreeMap<String, SecretString> {
    let (plain, files) = (kafka.section("properties"), kafka.section("secret_files"));
    let mut properties = BTreeMap::new();
    let mut insert = |section: &SectionReader<'_>, name: &str, value: Result<String, String>| {
        if let Some(value) = section.ok_or_report(name, value) {
            properties.insert(name.to_owned(), SecretString::from(value));
        }
    };
    for name in plain.key_names() {
        if files.is_set(name) {
            plain.report_error(
                name,
                "kafka.secret_files has it, too; remove one of the two",
            );
        } else if let Some(value) = plain.read_optional(name, |written| written.parse_property()) {
            insert(
                &plain,
                name,
                check_value(name, value, sensitivity(name), check),
            );
        }
    }
    for name in files.key_names() {
        if let Some(path) = files.text(name) {
            let value = secret::read_file(Path::new(&path))
                .and_then(|value| check_value(name, value, Sensitivity::Secret, check));
            insert(&files, name, value);
        }
    }
    properties
}

fn sensitivity(name: &str) -> Sensitivity {
    let name = name.to_ascii_lowercase();
    if SECRET_WORDS.iter().any(|word| name.contains(word)) {
        Sensitivity::Secret
    } else {
        Sensitivity::Public
    }
}

/// Returns the value if the bridge and librdkafka accept it for this property.
fn check_value(
    name: &str,
    value: String,
    sensitivity: Sensitivity,
    check: &PropertyCheck,
) -> Result<String, String> {
    if let Some(problem) = find_refusal(name, &value) {
        return Err(problem);
    }
    check(name, &value).map_err(|answer| match sensitivity {
        Sensitivity::Secret => {
            "librdkafka refuses this property or its value (which is not shown here)".to_owned()
        }
        Sensitivity::Public => format!("librdkafka refuses it: {answer}"),
    })?;
    Ok(value)
}

/// Returns the reason for which the bridge refuses this value of a property.
fn find_refusal(name: &str, value: &str) -> Option<String> {
    if name.contains('\0') || value.contains('\0') {
        return Some("contains a NUL character, which librdkafka does not accept".to_owned());
    }
    if let Some((_, reason)) = RESERVED_PROPERTIES
        .iter()
        .find(|(names, _)| names.contains(&name))
    {
        return Some(format!("must not be set: {reason}"));
    }
    if name.starts_with(MOCK_PREFIX) {
        return Some(
            "must not be set: it replaces Kafka by a mock broker in memory, so a 2xx would promise \
             nothing"
                .to_owned(),
        );
    }
    let number = value.trim().parse::<i64>().ok();
    match name {
        "max.in.flight" | "max.in.flight.requests.per.connection"
            if number.is_some_and(|n| !(1..=5).contains(&n)) =>
        {
            Some(format!(
                "{value} is out of range: the idempotent producer keeps records in order only up \
                 to 5; allowed: 1 to 5"
            ))
        }
        "retries" | "message.send.max.retries" if number.is_some_and(|n| n < 1) => Some(format!(
            "{value} is out of range: the idempotent producer needs retries, and \
             http.answer_within limits their time; allowed: 1 or more"
        )),
        "queuing.strategy" if value != "fifo" => {
            Some("the idempotent producer keeps records in order; allowed: fifo".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_properties_are_refused_with_the_reason() {
        for name in RESERVED_PROPERTIES.iter().flat_map(|(names, _)| *names) {
            assert!(
                find_refusal(name, "1")
                    .unwrap()
                    .starts_with("must not be set: "),
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
    fn values_that_break_idempotence_are_refused() {
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
    fn secrets_are_recognised_by_their_names() {
        for name in [
            "sasl.password",
            "ssl.key.password",
            "ssl.key.pem",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.config",
            "SASL.JAAS.config",
        ] {
            assert!(sensitivity(name) == Sensitivity::Secret, "{name}");
        }
        for name in ["sasl.username", "linger.ms", "security.protocol"] {
            assert!(sensitivity(name) == Sensitivity::Public, "{name}");
        }
    }
}
