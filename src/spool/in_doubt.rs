//! Entries in doubt after a crash: the search for those that their topics hold already.
//!
//! The removal of an entry may reach the disk after Kafka's report, or never. So each entry that
//! was handed to Kafka is *in doubt*: its topic is searched for it before it is sent again. An
//! entry that the search misses is stored twice. An entry wrongly taken for stored would be lost,
//! so only a record with the same id and the same value counts.
//!
//! - `in_doubt_set`: the entries that a record matches (pure);
//! - `horizon`: the end of the search by time of receipt (pure).
//!
//! Invariants:
//!
//! 1. **A complete search has read every offset where an entry can be.** It reads each partition
//!    backwards from its end to the offset at which the first hand-over began, if that is known;
//!    otherwise to records received well before all entries. The ends are read a second time, one
//!    second later: the last records of the crashed process may not have been stored the first
//!    time.
//! 2. **The search ends** at its time limit, which begins with Kafka's first response. Before that
//!    it waits.
//! 3. Memory does not grow with the topic.

mod horizon;
mod in_doubt_set;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;

use crate::kafka::tail::{
    OffsetSpan, Patience, ReadBounds, TailError, TailReader, TailTopic, WantedTopic,
    max_round_records,
};
use butlr_event::clock::now_ms;
use horizon::{ReceiptHorizon, SearchSpan};
use in_doubt_set::InDoubtSet;

/// Time after which the last records of a killed process are stored or lost.
const GRACE: Duration = Duration::from_secs(1);
/// Minimum of records read from a partition in a round: fewer could all be exceptions.
const MIN_ROUND_RECORDS: u64 = 1_000;
/// Interval of checks for the end of the search.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Retries of a topic that cannot be read; it may have been recreated.
const MAX_RETRIES: usize = 3;

/// Search key of an entry that Kafka may hold already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InDoubtEntry {
    /// Sequence number of the entry.
    pub seq: u64,
    /// `ce_id` of its record; `None` for a rejected item, which is found by its value alone.
    pub id: Option<String>,
    /// xxh3 (64 bits) of its value.
    pub value_hash: u64,
    /// Time of receipt, ms since 1970.
    pub received_ms: i64,
}

/// Result of a search.
#[derive(Clone, Debug, Default)]
pub struct SearchOutcome {
    /// Sequence numbers of stored entries, ascending. They are certain, also if the search is
    /// incomplete.
    pub stored: Vec<u64>,
    /// Number of records read.
    pub records: u64,
    /// Duration of the search.
    pub took: Duration,
    /// The reason why other entries may be stored too; `None` if the search is complete.
    pub incomplete_reason: Option<String>,
}

/// Searches `topic` for entries. Blocks, so it needs a thread of its own.
///
/// `consumer` configures the connection. `floors` are partitions with an offset before which no
/// entry can be stored; other partitions are read back to records received well before all entries.
/// While Kafka is away, the search waits until `stop`; from Kafka's first response on it takes at
/// most `within`. A topic that does not exist holds no entry.
pub fn find_stored(
    consumer: ClientConfig,
    topic: &str,
    entries: Vec<InDoubtEntry>,
    floors: &[(i32, i64)],
    within: Duration,
    stop: &AtomicBool,
) -> SearchOutcome {
    let begun = Instant::now();
    let mut search = TopicSearch {
        topic,
        bounds: ReadBounds::new(stop, within),
        horizon: ReceiptHorizon::from_entries(&entries, now_ms()),
        unmatched: InDoubtSet::new(entries),
        records: 0,
    };
    let mut incomplete_reason = None;
    if !search.unmatched.is_empty() {
        incomplete_reason = match TailReader::new(consumer) {
            Ok(reader) => search.run(&reader, floors),
            Err(reason) => Some(reason),
        };
    }
    SearchOutcome {
        // Once all entries are found, the search is complete.
        incomplete_reason: incomplete_reason.filter(|_| !search.unmatched.is_empty()),
        stored: search.unmatched.into_found(),
        records: search.records,
        took: begun.elapsed(),
    }
}

/// Offset back to which each partition is read.
type OffsetFloors = BTreeMap<i32, i64>;

struct TopicSearch<'s> {
    topic: &'s str,
    bounds: ReadBounds<'s>,
    horizon: ReceiptHorizon,
    unmatched: InDoubtSet,
    records: u64,
}

/// Reason to begin a pass over a topic again.
enum PassRestart {
    /// The topic was recreated, or its log was altered otherwise.
    Altered,
    /// The topic cannot be read.
    Failed(String),
}

