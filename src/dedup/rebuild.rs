//! After a start: what was stored within the window, read back from the tails of the bridge's own topics.
//!
//! The topics are the store. Each record carries the event as it came (`value`), when the bridge had it
//! (`ce_receivedat`) and what it was to what came before (`ce_revision`, `ce_stale`, …): all that [`Memory`] held of it.
//! Not in any topic are the ids of dropped repeats. They need not be: such an id, sent again, is a repeat while its value
//! is the current one, and stale once another is, by the seconds in the ids.
//!
//! Read backwards, as [`tail`](crate::kafka::tail) does, so that what is sent again first, the newest, is known first:
//!
//! - `chunk`: what of a run of records counts (pure);
//! - `told`: what one record tells (pure); `place`: whether it lies where its key belongs (pure).
//!
//! Receipt is not in the order of offsets where records waited, on disk (`ce_spooled`) or in quarantine
//! (`ce_replayedfrom`): those end no search; nor do single ones among others (a replica's wrong clock, an operator's copy).
//!
//! Invariants:
//!
//! 1. **What is stored while this runs wins.** Records behind the ends at the start are not read, and what memory has of
//!    an id or a (type, space, timestamp) is not replaced.
//! 2. **A current value is restored only when everything stored after it is known**: a value that was since replaced, taken
//!    for current, would have a revision dropped as a repeat. So a chunk tells current values once it was read to its end; a
//!    partition with a chunk that was not is asked for that one again, and goes no further back before. A record that made
//!    a value current, but is too old to be remembered by its receipt, still says that what lies before it is not. And a
//!    record that does not lie in the partition where its key belongs now, because the topic grew, tells none: what
//!    replaced it would lie in another. What ended unknown since the start, and what memory has no room for or forgets
//!    before all is read, puts it in doubt by itself.
//! 3. Beside the engine's memory stand what one topic's chunks tell and librdkafka's queue, both bounded.

mod chunk;
mod partitioner;
mod record_facts;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::config::ClientConfig;

use super::memory::MemoryStore;
use crate::config;
use crate::kafka::tail::{
    Patience, ReadBounds, TailError, TailReader, TailTopic, WantedTopic, max_round_records,
};
use chunk::RecordChunk;

/// Receipt is in the order of offsets only as far as deliveries overtake each other (librdkafka goes on with one for a
/// minute) and replicas' clocks agree.
const ORDER_SLACK: Duration = Duration::from_secs(120);
/// Reasons told, at most.
const MAX_REASONS: usize = 4;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct RebuildOutcome {
    /// Records read.
    pub records: u64,
    /// Ids taken from them.
    pub ids: u64,
    /// Current values taken from them.
    pub readings: u64,
    /// Records that are none of a bridge's.
    pub unreadable: u64,
    /// How long it took.
    pub duration: Duration,
    /// The whole window is known.
    pub is_complete: bool,
    /// Why it is not.
    pub incomplete_reason: Option<String>,
}

/// The moment from which ages are counted, by both clocks: receipt is told by the one, memory counts by the other.
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

    /// How long ago something was received; zero for what a clock ahead of this one says.
    fn age(&self, received_ms: i64) -> Duration {
        let ms = self.unix_ms.saturating_sub(received_ms);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }
}

/// Reads the window back into `memory`, as far as `settings` allow, or until `stop`. Blocks: for a thread of its own.
///
/// `consumer_config` says where Kafka is and how to log in. Topics that do not exist have nothing to tell; a Kafka that is
/// away is waited for, and the time that `settings` allow begins with its first answer. `known` is told the place of each topic in `topics` of which all is known that will be; those left
/// out are so when this returns.
pub fn rebuild(
    consumer_config: ClientConfig,
    topics: &[String; 10],
    memory: &MemoryStore,
    settings: &config::DedupConfig,
    stop: &AtomicBool,
    on_topic_restored: &mut dyn FnMut(usize),
) -> RebuildOutcome {
    let begun = Instant::now();
    let mut run = RebuildRun {
        memory,
        settings,
        started_at: begun,
        start: RebuildStart::now(),
        window: settings.id_window.max(settings.reading_window),
        bounds: ReadBounds::new(stop, settings.rebuild_within),
        records_left: settings.max_ids as u64,
        on_topic_restored,
        outcome: RebuildOutcome::default(),
        reasons: Vec::new(),
    };
    if settings.rebuild_within.is_zero() {
        run.add_reason("dedup.rebuild_within is 0".to_owned());
    } else {
        match TailReader::new(consumer_config) {
            Ok(reader) => run.read_all(&reader, topics),
            Err(reason) => run.add_reason(reason),
        }
    }
    run.finish()
}

