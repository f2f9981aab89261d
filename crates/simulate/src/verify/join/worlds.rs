//! What the bridge may know of one (type, space, timestamp): all that is consistent with the answers so far.
//!
//! As long as every answer is known, that is one world, and the oracle tells exactly what comes next. A try without a known
//! answer may have been stored, at any time from then on, or not: then there are two, and what is answered later tells
//! which it was.

use crate::hash;
use crate::oracle::{Known, Reading, Verdict};
use crate::verify::names::is_occupancy;
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// Of so many at most it is known what comes next.
const MOST_WORLDS: usize = 64;

/// What a record's headers say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Nothing.
    Plain,
    /// It is a revision of the event with this (hashed) id.
    Revision(u64),
    /// It is stale.
    Stale,
}

/// What was answered to a try, and what its record adds to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is the same event again.
    Redelivery,
    /// It is the same value again.
    Repeat,
    /// It was stored; marked so, where its record is known.
    Stored(Option<Mark>),
}

/// All tries of one event that went out one after the other, or overlapping, with nothing about the reading in between. In
/// which order the bridge had them is not known.
#[derive(Clone, Debug)]
pub struct Group {
    /// The event.
    pub id: Ksuid,
    /// Its type.
    pub event_type: EventType,
    /// Its value.
    pub data: u64,
    /// What was answered, as far as it is known.
    pub heard: Vec<Heard>,
    /// Whether there are tries besides whose answer is not known.
    pub unknown: bool,
    /// The marks of this event's records to which no answer belongs; `None` where not all records are known.
    pub unheard: Option<Vec<Mark>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct World {
    reading: Reading,
    /// Events that may still be stored.
    pending: Vec<Pending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    id: Ksuid,
    event_type: EventType,
    data: u64,
    /// Whether there may be a record of it.
    recorded: bool,
}

/// How a group fits what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// As the rules say.
    Right(Verdict),
    /// So, if the bridge had forgotten the id of a repeat, which no record tells.
    ForgotRepeat(Verdict),
    /// As if the bridge had not known of what is stored; the rules say this.
    Unrecognised(Verdict),
    /// It rests on something from before the run.
    Before,
    /// Nothing explains it; the rules say this.
    Wrong(Verdict),
    /// Too much is not known.
    Unsure,
}

/// All that may be.
#[derive(Clone, Debug)]
pub struct Worlds(Vec<World>);

impl Worlds {
    /// Nothing is stored yet.
    pub fn new() -> Self {
        Self(vec![World::default()])
    }

    /// The next group. Afterwards only the worlds are left that explain it.
    pub fn hear(&mut self, group: &Group) -> Fit {
        self.settle();
        if self.0.len() > MOST_WORLDS {
            self.force(group);
            return Fit::Unsure;
        }
        let says = self.0[0]
            .reading
            .judge(group.event_type, group.id, group.data);
        if group.heard.is_empty() && !group.unknown {
            return Fit::Right(says);
        }
        let unhindered = Group {
            unheard: None,
            ..group.clone()
        };
        // What is there and what is not tells which tries were stored; unless records are missing, which is told elsewhere.
        for group in [group, &unhindered] {
            if let Some(verdict) = self.explained(group, World::clone) {
                return Fit::Right(verdict);
            }
        }
        let id = group.id;
        let no_repeat = |w: &World| match w.reading.known(id) {
            Some(Known::Repeat) => w.without(Some(id), false),
            _ => w.clone(),
        };
        let once = unhindered.with_each_once(|heard| heard == Heard::Repeat);
        if self.explained(&once, no_repeat).is_some() {
            return Fit::ForgotRepeat(says);
        }
        if self.before(group) {
            self.force(group);
            return Fit::Before;
        }
        let once = unhindered.with_each_once(|heard| heard != Heard::Redelivery);
        let all_but_plain = once.but_plain();
        if all_but_plain.heard.len() < group.heard.len()
            && self.explained(&all_but_plain, World::clone).is_some()
        {
            return Fit::Unrecognised(Verdict::Redelivery);
        }
        for (known, value) in [(true, false), (false, true), (true, true)] {
            let (id, group) = match known {
                true => (Some(id), &all_but_plain),
                false => (None, &unhindered),
            };
            if self.explained(group, |w| w.without(id, value)).is_some() {
                return Fit::Unrecognised(says);
            }
        }
        self.force(group);
        Fit::Wrong(says)
    }

    /// Keeps the worlds that explain a group, once they are `seen` so; what it is in the first of them. Where none does,
    /// all stay.
    fn explained(&mut self, group: &Group, seen: impl Fn(&World) -> World) -> Option<Verdict> {
        let mut after: Vec<World> = Vec::new();
        let mut verdict = None;
        for world in &self.0 {
            let world = seen(world);
            let told = world.reading.judge(group.event_type, group.id, group.data);
            let before = after.len();
            world.after(group, told, &mut after);
            if after.len() > before {
                verdict = verdict.or(Some(told));
            }
        }
        if verdict.is_some() {
            self.0 = distinct(after);
        }
        verdict
    }

    /// Whether what was heard can only rest on a value from before the run.
    fn before(&self, group: &Group) -> bool {
        let none = |w: &World| w.reading.current.is_none() && w.reading.known(group.id).is_none();
        let rests = |heard: &Heard| match heard {
            Heard::Repeat => true,
            Heard::Stored(Some(mark)) => *mark != Mark::Plain,
            _ => false,
        };
        is_occupancy(group.event_type) && self.0.iter().any(none) && group.heard.iter().any(rests)
    }

