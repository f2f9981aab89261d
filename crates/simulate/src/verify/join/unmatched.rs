//! Problems that span buckets: events without their record, and records without an event.

use std::collections::HashMap;

use super::{JournalJoin, TopicSet, format_times, is_stored};
use crate::journal::{DeliveryAttempt, RecordedOutcome, ReportedPosition};
use crate::verify::checker::UnmatchedRecord;
use crate::verify::record_digest::{RecordDigest, RecordPosition};
use crate::verify::report::{Property, Violation};
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// Limit of unmatched records, and of incomplete events, that are paired. Further ones are reported
/// as they are.
const MAX_PAIRED: usize = 100_000;

/// An event with fewer records than published and spooled attempts.
pub(super) struct IncompleteEvent {
    id: Ksuid,
    event_type: EventType,
    outcome: RecordedOutcome,
    reported_position: Option<ReportedPosition>,
    found: u64,
    missing: u64,
}

impl JournalJoin<'_> {
    /// Adds an event that has fewer records than it must have.
    pub(super) fn add_incomplete(
        &mut self,
        attempts: &[DeliveryAttempt],
        found: u64,
        missing: u64,
    ) {
        let is_duplicate = |a: &&DeliveryAttempt| {
            matches!(
                a.outcome,
                RecordedOutcome::Redelivery | RecordedOutcome::Repeat
            )
        };
        let stored = attempts.iter().find(|a| is_stored(a));
        let accepted = stored.or_else(|| attempts.iter().find(is_duplicate));
        let attempt = accepted.unwrap_or(&attempts[0]);
        let event = IncompleteEvent {
            id: attempt.id,
            event_type: attempt.event_type,
            outcome: attempt.outcome,
            reported_position: attempt.reported_position,
            found,
            missing,
        };
        if self.incomplete.len() < MAX_PAIRED {
            self.incomplete.push(event);
        } else {
            self.report_missing(&event);
        }
    }

    /// Adds a record with an id, type, space and timestamp that were not sent.
    pub(super) fn add_unmatched(&mut self, record: &RecordDigest) {
        if record.before_run {
            self.report.records_before_run += 1;
            return;
        }
        let header_id = self.issues.differing_header_ids.get(&record.position);
        let record = UnmatchedRecord {
            position: record.position,
            claimed_ids: [Some(record.id), header_id.copied()],
            id: Some(format!("event_{}", record.id)),
            reason: "nothing was sent with this id, type, space and timestamp".to_owned(),
            traffic: record.event_type == EventType::Traffic,
        };
        if self.unmatched.len() < MAX_PAIRED {
            self.unmatched.push(record);
        } else {
            self.report_foreign(&record);
        }
    }

    fn report_missing(&mut self, event: &IncompleteEvent) {
        self.traffic_lost += u64::from(event.event_type == EventType::Traffic && event.found == 0);
        if event.found > 0 {
            let found = format_times(event.found);
            let expected = format_times(event.found + event.missing);
            self.add_violation(Property::RecordCount, event.id, None, || {
                format!("is stored {found}, but was published or spooled {expected}")
            });
            return;
        }
        let position = event
            .reported_position
            .map(|p| format!(" (partition {}, offset {})", p.partition, p.offset))
            .unwrap_or_default();
        self.add_violation(Property::Stored, event.id, None, || {
            let (event_type, outcome) = (event.event_type, event.outcome.name());
            format!("{event_type} was answered {outcome}{position}, but has no record")
        });
    }

    fn report_foreign(&mut self, record: &UnmatchedRecord) {
        self.report.count_checked(Property::Sent, 1);
        self.report.add_violation(Property::Sent, || Violation {
            id: record.id.clone(),
            position: Some(record.position),
            text: record.reason.clone(),
        });
    }

    /// Pairs each unmatched record with an incomplete event that it belongs to, by an id in its
    /// value or headers, or by its position. Such a record was changed; all others are foreign.
    pub(super) fn pair_unmatched(&mut self) {
        let mut incomplete = std::mem::take(&mut self.incomplete);
        let mut unmatched = std::mem::take(&mut self.unmatched);
        unmatched.extend_from_slice(&self.issues.unreadable);
        let by_id: HashMap<Ksuid, usize> = incomplete
            .iter()
            .zip(0..)
            .map(|(event, n)| (event.id, n))
            .collect();
        let has_offsets = self.topics == TopicSet::Originals;
        let by_position: HashMap<RecordPosition, usize> = incomplete
            .iter()
            .zip(0..)
            .filter_map(|(event, n)| {
                let reported = event.reported_position.filter(|_| has_offsets)?;
                let position = RecordPosition {
                    topic: event.event_type,
                    partition: reported.partition,
                    offset: reported.offset,
                };
                Some((position, n))
            })
            .collect();
        for record in unmatched {
            let ids = record.claimed_ids.iter().flatten();
            let mut claimed = ids.filter_map(|id| by_id.get(id));
            let event = claimed
                .next()
                .or_else(|| by_position.get(&record.position))
                .map(|n| &mut incomplete[*n]);
            let Some(event) = event.filter(|event| event.missing > 0) else {
                self.report_foreign(&record);
                continue;
            };
            let is_traffic = event.event_type == EventType::Traffic || record.traffic;
            self.traffic_lost += u64::from(is_traffic && event.found == 0);
            event.missing -= 1;
            event.found += 1;
            self.report.count_checked(Property::Intact, 1);
            self.add_violation(Property::Intact, event.id, Some(record.position), || {
                let reason = &record.reason;
                format!("its bytes differ from those sent with this id: {reason}")
            });
        }
        for event in incomplete.iter().filter(|event| event.missing > 0) {
            self.report_missing(event);
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
