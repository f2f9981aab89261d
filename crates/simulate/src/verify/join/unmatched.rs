//! What one bucket cannot tell: events that lack a record, and records of no event.

use std::collections::HashMap;

use super::{JournalJoin, format_times, is_stored};
use crate::journal::{DeliveryAttempt, RecordedOutcome};
use crate::verify::checker::UnmatchedRecord;
use crate::verify::record_digest::{RecordDigest, RecordPosition};
use crate::verify::report::{Property, Violation};
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// So many strays, and so many events that lack a record, are brought together; further ones count as found.
const MAX_PAIRED: usize = 100_000;

/// An event of which there are fewer records than answers `published` and `spooled`.
pub(super) struct IncompleteEvent {
    id: Ksuid,
    event_type: EventType,
    answer: RecordedOutcome,
    reported_position: Option<(i32, i64)>,
    found: u64,
    missing: u64,
}

impl JournalJoin<'_> {
    /// Notes that an event has fewer records than it must have.
    pub(super) fn add_incomplete(&mut self, tries: &[DeliveryAttempt], found: u64, lacks: u64) {
        let promise = tries.iter().find(|t| is_stored(t));
        let promise = promise.or_else(|| {
            let duplicate = |t: &&DeliveryAttempt| {
                matches!(
                    t.outcome,
                    RecordedOutcome::Redelivery | RecordedOutcome::Repeat
                )
            };
            tries.iter().find(duplicate)
        });
        let promise = promise.unwrap_or(&tries[0]);
        let short = IncompleteEvent {
            id: promise.id,
            event_type: promise.event_type,
            answer: promise.outcome,
            reported_position: promise.reported_position,
            found,
            missing: lacks,
        };
        match self.incomplete.len() < MAX_PAIRED {
            true => self.incomplete.push(short),
            false => self.report_missing(&short),
        }
    }

    /// Notes a record under whose id, type, space and timestamp nothing was sent.
    pub(super) fn add_unmatched(&mut self, entry: &RecordDigest) {
        if entry.before_run {
            self.report.records_before_run += 1;
            return;
        }
        let stray = UnmatchedRecord {
            position: entry.position,
            claimed_ids: [
                Some(entry.id),
                self.issues
                    .differing_header_ids
                    .get(&entry.position)
                    .copied(),
            ],
            id: Some(format!("event_{}", entry.id)),
            reason: "nothing was sent with this id, type, space and timestamp".to_owned(),
            traffic: entry.event_type == EventType::Traffic,
        };
        match self.unmatched.len() < MAX_PAIRED {
            true => self.unmatched.push(stray),
            false => self.report_foreign(&stray),
        }
    }

    fn report_missing(&mut self, short: &IncompleteEvent) {
        self.traffic_lost += u64::from(short.event_type == EventType::Traffic && short.found == 0);
        let answer = short.answer.name();
        let named = short
            .reported_position
            .map(|(p, o)| format!(" (partition {p}, offset {o})"));
        let named = named.unwrap_or_default();
        if short.found == 0 {
            self.add_violation(Property::Stored, short.id, None, || {
                format!(
                    "{} was answered {answer}{named}, and is not there",
                    short.event_type
                )
            });
        } else {
            let (found, stored) = (
                format_times(short.found),
                format_times(short.found + short.missing),
            );
            self.add_violation(Property::RecordCount, short.id, None, || {
                format!("is there {found}, answered published or spooled {stored}")
            });
        }
    }

    fn report_foreign(&mut self, stray: &UnmatchedRecord) {
        self.report.count_checked(Property::Sent, 1);
        self.report.add_violation(Property::Sent, || Violation {
            id: stray.id.clone(),
            position: Some(stray.position),
            text: stray.reason.clone(),
        });
    }

    /// A stray that claims, in its value, its headers or by its place, to be a record that is lacking, is that record,
    /// changed.
    pub(super) fn pair_unmatched(&mut self) {
        let mut short = std::mem::take(&mut self.incomplete);
        let mut strays = std::mem::take(&mut self.unmatched);
        strays.extend_from_slice(&self.issues.unreadable);
        let by_id: HashMap<Ksuid, usize> = short.iter().zip(0..).map(|(s, n)| (s.id, n)).collect();
        let places = short.iter().zip(0..).filter_map(|(s, n)| {
            let (partition, offset) = s.reported_position.filter(|_| self.reads_originals)?;
            let topic = s.event_type.index() as u8;
            let place = RecordPosition {
                topic,
                partition,
                offset,
            };
            Some((place, n))
        });
        let by_place: HashMap<RecordPosition, usize> = places.collect();
        for stray in strays {
            let mut claims = stray
                .claimed_ids
                .iter()
                .flatten()
                .filter_map(|id| by_id.get(id));
            let claimed = claims.next().or_else(|| by_place.get(&stray.position));
            match claimed.map(|n| &mut short[*n]).filter(|s| s.missing > 0) {
                None => self.report_foreign(&stray),
                Some(event) => {
                    let (id, first) = (event.id, event.found == 0);
                    event.missing -= 1;
                    event.found += 1;
                    let traffic = event.event_type == EventType::Traffic || stray.traffic;
                    self.traffic_lost += u64::from(traffic && first);
                    self.report.count_checked(Property::Intact, 1);
                    self.add_violation(Property::Intact, id, Some(stray.position), || {
                        format!(
                            "other bytes than were sent under this id, so that {}",
                            stray.reason
                        )
                    });
                }
            }
        }
        for short in short.iter().filter(|s| s.missing > 0) {
            self.report_missing(short);
        }
        for _ in 0..self.issues.unreadable_overflow {
            self.report.count_checked(Property::Sent, 1);
            self.report.add_violation(Property::Sent, || Violation {
                id: None,
                position: None,
                text: "a further record without a readable event".to_owned(),
            });
        }
    }
}
