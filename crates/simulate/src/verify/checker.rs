//! Checks each record by itself: parses the event in its value, and checks that topic, key,
//! partition, headers and timestamp follow from that event.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::consumed_record::ConsumedRecord;
use super::headers::{self, HeaderExpectations, HeaderMarks};
use super::murmur2;
use super::order::OrderTracker;
use super::parsed_value::{self, ParsedValue};
use super::record_digest::{DuplicateHeader, RecordDigest, RecordPosition};
use crate::city::GroundTruth;
use crate::hash;
use butlr_event::EventType;
use butlr_event::PerType;
use butlr_event::ksuid::Ksuid;

/// Limit of each list of issues with single records.
const MAX_RECORDED_ISSUES: usize = 100_000;
/// Limit of a recorded text, as foreign records can contain texts of any length.
const MAX_TEXT_CHARS: usize = 200;

/// A record that has not been matched with an event that was sent.
#[derive(Clone, Debug)]
pub struct UnmatchedRecord {
    /// The record's position.
    pub position: RecordPosition,
    /// The ids in its value and in its headers.
    pub claimed_ids: [Option<Ksuid>; 2],
    /// Its id as text, if it has one.
    pub id: Option<String>,
    /// The reason why it is unmatched.
    pub reason: String,
    /// It claims to be TRAFFIC, or is in the topic of that type.
    pub traffic: bool,
}

/// Issues with single records, in addition to their digests.
#[derive(Debug, Default)]
pub struct RecordIssues {
    /// Violations of topic, key or partition.
    pub misplaced: HashMap<RecordPosition, String>,
    /// Violations of headers or timestamp.
    pub wrong_headers: HashMap<RecordPosition, String>,
    /// Records marked as out of order without a reason; see [`OrderTracker`].
    pub unjustified_marks: HashSet<RecordPosition>,
    /// Ids in `ce_id` that differ from the id in the value.
    pub differing_header_ids: HashMap<RecordPosition, Ksuid>,
    /// Records whose value is not an event of the simulator.
    pub unreadable: Vec<UnmatchedRecord>,
    /// Number of further unreadable records, beyond the limit.
    pub unreadable_overflow: u64,
    /// Number of unreadable records from before the run.
    pub before_run: u64,
}

/// Fixed facts about the topics and the run.
pub struct CheckerSettings {
    /// Names of the topics.
    pub names: PerType<String>,
    /// Number of partitions of each topic, at least 1.
    pub partitions: PerType<usize>,
    /// Expectations for headers and timestamps.
    pub expected: HeaderExpectations,
    /// Unknown records from before the run are ignored.
    pub skip_before_run: bool,
}

/// Checks records.
pub struct RecordChecker {
    settings: CheckerSettings,
    space_indices: HashMap<String, u32>,
    /// Order of the records.
    pub order: OrderTracker,
    /// Duplicate handling that the headers show.
    pub evidence: MarkEvidence,
    /// Issues found so far.
    pub issues: RecordIssues,
}

/// Kinds that a bridge demonstrably recognises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkEvidence {
    /// Redeliveries.
    pub redelivery: bool,
    /// Repeats.
    pub repeat: bool,
    /// Revisions or stale events.
    pub revision: bool,
}

impl MarkEvidence {
    /// Returns `true` if there is evidence for any kind.
    pub fn has_any(&self) -> bool {
        self.redelivery || self.repeat || self.revision
    }
}

impl RecordChecker {
    /// Creates a checker that has seen no records.
    pub fn new(settings: CheckerSettings, order: OrderTracker, truth: &GroundTruth) -> Self {
        let spaces = truth.spaces.iter().zip(0..);
        Self {
            settings,
            space_indices: spaces.map(|((id, _), n)| (id.clone(), n)).collect(),
            order,
            evidence: MarkEvidence::default(),
            issues: RecordIssues::default(),
        }
    }

