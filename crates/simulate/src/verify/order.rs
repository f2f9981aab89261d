//! Whether records are marked as out of order where they are, and only there.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};

use super::check::Record;
use super::entry::Position;
use super::headers::{self, Tags};
use super::told::Told;
use butlr_event::EventType;

/// A bridge that was started again knows of nothing older than its windows; what is older than this is not asked for, ms.
const REMEMBERED: i64 = 600_000;
/// So many marks at most wait for what justifies them; what goes beyond is taken for unjustified.
const WAITING: usize = 100_000;
/// What is said of those that nothing justifies.
pub const NOTHING_NEWER: &str =
    "no ce_outoforder, as nothing newer came before it, nor was received before it";

/// What came before what. Records of a partition come in their order.
///
/// A bridge marks an event as out of order when it has accepted something newer: that may still wait on its disk, and come
/// to Kafka later than what passes it by (`spool.drain = "concurrent"`, an entry that was recovered after a crash, one that
/// took several tries). So a mark that nothing newer came before waits, and what comes later and was received no later than
/// it justifies it.
#[derive(Debug)]
pub struct Order {
    /// Of each partition whether it is read from its very first record on, so that what came before a record is known.
    whole: [Vec<bool>; EventType::ALL.len()],
    /// See [`super::Options::known_after`], ms.
    known_after_ms: Option<i64>,
    /// How far the bridge's clock may have been put back in between, ms.
    put_back_ms: i64,
    newest: HashMap<(u8, u64), Newest>,
    /// Marks that nothing justifies so far, by type and source.
    waiting: HashMap<(u8, u64), Vec<Mark>>,
    /// How many those are.
    unjustified: usize,
    /// How many came that had to be marked, because something newer was received long before them.
    pub long_older: u64,
}

/// Of a type and source.
#[derive(Debug)]
struct Newest {
    /// The newest time that was its event's own.
    time_ms: i64,
    /// Such times and when they were received, both rising: nothing newer was received before. Of those that were received
    /// long ago only the last is kept.
    steps: VecDeque<Step>,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    time_ms: i64,
    received_ms: i64,
}

/// A record that says that it is out of order.
#[derive(Clone, Copy, Debug)]
struct Mark {
    position: Position,
    time_ms: i64,
    received_ms: i64,
}

impl Order {
    /// Nothing came yet.
    pub fn new(known_after_ms: Option<i64>, put_back_ms: i64) -> Self {
        Self {
            whole: Default::default(),
            known_after_ms,
            put_back_ms,
            newest: HashMap::new(),
            waiting: HashMap::new(),
            unjustified: 0,
            long_older: 0,
        }
    }

    /// Each partition is read from this offset on; where that is 0, what says that it is out of order must be so.
    pub fn reads_from(&mut self, from: &[Vec<i64>]) {
        for (whole, from) in self.whole.iter_mut().zip(from) {
            *whole = from.iter().map(|offset| *offset == 0).collect();
        }
    }

