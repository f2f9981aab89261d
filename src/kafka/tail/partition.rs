//! How far a partition is read, and what is next.

use super::Span;

/// Records of a topic in the first round, and the factor from round to round: soon the newest, later in long runs, which
/// are faster.
const FIRST: u64 = 2_000;
const GROWTH: u64 = 4;
/// Records of a topic in any round: what so many tell stands beside the engine at most.
pub const MOST: u64 = 131_072;

/// How many records of a topic are read in a round (0 is the first), at most.
pub fn most(round: u32) -> u64 {
    let grown = GROWTH.checked_pow(round).and_then(|g| g.checked_mul(FIRST));
    grown.unwrap_or(MOST).min(MOST)
}

/// A partition, read backwards from where it ended at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    id: i32,
    /// The first offset that is there.
    low: i64,
    /// All from here on is read.
    unread: i64,
    wants: bool,
}

impl Partition {
    /// One with the offsets from `low` up to `high`, not including that.
    pub fn new(id: i32, low: i64, high: i64) -> Self {
        Self {
            id,
            low,
            unread: high,
            wants: low < high,
        }
    }

    /// Its number.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// All from here on is read.
    pub fn unread(&self) -> i64 {
        self.unread
    }

    /// Nothing before `offset` is wanted.
    pub fn not_before(&mut self, offset: i64) {
        self.low = self.low.max(offset);
        self.wants &= self.low < self.unread;
    }

    /// Whether there is more to read.
    pub fn wants(&self) -> bool {
        self.wants
    }

    /// What is to be read next: `records`, at least one, or what is left.
    pub fn next(&self, records: u64) -> Span {
        let records = i64::try_from(records.max(1)).unwrap_or(i64::MAX);
        let start = self.unread.saturating_sub(records).max(self.low);
        Span::new(self.id, start, self.unread)
    }

    /// What became of that, and whether nothing before it matters. Returns whether it counts: it was read to its end.
    ///
    /// The partition is done where it begins. What was not read to its end is still wanted; what is of a log that is
    /// another by now ends the reading.
    pub fn read(&mut self, span: &Span, nothing_before: bool) -> bool {
        if span.is_altered() {
            self.wants = false;
        }
        let counts = span.is_read() && !span.is_altered();
        if counts {
            self.unread = span.start();
            self.wants = self.unread > self.low && !nothing_before;
        }
        counts
    }

    /// It cannot be read.
    pub fn give_up(&mut self) {
        self.wants = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rounds_grow_to_a_bound() {
        assert_eq!((most(0), most(1), most(2)), (2_000, 8_000, 32_000));
        assert_eq!((most(4), most(200)), (MOST, MOST));
    }

    #[test]
    fn an_empty_partition_wants_nothing() {
        assert!(!Partition::new(0, 7, 7).wants());
        assert!(!Partition::new(0, 0, 0).wants());
    }

    #[test]
    fn what_was_not_read_to_its_end_is_asked_for_again() {
        let mut partition = Partition::new(3, 10, 100);
        let mut span = partition.next(50);
        assert!(span.takes(98));
        assert!(!partition.read(&span, false));
        assert_eq!(
            (partition.next(50).start(), partition.next(50).len()),
            (50, 50)
        );
        span.takes(99);
        assert!(partition.read(&span, false));
        let rest = partition.next(50);
        assert_eq!((rest.start(), rest.len()), (10, 40));
        assert!(partition.wants());
    }

    #[test]
    fn a_log_that_is_another_by_now_is_left_alone() {
        let mut partition = Partition::new(0, 0, 100);
        let mut span = partition.next(10);
        assert!(!span.takes(0));
        assert!(span.is_read());
        assert!(!partition.read(&span, false));
        assert!(!partition.wants());
    }

    #[test]
    fn what_was_read_may_say_that_it_is_enough() {
        let mut partition = Partition::new(0, 0, 100);
        let mut span = partition.next(10);
        span.finish();
        assert!(partition.read(&span, true));
        assert!(!partition.wants());
    }

    #[test]
    fn a_bound_may_leave_nothing() {
        let mut partition = Partition::new(0, 10, 100);
        partition.not_before(5);
        assert_eq!(partition.next(1000).start(), 10);
        partition.not_before(90);
        assert_eq!(partition.next(1000).start(), 90);
        partition.not_before(100);
        assert!(!partition.wants());
    }

    proptest! {
        /// Chunks of any size meet without a gap, and come to the beginning.
        #[test]
        fn chunks_cover_everything_once(
            low in 0_i64..50, len in 0_i64..500, sizes in prop::collection::vec(0_u64..60, 1..9),
        ) {
            let mut partition = Partition::new(0, low, low + len);
            let mut end = low + len;
            for size in sizes.iter().cycle() {
                if !partition.wants() {
                    break;
                }
                let mut span = partition.next(*size);
                prop_assert_eq!(span.start() + span.len() as i64, end);
                prop_assert!(span.len() > 0 && span.len() <= (*size).max(1));
                end = span.start();
                span.finish();
                prop_assert!(partition.read(&span, false));
            }
            prop_assert_eq!(end, low);
        }
    }
}
