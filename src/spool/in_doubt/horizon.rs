//! How far back suspects can be: by when what lies there was received.

use std::time::Duration;

use super::InDoubtEntry;
use crate::kafka::tail::{OffsetSpan, TailRecord};

/// Receipt is in the order of offsets only as far as replicas' clocks agree and librdkafka does not hold records for
/// longer: what it had when Kafka went away is stored, without a mark, when it is back.
const SLACK: Duration = Duration::from_secs(300);
/// So few records tell nothing of the age of those around them.
const MIN_RECORDS: u64 = 8;

/// What was received before, and did not wait, was stored before any suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptHorizon(Option<i64>);

impl ReceiptHorizon {
    /// That of these, by a clock that says `now_ms`.
    pub fn from_entries(suspects: &[InDoubtEntry], now_ms: i64) -> Self {
        let times = || suspects.iter().map(|s| s.received_ms);
        // Received in the future: the clock was wrong then or is now, and no age tells anything.
        if times().any(|t| t > now_ms) {
            return Self(None);
        }
        let slack = i64::try_from(SLACK.as_millis()).unwrap_or(i64::MAX);
        Self(times().min().map(|oldest| oldest.saturating_sub(slack)))
    }
}

/// A span of a partition, and whether all in it was received before the horizon.
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
    /// With nothing read yet.
    pub fn new(span: OffsetSpan) -> Self {
        Self {
            span,
            before: 0,
            after: 0,
        }
    }

    /// Its offsets.
    pub fn span(&self) -> &OffsetSpan {
        &self.span
    }

    /// Takes note of one of its records.
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

    /// No suspect lies before it.
    pub fn is_before_horizon(&self) -> bool {
        self.after == 0 && self.before >= MIN_RECORDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;
    const SLACK_MS: i64 = SLACK.as_millis() as i64;

    fn suspect(received_ms: i64) -> InDoubtEntry {
        InDoubtEntry {
            seq: 1,
            id: None,
            value_hash: 1,
            received_ms,
        }
    }

    fn span_with_ages(ages: &[(i64, bool)]) -> SearchSpan {
        let horizon = ReceiptHorizon::from_entries(&[suspect(NOW), suspect(NOW - 1000)], NOW);
        let mut stretch = SearchSpan::new(OffsetSpan::new(0, 0, 100));
        for (age, waited) in ages {
            let record = TailRecord {
                received_ms: Some(NOW - age),
                waited: *waited,
                ..TailRecord::default()
            };
            stretch.observe(&record, horizon);
        }
        stretch
    }

    #[test]
    fn the_oldest_suspect_counts() {
        let just_before = (SLACK_MS + 1001, false);
        assert!(span_with_ages(&[just_before; 8]).is_before_horizon());
        assert!(!span_with_ages(&[(SLACK_MS + 1000, false); 8]).is_before_horizon());
    }

    #[test]
    fn few_records_tell_nothing() {
        let old = (10 * SLACK_MS, false);
        assert!(!span_with_ages(&[]).is_before_horizon());
        assert!(!span_with_ages(&[old; 7]).is_before_horizon());
        assert!(span_with_ages(&[old; 8]).is_before_horizon());
    }

    #[test]
    fn one_new_record_among_old_ones_says_that_more_may_come() {
        let mut ages = vec![(10 * SLACK_MS, false); 500];
        assert!(span_with_ages(&ages).is_before_horizon());
        ages[250] = (0, false);
        assert!(!span_with_ages(&ages).is_before_horizon());
        // What waited may be stored next to anything.
        ages[250] = (0, true);
        assert!(span_with_ages(&ages).is_before_horizon());
    }

    #[test]
    fn what_waited_ends_no_search() {
        assert!(!span_with_ages(&[(10 * SLACK_MS, true); 500]).is_before_horizon());
    }

    #[test]
    fn others_records_tell_nothing_and_the_quarantined_do() {
        let horizon = ReceiptHorizon::from_entries(&[suspect(NOW)], NOW);
        let mut stretch = SearchSpan::new(OffsetSpan::new(0, 0, 100));
        for _ in 0..8 {
            stretch.observe(&TailRecord::default(), horizon);
        }
        assert!(!stretch.is_before_horizon());
        let quarantined = TailRecord {
            quarantined_ms: Some(0),
            ..TailRecord::default()
        };
        for _ in 0..8 {
            stretch.observe(&quarantined, horizon);
        }
        assert!(stretch.is_before_horizon());
    }

    #[test]
    fn with_a_clock_that_went_back_no_age_tells() {
        let suspects = [suspect(NOW - 10), suspect(NOW + 1)];
        assert_eq!(
            ReceiptHorizon::from_entries(&suspects, NOW),
            ReceiptHorizon(None)
        );
        let mut stretch = SearchSpan::new(OffsetSpan::new(0, 0, 100));
        let record = TailRecord {
            received_ms: Some(0),
            ..TailRecord::default()
        };
        for _ in 0..100 {
            stretch.observe(&record, ReceiptHorizon(None));
        }
        assert!(!stretch.is_before_horizon());
    }

    #[test]
    fn extremes_do_no_harm() {
        assert_eq!(
            ReceiptHorizon::from_entries(&[suspect(i64::MIN)], NOW),
            ReceiptHorizon(Some(i64::MIN))
        );
        assert_eq!(ReceiptHorizon::from_entries(&[], NOW), ReceiptHorizon(None));
    }
}
