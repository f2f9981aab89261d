//! Progress in reading one partition backwards.

use super::OffsetSpan;

/// Records of a topic in the first round. Rounds grow by [`ROUND_GROWTH`]: the newest records come
/// soon, and later rounds read long runs, which are faster.
const FIRST_ROUND_RECORDS: u64 = 2_000;
const ROUND_GROWTH: u64 = 4;
/// Most records of a topic in one round; bounds the memory for what is read but not yet applied.
pub const MAX_ROUND_RECORDS: u64 = 131_072;

/// Returns how many records of a topic are read at most in a round; rounds count from 0.
pub fn max_round_records(round: u32) -> u64 {
    let grown = ROUND_GROWTH
        .checked_pow(round)
        .and_then(|g| g.checked_mul(FIRST_ROUND_RECORDS));
    grown.unwrap_or(MAX_ROUND_RECORDS).min(MAX_ROUND_RECORDS)
}

/// Partition that is read backwards from its end at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailPartition {
    id: i32,
    /// First offset that exists.
    low: i64,
    /// Everything from this offset on is read.
    lowest_read: i64,
    has_more: bool,
}

impl TailPartition {
    /// Creates an unread partition with the offsets from `low` up to but not including `high`.
    pub fn new(id: i32, low: i64, high: i64) -> Self {
        Self {
            id,
            low,
            lowest_read: high,
            has_more: low < high,
        }
    }

    /// Returns the partition's number.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Returns the offset from which on everything is read.
    pub fn lowest_read(&self) -> i64 {
        self.lowest_read
    }

    /// Excludes everything before `offset`.
    pub fn skip_before(&mut self, offset: i64) {
        self.low = self.low.max(offset);
        self.has_more &= self.low < self.lowest_read;
    }

    /// Returns `true` if there is more to read.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// Returns the span to read next: up to `records` offsets, at least one.
    pub fn next_span(&self, records: u64) -> OffsetSpan {
        let records = i64::try_from(records.max(1)).unwrap_or(i64::MAX);
        let start = self.lowest_read.saturating_sub(records).max(self.low);
        OffsetSpan::new(self.id, start, self.lowest_read)
    }

    /// Applies a span that was read. Returns `true` if it is complete and can be used.
    ///
    /// An incomplete span is read again; a replaced log ends the reading. `is_exhausted` says that
    /// no record before the span matters.
    pub fn complete_span(&mut self, span: &OffsetSpan, is_exhausted: bool) -> bool {
        if span.is_altered() {
            self.has_more = false;
        }
        let is_complete = span.is_read() && !span.is_altered();
        if is_complete {
            self.lowest_read = span.start();
            self.has_more = self.lowest_read > self.low && !is_exhausted;
        }
        is_complete
    }

    /// Ends the reading, because the partition cannot be read.
    pub fn give_up(&mut self) {
        self.has_more = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rounds_grow_to_a_bound() {
        assert_eq!(
            (
                max_round_records(0),
                max_round_records(1),
                max_round_records(2)
            ),
            (2_000, 8_000, 32_000)
        );
        assert_eq!(
            (max_round_records(4), max_round_records(200)),
            (MAX_ROUND_RECORDS, MAX_ROUND_RECORDS)
        );
    }

    #[test]
    fn an_empty_partition_has_nothing_to_read() {
        assert!(!TailPartition::new(0, 7, 7).has_more());
        assert!(!TailPartition::new(0, 0, 0).has_more());
    }

    #[test]
    fn an_incomplete_span_is_read_again() {
        let mut partition = TailPartition::new(3, 10, 100);
        let mut span = partition.next_span(50);
        assert!(span.accept_offset(98));
        assert!(!partition.complete_span(&span, false));
        assert_eq!(
            (
                partition.next_span(50).start(),
                partition.next_span(50).len()
            ),
            (50, 50)
        );
        span.accept_offset(99);
        assert!(partition.complete_span(&span, false));
        let rest = partition.next_span(50);
        assert_eq!((rest.start(), rest.len()), (10, 40));
        assert!(partition.has_more());
    }

    #[test]
    fn a_replaced_log_is_not_read_further() {
        let mut partition = TailPartition::new(0, 0, 100);
        let mut span = partition.next_span(10);
        assert!(!span.accept_offset(0));
        assert!(span.is_read());
        assert!(!partition.complete_span(&span, false));
        assert!(!partition.has_more());
    }

    #[test]
    fn reading_ends_when_earlier_records_do_not_matter() {
        let mut partition = TailPartition::new(0, 0, 100);
        let mut span = partition.next_span(10);
        span.finish();
        assert!(partition.complete_span(&span, true));
        assert!(!partition.has_more());
    }

    #[test]
    fn skipping_may_leave_nothing_to_read() {
        let mut partition = TailPartition::new(0, 10, 100);
        partition.skip_before(5);
        assert_eq!(partition.next_span(1000).start(), 10);
        partition.skip_before(90);
        assert_eq!(partition.next_span(1000).start(), 90);
        partition.skip_before(100);
        assert!(!partition.has_more());
    }

    proptest! {
        /// Chunks of any size meet without a gap and reach the beginning.
        #[test]
        fn chunks_cover_everything_once(
            low in 0_i64..50, len in 0_i64..500, sizes in prop::collection::vec(0_u64..60, 1..9),
        ) {
            let mut partition = TailPartition::new(0, low, low + len);
            let mut end = low + len;
            for size in sizes.iter().cycle() {
                if !partition.has_more() {
                    break;
                }
                let mut span = partition.next_span(*size);
                prop_assert_eq!(span.start() + span.len() as i64, end);
                prop_assert!(span.len() > 0 && span.len() <= (*size).max(1));
                end = span.start();
                span.finish();
                prop_assert!(partition.complete_span(&span, false));
            }
            prop_assert_eq!(end, low);
        }
    }
}
