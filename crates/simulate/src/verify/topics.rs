//! The ten topics as Kafka has them now: partitions, and where they begin and end.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::Error;
use super::names::kebab;
use butlr_event::EventType;

/// The longest wait for one answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Topics just created may not be known everywhere yet, nor have their leaders: so long they are asked for again.
const MISSING_GRACE: Duration = Duration::from_secs(1);
const READY_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// What stands for the type in a template.
const TYPE_PLACEHOLDER: &str = "{type}";

/// Where the records are, and how to log in there.
#[derive(Clone)]
pub struct VerifierKafka {
    /// `host:port`, separated by commas.
    pub bootstrap_servers: String,
    /// librdkafka's properties, such as `security.protocol`; they may hold secrets.
    pub properties: Vec<(String, String)>,
}

/// The names of the ten topics, in the order of [`EventType::ALL`].
pub type EventTopicNames = [String; EventType::ALL.len()];

/// One number for each partition of each topic.
pub type TopicOffsets = Vec<Vec<i64>>;

/// The names that a template makes.
///
/// # Errors
/// It does not contain `{type}` once.
pub fn topic_names(template: &str) -> Result<EventTopicNames, Error> {
    match template.matches(TYPE_PLACEHOLDER).count() {
        1 => Ok(EventType::ALL.map(|t| template.replace(TYPE_PLACEHOLDER, kebab(t)))),
        _ => Err(Error::InvalidTemplate(template.to_owned())),
    }
}

/// A consumer that reads and leaves no trace: it joins no group and commits nothing.
///
/// # Errors
/// librdkafka does not take a property.
pub fn create_consumer(kafka: &VerifierKafka) -> Result<BaseConsumer, Error> {
    let mut config = ClientConfig::new();
    config
        .set("client.id", "butlr-bridge-verify")
        .set("fetch.wait.max.ms", "50")
        // Batches are compressed some ten times over: this much becomes ten times as much in memory.
        .set("fetch.max.bytes", "4194304")
        .set("fetch.message.max.bytes", "524288")
        .set("queued.max.messages.kbytes", "32768")
        // With a queue so short, the default pause of 1 s when it is full would be most of the time.
        .set("fetch.queue.backoff.ms", "5")
        .set("check.crcs", "true");
    for (name, value) in &kafka.properties {
        config.set(name, value);
    }
    config
        .set("bootstrap.servers", &kafka.bootstrap_servers)
        // librdkafka assigns partitions only to a consumer that names a group.
        .set("group.id", "butlr-bridge-verify")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        // The only word for an end that is no record.
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

/// How many partitions each topic has.
///
/// # Errors
/// Kafka cannot be reached, or topics are missing: all of them are named.
pub fn partition_counts(
    consumer: &BaseConsumer,
    names: &EventTopicNames,
) -> Result<[usize; EventType::ALL.len()], Error> {
    let mut found = [0; EventType::ALL.len()];
    let mut missing = Vec::new();
    let begun = Instant::now();
    for (name, found) in names.iter().zip(&mut found) {
        match partition_count(consumer, name, begun)? {
            0 => missing.push(name.clone()),
            partitions => *found = partitions,
        }
    }
    match missing.is_empty() {
        true => Ok(found),
        false => Err(Error::MissingTopics(missing)),
    }
}

/// How many partitions a topic has; 0 when there is no such topic.
fn partition_count(consumer: &BaseConsumer, name: &str, begun: Instant) -> Result<usize, Error> {
    loop {
        let asked = |e: &dyn std::fmt::Display| Error::kafka(format!("topic {name}"), e);
        let metadata = consumer.fetch_metadata(Some(name), REQUEST_TIMEOUT);
        let metadata = metadata.map_err(|e| asked(&e))?;
        let topic = metadata.topics().iter().find(|t| t.name() == name);
        let topic = topic.ok_or_else(|| asked(&"it is not in the answer"))?;
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
                Some(error) => asked(&error),
                None => asked(&format!("{unready} partitions have no leader")),
            });
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

/// Where each partition begins and ends.
///
/// # Errors
/// Kafka does not tell.
pub fn fetch_all_watermarks(
    consumer: &BaseConsumer,
    names: &EventTopicNames,
    partitions: &[usize; EventType::ALL.len()],
) -> Result<(TopicOffsets, TopicOffsets), Error> {
    let (mut begins, mut ends) = (TopicOffsets::new(), TopicOffsets::new());
    for (name, partitions) in names.iter().zip(partitions) {
        let count = i32::try_from(*partitions).expect("Kafka numbers partitions so");
        let bounds = (0..count).map(|partition| fetch_watermarks(consumer, name, partition));
        let (begin, end) = bounds.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        begins.push(begin);
        ends.push(end);
    }
    Ok((begins, ends))
}

/// Where a partition begins and ends; what passes by itself is waited for.
///
/// # Errors
/// Kafka does not tell.
pub fn fetch_watermarks(
    consumer: &BaseConsumer,
    name: &str,
    partition: i32,
) -> Result<(i64, i64), Error> {
    let begun = Instant::now();
    loop {
        match consumer.fetch_watermarks(name, partition, REQUEST_TIMEOUT) {
            Ok(bounds) => return Ok(bounds),
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

/// Whether it goes by itself, and librdkafka goes on trying. Or does not matter: the group that librdkafka asks for a name
/// of is not used, so nobody needs to be allowed to.
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
    fn a_template_has_one_place_for_the_type() {
        assert_eq!(topic_names("a.{type}.b").unwrap()[8], "a.pir-motion.b");
        for template in ["", "a", "{type}{type}", "{Type}"] {
            assert!(matches!(
                topic_names(template),
                Err(Error::InvalidTemplate(_))
            ));
        }
    }

    #[test]
    fn a_group_that_may_not_be_used_is_none_of_our_concern() {
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
    fn a_property_that_librdkafka_does_not_know_is_told() {
        let kafka = VerifierKafka {
            bootstrap_servers: "127.0.0.1:1".to_owned(),
            properties: vec![("no.such".to_owned(), "1".to_owned())],
        };
        let error = create_consumer(&kafka).err().unwrap();
        assert!(error.to_string().contains("no.such"), "{error}");
    }
}
