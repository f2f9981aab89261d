//! The entries of one destination that the drain has to remember: those in librdkafka, and those
//! that come again with a history.

use std::collections::BTreeMap;
use std::time::Instant;

use rdkafka::types::RDKafkaErrorCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendMode {
    /// Together with other records of the destination.
    Shared,
    /// With no other record of the destination in flight, because Kafka refused the entry before.
    Exclusive,
}

/// An entry whose record librdkafka has.
pub(super) struct InFlightEntry {
    pub sent_at: Instant,
    pub bytes: Vec<u8>,
    pub mode: SendMode,
}

#[derive(Default)]
enum EntryState {
    /// To be sent again.
    #[default]
    Waiting,
    InFlight(InFlightEntry),
    /// Sent since the last rewind, without success.
    Failed,
}

#[derive(Default)]
struct TrackedEntry {
    state: EntryState,
    /// The error with which Kafka refused the record for good.
    refusal: Option<RDKafkaErrorCode>,
    /// Not confirmed, but possibly stored.
    is_ambiguous: bool,
}

/// State by sequence number. Entries that were never sent, and those that are done, are absent.
#[derive(Default)]
pub(super) struct TrackedEntries {
    entries: BTreeMap<u64, TrackedEntry>,
    pub in_flight: usize,
    pub in_flight_bytes: usize,
    failed: usize,
    ambiguous: usize,
}

impl TrackedEntries {
    /// Returns `true` if an entry has failed since the last rewind.
    pub fn has_failed(&self) -> bool {
        self.failed > 0
    }

    /// Returns `true` if an entry was not confirmed but may be stored.
    pub fn has_ambiguous(&self) -> bool {
        self.ambiguous > 0
    }

    /// The entry that has been in flight for longest: they are sent in ascending order.
    pub fn oldest_in_flight(&self) -> Option<(u64, &InFlightEntry)> {
        if self.in_flight == 0 {
            return None;
        }
        self.entries
            .iter()
            .find_map(|(seq, entry)| match &entry.state {
                EntryState::InFlight(sent) => Some((*seq, sent)),
                EntryState::Waiting | EntryState::Failed => None,
            })
    }

    /// Returns `true` if the entry in flight is one that is sent alone.
    pub fn is_exclusive_in_flight(&self) -> bool {
        let oldest = self.oldest_in_flight();
        oldest.is_some_and(|(_, sent)| sent.mode == SendMode::Exclusive)
    }

    /// The error with which Kafka refused the entry for good, if it did.
    pub fn refusal(&self, seq: u64) -> Option<RDKafkaErrorCode> {
        self.entries.get(&seq)?.refusal
    }

    pub fn add_in_flight(&mut self, seq: u64, sent: InFlightEntry) {
        self.in_flight += 1;
        self.in_flight_bytes += sent.bytes.len();
        self.entries.entry(seq).or_default().state = EntryState::InFlight(sent);
    }

    /// Ends the flight of an entry; `None` if it was not in flight.
    pub fn end_flight(&mut self, seq: u64) -> Option<InFlightEntry> {
        let state = &mut self.entries.get_mut(&seq)?.state;
        match std::mem::take(state) {
            EntryState::InFlight(sent) => {
                self.in_flight -= 1;
                self.in_flight_bytes -= sent.bytes.len();
                Some(sent)
            }
            other => {
                *state = other;
                None
            }
        }
    }

    /// Marks an entry that is no longer in flight as failed.
    pub fn mark_failed(&mut self, seq: u64) {
        self.entries.entry(seq).or_default().state = EntryState::Failed;
        self.failed += 1;
    }

    pub fn mark_refused(&mut self, seq: u64, code: RDKafkaErrorCode) {
        self.entries.entry(seq).or_default().refusal = Some(code);
    }

    pub fn mark_ambiguous(&mut self, seq: u64) {
        let is_ambiguous = &mut self.entries.entry(seq).or_default().is_ambiguous;
        self.ambiguous += usize::from(!std::mem::replace(is_ambiguous, true));
    }

    /// Forgets an entry that is stored or a dead letter, and not in flight.
    pub fn forget(&mut self, seq: u64) {
        if let Some(entry) = self.entries.remove(&seq) {
            self.ambiguous -= usize::from(entry.is_ambiguous);
        }
    }

    /// Lets the failed entries wait to be sent again. Returns the first of them.
    pub fn rewind(&mut self) -> Option<u64> {
        self.failed = 0;
        let mut first = None;
        for (seq, entry) in &mut self.entries {
            if matches!(entry.state, EntryState::Failed) {
                entry.state = EntryState::Waiting;
                first = first.or(Some(*seq));
            }
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_flight(bytes: &[u8], mode: SendMode) -> InFlightEntry {
        InFlightEntry {
            sent_at: Instant::now(),
            bytes: bytes.to_vec(),
            mode,
        }
    }

    #[test]
    fn an_entry_keeps_its_history_until_it_is_done() {
        let mut tracked = TrackedEntries::default();
        for seq in [5, 6, 7] {
            tracked.add_in_flight(seq, in_flight(b"ab", SendMode::Shared));
        }
        assert_eq!((tracked.in_flight, tracked.in_flight_bytes), (3, 6));
        for seq in [6, 7] {
            assert!(tracked.end_flight(seq).is_some());
            assert!(tracked.end_flight(seq).is_none(), "its flight has ended");
            tracked.mark_ambiguous(seq);
            tracked.mark_ambiguous(seq);
            tracked.mark_failed(seq);
        }
        tracked.mark_refused(6, RDKafkaErrorCode::InvalidRecord);
        assert_eq!(tracked.oldest_in_flight().map(|(seq, _)| seq), Some(5));
        assert!(tracked.end_flight(5).is_some());
        tracked.forget(5);
        assert_eq!((tracked.in_flight, tracked.in_flight_bytes), (0, 0));
        assert!(tracked.has_failed());
        assert_eq!(tracked.rewind(), Some(6));
        assert!(!tracked.has_failed() && tracked.has_ambiguous());
        assert_eq!(tracked.rewind(), None);
        assert_eq!(tracked.refusal(6), Some(RDKafkaErrorCode::InvalidRecord));
        assert_eq!(tracked.refusal(7), None);
        tracked.add_in_flight(6, in_flight(b"ab", SendMode::Exclusive));
        assert!(tracked.is_exclusive_in_flight());
        tracked.end_flight(6);
        for seq in [6, 7] {
            assert!(tracked.has_ambiguous());
            tracked.forget(seq);
        }
        assert!(!tracked.has_ambiguous());
        assert!(tracked.entries.is_empty());
    }
}
