//! Rebuilds the window of stored events after a start, from the tails of the bridge's own topics.
//!
//! The topics are the store. Each record carries the event as it came (`value`), the time of its
//! receipt (`ce_receivedat`), and its relation to earlier events (`ce_revision`, `ce_stale`, …):
//! everything that the memory held about it. The ids of dropped repeats are in no topic, and need
//! not be. Such an id, sent again, is a repeat while its value is the current one, and stale, by
//! the seconds in the ids, once another value is.
//!
//! The topics are read backwards (see [`tail`](crate::kafka::tail)), because the newest events are
//! the most likely to be sent again:
//!
//! - `chunk`: selects the records of a span that count (pure);
//! - `record_facts`: reads the facts from one record (pure);
//! - `partitioner`: checks that a record lies in the partition of its key (pure);
//! - `thread`: runs the rebuild after a start.
//!
//! Receipt times are out of order where records waited on disk (`ce_spooled`) or in quarantine
//! (`ce_replayedfrom`). Such records end no search. Neither do single odd ones (a replica's wrong
//! clock, an operator's copy).
//!
//! Invariants:
//!
//! 1. **Events stored during the rebuild win.** Records after the end offsets at the start are not
//!    read, and no id or (type, space, timestamp) in the memory is replaced.
//! 2. **A current value is restored only if everything stored after it is known.** Otherwise a
//!    replaced value would count as current, and a revision dropped as a repeat. So:
//!    - a chunk restores current values only once it is read to its end. If it is not, its
//!      partition repeats that chunk and reads nothing older until then;
//!    - a record that made a value current but is too old to be restored still marks earlier ones
//!      as replaced;
//!    - a record outside the present partition of its key, because the topic grew, restores no
//!      value: its replacement would lie in another partition;
//!    - the memory itself invalidates values for which an event ended in doubt since the start, or
//!      for which it has no room or forgets the value before the rebuild ends.
//! 3. Besides the memory, a rebuild holds one topic's chunks and librdkafka's queue, both bounded.

mod chunk;
mod partitioner;
mod record_facts;
#[cfg(test)]
mod tests;
mod thread;

pub use thread::RebuildThread;

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::config::ClientConfig;

use super::memory::MemoryStore;
use crate::config;
use crate::kafka::tail::{
    Patience, ReadBounds, TailError, TailReader, TailTopic, WantedTopic, max_round_records,
};
use chunk::RecordChunk;

/// Tolerance for receipt times out of order: deliveries overtake each other (librdkafka retries one
/// for a minute), and replicas' clocks differ.
const ORDER_SLACK: Duration = Duration::from_secs(120);
/// Maximum number of reasons in the outcome.
const MAX_REASONS: usize = 4;

/// Outcome of a rebuild.
#[derive(Clone, Debug, Default)]
pub struct RebuildOutcome {
    /// Records read.
    pub records: u64,
    /// Ids restored.
    pub ids: u64,
    /// Current values restored.
    pub readings: u64,
    /// Records that no bridge wrote.
    pub unreadable: u64,
    /// Duration of the rebuild.
    pub duration: Duration,
    /// The whole window is known.
    pub is_complete: bool,
    /// The reasons why it is not.
    pub incomplete_reason: Option<String>,
}

/// Settings of a rebuild.
#[derive(Clone, Copy)]
pub struct RebuildContext<'r> {
    /// The topics, by [`EventType::index`](butlr_event::EventType::index).
    pub topics: &'r [String; 10],
    /// The memory to fill.
    pub memory: &'r MemoryStore,
    /// The windows and limits.
    pub settings: &'r config::DedupConfig,
    /// Set to stop the rebuild.
    pub stop: &'r AtomicBool,
}

/// The moment from which ages are counted, by two clocks: receipt times use the system clock, the
/// memory the monotonic one.
#[derive(Clone, Copy, Debug)]
struct RebuildStart {
    instant: Instant,
    unix_ms: i64,
}

impl RebuildStart {
    fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            instant: Instant::now(),
            unix_ms: i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// Returns the time since a receipt; zero if it is in the future by this clock.
    fn age(&self, received_ms: i64) -> Duration {
        let ms = self.unix_ms.saturating_sub(received_ms);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }
}

/// Reads the window back into memory, within the limits of the settings. Blocks, so it needs a
/// thread of its own.
///
/// `consumer_config` holds Kafka's address and credentials. A topic that does not exist counts as
/// empty. An unreachable Kafka is waited for; the configured time begins with its first answer.
/// `on_topic_restored` is called with the index of each topic that is finished; the others are
/// finished when this returns.
pub fn rebuild(
    consumer_config: ClientConfig,
    context: RebuildContext<'_>,
    on_topic_restored: &mut dyn FnMut(usize),
) -> RebuildOutcome {
    let settings = context.settings;
    let mut run = RebuildRun {
        context,
        started_at: Instant::now(),
        start: RebuildStart::now(),
        window: settings.id_window.max(settings.reading_window),
        bounds: ReadBounds::new(context.stop, settings.rebuild_within),
        records_left: settings.max_ids as u64,
        on_topic_restored,
        outcome: RebuildOutcome::default(),
        reasons: Vec::new(),
    };
    if settings.rebuild_within.is_zero() {
        run.add_reason("dedup.rebuild_within is 0".to_owned());
    } else {
        match TailReader::new(consumer_config) {
            Ok(reader) => run.read_all(&reader),
            Err(reason) => run.add_reason(reason),
        }
    }
    run.finish()
}

