//! Plans a claim: looks up an event under the locks, and applies the rules.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::shard::{StoredId, WindowShard, with_shard_bits_of};
use super::{LockedShards, MemoryStore, WindowTicks};
use crate::dedup::claim::ClaimWaiter;
use crate::dedup::keys::{IdHash, OccupancyKey, ReadingHash};
use crate::dedup::rules::{Classification, HandlingPolicy, OccupancyCandidate, resulting_revision};
use crate::dedup::window::Tick;
use crate::dedup::{DedupVerdict, EventFacts, StorageLocation};
use crate::marks::{DuplicateKind, Marks};
use butlr_event::event_id::EventId;

/// The verdict on an event, and the keys that its claim must reserve.
pub(super) struct ClaimPlan {
    /// Hash of its id, or the derived key of a conflict.
    pub id_key: IdHash,
    /// Its (type, space, timestamp), if the claim must reserve it.
    pub occupancy_key: Option<OccupancyKey>,
    pub verdict: DedupVerdict,
    /// The revision number with which it becomes the current value, if it does.
    pub resulting_revision: Option<u32>,
    /// Place of the stored event that it duplicates.
    pub storage: StorageLocation,
}

/// Result of looking up an event's id and reading.
struct IdMatch {
    /// The key under which the event is, or will be, stored.
    key: IdHash,
    /// Another reading is stored under the event's id.
    is_conflict: bool,
    /// `None` if the event is not stored.
    stored: Option<StorageLocation>,
}

impl MemoryStore {
    /// Plans a claim on an event; `id` is given for occupancy.
    ///
    /// # Errors
    /// Another claim on the event's id or (type, space, timestamp) is undecided.
    pub(super) fn plan_claim(
        &self,
        facts: &EventFacts<'_>,
        id: Option<&EventId>,
        locked: &mut LockedShards<'_>,
        now: WindowTicks,
    ) -> Result<ClaimPlan, ClaimWaiter> {
        let found = look_up_id(&mut locked.ids, facts, now.ids_from)?;
        let policy = self.policy(facts);
        let marks = Marks {
            conflict: found.is_conflict.then_some(facts.reading.0),
            ..Marks::default()
        };
        let is_out_of_order = || self.is_out_of_order(facts);
        let plan = |classification: Classification, policy: HandlingPolicy| ClaimPlan {
            id_key: found.key,
            occupancy_key: None,
            verdict: classification.into_verdict(policy, marks, is_out_of_order),
            resulting_revision: None,
            storage: StorageLocation::Published,
        };
        if let Some(storage) = found.stored {
            let redelivery = Classification::Duplicate(DuplicateKind::Redelivery);
            return Ok(ClaimPlan {
                storage,
                ..plan(redelivery, policy)
            });
        }
        let (Some(key), Some(id), Some(values)) = (facts.occupancy_key, id, &mut locked.values)
        else {
            return Ok(plan(Classification::New, policy));
        };
        if let Some(waiter) = values.undecided.enqueue_waiter(key) {
            return Err(waiter);
        }
        let value = values.stored.get(key, now.values_from);
        let current = value.map(|value| &value.current);
        let candidate = OccupancyCandidate {
            id,
            reading: facts.reading,
            is_conflict: found.is_conflict,
        };
        let plan = plan(candidate.classify(current), policy);
        let resulting_revision = match &plan.verdict {
            DedupVerdict::Publish(marks) => resulting_revision(marks, current, facts.reading, id),
            DedupVerdict::Duplicate(_) => None,
        };
        let equal = value.filter(|value| value.current.reading == facts.reading);
        Ok(ClaimPlan {
            occupancy_key: Some(key),
            resulting_revision,
            storage: equal.map_or(StorageLocation::Published, |value| {
                value.stored_at.storage()
            }),
            ..plan
        })
    }

    fn is_out_of_order(&self, facts: &EventFacts<'_>) -> bool {
        let sources = self.sources.lock_for(facts.source_key);
        let newest = sources.get(facts.source_key, 0);
        newest.is_some_and(|s| s.newest_ms > facts.timestamp_ms)
    }
}

fn look_up_id(
    ids: &mut WindowShard<StoredId>,
    facts: &EventFacts<'_>,
    from: Tick,
) -> Result<IdMatch, ClaimWaiter> {
    let mut key = facts.id_hash;
    for is_conflict in [false, true] {
        if let Some(waiter) = ids.undecided.enqueue_waiter(key) {
            return Err(waiter);
        }
        let stored = match ids.stored.get(key, from) {
            None => None,
            Some(id) if id.reading() == facts.reading => Some(id.stored_at.storage()),
            Some(_) if is_conflict => break,
            Some(_) => {
                key = conflict_key(key, facts.reading);
                continue;
            }
        };
        return Ok(IdMatch {
            key,
            is_conflict,
            stored,
        });
    }
    // Another reading under the derived key as well: chance, once in 2⁵⁶. It stays a conflict.
    Ok(IdMatch {
        key,
        is_conflict: true,
        stored: None,
    })
}

/// Returns the key that replaces the id's hash for an event whose id is stored with another
/// reading. It is in the same shard.
pub(in crate::dedup) fn conflict_key(id_key: IdHash, reading: ReadingHash) -> IdHash {
    let hash = xxh3_64_with_seed(&reading.0.to_le_bytes(), id_key.0);
    IdHash(with_shard_bits_of(id_key.0, hash))
}
