//! What is on disk and not in Kafka yet: as it was found there after a start, and as it gets into Kafka.

use std::time::Instant;

use super::shard::StoredId;
use super::stamp::StorageStamp;
use super::uncertain_keys::UncertainKeys;
use super::{MemoryStore, stored_id_key, to_ticks};
use crate::dedup::EventFacts;
use crate::dedup::claim::published_id;
use crate::dedup::spooled_facts::SpooledFacts;
use crate::marks::Marks;
use butlr_event::event_id::EventId;

impl MemoryStore {
    /// Remembers an event of the spool; the newest are to come first, and what Kafka has after all of them. Whether its id was
    /// taken. Like [`Memory::restore_id`] it changes nothing that is known.
    ///
    /// What is still in the spool gets into Kafka after all that is there now, so it is the newest; but what *may* be there
    /// already may have been followed by something else. So its value is equal to nothing.
    pub fn restore_spooled(&self, facts: SpooledFacts, now: Instant) -> bool {
        let now = self.window_ticks(now);
        let stamp = StorageStamp::new(now.tick.saturating_sub(to_ticks(facts.age)), true);
        if let Some((source, timestamp_ms)) = facts.newest {
            self.restore_newest(source, timestamp_ms);
        }
        if let Some((cell, mut current)) = facts.current {
            if facts.is_in_doubt {
                current.invalidate();
            }
            self.restore_value(cell, current, stamp, now);
        }
        let key = stored_id_key(facts.id_hash, facts.reading, facts.is_conflict);
        let id = StoredId::new(key, facts.reading, stamp);
        self.ids.lock_for(key).stored.restore(id, now.ids_from)
    }

    /// Not all that is in the spool is known, and the rest may replace whatever is restored from now on: no current value of
    /// that is equal to anything.
    pub fn mark_all_uncertain(&self) {
        *self.lock_uncertain_keys() = UncertainKeys::All;
    }

    /// An event of the spool never gets into Kafka: the same event, sent again, is tried anew, and nothing is a repeat of it.
    pub fn forget_dead_letter(&self, facts: &EventFacts<'_>, marks: &Marks) {
        let cell = facts.occupancy_key.filter(|_| can_become_current(marks));
        let mut locked = self.lock_shards(facts.id_hash, cell);
        let key = stored_id_key(facts.id_hash, facts.reading, marks.conflict.is_some());
        if let Some(id) = locked.ids.stored.get_mut(key)
            && id.reading() == facts.reading
        {
            id.stored_at.expire();
        }
        let values = cell.zip(locked.values.as_mut());
        if let Some(value) = values.and_then(|(cell, values)| values.stored.get_mut(cell))
            && value.current.id == published_id(marks, EventId::new(facts.id))
        {
            value.current.invalidate();
        }
    }

    /// Something of the spool is lost, and nobody knows what: whatever is there is tried anew when it is sent again, and
    /// nothing is a repeat of it. What is in Kafka stays known.
    pub fn invalidate_spooled(&self) {
        // Before the ids: a repeat leaves one.
        for mut values in self.values.lock_each() {
            let spooled = values
                .stored
                .iter_mut()
                .filter(|value| value.stored_at.is_spooled());
            spooled.for_each(|value| value.current.invalidate());
        }
        for mut ids in self.ids.lock_each() {
            let spooled = ids.stored.iter_mut().filter(|id| id.stored_at.is_spooled());
            spooled.for_each(|id| id.stored_at.expire());
        }
    }

    /// An event of the spool got into Kafka, under `marks`. Returns the id of a current value that is still in the spool and
    /// so comes after it.
    ///
    /// Where the current value is another and is in Kafka already, this event now lies behind it: a later one that is equal
    /// to the current value is no repeat for those who read the topic. It is published then, at worst as a copy. (Reports
    /// come in the order of the topic: what will lie behind this event is not committed yet, or is on disk.)
    pub fn mark_drained(&self, facts: &EventFacts<'_>, marks: &Marks) -> Option<EventId> {
        let cell = facts.occupancy_key.filter(|_| can_become_current(marks));
        let mut locked = self.lock_shards(facts.id_hash, cell);
        let key = stored_id_key(facts.id_hash, facts.reading, marks.conflict.is_some());
        if let Some(id) = locked.ids.stored.get_mut(key)
            && id.reading() == facts.reading
        {
            id.stored_at.set_published();
        }
        let cell = cell?;
        let Some(value) = locked.values.as_mut()?.stored.get_mut(cell) else {
            // What it lies behind may come to be known later.
            self.lock_uncertain_keys().insert(cell);
            return None;
        };
        if value.current.id == published_id(marks, EventId::new(facts.id)) {
            value.stored_at.set_published();
            return None;
        }
        if value.stored_at.is_spooled() {
            return Some(value.current.id.clone());
        }
        if value.current.reading != facts.reading {
            value.current.invalidate();
        }
        None
    }
}

/// Whether an event with these marks became the current value.
pub(in crate::dedup) fn can_become_current(marks: &Marks) -> bool {
    !marks.stale && marks.duplicate.is_none()
}
