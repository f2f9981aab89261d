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

mod age;
mod wanted;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;

use crate::kafka::tail::{Bounds, Halt, Patience, Reader, Span, Topic, most};
use age::{Horizon, Stretch};
use butlr_event::clock::now_ms;
use wanted::Wanted;

/// What a process sent last before it was killed is stored or gone after this; brokers then know that it is gone, too.
const GRACE: Duration = Duration::from_secs(1);
/// Records of a partition in a round, at least: fewer could all be exceptions.
const FEWEST: u64 = 1_000;
/// Between two glances at whether it is to end.
const GLANCE: Duration = Duration::from_millis(20);
/// So often a topic is looked at anew that cannot be read; it may have been made anew.
const TRIES: usize = 3;

/// An entry that may be stored already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
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
pub struct Outcome {
    /// The sequence numbers of those that are stored, ascending. They are, whatever `why_not` says.
    pub stored: Vec<u64>,
    /// Records read.
    pub records: u64,
    /// How long it took.
    pub took: Duration,
    /// Why others may be stored, too; `None`: they are not.
    pub why_not: Option<String>,
}

/// Which of the suspects does `topic` hold? Blocks: for a thread of its own.
///
/// `consumer` says where Kafka is and how to log in. `since`: partition → an offset before which none of the suspects can
/// be; without one for a partition, it is read back to records received well before all suspects. A Kafka that is away
/// is waited for until `stop`; from its first answer on it takes no longer than `within`. In a topic that does not exist
/// nothing is stored.
pub fn stored(
    consumer: ClientConfig,
    topic: &str,
    suspects: Vec<Suspect>,
    since: &[(i32, i64)],
    within: Duration,
    stop: &AtomicBool,
) -> Outcome {
    let begun = Instant::now();
    let mut search = Search {
        topic,
        bounds: Bounds::new(stop, within),
        horizon: Horizon::of(&suspects, now_ms()),
        wanted: Wanted::new(suspects),
        records: 0,
    };
    let why_not = match search.wanted.is_empty() {
        true => None,
        false => match Reader::new(consumer) {
            Ok(reader) => search.whole(&reader, since),
            Err(reason) => Some(reason),
        },
    };
    Outcome {
        // All are found: nothing else matters.
        why_not: why_not.filter(|_| !search.wanted.is_empty()),
        stored: search.wanted.found(),
        records: search.records,
        took: begun.elapsed(),
    }
}

/// Where each partition is read back to.
type Floors = BTreeMap<i32, i64>;

struct Search<'s> {
    topic: &'s str,
    bounds: Bounds<'s>,
    horizon: Horizon,
    wanted: Wanted,
    records: u64,
}

/// Why a pass over a topic begins anew.
enum Again {
    /// It is not the log that it was.
    Altered,
    /// It cannot be read.
    Failed(String),
}

