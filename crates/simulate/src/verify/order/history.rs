//! The receipts of one source that can show that a later record is out of order.

use std::collections::VecDeque;

/// A restarted bridge knows nothing older than its windows, so events received longer ago than this
/// require no mark, ms.
const MAX_LOOKBACK_MS: i64 = 600_000;

/// The records of one type and source so far.
#[derive(Debug)]
pub struct SourceHistory {
    /// The newest event time, apart from times that were replaced.
    newest_ms: i64,
    /// Event times with their times of receipt. Both increase from entry to entry. Receipts that
    /// add nothing to that are dropped, and of old ones only the last is kept.
    receipts: VecDeque<EventReceipt>,
}

/// An event time and the time at which the event was received.
#[derive(Clone, Copy, Debug)]
pub struct EventReceipt {
    pub time_ms: i64,
    pub received_ms: i64,
}

impl SourceHistory {
    pub fn new(time_ms: i64) -> Self {
        Self {
            newest_ms: time_ms,
            receipts: VecDeque::new(),
        }
    }

    /// Returns `true` if a newer event was recorded.
    pub fn has_newer(&self, time_ms: i64) -> bool {
        self.newest_ms > time_ms
    }

    pub fn add_time(&mut self, time_ms: i64) {
        self.newest_ms = self.newest_ms.max(time_ms);
    }

    /// Returns how long before `event` a newer event was received, if that is longer than
    /// `known_after_ms`, so that the bridge must have known it.
    pub fn find_newer_lead_ms(&self, event: EventReceipt, known_after_ms: i64) -> Option<i64> {
        let is_known =
            |other: &&EventReceipt| other.received_ms + known_after_ms < event.received_ms;
        // The last known one has the newest time.
        let known = self.receipts.iter().rev().find(is_known)?;
        let lead_ms = event.received_ms - known.received_ms;
        (known.time_ms > event.time_ms && lead_ms <= MAX_LOOKBACK_MS).then_some(lead_ms)
    }

    pub fn add_receipt(&mut self, event: EventReceipt, known_after_ms: i64) {
        let last = self.receipts.back();
        if last.is_some_and(|last| last.time_ms >= event.time_ms) {
            return;
        }
        // Older events that were received later add nothing.
        while let Some(last) = self.receipts.back()
            && last.received_ms >= event.received_ms
        {
            self.receipts.pop_back();
        }
        self.receipts.push_back(event);
        // Twice the time, because the next record may have been received slightly earlier.
        let horizon_ms = event.received_ms - 2 * known_after_ms;
        while let Some(second) = self.receipts.get(1)
            && second.received_ms < horizon_ms
        {
            self.receipts.pop_front();
        }
    }
}
