//! What this process knows to be stored, and what it knows to be undecided.
//!
//! # Meaning
//! An event is compared with what is **stored** only: while another one with the same id, or of the same (type, space,
//! timestamp), is undecided, the newcomer waits. `judge` holds the rules.
//!
//! Where it never becomes known whether an event is stored, its id is not remembered; and a current value that it would have
//! replaced is equal to nothing from then on, because Kafka may have another by now. That costs a copy, where taking it for
//! current would cost an event.
//!
//! # On disk
//! What is in the spool is stored, too: ids and current values say of themselves whether they are not in Kafka yet
//! (`stamp`). `spooled` holds what becomes of them.
//!
//! # Keys
//! Ids, readings and the rest are 64-bit hashes, and what is stored is not kept besides. To drop an event by mistake takes
//! two different ones that agree in two keys: in the id's and the reading's (a redelivery), or in the (type, space,
//! timestamp)'s and the reading's (a repeat); that is 128 bits. Where one key agrees by chance, an event waits
//! without need, or is marked as a conflict or a revision; it is published.
//!
//! # Locks
//! Everything is in shards by key, each with a lock that is held for a fraction of a microsecond. Whoever needs several takes
//! the id's first, then the (type, space, timestamp)'s, then the source's, one of each at most; so claiming is atomic, and
//! nobody can wait in a circle. Those who wait are woken when nothing is locked.

mod rules;
mod shard;
mod size_bound;
mod spooled;
mod stamp;
mod uncertain_keys;

pub(super) use rules::{conflict_key, resulting_revision};
pub(super) use spooled::can_become_current;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::claim::{
    Claim, CommitEntry, CurrentReading, LocalDecision, MemoryDecision, Reservation,
    ReservationOutcome, ReservedKeys, WaiterList, published_id,
};
use super::window::{DedupWindow, Tick};
use super::{DedupVerdict, DuplicateKind, EventFacts};
use crate::config::{self, DuplicateHandling};
use butlr_event::event_id::EventId;
use rules::PlanOutcome;
use shard::{NewestTimestamp, Shards, StoredId, StoredValue, WindowShard};
use stamp::StorageStamp;
use uncertain_keys::UncertainKeys;

/// Ticks a second.
const TICKS_PER_SECOND: u64 = 10;

/// Where the ticks begin before the start: further back than any window reaches.
const START_TICK: Tick = 30 * 86_400 * TICKS_PER_SECOND as Tick;

/// See the module.
pub struct MemoryStore {
    start: Instant,
    id_window: Tick,
    reading_window: Tick,
    redelivery: DuplicateHandling,
    repeat: DuplicateHandling,
    ids: Shards<WindowShard<StoredId>>,
    values: Shards<WindowShard<StoredValue>>,
    sources: Shards<DedupWindow<NewestTimestamp>>,
    /// Locked after a value's shard.
    uncertain_keys: Mutex<UncertainKeys>,
    /// More may come to be known of what was stored before the start.
    is_restoring: AtomicBool,
}

/// How much a [`Memory`] holds.
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

/// Now, and from when on what is stored counts.
#[derive(Clone, Copy)]
struct WindowTicks {
    tick: Tick,
    ids_from: Tick,
    values_from: Tick,
}

/// The shards of an event's id and of its (type, space, timestamp).
struct LockedShards<'m> {
    ids: MutexGuard<'m, WindowShard<StoredId>>,
    values: Option<MutexGuard<'m, WindowShard<StoredValue>>>,
}

