//! One record against the contract, by itself: which event its value tells, and whether topic, key, partition, headers
//! and timestamp are those of that event.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::headers::{self, HeaderExpectations, HeaderList, HeaderMarks};
use super::murmur2;
use super::order::OrderTracker;
use super::parsed_value::{self, ParsedValue};
use super::record_digest::{DuplicateHeader, RecordDigest, RecordPosition};
use crate::city::GroundTruth;
use crate::hash;
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// Of so many records at most it is kept what is wrong with them, and which id their headers name.
const MAX_RECORDED_ISSUES: usize = 100_000;
/// Foreign records may hold texts of any length: so many characters of them are kept.
const MAX_TEXT_CHARS: usize = 200;

/// A record as Kafka has it.
#[derive(Clone, Copy, Debug)]
pub struct ConsumedRecord<'r> {
    /// Where it is.
    pub position: RecordPosition,
    /// ms since 1970; `None` when it is no CreateTime.
    pub timestamp_ms: Option<i64>,
    /// The latest moment at which it can have been published, ms since 1970.
    pub latest_publish_ms: i64,
    /// Its key.
    pub key: Option<&'r [u8]>,
    /// Its value; a tombstone has none.
    pub value: Option<&'r [u8]>,
    /// `None` where one of their names is not UTF-8.
    pub headers: Option<&'r HeaderList<'r>>,
}

/// A record that is not (yet) known to be of an event that was sent.
#[derive(Clone, Debug)]
pub struct UnmatchedRecord {
    /// Where it is.
    pub position: RecordPosition,
    /// Whose record it says to be: in its value, in its headers.
    pub claimed_ids: [Option<Ksuid>; 2],
    /// Its id as it stands there, where it has one.
    pub id: Option<String>,
    /// Why it is one.
    pub reason: String,
    /// It says to be TRAFFIC, or lies in its topic.
    pub traffic: bool,
}

/// What was noticed about single records, beside their entries.
#[derive(Debug, Default)]
pub struct RecordIssues {
    /// What is wrong with topic, key or partition.
    pub misplaced: HashMap<RecordPosition, String>,
    /// What is wrong with headers or timestamp.
    pub wrong_headers: HashMap<RecordPosition, String>,
    /// Those marked as out of order that are not; see [`Order`].
    pub unjustified_marks: HashSet<RecordPosition>,
    /// The id in `ce_id`, where the value has another.
    pub differing_header_ids: HashMap<RecordPosition, Ksuid>,
    /// Records whose value tells no event of the simulator.
    pub unreadable: Vec<UnmatchedRecord>,
    /// How many more of those there were.
    pub unreadable_overflow: u64,
    /// How many of those there were that came before the run.
    pub before_run: u64,
}

/// Checks records.
pub struct RecordChecker {
    partitions: [usize; EventType::ALL.len()],
    names: [String; EventType::ALL.len()],
    expected: HeaderExpectations,
    skip_before_run: bool,
    space_indices: HashMap<String, u32>,
    /// What came before what.
    pub order: OrderTracker,
    /// What was recognised by headers.
    pub evidence: MarkEvidence,
    /// What it noticed so far.
    pub issues: RecordIssues,
}

/// What a bridge shows that it recognises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkEvidence {
    /// Redeliveries.
    pub redelivery: bool,
    /// Repeats.
    pub repeat: bool,
    /// Revisions or stale ones.
    pub revision: bool,
}

impl MarkEvidence {
    /// Whether there is any.
    pub fn has_any(&self) -> bool {
        self.redelivery || self.repeat || self.revision
    }
}

impl RecordChecker {
    /// For topics with these names and so many partitions (each at least one). `skip_earlier`: records that nobody sent
    /// and that came before the run are none of its concern.
    pub fn new(
        names: [String; EventType::ALL.len()],
        partitions: [usize; EventType::ALL.len()],
        expected: HeaderExpectations,
        skip_earlier: bool,
        order: OrderTracker,
        truth: &GroundTruth,
    ) -> Self {
        let spaces = truth.spaces.iter().zip(0..);
        Self {
            partitions,
            names,
            expected,
            skip_before_run: skip_earlier,
            space_indices: spaces.map(|((id, _), n)| (id.clone(), n)).collect(),
            order,
            evidence: MarkEvidence::default(),
            issues: RecordIssues::default(),
        }
    }

