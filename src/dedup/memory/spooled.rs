//! What is on disk and not in Kafka yet: as it was found there after a start, and as it gets into Kafka.

use std::time::Instant;

use super::doubts::Doubts;
use super::shard::Id;
use super::stamp::Stamp;
use super::{Memory, key_under, ticks};
use crate::dedup::Facts;
use crate::dedup::claim::under;
use crate::dedup::spooled::SpooledTold;
use crate::marks::Marks;
use butlr_event::event_id::EventId;

impl Memory {
    /// Remembers an event of the spool; the newest are to come first, and what Kafka has after all of them. Whether its id was
    /// taken. Like [`Memory::restore_id`] it changes nothing that is known.
    ///
    /// What is still in the spool gets into Kafka after all that is there now, so it is the newest; but what *may* be there
    /// already may have been followed by something else. So its value is equal to nothing.
    pub fn restore_spooled(&self, told: SpooledTold, now: Instant) -> bool {
        let now = self.moment(now);
        let stamp = Stamp::new(now.tick.saturating_sub(ticks(told.age)), true);
        if let Some((source, timestamp_ms)) = told.newest {
            self.restore_newest(source, timestamp_ms);
        }
        if let Some((cell, mut current)) = told.current {
            if told.suspect {
                current.contest();
            }
            self.restore_value(cell, current, stamp, now);
        }
        let key = key_under(told.id_key, told.reading, told.conflict);
        let id = Id::new(key, told.reading, stamp);
        self.ids.of(key).stored.restore(id, now.ids_from)
    }

    /// Not all that is in the spool is known, and the rest may replace whatever is restored from now on: no current value of
    /// that is equal to anything.
    pub fn doubt_restored(&self) {
        *self.doubts() = Doubts::All;
    }

    /// An event of the spool never gets into Kafka: the same event, sent again, is tried anew, and nothing is a repeat of it.
    pub fn forget(&self, facts: &Facts<'_>, marks: &Marks) {
        let cell = facts.cell.filter(|_| makes_current(marks));
        let mut locked = self.locked(facts.id_key, cell);
        let key = key_under(facts.id_key, facts.reading, marks.conflict.is_some());
        if let Some(id) = locked.ids.stored.get_mut(key)
            && id.reading() == facts.reading
        {
            id.stored_at.expire();
        }
        let values = cell.zip(locked.values.as_mut());
        if let Some(value) = values.and_then(|(cell, values)| values.stored.get_mut(cell))
            && value.current.id == under(marks, EventId::new(facts.id))
        {
            value.current.contest();
        }
    }

    /// Something of the spool is lost, and nobody knows what: whatever is there is tried anew when it is sent again, and
    /// nothing is a repeat of it. What is in Kafka stays known.
    pub fn distrust_spooled(&self) {
        // Before the ids: a repeat leaves one.
        for mut values in self.values.iter() {
            let spooled = values
                .stored
                .iter_mut()
                .filter(|value| value.stored_at.is_spooled());
            spooled.for_each(|value| value.current.contest());
        }
        for mut ids in self.ids.iter() {
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
    pub fn drained(&self, facts: &Facts<'_>, marks: &Marks) -> Option<EventId> {
        let cell = facts.cell.filter(|_| makes_current(marks));
        let mut locked = self.locked(facts.id_key, cell);
        let key = key_under(facts.id_key, facts.reading, marks.conflict.is_some());
        if let Some(id) = locked.ids.stored.get_mut(key)
            && id.reading() == facts.reading
        {
            id.stored_at.set_published();
        }
        let cell = cell?;
        let Some(value) = locked.values.as_mut()?.stored.get_mut(cell) else {
            // What it lies behind may come to be known later.
            self.doubts().add(cell);
            return None;
        };
        if value.current.id == under(marks, EventId::new(facts.id)) {
            value.stored_at.set_published();
            return None;
        }
        if value.stored_at.is_spooled() {
            return Some(value.current.id.clone());
        }
        if value.current.reading != facts.reading {
            value.current.contest();
        }
        None
    }
}

/// Whether an event with these marks became the current value.
pub(in crate::dedup) fn makes_current(marks: &Marks) -> bool {
    !marks.stale && marks.duplicate.is_none()
}
