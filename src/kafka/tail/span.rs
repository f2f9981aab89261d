//! A run of one partition's offsets, read forwards.

/// The offsets of a partition from one up to another, and how far they are read.
#[derive(Clone, Debug)]
pub struct OffsetSpan {
    partition: i32,
    start: i64,
    end: i64,
    next: i64,
    /// All before is known to have come, or not to be there.
    reached: i64,
    altered: bool,
}

impl OffsetSpan {
    /// From `start` up to `end`, not including that.
    pub fn new(partition: i32, start: i64, end: i64) -> Self {
        Self {
            partition,
            start,
            end,
            next: start,
            reached: start,
            altered: false,
        }
    }

    /// Its partition.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Its first offset.
    pub fn start(&self) -> i64 {
        self.start
    }

    /// How many offsets it has.
    #[expect(
        clippy::len_without_is_empty,
        reason = "nobody makes one without offsets"
    )]
    pub fn len(&self) -> u64 {
        self.end.abs_diff(self.start)
    }

    /// The partition's next record lies at `offset`: whether it is one of these.
    ///
    /// Offsets have gaps (markers of transactions, what was compacted away or deleted): any offset from the end on says
    /// that all is read.
    pub fn accept_offset(&mut self, offset: i64) -> bool {
        if offset < self.start {
            // Only a log that was made anew since has something there for who asked from `start` on.
            self.altered = true;
            self.next = self.end;
            return false;
        }
        let takes = (self.next..self.end).contains(&offset);
        self.next = self.next.max(offset.saturating_add(1));
        self.reached = self.next.min(self.end);
        takes
    }

    /// The offset after its last.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// The partition has nothing more.
    pub fn finish(&mut self) {
        self.next = self.end;
    }

    /// Nothing more is to come.
    pub fn is_read(&self) -> bool {
        self.next >= self.end
    }

    /// What was read is not what was asked for.
    pub fn is_altered(&self) -> bool {
        self.altered
    }

    /// Up to here records came. Beyond it Kafka said that there is nothing more: for good as a rule, for a moment while a
    /// new leader does not know yet what it has.
    pub fn reached(&self) -> i64 {
        self.reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_do_not_matter() {
        let mut span = OffsetSpan::new(0, 10, 20);
        assert!(span.accept_offset(13));
        assert!(!span.accept_offset(13), "once is enough");
        assert!(span.accept_offset(17));
        assert!(!span.is_read());
        assert!(!span.accept_offset(25));
        assert!(span.is_read() && !span.is_altered());
        assert_eq!(span.reached(), 20);
    }

    #[test]
    fn its_last_offset_is_its_end() {
        let mut span = OffsetSpan::new(0, 10, 20);
        assert!(span.accept_offset(19));
        assert!(span.is_read());
        assert!(!span.accept_offset(20));
    }

    #[test]
    fn retention_may_have_taken_all_of_it() {
        let mut span = OffsetSpan::new(0, 10, 20);
        assert!(!span.accept_offset(21));
        assert!(span.is_read() && !span.is_altered());
    }

    #[test]
    fn an_end_that_was_only_told_is_not_reached() {
        let mut span = OffsetSpan::new(0, 10, 20);
        span.accept_offset(14);
        span.finish();
        assert!(span.is_read());
        assert_eq!(span.reached(), 15);
    }
}
