//! The events that this process knows to be stored, and the keys that are undecided.
//!
//! # Meaning
//! An event is compared only with what is **stored**. While another event with the same id, or of
//! the same (type, space, timestamp), is undecided, the newcomer waits. `rules` holds the rules,
//! `plan` applies them under the locks.
//!
//! If an event ends in doubt, its id is not remembered. The current value that it would have
//! replaced is then equal to no reading, because Kafka may have another one by now. That costs a
//! copy; relying on the value would cost an event.
//!
//! # Spool
//! Spooled events count as stored. Each id and current value records whether it is in Kafka yet
//! (`stamp`). `spooled` handles what becomes of them; `restore` reads them back after a start.
//!
//! # Keys
//! Ids, readings and the rest are 64-bit hashes; the originals are not kept. An event is dropped by
//! mistake only if two different ones agree in two keys, 128 bits in all: the id's and the
//! reading's (a redelivery), or the (type, space, timestamp)'s and the reading's (a repeat). If one
//! key agrees by chance, an event waits without need, or is marked as a conflict or a revision; it
//! is published.
//!
//! # Locks
//! Everything is in shards by key, each with a lock that is held for a fraction of a microsecond.
//! Code that needs several locks takes the id's first, then the (type, space, timestamp)'s, then
//! the source's, at most one of each. So claiming is atomic and cannot deadlock. Waiters are woken
//! while no lock is held.

mod plan;
mod restore;
mod shard;
mod size_bound;
mod spooled;
mod stamp;
mod uncertain_keys;

pub(super) use plan::conflict_key;
pub use restore::RestoredParts;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::claim::{
    Claim, ClaimWaiter, CommitEntry, CurrentReading, Decision, LocalDecision, Reservation,
    ReservationOutcome, ReservedKeys, WaiterList, published_id,
};
use super::facts::SourceTime;
use super::keys::{IdHash, OccupancyKey, ReadingHash};
use super::rules::HandlingPolicy;
use super::window::{DedupWindow, Tick};
use super::{DedupVerdict, DuplicateKind, EventFacts, StorageLocation};
use crate::config::{self, DuplicateHandling};
use butlr_event::event_id::EventId;
use shard::{NewestTimestamp, Shards, StoredId, StoredValue, WindowShard};
use stamp::StorageStamp;
use uncertain_keys::UncertainKeys;

const TICKS_PER_SECOND: u64 = 10;

/// Tick of the start: further from zero than any window reaches back.
const START_TICK: Tick = 30 * 86_400 * TICKS_PER_SECOND as Tick;

/// Window of the stored events; see the module.
pub struct MemoryStore {
    start: Instant,
    id_window: Tick,
    reading_window: Tick,
    policy: HandlingPolicy,
    ids: Shards<WindowShard<StoredId>>,
    values: Shards<WindowShard<StoredValue>>,
    sources: Shards<DedupWindow<NewestTimestamp>>,
    /// Locked after a value's shard.
    uncertain_keys: Mutex<UncertainKeys>,
    /// Events stored before the start are still being restored.
    is_restoring: AtomicBool,
}

/// Number of entries in a [`MemoryStore`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryCounts {
    /// Ids of stored events.
    pub ids: usize,
    /// Current values.
    pub readings: usize,
    /// Spaces and sensors whose newest event is known.
    pub sources: usize,
    /// Undecided events.
    pub undecided: usize,
}

/// The current tick, and the first ticks inside the windows.
#[derive(Clone, Copy)]
struct WindowTicks {
    tick: Tick,
    ids_from: Tick,
    values_from: Tick,
}

/// The locked shards of an event's id and of its (type, space, timestamp).
struct LockedShards<'m> {
    ids: MutexGuard<'m, WindowShard<StoredId>>,
    values: Option<MutexGuard<'m, WindowShard<StoredValue>>>,
}

