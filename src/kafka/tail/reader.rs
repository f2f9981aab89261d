//! The Kafka part: where the partitions begin and end, and the records between.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;

use super::{OffsetSpan, ReadBounds, TailError, TailRecord};
pub use lookup::LocatedTopics;

mod lookup;

/// How soon an end that is asked for is noticed.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// So long nothing of a topic may come before the others have their turn.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Errors come with the records they concern; what happens to connections is in the producer's log already.
struct QuietConsumerContext;

impl ClientContext for QuietConsumerContext {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, "{message}");
    }
}

impl ConsumerContext for QuietConsumerContext {}

type TailConsumer = BaseConsumer<QuietConsumerContext>;

/// How long a topic that is there and cannot be read yet is waited for when nothing else is left to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Some tries: what it would tell is dispensable.
    Limited,
    /// As long as there is time.
    Unlimited,
}

/// Reads the topics and leaves no trace: it joins no group and commits nothing.
pub struct TailReader {
    client: Option<Arc<TailConsumer>>,
    /// What last went wrong.
    last_error: Arc<Mutex<Option<String>>>,
}

impl TailReader {
    /// # Errors
    /// What librdkafka refuses in the configuration.
    pub fn new(mut config: ClientConfig) -> Result<Self, String> {
        config
            // Batches are compressed some five times over: this much becomes five times as much in memory.
            .set("fetch.max.bytes", "2097152")
            .set("fetch.message.max.bytes", "262144")
            .set("queued.max.messages.kbytes", "8192")
            .set("fetch.wait.max.ms", "50")
            // With a queue so short, the default pause of 1 s when it is full would be most of the time.
            .set("fetch.queue.backoff.ms", "5")
            .set("receive.message.max.bytes", "100000000")
            // librdkafka assigns partitions only to a consumer that names a group.
            .set("group.id", "butlr-bridge-rebuild")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // What retention took meanwhile is no longer there to be read.
            .set("auto.offset.reset", "earliest")
            // The only word for an end that is no record.
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_uncommitted")
            .set("allow.auto.create.topics", "false");
        let client: TailConsumer = config
            .create_with_context(QuietConsumerContext)
            .map_err(|e| e.to_string())?;
        Ok(Self {
            client: Some(Arc::new(client)),
            last_error: Arc::default(),
        })
    }

    fn client(&self) -> &Arc<TailConsumer> {
        self.client.as_ref().expect("there until it is dropped")
    }

    /// What last went wrong with Kafka, for who wonders why it took so long.
    pub fn take_last_error(&self) -> Option<String> {
        lock(&self.last_error).take()
    }

    /// Those of the `wanted` topics (places, names) that are there, and where their partitions begin and end now.
    ///
    /// # Errors
    /// It was to end.
    pub fn find_topics(
        &self,
        wanted: Vec<(usize, String)>,
        patience: Patience,
        bounds: &ReadBounds<'_>,
    ) -> Result<LocatedTopics, TailError> {
        // librdkafka's questions block: they are asked on a thread of their own, which nobody waits for once this is to end.
        let over = Arc::new(AtomicBool::new(false));
        let (found, finding) = mpsc::channel();
        let look = lookup::TopicLookup {
            client: Arc::clone(self.client()),
            cancelled: Arc::clone(&over),
            first_answer: Arc::clone(&bounds.first_answer),
            last_error: Arc::clone(&self.last_error),
            patience,
        };
        let spawned = std::thread::Builder::new()
            .name("tail-look".into())
            .spawn(move || drop(found.send(look.find_topics(&wanted))));
        spawned.expect("the system can start a thread");
        let halt = loop {
            match finding.recv_timeout(POLL_INTERVAL) {
                Ok(found) => return Ok(found),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(TailError::TopicUnreadable {
                        reason: "looking for the topics failed".to_owned(),
                        is_permanent: true,
                    });
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(halt) = bounds.check() {
                        break halt;
                    }
                }
            }
        };
        over.store(true, Ordering::Relaxed);
        Err(halt)
    }

    /// Reads one span of each of some partitions of a topic, and shows `each` record with its chunk, which is a span and
    /// what is kept with it, in the order of its partition.
    /// One topic at a time: librdkafka's crate tells the end of a partition with its number alone.
    ///
    /// # Errors
    /// It was to end, or this topic cannot be read. Chunks may be read to their ends all the same.
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
        // Nothing of it is fetched while others are read.
        let _ = client.assign(&TopicPartitionList::new());
        read
    }
}

impl Drop for TailReader {
    fn drop(&mut self) {
        // Closing it may wait for connections; nobody else has to.
        let client = self.client.take();
        let _ = std::thread::Builder::new()
            .name("tail-close".into())
            .spawn(move || drop(client));
    }
}

/// One topic being read.
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
            added.map_err(|e| self.topic_error(&e, true))?;
            unread += usize::from(!span.is_read());
        }
        let assigned = self.client.assign(&list);
        assigned.map_err(|e| self.topic_error(&e, true))?;
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

    /// The span that a record came for.
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

    /// What comes in a partition from now on is not wanted, and not fetched.
    fn unassign_partition(&self, partition: i32) {
        let mut list = TopicPartitionList::new();
        list.add_partition(self.topic, partition);
        let _ = self.client.incremental_unassign(&list);
    }

    /// Most errors pass, and librdkafka goes on trying.
    fn handle_error(&self, error: &KafkaError) -> Result<(), TailError> {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic,
            ) => Err(self.topic_error(error, true)),
            // The group is not used, so nobody needs to be allowed to.
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => Ok(()),
            _ => {
                *lock(self.last_error) = Some(error.to_string());
                Ok(())
            }
        }
    }

    fn topic_error(&self, error: &KafkaError, for_good: bool) -> TailError {
        let code = error.rdkafka_error_code();
        let error = code.map_or_else(|| error.to_string(), |code| code.to_string());
        TailError::TopicUnreadable {
            reason: format!("topic {}: {error}", self.topic),
            is_permanent: for_good,
        }
    }

    fn stall_error(&self) -> TailError {
        TailError::TopicUnreadable {
            reason: format!("topic {}: nothing came for {STALL_TIMEOUT:?}", self.topic),
            is_permanent: false,
        }
    }
}

/// The chunk of a partition, if it still has something to come.
fn find_open_chunk<C: AsMut<OffsetSpan>>(chunks: &mut [C], partition: i32) -> Option<&mut C> {
    let mut same = chunks
        .iter_mut()
        .filter_map(|c| (c.as_mut().partition() == partition).then_some(c));
    let chunk = same.next()?;
    (!chunk.as_mut().is_read()).then_some(chunk)
}

/// A partition has nothing more: its span.
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
    // rdkafka panics on a header whose name is not UTF-8; a bridge writes none.
    let record = catch_unwind(AssertUnwindSafe(|| {
        let mut record = TailRecord::new(message.key(), value);
        for header in message.headers().iter().flat_map(|all| all.iter()) {
            record.apply_header(header.key, header.value.unwrap_or_default());
        }
        record
    }));
    each(&record.unwrap_or_default());
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
