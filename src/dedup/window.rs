//! A bounded map: it forgets entries older than its window and, when full, the oldest ones.

mod index;

use std::collections::VecDeque;
use std::fmt;

use index::PlaceIndex;

/// A moment, in tenths of a second since some days before the start. 31 bits are used: 6.8 years.
pub(super) type Tick = u32;

/// Key of an entry: a good 64-bit hash.
pub(super) trait WindowKey: Copy + Eq + fmt::Debug + Into<u64> {}

impl<K: Copy + Eq + fmt::Debug + Into<u64>> WindowKey for K {}

/// Entry of a window.
pub(super) trait WindowEntry {
    type Key: WindowKey;

    fn key(&self) -> Self::Key;
    /// Returns `true` if the entry was stored before `horizon`; it then counts as absent.
    fn is_expired(&self, horizon: Tick) -> bool;
}

/// Places that one insertion frees at most: freeing keeps up with filling, and no insertion takes
/// long.
const MAX_FREED_PER_INSERT: usize = 4;

/// Initial capacity of a ring.
const MIN_CAPACITY: usize = 8;

/// Places that a sweep frees before it gives up the lock.
const MAX_FREED_PER_SWEEP: usize = 256;

/// A ring of entries in order of insertion, and an index of their places.
///
/// A replaced entry keeps its place until it reaches the front. Places have ever increasing numbers
/// (wrapping), so that they stay the same while the ring moves.
#[derive(Debug)]
pub(super) struct DedupWindow<E> {
    ring: VecDeque<E>,
    /// Number of the place at the front.
    front: u32,
    index: PlaceIndex,
    capacity: usize,
    evictions: u64,
}

