//! A run of one partition's records, read forwards: which of them count, and what they tell memory.

use std::time::Duration;

use super::told::{Record, Told};
use super::{SLACK, Start};
use crate::dedup::memory::Memory;

/// So many records that did not wait on disk tell whether the search goes on: one may be from another time than those
/// around it.
const FIRST: u8 = 8;

/// The records of a partition from one offset to another.
#[derive(Debug)]
pub struct Chunk {
    partition: i32,
    start: i64,
    end: i64,
    next: i64,
    altered: bool,
    /// How many of its first records were looked at for their age, and whether all of them are from before the window.
    looked_at: u8,
    beyond: bool,
    told: Vec<Told>,
}

impl Chunk {
    /// From `start` up to `end`, not including that.
    pub fn new(partition: i32, start: i64, end: i64) -> Self {
        Self {
            partition,
            start,
            end,
            next: start,
            altered: false,
            looked_at: 0,
            beyond: true,
            told: Vec::new(),
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
    pub fn len(&self) -> u64 {
        self.end.abs_diff(self.start)
    }

    /// The partition's next record lies at `offset`: whether it is one of the chunk's.
    ///
    /// Offsets have gaps (markers of transactions, what was compacted away or deleted): any offset from the end on says
    /// that the chunk is over.
    pub fn takes(&mut self, offset: i64) -> bool {
        if offset < self.start {
            // Only a log that was made anew since has something there for who asked from `start` on.
            self.altered = true;
            self.next = self.end;
            return false;
        }
        let takes = (self.next..self.end).contains(&offset);
        self.next = self.next.max(offset.saturating_add(1));
        takes
    }

    /// The partition has nothing more.
    pub fn end(&mut self) {
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

    /// Keeps what one of its records tells, in a topic `of` so many partitions. Returns whether it is one of the bridge's.
    pub fn see(&mut self, record: &Record<'_>, of: usize, start: Start, window: Duration) -> bool {
        let Some(received_ms) = record.received_ms() else {
            return false;
        };
        let age = start.age(received_ms);
        if !record.spooled() && self.looked_at < FIRST {
            self.looked_at += 1;
            self.beyond &= age > window + SLACK;
        }
        // In a topic of which little is new, most are from before the window: they tell nothing.
        if age > window {
            return true;
        }
        let mut told = record.told();
        if let Some(told) = &mut told
            && !record.belongs_to(self.partition, of)
        {
            // From before the topic grew: what replaced it would lie elsewhere.
            told.current = None;
        }
        let is_ours = told.is_some();
        self.told.extend(told);
        is_ours
    }

    /// Before the chunk lies nothing that the window has: its first records are older, and they are in order but for
    /// some seconds.
    pub fn reaches_beyond(&self) -> bool {
        self.looked_at > 0 && self.beyond
    }

    /// Hands on what was told, the last record first: of an id, and of a (type, space, timestamp), that one wins, here as
    /// between chunks. Returns how many ids and how many current values were taken.
    ///
    /// Current values only of a chunk that was read to its end.
    pub fn settle(self, memory: &Memory, start: Start) -> (u64, u64) {
        let is_whole = self.is_read() && !self.altered;
        let (mut ids, mut values) = (0, 0);
        for told in self.told.into_iter().rev() {
            let age = start.age(told.received_ms);
            if let Some((source, timestamp_ms)) = told.newest {
                memory.restore_newest(source, timestamp_ms);
            }
            let (id, reading) = (told.id_key, told.reading);
            let taken = memory.restore_id(id, reading, told.conflict, age, start.instant);
            ids += u64::from(taken);
            if let Some((cell, current)) = told.current.filter(|_| is_whole) {
                let taken = memory.restore_current(cell, current, age, start.instant);
                values += u64::from(taken);
            }
        }
        (ids, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_do_not_matter() {
        let mut chunk = Chunk::new(0, 10, 20);
        assert!(chunk.takes(13));
        assert!(!chunk.takes(13), "once is enough");
        assert!(chunk.takes(17));
        assert!(!chunk.is_read());
        assert!(!chunk.takes(25));
        assert!(chunk.is_read() && !chunk.is_altered());
    }

    #[test]
    fn its_last_offset_is_its_end() {
        let mut chunk = Chunk::new(0, 10, 20);
        assert!(chunk.takes(19));
        assert!(chunk.is_read());
        assert!(!chunk.takes(20));
    }

    #[test]
    fn retention_may_have_taken_all_of_it() {
        let mut chunk = Chunk::new(0, 10, 20);
        assert!(!chunk.takes(21));
        assert!(chunk.is_read() && !chunk.is_altered());
    }
}