struct RebuildRun<'r> {
    memory: &'r MemoryStore,
    settings: &'r config::DedupConfig,
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
    fn read_all(&mut self, reader: &TailReader, names: &[String; 10]) {
        let mut wanted: Vec<usize> = (0..names.len()).collect();
        let halted = loop {
            // A topic that does not answer at once is waited for when the others are read.
            let named = wanted.iter().map(|&index| WantedTopic {
                index,
                name: names[index].clone(),
            });
            let found = match reader.find_topics(named.collect(), Patience::Limited, &self.bounds) {
                Ok(found) => found,
                Err(halt) => break Err(halt),
            };
            // It may have taken long.
            self.start = RebuildStart::now();
            found.failures.into_iter().for_each(|t| self.add_reason(t));
            let mut topics = found.topics;
            for &place in wanted
                .iter()
                .filter(|place| !found.postponed.contains(place))
            {
                let topic = topics.iter().find(|t| t.index == place);
                if topic.is_none_or(|topic| topic.count_unread_partitions() == 0) {
                    (self.on_topic_restored)(place);
                }
            }
            if let Err(halt) = self.read_rounds(reader, &mut topics) {
                break Err(halt);
            }
            if topics.iter().any(|t| t.count_unread_partitions() > 0) {
                let most = self.settings.max_ids;
                self.add_reason(format!("more than {most} records (dedup.max_ids)"));
            }
            wanted = found.postponed;
            if wanted.is_empty() {
                break Ok(());
            }
        };
        match halted {
            Ok(()) => {}
            Err(TailError::Stopped) => self.add_reason("stopped".to_owned()),
            Err(TailError::TimedOut) => {
                let within = humantime::format_duration(self.settings.rebuild_within);
                self.add_reason(format!(
                    "the time for it was up after {within} (dedup.rebuild_within)"
                ));
                reader
                    .take_last_error()
                    .into_iter()
                    .for_each(|t| self.add_reason(t));
            }
            Err(TailError::TopicUnreadable { reason, .. }) => self.add_reason(reason),
        }
    }

    /// Round by round until no partition wants more, or the budget of records is used up.
    fn read_rounds(
        &mut self,
        reader: &TailReader,
        topics: &mut [TailTopic],
    ) -> Result<(), TailError> {
        for round in 0.. {
            let mut wanting = topics
                .iter()
                .filter(|t| t.count_unread_partitions() > 0)
                .count();
            if wanting == 0 {
                break;
            }
            let mut affordable = false;
            for topic in topics
                .iter_mut()
                .filter(|t| t.count_unread_partitions() > 0)
            {
                // No topic uses up what the others need.
                let share = self.records_left / wanting.max(1) as u64;
                wanting -= 1;
                let records =
                    max_round_records(round).min(share) / topic.count_unread_partitions() as u64;
                if records == 0 {
                    continue;
                }
                affordable = true;
                match self.read_chunks(reader, topic, records) {
                    Ok(()) => {}
                    Err(TailError::TopicUnreadable {
                        reason,
                        is_permanent: for_good,
                    }) => {
                        // Once more in the next round, the same chunk: the rest may be sooner read.
                        if for_good {
                            topic.give_up();
                            self.add_reason(reason);
                        }
                    }
                    Err(halt) => return Err(halt),
                }
                if topic.count_unread_partitions() == 0 {
                    (self.on_topic_restored)(topic.index);
                }
            }
            if !affordable {
                break;
            }
        }
        Ok(())
    }

    /// One chunk of each partition of a topic that wants more.
    fn read_chunks(
        &mut self,
        reader: &TailReader,
        topic: &mut TailTopic,
        records: u64,
    ) -> Result<(), TailError> {
        let wanting = topic.partitions.iter().filter(|p| p.has_more());
        let mut chunks: Vec<RecordChunk> = wanting
            .map(|p| RecordChunk::new(p.next_span(records)))
            .collect();
        let (start, window, of) = (self.start, self.window, topic.partitions.len());
        let outcome = &mut self.outcome;
        let read = reader.read(&topic.name, &mut chunks, &self.bounds, |chunk, record| {
            outcome.records += 1;
            outcome.unreadable += u64::from(!chunk.add_record(record, of, start, window));
        });
        let mut altered = false;
        let wanting = topic.partitions.iter_mut().filter(|p| p.has_more());
        for (partition, chunk) in wanting.zip(chunks) {
            if partition.complete_span(chunk.span(), chunk.is_beyond_window()) {
                self.records_left = self.records_left.saturating_sub(chunk.span().len());
            }
            altered |= chunk.span().is_altered();
            let (ids, readings) = chunk.restore_into(self.memory, start);
            outcome.ids += ids;
            outcome.readings += readings;
        }
        if altered {
            self.add_reason(format!("topic {}: it was made anew meanwhile", topic.name));
        }
        read
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
