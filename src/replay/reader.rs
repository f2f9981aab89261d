//! Consumer that reads ranges of offsets. It joins no group and commits nothing.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Error;
use super::candidate::QuarantineTopicRecord;
use crate::config::Config;
use crate::kafka::client;
use crate::kafka::lane::TopicState;
use crate::kafka::watch::classify_topic;

/// Longest wait for an answer about a topic.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Silence after which reading is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Offsets of a partition from `from` up to but not including `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetRange {
    pub partition: i32,
    pub from: i64,
    pub to: i64,
}

impl OffsetRange {
    /// Returns the number of offsets.
    pub fn len(&self) -> u64 {
        u64::try_from(self.to - self.from).unwrap_or(0)
    }
}

/// A consumer without a group.
pub struct ReplayReader(BaseConsumer);

impl ReplayReader {
    /// Creates the consumer; it connects on first use.
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

    /// Fetches the current offset range of every partition of a topic.
    pub fn fetch_ranges(&self, topic: &str) -> Result<Vec<OffsetRange>, Error> {
        let metadata = self
            .0
            .fetch_metadata(Some(topic), ANSWER_TIMEOUT)
            .map_err(kafka_error)?;
        let missing = || Error::Missing(topic.to_owned());
        let found = metadata.topics().first().ok_or_else(missing)?;
        let (error, partitions) = (found.error(), found.partitions());
        if classify_topic(error, partitions.len()) == TopicState::Missing {
            return Err(missing());
        }
        if let Some(error) = error {
            return Err(kafka_error(format!("topic {topic}: {error:?}")));
        }
        let ids = partitions.iter().map(|p| p.id());
        ids.map(|id| self.fetch_range(topic, id)).collect()
    }

    /// Fetches the current offset range of a partition.
    pub fn fetch_range(&self, topic: &str, partition: i32) -> Result<OffsetRange, Error> {
        let started = Instant::now();
        let (from, to) = loop {
            match self.0.fetch_watermarks(topic, partition, ANSWER_TIMEOUT) {
                Ok(marks) => break marks,
                // A new partition, or one that lost its leader, has no watermarks for a moment.
                Err(_) if started.elapsed() < ANSWER_TIMEOUT => std::thread::sleep(RETRY_PAUSE),
                Err(error) => return Err(kafka_error(format!("topic {topic}: {error}"))),
            }
        };
        Ok(OffsetRange {
            partition,
            from,
            to,
        })
    }

    /// Passes each record in these ranges of the quarantine topic to `each`.
    pub fn read_quarantine(
        &self,
        topic: &str,
        ranges: &[OffsetRange],
        each: &mut dyn FnMut(QuarantineTopicRecord) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.read_messages(topic, ranges, &mut |message| {
            each(QuarantineTopicRecord::from_message(message))
        })
    }

    /// Passes each message in these ranges to `each`.
    pub fn read_messages(
        &self,
        topic: &str,
        ranges: &[OffsetRange],
        each: &mut dyn FnMut(&BorrowedMessage<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut unread: Vec<OffsetRange> = ranges.iter().copied().filter(|r| r.len() > 0).collect();
        let mut list = TopicPartitionList::new();
        for range in &unread {
            let from = Offset::Offset(range.from);
            let added = list.add_partition_offset(topic, range.partition, from);
            added.map_err(kafka_error)?;
        }
        self.0.assign(&list).map_err(kafka_error)?;
        let mut last = Instant::now();
        while !unread.is_empty() {
            let read_up_to = match self.0.poll(Duration::from_millis(100)) {
                None => None,
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let mut ranges = unread.iter().filter(|r| r.partition == partition);
                    if ranges.next().is_some_and(|range| offset < range.to) {
                        each(&message)?;
                    }
                    Some((partition, offset + 1))
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => Some((partition, i64::MAX)),
                Some(Err(error)) => {
                    tracing::debug!(%error, topic, "error while reading");
                    None
                }
            };
            match read_up_to {
                Some((partition, offset)) => {
                    last = Instant::now();
                    unread.retain(|range| range.partition != partition || offset < range.to);
                }
                None if last.elapsed() > STALL_TIMEOUT => {
                    return Err(kafka_error(format!(
                        "topic {topic}: no record arrived for {STALL_TIMEOUT:?}"
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