struct RebuildRun<'r> {
    context: RebuildContext<'r>,
    started_at: Instant,
    start: RebuildStart,
    window: Duration,
    bounds: ReadBounds<'r>,
    /// Records that may still be read.
    records_left: u64,
    on_topic_restored: &'r mut dyn FnMut(usize),
    outcome: RebuildOutcome,
    reasons: Vec<String>,
}

impl RebuildRun<'_> {
    fn read_all(&mut self, reader: &TailReader) {
        match self.read_topics(reader) {
            Ok(()) => {}
            Err(TailError::Stopped) => self.add_reason("stopped".to_owned()),
            Err(TailError::TimedOut) => {
                let limit = humantime::format_duration(self.context.settings.rebuild_within);
                self.add_reason(format!(
                    "stopped at the time limit of {limit} (dedup.rebuild_within)"
                ));
                if let Some(error) = reader.take_last_error() {
                    self.add_reason(error);
                }
            }
            Err(TailError::TopicUnreadable { reason, .. }) => self.add_reason(reason),
        }
    }

    fn read_topics(&mut self, reader: &TailReader) -> Result<(), TailError> {
        let names = self.context.topics;
        let mut pending: Vec<usize> = (0..names.len()).collect();
        while !pending.is_empty() {
            // A topic that does not answer at once waits until the others are read.
            let named = pending.iter().map(|&index| WantedTopic {
                index,
                name: names[index].clone(),
            });
            let found = reader.find_topics(named.collect(), Patience::Limited, &self.bounds)?;
            // Finding them may have taken long.
            self.start = RebuildStart::now();
            found.failures.into_iter().for_each(|r| self.add_reason(r));
            let mut topics = found.topics;
            for &index in pending.iter().filter(|i| !found.postponed.contains(i)) {
                let topic = topics.iter().find(|t| t.index == index);
                if topic.is_none_or(|topic| topic.count_unread_partitions() == 0) {
                    (self.on_topic_restored)(index);
                }
            }
            self.read_rounds(reader, &mut topics)?;
            if topics.iter().any(|t| t.count_unread_partitions() > 0) {
                let limit = self.context.settings.max_ids;
                self.add_reason(format!("more than {limit} records (dedup.max_ids)"));
            }
            pending = found.postponed;
        }
        Ok(())
    }

    /// Reads round by round until every partition is finished or the budget of records is used up.
    fn read_rounds(
        &mut self,
        reader: &TailReader,
        topics: &mut [TailTopic],
    ) -> Result<(), TailError> {
        for round in 0.. {
            let mut unread: Vec<_> = topics
                .iter_mut()
                .filter(|t| t.count_unread_partitions() > 0)
                .collect();
            let mut topics_left = unread.len() as u64;
            let mut has_read = false;
            for topic in &mut unread {
                // No topic uses up the share of the others.
                let share = self.records_left / topics_left;
                topics_left -= 1;
                let partitions = topic.count_unread_partitions() as u64;
                let records = max_round_records(round).min(share) / partitions;
                if records == 0 {
                    continue;
                }
                has_read = true;
                match self.read_chunks(reader, topic, records) {
                    Err(TailError::TopicUnreadable {
                        reason,
                        is_permanent: true,
                    }) => {
                        topic.give_up();
                        self.add_reason(reason);
                    }
                    // The next round reads the same chunk again; the other topics come first.
                    Ok(()) | Err(TailError::TopicUnreadable { .. }) => {}
                    Err(error) => return Err(error),
                }
                if topic.count_unread_partitions() == 0 {
                    (self.on_topic_restored)(topic.index);
                }
            }
            if !has_read {
                break;
            }
        }
        Ok(())
    }

    /// Reads one chunk of each unfinished partition of a topic.
    fn read_chunks(
        &mut self,
        reader: &TailReader,
        topic: &mut TailTopic,
        records: u64,
    ) -> Result<(), TailError> {
        let unread = topic.partitions.iter().filter(|p| p.has_more());
        let mut chunks: Vec<RecordChunk> = unread
            .map(|p| RecordChunk::new(p.next_span(records)))
            .collect();
        let (start, window, partitions) = (self.start, self.window, topic.partitions.len());
        let outcome = &mut self.outcome;
        let result = reader.read(&topic.name, &mut chunks, &self.bounds, |chunk, record| {
            outcome.records += 1;
            let is_ours = chunk.add_record(record, partitions, start, window);
            outcome.unreadable += u64::from(!is_ours);
        });
        let mut is_altered = false;
        let unread = topic.partitions.iter_mut().filter(|p| p.has_more());
        for (partition, chunk) in unread.zip(chunks) {
            if partition.complete_span(chunk.span(), chunk.is_beyond_window()) {
                self.records_left = self.records_left.saturating_sub(chunk.span().len());
            }
            is_altered |= chunk.span().is_altered();
            let (ids, readings) = chunk.restore_into(self.context.memory, start);
            outcome.ids += ids;
            outcome.readings += readings;
        }
        if is_altered {
            self.add_reason(format!(
                "topic {}: it was recreated during the rebuild",
                topic.name
            ));
        }
        result
    }

    fn add_reason(&mut self, reason: String) {
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    fn finish(mut self) -> RebuildOutcome {
        self.outcome.duration = self.started_at.elapsed();
        self.outcome.is_complete = self.reasons.is_empty();
        let further = self.reasons.len().saturating_sub(MAX_REASONS);
        self.reasons.truncate(MAX_REASONS);
        if further > 0 {
            self.reasons.push(format!("and {further} more"));
        }
        self.outcome.incomplete_reason =
            (!self.outcome.is_complete).then(|| self.reasons.join("; "));
        self.outcome
    }
}
