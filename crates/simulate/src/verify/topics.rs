//! The ten topics in Kafka: names, partitions and watermarks.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::Error;
use super::contract::kebab;
use butlr_event::{EventType, PerType};

/// Timeout of one Kafka request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Retry limit for a topic that seems to be missing: a new topic may not be known everywhere yet.
const MISSING_GRACE: Duration = Duration::from_secs(1);
/// Retry limit for a topic whose partitions have no leader yet, and for transient errors.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Placeholder for the type in a template.
const TYPE_PLACEHOLDER: &str = "{type}";

/// Kafka cluster to read from, with its credentials.
#[derive(Clone)]
pub struct VerifierKafka {
    /// `host:port`, separated by commas.
    pub bootstrap_servers: String,
    /// librdkafka properties such as `security.protocol`; they may contain secrets.
    pub properties: Vec<(String, String)>,
}

/// One offset per partition of each topic.
pub type TopicOffsets = Vec<Vec<i64>>;

/// Builds the topic names from a template.
///
/// # Errors
/// The template does not contain `{type}` exactly once.
pub fn topic_names(template: &str) -> Result<PerType<String>, Error> {
    if template.matches(TYPE_PLACEHOLDER).count() != 1 {
        return Err(Error::InvalidTemplate(template.to_owned()));
    }
    Ok(EventType::ALL.map(|t| template.replace(TYPE_PLACEHOLDER, kebab(t))))
}

/// Creates a consumer that leaves no trace in Kafka: it joins no group and commits nothing.
///
/// # Errors
/// librdkafka does not accept a property.
pub fn create_consumer(kafka: &VerifierKafka) -> Result<BaseConsumer, Error> {
    let mut config = ClientConfig::new();
    config
        .set("client.id", "butlr-bridge-verify")
        .set("fetch.wait.max.ms", "50")
        // Batches are compressed about 10:1, so this takes ten times as much memory.
        .set("fetch.max.bytes", "4194304")
        .set("fetch.message.max.bytes", "524288")
        .set("queued.max.messages.kbytes", "32768")
        // With such a short queue, the default back-off of 1 s would take most of the time.
        .set("fetch.queue.backoff.ms", "5")
        .set("check.crcs", "true");
    for (name, value) in &kafka.properties {
        config.set(name, value);
    }
    config
        .set("bootstrap.servers", &kafka.bootstrap_servers)
        // librdkafka assigns partitions only to a consumer with a group id.
        .set("group.id", "butlr-bridge-verify")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        // The only notification of the end of a partition.
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_uncommitted")
        .set("allow.auto.create.topics", "false");
    config.create().map_err(|e| match e {
        KafkaError::ClientConfig(_, text, name, _) => Error::InvalidProperty { name, text },
        KafkaError::ClientCreation(text) => Error::InvalidProperty {
            name: "kafka".to_owned(),
            text,
        },
        other => Error::InvalidProperty {
            name: "kafka".to_owned(),
            text: other.to_string(),
        },
    })
}

/// Returns the number of partitions of each topic.
///
/// # Errors
/// Kafka cannot be reached, or topics are missing; the error lists all of them.
pub fn partition_counts(
    consumer: &BaseConsumer,
    names: &PerType<String>,
) -> Result<PerType<usize>, Error> {
    let mut counts = [0; EventType::ALL.len()];
    let mut missing = Vec::new();
    let begun = Instant::now();
    for (name, count) in names.iter().zip(&mut counts) {
        match partition_count(consumer, name, begun)? {
            0 => missing.push(name.clone()),
            partitions => *count = partitions,
        }
    }
    if missing.is_empty() {
        Ok(counts)
    } else {
        Err(Error::MissingTopics(missing))
    }
}

