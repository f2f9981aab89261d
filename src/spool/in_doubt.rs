//! After a crash: which entries of the spool do the topics hold already?
//!
//! Removal of an entry may come to the disk after Kafka's report, or not at all; so each that was handed to Kafka is a
//! *suspect*, and is looked for in its topic before it is handed over again. One that is overlooked is stored twice. One that is
//! taken for stored and is not would be lost: so only a record with the same id and the same value speaks for it.
//!
//! - `wanted`: which suspects a record speaks for (pure);
//! - `age`: how far back they can be (pure).
//!
//! Invariants:
//!
//! 1. **Complete means that all was read where they can be.** Each partition is read from its end back to where it was
//!    when the first of them was handed over, where that is known; else to what was received well before all of them.
//!    The ends are asked for once more later: what the crashed process had sent last may not have been stored when they
//!    were first asked for.
//! 2. **It ends**: by its time, which begins with Kafka's first answer. Before that it waits.
//! 3. Beside the suspects stands nothing that grows with the topic.

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

/// What a process sent last before it was killed is stored or gone after this; brokers then know that it is gone, too.
const GRACE: Duration = Duration::from_secs(1);
/// Records of a partition in a round, at least: fewer could all be exceptions.
const MIN_ROUND_RECORDS: u64 = 1_000;
/// Between two glances at whether it is to end.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// So often a topic is looked at anew that cannot be read; it may have been made anew.
const MAX_RETRIES: usize = 3;

/// An entry that may be stored already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InDoubtEntry {
    /// Its sequence number.
    pub seq: u64,
    /// The `ce_id` under which it would be published; `None`: it is quarantined, and its value alone tells.
    pub id: Option<String>,
    /// xxh3 (64 bits) of its value.
    pub value_hash: u64,
    /// When the bridge had it, ms since 1970.
    pub received_ms: i64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct SearchOutcome {
    /// The sequence numbers of those that are stored, ascending. They are, whatever `why_not` says.
    pub stored: Vec<u64>,
    /// Records read.
    pub records: u64,
    /// How long it took.
    pub took: Duration,
    /// Why others may be stored, too; `None`: they are not.
    pub incomplete_reason: Option<String>,
}

/// Which of the suspects does `topic` hold? Blocks: for a thread of its own.
///
/// `consumer` says where Kafka is and how to log in. `since`: partition → an offset before which none of the suspects can
/// be; without one for a partition, it is read back to records received well before all suspects. A Kafka that is away
/// is waited for until `stop`; from its first answer on it takes no longer than `within`. In a topic that does not exist
/// nothing is stored.
pub fn find_stored(
    consumer: ClientConfig,
    topic: &str,
    suspects: Vec<InDoubtEntry>,
    since: &[(i32, i64)],
    within: Duration,
    stop: &AtomicBool,
) -> SearchOutcome {
    let begun = Instant::now();
    let mut search = TopicSearch {
        topic,
        bounds: ReadBounds::new(stop, within),
        horizon: ReceiptHorizon::from_entries(&suspects, now_ms()),
        unmatched: InDoubtSet::new(suspects),
        records: 0,
    };
    let why_not = match search.unmatched.is_empty() {
        true => None,
        false => match TailReader::new(consumer) {
            Ok(reader) => search.run(&reader, since),
            Err(reason) => Some(reason),
        },
    };
    SearchOutcome {
        // All are found: nothing else matters.
        incomplete_reason: why_not.filter(|_| !search.unmatched.is_empty()),
        stored: search.unmatched.into_found(),
        records: search.records,
        took: begun.elapsed(),
    }
}

/// Where each partition is read back to.
type OffsetFloors = BTreeMap<i32, i64>;

struct TopicSearch<'s> {
    topic: &'s str,
    bounds: ReadBounds<'s>,
    horizon: ReceiptHorizon,
    unmatched: InDoubtSet,
    records: u64,
}

/// Why a pass over a topic begins anew.
enum PassRestart {
    /// It is not the log that it was.
    Altered,
    /// It cannot be read.
    Failed(String),
}

