//! A reference model of the rules: plain maps, one event after the other.

use std::collections::HashMap;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use crate::config::{self, DuplicateHandling};
use crate::dedup::{EventFacts, IdHash, OccupancyKey, ReadingHash, SourceKey};
use crate::marks::{DuplicateKind, Marks, Revision};
use butlr_event::EventType;
use butlr_event::event_id::EventId;
use butlr_event::ksuid::Ksuid;

/// An event out of a small set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModelEvent {
    pub id: u8,
    /// Space and timestamp; there are two spaces.
    pub place: u8,
    pub value: u8,
    pub is_occupancy: bool,
    pub plausible_time: bool,
}

/// The key under which an id is stored or undecided; for a conflict, with the reading.
type ModelIdKey = (u8, Option<ModelReading>);
type ModelReading = (bool, u8, u8);

impl ModelEvent {
    pub fn occupancy(id: u8, place: u8, value: u8) -> Self {
        Self {
            id,
            place,
            value,
            is_occupancy: true,
            plausible_time: true,
        }
    }

    /// Two ids per second; every fourth is not a KSUID.
    pub fn id(&self) -> String {
        match self.id % 4 {
            3 => format!("id-{}", self.id),
            _ => {
                let made_ms = 1_700_000_000_000 + 1000 * i64::from(self.id / 2);
                format!("event_{}", Ksuid::new(made_ms, [self.id; 16]))
            }
        }
    }

    fn seconds(&self) -> Option<u8> {
        (self.id % 4 != 3).then_some(self.id / 2)
    }

    fn reading(&self) -> ModelReading {
        (self.is_occupancy, self.place, self.value)
    }

    fn source(&self) -> (bool, u8) {
        (self.is_occupancy, self.place % 2)
    }

    fn timestamp_ms(&self) -> i64 {
        i64::from(self.place / 2)
    }

    pub fn facts<'e>(&self, id: &'e str) -> EventFacts<'e> {
        let key = |parts: &[u8]| xxh3_64(parts);
        let occupancy = u8::from(self.is_occupancy);
        EventFacts {
            id,
            event_type: Some(if self.is_occupancy {
                EventType::RoomOccupancy
            } else {
                EventType::PirMotion
            }),
            id_hash: IdHash(xxh3_64(id.as_bytes())),
            reading: ReadingHash(key(&[1, occupancy, self.place, self.value])),
            occupancy_key: self
                .is_occupancy
                .then(|| OccupancyKey(key(&[2, self.place]))),
            source_key: SourceKey(key(&[3, occupancy, self.source().1])),
            timestamp_ms: self.timestamp_ms(),
            has_plausible_time: self.plausible_time,
        }
    }
}

struct ModelValue {
    event: ModelEvent,
    /// The event's id, or `<id>~…` for a conflict.
    id: EventId,
    revision: u32,
    at: Duration,
    /// It is not in Kafka yet.
    spooled: bool,
    /// It may have been replaced, so nothing is a repeat of it.
    in_doubt: bool,
}

impl ModelValue {
    fn has_value_of(&self, event: ModelEvent) -> bool {
        self.event.value == event.value && !self.in_doubt
    }
}

/// A claim's keys, and its result.
pub struct ModelClaim {
    event: ModelEvent,
    key: ModelIdKey,
    place: Option<u8>,
    marks: Marks,
    resulting_revision: Option<u32>,
}

/// Unique number of an undecided key.
pub type ClaimSerial = usize;

pub enum ModelDecision {
    Publish(Marks, ModelClaim),
    /// The flag is set if the stored event is not in Kafka yet.
    Duplicate(DuplicateKind, bool),
    Wait(ClaimSerial),
}

pub struct MemoryModel {
    settings: config::DedupConfig,
    open_ids: HashMap<ModelIdKey, ClaimSerial>,
    open_places: HashMap<u8, ClaimSerial>,
    ids: HashMap<ModelIdKey, (ModelReading, Duration, bool)>,
    current: HashMap<u8, ModelValue>,
    newest: HashMap<(bool, u8), i64>,
    serials: ClaimSerial,
}

impl MemoryModel {
    pub fn new(settings: config::DedupConfig) -> Self {
        Self {
            settings,
            open_ids: HashMap::new(),
            open_places: HashMap::new(),
            ids: HashMap::new(),
            current: HashMap::new(),
            newest: HashMap::new(),
            serials: 0,
        }
    }

    /// Forgets entries older than their window.
    fn forget(&mut self, now: Duration) {
        let windows = (self.settings.id_window, self.settings.reading_window);
        self.ids.retain(|_, (_, at, _)| now - *at <= windows.0);
        self.current
            .retain(|_, current| now - current.at <= windows.1);
    }

