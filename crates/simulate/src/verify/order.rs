//! Whether records are marked as out of order where they are, and only there.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};

use super::checker::ConsumedRecord;
use super::headers::{self, HeaderMarks};
use super::parsed_value::ParsedValue;
use super::record_digest::RecordPosition;
use butlr_event::EventType;

/// A bridge that was started again knows of nothing older than its windows; what is older than this is not asked for, ms.
const MAX_LOOKBACK_MS: i64 = 600_000;
/// So many marks at most wait for what justifies them; what goes beyond is taken for unjustified.
const MAX_PENDING_MARKS: usize = 100_000;
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
pub struct OrderTracker {
    /// Of each partition whether it is read from its very first record on, so that what came before a record is known.
    read_from_start: [Vec<bool>; EventType::ALL.len()],
    /// See [`super::Options::known_after`], ms.
    known_after_ms: Option<i64>,
    /// How far the bridge's clock may have been put back in between, ms.
    clock_setback_ms: i64,
    histories: HashMap<(u8, u64), SourceHistory>,
    /// Marks that nothing justifies so far, by type and source.
    pending_marks: HashMap<(u8, u64), Vec<OutOfOrderMark>>,
    /// How many those are.
    pending_count: usize,
    /// How many came that had to be marked, because something newer was received long before them.
    pub required_marks: u64,
}

/// Of a type and source.
#[derive(Debug)]
struct SourceHistory {
    /// The newest time that was its event's own.
    time_ms: i64,
    /// Such times and when they were received, both rising: nothing newer was received before. Of those that were received
    /// long ago only the last is kept.
    steps: VecDeque<HistoryStep>,
}

#[derive(Clone, Copy, Debug)]
struct HistoryStep {
    time_ms: i64,
    received_ms: i64,
}

/// A record that says that it is out of order.
#[derive(Clone, Copy, Debug)]
struct OutOfOrderMark {
    position: RecordPosition,
    time_ms: i64,
    received_ms: i64,
}

impl OrderTracker {
    /// Nothing came yet.
    pub fn new(known_after_ms: Option<i64>, put_back_ms: i64) -> Self {
        Self {
            read_from_start: Default::default(),
            known_after_ms,
            clock_setback_ms: put_back_ms,
            histories: HashMap::new(),
            pending_marks: HashMap::new(),
            pending_count: 0,
            required_marks: 0,
        }
    }

    /// Each partition is read from this offset on; where that is 0, what says that it is out of order must be so.
    pub fn set_start_offsets(&mut self, from: &[Vec<i64>]) {
        for (whole, from) in self.read_from_start.iter_mut().zip(from) {
            *whole = from.iter().map(|offset| *offset == 0).collect();
        }
    }

    /// Looks at a record with these tags.
    ///
    /// # Errors
    /// It says nothing, and something newer was received long before it; what was received shortly before may have been on
    /// its way together with it. One that says that it is out of order, and is not, is told by [`Order::unjustified`]; here
    /// only if too many of those wait already.
    pub fn check(
        &mut self,
        record: &ConsumedRecord<'_>,
        parsed: &ParsedValue<'_>,
        tags: &HeaderMarks,
    ) -> Result<(), String> {
        let at = record.position;
        let received_ms = record.headers.and_then(headers::received_ms);
        let known_after = self.known_after_ms.zip(received_ms);
        if !tags.time_replaced {
            self.justify_marks(at, parsed, received_ms);
        }
        let newest = self.histories.entry((at.topic, parsed.source_hash));
        if let Entry::Occupied(newest) = &newest
            && let Some((known_after_ms, received_ms)) = known_after
            && is_unmarked(tags)
            && let Some(before_ms) =
                newest
                    .get()
                    .find_newer_lead_ms(parsed.timestamp_ms, received_ms, known_after_ms)
        {
            self.required_marks += 1;
            if !tags.out_of_order {
                return Err(format!(
                    "ce_outoforder, as something newer was received {before_ms} ms before it"
                ));
            }
        }
        let whole = self.read_from_start[usize::from(at.topic)].get(at.partition as usize);
        if tags.out_of_order && whole == Some(&true) {
            let is_older = match &newest {
                Entry::Occupied(newest) => newest.get().time_ms > parsed.timestamp_ms,
                Entry::Vacant(_) => false,
            };
            if !is_older {
                if self.pending_count >= MAX_PENDING_MARKS {
                    return Err(NOTHING_NEWER.to_owned());
                }
                self.pending_count += 1;
                let marks = self
                    .pending_marks
                    .entry((at.topic, parsed.source_hash))
                    .or_default();
                marks.push(OutOfOrderMark {
                    position: at,
                    time_ms: parsed.timestamp_ms,
                    received_ms: received_ms.unwrap_or(i64::MIN),
                });
            }
        }
        // A time that lies too far off is nobody's measure.
        if !tags.time_replaced {
            let newest = newest.or_insert_with(|| SourceHistory {
                time_ms: parsed.timestamp_ms,
                steps: VecDeque::new(),
            });
            newest.time_ms = newest.time_ms.max(parsed.timestamp_ms);
            if let Some((known_after_ms, received_ms)) = known_after {
                let time_ms = parsed.timestamp_ms;
                newest.add_step(
                    HistoryStep {
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
    fn justify_marks(
        &mut self,
        at: RecordPosition,
        told: &ParsedValue<'_>,
        received_ms: Option<i64>,
    ) {
        let Entry::Occupied(mut marks) = self.pending_marks.entry((at.topic, told.source_hash))
        else {
            return;
        };
        let received_ms = received_ms.map_or(i64::MAX, |ms| ms - self.clock_setback_ms);
        let before = marks.get().len();
        let waits =
            |m: &OutOfOrderMark| m.time_ms >= told.timestamp_ms || m.received_ms < received_ms;
        marks.get_mut().retain(waits);
        self.pending_count -= before - marks.get().len();
        if marks.get().is_empty() {
            marks.remove();
        }
    }

    /// After the last record: those that say that they are out of order, and are not.
    pub fn take_unjustified(&mut self) -> HashSet<RecordPosition> {
        self.pending_count = 0;
        let marks = self.pending_marks.drain().flat_map(|(_, marks)| marks);
        marks.map(|mark| mark.position).collect()
    }
}

/// Whether it is neither a duplicate, a revision nor stale: those are not marked as out of order.
fn is_unmarked(tags: &HeaderMarks) -> bool {
    tags.duplicate.is_none() && tags.supersedes.is_none() && !tags.stale
}

impl SourceHistory {
    /// How long before `received_ms` something newer than `time_ms` was received, if that is long enough to be known.
    fn find_newer_lead_ms(
        &self,
        time_ms: i64,
        received_ms: i64,
        known_after_ms: i64,
    ) -> Option<i64> {
        let long_before = |step: &&HistoryStep| step.received_ms + known_after_ms < received_ms;
        // The last of them is the newest of them.
        let step = self.steps.iter().rev().find(long_before)?;
        let before_ms = received_ms - step.received_ms;
        (step.time_ms > time_ms && before_ms <= MAX_LOOKBACK_MS).then_some(before_ms)
    }

    fn add_step(&mut self, step: HistoryStep, known_after_ms: i64) {
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
