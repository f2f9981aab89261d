//! The facts about a stored event that are read back after a start.

use std::time::Duration;

use super::claim::{CurrentReading, published_id};
use super::facts::SourceTime;
use super::keys::{IdHash, OccupancyKey, ReadingHash};
use super::rules::can_become_current;
use super::{EventFacts, Marks};
use butlr_event::Event;
use butlr_event::event_id::EventId;

/// Maximum time by which the newest event of a source may be ahead of its receipt: the
/// default of `kafka.max_future`. Further ahead its clock may be wrong; leaving the event out costs
/// at most a mark.
const MAX_AHEAD_MS: i64 = 60_000;

/// Facts about one entry of the spool or one record of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFacts {
    /// Hash of its id.
    pub id_hash: IdHash,
    /// Hash of its reading.
    pub reading: ReadingHash,
    /// Another event was stored under its id before.
    pub is_conflict: bool,
    /// Its time, if it can be the newest of its source.
    pub newest: Option<SourceTime>,
    /// The current value that it became, if it did.
    pub current: Option<(OccupancyKey, CurrentReading)>,
    /// Time since its receipt.
    pub age: Duration,
    /// It was handed to Kafka, or may have been, and the outcome is unknown.
    pub is_in_doubt: bool,
}

impl StoredFacts {
    /// The facts about `event`, which was spooled with `marks`.
    pub fn from_event(event: &Event<'_>, marks: &Marks, received_ms: i64, now_ms: i64) -> Self {
        let is_plausible = event.timestamp_ms().saturating_sub(received_ms) <= MAX_AHEAD_MS;
        let facts = EventFacts::from_event(event, is_plausible);
        Self::from_facts(&facts, marks, received_ms, now_ms)
    }

    /// The facts about a spooled rejected item.
    pub fn from_bytes(bytes: &[u8], received_ms: i64, now_ms: i64) -> Self {
        let facts = EventFacts::from_bytes(bytes);
        Self::from_facts(&facts, &Marks::default(), received_ms, now_ms)
    }

    /// Marks the entry as in doubt.
    #[must_use]
    pub fn into_in_doubt(self) -> Self {
        Self {
            is_in_doubt: true,
            ..self
        }
    }

    pub(super) fn from_facts(
        facts: &EventFacts<'_>,
        marks: &Marks,
        received_ms: i64,
        now_ms: i64,
    ) -> Self {
        let occupancy_key = facts.occupancy_key.filter(|_| can_become_current(marks));
        let current = occupancy_key.map(|key| {
            let current = CurrentReading {
                reading: facts.reading,
                id: published_id(marks, EventId::new(facts.id)),
                revision: marks.revision.as_ref().map_or(0, |r| r.number),
            };
            (key, current)
        });
        let age_ms = now_ms.saturating_sub(received_ms);
        Self {
            id_hash: facts.id_hash,
            reading: facts.reading,
            is_conflict: marks.conflict.is_some(),
            newest: facts.source_time().filter(|_| marks.duplicate.is_none()),
            current,
            age: Duration::from_millis(u64::try_from(age_ms).unwrap_or(0)),
            is_in_doubt: false,
        }
    }
}