    /// Takes for granted what was heard, whatever explains it.
    fn force(&mut self, group: &Group) {
        let verdict = group.heard.iter().find_map(|heard| match heard {
            Heard::Redelivery => None,
            Heard::Repeat => Some(Verdict::First),
            Heard::Stored(Some(Mark::Stale)) => Some(Verdict::Stale),
            Heard::Stored(_) => Some(Verdict::First),
        });
        for world in &mut self.0 {
            world.pending.retain(|pending| pending.id != group.id);
            if let Some(verdict) = verdict {
                world.reading.take(verdict, group.id, group.data);
            }
        }
        self.0 = distinct(std::mem::take(&mut self.0));
        self.0.truncate(MOST_WORLDS);
    }

    /// What is pending may have been stored by now.
    fn settle(&mut self) {
        let mut n = 0;
        while n < self.0.len() && self.0.len() <= MOST_WORLDS {
            for place in 0..self.0[n].pending.len() {
                let mut world = self.0[n].clone();
                let Pending {
                    id,
                    event_type,
                    data,
                    recorded,
                } = world.pending.remove(place);
                let verdict = world.reading.judge(event_type, id, data);
                world.reading.take(verdict, id, data);
                let may_be = recorded || verdict.is_duplicate();
                if may_be && !self.0.contains(&world) {
                    self.0.push(world);
                }
            }
            n += 1;
        }
    }
}

impl Group {
    /// As if what was heard twice of such had been heard once.
    fn with_each_once(&self, of: impl Fn(Heard) -> bool) -> Self {
        let mut heard: Vec<Heard> = Vec::with_capacity(self.heard.len());
        for each in &self.heard {
            if !of(*each) || !heard.contains(each) {
                heard.push(*each);
            }
        }
        Self {
            heard,
            ..self.clone()
        }
    }

    /// As if tries had not been that were taken for something new, beside others that were not.
    fn but_plain(&self) -> Self {
        let plain = |heard: &Heard| matches!(heard, Heard::Stored(Some(Mark::Plain) | None));
        let other = |heard: &Heard| !plain(heard) && *heard != Heard::Redelivery;
        let mut group = self.clone();
        if group.heard.iter().any(other) {
            group.heard.retain(|heard| !plain(heard));
        }
        group
    }
}

impl World {
    /// As if this id, or the value, were not known.
    fn without(&self, id: Option<Ksuid>, value: bool) -> Self {
        let mut world = self.clone();
        world.reading.ids.retain(|(known, _)| Some(*known) != id);
        if value {
            world.reading.current = None;
        }
        world
    }

    /// Adds the worlds that this one can be after a group, if the event is `verdict` in it.
    fn after(mut self, group: &Group, verdict: Verdict, all: &mut Vec<World>) {
        let again = |heard: &&Heard| **heard == Heard::Redelivery;
        let redelivered = group.heard.iter().filter(again).count();
        if verdict == Verdict::Redelivery {
            if redelivered == group.heard.len() {
                all.push(self);
            }
            return;
        }
        let fitting = group
            .heard
            .iter()
            .filter(|heard| self.fits(**heard, verdict))
            .count();
        if fitting + redelivered != group.heard.len() || fitting > 1 {
            return;
        }
        let (id, data) = (group.id, group.data);
        if fitting == 0 {
            if !group.unknown {
                return;
            }
            if redelivered == 0 {
                let mut world = self.clone();
                world.pending.retain(|pending| pending.id != id);
                world.pending.push(Pending {
                    id,
                    event_type: group.event_type,
                    data,
                    recorded: group.unheard.as_ref().is_none_or(|marks| !marks.is_empty()),
                });
                // One order, so that equal worlds are found to be so.
                world.pending.sort_unstable_by_key(|pending| pending.id);
                all.push(world);
            }
            // One that nobody heard of was the first.
            let left = |marks: &Vec<Mark>| {
                marks
                    .iter()
                    .any(|mark| self.fits(Heard::Stored(Some(*mark)), verdict))
            };
            if !verdict.is_duplicate() && !group.unheard.as_ref().is_none_or(left) {
                return;
            }
        }
        self.pending.retain(|pending| pending.id != id);
        self.reading.take(verdict, id, data);
        all.push(self);
    }

    /// Whether that is what is heard of such an event.
    fn fits(&self, heard: Heard, verdict: Verdict) -> bool {
        match (verdict, heard) {
            (Verdict::Repeat, Heard::Repeat) => true,
            (Verdict::First | Verdict::Revision | Verdict::Stale, Heard::Stored(None)) => true,
            (Verdict::First, Heard::Stored(Some(mark))) => mark == Mark::Plain,
            (Verdict::Stale, Heard::Stored(Some(mark))) => mark == Mark::Stale,
            (Verdict::Revision, Heard::Stored(Some(Mark::Revision(of)))) => {
                let current = self.reading.current.as_ref();
                current.is_some_and(|current| of == superseded(current.id))
            }
            _ => false,
        }
    }
}

/// How an id stands in [`Mark::Revision`].
pub fn superseded(id: Ksuid) -> u64 {
    hash::bytes(format!("event_{id}").as_bytes())
}

fn distinct(worlds: Vec<World>) -> Vec<World> {
    let mut distinct: Vec<World> = Vec::with_capacity(worlds.len());
    for world in worlds {
        if !distinct.contains(&world) {
            distinct.push(world);
        }
    }
    distinct
}

#[cfg(test)]
mod tests;
