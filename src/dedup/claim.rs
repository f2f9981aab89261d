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

use super::memory::{Memory, becomes, key_of_conflict};
use super::redis::Lease;
use super::{Duplicate, Facts, Marks, Verdict};
use crate::config::DuplicateHandling;
use crate::kafka::report::Receipt;
use butlr_event::event_id::EventId;

mod turn;

pub use turn::Turn;
pub(super) use turn::{Undecided, Waiting};

/// What to do next with an event.
#[derive(Debug)]
pub enum Next {
    /// Publish it, marked as the claim says.
    Publish(Claim),
    /// It is stored already.
    Duplicate {
        /// In which way.
        kind: Duplicate,
        /// What it is a duplicate of is on disk and not in Kafka yet.
        spooled: bool,
    },
    /// That is not known yet: wait, then claim again.
    Wait(Turn),
}

/// What to do next with an event when others have a say in what it is.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is looked at once, where it is made"
)]
pub enum Held {
    /// Ask them.
    Hold(Hold),
    /// This very event is stored, and such are dropped: nobody needs to be asked.
    Redelivery {
        /// It is on disk and not in Kafka yet.
        spooled: bool,
    },
    /// Wait, then try again.
    Wait(Turn),
}

/// The current value of a (type, space, timestamp).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// The key of the reading.
    pub reading: u64,
    /// The id under which it was published.
    pub id: EventId,
    /// How many revisions it took.
    pub revision: u32,
}

impl Current {
    /// Equal to no reading from now on: whatever comes next is published, as a revision of it or as stale.
    pub(super) fn contest(&mut self) {
        const CONTESTED: u64 = 0x636f_6e74_6573_7465;
        self.reading = xxh3_64_with_seed(&self.reading.to_le_bytes(), CONTESTED);
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
    taken: Taken,
    marks: Marks,
    stored: Stored,
}

impl Claim {
    /// What the event is to what is stored.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The event is stored, as `_receipt` proves: what comes after is compared with it.
    pub fn commit(self, _receipt: &Receipt, now: Instant) {
        self.settle(false, now);
    }

    /// The event is on disk, and gets into Kafka later: it counts like one that is there, until
    /// [`Desk::drained`](super::desk::Desk::drained) says that it is.
    pub fn commit_spooled(self, now: Instant) {
        self.settle(true, now);
    }

    fn settle(mut self, spooled: bool, now: Instant) {
        if let Some(lease) = self.lease.take() {
            lease.commit(spooled);
        }
        self.taken.settle(self.stored, spooled, now);
    }

    /// Whether the event is stored is not known, and nobody will tell. Its id is not remembered, and whoever waits for it
    /// takes its place. Of the value that it would have replaced nobody knows whether it is still the current one, so
    /// nothing is dropped for being equal to it.
    pub fn unknown(mut self) {
        if let Some(lease) = self.lease.take() {
            lease.unknown();
        }
        self.taken.contest(self.stored.current.is_some());
    }

    pub(super) fn new(taken: Taken, marks: Marks, stored: Stored) -> Self {
        Self {
            lease: None,
            taken,
            marks,
            stored,
        }
    }
}

/// What is remembered of an event once it is stored.
#[derive(Debug)]
pub(super) struct Stored {
    /// The key of its id; of a conflict, the derived one.
    pub key: u64,
    pub reading: u64,
    /// What becomes the current value.
    pub current: Option<Current>,
    pub source: u64,
    /// None where it cannot be the newest of its source, or is not published.
    pub timestamp_ms: Option<i64>,
}

impl Stored {
    pub fn of(facts: &Facts<'_>, key: u64, current: Option<Current>) -> Self {
        Self {
            key,
            reading: facts.reading,
            current,
            source: facts.source,
            timestamp_ms: facts.plausible_time.then_some(facts.timestamp_ms),
        }
    }
}

/// An exclusive hold on an event's id and its (type, space, timestamp) while others are asked. Dropped: released.
#[derive(Debug)]
#[must_use = "dropped, it is released"]
pub struct Hold {
    taken: Taken,
    opinion: Verdict,
    current: Option<Current>,
    stored: Stored,
    /// Its id, where there is a current value.
    id: Option<EventId>,
    /// Whether this process knows of another event that is stored under its id.
    is_conflict: bool,
    /// Whether this process knows the same value as the current one, and that is not in Kafka yet.
    repeats_spooled: bool,
    /// How a redelivery of it is handled.
    redelivery: DuplicateHandling,
}

/// What the memory says of a [`Hold`].
#[derive(Debug)]
pub(super) struct Opinion {
    pub verdict: Verdict,
    pub current: Option<Current>,
    pub is_conflict: bool,
    pub repeats_spooled: bool,
    pub redelivery: DuplicateHandling,
}

impl Hold {
    /// What the event is by what this process knows.
    pub fn opinion(&self) -> &Verdict {
        &self.opinion
    }

