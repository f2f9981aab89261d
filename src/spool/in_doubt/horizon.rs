//! The end of a search by time: no entry in doubt is stored before records that were received well
//! before all of them.

use std::time::Duration;

use super::InDoubtEntry;
use crate::kafka::tail::{OffsetSpan, TailRecord};

/// Tolerance: receipt follows the order of offsets only as far as replicas' clocks agree and
/// librdkafka does not hold records for longer. Records that it had when Kafka went away are stored
/// when Kafka is back, without a mark.
const SLACK: Duration = Duration::from_secs(300);
/// Fewer records say nothing about the age of those around them.
const MIN_RECORDS: u64 = 8;

/// Time before which a record that did not wait in the spool was received before any entry in
/// doubt; `None` if the times of receipt cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptHorizon(Option<i64>);

impl ReceiptHorizon {
    /// Returns the horizon of `entries` at the time `now_ms`.
    pub fn from_entries(entries: &[InDoubtEntry], now_ms: i64) -> Self {
        let times = || entries.iter().map(|entry| entry.received_ms);
        // Received in the future: the clock was wrong then or is wrong now.
        if times().any(|t| t > now_ms) {
            return Self(None);
        }
        let slack = i64::try_from(SLACK.as_millis()).unwrap_or(i64::MAX);
        Self(times().min().map(|oldest| oldest.saturating_sub(slack)))
    }
}

/// A span of a partition, with its records counted by the side of the horizon that they are on.
#[derive(Debug)]
pub struct SearchSpan {
    span: OffsetSpan,
    before: u64,
    after: u64,
}

impl AsMut<OffsetSpan> for SearchSpan {
    fn as_mut(&mut self) -> &mut OffsetSpan {
        &mut self.span
    }
}

impl SearchSpan {
    /// Returns a span of which nothing is read yet.
    pub fn new(span: OffsetSpan) -> Self {
        Self {
            span,
            before: 0,
            after: 0,
        }
    }

    /// Returns the offsets.
    pub fn span(&self) -> &OffsetSpan {
        &self.span
    }

    /// Counts a record of the span.
    pub fn observe(&mut self, record: &TailRecord<'_>, horizon: ReceiptHorizon) {
        let Some(received_ms) = record.received_ms.or(record.quarantined_ms) else {
            return;
        };
        if record.waited {
            return;
        }
        match horizon.0 {
            Some(horizon) if received_ms < horizon => self.before += 1,
            _ => self.after += 1,
        }
    }

    /// Returns `true` if no entry in doubt can be stored before the span.
    pub fn is_before_horizon(&self) -> bool {
        self.after == 0 && self.before >= MIN_RECORDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;
    const SLACK_MS: i64 = SLACK.as_millis() as i64;

    fn in_doubt_entry(received_ms: i64) -> InDoubtEntry {
        InDoubtEntry {
            seq: 1,
            id: None,
            value_hash: 1,
            received_ms,
        }
    }

    fn span_with_ages(ages: &[(i64, bool)]) -> SearchSpan {
        let entries = [in_doubt_entry(NOW), in_doubt_entry(NOW - 1000)];
        let horizon = ReceiptHorizon::from_entries(&entries, NOW);
        let mut span = SearchSpan::new(OffsetSpan::new(0, 0, 100));
        for (age, waited) in ages {
            let record = TailRecord {
                received_ms: Some(NOW - age),
                waited: *waited,
                ..TailRecord::default()
            };
            span.observe(&record, horizon);
        }
        span
    }

    #[test]
    fn the_oldest_entry_counts() {
        let just_before = (SLACK_MS + 1001, false);
        assert!(span_with_ages(&[just_before; 8]).is_before_horizon());
        assert!(!span_with_ages(&[(SLACK_MS + 1000, false); 8]).is_before_horizon());
    }

    #[test]
    fn few_records_do_not_end_the_search() {
        let old = (10 * SLACK_MS, false);
        assert!(!span_with_ages(&[]).is_before_horizon());
        assert!(!span_with_ages(&[old; 7]).is_before_horizon());
        assert!(span_with_ages(&[old; 8]).is_before_horizon());
    }

    #[test]
    fn one_new_record_among_old_ones_keeps_the_search_going() {
        let mut ages = vec![(10 * SLACK_MS, false); 500];
        assert!(span_with_ages(&ages).is_before_horizon());
        ages[250] = (0, false);
        assert!(!span_with_ages(&ages).is_before_horizon());
        // A record that waited may be stored next to any other.
        ages[250] = (0, true);
        assert!(span_with_ages(&ages).is_before_horizon());
    }

    #[test]
    fn a_record_that_waited_does_not_end_the_search() {
        assert!(!span_with_ages(&[(10 * SLACK_MS, true); 500]).is_before_horizon());
    }

    #[test]
    fn quarantined_records_count_and_foreign_records_do_not() {
        let horizon = ReceiptHorizon::from_entries(&[in_doubt_entry(NOW)], NOW);
        let mut span = SearchSpan::new(OffsetSpan::new(0, 0, 100));
        for _ in 0..8 {
            span.observe(&TailRecord::default(), horizon);
        }
        assert!(!span.is_before_horizon());
        let quarantined = TailRecord {
            quarantined_ms: Some(0),
            ..TailRecord::default()
        };
        for _ in 0..8 {
            span.observe(&quarantined, horizon);
        }
        assert!(span.is_before_horizon());
    }

    #[test]
    fn a_clock_that_went_back_leaves_no_horizon() {
        let entries = [in_doubt_entry(NOW - 10), in_doubt_entry(NOW + 1)];
        assert_eq!(
            ReceiptHorizon::from_entries(&entries, NOW),
            ReceiptHorizon(None)
        );
        let mut span = SearchSpan::new(OffsetSpan::new(0, 0, 100));
        let record = TailRecord {
            received_ms: Some(0),
            ..TailRecord::default()
        };
        for _ in 0..100 {
            span.observe(&record, ReceiptHorizon(None));
        }
        assert!(!span.is_before_horizon());
    }

    #[test]
    fn extreme_times_do_not_overflow() {
        assert_eq!(
            ReceiptHorizon::from_entries(&[in_doubt_entry(i64::MIN)], NOW),
            ReceiptHorizon(Some(i64::MIN))
        );
        assert_eq!(ReceiptHorizon::from_entries(&[], NOW), ReceiptHorizon(None));
    }
}
