//! Restores the stored events after a start.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::shard::{NewestTimestamp, StoredId, StoredValue};
use super::stamp::StorageStamp;
use super::{MemoryStore, WindowTicks, stored_id_key, to_ticks};
use crate::dedup::StorageLocation;
use crate::dedup::claim::CurrentReading;
use crate::dedup::facts::SourceTime;
use crate::dedup::keys::OccupancyKey;
use crate::dedup::stored_facts::StoredFacts;

/// The parts of a stored event that were restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoredParts {
    /// Its id is now known.
    pub id: bool,
    /// Its value is now the current one.
    pub value: bool,
}

impl MemoryStore {
    /// Restores a stored event. Call it for the newest event first, and for the spool before the
    /// topics.
    ///
    /// Nothing that is already known is replaced, and nothing is restored that is outside its
    /// window or would need the place of something newer.
    ///
    /// An event still in the spool reaches Kafka after everything that is there now, so its value
    /// is the newest. An event in doubt may already be in Kafka, with others after it, so its value
    /// is not relied on.
    pub fn restore(
        &self,
        facts: StoredFacts,
        storage: StorageLocation,
        now: Instant,
    ) -> RestoredParts {
        let now = self.window_ticks(now);
        let stamp = StorageStamp::new(now.tick.saturating_sub(to_ticks(facts.age)), storage);
        if let Some(newest) = facts.newest {
            self.restore_newest(newest);
        }
        let value = facts.current.is_some_and(|(key, mut current)| {
            if facts.is_in_doubt {
                current.invalidate();
            }
            self.restore_value(key, current, stamp, now)
        });
        let conflict = facts.is_conflict.then_some(facts.reading);
        let id_key = stored_id_key(facts.id_hash, conflict);
        let id = StoredId::new(id_key, facts.reading, stamp);
        let id = self.ids.lock_for(id_key).stored.restore(id, now.ids_from);
        RestoredParts { id, value }
    }

    /// Restores a current value. Returns `true` if it is now the current one.
    ///
    /// For one (type, space, timestamp), the last value is restored first. A value restored after
    /// one that did not fit, or was forgotten since, was replaced by that one and is not relied on.
    /// Neither is a value that an event now in doubt may have replaced.
    pub(super) fn restore_value(
        &self,
        key: OccupancyKey,
        mut current: CurrentReading,
        stored_at: StorageStamp,
        now: WindowTicks,
    ) -> bool {
        let mut values = self.values.lock_for(key);
        // Expired or not, the known value is newer.
        if values.stored.get(key, 0).is_some() {
            return false;
        }
        if self.lock_uncertain_keys().contains(key) {
            current.invalidate();
        }
        let value = StoredValue {
            occupancy_key: key,
            current,
            stored_at,
        };
        let is_restored = values.stored.restore(value, now.values_from);
        if !is_restored {
            // It is expired, or there is no room.
            self.lock_uncertain_keys().insert(key);
        }
        is_restored
    }

    /// Records that a value too old to be restored became current: values restored from now on were
    /// replaced by it.
    pub fn mark_uncertain(&self, key: OccupancyKey) {
        let values = self.values.lock_for(key);
        if values.stored.get(key, 0).is_none() {
            self.lock_uncertain_keys().insert(key);
        }
    }

    /// Records that restoring is complete.
    pub fn finish_restoring(&self) {
        self.lock_uncertain_keys().close();
        self.is_restoring.store(false, Ordering::Relaxed);
    }

    /// Restores the time of a source's newest event, if there is room.
    pub fn restore_newest(&self, time: SourceTime) {
        let mut sources = self.sources.lock_for(time.source_key);
        match sources.get_mut(time.source_key) {
            Some(known) => known.advance(time.timestamp_ms),
            None => _ = sources.restore(NewestTimestamp::new(time), 0),
        }
    }
}