impl TopicSearch<'_> {
    /// Why it is not complete, if it is not.
    fn run(&mut self, reader: &TailReader, since: &[(i32, i64)]) -> Option<String> {
        let within = humantime::format_duration(self.bounds.within());
        match self.run_passes(reader, since.iter().copied().collect()) {
            Ok(()) => None,
            Err(TailError::Stopped) => Some("stopped".to_owned()),
            Err(TailError::TopicUnreadable { reason, .. }) => Some(reason),
            Err(TailError::TimedOut) => {
                let trouble = reader.take_last_error().map(|t| format!("; {t}"));
                let trouble = trouble.unwrap_or_default();
                Some(format!("the time for it was up after {within}{trouble}"))
            }
        }
    }

    fn run_passes(&mut self, reader: &TailReader, since: OffsetFloors) -> Result<(), TailError> {
        let Some((ends, looked)) = self.run_pass(reader, since)? else {
            return Ok(());
        };
        while looked.elapsed() < GRACE && !self.unmatched.is_empty() {
            self.bounds.check()?;
            std::thread::sleep(POLL_INTERVAL);
        }
        if !self.unmatched.is_empty() {
            self.run_pass(reader, ends)?;
        }
        Ok(())
    }

    /// Reads what there is now. Returns up to where all of it is read, and when its ends were asked for; `None`: there is
    /// no such topic.
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
            let looked = Instant::now();
            if let Some(reason) = found.failures.pop() {
                return Err(permanent_halt(reason));
            }
            let Some(mut topic) = found.topics.pop() else {
                return Ok(None);
            };
            let mut ends = bound_partitions(&mut topic, &floors);
            match self.run_rounds(reader, &mut topic, &mut ends)? {
                None => return Ok(Some((ends, looked))),
                Some(PassRestart::Altered) => floors.clear(),
                Some(PassRestart::Failed(reason)) if tries == MAX_RETRIES => {
                    return Err(permanent_halt(reason));
                }
                Some(PassRestart::Failed(_)) => tries += 1,
            }
        }
    }

    /// Round by round until no partition wants more, or nothing is wanted.
    fn run_rounds(
        &mut self,
        reader: &TailReader,
        topic: &mut TailTopic,
        ends: &mut OffsetFloors,
    ) -> Result<Option<PassRestart>, TailError> {
        let mut round = 0;
        loop {
            let wanting = topic.count_unread_partitions() as u64;
            if wanting == 0 || self.unmatched.is_empty() {
                return Ok(None);
            }
            let records = (max_round_records(round) / wanting).max(MIN_ROUND_RECORDS);
            let spans = topic.partitions.iter().filter(|p| p.has_more());
            let mut spans: Vec<SearchSpan> = spans
                .map(|p| SearchSpan::new(p.next_span(records)))
                .collect();
            let (wanted, horizon) = (&mut self.unmatched, self.horizon);
            let seen = &mut self.records;
            let read = reader.read(&topic.name, &mut spans, &self.bounds, |stretch, record| {
                *seen += 1;
                stretch.observe(record, horizon);
                wanted.observe(record);
            });
            if record_progress(topic, &spans, ends) {
                return Ok(Some(PassRestart::Altered));
            }
            match read {
                Ok(()) => round += 1,
                // Where nothing came for a while, the same is asked for again.
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

/// Bounds what is read of a topic, and returns where its partitions end.
fn bound_partitions(topic: &mut TailTopic, floors: &OffsetFloors) -> OffsetFloors {
    let ends = topic.partitions.iter().map(|p| (p.id(), p.lowest_read()));
    let ends: OffsetFloors = ends.collect();
    for partition in &mut topic.partitions {
        // An end before the floor is that of another log: the topic was made anew.
        let floor = floors.get(&partition.id()).copied();
        if let Some(floor) = floor.filter(|floor| *floor <= partition.lowest_read()) {
            partition.skip_before(floor);
        }
    }
    ends
}

/// Notes what was read. Returns whether any of it is of another log.
fn record_progress(
    topic: &mut TailTopic,
    stretches: &[SearchSpan],
    ends: &mut OffsetFloors,
) -> bool {
    let partitions = topic.partitions.iter_mut().filter(|p| p.has_more());
    let mut altered = false;
    for (partition, stretch) in partitions.zip(stretches) {
        let span: &OffsetSpan = stretch.span();
        if partition.complete_span(span, stretch.is_before_horizon()) && span.reached() < span.end()
        {
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
