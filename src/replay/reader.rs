//! Reads topics from one offset to another; joins no group and commits nothing.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use super::Error;
use super::kept::Read;
use crate::config::Config;
use crate::kafka::client;

/// The longest wait for an answer about a topic.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);
/// So long nothing may come.
const STALL: Duration = Duration::from_secs(30);

/// Offsets of a partition from one up to another, not including that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The partition.
    pub partition: i32,
    /// The first.
    pub from: i64,
    /// The one after the last.
    pub to: i64,
}

impl Span {
    /// How many there are.
    pub fn len(&self) -> u64 {
        u64::try_from(self.to - self.from).unwrap_or(0)
    }
}

/// A consumer without a group.
pub struct Reader(BaseConsumer);

impl Reader {
    /// Connects when it is first asked.
    pub fn new(config: &Config, bootstrap: &str) -> Result<Self, Error> {
        let mut client = client::base(&config.kafka, bootstrap);
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
        let consumer = client.create().map_err(told)?;
        Ok(Self(consumer))
    }

    /// Where the partitions of a topic begin and end now.
    pub fn spans(&self, topic: &str) -> Result<Vec<Span>, Error> {
        let metadata = self.0.fetch_metadata(Some(topic), ANSWER).map_err(told)?;
        let seen = metadata.topics().first();
        let missing = || Error::Missing(topic.to_owned());
        let seen = seen.ok_or_else(missing)?;
        match seen.error() {
            None => {}
            Some(
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
            ) => return Err(missing()),
            Some(other) => return Err(told(format!("topic {topic}: {other:?}"))),
        }
        let partitions = seen.partitions().iter().map(|p| p.id());
        partitions.map(|id| self.span(topic, id)).collect()
    }

    /// Where a partition begins and ends now.
    pub fn span(&self, topic: &str, partition: i32) -> Result<Span, Error> {
        let begun = Instant::now();
        let (from, to) = loop {
            match self.0.fetch_watermarks(topic, partition, ANSWER) {
                Ok(marks) => break marks,
                // A partition just made, or whose leader is gone, has none for a moment.
                Err(_) if begun.elapsed() < ANSWER => std::thread::sleep(PAUSE),
                Err(error) => return Err(told(format!("topic {topic}: {error}"))),
            }
        };
        Ok(Span {
            partition,
            from,
            to,
        })
    }

    /// Shows `each` record of these spans of the quarantine topic.
    pub fn read(
        &self,
        topic: &str,
        spans: &[Span],
        each: &mut dyn FnMut(Read) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.messages(topic, spans, &mut |message| each(Read::of(message)))
    }

    /// Shows `each` message of these spans.
    pub fn messages(
        &self,
        topic: &str,
        spans: &[Span],
        each: &mut dyn FnMut(&BorrowedMessage<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut unread: Vec<Span> = spans.iter().copied().filter(|s| s.len() > 0).collect();
        let mut list = TopicPartitionList::new();
        for span in &unread {
            let from = Offset::Offset(span.from);
            let added = list.add_partition_offset(topic, span.partition, from);
            added.map_err(told)?;
        }
        self.0.assign(&list).map_err(told)?;
        let mut last = Instant::now();
        while !unread.is_empty() {
            let read_up_to = match self.0.poll(Duration::from_millis(100)) {
                None => None,
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let of = |span: &&Span| span.partition == partition;
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
                None if last.elapsed() > STALL => {
                    return Err(told(format!("topic {topic}: nothing came for {STALL:?}")));
                }
                None => {}
            }
        }
        self.0.assign(&TopicPartitionList::new()).map_err(told)
    }
}

pub(super) fn told(error: impl ToString) -> Error {
    Error::Kafka(format!("Kafka: {}", error.to_string()))
}