    pub fn claim(&mut self, event: ModelEvent, now: Duration) -> ModelDecision {
        self.forget(now);
        let mut marks = Marks::default();
        let mut key: ModelIdKey = (event.id, None);
        if let Some(&serial) = self.open_ids.get(&key) {
            return ModelDecision::Wait(serial);
        }
        let mut stored = None;
        if let Some((reading, _, spooled)) = self.ids.get(&key) {
            stored = (*reading == event.reading()).then_some(*spooled);
            if stored.is_none() {
                let id = event.id();
                marks.conflict = Some(event.facts(&id).reading.0);
                key = (event.id, Some(event.reading()));
                if let Some(&serial) = self.open_ids.get(&key) {
                    return ModelDecision::Wait(serial);
                }
                stored = self.ids.get(&key).map(|(_, _, spooled)| *spooled);
            }
        }
        if let Some(spooled) = stored {
            return match self.settings.redelivery {
                DuplicateHandling::Drop => {
                    ModelDecision::Duplicate(DuplicateKind::Redelivery, spooled)
                }
                DuplicateHandling::Tag => {
                    marks.duplicate = Some(DuplicateKind::Redelivery);
                    self.publish(event, key, None, marks, None)
                }
                DuplicateHandling::Off => self.publish(event, key, None, marks, None),
            };
        }
        if event.is_occupancy {
            if let Some(&serial) = self.open_places.get(&event.place) {
                return ModelDecision::Wait(serial);
            }
            let place = Some(event.place);
            let current = self.current.get(&event.place);
            let is_older = |current: &ModelValue| match (event.seconds(), current.event.seconds()) {
                (Some(seconds), Some(current)) => seconds < current,
                _ => false,
            };
            match current {
                None => {}
                Some(current) if current.has_value_of(event) && marks.conflict.is_some() => {}
                Some(current) if current.has_value_of(event) => match self.settings.repeat {
                    DuplicateHandling::Drop => {
                        let spooled = current.spooled;
                        self.ids.insert(key, (event.reading(), now, spooled));
                        return ModelDecision::Duplicate(DuplicateKind::Repeat, spooled);
                    }
                    DuplicateHandling::Tag => {
                        marks.duplicate = Some(DuplicateKind::Repeat);
                        return self.publish(event, key, place, marks, None);
                    }
                    DuplicateHandling::Off => {
                        let resulting_revision = (!is_older(current)).then_some(current.revision);
                        return self.publish(event, key, place, marks, resulting_revision);
                    }
                },
                Some(current) if is_older(current) => {
                    marks.stale = true;
                    return self.publish(event, key, place, marks, None);
                }
                Some(current) => {
                    let number = current.revision + 1;
                    marks.revision = Some(Revision {
                        number,
                        supersedes: current.id.clone(),
                    });
                    return self.publish(event, key, place, marks, Some(number));
                }
            }
            let resulting_revision = current.is_none().then_some(0);
            marks.out_of_order = self.is_out_of_order(event);
            return self.publish(event, key, place, marks, resulting_revision);
        }
        marks.out_of_order = self.is_out_of_order(event);
        self.publish(event, key, None, marks, None)
    }

    fn is_out_of_order(&self, event: ModelEvent) -> bool {
        let newest = self.newest.get(&event.source());
        newest.is_some_and(|newest| *newest > event.timestamp_ms())
    }

    fn publish(
        &mut self,
        event: ModelEvent,
        key: ModelIdKey,
        place: Option<u8>,
        marks: Marks,
        resulting_revision: Option<u32>,
    ) -> ModelDecision {
        self.serials += 2;
        self.open_ids.insert(key, self.serials);
        if let Some(place) = place {
            self.open_places.insert(place, self.serials + 1);
        }
        let claimed = ModelClaim {
            event,
            key,
            place,
            marks: marks.clone(),
            resulting_revision,
        };
        ModelDecision::Publish(marks, claimed)
    }

    pub fn commit(&mut self, claimed: ModelClaim, spooled: bool, now: Duration) {
        let event = claimed.event;
        self.ids
            .insert(claimed.key, (event.reading(), now, spooled));
        if let Some(revision) = claimed.resulting_revision {
            let conflict_id = claimed.marks.conflict_id(&event.id());
            let current = ModelValue {
                event,
                id: EventId::new(&conflict_id.unwrap_or(event.id())),
                revision,
                at: now,
                spooled,
                in_doubt: false,
            };
            self.current.insert(event.place, current);
        }
        if event.plausible_time {
            let newest = self.newest.entry(event.source()).or_insert(i64::MIN);
            *newest = event.timestamp_ms().max(*newest);
        }
        self.release(claimed);
    }

    /// Moves a spooled event into Kafka, behind everything there. Returns the id of the current
    /// value if that is still spooled.
    pub fn mark_drained(
        &mut self,
        event: ModelEvent,
        marks: &Marks,
        now: Duration,
    ) -> Option<EventId> {
        self.forget(now);
        let key = (event.id, marks.conflict.map(|_| event.reading()));
        if let Some((reading, _, spooled)) = self.ids.get_mut(&key) {
            *spooled &= *reading != event.reading();
        }
        if !event.is_occupancy || marks.stale || marks.duplicate.is_some() {
            return None;
        }
        let current = self.current.get_mut(&event.place)?;
        let id = marks.conflict_id(&event.id()).unwrap_or(event.id());
        if current.id == EventId::new(&id) {
            current.spooled = false;
        } else if current.spooled {
            return Some(current.id.clone());
        } else if current.event.value != event.value {
            current.in_doubt = true;
        }
        None
    }

    pub fn release_in_doubt(&mut self, claimed: ModelClaim) {
        let current = self.current.get_mut(&claimed.event.place);
        if let (Some(_), Some(current)) = (claimed.resulting_revision, current) {
            current.in_doubt = true;
        }
        self.release(claimed);
    }

    pub fn release(&mut self, claimed: ModelClaim) {
        self.open_ids.remove(&claimed.key);
        if let Some(place) = claimed.place {
            self.open_places.remove(&place);
        }
    }

    pub fn is_open(&self, serial: ClaimSerial) -> bool {
        let mut open = self.open_ids.values().chain(self.open_places.values());
        open.any(|&open| open == serial)
    }

    /// The numbers of undecided events, ids, current values and sources.
    pub fn entries(&mut self, now: Duration) -> [usize; 4] {
        self.forget(now);
        [
            self.open_ids.len(),
            self.ids.len(),
            self.current.len(),
            self.newest.len(),
        ]
    }
}
