//! What the memory holds, in shards.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::stamp::Stamp;
use crate::dedup::claim::{Current, Undecided};
use crate::dedup::window::{Entry, Tick, Window};

/// Most shards: so many that two workers hardly ever meet in one.
const MOST_SHARDS: usize = 64;

/// Fewest entries a shard can hold where there are several: less, and chance would fill one long before the others.
const FEWEST_ENTRIES: usize = 1024;

/// Where a key says which shard it belongs to: bits that the tables in the shards do not look at.
const SHARD: u32 = 40;

/// The bits of `like` that choose a shard, the others from `key`.
pub(super) fn in_shard_of(like: u64, key: u64) -> u64 {
    const BITS: u64 = (MOST_SHARDS as u64 - 1) << SHARD;
    like & BITS | key & !BITS
}

/// How many shards hold `most` entries.
pub(super) fn shards(most: usize) -> usize {
    let most_shards = (most / FEWEST_ENTRIES).clamp(1, MOST_SHARDS);
    1 << most_shards.ilog2()
}

/// Parts with a lock each.
#[derive(Debug)]
pub(super) struct Shards<T>(Box<[Mutex<T>]>);

impl<T> Shards<T> {
    /// Shards for `most` entries; `new` makes one for so many.
    pub fn new(most: usize, new: impl Fn(usize) -> T) -> Self {
        let shards = shards(most);
        let shard = || Mutex::new(new(most.div_ceil(shards)));
        Self((0..shards).map(|_| shard()).collect())
    }

    /// The shard of `key`.
    pub fn of(&self, key: u64) -> MutexGuard<'_, T> {
        let shard = (key >> SHARD) as usize & (self.0.len() - 1);
        lock(&self.0[shard])
    }

    /// Calls `sweep` on each until it returns false; the lock is free in between.
    pub fn sweep(&self, sweep: impl Fn(&mut T) -> bool) {
        for shard in &self.0 {
            while sweep(&mut lock(shard)) {}
        }
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0.iter().map(lock)
    }

    /// A sum over all of them.
    pub fn sum<N: std::iter::Sum>(&self, of: impl Fn(&T) -> N) -> N {
        self.iter().map(|shard| of(&shard)).sum()
    }
}

/// A panic while one of these short locks is held leaves nothing half-done behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is stored, and what is undecided.
#[derive(Debug)]
pub(super) struct Shard<E> {
    pub stored: Window<E>,
    pub undecided: Undecided,
}

impl<E: Entry> Shard<E> {
    pub fn new(most: usize) -> Self {
        Self {
            stored: Window::new(most),
            undecided: Undecided::default(),
        }
    }
}

/// The id of a stored event: its key and its reading's, each in halves, because that takes 20 bytes instead of 24.
#[derive(Debug)]
pub(super) struct Id {
    key: [u32; 2],
    reading: [u32; 2],
    pub stored_at: Stamp,
}

impl Id {
    pub fn new(key: u64, reading: u64, stored_at: Stamp) -> Self {
        Self {
            key: halves(key),
            reading: halves(reading),
            stored_at,
        }
    }

    pub fn reading(&self) -> u64 {
        whole(self.reading)
    }
}

impl Entry for Id {
    fn key(&self) -> u64 {
        whole(self.key)
    }

    fn is_past(&self, horizon: Tick) -> bool {
        self.stored_at.tick() < horizon
    }
}

fn halves(whole: u64) -> [u32; 2] {
    [whole as u32, (whole >> 32) as u32]
}

fn whole([low, high]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// The current value of a (type, space, timestamp).
#[derive(Debug)]
pub(super) struct Value {
    pub cell: u64,
    pub current: Current,
    pub stored_at: Stamp,
}

impl Entry for Value {
    fn key(&self) -> u64 {
        self.cell
    }

    fn is_past(&self, horizon: Tick) -> bool {
        self.stored_at.tick() < horizon
    }
}

/// The newest event of a space or a sensor, for as long as there is room.
#[derive(Debug)]
pub(super) struct Source {
    pub source: u64,
    pub newest_ms: i64,
}

impl Source {
    pub fn new(source: u64, newest_ms: i64) -> Self {
        Self { source, newest_ms }
    }

    /// An event of that time is stored.
    pub fn reach(&mut self, timestamp_ms: i64) {
        self.newest_ms = self.newest_ms.max(timestamp_ms);
    }
}

impl Entry for Source {
    fn key(&self) -> u64 {
        self.source
    }

    fn is_past(&self, _horizon: Tick) -> bool {
        false
    }
}
