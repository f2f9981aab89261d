//! Kafka part of reading topics back: partition bounds and records.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;

use super::{OffsetSpan, ReadBounds, TailError, TailRecord, WantedTopic};
use crate::kafka::headers::catch_invalid_name;
use crate::kafka::quiet_context::QuietContext;
use crate::sync::lock;
pub use lookup::LocatedTopics;

mod lookup;

/// Delay until a stop request is noticed.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Longest silence of a topic before the others have their turn.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

type TailConsumer = BaseConsumer<QuietContext>;

/// Waiting time for a topic that exists but cannot be read yet, once no other topic is left to
/// read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A few tries: its records are useful but not required.
    Limited,
    /// Until the time limit.
    Unlimited,
}

/// Consumer that reads topics back. It joins no group and commits nothing.
pub struct TailReader {
    client: Option<Arc<TailConsumer>>,
    last_error: Arc<Mutex<Option<String>>>,
}

impl TailReader {
    /// Creates the consumer, or returns the error of librdkafka about its configuration.
    pub fn new(mut config: ClientConfig) -> Result<Self, String> {
        config
            // Batches are compressed about 5:1, so they take about five times as much in memory.
            .set("fetch.max.bytes", "2097152")
            .set("fetch.message.max.bytes", "262144")
            .set("queued.max.messages.kbytes", "8192")
            .set("fetch.wait.max.ms", "50")
            // With such a short queue the default pause of 1 s would take most of the time.
            .set("fetch.queue.backoff.ms", "5")
            .set("receive.message.max.bytes", "100000000")
            // librdkafka assigns partitions only to a consumer that names a group.
            .set("group.id", "butlr-bridge-rebuild")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Retention may have deleted the requested offset meanwhile.
            .set("auto.offset.reset", "earliest")
            // The only sign of a partition's end if its last offset holds no record.
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_uncommitted")
            .set("allow.auto.create.topics", "false");
        let client: TailConsumer = config
            .create_with_context(QuietContext)
            .map_err(|e| e.to_string())?;
        Ok(Self {
            client: Some(Arc::new(client)),
            last_error: Arc::default(),
        })
    }

    fn client(&self) -> &Arc<TailConsumer> {
        self.client.as_ref().expect("taken only when dropped")
    }

    /// Takes the last Kafka error, to explain why reading took so long.
    pub fn take_last_error(&self) -> Option<String> {
        lock(&self.last_error).take()
    }

    /// Finds the `wanted` topics that exist, with the current bounds of their partitions. Returns
    /// an error if it has to stop.
    pub fn find_topics(
        &self,
        wanted: Vec<WantedTopic>,
        patience: Patience,
        bounds: &ReadBounds<'_>,
    ) -> Result<LocatedTopics, TailError> {
        // librdkafka's lookups block. They run on their own thread, which is abandoned on a stop.
        let cancelled = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel();
        let lookup = lookup::TopicLookup {
            client: Arc::clone(self.client()),
            cancelled: Arc::clone(&cancelled),
            first_answer: Arc::clone(&bounds.first_answer),
            last_error: Arc::clone(&self.last_error),
            patience,
        };
        let spawned = std::thread::Builder::new()
            .name("tail-lookup".into())
            .spawn(move || drop(sender.send(lookup.find_topics(&wanted))));
        spawned.expect("the system can start a thread");
        let error = loop {
            match receiver.recv_timeout(POLL_INTERVAL) {
                Ok(found) => return Ok(found),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(TailError::TopicUnreadable {
                        reason: "the topic lookup failed".to_owned(),
                        is_permanent: true,
                    });
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = bounds.check() {
                        break error;
                    }
                }
            }
        };
        cancelled.store(true, Ordering::Relaxed);
        Err(error)
    }

    /// Reads one chunk per partition of a topic and calls `each` with the chunk and every record,
    /// in the order of the partition. On an error some chunks may nevertheless be complete.
    ///
    /// Reads one topic at a time, because rdkafka reports the end of a partition by number only.
    pub fn read<C: AsMut<OffsetSpan>>(
        &self,
        topic: &str,
        chunks: &mut [C],
        bounds: &ReadBounds<'_>,
        each: impl FnMut(&mut C, &TailRecord<'_>),
    ) -> Result<(), TailError> {
        let client = self.client();
        let read = TopicFetch {
            client,
            topic,
            last_error: &self.last_error,
        }
        .read_chunks(chunks, bounds, each);
        // Do not fetch from this topic while others are read.
        let _ = client.assign(&TopicPartitionList::new());
        read
    }
}

impl Drop for TailReader {
    fn drop(&mut self) {
        // Closing may wait for connections, so it happens on its own thread.
        let client = self.client.take();
        let _ = std::thread::Builder::new()
            .name("tail-close".into())
            .spawn(move || drop(client));
    }
}

