//! The right to publish an event, as types that cannot be misused.
//!
//! ```text
//!  claim ──► Decision::Publish(Claim) ─┬─► commit, with the delivery's receipt: stored
//!    ▲                                 ├─► commit_spooled, once on disk: stored, too
//!    │                                 ├─► dropped: certainly not stored; released, as if never claimed
//!    │                                 └─► release_in_doubt: released; the value it would have
//!    │                                     replaced is no longer relied on
//!    └── ClaimWaiter                   while another claim on the same event is undecided
//! ```
//!
//! While a [`Claim`] or [`Reservation`] exists, nobody else can claim the same id or the same
//! (type, space, timestamp).

use std::sync::Arc;
use std::time::Instant;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::facts::SourceTime;
use super::keys::{IdHash, OccupancyKey, ReadingHash};
use super::memory::{MemoryStore, conflict_key};
use super::redis::Lease;
use super::rules::resulting_revision;
use super::{DedupVerdict, DuplicateKind, EventFacts, Marks, StorageLocation};
use crate::config::DuplicateHandling;
use crate::kafka::report::Receipt;
use butlr_event::event_id::EventId;

mod waiter;

pub use waiter::ClaimWaiter;
pub(super) use waiter::{UndecidedKeys, WaiterList};

/// Decision about an event.
#[derive(Debug)]
pub enum Decision {
    /// Publish the event with the claim's marks.
    Publish(Claim),
    /// Drop the event: it is not new.
    Duplicate {
        /// The kind of duplicate.
        kind: DuplicateKind,
        /// Place of the stored event that it duplicates.
        storage: StorageLocation,
    },
}

impl Decision {
    pub(super) fn set_unchecked(&mut self, is_unchecked: bool) {
        if let Decision::Publish(claim) = self {
            claim.is_unchecked = is_unchecked;
        }
    }
}

/// Outcome of reserving an event before Redis is asked.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is matched once, where it is returned"
)]
pub enum ReservationOutcome {
    /// The event is reserved: ask Redis.
    Reserved(Reservation),
    /// This event is stored, and redeliveries are dropped: there is no need to ask.
    Redelivery {
        /// Place of the stored event.
        storage: StorageLocation,
    },
    /// Another claim is undecided: wait, then try again.
    Wait(ClaimWaiter),
}

/// The current value of a (type, space, timestamp).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentReading {
    /// Hash of the reading.
    pub reading: ReadingHash,
    /// The id under which it was published.
    pub id: EventId,
    /// Its revision number.
    pub revision: u32,
}

impl CurrentReading {
    /// Makes the value equal to no reading, so that the next event is published, as a revision of
    /// it or as stale.
    pub(super) fn invalidate(&mut self) {
        const INVALIDATED: u64 = 0x636f_6e74_6573_7465;
        let bytes = self.reading.0.to_le_bytes();
        self.reading = ReadingHash(xxh3_64_with_seed(&bytes, INVALIDATED));
    }
}

/// The right to publish an event. Dropping it states that the event is certainly not stored, and
/// the next waiter takes over.
#[derive(Debug)]
#[must_use = "dropping it releases the claim"]
pub struct Claim {
    // Dropped before the local claim: a waiter here must find it free in Redis as well.
    // Boxed to keep claims small, because most bridges have no lease.
    lease: Option<Box<Lease>>,
    reserved: ReservedKeys,
    marks: Marks,
    entry: CommitEntry,
    is_unchecked: bool,
}

impl Claim {
    /// The marks with which to publish the event.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Returns `true` if the stored events were not fully known when the event was claimed.
    pub fn is_unchecked(&self) -> bool {
        self.is_unchecked
    }

    /// Records that the event is stored, as `_receipt` proves. Later events are compared with it.
    pub fn commit(self, _receipt: &Receipt, now: Instant) {
        self.finish(StorageLocation::Published, now);
    }

    /// Records that the event is on disk and will reach Kafka later. It counts as stored;
    /// [`Deduplicator::mark_drained`](super::deduplicator::Deduplicator::mark_drained) records when
    /// it is in Kafka.
    pub fn commit_spooled(self, now: Instant) {
        self.finish(StorageLocation::Spooled, now);
    }

    fn finish(mut self, storage: StorageLocation, now: Instant) {
        if let Some(lease) = self.lease.take() {
            lease.commit(storage);
        }
        self.reserved.commit(self.entry, storage, now);
    }

    /// Releases the claim without knowing whether the event is stored. Its id is not remembered,
    /// and the next waiter takes over. The value that it would have replaced may no longer be the
    /// current one, so nothing is dropped for being equal to it.
    pub fn release_in_doubt(mut self) {
        if let Some(lease) = self.lease.take() {
            lease.release_in_doubt();
        }
        self.reserved.release_in_doubt(&self.entry);
    }

    pub(super) fn new(reserved: ReservedKeys, marks: Marks, entry: CommitEntry) -> Self {
        Self {
            lease: None,
            reserved,
            marks,
            entry,
            is_unchecked: false,
        }
    }
}

