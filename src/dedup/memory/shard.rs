//! What the memory holds, in shards.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::stamp::StorageStamp;
use crate::dedup::claim::{CurrentReading, UndecidedKeys};
use crate::dedup::window::{DedupWindow, Tick, WindowEntry};

/// Most shards: so many that two workers hardly ever meet in one.
const MAX_SHARDS: usize = 64;

/// Fewest entries a shard can hold where there are several: less, and chance would fill one long before the others.
const MIN_SHARD_ENTRIES: usize = 1024;

/// Where a key says which shard it belongs to: bits that the tables in the shards do not look at.
const SHARD_SHIFT: u32 = 40;

/// The bits of `like` that choose a shard, the others from `key`.
pub(super) fn with_shard_bits_of(like: u64, key: u64) -> u64 {
    const SHARD_BITS: u64 = (MAX_SHARDS as u64 - 1) << SHARD_SHIFT;
    like & SHARD_BITS | key & !SHARD_BITS
}

/// How many shards hold `most` entries.
pub(super) fn shard_count(most: usize) -> usize {
    let most_shards = (most / MIN_SHARD_ENTRIES).clamp(1, MAX_SHARDS);
    1 << most_shards.ilog2()
}

/// Parts with a lock each.
#[derive(Debug)]
pub(super) struct Shards<T>(Box<[Mutex<T>]>);

impl<T> Shards<T> {
    /// Shards for `most` entries; `new` makes one for so many.
    pub fn new(most: usize, new: impl Fn(usize) -> T) -> Self {
        let shards = shard_count(most);
        let shard = || Mutex::new(new(most.div_ceil(shards)));
        Self((0..shards).map(|_| shard()).collect())
    }

    /// The shard of `key`.
    pub fn lock_for(&self, key: u64) -> MutexGuard<'_, T> {
        let shard = (key >> SHARD_SHIFT) as usize & (self.0.len() - 1);
        lock(&self.0[shard])
    }

    /// Calls `sweep` on each until it returns false; the lock is free in between.
    pub fn sweep(&self, sweep: impl Fn(&mut T) -> bool) {
        for shard in &self.0 {
            while sweep(&mut lock(shard)) {}
        }
    }

    /// One after the other.
    pub fn lock_each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0.iter().map(lock)
    }

    /// A sum over all of them.
    pub fn sum<N: std::iter::Sum>(&self, of: impl Fn(&T) -> N) -> N {
        self.lock_each().map(|shard| of(&shard)).sum()
    }
}

/// A panic while one of these short locks is held leaves nothing half-done behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is stored, and what is undecided.
#[derive(Debug)]
pub(super) struct WindowShard<E> {
    pub stored: DedupWindow<E>,
    pub undecided: UndecidedKeys,
}

impl<E: WindowEntry> WindowShard<E> {
    pub fn new(most: usize) -> Self {
        Self {
            stored: DedupWindow::new(most),
            undecided: UndecidedKeys::default(),
        }
    }
}

/// The id of a stored event: its key and its reading's, each in halves, because that takes 20 bytes instead of 24.
#[derive(Debug)]
pub(super) struct StoredId {
    key: [u32; 2],
    reading: [u32; 2],
    pub stored_at: StorageStamp,
}

impl StoredId {
    pub fn new(key: u64, reading: u64, stored_at: StorageStamp) -> Self {
        Self {
            key: split_halves(key),
            reading: split_halves(reading),
            stored_at,
        }
    }

    pub fn reading(&self) -> u64 {
        join_halves(self.reading)
    }
}

impl WindowEntry for StoredId {
    fn key(&self) -> u64 {
        join_halves(self.key)
    }

    fn is_expired(&self, horizon: Tick) -> bool {
        self.stored_at.tick() < horizon
    }
}

fn split_halves(whole: u64) -> [u32; 2] {
    [whole as u32, (whole >> 32) as u32]
}

fn join_halves([low, high]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// The current value of a (type, space, timestamp).
#[derive(Debug)]
pub(super) struct StoredValue {
    pub occupancy_key: u64,
    pub current: CurrentReading,
    pub stored_at: StorageStamp,
}

impl WindowEntry for StoredValue {
    fn key(&self) -> u64 {
        self.occupancy_key
    }

    fn is_expired(&self, horizon: Tick) -> bool {
        self.stored_at.tick() < horizon
    }
}

/// The newest event of a space or a sensor, for as long as there is room.
#[derive(Debug)]
pub(super) struct NewestTimestamp {
    pub source_key: u64,
    pub newest_ms: i64,
}

impl NewestTimestamp {
    pub fn new(source: u64, newest_ms: i64) -> Self {
        Self {
            source_key: source,
            newest_ms,
        }
    }

    /// An event of that time is stored.
    pub fn advance(&mut self, timestamp_ms: i64) {
        self.newest_ms = self.newest_ms.max(timestamp_ms);
    }
}

impl WindowEntry for NewestTimestamp {
    fn key(&self) -> u64 {
        self.source_key
    }

    fn is_expired(&self, _horizon: Tick) -> bool {
        false
    }
}