/// Read of one topic.
struct TopicFetch<'r> {
    client: &'r TailConsumer,
    topic: &'r str,
    last_error: &'r Mutex<Option<String>>,
}

impl TopicFetch<'_> {
    fn read_chunks<C: AsMut<OffsetSpan>>(
        &self,
        chunks: &mut [C],
        bounds: &ReadBounds<'_>,
        mut each: impl FnMut(&mut C, &TailRecord<'_>),
    ) -> Result<(), TailError> {
        let mut list = TopicPartitionList::new();
        let mut unread = 0;
        for span in chunks.iter_mut().map(AsMut::as_mut) {
            let from = Offset::Offset(span.start());
            let added = list.add_partition_offset(self.topic, span.partition(), from);
            added.map_err(|e| self.topic_error(&e))?;
            unread += usize::from(!span.is_read());
        }
        let assigned = self.client.assign(&list);
        assigned.map_err(|e| self.topic_error(&e))?;
        let mut last = Instant::now();
        while unread > 0 {
            bounds.check()?;
            let read = match self.client.poll(POLL_INTERVAL) {
                Some(Ok(message)) => self.accept_message(&message, chunks, &mut each),
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    finish_partition(chunks, partition)
                }
                Some(Err(error)) => {
                    self.handle_error(&error)?;
                    None
                }
                None => None,
            };
            match read {
                Some(span) => {
                    last = Instant::now();
                    if span.is_read() {
                        unread -= 1;
                        self.unassign_partition(span.partition());
                    }
                }
                None if last.elapsed() > STALL_TIMEOUT => return Err(self.stall_error()),
                None => {}
            }
        }
        Ok(())
    }

    /// Passes a record to `each` if it belongs to a chunk, and returns the span that advanced.
    fn accept_message<'c, C: AsMut<OffsetSpan>>(
        &self,
        message: &BorrowedMessage<'_>,
        chunks: &'c mut [C],
        each: &mut impl FnMut(&mut C, &TailRecord<'_>),
    ) -> Option<&'c mut OffsetSpan> {
        if message.topic() != self.topic {
            return None;
        }
        let chunk = find_open_chunk(chunks, message.partition())?;
        if chunk.as_mut().accept_offset(message.offset()) {
            visit_record(message, |record| each(chunk, record));
        }
        Some(chunk.as_mut())
    }

    /// Stops fetching from a partition.
    fn unassign_partition(&self, partition: i32) {
        let mut list = TopicPartitionList::new();
        list.add_partition(self.topic, partition);
        let _ = self.client.incremental_unassign(&list);
    }

    /// Returns only permanent errors. Most others are temporary, and librdkafka tries again.
    fn handle_error(&self, error: &KafkaError) -> Result<(), TailError> {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic,
            ) => Err(self.topic_error(error)),
            // The group is not used, so its permission does not matter.
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => Ok(()),
            _ => {
                *lock(self.last_error) = Some(error.to_string());
                Ok(())
            }
        }
    }

    fn topic_error(&self, error: &KafkaError) -> TailError {
        let code = error.rdkafka_error_code();
        let error = code.map_or_else(|| error.to_string(), |code| code.to_string());
        TailError::TopicUnreadable {
            reason: format!("topic {}: {error}", self.topic),
            is_permanent: true,
        }
    }

    fn stall_error(&self) -> TailError {
        TailError::TopicUnreadable {
            reason: format!(
                "topic {}: no record arrived for {STALL_TIMEOUT:?}",
                self.topic
            ),
            is_permanent: false,
        }
    }
}

/// Returns the chunk of a partition unless it is complete.
fn find_open_chunk<C: AsMut<OffsetSpan>>(chunks: &mut [C], partition: i32) -> Option<&mut C> {
    let mut same = chunks
        .iter_mut()
        .filter_map(|c| (c.as_mut().partition() == partition).then_some(c));
    let chunk = same.next()?;
    (!chunk.as_mut().is_read()).then_some(chunk)
}

/// Completes the span of a partition that has ended.
fn finish_partition<C: AsMut<OffsetSpan>>(
    chunks: &mut [C],
    partition: i32,
) -> Option<&mut OffsetSpan> {
    let span = find_open_chunk(chunks, partition)?.as_mut();
    span.finish();
    Some(span)
}

fn visit_record(message: &BorrowedMessage<'_>, each: impl FnOnce(&TailRecord<'_>)) {
    let value = message.payload().unwrap_or_default();
    let record = catch_invalid_name(|| {
        let mut record = TailRecord::new(message.key(), value);
        for header in message.headers().iter().flat_map(|all| all.iter()) {
            record.apply_header(header.key, header.value.unwrap_or_default());
        }
        record
    });
    each(&record.unwrap_or_default());
}