/// The entry that the memory keeps once an event is stored.
#[derive(Debug)]
pub(super) struct CommitEntry {
    /// Hash of the id, or the derived key of a conflict.
    pub id_key: IdHash,
    pub reading: ReadingHash,
    /// The new current value.
    pub current: Option<CurrentReading>,
    /// `None` if the event cannot be the newest of its source, or is not published.
    pub newest: Option<SourceTime>,
}

impl CommitEntry {
    pub fn from_facts(
        facts: &EventFacts<'_>,
        id_key: IdHash,
        current: Option<CurrentReading>,
    ) -> Self {
        Self {
            id_key,
            reading: facts.reading,
            current,
            newest: facts.source_time(),
        }
    }
}

/// An exclusive hold on an event's id and its (type, space, timestamp) while Redis is asked.
/// Dropping it releases the hold.
#[derive(Debug)]
#[must_use = "dropping it releases the reservation"]
pub struct Reservation {
    reserved: ReservedKeys,
    entry: CommitEntry,
    /// The event's id, for occupancy.
    id: Option<EventId>,
    local: LocalDecision,
}

/// The memory's view of a reserved event.
#[derive(Debug)]
pub(super) struct LocalDecision {
    pub verdict: DedupVerdict,
    /// The current value of its (type, space, timestamp).
    pub current: Option<CurrentReading>,
    /// Another event is stored under its id.
    pub is_conflict: bool,
    /// Place of the current value, if the event is equal to it.
    pub repeat_storage: StorageLocation,
    /// Handling of a redelivery.
    pub redelivery: DuplicateHandling,
}

impl Reservation {
    pub(super) fn new(
        reserved: ReservedKeys,
        local: LocalDecision,
        entry: CommitEntry,
        id: Option<EventId>,
    ) -> Self {
        Self {
            reserved,
            entry,
            id,
            local,
        }
    }

    /// The verdict by what this process knows.
    pub fn local_verdict(&self) -> &DedupVerdict {
        &self.local.verdict
    }

    /// Place of the current value that this process knows, if the event is equal to it.
    pub fn repeat_storage(&self) -> StorageLocation {
        self.local.repeat_storage
    }

    pub(super) fn redelivery_handling(&self) -> DuplicateHandling {
        self.local.redelivery
    }

    /// The current value of the (type, space, timestamp), as this process knows it.
    pub fn current(&self) -> Option<&CurrentReading> {
        self.local.current.as_ref()
    }

    /// Turns the reservation into a claim to publish the event with `marks`. `lease` ends together
    /// with the claim.
    pub fn into_claim(self, marks: Marks, lease: Option<Lease>) -> Claim {
        let mut entry = self.entry;
        if marks.conflict.is_some() && !self.local.is_conflict {
            entry.id_key = conflict_key(entry.id_key, entry.reading);
        }
        entry.current = self.id.and_then(|id| {
            let id = published_id(&marks, id);
            let current = self.local.current.as_ref();
            let revision = resulting_revision(&marks, current, entry.reading, &id)?;
            Some(CurrentReading {
                reading: entry.reading,
                id,
                revision,
            })
        });
        Claim {
            lease: lease.map(Box::new),
            reserved: self.reserved,
            marks,
            entry,
            is_unchecked: false,
        }
    }

    /// Records that another replica has stored the event, or its value as the current one, so that
    /// it is not published. If it is on that replica's disk, this replica is not notified when
    /// it is drained.
    pub fn commit_duplicate(mut self, storage: StorageLocation, now: Instant) {
        self.entry.newest = None;
        self.reserved.commit(self.entry, storage, now);
    }
}

/// Returns the id under which an event with `id` is published.
pub(super) fn published_id(marks: &Marks, id: EventId) -> EventId {
    if marks.conflict.is_none() {
        return id;
    }
    let conflict_id = marks.conflict_id(&id.to_string());
    conflict_id.map_or(id, |id| EventId::new(&id))
}

/// Keys that are reserved in the memory, so that nobody else can claim them. Dropping it releases
/// them.
#[derive(Debug)]
pub(super) struct ReservedKeys {
    /// `None` once finished.
    memory: Option<Arc<MemoryStore>>,
    /// Hash of the id, or the derived key of a conflict.
    pub id_key: IdHash,
    pub occupancy_key: Option<OccupancyKey>,
}

impl ReservedKeys {
    /// Takes over keys that the memory has marked as undecided.
    pub fn new(
        memory: Arc<MemoryStore>,
        id_key: IdHash,
        occupancy_key: Option<OccupancyKey>,
    ) -> Self {
        Self {
            memory: Some(memory),
            id_key,
            occupancy_key,
        }
    }

    fn commit(mut self, entry: CommitEntry, storage: StorageLocation, now: Instant) {
        if let Some(memory) = self.memory.take() {
            memory.commit(&self, entry, storage, now);
        }
    }

    fn release_in_doubt(mut self, entry: &CommitEntry) {
        if let Some(memory) = self.memory.take() {
            memory.release_in_doubt(&self, entry);
        }
    }
}

impl Drop for ReservedKeys {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            memory.release(self);
        }
    }
}