    /// The entry of a record, unless its value tells no event. Records of a partition come in their order.
    pub fn check(&mut self, record: &ConsumedRecord<'_>) -> Option<RecordDigest> {
        let value = record.value.unwrap_or_default();
        let parsed = match record.value {
            None => Err("it has no value (a tombstone)".to_owned()),
            Some([]) => Err("its value is empty".to_owned()),
            Some(value) => {
                parsed_value::parse(value).map_err(|e| format!("its value is no event: {e}"))
            }
        };
        let parsed = match parsed {
            Ok(told) => told,
            Err(why) => {
                self.add_unreadable(record, None, why);
                return None;
            }
        };
        let Some(id) = parse_ksuid(&parsed.id) else {
            let why = "its id is none that the simulator makes".to_owned();
            self.add_unreadable(record, Some(parsed.id.into_owned()), why);
            return None;
        };
        let misplaced = self.check_placement(record, &parsed);
        let none = || Err("headers whose names are UTF-8".to_owned());
        let mut misheaded = record.headers.map_or_else(none, |headers| {
            headers::check(
                headers,
                record.timestamp_ms,
                record.latest_publish_ms,
                &parsed,
                &self.expected,
            )
        });
        let mut tags = misheaded.as_ref().copied().unwrap_or_default();
        if misheaded.is_ok()
            && let Err(what) = self.order.check(record, &parsed, &tags)
        {
            misheaded = Err(what);
            tags = HeaderMarks::default();
        }
        self.evidence.redelivery |= tags.duplicate == Some(DuplicateHeader::Redelivery);
        self.evidence.repeat |= tags.duplicate == Some(DuplicateHeader::Repeat);
        self.evidence.revision |= tags.supersedes.is_some() || tags.stale;
        let entry = RecordDigest {
            reading_key: hash::reading_key(parsed.event_type, &parsed.space, parsed.timestamp_ms),
            id,
            value_hash: hash::hash_bytes(value),
            data_hash: parsed.data_hash,
            event_type: parsed.event_type,
            position: record.position,
            misplaced: misplaced.is_err(),
            wrong_headers: misheaded.is_err(),
            spooled: tags.spooled,
            duplicate: tags.duplicate,
            supersedes: tags.supersedes,
            stale: tags.stale,
            out_of_order: tags.out_of_order,
            before_run: self.is_before_run(record),
            space_index: match parsed.event_type {
                EventType::Traffic => self.space_indices.get(&*parsed.space).copied(),
                _ => None,
            },
            net: parsed.net,
        };
        if let Err(what) = misplaced {
            insert_bounded(
                &mut self.issues.misplaced,
                record.position,
                truncate_text(what),
            );
        }
        if let Err(what) = misheaded {
            if let Some(named) = header_id(record).filter(|named| *named != id) {
                insert_bounded(
                    &mut self.issues.differing_header_ids,
                    record.position,
                    named,
                );
            }
            insert_bounded(
                &mut self.issues.wrong_headers,
                record.position,
                truncate_text(what),
            );
        }
        Some(entry)
    }

    /// After the last record: what only the whole tells.
    pub fn finish(&mut self) {
        self.issues.unjustified_marks = self.order.take_unjustified();
    }

    fn check_placement(
        &self,
        record: &ConsumedRecord<'_>,
        parsed: &ParsedValue<'_>,
    ) -> Result<(), String> {
        let topic = parsed.event_type.index();
        if topic != usize::from(record.position.topic) {
            return Err(format!("topic {}", self.names[topic]));
        }
        if record.key != Some(parsed.space.as_bytes()) {
            let found = record.key.map(String::from_utf8_lossy);
            let found = found.unwrap_or(Cow::Borrowed("none"));
            return Err(format!("key {}, not {found}", parsed.space));
        }
        let partition = murmur2::partition_for_key(parsed.space.as_bytes(), self.partitions[topic]);
        match usize::try_from(record.position.partition) == Ok(partition) {
            true => Ok(()),
            false => Err(format!(
                "partition {partition}, where Java puts the key {}",
                parsed.space
            )),
        }
    }

    fn is_before_run(&self, record: &ConsumedRecord<'_>) -> bool {
        let received_ms = record.headers.and_then(headers::received_ms);
        self.skip_before_run && received_ms.is_some_and(|ms| ms < self.expected.received_ms.0)
    }

    fn add_unreadable(&mut self, record: &ConsumedRecord<'_>, id: Option<String>, why: String) {
        if self.is_before_run(record) {
            self.issues.before_run += 1;
            return;
        }
        if self.issues.unreadable.len() >= MAX_RECORDED_ISSUES {
            self.issues.unreadable_overflow += 1;
            return;
        }
        let named = header_id(record);
        self.issues.unreadable.push(UnmatchedRecord {
            position: record.position,
            claimed_ids: [None, named],
            id: id
                .map(truncate_text)
                .or_else(|| named.map(|id| format!("event_{id}"))),
            reason: truncate_text(why),
            traffic: usize::from(record.position.topic) == EventType::Traffic.index(),
        });
    }
}

fn insert_bounded<T>(kept: &mut HashMap<RecordPosition, T>, position: RecordPosition, what: T) {
    if kept.len() < MAX_RECORDED_ISSUES {
        kept.insert(position, what);
    }
}

fn truncate_text(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT_CHARS) {
        text.truncate(end);
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

fn header_id(record: &ConsumedRecord<'_>) -> Option<Ksuid> {
    let mut ids = record.headers?.iter().filter(|(name, _)| *name == "ce_id");
    let id = std::str::from_utf8(ids.next()?.1?).ok()?;
    // One in conflict carries a suffix.
    parse_ksuid(id.split('~').next()?)
}

fn parse_ksuid(id: &str) -> Option<Ksuid> {
    Ksuid::parse(id.strip_prefix("event_")?)
}

#[cfg(test)]
mod tests;
