//! What one bucket cannot tell: events that lack a record, and records of no event.

use std::collections::HashMap;

use super::{Join, stored, times};
use crate::journal::{Answer, Attempt};
use crate::verify::check::Stray;
use crate::verify::entry::{Entry, Position};
use crate::verify::report::{Property, Violation};
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// So many strays, and so many events that lack a record, are brought together; further ones count as found.
const PAIRED: usize = 100_000;

/// An event of which there are fewer records than answers `published` and `spooled`.
pub(super) struct Short {
    id: Ksuid,
    event_type: EventType,
    answer: Answer,
    at: Option<(i32, i64)>,
    found: u64,
    lacks: u64,
}

impl Join<'_> {
    /// Notes that an event has fewer records than it must have.
    pub(super) fn lacks(&mut self, tries: &[Attempt], found: u64, lacks: u64) {
        let promise = tries.iter().find(|t| stored(t));
        let promise = promise.or_else(|| {
            let duplicate = |t: &&Attempt| matches!(t.answer, Answer::Redelivery | Answer::Repeat);
            tries.iter().find(duplicate)
        });
        let promise = promise.unwrap_or(&tries[0]);
        let short = Short {
            id: promise.id,
            event_type: promise.event_type,
            answer: promise.answer,
            at: promise.at,
            found,
            lacks,
        };
        match self.short.len() < PAIRED {
            true => self.short.push(short),
            false => self.lost(&short),
        }
    }

    /// Notes a record under whose id, type, space and timestamp nothing was sent.
    pub(super) fn stray(&mut self, entry: &Entry) {
        if entry.earlier {
            self.report.earlier += 1;
            return;
        }
        let stray = Stray {
            position: entry.position,
            claims: [
                Some(entry.id),
                self.aside.other_ids.get(&entry.position).copied(),
            ],
            id: Some(format!("event_{}", entry.id)),
            why: "nothing was sent with this id, type, space and timestamp".to_owned(),
            traffic: entry.event_type == EventType::Traffic,
        };
        match self.strays.len() < PAIRED {
            true => self.strays.push(stray),
            false => self.foreign(&stray),
        }
    }

    fn lost(&mut self, short: &Short) {
        self.traffic_lost += u64::from(short.event_type == EventType::Traffic && short.found == 0);
        let answer = short.answer.name();
        let named = short
            .at
            .map(|(p, o)| format!(" (partition {p}, offset {o})"));
        let named = named.unwrap_or_default();
        if short.found == 0 {
            self.violated(Property::Stored, short.id, None, || {
                format!(
                    "{} was answered {answer}{named}, and is not there",
                    short.event_type
                )
            });
        } else {
            let (found, stored) = (times(short.found), times(short.found + short.lacks));
            self.violated(Property::Counted, short.id, None, || {
                format!("is there {found}, answered published or spooled {stored}")
            });
        }
    }

    fn foreign(&mut self, stray: &Stray) {
        self.report.checked(Property::Sent, 1);
        self.report.violated(Property::Sent, || Violation {
            id: stray.id.clone(),
            position: Some(stray.position),
            text: stray.why.clone(),
        });
    }

    /// A stray that claims, in its value, its headers or by its place, to be a record that is lacking, is that record,
    /// changed.
    pub(super) fn pair(&mut self) {
        let mut short = std::mem::take(&mut self.short);
        let mut strays = std::mem::take(&mut self.strays);
        strays.extend_from_slice(&self.aside.unreadable);
        let by_id: HashMap<Ksuid, usize> = short.iter().zip(0..).map(|(s, n)| (s.id, n)).collect();
        let places = short.iter().zip(0..).filter_map(|(s, n)| {
            let (partition, offset) = s.at.filter(|_| self.originals)?;
            let topic = s.event_type.index() as u8;
            let place = Position {
                topic,
                partition,
                offset,
            };
            Some((place, n))
        });
        let by_place: HashMap<Position, usize> = places.collect();
        for stray in strays {
            let mut claims = stray.claims.iter().flatten().filter_map(|id| by_id.get(id));
            let claimed = claims.next().or_else(|| by_place.get(&stray.position));
            match claimed.map(|n| &mut short[*n]).filter(|s| s.lacks > 0) {
                None => self.foreign(&stray),
                Some(event) => {
                    let (id, first) = (event.id, event.found == 0);
                    event.lacks -= 1;
                    event.found += 1;
                    let traffic = event.event_type == EventType::Traffic || stray.traffic;
                    self.traffic_lost += u64::from(traffic && first);
                    self.report.checked(Property::Intact, 1);
                    self.violated(Property::Intact, id, Some(stray.position), || {
                        format!(
                            "other bytes than were sent under this id, so that {}",
                            stray.why
                        )
                    });
                }
            }
        }
        for short in short.iter().filter(|s| s.lacks > 0) {
            self.lost(short);
        }
        for _ in 0..self.aside.further_unreadable {
            self.report.checked(Property::Sent, 1);
            self.report.violated(Property::Sent, || Violation {
                id: None,
                position: None,
                text: "a further record without a readable event".to_owned(),
            });
        }
    }
}
