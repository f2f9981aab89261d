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

mod doubts;
mod judge;
mod room;
mod shard;
mod spooled;
mod stamp;

pub(super) use judge::{becomes, key_of_conflict};
pub(super) use spooled::makes_current;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::claim::{Claim, Current, Held, Hold, Next, Opinion, Stored, Taken, Waiting, under};
use super::window::{Tick, Window};
use super::{Duplicate, Facts, Verdict};
use crate::config::{self, DuplicateHandling};
use butlr_event::event_id::EventId;
use doubts::Doubts;
use judge::Judged;
use shard::{Id, Shard, Shards, Source, Value};
use stamp::Stamp;

/// Ticks a second.
const TICKS: u64 = 10;

/// Where the ticks begin before the start: further back than any window reaches.
const BEFORE_START: Tick = 30 * 86_400 * TICKS as Tick;

/// See the module.
pub struct Memory {
    start: Instant,
    id_window: Tick,
    reading_window: Tick,
    redelivery: DuplicateHandling,
    repeat: DuplicateHandling,
    ids: Shards<Shard<Id>>,
    values: Shards<Shard<Value>>,
    sources: Shards<Window<Source>>,
    /// Locked after a value's shard.
    doubts: Mutex<Doubts>,
    /// More may come to be known of what was stored before the start.
    is_restoring: AtomicBool,
}

/// How much a [`Memory`] holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Ids of stored events.
    pub ids: usize,
    /// Current values.
    pub readings: usize,
    /// Spaces and sensors whose newest event is known.
    pub sources: usize,
    /// Undecided events.
    pub open: usize,
}

/// Now, and from when on what is stored counts.
#[derive(Clone, Copy)]
struct Moment {
    tick: Tick,
    ids_from: Tick,
    values_from: Tick,
}

/// The shards of an event's id and of its (type, space, timestamp).
struct Locked<'m> {
    ids: MutexGuard<'m, Shard<Id>>,
    values: Option<MutexGuard<'m, Shard<Value>>>,
}

