//! What one entry of the spool tells of what was stored.

use std::time::Duration;

use super::claim::{CurrentReading, published_id};
use super::memory::can_become_current;
use super::{EventFacts, Marks};
use butlr_event::Event;
use butlr_event::event_id::EventId;

/// How far ahead of its receipt an event may be to be the newest of its source: the default of `kafka.max_future`. Further
/// ahead its clock may be wrong; leaving it out costs a mark at most.
const MAX_AHEAD_MS: i64 = 60_000;

/// What an entry tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpooledFacts {
    /// The key of its id.
    pub id_hash: u64,
    /// The key of the reading.
    pub reading: u64,
    /// Another event was stored under that id.
    pub is_conflict: bool,
    /// A source, and the time of an event of it.
    pub newest: Option<(u64, i64)>,
    /// The value that it made current, with its cell.
    pub current: Option<(u64, CurrentReading)>,
    /// How long ago it was received.
    pub age: Duration,
    /// Kafka may have it already.
    pub is_in_doubt: bool,
}

impl SpooledFacts {
    /// What `event` tells, which was spooled with `marks`.
    pub fn from_event(event: &Event<'_>, marks: &Marks, received_ms: i64, now_ms: i64) -> Self {
        let is_plausible = event.timestamp_ms().saturating_sub(received_ms) <= MAX_AHEAD_MS;
        Self::from_facts(
            &EventFacts::from_event(event, is_plausible),
            marks,
            received_ms,
            now_ms,
        )
    }

    /// What bytes tell that are no event.
    pub fn from_bytes(bytes: &[u8], received_ms: i64, now_ms: i64) -> Self {
        let facts = EventFacts::from_bytes(bytes);
        Self::from_facts(&facts, &Marks::default(), received_ms, now_ms)
    }

    /// It was handed to Kafka, or may have been, and what became of it is not known.
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
        let current = facts
            .occupancy_key
            .filter(|_| can_become_current(marks))
            .map(|cell| {
                let current = CurrentReading {
                    reading: facts.reading,
                    id: published_id(marks, EventId::new(facts.id)),
                    revision: marks.revision.as_ref().map_or(0, |r| r.number),
                };
                (cell, current)
            });
        let newest = facts.has_plausible_time && marks.duplicate.is_none();
        let age_ms = now_ms.saturating_sub(received_ms);
        Self {
            id_hash: facts.id_hash,
            reading: facts.reading,
            is_conflict: marks.conflict.is_some(),
            newest: newest.then_some((facts.source_key, facts.timestamp_ms)),
            current,
            age: Duration::from_millis(u64::try_from(age_ms).unwrap_or(0)),
            is_in_doubt: false,
        }
    }
}
