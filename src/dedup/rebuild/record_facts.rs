//! What one record of the bridge's topics tells of what was stored.

use super::partitioner::partition_of;
use crate::dedup::EventFacts;
use crate::dedup::claim::CurrentReading;
use crate::kafka::tail::TailRecord;
use butlr_event::event_id::EventId;
use butlr_event::{ParseLimits, ParsedBody, parse};

/// Further ahead than `kafka.max_future` may be.
const FAR_AHEAD_MS: i64 = 3_600_000;

/// Whether a bridge would put a record into this partition of `of` now.
pub fn is_in_key_partition(record: &TailRecord<'_>, partition: i32, of: usize) -> bool {
    record
        .key
        .is_some_and(|key| partition_of(key, of) == Some(partition))
}

/// What a record tells.
#[derive(Clone, Debug)]
pub struct RecordFacts {
    /// The key of its event's id.
    pub id_hash: u64,
    /// The key of the reading.
    pub reading: u64,
    /// Another event was stored under that id.
    pub is_conflict: bool,
    /// A source, and the time of an event of it.
    pub newest: Option<(u64, i64)>,
    /// The value that it made current, with its cell.
    pub current: Option<(u64, CurrentReading)>,
    /// When the bridge had it, ms since 1970.
    pub received_ms: i64,
}

impl RecordFacts {
    /// What it tells; `None`: it is none of the bridge's.
    pub fn from_record(record: &TailRecord<'_>) -> Option<Self> {
        let received_ms = record.received_ms?;
        let Ok(ParsedBody::Single(Ok(event))) = parse(record.value, None, ParseLimits::UNLIMITED)
        else {
            return None;
        };
        // Where records carry the time of receipt, no header tells of clocks that are far ahead.
        let is_far_ahead = event.timestamp_ms() - received_ms > FAR_AHEAD_MS;
        let facts = EventFacts::from_event(&event, !record.time_replaced && !is_far_ahead);
        let can_become_current = !record.stale && !record.duplicate;
        let current = facts
            .occupancy_key
            .filter(|_| can_become_current)
            .map(|cell| {
                let current = CurrentReading {
                    reading: facts.reading,
                    id: EventId::new(record.id.unwrap_or(facts.id)),
                    revision: record.revision,
                };
                (cell, current)
            });
        Some(Self {
            id_hash: facts.id_hash,
            reading: facts.reading,
            is_conflict: record.conflict,
            newest: facts
                .has_plausible_time
                .then_some((facts.source_key, facts.timestamp_ms)),
            current,
            received_ms,
        })
    }
}
