//! One record against the contract, by itself: which event its value tells, and whether topic, key, partition, headers
//! and timestamp are those of that event.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::entry::{Duplicate, Entry, Position};
use super::headers::{self, Expected, Headers, Tags};
use super::murmur2;
use super::order::Order;
use super::told::{self, Told};
use crate::city::Truth;
use crate::hash;
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// Of so many records at most it is kept what is wrong with them, and which id their headers name.
const KEPT: usize = 100_000;
/// Foreign records may hold texts of any length: so many characters of them are kept.
const LONGEST: usize = 200;

/// A record as Kafka has it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'r> {
    /// Where it is.
    pub position: Position,
    /// ms since 1970; `None` when it is no CreateTime.
    pub timestamp_ms: Option<i64>,
    /// The latest moment at which it can have been published, ms since 1970.
    pub published_until_ms: i64,
    /// Its key.
    pub key: Option<&'r [u8]>,
    /// Its value; a tombstone has none.
    pub value: Option<&'r [u8]>,
    /// `None` where one of their names is not UTF-8.
    pub headers: Option<&'r Headers<'r>>,
}

/// A record that is not (yet) known to be of an event that was sent.
#[derive(Clone, Debug)]
pub struct Stray {
    /// Where it is.
    pub position: Position,
    /// Whose record it says to be: in its value, in its headers.
    pub claims: [Option<Ksuid>; 2],
    /// Its id as it stands there, where it has one.
    pub id: Option<String>,
    /// Why it is one.
    pub why: String,
    /// It says to be TRAFFIC, or lies in its topic.
    pub traffic: bool,
}

/// What was noticed about single records, beside their entries.
#[derive(Debug, Default)]
pub struct Aside {
    /// What is wrong with topic, key or partition.
    pub misplaced: HashMap<Position, String>,
    /// What is wrong with headers or timestamp.
    pub misheaded: HashMap<Position, String>,
    /// Those marked as out of order that are not; see [`Order`].
    pub unjustified: HashSet<Position>,
    /// The id in `ce_id`, where the value has another.
    pub other_ids: HashMap<Position, Ksuid>,
    /// Records whose value tells no event of the simulator.
    pub unreadable: Vec<Stray>,
    /// How many more of those there were.
    pub further_unreadable: u64,
    /// How many of those there were that came before the run.
    pub earlier: u64,
}

/// Checks records.
pub struct Checker {
    partitions: [usize; EventType::ALL.len()],
    names: [String; EventType::ALL.len()],
    expected: Expected,
    skip_earlier: bool,
    spaces: HashMap<String, u32>,
    /// What came before what.
    pub order: Order,
    /// What was recognised by headers.
    pub signs: Signs,
    /// What it noticed so far.
    pub aside: Aside,
}

/// What a bridge shows that it recognises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// Redeliveries.
    pub redelivery: bool,
    /// Repeats.
    pub repeat: bool,
    /// Revisions or stale ones.
    pub revision: bool,
}

impl Signs {
    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.redelivery || self.repeat || self.revision
    }
}

impl Checker {
    /// For topics with these names and so many partitions (each at least one). `skip_earlier`: records that nobody sent
    /// and that came before the run are none of its concern.
    pub fn new(
        names: [String; EventType::ALL.len()],
        partitions: [usize; EventType::ALL.len()],
        expected: Expected,
        skip_earlier: bool,
        order: Order,
        truth: &Truth,
    ) -> Self {
        let spaces = truth.spaces.iter().zip(0..);
        Self {
            partitions,
            names,
            expected,
            skip_earlier,
            spaces: spaces.map(|((id, _), n)| (id.clone(), n)).collect(),
            order,
            signs: Signs::default(),
            aside: Aside::default(),
        }
    }

