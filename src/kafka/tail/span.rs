//! Range of one partition's offsets, read forwards.

/// Offsets of a partition from `start` up to but not including `end`, and the progress in reading
/// them.
#[derive(Clone, Debug)]
pub struct OffsetSpan {
    partition: i32,
    start: i64,
    end: i64,
    next: i64,
    /// Everything before this offset was delivered or does not exist.
    reached: i64,
    altered: bool,
}

impl OffsetSpan {
    /// Creates an unread span.
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

    /// Returns the partition's number.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Returns the first offset.
    pub fn start(&self) -> i64 {
        self.start
    }

    /// Returns the number of offsets.
    #[expect(
        clippy::len_without_is_empty,
        reason = "nobody makes one without offsets"
    )]
    pub fn len(&self) -> u64 {
        self.end.abs_diff(self.start)
    }

    /// Advances to the partition's next record, at `offset`. Returns `true` if that record belongs
    /// to the span and was not seen before.
    ///
    /// Offsets have gaps (transaction markers, compaction, deletion), so any offset at or beyond
    /// the end completes the span.
    pub fn accept_offset(&mut self, offset: i64) -> bool {
        if offset < self.start {
            // Only a log that was created anew delivers an offset below the requested one.
            self.altered = true;
            self.next = self.end;
            return false;
        }
        let takes = (self.next..self.end).contains(&offset);
        self.next = self.next.max(offset.saturating_add(1));
        self.reached = self.next.min(self.end);
        takes
    }

    /// Returns the offset after the last one.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// Completes the span, because the partition has no more records.
    pub fn finish(&mut self) {
        self.next = self.end;
    }

    /// Returns `true` if the span is complete.
    pub fn is_read(&self) -> bool {
        self.next >= self.end
    }

    /// Returns `true` if the log was replaced by another one while it was read.
    pub fn is_altered(&self) -> bool {
        self.altered
    }

    /// Returns the offset up to which records were delivered. Beyond it Kafka reported the end of
    /// the partition. That is usually final, but a new leader may not know its last records for a
    /// moment.
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
        assert!(!span.accept_offset(13), "each record counts once");
        assert!(span.accept_offset(17));
        assert!(!span.is_read());
        assert!(!span.accept_offset(25));
        assert!(span.is_read() && !span.is_altered());
        assert_eq!(span.reached(), 20);
    }

    #[test]
    fn the_last_offset_ends_the_span() {
        let mut span = OffsetSpan::new(0, 10, 20);
        assert!(span.accept_offset(19));
        assert!(span.is_read());
        assert!(!span.accept_offset(20));
    }

    #[test]
    fn retention_may_have_deleted_the_whole_span() {
        let mut span = OffsetSpan::new(0, 10, 20);
        assert!(!span.accept_offset(21));
        assert!(span.is_read() && !span.is_altered());
    }

    #[test]
    fn an_end_reported_without_records_is_not_reached() {
        let mut span = OffsetSpan::new(0, 10, 20);
        span.accept_offset(14);
        span.finish();
        assert!(span.is_read());
        assert_eq!(span.reached(), 15);
    }
}