    pub(super) fn new(taken: Taken, opinion: Opinion, stored: Stored, id: Option<EventId>) -> Self {
        Self {
            taken,
            opinion: opinion.verdict,
            current: opinion.current,
            stored,
            id,
            is_conflict: opinion.is_conflict,
            repeats_spooled: opinion.repeats_spooled,
            redelivery: opinion.redelivery,
        }
    }

    /// Whether this process knows the same value as the current one, on disk and not in Kafka yet.
    pub fn repeats_spooled(&self) -> bool {
        self.repeats_spooled
    }

    /// How a redelivery of it is handled.
    pub(super) fn redelivery(&self) -> DuplicateHandling {
        self.redelivery
    }

    /// What this process knows as the current value of its (type, space, timestamp).
    pub fn current(&self) -> Option<&Current> {
        self.current.as_ref()
    }

    /// The event is to be published, marked so; `lease` ends as the claim does.
    pub fn publish(self, marks: Marks, lease: Option<Lease>) -> Claim {
        let mut stored = self.stored;
        if marks.conflict.is_some() && !self.is_conflict {
            stored.key = key_of_conflict(stored.key, stored.reading);
        }
        stored.current = self.id.and_then(|id| {
            let id = under(&marks, id);
            let revision = becomes(&marks, self.current.as_ref(), stored.reading, &id)?;
            Some(Current {
                reading: stored.reading,
                id,
                revision,
            })
        });
        Claim {
            lease: lease.map(Box::new),
            taken: self.taken,
            marks,
            stored,
        }
    }

    /// The event is not to be published, because another replica has stored it, or has stored its value as the current one;
    /// `spooled`: on its disk, where this replica leaves it: nobody tells it when that is over.
    pub fn stored_elsewhere(mut self, spooled: bool, now: Instant) {
        self.stored.timestamp_ms = None;
        self.taken.settle(self.stored, spooled, now);
    }
}

/// The id under which an event with `id` is published.
pub(super) fn under(marks: &Marks, id: EventId) -> EventId {
    if marks.conflict.is_none() {
        return id;
    }
    let own = marks.own_id(&id.to_string());
    own.map_or(id, |own| EventId::new(&own))
}

/// What is taken in the memory: nobody else can claim it. Dropped unsettled, it is given back.
#[derive(Debug)]
pub(super) struct Taken {
    memory: Arc<Memory>,
    id: u64,
    cell: Option<u64>,
    is_settled: bool,
}

impl Taken {
    /// What the memory has marked as taken.
    pub fn new(memory: Arc<Memory>, id: u64, cell: Option<u64>) -> Self {
        Self {
            memory,
            id,
            cell,
            is_settled: false,
        }
    }

    fn settle(mut self, stored: Stored, spooled: bool, now: Instant) {
        self.is_settled = true;
        self.memory.settle(self.id, self.cell, stored, spooled, now);
    }

    fn contest(mut self, replaces: bool) {
        self.is_settled = true;
        self.memory.contest(self.id, self.cell, replaces);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.is_settled {
            self.memory.release(self.id, self.cell);
        }
    }
}
