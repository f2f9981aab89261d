//! The right to publish an event, as types that cannot be used wrongly.
//!
//! ```text
//!  claim ──► Next::Publish(Claim) ──► commit, with the delivery's receipt: stored
//!    ▲         │                  ├─► commit_spooled, once it is on disk: stored, too
//!    ▲         │                  ├─► dropped: certainly not stored; released, as if it had never been claimed
//!    │         │                  └─► unknown: released, too, and what it would have replaced is no longer relied on
//!    │         ▼
//!    └────── Next::Wait(Turn)       while somebody else's claim on the same is undecided
//! ```
//!
//! Nobody else can claim the same id, or the same (type, space, timestamp), while a [`Claim`] or a [`Hold`] on it lives.

use std::sync::Arc;
use std::time::Instant;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::memory::{MemoryStore, conflict_key, resulting_revision};
use super::redis::Lease;
use super::{DedupVerdict, DuplicateKind, EventFacts, Marks};
use crate::config::DuplicateHandling;
use crate::kafka::report::Receipt;
use butlr_event::event_id::EventId;

mod waiter;

pub use waiter::ClaimWaiter;
pub(super) use waiter::{UndecidedKeys, WaiterList};

/// What to do next with an event.
#[derive(Debug)]
pub enum MemoryDecision {
    /// Publish it, marked as the claim says.
    Publish(Claim),
    /// It is stored already.
    Duplicate {
        /// In which way.
        kind: DuplicateKind,
        /// What it is a duplicate of is on disk and not in Kafka yet.
        spooled: bool,
    },
    /// That is not known yet: wait, then claim again.
    Wait(ClaimWaiter),
}

/// What to do next with an event when others have a say in what it is.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is looked at once, where it is made"
)]
pub enum ReservationOutcome {
    /// Ask them.
    Reserved(Reservation),
    /// This very event is stored, and such are dropped: nobody needs to be asked.
    Redelivery {
        /// It is on disk and not in Kafka yet.
        spooled: bool,
    },
    /// Wait, then try again.
    Wait(ClaimWaiter),
}

/// The current value of a (type, space, timestamp).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentReading {
    /// The key of the reading.
    pub reading: u64,
    /// The id under which it was published.
    pub id: EventId,
    /// How many revisions it took.
    pub revision: u32,
}

impl CurrentReading {
    /// Equal to no reading from now on: whatever comes next is published, as a revision of it or as stale.
    pub(super) fn invalidate(&mut self) {
        const INVALIDATED: u64 = 0x636f_6e74_6573_7465;
        self.reading = xxh3_64_with_seed(&self.reading.to_le_bytes(), INVALIDATED);
    }
}

/// The right to publish an event. Dropped, it says that the event is certainly not stored: whoever waits for it takes its
/// place.
#[derive(Debug)]
#[must_use = "dropped, it is released"]
pub struct Claim {
    // Before the local claim: who waits here shall find it free there, too.
    // In a box: most bridges have none, and a claim is to be small.
    lease: Option<Box<Lease>>,
    reserved: ReservedKeys,
    marks: Marks,
    entry: CommitEntry,
}

impl Claim {
    /// What the event is to what is stored.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The event is stored, as `_receipt` proves: what comes after is compared with it.
    pub fn commit(self, _receipt: &Receipt, now: Instant) {
        self.finish(false, now);
    }

    /// The event is on disk, and gets into Kafka later: it counts like one that is there, until
    /// [`Desk::drained`](super::desk::Desk::drained) says that it is.
    pub fn commit_spooled(self, now: Instant) {
        self.finish(true, now);
    }

    fn finish(mut self, spooled: bool, now: Instant) {
        if let Some(lease) = self.lease.take() {
            lease.commit(spooled);
        }
        self.reserved.commit(self.entry, spooled, now);
    }

    /// Whether the event is stored is not known, and nobody will tell. Its id is not remembered, and whoever waits for it
    /// takes its place. Of the value that it would have replaced nobody knows whether it is still the current one, so
    /// nothing is dropped for being equal to it.
    pub fn release_in_doubt(mut self) {
        if let Some(lease) = self.lease.take() {
            lease.release_in_doubt();
        }
        self.reserved.release_in_doubt(self.entry.current.is_some());
    }

    pub(super) fn new(taken: ReservedKeys, marks: Marks, stored: CommitEntry) -> Self {
        Self {
            lease: None,
            reserved: taken,
            marks,
            entry: stored,
        }
    }
}

/// What is remembered of an event once it is stored.
#[derive(Debug)]
pub(super) struct CommitEntry {
    /// The key of its id; of a conflict, the derived one.
    pub id_key: u64,
    pub reading: u64,
    /// What becomes the current value.
    pub current: Option<CurrentReading>,
    pub source: u64,
    /// None where it cannot be the newest of its source, or is not published.
    pub timestamp_ms: Option<i64>,
}