impl Search<'_> {
    /// Why it is not complete, if it is not.
    fn whole(&mut self, reader: &Reader, since: &[(i32, i64)]) -> Option<String> {
        let within = humantime::format_duration(self.bounds.within());
        match self.passes(reader, since.iter().copied().collect()) {
            Ok(()) => None,
            Err(Halt::Stopped) => Some("stopped".to_owned()),
            Err(Halt::Topic { reason, .. }) => Some(reason),
            Err(Halt::TimeUp) => {
                let trouble = reader.trouble().map(|t| format!("; {t}"));
                let trouble = trouble.unwrap_or_default();
                Some(format!("the time for it was up after {within}{trouble}"))
            }
        }
    }

    fn passes(&mut self, reader: &Reader, since: Floors) -> Result<(), Halt> {
        let Some((ends, looked)) = self.pass(reader, since)? else {
            return Ok(());
        };
        while looked.elapsed() < GRACE && !self.wanted.is_empty() {
            self.bounds.check()?;
            std::thread::sleep(GLANCE);
        }
        if !self.wanted.is_empty() {
            self.pass(reader, ends)?;
        }
        Ok(())
    }

    /// Reads what there is now. Returns up to where all of it is read, and when its ends were asked for; `None`: there is
    /// no such topic.
    fn pass(
        &mut self,
        reader: &Reader,
        mut floors: Floors,
    ) -> Result<Option<(Floors, Instant)>, Halt> {
        let mut tries = 0;
        loop {
            let wanted = vec![(0, self.topic.to_owned())];
            let mut found = reader.look(wanted, Patience::All, &self.bounds)?;
            let looked = Instant::now();
            if let Some(reason) = found.trouble.pop() {
                return Err(for_good(reason));
            }
            let Some(mut topic) = found.topics.pop() else {
                return Ok(None);
            };
            let mut ends = bound(&mut topic, &floors);
            match self.rounds(reader, &mut topic, &mut ends)? {
                None => return Ok(Some((ends, looked))),
                Some(Again::Altered) => floors.clear(),
                Some(Again::Failed(reason)) if tries == TRIES => return Err(for_good(reason)),
                Some(Again::Failed(_)) => tries += 1,
            }
        }
    }

    /// Round by round until no partition wants more, or nothing is wanted.
    fn rounds(
        &mut self,
        reader: &Reader,
        topic: &mut Topic,
        ends: &mut Floors,
    ) -> Result<Option<Again>, Halt> {
        let mut round = 0;
        loop {
            let wanting = topic.wanting() as u64;
            if wanting == 0 || self.wanted.is_empty() {
                return Ok(None);
            }
            let records = (most(round) / wanting).max(FEWEST);
            let spans = topic.partitions.iter().filter(|p| p.wants());
            let mut stretches: Vec<Stretch> = spans.map(|p| Stretch::of(p.next(records))).collect();
            let (wanted, horizon) = (&mut self.wanted, self.horizon);
            let seen = &mut self.records;
            let read = reader.read(
                &topic.name,
                &mut stretches,
                &self.bounds,
                |stretch, record| {
                    *seen += 1;
                    stretch.see(record, horizon);
                    wanted.see(record);
                },
            );
            if settle(topic, &stretches, ends) {
                return Ok(Some(Again::Altered));
            }
            match read {
                Ok(()) => round += 1,
                // Where nothing came for a while, the same is asked for again.
                Err(Halt::Topic {
                    for_good: false, ..
                }) => {}
                Err(Halt::Topic { reason, .. }) => return Ok(Some(Again::Failed(reason))),
                Err(halt) => return Err(halt),
            }
        }
    }
}

/// Bounds what is read of a topic, and returns where its partitions end.
fn bound(topic: &mut Topic, floors: &Floors) -> Floors {
    let ends = topic.partitions.iter().map(|p| (p.id(), p.unread()));
    let ends: Floors = ends.collect();
    for partition in &mut topic.partitions {
        // An end before the floor is that of another log: the topic was made anew.
        let floor = floors.get(&partition.id()).copied();
        if let Some(floor) = floor.filter(|floor| *floor <= partition.unread()) {
            partition.not_before(floor);
        }
    }
    ends
}

/// Notes what was read. Returns whether any of it is of another log.
fn settle(topic: &mut Topic, stretches: &[Stretch], ends: &mut Floors) -> bool {
    let partitions = topic.partitions.iter_mut().filter(|p| p.wants());
    let mut altered = false;
    for (partition, stretch) in partitions.zip(stretches) {
        let span: &Span = stretch.span();
        if partition.read(span, stretch.is_beyond()) && span.reached() < span.end() {
            let end = ends.entry(partition.id()).or_insert(span.reached());
            *end = span.reached().min(*end);
        }
        altered |= span.is_altered();
    }
    altered
}

fn for_good(reason: String) -> Halt {
    Halt::Topic {
        reason,
        for_good: true,
    }
}
