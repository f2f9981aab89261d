//! The rules once more, as the words have them: plain maps, one event after the other.

use std::collections::HashMap;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use crate::config::{self, DuplicateHandling};
use crate::dedup::Facts;
use crate::marks::{Duplicate, Marks, Revision};
use butlr_event::event_id::EventId;
use butlr_event::ksuid::Ksuid;

/// An event, of few that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    pub id: u8,
    /// Space and timestamp: two spaces.
    pub place: u8,
    pub value: u8,
    pub is_occupancy: bool,
    pub plausible_time: bool,
}

/// Under which id something is stored or undecided; for a conflict with the reading.
type IdKey = (u8, Option<Reading>);
type Reading = (bool, u8, u8);

impl Event {
    pub fn occupancy(id: u8, place: u8, value: u8) -> Self {
        Self {
            id,
            place,
            value,
            is_occupancy: true,
            plausible_time: true,
        }
    }

    /// Two ids a second; each fourth is no KSUID.
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

    fn reading(&self) -> Reading {
        (self.is_occupancy, self.place, self.value)
    }

    fn source(&self) -> (bool, u8) {
        (self.is_occupancy, self.place % 2)
    }

    fn timestamp_ms(&self) -> i64 {
        i64::from(self.place / 2)
    }

    pub fn facts<'e>(&self, id: &'e str) -> Facts<'e> {
        let key = |parts: &[u8]| xxh3_64(parts);
        let occupancy = u8::from(self.is_occupancy);
        Facts {
            id,
            id_key: xxh3_64(id.as_bytes()),
            reading: key(&[1, occupancy, self.place, self.value]),
            cell: self.is_occupancy.then(|| key(&[2, self.place])),
            source: key(&[3, occupancy, self.source().1]),
            timestamp_ms: self.timestamp_ms(),
            plausible_time: self.plausible_time,
        }
    }
}

struct Current {
    event: Event,
    /// Under its own id, or `<id>~…`.
    id: EventId,
    revision: u32,
    at: Duration,
    /// It is not in Kafka yet.
    spooled: bool,
    /// It may have been replaced: nothing is equal to it.
    in_doubt: bool,
}

impl Current {
    fn is(&self, event: Event) -> bool {
        self.event.value == event.value && !self.in_doubt
    }
}

/// What a claim took, and what it will leave.
pub struct Claimed {
    event: Event,
    key: IdKey,
    place: Option<u8>,
    marks: Marks,
    becomes: Option<u32>,
}

/// Something undecided; each has a number of its own.
pub type Serial = usize;

pub enum Next {
    Publish(Marks, Claimed),
    /// And whether that is not in Kafka yet.
    Duplicate(Duplicate, bool),
    Wait(Serial),
}

pub struct Model {
    settings: config::DedupConfig,
    open_ids: HashMap<IdKey, Serial>,
    open_places: HashMap<u8, Serial>,
    ids: HashMap<IdKey, (Reading, Duration, bool)>,
    current: HashMap<u8, Current>,
    newest: HashMap<(bool, u8), i64>,
    serials: Serial,
}

impl Model {
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

    /// Forgets what is older than its window.
    fn forget(&mut self, now: Duration) {
        let windows = (self.settings.id_window, self.settings.reading_window);
        self.ids.retain(|_, (_, at, _)| now - *at <= windows.0);
        self.current
            .retain(|_, current| now - current.at <= windows.1);
    }