impl<E: WindowEntry> DedupWindow<E> {
    /// Creates a window of at most `capacity` places.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self {
            ring: VecDeque::new(),
            front: 0,
            index: PlaceIndex::new(capacity),
            capacity,
            evictions: 0,
        }
    }

    /// Returns the entry with `key`, unless it is expired.
    pub fn get(&self, key: E::Key, horizon: Tick) -> Option<&E> {
        let place = self.find(key)?;
        Some(entry_at(&self.ring, self.front, place)).filter(|entry| !entry.is_expired(horizon))
    }

    /// Returns the entry with `key`, expired or not.
    pub fn get_mut(&mut self, key: E::Key) -> Option<&mut E> {
        let place = self.find(key)?;
        self.ring.get_mut(place.wrapping_sub(self.front) as usize)
    }

    fn find(&self, key: E::Key) -> Option<u32> {
        let is_at = |place| entry_at(&self.ring, self.front, place).key() == key;
        self.index.find(key.into(), is_at)
    }

    /// Iterates over all entries, expired and replaced ones included.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut E> {
        self.ring.iter_mut()
    }

    /// Inserts `entry` and replaces the one with its key.
    pub fn insert(&mut self, entry: E, horizon: Tick) {
        self.insert_with(entry, horizon, |_| ());
    }

    /// Like [`insert`](Self::insert); calls `on_forget` with the key of each entry removed for it.
    pub fn insert_with(&mut self, entry: E, horizon: Tick, mut on_forget: impl FnMut(E::Key)) {
        self.free_front(horizon, MAX_FREED_PER_INSERT, &mut on_forget);
        if self.ring.len() == self.capacity {
            let replaced = self.ring.front().map(E::key) == Some(entry.key());
            let was_lost = self.pop_front(horizon, &mut on_forget);
            self.evictions += u64::from(was_lost && !replaced);
        }
        self.grow();
        let place = self.front.wrapping_add(self.ring.len() as u32);
        self.ring.push_back(entry);
        self.index_place(place);
    }

    /// Inserts `entry` as the oldest one. Returns `false` if it is expired, its key is known, or
    /// there is no room.
    pub fn restore(&mut self, entry: E, horizon: Tick) -> bool {
        let is_full = self.ring.len() == self.capacity;
        if is_full || entry.is_expired(horizon) || self.get(entry.key(), horizon).is_some() {
            return false;
        }
        self.grow();
        self.front = self.front.wrapping_sub(1);
        self.ring.push_front(entry);
        self.index_place(self.front);
        true
    }

    /// Frees some expired entries, and returns memory when little of it is used. Returns `true` if
    /// there is more to do.
    pub fn sweep(&mut self, horizon: Tick) -> bool {
        self.sweep_with(horizon, |_| ())
    }

    /// Like [`sweep`](Self::sweep); calls `on_forget` with the key of each entry removed.
    pub fn sweep_with(&mut self, horizon: Tick, mut on_forget: impl FnMut(E::Key)) -> bool {
        let more = self.free_front(horizon, MAX_FREED_PER_SWEEP, &mut on_forget);
        if !more {
            self.shrink();
        }
        more
    }

    /// Frees up to `limit` places from the front on. Returns `true` if there may be more to free.
    fn free_front(
        &mut self,
        horizon: Tick,
        limit: usize,
        on_forget: &mut impl FnMut(E::Key),
    ) -> bool {
        for _ in 0..limit {
            match self.ring.front() {
                Some(first) if first.is_expired(horizon) || !self.is_live(first) => {
                    self.pop_front(horizon, on_forget);
                }
                _ => return false,
            }
        }
        true
    }

    fn shrink(&mut self) {
        let used = self.ring.len();
        if used < self.ring.capacity() / 8 {
            self.ring.shrink_to(used * 2);
            self.index.shrink();
        }
    }

    /// The number of entries, expired ones that are not freed yet included.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// The most memory that `capacity` places take, in bytes.
    pub fn max_bytes(capacity: usize) -> usize {
        let places = capacity.max(MIN_CAPACITY);
        places * size_of::<E>() + PlaceIndex::slot_bytes(PlaceIndex::max_slots(places))
    }

    /// The number of entries so far that were removed before they expired.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Points the index at the entry at `place`.
    fn index_place(&mut self, place: u32) {
        let (ring, front) = (&self.ring, self.front);
        let key = entry_at(ring, front, place).key();
        let is_at = |p| entry_at(ring, front, p).key() == key;
        self.index.insert(key.into(), place, is_at);
    }

    /// Returns `true` if the entry at the front was not replaced.
    fn is_live(&self, first: &E) -> bool {
        let front = self.front;
        let none_was_replaced = self.ring.len() == self.index.len();
        none_was_replaced
            || self
                .index
                .find(first.key().into(), |p| p == front)
                .is_some()
    }

    /// Removes the front. Returns `true` if that entry was neither replaced nor expired.
    fn pop_front(&mut self, horizon: Tick, on_forget: &mut impl FnMut(E::Key)) -> bool {
        let Some(first) = self.ring.pop_front() else {
            return false;
        };
        let place = self.front;
        self.front = place.wrapping_add(1);
        let was_there = self.index.remove(first.key().into(), place);
        if was_there {
            on_forget(first.key());
        }
        was_there && !first.is_expired(horizon)
    }

    /// Makes room for one more entry, by doubling, and never beyond the capacity.
    fn grow(&mut self) {
        let places = self.ring.len();
        if places == self.ring.capacity() {
            let wanted = (places * 2).clamp(MIN_CAPACITY, self.capacity.max(MIN_CAPACITY));
            self.ring
                .reserve_exact(wanted.saturating_sub(places).max(1));
        }
    }
}

fn entry_at<E>(ring: &VecDeque<E>, front: u32, place: u32) -> &E {
    &ring[place.wrapping_sub(front) as usize]
}

#[cfg(test)]
impl<E> DedupWindow<E> {
    /// The memory that it takes now.
    fn allocated_bytes(&self) -> usize {
        self.ring.capacity() * size_of::<E>() + PlaceIndex::slot_bytes(self.index.slots())
    }
}

#[cfg(test)]
mod tests;
