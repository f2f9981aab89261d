//! The memory's shards and the entries in them.

use std::sync::{Mutex, MutexGuard};

use super::stamp::StorageStamp;
use crate::dedup::claim::{CurrentReading, UndecidedKeys};
use crate::dedup::facts::SourceTime;
use crate::dedup::keys::{IdHash, OccupancyKey, ReadingHash, SourceKey};
use crate::dedup::window::{DedupWindow, Tick, WindowEntry};
use crate::sync::lock;

/// Maximum number of shards: enough that two workers hardly ever meet in one.
const MAX_SHARDS: usize = 64;

/// Minimum capacity of a shard if there are several. In smaller ones, chance would fill one long
/// before the others.
const MIN_SHARD_ENTRIES: usize = 1024;

/// First bit of a key that selects its shard. The tables inside the shards do not use these bits.
const SHARD_SHIFT: u32 = 40;

/// Returns `key` with the shard bits of `like`.
pub(super) fn with_shard_bits_of(like: u64, key: u64) -> u64 {
    const SHARD_BITS: u64 = (MAX_SHARDS as u64 - 1) << SHARD_SHIFT;
    like & SHARD_BITS | key & !SHARD_BITS
}

/// The number of shards for `max_entries`, a power of two.
pub(super) fn shard_count(max_entries: usize) -> usize {
    let max_shards = (max_entries / MIN_SHARD_ENTRIES).clamp(1, MAX_SHARDS);
    1 << max_shards.ilog2()
}

/// Shards with one lock each.
#[derive(Debug)]
pub(super) struct Shards<T>(Box<[Mutex<T>]>);

impl<T> Shards<T> {
    /// Creates shards for `max_entries` in all; `new` creates one from its capacity.
    pub fn new(max_entries: usize, new: impl Fn(usize) -> T) -> Self {
        let shards = shard_count(max_entries);
        let shard = || Mutex::new(new(max_entries.div_ceil(shards)));
        Self((0..shards).map(|_| shard()).collect())
    }

    /// Locks the shard of `key`.
    pub fn lock_for(&self, key: impl Into<u64>) -> MutexGuard<'_, T> {
        let shard = (key.into() >> SHARD_SHIFT) as usize & (self.0.len() - 1);
        lock(&self.0[shard])
    }

    /// Calls `sweep` on each shard until it returns `false`. The lock is free between calls.
    pub fn sweep(&self, sweep: impl Fn(&mut T) -> bool) {
        for shard in &self.0 {
            while sweep(&mut lock(shard)) {}
        }
    }

    /// Locks the shards one after the other.
    pub fn lock_each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0.iter().map(lock)
    }

    /// Sums `value` over all shards.
    pub fn sum<N: std::iter::Sum>(&self, value: impl Fn(&T) -> N) -> N {
        self.lock_each().map(|shard| value(&shard)).sum()
    }
}

/// Stored entries and undecided keys.
#[derive(Debug)]
pub(super) struct WindowShard<E: WindowEntry> {
    pub stored: DedupWindow<E>,
    pub undecided: UndecidedKeys<E::Key>,
}

impl<E: WindowEntry> WindowShard<E> {
    pub fn new(capacity: usize) -> Self {
        Self {
            stored: DedupWindow::new(capacity),
            undecided: UndecidedKeys::default(),
        }
    }
}

/// Id and reading of a stored event. Each hash is in halves, so that an entry takes 20 bytes
/// instead of 24.
#[derive(Debug)]
pub(super) struct StoredId {
    key: [u32; 2],
    reading: [u32; 2],
    pub stored_at: StorageStamp,
}

impl StoredId {
    pub fn new(key: IdHash, reading: ReadingHash, stored_at: StorageStamp) -> Self {
        Self {
            key: split_halves(key.0),
            reading: split_halves(reading.0),
            stored_at,
        }
    }

    pub fn reading(&self) -> ReadingHash {
        ReadingHash(join_halves(self.reading))
    }
}

impl WindowEntry for StoredId {
    type Key = IdHash;

    fn key(&self) -> IdHash {
        IdHash(join_halves(self.key))
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
    pub occupancy_key: OccupancyKey,
    pub current: CurrentReading,
    pub stored_at: StorageStamp,
}

impl WindowEntry for StoredValue {
    type Key = OccupancyKey;

    fn key(&self) -> OccupancyKey {
        self.occupancy_key
    }

    fn is_expired(&self, horizon: Tick) -> bool {
        self.stored_at.tick() < horizon
    }
}

/// Time of the newest event of a source, kept for as long as there is room.
#[derive(Debug)]
pub(super) struct NewestTimestamp {
    pub source_key: SourceKey,
    pub newest_ms: i64,
}

impl NewestTimestamp {
    pub fn new(time: SourceTime) -> Self {
        Self {
            source_key: time.source_key,
            newest_ms: time.timestamp_ms,
        }
    }

    /// Takes over the time of a stored event if it is later.
    pub fn advance(&mut self, timestamp_ms: i64) {
        self.newest_ms = self.newest_ms.max(timestamp_ms);
    }
}

impl WindowEntry for NewestTimestamp {
    type Key = SourceKey;

    fn key(&self) -> SourceKey {
        self.source_key
    }

    fn is_expired(&self, _horizon: Tick) -> bool {
        false
    }
}
