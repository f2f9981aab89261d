//! Checks that records are marked as out of order if, and only if, they are.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::consumed_record::ConsumedRecord;
use super::headers::HeaderMarks;
use super::parsed_value::ParsedValue;
use super::record_digest::RecordPosition;
use butlr_event::EventType;
use butlr_event::PerType;
use history::{EventReceipt, SourceHistory};

mod history;

/// Limit of marks without a reason so far; further ones are reported as unjustified.
const MAX_PENDING_MARKS: usize = 100_000;
/// The violation reported for an unjustified mark.
pub const NOTHING_NEWER: &str =
    "no ce_outoforder, as nothing newer came before it or was received before it";

/// Tracks the order of records. Those of a partition must be passed in their order.
///
/// A bridge marks an event as out of order once it has accepted a newer one. The newer one may
/// still be in the spool and reach Kafka after the marked record: with `spool.drain =
/// "concurrent"`, as an entry recovered after a crash, or because it took several attempts. So a
/// mark without a newer record before it is pending. A newer record that follows, and was received
/// no later than the marked one, justifies it.
#[derive(Debug)]
pub struct OrderTracker {
    /// Per partition: it is read from its very first record, so all earlier records are known.
    read_from_start: PerType<Vec<bool>>,
    /// [`known_after`](super::Options::known_after), ms.
    known_after_ms: Option<i64>,
    /// The furthest that the bridge's clock can have been set back, ms.
    clock_setback_ms: i64,
    histories: HashMap<OrderedSource, SourceHistory>,
    /// Marks without a reason so far.
    pending_marks: HashMap<OrderedSource, Vec<OutOfOrderMark>>,
    pending_count: usize,
    /// Number of records that had to be marked, because a newer event was received long before.
    pub required_marks: u64,
}

/// A source within one topic. Only its events have an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct OrderedSource {
    topic: EventType,
    source_hash: u64,
}

/// A record marked as out of order.
#[derive(Clone, Copy, Debug)]
struct OutOfOrderMark {
    position: RecordPosition,
    time_ms: i64,
    received_ms: i64,
}

impl OrderTracker {
    /// Creates a tracker that has seen no records.
    pub fn new(known_after_ms: Option<i64>, clock_setback_ms: i64) -> Self {
        Self {
            read_from_start: Default::default(),
            known_after_ms,
            clock_setback_ms,
            histories: HashMap::new(),
            pending_marks: HashMap::new(),
            pending_count: 0,
            required_marks: 0,
        }
    }

    /// Sets the offset from which each partition is read. Marks are checked only in partitions that
    /// are read from 0.
    pub fn set_start_offsets(&mut self, from: &[Vec<i64>]) {
        for (from_start, from) in self.read_from_start.iter_mut().zip(from) {
            *from_start = from.iter().map(|offset| *offset == 0).collect();
        }
    }

    /// Checks a record with these marks.
    ///
    /// # Errors
    /// The record is not marked, but a newer event was received long before it. (An event received
    /// shortly before may have been in flight at the same time.) Unjustified marks are known only
    /// at the end, from [`take_unjustified`](Self::take_unjustified); an error here means that too
    /// many are pending.
    pub fn check(
        &mut self,
        record: &ConsumedRecord<'_>,
        parsed: &ParsedValue<'_>,
        marks: &HeaderMarks,
    ) -> Result<(), String> {
        let position = record.position;
        let source = OrderedSource {
            topic: position.topic,
            source_hash: parsed.source_hash,
        };
        let time_ms = parsed.timestamp_ms;
        let received_ms = record.received_ms();
        let receipt = received_ms.map(|received_ms| EventReceipt {
            time_ms,
            received_ms,
        });
        let known = receipt.zip(self.known_after_ms);
        // A replaced time says nothing about the order.
        let has_own_time = !marks.time_replaced;
        if has_own_time {
            self.justify_marks(source, time_ms, received_ms);
        }
        let history = self.histories.entry(source);
        if let Entry::Occupied(history) = &history
            && let Some((receipt, known_after_ms)) = known
            && may_be_out_of_order(marks)
            && let Some(lead_ms) = history.get().find_newer_lead_ms(receipt, known_after_ms)
        {
            self.required_marks += 1;
            if !marks.out_of_order {
                return Err(format!(
                    "ce_outoforder, as a newer event was received {lead_ms} ms before it"
                ));
            }
        }
        let from_start =
            self.read_from_start[position.topic.index()].get(position.partition as usize);
        if marks.out_of_order && from_start == Some(&true) {
            let is_justified = match &history {
                Entry::Occupied(history) => history.get().has_newer(time_ms),
                Entry::Vacant(_) => false,
            };
            if !is_justified {
                if self.pending_count >= MAX_PENDING_MARKS {
                    return Err(NOTHING_NEWER.to_owned());
                }
                self.pending_count += 1;
                let pending = self.pending_marks.entry(source).or_default();
                pending.push(OutOfOrderMark {
                    position,
                    time_ms,
                    received_ms: received_ms.unwrap_or(i64::MIN),
                });
            }
        }
        if has_own_time {
            let history = history.or_insert_with(|| SourceHistory::new(time_ms));
            history.add_time(time_ms);
            if let Some((receipt, known_after_ms)) = known {
                history.add_receipt(receipt, known_after_ms);
            }
        }
        Ok(())
    }

    /// Removes the pending marks of older events that were received no earlier than this event.
    fn justify_marks(&mut self, source: OrderedSource, time_ms: i64, received_ms: Option<i64>) {
        let Entry::Occupied(mut pending) = self.pending_marks.entry(source) else {
            return;
        };
        let received_ms = received_ms.map_or(i64::MAX, |ms| ms - self.clock_setback_ms);
        let before = pending.get().len();
        pending
            .get_mut()
            .retain(|mark| mark.time_ms >= time_ms || mark.received_ms < received_ms);
        self.pending_count -= before - pending.get().len();
        if pending.get().is_empty() {
            pending.remove();
        }
    }

    /// Takes the records that are marked without a reason. To be called after the last record.
    pub fn take_unjustified(&mut self) -> HashSet<RecordPosition> {
        self.pending_count = 0;
        let marks = self.pending_marks.drain().flat_map(|(_, marks)| marks);
        marks.map(|mark| mark.position).collect()
    }
}

/// Returns `true` unless the record is marked as a duplicate, a revision or stale: these are never
/// marked as out of order.
fn may_be_out_of_order(marks: &HeaderMarks) -> bool {
    marks.duplicate.is_none() && marks.supersedes.is_none() && !marks.stale
}

#[cfg(test)]
mod tests;