/// Returns the number of partitions of a topic; 0 if the topic does not exist.
fn partition_count(consumer: &BaseConsumer, name: &str, begun: Instant) -> Result<usize, Error> {
    loop {
        let failed = |e: &dyn std::fmt::Display| Error::kafka(format!("topic {name}"), e);
        let metadata = consumer.fetch_metadata(Some(name), REQUEST_TIMEOUT);
        let metadata = metadata.map_err(|e| failed(&e))?;
        let topic = metadata.topics().iter().find(|t| t.name() == name);
        let topic = topic.ok_or_else(|| failed(&"the topic is missing from the metadata"))?;
        let unready = topic.partitions().iter().filter(|p| p.leader() < 0).count();
        let error = topic.error().map(RDKafkaErrorCode::from);
        if error.is_none() && unready == 0 && !topic.partitions().is_empty() {
            return Ok(topic.partitions().len());
        }
        let unknown = matches!(
            error,
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)
        );
        if unknown && begun.elapsed() >= MISSING_GRACE {
            return Ok(0);
        }
        if begun.elapsed() >= READY_TIMEOUT {
            return Err(match error {
                Some(error) => failed(&error),
                None => failed(&format!("{unready} partitions have no leader")),
            });
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

/// Returns the low and the high watermark of every partition.
///
/// # Errors
/// The request to Kafka fails.
pub fn fetch_all_watermarks(
    consumer: &BaseConsumer,
    names: &PerType<String>,
    partitions: &PerType<usize>,
) -> Result<(TopicOffsets, TopicOffsets), Error> {
    let (mut begins, mut ends) = (TopicOffsets::new(), TopicOffsets::new());
    for (name, partitions) in names.iter().zip(partitions) {
        let count = i32::try_from(*partitions).expect("Kafka partition numbers are i32");
        let watermarks = (0..count).map(|partition| fetch_watermarks(consumer, name, partition));
        let (begin, end) = watermarks
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .unzip();
        begins.push(begin);
        ends.push(end);
    }
    Ok((begins, ends))
}

/// Returns the low and the high watermark of a partition, retrying on transient errors.
///
/// # Errors
/// The request to Kafka fails.
pub fn fetch_watermarks(
    consumer: &BaseConsumer,
    name: &str,
    partition: i32,
) -> Result<(i64, i64), Error> {
    let begun = Instant::now();
    loop {
        match consumer.fetch_watermarks(name, partition, REQUEST_TIMEOUT) {
            Ok(watermarks) => return Ok(watermarks),
            Err(error) if is_transient(&error) && begun.elapsed() < READY_TIMEOUT => {
                std::thread::sleep(RETRY_PAUSE);
            }
            Err(error) => {
                let what = format!("partition {partition} of {name}");
                return Err(Error::kafka(what, &error));
            }
        }
    }
}

/// Returns `true` for errors that librdkafka recovers from by itself, and for errors about the
/// consumer group, which is never used (so the user needs no permission for it).
pub fn is_transient(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::SSL
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::CoordinatorLoadInProgress
                | RDKafkaErrorCode::NotCoordinator
                | RDKafkaErrorCode::WaitingForCoordinator
                | RDKafkaErrorCode::GroupAuthorizationFailed
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_contains_the_type_once() {
        assert_eq!(topic_names("a.{type}.b").unwrap()[8], "a.pir-motion.b");
        for template in ["", "a", "{type}{type}", "{Type}"] {
            assert!(matches!(
                topic_names(template),
                Err(Error::InvalidTemplate(_))
            ));
        }
    }

    #[test]
    fn group_errors_are_ignored() {
        let error = |code| KafkaError::MessageConsumption(code);
        for code in [
            RDKafkaErrorCode::GroupAuthorizationFailed,
            RDKafkaErrorCode::CoordinatorNotAvailable,
            RDKafkaErrorCode::SSL,
        ] {
            assert!(is_transient(&error(code)), "{code:?}");
        }
        assert!(!is_transient(&error(
            RDKafkaErrorCode::TopicAuthorizationFailed
        )));
        assert!(!is_transient(&error(RDKafkaErrorCode::OffsetOutOfRange)));
    }

    #[test]
    fn an_unknown_property_is_rejected() {
        let kafka = VerifierKafka {
            bootstrap_servers: "127.0.0.1:1".to_owned(),
            properties: vec![("no.such".to_owned(), "1".to_owned())],
        };
        let error = create_consumer(&kafka).err().unwrap();
        assert!(error.to_string().contains("no.such"), "{error}");
    }
}
