//! The rules: what an event is to what is stored.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::shard::{StoredId, WindowShard, with_shard_bits_of};
use super::{LockedShards, MemoryStore, WindowTicks};
use crate::config::DuplicateHandling;
use crate::dedup::claim::{ClaimWaiter, CurrentReading};
use crate::dedup::window::Tick;
use crate::dedup::{DedupVerdict, EventFacts};
use crate::marks::{DuplicateKind, Marks, Revision};
use butlr_event::event_id::EventId;

/// What an event is.
pub(super) enum PlanOutcome {
    /// Not known yet.
    Wait(ClaimWaiter),
    Ready(ClaimPlan),
}

/// What an event is, and what its claim has to take.
pub(super) struct ClaimPlan {
    /// The key of its id, or in a conflict the derived one.
    pub id_key: u64,
    /// Its (type, space, timestamp), where that matters.
    pub occupancy_key: Option<u64>,
    pub verdict: DedupVerdict,
    /// If it becomes the current value: as what revision.
    pub resulting_revision: Option<u32>,
    /// What it is a duplicate of is not in Kafka yet.
    pub is_spooled: bool,
}

/// What is known of an event's id and reading.
enum IdLookup {
    Wait(ClaimWaiter),
    Known {
        key: u64,
        conflict: bool,
        spooled: bool,
    },
    New {
        key: u64,
        conflict: bool,
    },
}

/// What an event is to what is stored, before it is asked how such are handled.
enum Classification {
    New,
    Duplicate(DuplicateKind),
    Revision(Revision),
    Stale,
}

impl MemoryStore {
    /// Judges an event; `id` is given for occupancy. `redelivery`: how such are handled.
    pub(super) fn plan_claim(
        &self,
        facts: &EventFacts<'_>,
        id: Option<&EventId>,
        redelivery: DuplicateHandling,
        locked: &mut LockedShards<'_>,
        now: WindowTicks,
    ) -> PlanOutcome {
        let (key, conflict) = match look_up_id(&mut locked.ids, facts, now.ids_from) {
            IdLookup::Wait(turn) => return PlanOutcome::Wait(turn),
            IdLookup::New { key, conflict } => (key, conflict),
            IdLookup::Known {
                key,
                conflict,
                spooled,
            } => {
                let standing = Classification::Duplicate(DuplicateKind::Redelivery);
                return PlanOutcome::Ready(ClaimPlan {
                    id_key: key,
                    occupancy_key: None,
                    verdict: self.apply_handling(standing, redelivery, conflict, facts),
                    resulting_revision: None,
                    is_spooled: spooled,
                });
            }
        };
        let (Some(cell), Some(id), Some(values)) = (facts.occupancy_key, id, &mut locked.values)
        else {
            return PlanOutcome::Ready(ClaimPlan {
                id_key: key,
                occupancy_key: None,
                verdict: self.apply_handling(Classification::New, redelivery, conflict, facts),
                resulting_revision: None,
                is_spooled: false,
            });
        };
        if let Some(turn) = values.undecided.enqueue_waiter(cell) {
            return PlanOutcome::Wait(turn);
        }
        let value = values.stored.get(cell, now.values_from);
        let spooled = value.is_some_and(|value| {
            value.stored_at.is_spooled() && value.current.reading == facts.reading
        });
        let current = value.map(|value| &value.current);
        let standing = classify(current, facts.reading, id, conflict);
        let verdict = self.apply_handling(standing, redelivery, conflict, facts);
        let resulting_revision = match &verdict {
            DedupVerdict::Publish(marks) => resulting_revision(marks, current, facts.reading, id),
            DedupVerdict::Duplicate(_) => None,
        };
        PlanOutcome::Ready(ClaimPlan {
            id_key: key,
            occupancy_key: Some(cell),
            verdict,
            resulting_revision,
            is_spooled: spooled,
        })
    }

    fn apply_handling(
        &self,
        standing: Classification,
        redelivery: DuplicateHandling,
        conflict: bool,
        facts: &EventFacts<'_>,
    ) -> DedupVerdict {
        let mut marks = Marks {
            conflict: conflict.then_some(facts.reading),
            ..Marks::default()
        };
        match standing {
            Classification::New => {
                let sources = self.sources.lock_for(facts.source_key);
                let newest = sources.get(facts.source_key, 0);
                marks.out_of_order = newest.is_some_and(|s| s.newest_ms > facts.timestamp_ms);
            }
            Classification::Duplicate(kind) => {
                let handling = match kind {
                    DuplicateKind::Redelivery => redelivery,
                    DuplicateKind::Repeat => self.repeat,
                };
                match handling {
                    DuplicateHandling::Drop => return DedupVerdict::Duplicate(kind),
                    DuplicateHandling::Tag => marks.duplicate = Some(kind),
                    DuplicateHandling::Off => {}
                }
            }
            Classification::Revision(revision) => marks.revision = Some(revision),
            Classification::Stale => marks.stale = true,
        }
        DedupVerdict::Publish(marks)
    }
}

fn look_up_id(ids: &mut WindowShard<StoredId>, facts: &EventFacts<'_>, from: Tick) -> IdLookup {
    let mut key = facts.id_hash;
    for conflict in [false, true] {
        if let Some(turn) = ids.undecided.enqueue_waiter(key) {
            return IdLookup::Wait(turn);
        }
        match ids.stored.get(key, from) {
            None => return IdLookup::New { key, conflict },
            Some(id) if id.reading() == facts.reading => {
                let spooled = id.stored_at.is_spooled();
                return IdLookup::Known {
                    key,
                    conflict,
                    spooled,
                };
            }
            Some(_) if conflict => break,
            Some(_) => key = conflict_key(key, facts.reading),
        }
    }
    // Another reading under the derived key as well: chance, once in 2⁵⁶. It goes on being a conflict.
    IdLookup::New {
        key,
        conflict: true,
    }
}

/// What takes the place of an id's key for an event that came under an id of which another reading is stored. Of the same
/// shard.
pub(in crate::dedup) fn conflict_key(id_key: u64, reading: u64) -> u64 {
    with_shard_bits_of(id_key, xxh3_64_with_seed(&reading.to_le_bytes(), id_key))
}

fn classify(
    current: Option<&CurrentReading>,
    reading: u64,
    id: &EventId,
    conflict: bool,
) -> Classification {
    match current {
        None => Classification::New,
        // A repeat, but for its id; never dropped.
        Some(current) if current.reading == reading && conflict => Classification::New,
        Some(current) if current.reading == reading => {
            Classification::Duplicate(DuplicateKind::Repeat)
        }
        Some(current) if is_older(id, &current.id) => Classification::Stale,
        Some(current) => Classification::Revision(Revision {
            number: current.revision.saturating_add(1),
            supersedes: current.id.clone(),
        }),
    }
}

/// By the seconds of their ids; not, where these don't tell.
fn is_older(id: &EventId, than: &EventId) -> bool {
    matches!((id.ksuid_seconds(), than.ksuid_seconds()), (Some(one), Some(other)) if one < other)
}

/// As what revision an event published with `marks` becomes the current value, if it does.
pub(in crate::dedup) fn resulting_revision(
    marks: &Marks,
    current: Option<&CurrentReading>,
    reading: u64,
    id: &EventId,
) -> Option<u32> {
    if marks.stale || marks.duplicate.is_some() {
        return None;
    }
    if let Some(revision) = &marks.revision {
        return Some(revision.number);
    }
    match current {
        Some(current) if current.reading == reading => {
            let stays = marks.conflict.is_some() || is_older(id, &current.id);
            (!stays).then_some(current.revision)
        }
        _ => Some(0),
    }
}