impl MemoryStore {
    /// Creates an empty store.
    pub fn new(settings: &config::DedupConfig, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            start: now,
            id_window: to_ticks(settings.id_window),
            reading_window: to_ticks(settings.reading_window),
            policy: HandlingPolicy {
                redelivery: settings.redelivery,
                repeat: settings.repeat,
            },
            ids: Shards::new(settings.max_ids, WindowShard::new),
            values: Shards::new(settings.max_readings, WindowShard::new),
            sources: Shards::new(settings.max_readings, DedupWindow::new),
            uncertain_keys: Mutex::default(),
            is_restoring: AtomicBool::new(true),
        })
    }

    /// Decides about an event by what this process knows, and claims it if it is to be published.
    /// Never blocks.
    ///
    /// # Errors
    /// Another claim on the same event is undecided: wait, then claim again.
    pub fn claim(
        self: &Arc<Self>,
        facts: &EventFacts<'_>,
        now: Instant,
    ) -> Result<Decision, ClaimWaiter> {
        let now = self.window_ticks(now);
        let id = facts.occupancy_key.map(|_| EventId::new(facts.id));
        let mut locked = self.lock_shards(facts.id_hash, facts.occupancy_key);
        let plan = self.plan_claim(facts, id.as_ref(), &mut locked, now)?;
        let marks = match plan.verdict {
            DedupVerdict::Publish(marks) => marks,
            DedupVerdict::Duplicate(kind) => {
                let storage = plan.storage;
                if kind == DuplicateKind::Repeat {
                    let stamp = StorageStamp::new(now.tick, storage);
                    let id = StoredId::new(plan.id_key, facts.reading, stamp);
                    locked.ids.stored.insert(id, now.ids_from);
                }
                return Ok(Decision::Duplicate { kind, storage });
            }
        };
        let reserved = self.reserve_keys(&mut locked, plan.id_key, plan.occupancy_key);
        drop(locked);
        let current = plan
            .resulting_revision
            .zip(id)
            .map(|(revision, id)| CurrentReading {
                reading: facts.reading,
                id: published_id(&marks, id),
                revision,
            });
        let entry = CommitEntry::from_facts(facts, plan.id_key, current);
        Ok(Decision::Publish(Claim::new(reserved, marks, entry)))
    }

    /// Reserves an event whose decision belongs to Redis. The verdict of this process is
    /// preliminary and the event is reserved whatever it is, except that a redelivery to be dropped
    /// is final.
    pub fn reserve(self: &Arc<Self>, facts: &EventFacts<'_>, now: Instant) -> ReservationOutcome {
        let now = self.window_ticks(now);
        let id = facts.occupancy_key.map(|_| EventId::new(facts.id));
        let mut locked = self.lock_shards(facts.id_hash, facts.occupancy_key);
        let plan = match self.plan_claim(facts, id.as_ref(), &mut locked, now) {
            Ok(plan) => plan,
            Err(waiter) => return ReservationOutcome::Wait(waiter),
        };
        if plan.verdict == DedupVerdict::Duplicate(DuplicateKind::Redelivery) {
            return ReservationOutcome::Redelivery {
                storage: plan.storage,
            };
        }
        let current = plan
            .occupancy_key
            .zip(locked.values.as_ref())
            .and_then(|(key, values)| {
                let value = values.stored.get(key, now.values_from)?;
                Some(value.current.clone())
            });
        let reserved = self.reserve_keys(&mut locked, plan.id_key, plan.occupancy_key);
        drop(locked);
        let entry = CommitEntry::from_facts(facts, plan.id_key, None);
        let id = id.filter(|_| plan.occupancy_key.is_some());
        let local = LocalDecision {
            verdict: plan.verdict,
            current,
            is_conflict: plan.id_key != facts.id_hash,
            repeat_storage: match plan.occupancy_key {
                Some(_) => plan.storage,
                None => StorageLocation::Published,
            },
            redelivery: self.policy(facts).redelivery,
        };
        ReservationOutcome::Reserved(Reservation::new(reserved, local, entry, id))
    }

    /// The policy for an event. Copies of a rejected item are always dropped.
    fn policy(&self, facts: &EventFacts<'_>) -> HandlingPolicy {
        if facts.event_type.is_some() {
            self.policy
        } else {
            HandlingPolicy {
                redelivery: DuplicateHandling::Drop,
                ..self.policy
            }
        }
    }

    /// Frees expired entries. Call it now and then.
    pub fn sweep(&self, now: Instant) {
        let now = self.window_ticks(now);
        self.ids.sweep(|ids| ids.stored.sweep(now.ids_from));
        self.values.sweep(|values| {
            let on_forget = self.on_value_forgotten();
            values.stored.sweep_with(now.values_from, on_forget)
        });
    }

    /// The number of entries, expired ones that are not freed yet included.
    pub fn entry_counts(&self) -> EntryCounts {
        EntryCounts {
            ids: self.ids.sum(|ids| ids.stored.len()),
            readings: self.values.sum(|values| values.stored.len()),
            sources: self.sources.sum(DedupWindow::len),
            undecided: self.ids.sum(|ids| ids.undecided.len()),
        }
    }

    /// The number of entries so far that were removed before they expired, for lack of room.
    pub fn evictions(&self) -> u64 {
        self.ids.sum(|ids| ids.stored.evictions())
            + self.values.sum(|values| values.stored.evictions())
            + self.sources.sum(DedupWindow::evictions)
    }

    /// Releases reserved keys of an event that is certainly not stored.
    pub(super) fn release(&self, reserved: &ReservedKeys) {
        self.finish(reserved, |_| ());
    }

    /// Releases reserved keys of an event that may be stored. If it would have become the current
    /// value, that value is no longer relied on.
    pub(super) fn release_in_doubt(&self, reserved: &ReservedKeys, entry: &CommitEntry) {
        self.finish(reserved, |locked| {
            if let (Some(key), Some(values)) = (reserved.occupancy_key, &mut locked.values)
                && entry.current.is_some()
            {
                if let Some(value) = values.stored.get_mut(key) {
                    value.current.invalidate();
                }
                // The value that it replaced may still be restored.
                self.lock_uncertain_keys().insert(key);
            }
        });
    }

    /// Records that the event with these reserved keys is stored.
    pub(super) fn commit(
        &self,
        reserved: &ReservedKeys,
        entry: CommitEntry,
        storage: StorageLocation,
        now: Instant,
    ) {
        let now = self.window_ticks(now);
        let stored_at = StorageStamp::new(now.tick, storage);
        self.finish(reserved, |locked| {
            let id = StoredId::new(entry.id_key, entry.reading, stored_at);
            locked.ids.stored.insert(id, now.ids_from);
            if let (Some(occupancy_key), Some(values), Some(current)) =
                (reserved.occupancy_key, &mut locked.values, entry.current)
            {
                let value = StoredValue {
                    occupancy_key,
                    current,
                    stored_at,
                };
                let on_forget = self.on_value_forgotten();
                values.stored.insert_with(value, now.values_from, on_forget);
            }
            if let Some(newest) = entry.newest {
                self.update_newest(newest);
            }
        });
    }

    /// Marks reserved keys as decided and updates the entries, under the same locks. Wakes the
    /// waiters afterwards.
    fn finish(&self, reserved: &ReservedKeys, update: impl FnOnce(&mut LockedShards<'_>)) {
        let mut locked = self.lock_shards(reserved.id_key, reserved.occupancy_key);
        let waiting = locked.remove_undecided(reserved);
        update(&mut locked);
        drop(locked);
        waiting.into_iter().for_each(WaiterList::wake_all);
    }

    /// Returns a callback for values that are removed while their shard is locked. While the window
    /// is being restored, a value restored later would count as current although the removed
    /// one replaced it. After that the callback does nothing and takes no lock.
    fn on_value_forgotten(&self) -> impl FnMut(OccupancyKey) {
        let is_restoring = self.is_restoring.load(Ordering::Relaxed);
        move |key| {
            if is_restoring {
                self.lock_uncertain_keys().insert(key);
            }
        }
    }

    fn lock_uncertain_keys(&self) -> MutexGuard<'_, UncertainKeys> {
        // A panic under this short lock leaves nothing half-done.
        self.uncertain_keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn update_newest(&self, time: SourceTime) {
        let mut sources = self.sources.lock_for(time.source_key);
        match sources.get_mut(time.source_key) {
            Some(known) => known.advance(time.timestamp_ms),
            None => sources.insert(NewestTimestamp::new(time), 0),
        }
    }

    fn lock_shards(&self, id_key: IdHash, occupancy_key: Option<OccupancyKey>) -> LockedShards<'_> {
        LockedShards {
            ids: self.ids.lock_for(id_key),
            values: occupancy_key.map(|key| self.values.lock_for(key)),
        }
    }

    fn reserve_keys(
        self: &Arc<Self>,
        locked: &mut LockedShards<'_>,
        id_key: IdHash,
        occupancy_key: Option<OccupancyKey>,
    ) -> ReservedKeys {
        locked.ids.undecided.insert(id_key);
        if let (Some(key), Some(values)) = (occupancy_key, &mut locked.values) {
            values.undecided.insert(key);
        }
        ReservedKeys::new(Arc::clone(self), id_key, occupancy_key)
    }

    fn window_ticks(&self, now: Instant) -> WindowTicks {
        let since = to_ticks(now.saturating_duration_since(self.start));
        let tick = START_TICK.saturating_add(since).min(stamp::LAST_TICK);
        WindowTicks {
            tick,
            ids_from: tick.saturating_sub(self.id_window),
            values_from: tick.saturating_sub(self.reading_window),
        }
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every claim refers to it: do not print its millions of entries.
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl LockedShards<'_> {
    fn remove_undecided(&mut self, reserved: &ReservedKeys) -> [WaiterList; 2] {
        let values = reserved.occupancy_key.zip(self.values.as_mut());
        [
            self.ids.undecided.remove(reserved.id_key),
            values.map_or_else(WaiterList::default, |(key, values)| {
                values.undecided.remove(key)
            }),
        ]
    }
}

/// Returns the key under which an event's id is stored. `conflict` is the event's reading if
/// another reading is stored under its id.
fn stored_id_key(id_hash: IdHash, conflict: Option<ReadingHash>) -> IdHash {
    conflict.map_or(id_hash, |reading| conflict_key(id_hash, reading))
}

fn to_ticks(duration: Duration) -> Tick {
    let ticks = duration.as_secs() * TICKS_PER_SECOND
        + u64::from(duration.subsec_millis()) * TICKS_PER_SECOND / 1000;
    Tick::try_from(ticks).unwrap_or(Tick::MAX)
}

#[cfg(test)]
mod tests;