    /// Checks a record. Returns its digest, or `None` if its value is not an event. The records of
    /// a partition must be passed in their order.
    pub fn check(&mut self, record: &ConsumedRecord<'_>) -> Option<RecordDigest> {
        let value = record.value.unwrap_or_default();
        let parsed = match record.value {
            None => Err("it has no value (a tombstone)".to_owned()),
            Some([]) => Err("its value is empty".to_owned()),
            Some(value) => {
                parsed_value::parse(value).map_err(|e| format!("its value is not an event: {e}"))
            }
        };
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(reason) => {
                self.add_unreadable(record, None, reason);
                return None;
            }
        };
        let Some(id) = parse_ksuid(&parsed.id) else {
            let reason = "its id is not one that the simulator generates".to_owned();
            self.add_unreadable(record, Some(parsed.id.into_owned()), reason);
            return None;
        };
        let placement = self.check_placement(record, &parsed);
        let marks = headers::check(record, &parsed, &self.settings.expected)
            .and_then(|marks| self.order.check(record, &parsed, &marks).map(|()| marks));
        let HeaderMarks {
            spooled,
            duplicate,
            supersedes,
            stale,
            out_of_order,
            ..
        } = *marks.as_ref().unwrap_or(&HeaderMarks::default());
        self.evidence.redelivery |= duplicate == Some(DuplicateHeader::Redelivery);
        self.evidence.repeat |= duplicate == Some(DuplicateHeader::Repeat);
        self.evidence.revision |= supersedes.is_some() || stale;
        let digest = RecordDigest {
            reading_key: hash::reading_key(parsed.event_type, &parsed.space, parsed.timestamp_ms),
            id,
            value_hash: hash::hash_bytes(value),
            data_hash: parsed.data_hash,
            event_type: parsed.event_type,
            position: record.position,
            misplaced: placement.is_err(),
            wrong_headers: marks.is_err(),
            spooled,
            duplicate,
            supersedes,
            stale,
            out_of_order,
            before_run: self.is_before_run(record),
            space_index: match parsed.event_type {
                EventType::Traffic => self.space_indices.get(&*parsed.space).copied(),
                _ => None,
            },
            net: parsed.net,
        };
        let position = record.position;
        if let Err(text) = placement {
            insert_bounded(&mut self.issues.misplaced, position, truncate_text(text));
        }
        if let Err(text) = marks {
            if let Some(header_id) = header_id(record).filter(|header_id| *header_id != id) {
                insert_bounded(&mut self.issues.differing_header_ids, position, header_id);
            }
            insert_bounded(
                &mut self.issues.wrong_headers,
                position,
                truncate_text(text),
            );
        }
        Some(digest)
    }

    /// Finishes the checks that need all records. To be called after the last one.
    pub fn finish(&mut self) {
        self.issues.unjustified_marks = self.order.take_unjustified();
    }

    fn check_placement(
        &self,
        record: &ConsumedRecord<'_>,
        parsed: &ParsedValue<'_>,
    ) -> Result<(), String> {
        let CheckerSettings {
            names, partitions, ..
        } = &self.settings;
        let topic = parsed.event_type;
        if topic != record.position.topic {
            return Err(format!("topic {}", names[topic.index()]));
        }
        if record.key != Some(parsed.space.as_bytes()) {
            let found = record.key.map(String::from_utf8_lossy);
            let found = found.unwrap_or(Cow::Borrowed("none"));
            return Err(format!("key {}, not {found}", parsed.space));
        }
        let partition =
            murmur2::partition_for_key(parsed.space.as_bytes(), partitions[topic.index()]);
        if usize::try_from(record.position.partition) == Ok(partition) {
            Ok(())
        } else {
            let key = &parsed.space;
            Err(format!(
                "partition {partition}, which Java chooses for the key {key}"
            ))
        }
    }

    fn is_before_run(&self, record: &ConsumedRecord<'_>) -> bool {
        let (run_start_ms, _) = self.settings.expected.received_ms;
        self.settings.skip_before_run && record.received_ms().is_some_and(|ms| ms < run_start_ms)
    }

    fn add_unreadable(&mut self, record: &ConsumedRecord<'_>, id: Option<String>, reason: String) {
        if self.is_before_run(record) {
            self.issues.before_run += 1;
            return;
        }
        if self.issues.unreadable.len() >= MAX_RECORDED_ISSUES {
            self.issues.unreadable_overflow += 1;
            return;
        }
        let header_id = header_id(record);
        self.issues.unreadable.push(UnmatchedRecord {
            position: record.position,
            claimed_ids: [None, header_id],
            id: id
                .map(truncate_text)
                .or_else(|| header_id.map(|id| format!("event_{id}"))),
            reason: truncate_text(reason),
            traffic: record.position.topic == EventType::Traffic,
        });
    }
}

fn insert_bounded<T>(issues: &mut HashMap<RecordPosition, T>, position: RecordPosition, issue: T) {
    if issues.len() < MAX_RECORDED_ISSUES {
        issues.insert(position, issue);
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
    // An id in conflict has a suffix.
    parse_ksuid(id.split('~').next()?)
}

fn parse_ksuid(id: &str) -> Option<Ksuid> {
    Ksuid::parse(id.strip_prefix("event_")?)
}

#[cfg(test)]
mod tests;
