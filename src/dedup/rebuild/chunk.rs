//! A run of one partition's records, read forwards: which of them count, and what they tell memory.

use std::time::Duration;

use super::record_facts::{RecordFacts, is_in_key_partition};
use super::{ORDER_SLACK, RebuildStart};
use crate::dedup::memory::MemoryStore;
use crate::kafka::tail::{OffsetSpan, TailRecord};

/// So many records that did not wait tell whether the search goes on: one may be from another time than those
/// around it.
const AGE_SAMPLE_SIZE: u8 = 8;

/// What is kept of a record.
#[derive(Debug)]
enum ChunkItem {
    Record(RecordFacts),
    /// It is from before the window, and made a value of this cell current: what lies before it is not.
    Replaced(u64),
}

/// A span of a partition, and what its records tell.
#[derive(Debug)]
pub struct RecordChunk {
    span: OffsetSpan,
    /// How many of its first records were looked at for their age, and whether all of them are from before the window.
    sampled_ages: u8,
    is_sample_expired: bool,
    items: Vec<ChunkItem>,
    /// The place of the first one there that is told.
    first_in_window: Option<usize>,
}

impl AsMut<OffsetSpan> for RecordChunk {
    fn as_mut(&mut self) -> &mut OffsetSpan {
        &mut self.span
    }
}

impl RecordChunk {
    /// With nothing read yet.
    pub fn new(span: OffsetSpan) -> Self {
        Self {
            span,
            sampled_ages: 0,
            is_sample_expired: true,
            items: Vec::new(),
            first_in_window: None,
        }
    }

    /// Its offsets.
    pub fn span(&self) -> &OffsetSpan {
        &self.span
    }

    /// Keeps what one of its records tells, in a topic `of` so many partitions. Returns whether it is one of the bridge's.
    pub fn add_record(
        &mut self,
        record: &TailRecord<'_>,
        of: usize,
        start: RebuildStart,
        window: Duration,
    ) -> bool {
        let Some(received_ms) = record.received_ms else {
            return false;
        };
        let age = start.age(received_ms);
        if !record.waited && self.sampled_ages < AGE_SAMPLE_SIZE {
            self.sampled_ages += 1;
            self.is_sample_expired &= age > window + ORDER_SLACK;
        }
        let is_old = age > window;
        // In a topic of which little is new, most are from before the window and before all that is told: with nothing
        // left for them to have replaced.
        if is_old
            && self.sampled_ages == AGE_SAMPLE_SIZE
            && self.is_sample_expired
            && self.first_in_window.is_none()
        {
            return true;
        }
        let mut told = RecordFacts::from_record(record);
        if let Some(told) = &mut told
            && !is_in_key_partition(record, self.span.partition(), of)
        {
            // From before the topic grew: what replaced it would lie elsewhere.
            told.current = None;
        }
        let is_ours = is_old || told.is_some();
        match told {
            Some(told) if is_old => {
                let replaced = told.current.map(|(cell, _)| ChunkItem::Replaced(cell));
                self.items.extend(replaced);
            }
            Some(told) => {
                self.first_in_window.get_or_insert(self.items.len());
                self.items.push(ChunkItem::Record(told));
            }
            None => {}
        }
        is_ours
    }

    /// Before the chunk lies nothing that the window has: its first records are older, and they are in order but for
    /// some seconds.
    pub fn is_beyond_window(&self) -> bool {
        self.sampled_ages > 0 && self.is_sample_expired
    }

    /// Hands on what was told, the last record first: of an id, and of a (type, space, timestamp), that one wins, here as
    /// between chunks. Returns how many ids and how many current values were taken.
    ///
    /// Current values only of a chunk that was read to its end; and only there it matters what was replaced: before one that
    /// was not nothing is read until it was.
    pub fn restore_into(self, memory: &MemoryStore, start: RebuildStart) -> (u64, u64) {
        let is_whole = self.span.is_read() && !self.span.is_altered();
        let (mut ids, mut values) = (0, 0);
        // Where the search ends nothing is read that these could have replaced.
        let skipped_items = match self.is_beyond_window() {
            true => self.first_in_window.unwrap_or(self.items.len()),
            false => 0,
        };
        for item in self.items.into_iter().skip(skipped_items).rev() {
            let facts = match item {
                ChunkItem::Record(told) => told,
                ChunkItem::Replaced(cell) => {
                    if is_whole {
                        memory.mark_uncertain(cell);
                    }
                    continue;
                }
            };
            let age = start.age(facts.received_ms);
            if let Some((source, timestamp_ms)) = facts.newest {
                memory.restore_newest(source, timestamp_ms);
            }
            let (id, reading) = (facts.id_hash, facts.reading);
            let taken = memory.restore_id(id, reading, facts.is_conflict, age, start.instant);
            ids += u64::from(taken);
            if let Some((cell, current)) = facts.current.filter(|_| is_whole) {
                let taken = memory.restore_current(cell, current, age, start.instant);
                values += u64::from(taken);
            }
        }
        (ids, values)
    }
}
