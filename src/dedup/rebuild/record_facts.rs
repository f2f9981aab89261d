//! Reads the facts about a stored event from its record.

use std::time::Duration;

use super::partitioner::partition_of;
use crate::dedup::EventFacts;
use crate::dedup::claim::CurrentReading;
use crate::dedup::stored_facts::StoredFacts;
use crate::kafka::tail::TailRecord;
use butlr_event::event_id::EventId;
use butlr_event::{ParseLimits, ParsedBody, parse};

/// More than `kafka.max_future` allows.
const FAR_AHEAD_MS: i64 = 3_600_000;

/// Returns `true` if a bridge would now write the record to this one of `partitions`.
pub fn is_in_key_partition(record: &TailRecord<'_>, partition: i32, partitions: usize) -> bool {
    record
        .key
        .is_some_and(|key| partition_of(key, partitions) == Some(partition))
}

/// Reads the facts from a record of this age. Returns `None` if no bridge wrote it.
pub fn read_facts(record: &TailRecord<'_>, age: Duration) -> Option<StoredFacts> {
    let received_ms = record.received_ms?;
    let Ok(ParsedBody::Single(Ok(event))) = parse(record.value, None, ParseLimits::UNLIMITED)
    else {
        return None;
    };
    // If records carry the time of receipt, no header marks clocks that are far ahead.
    let is_far_ahead = event.timestamp_ms() - received_ms > FAR_AHEAD_MS;
    let facts = EventFacts::from_event(&event, !record.time_replaced && !is_far_ahead);
    let became_current = !record.stale && !record.duplicate;
    let current = facts
        .occupancy_key
        .filter(|_| became_current)
        .map(|occupancy_key| {
            let current = CurrentReading {
                reading: facts.reading,
                id: EventId::new(record.id.unwrap_or(facts.id)),
                revision: record.revision,
            };
            (occupancy_key, current)
        });
    Some(StoredFacts {
        id_hash: facts.id_hash,
        reading: facts.reading,
        is_conflict: record.conflict,
        newest: facts.source_time(),
        current,
        age,
        is_in_doubt: false,
    })
}