    /// Looks at a record with these tags.
    ///
    /// # Errors
    /// It says nothing, and something newer was received long before it; what was received shortly before may have been on
    /// its way together with it. One that says that it is out of order, and is not, is told by [`Order::unjustified`]; here
    /// only if too many of those wait already.
    pub fn look(
        &mut self,
        record: &Record<'_>,
        told: &Told<'_>,
        tags: &Tags,
    ) -> Result<(), String> {
        let at = record.position;
        let received_ms = record.headers.and_then(headers::received_ms);
        let known_after = self.known_after_ms.zip(received_ms);
        if !tags.replaced {
            self.justify(at, told, received_ms);
        }
        let newest = self.newest.entry((at.topic, told.source));
        if let Entry::Occupied(newest) = &newest
            && let Some((known_after_ms, received_ms)) = known_after
            && is_first(tags)
            && let Some(before_ms) =
                newest
                    .get()
                    .known(told.timestamp_ms, received_ms, known_after_ms)
        {
            self.long_older += 1;
            if !tags.out_of_order {
                return Err(format!(
                    "ce_outoforder, as something newer was received {before_ms} ms before it"
                ));
            }
        }
        let whole = self.whole[usize::from(at.topic)].get(at.partition as usize);
        if tags.out_of_order && whole == Some(&true) {
            let is_older = match &newest {
                Entry::Occupied(newest) => newest.get().time_ms > told.timestamp_ms,
                Entry::Vacant(_) => false,
            };
            if !is_older {
                if self.unjustified >= WAITING {
                    return Err(NOTHING_NEWER.to_owned());
                }
                self.unjustified += 1;
                let marks = self.waiting.entry((at.topic, told.source)).or_default();
                marks.push(Mark {
                    position: at,
                    time_ms: told.timestamp_ms,
                    received_ms: received_ms.unwrap_or(i64::MIN),
                });
            }
        }
        // A time that lies too far off is nobody's measure.
        if !tags.replaced {
            let newest = newest.or_insert_with(|| Newest {
                time_ms: told.timestamp_ms,
                steps: VecDeque::new(),
            });
            newest.time_ms = newest.time_ms.max(told.timestamp_ms);
            if let Some((known_after_ms, received_ms)) = known_after {
                let time_ms = told.timestamp_ms;
                newest.step(
                    Step {
                        time_ms,
                        received_ms,
                    },
                    known_after_ms,
                );
            }
        }
        Ok(())
    }

    /// What was received at this time justifies the marks of what is older and was received no earlier.
    fn justify(&mut self, at: Position, told: &Told<'_>, received_ms: Option<i64>) {
        let Entry::Occupied(mut marks) = self.waiting.entry((at.topic, told.source)) else {
            return;
        };
        let received_ms = received_ms.map_or(i64::MAX, |ms| ms - self.put_back_ms);
        let before = marks.get().len();
        let waits = |m: &Mark| m.time_ms >= told.timestamp_ms || m.received_ms < received_ms;
        marks.get_mut().retain(waits);
        self.unjustified -= before - marks.get().len();
        if marks.get().is_empty() {
            marks.remove();
        }
    }

    /// After the last record: those that say that they are out of order, and are not.
    pub fn unjustified(&mut self) -> HashSet<Position> {
        self.unjustified = 0;
        let marks = self.waiting.drain().flat_map(|(_, marks)| marks);
        marks.map(|mark| mark.position).collect()
    }
}

/// Whether it is neither a duplicate, a revision nor stale: those are not marked as out of order.
fn is_first(tags: &Tags) -> bool {
    tags.duplicate.is_none() && tags.supersedes.is_none() && !tags.stale
}

impl Newest {
    /// How long before `received_ms` something newer than `time_ms` was received, if that is long enough to be known.
    fn known(&self, time_ms: i64, received_ms: i64, known_after_ms: i64) -> Option<i64> {
        let long_before = |step: &&Step| step.received_ms + known_after_ms < received_ms;
        // The last of them is the newest of them.
        let step = self.steps.iter().rev().find(long_before)?;
        let before_ms = received_ms - step.received_ms;
        (step.time_ms > time_ms && before_ms <= REMEMBERED).then_some(before_ms)
    }

    fn step(&mut self, step: Step, known_after_ms: i64) {
        if self
            .steps
            .back()
            .is_some_and(|last| last.time_ms >= step.time_ms)
        {
            return;
        }
        // Received before what is older than it: that one adds nothing.
        while self
            .steps
            .back()
            .is_some_and(|last| last.received_ms >= step.received_ms)
        {
            self.steps.pop_back();
        }
        self.steps.push_back(step);
        // Receipts of a partition are not quite in order, so that the next may have been received a little earlier.
        let over = step.received_ms - 2 * known_after_ms;
        while self
            .steps
            .get(1)
            .is_some_and(|second| second.received_ms < over)
        {
            self.steps.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