impl TopicSearch<'_> {
    /// Returns the reason why the search is incomplete, if it is.
    fn run(&mut self, reader: &TailReader, floors: &[(i32, i64)]) -> Option<String> {
        let within = humantime::format_duration(self.bounds.within());
        match self.run_passes(reader, floors.iter().copied().collect()) {
            Ok(()) => None,
            Err(TailError::Stopped) => Some("stopped".to_owned()),
            Err(TailError::TopicUnreadable { reason, .. }) => Some(reason),
            Err(TailError::TimedOut) => {
                let trouble = reader.take_last_error().map(|t| format!("; {t}"));
                let trouble = trouble.unwrap_or_default();
                Some(format!(
                    "the search did not finish within {within}{trouble}"
                ))
            }
        }
    }

    fn run_passes(&mut self, reader: &TailReader, floors: OffsetFloors) -> Result<(), TailError> {
        let Some((ends, listed_at)) = self.run_pass(reader, floors)? else {
            return Ok(());
        };
        while listed_at.elapsed() < GRACE && !self.unmatched.is_empty() {
            self.bounds.check()?;
            std::thread::sleep(POLL_INTERVAL);
        }
        if !self.unmatched.is_empty() {
            self.run_pass(reader, ends)?;
        }
        Ok(())
    }

    /// Reads the records that the topic has now. Returns the offsets up to which all are read, and
    /// the time at which the partitions' ends were listed; `None` if the topic does not exist.
    fn run_pass(
        &mut self,
        reader: &TailReader,
        mut floors: OffsetFloors,
    ) -> Result<Option<(OffsetFloors, Instant)>, TailError> {
        let mut tries = 0;
        loop {
            let wanted = vec![WantedTopic {
                index: 0,
                name: self.topic.to_owned(),
            }];
            let mut found = reader.find_topics(wanted, Patience::Unlimited, &self.bounds)?;
            let listed_at = Instant::now();
            if let Some(reason) = found.failures.pop() {
                return Err(permanent_halt(reason));
            }
            let Some(mut topic) = found.topics.pop() else {
                return Ok(None);
            };
            let mut ends = bound_partitions(&mut topic, &floors);
            match self.run_rounds(reader, &mut topic, &mut ends)? {
                None => return Ok(Some((ends, listed_at))),
                Some(PassRestart::Altered) => floors.clear(),
                Some(PassRestart::Failed(reason)) if tries == MAX_RETRIES => {
                    return Err(permanent_halt(reason));
                }
                Some(PassRestart::Failed(_)) => tries += 1,
            }
        }
    }

    /// Reads rounds until every partition is read, or every entry is found.
    fn run_rounds(
        &mut self,
        reader: &TailReader,
        topic: &mut TailTopic,
        ends: &mut OffsetFloors,
    ) -> Result<Option<PassRestart>, TailError> {
        let mut round = 0;
        loop {
            let unread = topic.count_unread_partitions() as u64;
            if unread == 0 || self.unmatched.is_empty() {
                return Ok(None);
            }
            let records = (max_round_records(round) / unread).max(MIN_ROUND_RECORDS);
            let spans = topic.partitions.iter().filter(|p| p.has_more());
            let mut spans: Vec<SearchSpan> = spans
                .map(|p| SearchSpan::new(p.next_span(records)))
                .collect();
            let (unmatched, horizon) = (&mut self.unmatched, self.horizon);
            let count = &mut self.records;
            let read = reader.read(&topic.name, &mut spans, &self.bounds, |span, record| {
                *count += 1;
                span.observe(record, horizon);
                unmatched.observe(record);
            });
            if record_progress(topic, &spans, ends) {
                return Ok(Some(PassRestart::Altered));
            }
            match read {
                Ok(()) => round += 1,
                // No records came for a while: the next round reads the same span again.
                Err(TailError::TopicUnreadable {
                    is_permanent: false,
                    ..
                }) => {}
                Err(TailError::TopicUnreadable { reason, .. }) => {
                    return Ok(Some(PassRestart::Failed(reason)));
                }
                Err(halt) => return Err(halt),
            }
        }
    }
}

/// Limits the part of a topic that is read, and returns the ends of its partitions.
fn bound_partitions(topic: &mut TailTopic, floors: &OffsetFloors) -> OffsetFloors {
    let ends = topic.partitions.iter().map(|p| (p.id(), p.lowest_read()));
    let ends: OffsetFloors = ends.collect();
    for partition in &mut topic.partitions {
        // An end before the floor belongs to another log: the topic was recreated.
        let floor = floors.get(&partition.id()).copied();
        if let Some(floor) = floor.filter(|floor| *floor <= partition.lowest_read()) {
            partition.skip_before(floor);
        }
    }
    ends
}

/// Records the spans that were read. Returns `true` if one of them belongs to another log.
fn record_progress(topic: &mut TailTopic, spans: &[SearchSpan], ends: &mut OffsetFloors) -> bool {
    let partitions = topic.partitions.iter_mut().filter(|p| p.has_more());
    let mut altered = false;
    for (partition, search_span) in partitions.zip(spans) {
        let span: &OffsetSpan = search_span.span();
        let is_before_horizon = search_span.is_before_horizon();
        if partition.complete_span(span, is_before_horizon) && span.reached() < span.end() {
            let end = ends.entry(partition.id()).or_insert(span.reached());
            *end = span.reached().min(*end);
        }
        altered |= span.is_altered();
    }
    altered
}

fn permanent_halt(reason: String) -> TailError {
    TailError::TopicUnreadable {
        reason,
        is_permanent: true,
    }
}
