//! Spooled events that reach Kafka, are refused by it, or are lost.

use super::uncertain_keys::UncertainKeys;
use super::{MemoryStore, stored_id_key};
use crate::dedup::EventFacts;
use crate::dedup::claim::published_id;
use crate::dedup::rules::can_become_current;
use crate::marks::Marks;
use butlr_event::event_id::EventId;

impl MemoryStore {
    /// Records that the spool is not fully known. The unknown rest may replace any value restored
    /// from now on, so none of those is relied on.
    pub fn mark_all_uncertain(&self) {
        *self.lock_uncertain_keys() = UncertainKeys::All;
    }

    /// Forgets a dead letter: the same event, sent again, is tried again, and nothing is a repeat
    /// of it.
    pub fn forget_dead_letter(&self, facts: &EventFacts<'_>, marks: &Marks) {
        let occupancy_key = facts.occupancy_key.filter(|_| can_become_current(marks));
        let mut locked = self.lock_shards(facts.id_hash, occupancy_key);
        let id_key = stored_id_key(facts.id_hash, marks.conflict.map(|_| facts.reading));
        if let Some(id) = locked.ids.stored.get_mut(id_key)
            && id.reading() == facts.reading
        {
            id.stored_at.expire();
        }
        let values = occupancy_key.zip(locked.values.as_mut());
        if let Some(value) = values.and_then(|(key, values)| values.stored.get_mut(key))
            && value.current.id == published_id(marks, EventId::new(facts.id))
        {
            value.current.invalidate();
        }
    }

    /// Records that an unknown part of the spool is lost: every spooled event is tried again when
    /// it is sent again, and nothing is a repeat of one. Events in Kafka stay known.
    pub fn invalidate_spooled(&self) {
        // Values first, because a repeat leaves an id.
        for mut values in self.values.lock_each() {
            for value in values.stored.iter_mut() {
                if value.stored_at.storage().is_spooled() {
                    value.current.invalidate();
                }
            }
        }
        for mut ids in self.ids.lock_each() {
            for id in ids.stored.iter_mut() {
                if id.stored_at.storage().is_spooled() {
                    id.stored_at.expire();
                }
            }
        }
    }

    /// Records that a spooled event reached Kafka with `marks`. Returns the id of the current value
    /// if that one is still in the spool and so follows it.
    ///
    /// If the current value is another one and already in Kafka, this event now lies behind it. For
    /// readers of the topic, a later event equal to the current value is then no repeat, so it is
    /// published, at worst as a copy. (Reports come in the order of the topic: an event that will
    /// lie behind this one is not committed yet, or is on disk.)
    pub fn mark_drained(&self, facts: &EventFacts<'_>, marks: &Marks) -> Option<EventId> {
        let occupancy_key = facts.occupancy_key.filter(|_| can_become_current(marks));
        let mut locked = self.lock_shards(facts.id_hash, occupancy_key);
        let id_key = stored_id_key(facts.id_hash, marks.conflict.map(|_| facts.reading));
        if let Some(id) = locked.ids.stored.get_mut(id_key)
            && id.reading() == facts.reading
        {
            id.stored_at.set_published();
        }
        let occupancy_key = occupancy_key?;
        let Some(value) = locked.values.as_mut()?.stored.get_mut(occupancy_key) else {
            // The value that it lies behind may still be restored.
            self.lock_uncertain_keys().insert(occupancy_key);
            return None;
        };
        if value.current.id == published_id(marks, EventId::new(facts.id)) {
            value.stored_at.set_published();
            return None;
        }
        if value.stored_at.storage().is_spooled() {
            return Some(value.current.id.clone());
        }
        if value.current.reading != facts.reading {
            value.current.invalidate();
        }
        None
    }
}