    pub fn claim(&mut self, event: Event, now: Duration) -> Next {
        self.forget(now);
        let mut marks = Marks::default();
        let mut key: IdKey = (event.id, None);
        if let Some(&serial) = self.open_ids.get(&key) {
            return Next::Wait(serial);
        }
        let mut stored = None;
        if let Some((reading, _, spooled)) = self.ids.get(&key) {
            stored = (*reading == event.reading()).then_some(*spooled);
            if stored.is_none() {
                let id = event.id();
                marks.conflict = Some(event.facts(&id).reading);
                key = (event.id, Some(event.reading()));
                if let Some(&serial) = self.open_ids.get(&key) {
                    return Next::Wait(serial);
                }
                stored = self.ids.get(&key).map(|(_, _, spooled)| *spooled);
            }
        }
        if let Some(spooled) = stored {
            return match self.settings.redelivery {
                DuplicateHandling::Drop => Next::Duplicate(Duplicate::Redelivery, spooled),
                DuplicateHandling::Tag => {
                    marks.duplicate = Some(Duplicate::Redelivery);
                    self.publish(event, key, None, marks, None)
                }
                DuplicateHandling::Off => self.publish(event, key, None, marks, None),
            };
        }
        if event.is_occupancy {
            if let Some(&serial) = self.open_places.get(&event.place) {
                return Next::Wait(serial);
            }
            let place = Some(event.place);
            let current = self.current.get(&event.place);
            let is_older = |current: &Current| match (event.seconds(), current.event.seconds()) {
                (Some(seconds), Some(current)) => seconds < current,
                _ => false,
            };
            match current {
                None => {}
                Some(current) if current.is(event) && marks.conflict.is_some() => {}
                Some(current) if current.is(event) => match self.settings.repeat {
                    DuplicateHandling::Drop => {
                        let spooled = current.spooled;
                        self.ids.insert(key, (event.reading(), now, spooled));
                        return Next::Duplicate(Duplicate::Repeat, spooled);
                    }
                    DuplicateHandling::Tag => {
                        marks.duplicate = Some(Duplicate::Repeat);
                        return self.publish(event, key, place, marks, None);
                    }
                    DuplicateHandling::Off => {
                        let becomes = (!is_older(current)).then_some(current.revision);
                        return self.publish(event, key, place, marks, becomes);
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
            let becomes = current.is_none().then_some(0);
            marks.out_of_order = self.is_out_of_order(event);
            return self.publish(event, key, place, marks, becomes);
        }
        marks.out_of_order = self.is_out_of_order(event);
        self.publish(event, key, None, marks, None)
    }

    fn is_out_of_order(&self, event: Event) -> bool {
        let newest = self.newest.get(&event.source());
        newest.is_some_and(|newest| *newest > event.timestamp_ms())
    }

    fn publish(
        &mut self,
        event: Event,
        key: IdKey,
        place: Option<u8>,
        marks: Marks,
        becomes: Option<u32>,
    ) -> Next {
        self.serials += 2;
        self.open_ids.insert(key, self.serials);
        if let Some(place) = place {
            self.open_places.insert(place, self.serials + 1);
        }
        let claimed = Claimed {
            event,
            key,
            place,
            marks: marks.clone(),
            becomes,
        };
        Next::Publish(marks, claimed)
    }

    pub fn commit(&mut self, claimed: Claimed, spooled: bool, now: Duration) {
        let event = claimed.event;
        self.ids
            .insert(claimed.key, (event.reading(), now, spooled));
        if let Some(revision) = claimed.becomes {
            let own_id = claimed.marks.own_id(&event.id());
            let current = Current {
                event,
                id: EventId::new(&own_id.unwrap_or(event.id())),
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

    /// What was spooled is in Kafka, behind all that is there. Returns what still comes after it.
    pub fn drained(&mut self, event: Event, marks: &Marks, now: Duration) -> Option<EventId> {
        self.forget(now);
        let key = (event.id, marks.conflict.map(|_| event.reading()));
        if let Some((reading, _, spooled)) = self.ids.get_mut(&key) {
            *spooled &= *reading != event.reading();
        }
        if !event.is_occupancy || marks.stale || marks.duplicate.is_some() {
            return None;
        }
        let current = self.current.get_mut(&event.place)?;
        let id = marks.own_id(&event.id()).unwrap_or(event.id());
        if current.id == EventId::new(&id) {
            current.spooled = false;
        } else if current.spooled {
            return Some(current.id.clone());
        } else if current.event.value != event.value {
            current.in_doubt = true;
        }
        None
    }

    pub fn unknown(&mut self, claimed: Claimed) {
        let current = self.current.get_mut(&claimed.event.place);
        if let (Some(_), Some(current)) = (claimed.becomes, current) {
            current.in_doubt = true;
        }
        self.release(claimed);
    }

    pub fn release(&mut self, claimed: Claimed) {
        self.open_ids.remove(&claimed.key);
        if let Some(place) = claimed.place {
            self.open_places.remove(&place);
        }
    }

    pub fn is_open(&self, serial: Serial) -> bool {
        let mut open = self.open_ids.values().chain(self.open_places.values());
        open.any(|&open| open == serial)
    }

    /// Undecided, ids, current values, sources.
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
