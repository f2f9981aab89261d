//! What one entry of the spool tells of what was stored.

use std::time::Duration;

use super::claim::{Current, under};
use super::memory::makes_current;
use super::{Facts, Marks};
use butlr_event::Event;
use butlr_event::event_id::EventId;

/// How far ahead of its receipt an event may be to be the newest of its source: the default of `kafka.max_future`. Further
/// ahead its clock may be wrong; leaving it out costs a mark at most.
const AHEAD_MS: i64 = 60_000;

/// What an entry tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpooledTold {
    /// The key of its id.
    pub id_key: u64,
    /// The key of the reading.
    pub reading: u64,
    /// Another event was stored under that id.
    pub conflict: bool,
    /// A source, and the time of an event of it.
    pub newest: Option<(u64, i64)>,
    /// The value that it made current, with its cell.
    pub current: Option<(u64, Current)>,
    /// How long ago it was received.
    pub age: Duration,
    /// Kafka may have it already.
    pub suspect: bool,
}

impl SpooledTold {
    /// What `event` tells, which was spooled with `marks`.
    pub fn of(event: &Event<'_>, marks: &Marks, received_ms: i64, now_ms: i64) -> Self {
        let is_plausible = event.timestamp_ms().saturating_sub(received_ms) <= AHEAD_MS;
        Self::of_facts(&Facts::of(event, is_plausible), marks, received_ms, now_ms)
    }

    /// What bytes tell that are no event.
    pub fn of_bytes(bytes: &[u8], received_ms: i64, now_ms: i64) -> Self {
        let facts = Facts::of_bytes(bytes);
        Self::of_facts(&facts, &Marks::default(), received_ms, now_ms)
    }

    /// It was handed to Kafka, or may have been, and what became of it is not known.
    #[must_use]
    pub fn suspected(self) -> Self {
        Self {
            suspect: true,
            ..self
        }
    }

    pub(super) fn of_facts(
        facts: &Facts<'_>,
        marks: &Marks,
        received_ms: i64,
        now_ms: i64,
    ) -> Self {
        let current = facts.cell.filter(|_| makes_current(marks)).map(|cell| {
            let current = Current {
                reading: facts.reading,
                id: under(marks, EventId::new(facts.id)),
                revision: marks.revision.as_ref().map_or(0, |r| r.number),
            };
            (cell, current)
        });
        let newest = facts.plausible_time && marks.duplicate.is_none();
        let age_ms = now_ms.saturating_sub(received_ms);
        Self {
            id_key: facts.id_key,
            reading: facts.reading,
            conflict: marks.conflict.is_some(),
            newest: newest.then_some((facts.source, facts.timestamp_ms)),
            current,
            age: Duration::from_millis(u64::try_from(age_ms).unwrap_or(0)),
            suspect: false,
        }
    }
}