    /// The entry of a record, unless its value tells no event. Records of a partition come in their order.
    pub fn look(&mut self, record: &Record<'_>) -> Option<Entry> {
        let value = record.value.unwrap_or_default();
        let told = match record.value {
            None => Err("it has no value (a tombstone)".to_owned()),
            Some([]) => Err("its value is empty".to_owned()),
            Some(value) => told::read(value).map_err(|e| format!("its value is no event: {e}")),
        };
        let told = match told {
            Ok(told) => told,
            Err(why) => {
                self.unreadable(record, None, why);
                return None;
            }
        };
        let Some(id) = ksuid(&told.id) else {
            let why = "its id is none that the simulator makes".to_owned();
            self.unreadable(record, Some(told.id.into_owned()), why);
            return None;
        };
        let misplaced = self.misplaced(record, &told);
        let none = || Err("headers whose names are UTF-8".to_owned());
        let mut misheaded = record.headers.map_or_else(none, |headers| {
            headers::check(
                headers,
                record.timestamp_ms,
                record.published_until_ms,
                &told,
                &self.expected,
            )
        });
        let mut tags = misheaded.as_ref().copied().unwrap_or_default();
        if misheaded.is_ok()
            && let Err(what) = self.order.look(record, &told, &tags)
        {
            misheaded = Err(what);
            tags = Tags::default();
        }
        self.signs.redelivery |= tags.duplicate == Some(Duplicate::Redelivery);
        self.signs.repeat |= tags.duplicate == Some(Duplicate::Repeat);
        self.signs.revision |= tags.supersedes.is_some() || tags.stale;
        let entry = Entry {
            key: hash::reading_key(told.event_type, &told.space, told.timestamp_ms),
            id,
            value: hash::bytes(value),
            data: told.data,
            event_type: told.event_type,
            position: record.position,
            misplaced: misplaced.is_err(),
            misheaded: misheaded.is_err(),
            spooled: tags.spooled,
            duplicate: tags.duplicate,
            supersedes: tags.supersedes,
            stale: tags.stale,
            out_of_order: tags.out_of_order,
            earlier: self.is_earlier(record),
            space: match told.event_type {
                EventType::Traffic => self.spaces.get(&*told.space).copied(),
                _ => None,
            },
            net: told.net,
        };
        if let Err(what) = misplaced {
            keep(&mut self.aside.misplaced, record.position, cut(what));
        }
        if let Err(what) = misheaded {
            if let Some(named) = header_id(record).filter(|named| *named != id) {
                keep(&mut self.aside.other_ids, record.position, named);
            }
            keep(&mut self.aside.misheaded, record.position, cut(what));
        }
        Some(entry)
    }

    /// After the last record: what only the whole tells.
    pub fn finish(&mut self) {
        self.aside.unjustified = self.order.unjustified();
    }

    fn misplaced(&self, record: &Record<'_>, told: &Told<'_>) -> Result<(), String> {
        let topic = told.event_type.index();
        if topic != usize::from(record.position.topic) {
            return Err(format!("topic {}", self.names[topic]));
        }
        if record.key != Some(told.space.as_bytes()) {
            let found = record.key.map(String::from_utf8_lossy);
            let found = found.unwrap_or(Cow::Borrowed("none"));
            return Err(format!("key {}, not {found}", told.space));
        }
        let partition = murmur2::partition(told.space.as_bytes(), self.partitions[topic]);
        match usize::try_from(record.position.partition) == Ok(partition) {
            true => Ok(()),
            false => Err(format!(
                "partition {partition}, where Java puts the key {}",
                told.space
            )),
        }
    }

    fn is_earlier(&self, record: &Record<'_>) -> bool {
        let received_ms = record.headers.and_then(headers::received_ms);
        self.skip_earlier && received_ms.is_some_and(|ms| ms < self.expected.received_ms.0)
    }

    fn unreadable(&mut self, record: &Record<'_>, id: Option<String>, why: String) {
        if self.is_earlier(record) {
            self.aside.earlier += 1;
            return;
        }
        if self.aside.unreadable.len() >= KEPT {
            self.aside.further_unreadable += 1;
            return;
        }
        let named = header_id(record);
        self.aside.unreadable.push(Stray {
            position: record.position,
            claims: [None, named],
            id: id
                .map(cut)
                .or_else(|| named.map(|id| format!("event_{id}"))),
            why: cut(why),
            traffic: usize::from(record.position.topic) == EventType::Traffic.index(),
        });
    }
}

fn keep<T>(kept: &mut HashMap<Position, T>, position: Position, what: T) {
    if kept.len() < KEPT {
        kept.insert(position, what);
    }
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

fn header_id(record: &Record<'_>) -> Option<Ksuid> {
    let mut ids = record.headers?.iter().filter(|(name, _)| *name == "ce_id");
    let id = std::str::from_utf8(ids.next()?.1?).ok()?;
    // One in conflict carries a suffix.
    ksuid(id.split('~').next()?)
}

fn ksuid(id: &str) -> Option<Ksuid> {
    Ksuid::parse(id.strip_prefix("event_")?)
}

#[cfg(test)]
mod tests;