impl CommitEntry {
    pub fn from_facts(facts: &EventFacts<'_>, key: u64, current: Option<CurrentReading>) -> Self {
        Self {
            id_key: key,
            reading: facts.reading,
            current,
            source: facts.source_key,
            timestamp_ms: facts.has_plausible_time.then_some(facts.timestamp_ms),
        }
    }
}

/// An exclusive hold on an event's id and its (type, space, timestamp) while others are asked. Dropped: released.
#[derive(Debug)]
#[must_use = "dropped, it is released"]
pub struct Reservation {
    reserved: ReservedKeys,
    local_verdict: DedupVerdict,
    current: Option<CurrentReading>,
    entry: CommitEntry,
    /// Its id, where there is a current value.
    id: Option<EventId>,
    /// Whether this process knows of another event that is stored under its id.
    is_conflict: bool,
    /// Whether this process knows the same value as the current one, and that is not in Kafka yet.
    is_repeat_of_spooled: bool,
    /// How a redelivery of it is handled.
    redelivery_handling: DuplicateHandling,
}

/// What the memory says of a [`Hold`].
#[derive(Debug)]
pub(super) struct LocalDecision {
    pub verdict: DedupVerdict,
    pub current: Option<CurrentReading>,
    pub is_conflict: bool,
    pub is_repeat_of_spooled: bool,
    pub redelivery_handling: DuplicateHandling,
}

impl Reservation {
    /// What the event is by what this process knows.
    pub fn local_verdict(&self) -> &DedupVerdict {
        &self.local_verdict
    }

    pub(super) fn new(
        taken: ReservedKeys,
        opinion: LocalDecision,
        stored: CommitEntry,
        id: Option<EventId>,
    ) -> Self {
        Self {
            reserved: taken,
            local_verdict: opinion.verdict,
            current: opinion.current,
            entry: stored,
            id,
            is_conflict: opinion.is_conflict,
            is_repeat_of_spooled: opinion.is_repeat_of_spooled,
            redelivery_handling: opinion.redelivery_handling,
        }
    }

    /// Whether this process knows the same value as the current one, on disk and not in Kafka yet.
    pub fn is_repeat_of_spooled(&self) -> bool {
        self.is_repeat_of_spooled
    }

    /// How a redelivery of it is handled.
    pub(super) fn redelivery_handling(&self) -> DuplicateHandling {
        self.redelivery_handling
    }

    /// What this process knows as the current value of its (type, space, timestamp).
    pub fn current(&self) -> Option<&CurrentReading> {
        self.current.as_ref()
    }

    /// The event is to be published, marked so; `lease` ends as the claim does.
    pub fn into_claim(self, marks: Marks, lease: Option<Lease>) -> Claim {
        let mut stored = self.entry;
        if marks.conflict.is_some() && !self.is_conflict {
            stored.id_key = conflict_key(stored.id_key, stored.reading);
        }
        stored.current = self.id.and_then(|id| {
            let id = published_id(&marks, id);
            let revision = resulting_revision(&marks, self.current.as_ref(), stored.reading, &id)?;
            Some(CurrentReading {
                reading: stored.reading,
                id,
                revision,
            })
        });
        Claim {
            lease: lease.map(Box::new),
            reserved: self.reserved,
            marks,
            entry: stored,
        }
    }

    /// The event is not to be published, because another replica has stored it, or has stored its value as the current one;
    /// `spooled`: on its disk, where this replica leaves it: nobody tells it when that is over.
    pub fn commit_duplicate(mut self, spooled: bool, now: Instant) {
        self.entry.timestamp_ms = None;
        self.reserved.commit(self.entry, spooled, now);
    }
}

/// The id under which an event with `id` is published.
pub(super) fn published_id(marks: &Marks, id: EventId) -> EventId {
    if marks.conflict.is_none() {
        return id;
    }
    let own = marks.conflict_id(&id.to_string());
    own.map_or(id, |own| EventId::new(&own))
}

/// What is taken in the memory: nobody else can claim it. Dropped unsettled, it is given back.
#[derive(Debug)]
pub(super) struct ReservedKeys {
    memory: Arc<MemoryStore>,
    id_key: u64,
    occupancy_key: Option<u64>,
    is_finished: bool,
}

impl ReservedKeys {
    /// What the memory has marked as taken.
    pub fn new(memory: Arc<MemoryStore>, id: u64, cell: Option<u64>) -> Self {
        Self {
            memory,
            id_key: id,
            occupancy_key: cell,
            is_finished: false,
        }
    }

    fn commit(mut self, stored: CommitEntry, spooled: bool, now: Instant) {
        self.is_finished = true;
        self.memory
            .commit(self.id_key, self.occupancy_key, stored, spooled, now);
    }

    fn release_in_doubt(mut self, replaces: bool) {
        self.is_finished = true;
        self.memory
            .release_in_doubt(self.id_key, self.occupancy_key, replaces);
    }
}

impl Drop for ReservedKeys {
    fn drop(&mut self) {
        if !self.is_finished {
            self.memory.release(self.id_key, self.occupancy_key);
        }
    }
}
