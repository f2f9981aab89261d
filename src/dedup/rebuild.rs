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
mod place;
#[cfg(test)]
mod tests;
mod told;

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::config::ClientConfig;

use super::memory::Memory;
use crate::config;
use crate::kafka::tail::{Bounds, Halt, Patience, Reader, Topic, most};
use chunk::Chunk;

/// Receipt is in the order of offsets only as far as deliveries overtake each other (librdkafka goes on with one for a
/// minute) and replicas' clocks agree.
const SLACK: Duration = Duration::from_secs(120);
/// Reasons told, at most.
const REASONS: usize = 4;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Records read.
    pub records: u64,
    /// Ids taken from them.
    pub ids: u64,
    /// Current values taken from them.
    pub readings: u64,
    /// Records that are none of a bridge's.
    pub unreadable: u64,
    /// How long it took.
    pub took: Duration,
    /// The whole window is known.
    pub complete: bool,
    /// Why it is not.
    pub why_not: Option<String>,
}

/// The moment from which ages are counted, by both clocks: receipt is told by the one, memory counts by the other.
#[derive(Clone, Copy, Debug)]
struct Start {
    instant: Instant,
    ms: i64,
}

impl Start {
    fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            instant: Instant::now(),
            ms: i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// How long ago something was received; zero for what a clock ahead of this one says.
    fn age(&self, received_ms: i64) -> Duration {
        let ms = self.ms.saturating_sub(received_ms);
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
    memory: &Memory,
    settings: &config::DedupConfig,
    stop: &AtomicBool,
    known: &mut dyn FnMut(usize),
) -> Outcome {
    let begun = Instant::now();
    let mut run = Run {
        memory,
        settings,
        begun,
        start: Start::now(),
        window: settings.id_window.max(settings.reading_window),
        bounds: Bounds::new(stop, settings.rebuild_within),
        left: settings.max_ids as u64,
        known,
        outcome: Outcome::default(),
        reasons: Vec::new(),
    };
    if settings.rebuild_within.is_zero() {
        run.because("dedup.rebuild_within is 0".to_owned());
    } else {
        match Reader::new(consumer_config) {
            Ok(reader) => run.all(&reader, topics),
            Err(reason) => run.because(reason),
        }
    }
    run.end()
}

struct Run<'r> {
    memory: &'r Memory,
    settings: &'r config::DedupConfig,
    begun: Instant,
    start: Start,
    window: Duration,
    bounds: Bounds<'r>,
    /// Records that may still be read.
    left: u64,
    known: &'r mut dyn FnMut(usize),
    outcome: Outcome,
    reasons: Vec<String>,
}

impl Run<'_> {
    fn all(&mut self, reader: &Reader, names: &[String; 10]) {
        let mut wanted: Vec<usize> = (0..names.len()).collect();
        let halted = loop {
            // A topic that does not answer at once is waited for when the others are read.
            let named = wanted.iter().map(|&p| (p, names[p].clone())).collect();
            let found = match reader.look(named, Patience::Some, &self.bounds) {
                Ok(found) => found,
                Err(halt) => break Err(halt),
            };
            // It may have taken long.
            self.start = Start::now();
            found.trouble.into_iter().for_each(|t| self.because(t));
            let mut topics = found.topics;
            for &place in wanted.iter().filter(|place| !found.later.contains(place)) {
                let topic = topics.iter().find(|t| t.place == place);
                if topic.is_none_or(|topic| topic.wanting() == 0) {
                    (self.known)(place);
                }
            }
            if let Err(halt) = self.rounds(reader, &mut topics) {
                break Err(halt);
            }
            if topics.iter().any(|t| t.wanting() > 0) {
                let most = self.settings.max_ids;
                self.because(format!("more than {most} records (dedup.max_ids)"));
            }
            wanted = found.later;
            if wanted.is_empty() {
                break Ok(());
            }
        };
        match halted {
            Ok(()) => {}
            Err(Halt::Stopped) => self.because("stopped".to_owned()),
            Err(Halt::TimeUp) => {
                let within = humantime::format_duration(self.settings.rebuild_within);
                self.because(format!(
                    "the time for it was up after {within} (dedup.rebuild_within)"
                ));
                reader.trouble().into_iter().for_each(|t| self.because(t));
            }
            Err(Halt::Topic { reason, .. }) => self.because(reason),
        }
    }

    /// Round by round until no partition wants more, or the budget of records is used up.
    fn rounds(&mut self, reader: &Reader, topics: &mut [Topic]) -> Result<(), Halt> {
        for round in 0.. {
            let mut wanting = topics.iter().filter(|t| t.wanting() > 0).count();
            if wanting == 0 {
                break;
            }
            let mut affordable = false;
            for topic in topics.iter_mut().filter(|t| t.wanting() > 0) {
                // No topic uses up what the others need.
                let share = self.left / wanting.max(1) as u64;
                wanting -= 1;
                let records = most(round).min(share) / topic.wanting() as u64;
                if records == 0 {
                    continue;
                }
                affordable = true;
                match self.chunks(reader, topic, records) {
                    Ok(()) => {}
                    Err(Halt::Topic { reason, for_good }) => {
                        // Once more in the next round, the same chunk: the rest may be sooner read.
                        if for_good {
                            topic.give_up();
                            self.because(reason);
                        }
                    }
                    Err(halt) => return Err(halt),
                }
                if topic.wanting() == 0 {
                    (self.known)(topic.place);
                }
            }
            if !affordable {
                break;
            }
        }
        Ok(())
    }

    /// One chunk of each partition of a topic that wants more.
    fn chunks(&mut self, reader: &Reader, topic: &mut Topic, records: u64) -> Result<(), Halt> {
        let wanting = topic.partitions.iter().filter(|p| p.wants());
        let mut chunks: Vec<Chunk> = wanting.map(|p| Chunk::of(p.next(records))).collect();
        let (start, window, of) = (self.start, self.window, topic.partitions.len());
        let outcome = &mut self.outcome;
        let read = reader.read(&topic.name, &mut chunks, &self.bounds, |chunk, record| {
            outcome.records += 1;
            outcome.unreadable += u64::from(!chunk.see(record, of, start, window));
        });
        let mut altered = false;
        let wanting = topic.partitions.iter_mut().filter(|p| p.wants());
        for (partition, chunk) in wanting.zip(chunks) {
            if partition.read(chunk.span(), chunk.reaches_beyond()) {
                self.left = self.left.saturating_sub(chunk.span().len());
            }
            altered |= chunk.span().is_altered();
            let (ids, readings) = chunk.settle(self.memory, start);
            outcome.ids += ids;
            outcome.readings += readings;
        }
        if altered {
            self.because(format!("topic {}: it was made anew meanwhile", topic.name));
        }
        read
    }

    fn because(&mut self, reason: String) {
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    fn end(mut self) -> Outcome {
        self.outcome.took = self.begun.elapsed();
        self.outcome.complete = self.reasons.is_empty();
        let further = self.reasons.len().saturating_sub(REASONS);
        self.reasons.truncate(REASONS);
        if further > 0 {
            self.reasons.push(format!("and {further} more"));
        }
        self.outcome.why_not = (!self.outcome.complete).then(|| self.reasons.join("; "));
        self.outcome
    }
}
