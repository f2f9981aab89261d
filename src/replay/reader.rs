//! Reads topics from one offset to another; joins no group and commits nothing.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use super::Error;
use super::candidate::QuarantineTopicRecord;
use crate::config::Config;
use crate::kafka::client;

/// The longest wait for an answer about a topic.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two questions.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// So long nothing may come.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Offsets of a partition from one up to another, not including that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetRange {
    /// The partition.
    pub partition: i32,
    /// The first.
    pub from: i64,
    /// The one after the last.
    pub to: i64,
}

impl OffsetRange {
    /// How many there are.
    pub fn len(&self) -> u64 {
        u64::try_from(self.to - self.from).unwrap_or(0)
    }
}

/// A consumer without a group.
pub struct ReplayReader(BaseConsumer);

impl ReplayReader {
    /// Connects when it is first asked.
    pub fn new(config: &Config, bootstrap: &str) -> Result<Self, Error> {
        let mut client = client::base_config(&config.kafka, bootstrap);
        client
            // librdkafka assigns partitions only to a consumer that names a group.
            .set("group.id", "butlr-bridge-replay")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "50")
            .set("queued.max.messages.kbytes", "8192")
            .set("allow.auto.create.topics", "false");
        let consumer = client.create().map_err(kafka_error)?;
        Ok(Self(consumer))
    }

    /// Where the partitions of a topic begin and end now.
    pub fn fetch_ranges(&self, topic: &str) -> Result<Vec<OffsetRange>, Error> {
        let metadata = self
            .0
            .fetch_metadata(Some(topic), ANSWER_TIMEOUT)
            .map_err(kafka_error)?;
        let seen = metadata.topics().first();
        let missing = || Error::Missing(topic.to_owned());
        let seen = seen.ok_or_else(missing)?;
        match seen.error() {
            None => {}
            Some(
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
            ) => return Err(missing()),
            Some(other) => return Err(kafka_error(format!("topic {topic}: {other:?}"))),
        }
        let partitions = seen.partitions().iter().map(|p| p.id());
        partitions.map(|id| self.fetch_range(topic, id)).collect()
    }

    /// Where a partition begins and ends now.
    pub fn fetch_range(&self, topic: &str, partition: i32) -> Result<OffsetRange, Error> {
        let begun = Instant::now();
        let (from, to) = loop {
            match self.0.fetch_watermarks(topic, partition, ANSWER_TIMEOUT) {
                Ok(marks) => break marks,
                // A partition just made, or whose leader is gone, has none for a moment.
                Err(_) if begun.elapsed() < ANSWER_TIMEOUT => std::thread::sleep(RETRY_PAUSE),
                Err(error) => return Err(kafka_error(format!("topic {topic}: {error}"))),
            }
        };
        Ok(OffsetRange {
            partition,
            from,
            to,
        })
    }

    /// Shows `each` record of these spans of the quarantine topic.
    pub fn read_quarantine(
        &self,
        topic: &str,
        spans: &[OffsetRange],
        each: &mut dyn FnMut(QuarantineTopicRecord) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.read_messages(topic, spans, &mut |message| {
            each(QuarantineTopicRecord::from_message(message))
        })
    }

    /// Shows `each` message of these spans.
    pub fn read_messages(
        &self,
        topic: &str,
        spans: &[OffsetRange],
        each: &mut dyn FnMut(&BorrowedMessage<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut unread: Vec<OffsetRange> = spans.iter().copied().filter(|s| s.len() > 0).collect();
        let mut list = TopicPartitionList::new();
        for span in &unread {
            let from = Offset::Offset(span.from);
            let added = list.add_partition_offset(topic, span.partition, from);
            added.map_err(kafka_error)?;
        }
        self.0.assign(&list).map_err(kafka_error)?;
        let mut last = Instant::now();
        while !unread.is_empty() {
            let read_up_to = match self.0.poll(Duration::from_millis(100)) {
                None => None,
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let of = |span: &&OffsetRange| span.partition == partition;
                    if unread.iter().find(of).is_some_and(|s| offset < s.to) {
                        each(&message)?;
                    }
                    Some((partition, offset + 1))
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => Some((partition, i64::MAX)),
                Some(Err(error)) => {
                    tracing::debug!(%error, topic, "reading");
                    None
                }
            };
            match read_up_to {
                Some((partition, offset)) => {
                    last = Instant::now();
                    unread.retain(|s| s.partition != partition || offset < s.to);
                }
                None if last.elapsed() > STALL_TIMEOUT => {
                    return Err(kafka_error(format!(
                        "topic {topic}: nothing came for {STALL_TIMEOUT:?}"
                    )));
                }
                None => {}
            }
        }
        self.0
            .assign(&TopicPartitionList::new())
            .map_err(kafka_error)
    }
}

pub(super) fn kafka_error(error: impl ToString) -> Error {
    Error::Kafka(format!("Kafka: {}", error.to_string()))
}