impl Memory {
    /// An empty one, at `now`.
    pub fn new(settings: &config::DedupConfig, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            start: now,
            id_window: ticks(settings.id_window),
            reading_window: ticks(settings.reading_window),
            redelivery: settings.redelivery,
            repeat: settings.repeat,
            ids: Shards::new(settings.max_ids, Shard::new),
            values: Shards::new(settings.max_readings, Shard::new),
            sources: Shards::new(settings.max_readings, Window::new),
            doubts: Mutex::default(),
            is_restoring: AtomicBool::new(true),
        })
    }

    /// What to do with an event by what this process knows; what is to be published is claimed. Waits for nothing.
    pub fn claim(self: &Arc<Self>, facts: &Facts<'_>, now: Instant) -> Next {
        self.claim_where(facts, self.redelivery, now)
    }

    /// The same for bytes that are no event: no copy of them is ever published.
    pub fn claim_bytes(self: &Arc<Self>, facts: &Facts<'_>, now: Instant) -> Next {
        self.claim_where(facts, DuplicateHandling::Drop, now)
    }

    fn claim_where(
        self: &Arc<Self>,
        facts: &Facts<'_>,
        redelivery: DuplicateHandling,
        now: Instant,
    ) -> Next {
        let now = self.moment(now);
        let id = facts.cell.map(|_| EventId::new(facts.id));
        let mut locked = self.locked(facts.id_key, facts.cell);
        let is = match self.judge(facts, id.as_ref(), redelivery, &mut locked, now) {
            Judged::Wait(turn) => return Next::Wait(turn),
            Judged::Is(is) => is,
        };
        let marks = match is.verdict {
            Verdict::Publish(marks) => marks,
            Verdict::Duplicate(kind) => {
                let spooled = is.spooled;
                if kind == Duplicate::Repeat {
                    let id = Id::new(is.key, facts.reading, Stamp::new(now.tick, spooled));
                    locked.ids.stored.insert(id, now.ids_from);
                }
                return Next::Duplicate { kind, spooled };
            }
        };
        let taken = self.take(&mut locked, is.key, is.cell);
        drop(locked);
        let current = is.becomes.zip(id).map(|(revision, id)| Current {
            reading: facts.reading,
            id: under(&marks, id),
            revision,
        });
        let stored = Stored::of(facts, is.key, current);
        Next::Publish(Claim::new(taken, marks, stored))
    }

    /// The same where others have a say: what this process knows is only an opinion, and the event is held whatever that is;
    /// but a redelivery that is to be dropped is one for good.
    pub fn hold(self: &Arc<Self>, facts: &Facts<'_>, now: Instant) -> Held {
        self.hold_where(facts, self.redelivery, now)
    }

    /// The same for bytes that are no event: no copy of them is ever published.
    pub fn hold_bytes(self: &Arc<Self>, facts: &Facts<'_>, now: Instant) -> Held {
        self.hold_where(facts, DuplicateHandling::Drop, now)
    }

    fn hold_where(self: &Arc<Self>, facts: &Facts<'_>, redelivery: DuplicateHandling, now: Instant) -> Held {
        let now = self.moment(now);
        let id = facts.cell.map(|_| EventId::new(facts.id));
        let mut locked = self.locked(facts.id_key, facts.cell);
        let is = match self.judge(facts, id.as_ref(), redelivery, &mut locked, now) {
            Judged::Wait(turn) => return Held::Wait(turn),
            Judged::Is(is) => is,
        };
        if is.verdict == Verdict::Duplicate(Duplicate::Redelivery) {
            return Held::Redelivery {
                spooled: is.spooled,
            };
        }
        let current = is
            .cell
            .zip(locked.values.as_ref())
            .and_then(|(cell, values)| {
                let value = values.stored.get(cell, now.values_from)?;
                Some(value.current.clone())
            });
        let taken = self.take(&mut locked, is.key, is.cell);
        drop(locked);
        let stored = Stored::of(facts, is.key, None);
        let id = id.filter(|_| is.cell.is_some());
        let opinion = Opinion {
            verdict: is.verdict,
            current,
            is_conflict: is.key != facts.id_key,
            repeats_spooled: is.cell.is_some() && is.spooled,
            redelivery,
        };
        Held::Hold(Hold::new(taken, opinion, stored, id))
    }

    /// Frees what is past its window. To be called every now and then.
    pub fn sweep(&self, now: Instant) {
        let now = self.moment(now);
        self.ids.sweep(|ids| ids.stored.sweep(now.ids_from));
        self.values.sweep(|values| {
            let forgets = self.forgets_value();
            values.stored.sweep_telling(now.values_from, forgets)
        });
    }

    /// How much it holds; past entries that are not freed yet included.
    pub fn entries(&self) -> Entries {
        Entries {
            ids: self.ids.sum(|ids| ids.stored.len()),
            readings: self.values.sum(|values| values.stored.len()),
            sources: self.sources.sum(Window::len),
            open: self.ids.sum(|ids| ids.undecided.len()),
        }
    }

    /// How many entries had to go before their time so far, because there was no room.
    pub fn evictions(&self) -> u64 {
        self.ids.sum(|ids| ids.stored.evictions())
            + self.values.sum(|values| values.stored.evictions())
            + self.sources.sum(Window::evictions)
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
        let now = self.moment(now);
        let stamp = Stamp::new(now.tick.saturating_sub(ticks(age)), false);
        let key = key_under(id_key, reading, conflict);
        let id = Id::new(key, reading, stamp);
        self.ids.of(key).stored.restore(id, now.ids_from)
    }

    /// Remembers what was stored as the current value `age` ago; whether it did, as above. Of one (type, space, timestamp) the
    /// last is to be told first: what is told after one that is not remembered, or no longer, was replaced by it, and is equal
    /// to nothing. So is what an event may have replaced that meanwhile ended unknown.
    pub fn restore_current(
        &self,
        cell: u64,
        current: Current,
        age: Duration,
        now: Instant,
    ) -> bool {
        let now = self.moment(now);
        let stamp = Stamp::new(now.tick.saturating_sub(ticks(age)), false);
        self.restore_value(cell, current, stamp, now)
    }

    fn restore_value(
        &self,
        cell: u64,
        mut current: Current,
        stored_at: Stamp,
        now: Moment,
    ) -> bool {
        let mut values = self.values.of(cell);
        // Past or not, it is newer.
        if values.stored.get(cell, 0).is_some() {
            return false;
        }
        if self.doubts().has(cell) {
            current.contest();
        }
        let value = Value {
            cell,
            current,
            stored_at,
        };
        let taken = values.stored.restore(value, now.values_from);
        if !taken {
            // Past, or no room.
            self.doubts().add(cell);
        }
        taken
    }

    /// Something too old to be remembered became the value of `cell`: what is told of that from now on was replaced by it.
    pub fn restore_replaced(&self, cell: u64) {
        let values = self.values.of(cell);
        if values.stored.get(cell, 0).is_none() {
            self.doubts().add(cell);
        }
    }

    /// Nothing more will be restored.
    pub fn restored(&self) {
        self.doubts().end();
        self.is_restoring.store(false, Ordering::Relaxed);
    }

    /// Remembers the time of an event that was stored, if there is room.
    pub fn restore_newest(&self, source: u64, timestamp_ms: i64) {
        let mut sources = self.sources.of(source);
        match sources.get_mut(source) {
            Some(known) => known.reach(timestamp_ms),
            None => _ = sources.restore(Source::new(source, timestamp_ms), 0),
        }
    }

    /// What was taken is given back.
    pub(super) fn release(&self, id: u64, cell: Option<u64>) {
        let mut locked = self.locked(id, cell);
        let waiting = locked.end(id, cell);
        drop(locked);
        waiting.into_iter().for_each(Waiting::wake);
    }

    /// What was taken is given back, and nobody knows whether it is stored; `replaces`: it would have become the current
    /// value.
    pub(super) fn contest(&self, id: u64, cell: Option<u64>, replaces: bool) {
        let mut locked = self.locked(id, cell);
        let waiting = locked.end(id, cell);
        if let (Some(cell), Some(values), true) = (cell, &mut locked.values, replaces) {
            if let Some(value) = values.stored.get_mut(cell) {
                value.current.contest();
            }
            // What it replaced may come to be known later.
            self.doubts().add(cell);
        }
        drop(locked);
        waiting.into_iter().for_each(Waiting::wake);
    }

    /// What was taken is stored; `spooled`: on disk.
    pub(super) fn settle(
        &self,
        id: u64,
        cell: Option<u64>,
        stored: Stored,
        spooled: bool,
        now: Instant,
    ) {
        let now = self.moment(now);
        let stamp = Stamp::new(now.tick, spooled);
        let mut locked = self.locked(id, cell);
        let waiting = locked.end(id, cell);
        let entry = Id::new(stored.key, stored.reading, stamp);
        locked.ids.stored.insert(entry, now.ids_from);
        if let (Some(cell), Some(values), Some(current)) =
            (cell, &mut locked.values, stored.current)
        {
            let value = Value {
                cell,
                current,
                stored_at: stamp,
            };
            let forgets = self.forgets_value();
            let stored = &mut values.stored;
            stored.insert_telling(value, now.values_from, forgets);
        }
        if let Some(timestamp_ms) = stored.timestamp_ms {
            self.newest(stored.source, timestamp_ms);
        }
        drop(locked);
        waiting.into_iter().for_each(Waiting::wake);
    }

    /// To be told of a value, while its shard is locked, that is no longer held: what is restored after it would be taken for
    /// current, though it was replaced by it. Once nothing is restored any more that does not matter, and nothing is locked.
    fn forgets_value(&self) -> impl FnMut(u64) {
        let is_restoring = self.is_restoring.load(Ordering::Relaxed);
        move |cell| {
            if is_restoring {
                self.doubts().add(cell);
            }
        }
    }

    fn doubts(&self) -> MutexGuard<'_, Doubts> {
        // A panic while this short lock is held leaves nothing half-done behind.
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn newest(&self, source: u64, timestamp_ms: i64) {
        let mut sources = self.sources.of(source);
        match sources.get_mut(source) {
            Some(known) => known.reach(timestamp_ms),
            None => sources.insert(Source::new(source, timestamp_ms), 0),
        }
    }

    fn locked(&self, id: u64, cell: Option<u64>) -> Locked<'_> {
        Locked {
            ids: self.ids.of(id),
            values: cell.map(|cell| self.values.of(cell)),
        }
    }

    fn take(self: &Arc<Self>, locked: &mut Locked<'_>, id: u64, cell: Option<u64>) -> Taken {
        locked.ids.undecided.begin(id);
        if let (Some(cell), Some(values)) = (cell, &mut locked.values) {
            values.undecided.begin(cell);
        }
        Taken::new(Arc::clone(self), id, cell)
    }

    fn moment(&self, now: Instant) -> Moment {
        let since = ticks(now.saturating_duration_since(self.start));
        let tick = BEFORE_START.saturating_add(since).min(stamp::LAST);
        Moment {
            tick,
            ids_from: tick.saturating_sub(self.id_window),
            values_from: tick.saturating_sub(self.reading_window),
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Each claim holds it: not its millions of entries.
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl Locked<'_> {
    fn end(&mut self, id: u64, cell: Option<u64>) -> [Waiting; 2] {
        let values = cell.zip(self.values.as_mut());
        [
            self.ids.undecided.end(id),
            values.map_or_else(Waiting::default, |(cell, values)| {
                values.undecided.end(cell)
            }),
        ]
    }
}

/// Where an event is remembered, of which `conflict` says whether another one is stored under its id.
fn key_under(id_key: u64, reading: u64, conflict: bool) -> u64 {
    match conflict {
        true => key_of_conflict(id_key, reading),
        false => id_key,
    }
}

fn ticks(duration: Duration) -> Tick {
    let ticks = duration.as_secs() * TICKS + u64::from(duration.subsec_millis()) * TICKS / 1000;
    Tick::try_from(ticks).unwrap_or(Tick::MAX)
}

#[cfg(test)]
mod tests;
