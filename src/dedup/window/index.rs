//! Index from the key of an entry to its place in the ring.

/// A hash table of places with linear probing and without tombstones. A removal leaves no trace, so
/// the table stays as small and fast as on the first day, however long it is filled and emptied.
///
/// A slot is 8 bytes: a new event costs one cache miss here, and would cost two in a table with
/// separate tags. A slot holds 31 bits of the key, enough to move it; the caller compares the rest.
#[derive(Debug)]
pub(super) struct PlaceIndex {
    slots: Box<[IndexSlot]>,
    occupied: usize,
    /// Maximum number of places.
    capacity: usize,
}

/// Zero if empty; otherwise a set bit, 31 bits of the key, and 32 bits of the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IndexSlot(u64);

const EMPTY: IndexSlot = IndexSlot(0);
const HASH_BITS: u32 = 31;
const MIN_SLOTS: usize = 8;

impl IndexSlot {
    fn new(key: u64, place: u32) -> Self {
        Self(1 << 63 | Self::hash_of(key) << 32 | u64::from(place))
    }

    fn hash_of(key: u64) -> u64 {
        key & ((1 << HASH_BITS) - 1)
    }

    fn hash(self) -> u64 {
        self.0 >> 32 & ((1 << HASH_BITS) - 1)
    }

    fn place(self) -> u32 {
        self.0 as u32
    }
}

impl PlaceIndex {
    /// Creates an index for at most `capacity` places.
    pub fn new(capacity: usize) -> Self {
        Self::with_slots(MIN_SLOTS, capacity)
    }

    fn with_slots(slots: usize, capacity: usize) -> Self {
        Self {
            slots: vec![EMPTY; slots].into_boxed_slice(),
            occupied: 0,
            capacity,
        }
    }

    /// The number of slots at most for `places`: about one in three is empty.
    pub fn max_slots(places: usize) -> usize {
        (places + places.div_ceil(2) + 1).max(MIN_SLOTS)
    }

    /// The number of places in the index.
    pub fn len(&self) -> usize {
        self.occupied
    }

    /// The memory that `slots` take.
    pub fn slot_bytes(slots: usize) -> usize {
        slots * size_of::<IndexSlot>()
    }

    /// Finds the place of `key`; `is_at` compares the whole key at a place.
    pub fn find(&self, key: u64, is_at: impl Fn(u32) -> bool) -> Option<u32> {
        let at = self.find_slot(key, is_at).ok()?;
        Some(self.slots[at].place())
    }

    /// Points `key` to `place`, and no longer to its previous place.
    pub fn insert(&mut self, key: u64, place: u32, is_at: impl Fn(u32) -> bool) {
        match self.find_slot(key, is_at) {
            Ok(at) => self.slots[at] = IndexSlot::new(key, place),
            Err(at) if self.has_room() => {
                self.slots[at] = IndexSlot::new(key, place);
                self.occupied += 1;
            }
            Err(_) => {
                let doubled = (self.slots.len() * 2).min(Self::max_slots(self.capacity));
                self.resize(doubled.max(self.slots.len() + 1));
                self.insert_slot(IndexSlot::new(key, place));
            }
        }
    }

    /// Removes `key` if it points to `place`. Returns `true` if it did.
    pub fn remove(&mut self, key: u64, place: u32) -> bool {
        let removed = IndexSlot::new(key, place);
        let mut hole = self.home_slot(removed);
        while self.slots[hole] != removed {
            if self.slots[hole] == EMPTY {
                return false;
            }
            hole = self.next_slot(hole);
        }
        self.occupied -= 1;
        // Following slots move up, unless that would put them before their home slot.
        let mut next = self.next_slot(hole);
        while self.slots[next] != EMPTY {
            let home = self.home_slot(self.slots[next]);
            if self.distance(home, next) >= self.distance(hole, next) {
                self.slots[hole] = self.slots[next];
                hole = next;
            }
            next = self.next_slot(next);
        }
        self.slots[hole] = EMPTY;
        true
    }

    /// Shrinks to room for twice the current number of places.
    pub fn shrink(&mut self) {
        self.resize(Self::max_slots(self.occupied * 2));
    }

    fn resize(&mut self, slots: usize) {
        let old = std::mem::replace(self, Self::with_slots(slots, self.capacity));
        for slot in old.slots {
            if slot != EMPTY {
                self.insert_slot(slot);
            }
        }
    }

    /// Inserts a slot that is not in the table yet and fits.
    fn insert_slot(&mut self, slot: IndexSlot) {
        let mut at = self.home_slot(slot);
        while self.slots[at] != EMPTY {
            at = self.next_slot(at);
        }
        self.slots[at] = slot;
        self.occupied += 1;
    }

    /// Returns `true` if one more place leaves a third of the slots empty.
    fn has_room(&self) -> bool {
        self.occupied < self.slots.len() * 2 / 3
    }

    /// Finds the slot of `key`, or as an error the empty slot where it belongs.
    fn find_slot(&self, key: u64, is_at: impl Fn(u32) -> bool) -> Result<usize, usize> {
        let wanted = IndexSlot::new(key, 0);
        let mut at = self.home_slot(wanted);
        loop {
            let slot = self.slots[at];
            if slot == EMPTY {
                return Err(at);
            }
            if slot.0 >> 32 == wanted.0 >> 32 && is_at(slot.place()) {
                return Ok(at);
            }
            at = self.next_slot(at);
        }
    }

    /// The slot where a search begins. The number of slots need not be a power of two.
    fn home_slot(&self, slot: IndexSlot) -> usize {
        ((slot.hash() * self.slots.len() as u64) >> HASH_BITS) as usize
    }

    fn next_slot(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() {
            0
        } else {
            at + 1
        }
    }

    /// The number of steps from `from` to `to`.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from {
            to - from
        } else {
            to + self.slots.len() - from
        }
    }
}

#[cfg(test)]
impl PlaceIndex {
    pub fn slots(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Keys with few home slots, the last one included; some agree in all bits that a slot holds.
    fn keys() -> impl Strategy<Value = u64> {
        (0..6_u64, 0..3_u64, 0..2_u64).prop_map(|(home, low, high)| {
            let hash = (home << (HASH_BITS - 3)) + low;
            high << 60
                | if home == 5 {
                    (1 << HASH_BITS) - 1 - low
                } else {
                    hash
                }
        })
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec((keys(), 0..4_u32), 0..120)) {
            const CAPACITY: usize = 36;
            let mut index = PlaceIndex::new(CAPACITY);
            let mut model = HashMap::new();
            let mut key_at = HashMap::new();
            for (place, (key, action)) in steps.into_iter().enumerate() {
                let place = place as u32;
                key_at.insert(place, key);
                let is_at = |place| key_at[&place] == key;
                match action {
                    0 => {
                        let known = model.get(&key).copied();
                        prop_assert!(!index.remove(key, place));
                        prop_assert_eq!(index.remove(key, known.unwrap_or(place)), known.is_some());
                        model.remove(&key);
                    }
                    1 if model.len() < 4 => index.shrink(),
                    _ => {
                        index.insert(key, place, is_at);
                        model.insert(key, place);
                    }
                }
                prop_assert_eq!(index.len(), model.len());
                prop_assert!(index.slots() <= PlaceIndex::max_slots(CAPACITY));
                for key in key_at.values() {
                    let found = index.find(*key, |place| key_at[&place] == *key);
                    prop_assert_eq!(found, model.get(key).copied());
                }
            }
        }
    }
}
