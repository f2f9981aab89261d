//! A span of one partition's records, read forwards: selects the records that count, and restores
//! them into memory.

use std::time::Duration;

use super::record_facts::{is_in_key_partition, read_facts};
use super::{ORDER_SLACK, RebuildStart};
use crate::dedup::StorageLocation;
use crate::dedup::keys::OccupancyKey;
use crate::dedup::memory::MemoryStore;
use crate::dedup::stored_facts::StoredFacts;
use crate::kafka::tail::{OffsetSpan, TailRecord};

/// Number of records, not counting those that waited, whose ages decide whether the search goes
/// on: a single one may be from another time than those around it.
const AGE_SAMPLE_SIZE: u8 = 8;

#[derive(Debug)]
enum ChunkItem {
    Record(StoredFacts),
    /// A record from before the window made a value of this key current, and so replaced all
    /// earlier values.
    Replaced(OccupancyKey),
}

/// A span of a partition, with the facts from its records.
#[derive(Debug)]
pub struct RecordChunk {
    span: OffsetSpan,
    /// Number of records in the sample of ages.
    sampled_ages: u8,
    /// All of the sample is from before the window.
    is_sample_expired: bool,
    items: Vec<ChunkItem>,
    /// Index of the first item inside the window.
    first_in_window: Option<usize>,
}

impl AsMut<OffsetSpan> for RecordChunk {
    fn as_mut(&mut self) -> &mut OffsetSpan {
        &mut self.span
    }
}

impl RecordChunk {
    /// Creates an empty chunk.
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

    /// Adds one of its records, in a topic of `partitions`. Returns `true` if a bridge wrote it.
    pub fn add_record(
        &mut self,
        record: &TailRecord<'_>,
        partitions: usize,
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
        // In a topic with few new records, most are from before the window and before every
        // restored one, so there is nothing that they could have replaced.
        if is_old
            && self.sampled_ages == AGE_SAMPLE_SIZE
            && self.is_sample_expired
            && self.first_in_window.is_none()
        {
            return true;
        }
        let Some(mut facts) = read_facts(record, age) else {
            return is_old;
        };
        if !is_in_key_partition(record, self.span.partition(), partitions) {
            // The topic has grown since: a replacement would lie in another partition.
            facts.current = None;
        }
        if is_old {
            let replaced = facts.current.map(|(key, _)| ChunkItem::Replaced(key));
            self.items.extend(replaced);
        } else {
            self.first_in_window.get_or_insert(self.items.len());
            self.items.push(ChunkItem::Record(facts));
        }
        true
    }

    /// Returns `true` if nothing before the chunk is inside the window: its first records are
    /// older, and receipt times are in order but for some seconds.
    pub fn is_beyond_window(&self) -> bool {
        self.sampled_ages > 0 && self.is_sample_expired
    }

    /// Restores the records into memory, the last one first: for an id, and for a (type, space,
    /// timestamp), the last record wins, here as between chunks. Returns the number of restored ids
    /// and current values.
    ///
    /// Current values are restored only from a chunk that was read to its end, and only then do
    /// replacements matter: nothing before an incomplete chunk is read until it is complete.
    pub fn restore_into(self, memory: &MemoryStore, start: RebuildStart) -> (u64, u64) {
        let is_whole = self.span.is_read() && !self.span.is_altered();
        // If the search ends here, nothing is read that the leading items could have replaced.
        let skipped_items = if self.is_beyond_window() {
            self.first_in_window.unwrap_or(self.items.len())
        } else {
            0
        };
        let (mut ids, mut values) = (0, 0);
        for item in self.items.into_iter().skip(skipped_items).rev() {
            match item {
                ChunkItem::Record(mut facts) => {
                    if !is_whole {
                        facts.current = None;
                    }
                    let restored = memory.restore(facts, StorageLocation::Published, start.instant);
                    ids += u64::from(restored.id);
                    values += u64::from(restored.value);
                }
                ChunkItem::Replaced(key) if is_whole => memory.mark_uncertain(key),
                ChunkItem::Replaced(_) => {}
            }
        }
        (ids, values)
    }
}
