//! A map that forgets: what is older than its window, and beyond its bound what was put in first.

mod index;

use std::collections::VecDeque;

use index::PlaceIndex;

/// A moment, in tenths of a second since some days before the engine's start. 31 bits are used: 6.8 years.
pub(super) type Tick = u32;

/// What a window holds. Its key is a good hash already.
pub(super) trait WindowEntry {
    fn key(&self) -> u64;
    /// Whether it was stored before `horizon`, and thus counts as absent.
    fn is_expired(&self, horizon: Tick) -> bool;
}

/// How many places each insertion frees at most, so that freeing keeps up with filling and no insertion takes long.
const MAX_FREED_PER_INSERT: usize = 4;

/// The places that a ring has room for from the start.
const MIN_CAPACITY: usize = 8;

/// How many places a sweep frees before it lets others go first.
const MAX_FREED_PER_SWEEP: usize = 256;

/// Entries in the order in which they came, and a table of their places.
///
/// An entry that is replaced leaves its place taken until it is at the front. Places are numbered on and on (wrapping),
/// so that they stay the same while the ring moves.
#[derive(Debug)]
pub(super) struct DedupWindow<E> {
    ring: VecDeque<E>,
    /// The number of the place at the front.
    front: u32,
    index: PlaceIndex,
    capacity: usize,
    evictions: u64,
}

impl<E: WindowEntry> DedupWindow<E> {
    /// At most `most` places.
    pub fn new(most: usize) -> Self {
        Self {
            ring: VecDeque::new(),
            front: 0,
            index: PlaceIndex::new(),
            capacity: most.max(1),
            evictions: 0,
        }
    }

    /// The entry with `key`, unless it is past.
    pub fn get(&self, key: u64, horizon: Tick) -> Option<&E> {
        let (ring, front) = (&self.ring, self.front);
        let place = self
            .index
            .find(key, |p| entry_at(ring, front, p).key() == key)?;
        Some(entry_at(ring, front, place)).filter(|entry| !entry.is_expired(horizon))
    }

    /// The entry with `key`, past or not, to be changed where it is.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut E> {
        let (ring, front) = (&self.ring, self.front);
        let place = self
            .index
            .find(key, |p| entry_at(ring, front, p).key() == key)?;
        self.ring.get_mut(place.wrapping_sub(front) as usize)
    }

    /// All of them, those that are past or were replaced included, to be changed where they are.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut E> {
        self.ring.iter_mut()
    }

    /// Puts `entry` in, in the place of what has its key.
    pub fn insert(&mut self, entry: E, horizon: Tick) {
        self.insert_with(entry, horizon, |_| ());
    }

    /// The same; `forgets` is told the keys of those that had to go for it, past or not.
    pub fn insert_with(&mut self, entry: E, horizon: Tick, mut on_forget: impl FnMut(u64)) {
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

    /// Puts `entry` in as the oldest one if none has its key and there is room.
    pub fn restore(&mut self, entry: E, horizon: Tick) -> bool {
        let full = self.ring.len() == self.capacity;
        if full || entry.is_expired(horizon) || self.get(entry.key(), horizon).is_some() {
            return false;
        }
        self.grow();
        self.front = self.front.wrapping_sub(1);
        self.ring.push_front(entry);
        self.index_place(self.front);
        true
    }

    /// Frees some of what is past, and gives memory back when little of it is used; whether there is more to do.
    pub fn sweep(&mut self, horizon: Tick) -> bool {
        self.sweep_with(horizon, |_| ())
    }

    /// The same; `forgets` is told the keys of what was there.
    pub fn sweep_with(&mut self, horizon: Tick, mut on_forget: impl FnMut(u64)) -> bool {
        let more = self.free_front(horizon, MAX_FREED_PER_SWEEP, &mut on_forget);
        if !more {
            self.shrink();
        }
        more
    }

    /// Frees up to `most` places from the front on; whether there may be more to free.
    fn free_front(&mut self, horizon: Tick, most: usize, on_forget: &mut impl FnMut(u64)) -> bool {
        for _ in 0..most {
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

    /// How many entries it holds, past ones that were not freed yet included.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// The most memory that `most` places take, in bytes.
    pub fn max_bytes(most: usize) -> usize {
        let most = most.max(MIN_CAPACITY);
        most * size_of::<E>() + PlaceIndex::slot_bytes(PlaceIndex::max_slots(most))
    }

    /// How many entries had to go before their time.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Lets the entry at `place` be the one with its key.
    fn index_place(&mut self, place: u32) {
        let (ring, front) = (&self.ring, self.front);
        let key = entry_at(ring, front, place).key();
        let is_at = |p| entry_at(ring, front, p).key() == key;
        self.index.insert(key, place, self.capacity, is_at);
    }

    /// Whether the front's entry was not replaced.
    fn is_live(&self, first: &E) -> bool {
        let front = self.front;
        let none_was_replaced = self.ring.len() == self.index.len();
        none_was_replaced || self.index.find(first.key(), |p| p == front).is_some()
    }

    /// Removes the front; whether something was lost that was neither replaced nor past.
    fn pop_front(&mut self, horizon: Tick, on_forget: &mut impl FnMut(u64)) -> bool {
        let Some(first) = self.ring.pop_front() else {
            return false;
        };
        let place = self.front;
        self.front = place.wrapping_add(1);
        let was_there = self.index.remove(first.key(), place);
        if was_there {
            on_forget(first.key());
        }
        was_there && !first.is_expired(horizon)
    }

    /// Makes room for one more: by doubling, and never beyond the bound.
    fn grow(&mut self) {
        let taken = self.ring.len();
        if taken == self.ring.capacity() {
            let wanted = (taken * 2).clamp(MIN_CAPACITY, self.capacity.max(MIN_CAPACITY));
            self.ring.reserve_exact(wanted.saturating_sub(taken).max(1));
        }
    }
}

fn entry_at<E>(ring: &VecDeque<E>, front: u32, place: u32) -> &E {
    &ring[place.wrapping_sub(front) as usize]
}

#[cfg(test)]
impl<E> DedupWindow<E> {
    /// What it takes now.
    fn allocated_bytes(&self) -> usize {
        self.ring.capacity() * size_of::<E>() + PlaceIndex::slot_bytes(self.index.slots())
    }
}

#[cfg(test)]
mod tests;