impl MemoryStore {
    /// An empty one, at `now`.
    pub fn new(settings: &config::DedupConfig, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            start: now,
            id_window: to_ticks(settings.id_window),
            reading_window: to_ticks(settings.reading_window),
            redelivery: settings.redelivery,
            repeat: settings.repeat,
            ids: Shards::new(settings.max_ids, WindowShard::new),
            values: Shards::new(settings.max_readings, WindowShard::new),
            sources: Shards::new(settings.max_readings, DedupWindow::new),
            uncertain_keys: Mutex::default(),
            is_restoring: AtomicBool::new(true),
        })
    }

    /// What to do with an event by what this process knows; what is to be published is claimed. Waits for nothing.
    pub fn claim(self: &Arc<Self>, facts: &EventFacts<'_>, now: Instant) -> MemoryDecision {
        self.claim_with(facts, self.redelivery, now)
    }

    /// The same for bytes that are no event: no copy of them is ever published.
    pub fn claim_rejected_item(
        self: &Arc<Self>,
        facts: &EventFacts<'_>,
        now: Instant,
    ) -> MemoryDecision {
        self.claim_with(facts, DuplicateHandling::Drop, now)
    }

    fn claim_with(
        self: &Arc<Self>,
        facts: &EventFacts<'_>,
        redelivery: DuplicateHandling,
        now: Instant,
    ) -> MemoryDecision {
        let now = self.window_ticks(now);
        let id = facts.occupancy_key.map(|_| EventId::new(facts.id));
        let mut locked = self.lock_shards(facts.id_hash, facts.occupancy_key);
        let plan = match self.plan_claim(facts, id.as_ref(), redelivery, &mut locked, now) {
            PlanOutcome::Wait(turn) => return MemoryDecision::Wait(turn),
            PlanOutcome::Ready(is) => is,
        };
        let marks = match plan.verdict {
            DedupVerdict::Publish(marks) => marks,
            DedupVerdict::Duplicate(kind) => {
                let spooled = plan.is_spooled;
                if kind == DuplicateKind::Repeat {
                    let id = StoredId::new(
                        plan.id_key,
                        facts.reading,
                        StorageStamp::new(now.tick, spooled),
                    );
                    locked.ids.stored.insert(id, now.ids_from);
                }
                return MemoryDecision::Duplicate { kind, spooled };
            }
        };
        let taken = self.reserve_keys(&mut locked, plan.id_key, plan.occupancy_key);
        drop(locked);
        let current = plan
            .resulting_revision
            .zip(id)
            .map(|(revision, id)| CurrentReading {
                reading: facts.reading,
                id: published_id(&marks, id),
                revision,
            });
        let stored = CommitEntry::from_facts(facts, plan.id_key, current);
        MemoryDecision::Publish(Claim::new(taken, marks, stored))
    }

    /// The same where others have a say: what this process knows is only an opinion, and the event is held whatever that is;
    /// but a redelivery that is to be dropped is one for good.
    pub fn reserve(self: &Arc<Self>, facts: &EventFacts<'_>, now: Instant) -> ReservationOutcome {
        self.reserve_with(facts, self.redelivery, now)
    }

    /// The same for bytes that are no event: no copy of them is ever published.
    pub fn reserve_rejected_item(
        self: &Arc<Self>,
        facts: &EventFacts<'_>,
        now: Instant,
    ) -> ReservationOutcome {
        self.reserve_with(facts, DuplicateHandling::Drop, now)
    }

    fn reserve_with(
        self: &Arc<Self>,
        facts: &EventFacts<'_>,
        redelivery: DuplicateHandling,
        now: Instant,
    ) -> ReservationOutcome {
        let now = self.window_ticks(now);
        let id = facts.occupancy_key.map(|_| EventId::new(facts.id));
        let mut locked = self.lock_shards(facts.id_hash, facts.occupancy_key);
        let plan = match self.plan_claim(facts, id.as_ref(), redelivery, &mut locked, now) {
            PlanOutcome::Wait(turn) => return ReservationOutcome::Wait(turn),
            PlanOutcome::Ready(is) => is,
        };
        if plan.verdict == DedupVerdict::Duplicate(DuplicateKind::Redelivery) {
            return ReservationOutcome::Redelivery {
                spooled: plan.is_spooled,
            };
        }
        let current = plan
            .occupancy_key
            .zip(locked.values.as_ref())
            .and_then(|(cell, values)| {
                let value = values.stored.get(cell, now.values_from)?;
                Some(value.current.clone())
            });
        let taken = self.reserve_keys(&mut locked, plan.id_key, plan.occupancy_key);
        drop(locked);
        let stored = CommitEntry::from_facts(facts, plan.id_key, None);
        let id = id.filter(|_| plan.occupancy_key.is_some());
        let opinion = LocalDecision {
            verdict: plan.verdict,
            current,
            is_conflict: plan.id_key != facts.id_hash,
            is_repeat_of_spooled: plan.occupancy_key.is_some() && plan.is_spooled,
            redelivery_handling: redelivery,
        };
        ReservationOutcome::Reserved(Reservation::new(taken, opinion, stored, id))
    }

    /// Frees what is past its window. To be called every now and then.
    pub fn sweep(&self, now: Instant) {
        let now = self.window_ticks(now);
        self.ids.sweep(|ids| ids.stored.sweep(now.ids_from));
        self.values.sweep(|values| {
            let on_forget = self.on_value_forgotten();
            values.stored.sweep_with(now.values_from, on_forget)
        });
    }

    /// How much it holds; past entries that are not freed yet included.
    pub fn entry_counts(&self) -> EntryCounts {
        EntryCounts {
            ids: self.ids.sum(|ids| ids.stored.len()),
            readings: self.values.sum(|values| values.stored.len()),
            sources: self.sources.sum(DedupWindow::len),
            undecided: self.ids.sum(|ids| ids.undecided.len()),
        }
    }

    /// How many entries had to go before their time so far, because there was no room.
    pub fn evictions(&self) -> u64 {
        self.ids.sum(|ids| ids.stored.evictions())
            + self.values.sum(|values| values.stored.evictions())
            + self.sources.sum(DedupWindow::evictions)
    }

    /// Remembers the id of an event that was stored `age` ago. Whether it did: not where something is known under it, where the
    /// window does not reach back so far, or where there is no room without forgetting something newer.
    pub fn restore_id(
        &self,
        id_key: u64,
        reading: u64,
        conflict: bool,
        age: Duration,
        now: Instant,
    ) -> bool {
        let now = self.window_ticks(now);
        let stamp = StorageStamp::new(now.tick.saturating_sub(to_ticks(age)), false);
        let key = stored_id_key(id_key, reading, conflict);
        let id = StoredId::new(key, reading, stamp);
        self.ids.lock_for(key).stored.restore(id, now.ids_from)
    }

    /// Remembers what was stored as the current value `age` ago; whether it did, as above. Of one (type, space, timestamp) the
    /// last is to be told first: what is told after one that is not remembered, or no longer, was replaced by it, and is equal
    /// to nothing. So is what an event may have replaced that meanwhile ended unknown.
    pub fn restore_current(
        &self,
        cell: u64,
        current: CurrentReading,
        age: Duration,
        now: Instant,
    ) -> bool {
        let now = self.window_ticks(now);
        let stamp = StorageStamp::new(now.tick.saturating_sub(to_ticks(age)), false);
        self.restore_value(cell, current, stamp, now)
    }

    fn restore_value(
        &self,
        cell: u64,
        mut current: CurrentReading,
        stored_at: StorageStamp,
        now: WindowTicks,
    ) -> bool {
        let mut values = self.values.lock_for(cell);
        // Past or not, it is newer.
        if values.stored.get(cell, 0).is_some() {
            return false;
        }
        if self.lock_uncertain_keys().contains(cell) {
            current.invalidate();
        }
        let value = StoredValue {
            occupancy_key: cell,
            current,
            stored_at,
        };
        let is_restored = values.stored.restore(value, now.values_from);
        if !is_restored {
            // Past, or no room.
            self.lock_uncertain_keys().insert(cell);
        }
        is_restored
    }

    /// Something too old to be remembered became the value of `cell`: what is told of that from now on was replaced by it.
    pub fn mark_uncertain(&self, cell: u64) {
        let values = self.values.lock_for(cell);
        if values.stored.get(cell, 0).is_none() {
            self.lock_uncertain_keys().insert(cell);
        }
    }

    /// Nothing more will be restored.
    pub fn finish_restoring(&self) {
        self.lock_uncertain_keys().close();
        self.is_restoring.store(false, Ordering::Relaxed);
    }

    /// Remembers the time of an event that was stored, if there is room.
    pub fn restore_newest(&self, source: u64, timestamp_ms: i64) {
        let mut sources = self.sources.lock_for(source);
        match sources.get_mut(source) {
            Some(known) => known.advance(timestamp_ms),
            None => _ = sources.restore(NewestTimestamp::new(source, timestamp_ms), 0),
        }
    }

    /// What was taken is given back.
    pub(super) fn release(&self, id: u64, cell: Option<u64>) {
        let mut locked = self.lock_shards(id, cell);
        let waiting = locked.remove_undecided(id, cell);
        drop(locked);
        waiting.into_iter().for_each(WaiterList::wake_all);
    }

    /// What was taken is given back, and nobody knows whether it is stored; `replaces`: it would have become the current
    /// value.
    pub(super) fn release_in_doubt(&self, id: u64, cell: Option<u64>, would_replace: bool) {
        let mut locked = self.lock_shards(id, cell);
        let waiting = locked.remove_undecided(id, cell);
        if let (Some(cell), Some(values), true) = (cell, &mut locked.values, would_replace) {
            if let Some(value) = values.stored.get_mut(cell) {
                value.current.invalidate();
            }
            // What it replaced may come to be known later.
            self.lock_uncertain_keys().insert(cell);
        }
        drop(locked);
        waiting.into_iter().for_each(WaiterList::wake_all);
    }

    /// What was taken is stored; `spooled`: on disk.
    pub(super) fn commit(
        &self,
        id: u64,
        cell: Option<u64>,
        stored: CommitEntry,
        spooled: bool,
        now: Instant,
    ) {
        let now = self.window_ticks(now);
        let stamp = StorageStamp::new(now.tick, spooled);
        let mut locked = self.lock_shards(id, cell);
        let waiting = locked.remove_undecided(id, cell);
        let entry = StoredId::new(stored.id_key, stored.reading, stamp);
        locked.ids.stored.insert(entry, now.ids_from);
        if let (Some(cell), Some(values), Some(current)) =
            (cell, &mut locked.values, stored.current)
        {
            let value = StoredValue {
                occupancy_key: cell,
                current,
                stored_at: stamp,
            };
            let on_forget = self.on_value_forgotten();
            let stored = &mut values.stored;
            stored.insert_with(value, now.values_from, on_forget);
        }
        if let Some(timestamp_ms) = stored.timestamp_ms {
            self.update_newest(stored.source, timestamp_ms);
        }
        drop(locked);
        waiting.into_iter().for_each(WaiterList::wake_all);
    }

    /// To be told of a value, while its shard is locked, that is no longer held: what is restored after it would be taken for
    /// current, though it was replaced by it. Once nothing is restored any more that does not matter, and nothing is locked.
    fn on_value_forgotten(&self) -> impl FnMut(u64) {
        let is_restoring = self.is_restoring.load(Ordering::Relaxed);
        move |cell| {
            if is_restoring {
                self.lock_uncertain_keys().insert(cell);
            }
        }
    }

    fn lock_uncertain_keys(&self) -> MutexGuard<'_, UncertainKeys> {
        // A panic while this short lock is held leaves nothing half-done behind.
        self.uncertain_keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn update_newest(&self, source: u64, timestamp_ms: i64) {
        let mut sources = self.sources.lock_for(source);
        match sources.get_mut(source) {
            Some(known) => known.advance(timestamp_ms),
            None => sources.insert(NewestTimestamp::new(source, timestamp_ms), 0),
        }
    }

    fn lock_shards(&self, id: u64, cell: Option<u64>) -> LockedShards<'_> {
        LockedShards {
            ids: self.ids.lock_for(id),
            values: cell.map(|cell| self.values.lock_for(cell)),
        }
    }

    fn reserve_keys(
        self: &Arc<Self>,
        locked: &mut LockedShards<'_>,
        id: u64,
        cell: Option<u64>,
    ) -> ReservedKeys {
        locked.ids.undecided.insert(id);
        if let (Some(cell), Some(values)) = (cell, &mut locked.values) {
            values.undecided.insert(cell);
        }
        ReservedKeys::new(Arc::clone(self), id, cell)
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
        // Each claim holds it: not its millions of entries.
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl LockedShards<'_> {
    fn remove_undecided(&mut self, id: u64, cell: Option<u64>) -> [WaiterList; 2] {
        let values = cell.zip(self.values.as_mut());
        [
            self.ids.undecided.remove(id),
            values.map_or_else(WaiterList::default, |(cell, values)| {
                values.undecided.remove(cell)
            }),
        ]
    }
}

/// Where an event is remembered, of which `conflict` says whether another one is stored under its id.
fn stored_id_key(id_key: u64, reading: u64, conflict: bool) -> u64 {
    match conflict {
        true => conflict_key(id_key, reading),
        false => id_key,
    }
}

fn to_ticks(duration: Duration) -> Tick {
    let ticks = duration.as_secs() * TICKS_PER_SECOND
        + u64::from(duration.subsec_millis()) * TICKS_PER_SECOND / 1000;
    Tick::try_from(ticks).unwrap_or(Tick::MAX)
}

#[cfg(test)]
mod tests;
