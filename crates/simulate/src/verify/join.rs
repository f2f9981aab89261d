//! The journal against the records, bucket by bucket.
//!
//! What cannot be told from one bucket (a record whose changed value points elsewhere, an event that lacks one) is put
//! aside and brought together at the end, so that one changed record is one violation and not two.

use std::cmp::Ordering;

use super::check::{Aside, Stray};
use super::entry::{Duplicate, Entry, Position};
use super::options::Judging;
use super::order::NOTHING_NEWER;
use super::report::{Property, Report, Violation};
use crate::city::Truth;
use crate::journal::{Answer, Attempt};
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

mod copies;
mod leftovers;
mod recovered;
mod verdicts;
mod worlds;

use copies::explain;
use leftovers::Short;
use verdicts::{Readings, Repeats, readings};

/// The join of a run.
pub struct Join<'a> {
    aside: &'a Aside,
    report: Report,
    /// The topics are those that the answers named.
    originals: bool,
    /// Which duplicates are to be recognised, where that is judged at all.
    judging: Option<Judging>,
    strays: Vec<Stray>,
    short: Vec<Short>,
    /// In less out, by the truth's spaces.
    sums: Vec<i64>,
    /// TRAFFIC events that are there.
    traffic_there: u64,
    /// TRAFFIC events that are not there as sent.
    traffic_lost: u64,
}

impl<'a> Join<'a> {
    /// Nothing joined yet. `originals`: not copies, so that offsets are those of the answers.
    pub fn new(
        report: Report,
        aside: &'a Aside,
        originals: bool,
        judging: Option<Judging>,
        truth: &Truth,
    ) -> Self {
        Self {
            aside,
            report,
            originals,
            judging,
            strays: Vec::new(),
            short: Vec::new(),
            sums: vec![0; truth.spaces.len()],
            traffic_there: 0,
            traffic_lost: 0,
        }
    }

    /// Joins one bucket: all tries and all records of its keys.
    pub fn bucket(&mut self, mut attempts: Vec<Attempt>, mut entries: Vec<Entry>) {
        self.report.attempts += attempts.len() as u64;
        attempts.iter().for_each(|a| self.answer(a));
        let readings = readings(&attempts, &entries);
        if self.judging.is_some_and(Judging::may_have_recovered) {
            self.report.already_stored += recovered::set_free(&mut attempts, &entries);
        }
        let repeats = self.judge(&mut attempts, &mut entries);
        // Stable: the tries of an event stay in the order in which they were noted.
        attempts.sort_by_key(|a| a.id);
        entries.sort_unstable_by_key(|e| (e.id, e.position));

        let mut attempts = attempts.chunk_by(|a, b| a.id == b.id).peekable();
        let mut entries = entries.chunk_by(|a, b| a.id == b.id).peekable();
        loop {
            let order = match (attempts.peek(), entries.peek()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(e)) => a[0].id.cmp(&e[0].id),
            };
            let tries = attempts.next_if(|_| order.is_le()).unwrap_or_default();
            let records = entries.next_if(|_| order.is_ge()).unwrap_or_default();
            let wrong = tries.first().and_then(|t| repeats.wrong.get(&t.id));
            if let Some(why) = wrong {
                self.violated(Property::Stored, tries[0].id, None, || {
                    let event_type = tries[0].event_type;
                    format!("{event_type} was answered duplicate (repeat), but is none: {why}")
                });
            }
            match (tries, records) {
                ([], records) => records.iter().for_each(|e| self.stray(e)),
                (tries, []) => self.absent(tries, &readings, &repeats),
                (tries, records) => self.present(tries, records),
            }
        }
    }

    /// An answer by itself.
    fn answer(&mut self, attempt: &Attempt) {
        let report = &mut self.report;
        if attempt.answer == Answer::Published {
            report.published += 1;
            report.named += u64::from(attempt.at.is_some());
        }
        report.accepted += u64::from(attempt.answer.is_promise());
        if attempt.answer.is_promise() || attempt.answer == Answer::Quarantined {
            report.checked(Property::Answered, 1);
        }
        if attempt.contradictory {
            let answer = attempt.answer.name();
            self.violated(Property::Answered, attempt.id, None, || {
                format!("was answered {answer}, with a status that does not mean that")
            });
        }
    }

    /// An event that is there.
    fn present(&mut self, tries: &[Attempt], records: &[Entry]) {
        let id = tries[0].id;
        self.report.checked(Property::Sent, records.len() as u64);
        let turned_away = |t: &Attempt| matches!(t.answer, Answer::Refused | Answer::Quarantined);
        if tries.iter().all(turned_away) {
            for entry in records {
                self.violated(Property::Sent, id, Some(entry.position), || {
                    "was only refused (4xx) or quarantined, and is there".to_owned()
                });
            }
            return;
        }
        self.report.checked(Property::Stored, 1);
        let mut counted_in = false;
        for entry in records {
            self.report.checked(Property::Intact, 1);
            if tries.iter().all(|t| t.value != entry.value) {
                self.violated(Property::Intact, id, Some(entry.position), || {
                    "other bytes than were sent under this id".to_owned()
                });
                continue;
            }
            self.contract(entry, tries);
            if let Some(space) = entry.space.filter(|_| !counted_in) {
                self.sums[space as usize] += i64::from(entry.net);
                self.traffic_there += 1;
                counted_in = true;
            }
        }
        if tries[0].event_type == EventType::Traffic && !counted_in {
            self.traffic_lost += 1;
        }
        self.count(tries, records);
    }

    /// Topic, key, partition, headers, timestamp: found when it was read, reported now that the value is known to be
    /// what was sent.
    fn contract(&mut self, entry: &Entry, tries: &[Attempt]) {
        let aside = self.aside;
        let marked = &mut self.report.verdicts[entry.event_type.index()].marked;
        marked.redelivery += u64::from(entry.duplicate == Some(Duplicate::Redelivery));
        marked.repeat += u64::from(entry.duplicate == Some(Duplicate::Repeat));
        marked.revision += u64::from(entry.supersedes.is_some());
        marked.stale += u64::from(entry.stale);
        marked.out_of_order += u64::from(entry.out_of_order);
        let unjustified = entry.out_of_order && aside.unjustified.contains(&entry.position);
        let misheaded = entry.misheaded || unjustified;
        let parts = [
            (Property::Placed, entry.misplaced, &aside.misplaced),
            (Property::Headed, misheaded, &aside.misheaded),
        ];
        for (property, wrong, kept) in parts {
            self.report.checked(property, 1);
            if wrong {
                self.violated(property, entry.id, Some(entry.position), || {
                    let text = kept.get(&entry.position).map(String::as_str);
                    let text = text.or(unjustified.then_some(NOTHING_NEWER));
                    text.map_or_else(
                        || "not as the contract says".to_owned(),
                        |text| format!("expected {text}"),
                    )
                });
            }
        }
        let may_wait = |t: &Attempt| matches!(t.answer, Answer::Spooled | Answer::Unknown);
        if entry.spooled && !tries.iter().any(may_wait) {
            self.violated(Property::Headed, entry.id, Some(entry.position), || {
                "expected no ce_spooled, as no answer lets it have waited on disk".to_owned()
            });
        }
    }

    /// How many records there are, where, and why more than one.
    fn count(&mut self, tries: &[Attempt], records: &[Entry]) {
        let id = tries[0].id;
        let stored = how_many(tries, stored);
        let unknown = how_many(tries, |t| t.answer == Answer::Unknown);
        let found = records.len() as u64;
        self.report.checked(Property::Counted, 1);
        if found < stored {
            self.lacks(tries, found, stored - found);
        } else if found > stored + unknown {
            self.violated(
                Property::Counted,
                id,
                Some(records[records.len() - 1].position),
                || {
                    format!(
                        "is there {}, answered published or spooled {}, without a known answer {}",
                        times(found),
                        times(stored),
                        times(unknown)
                    )
                },
            );
        }
        if found >= stored && self.originals {
            let named = tries.iter().filter(|t| t.answer == Answer::Published);
            for (partition, offset) in named.filter_map(|t| t.at) {
                self.report.checked(Property::Named, 1);
                let there =
                    |e: &Entry| (e.position.partition, e.position.offset) == (partition, offset);
                if !records.iter().any(there) {
                    self.violated(Property::Named, id, Some(records[0].position), || {
                        format!("the answer named partition {partition}, offset {offset}")
                    });
                }
            }
        }
        explain(tries, found, &mut self.report.copies);
    }

    /// An event that is not there.
    fn absent(&mut self, tries: &[Attempt], readings: &Readings, repeats: &Repeats) {
        let answered = |answer| tries.iter().any(|t| t.answer == answer);
        let stored = how_many(tries, stored);
        let repeat = answered(Answer::Repeat);
        if stored == 0 && !repeat && !answered(Answer::Redelivery) {
            // Refused, or given up: it need not be there. TRAFFIC that was given up is in `traffic_complete`.
            return;
        }
        let id = tries[0].id;
        if stored == 0 && repeats.before.contains(&id) {
            self.report.repeats_before += 1;
            return;
        }
        self.report.checked(Property::Stored, 1);
        if stored == 0 && repeat {
            // Answered by another's record; whether rightly so, `repeats` tells.
            return;
        }
        // A redelivery may be one of a repeat that was told to a try which did not hear it.
        let equal = || readings.contains(&(tries[0].key, tries[0].data));
        if stored == 0 && answered(Answer::Unknown) && equal() {
            return;
        }
        self.lacks(tries, 0, stored.max(1));
    }

    fn violated(
        &mut self,
        property: Property,
        id: Ksuid,
        position: Option<Position>,
        text: impl FnOnce() -> String,
    ) {
        self.report.violated(property, || Violation {
            id: Some(format!("event_{id}")),
            position,
            text: text(),
        });
    }

    /// After the last bucket: brings together what is left over, and adds up TRAFFIC.
    pub fn end(mut self, truth: &Truth, traffic_complete: bool) -> Report {
        self.pair();
        if self.judging.is_none() {
            let why = "no answer and no header tells of any";
            self.report.unchecked(Property::Judged, why.to_owned());
        }
        self.report.earlier += self.aside.earlier;
        if self.originals && self.report.named == 0 && self.report.published > 0 {
            let why = "no answer named them";
            self.report.unchecked(Property::Named, why.to_owned());
        }
        if !self.originals {
            let why = "copies of the topics have offsets of their own";
            self.report.unchecked(Property::Named, why.to_owned());
        }
        let why = if !traffic_complete {
            Some("not every TRAFFIC event was sent and taken".to_owned())
        } else if self.traffic_lost > 0 {
            Some(format!(
                "{} TRAFFIC events are missing or changed (see above)",
                self.traffic_lost
            ))
        } else if self.traffic_there == 0 && truth.spaces.iter().all(|(_, people)| *people == 0) {
            Some("nobody went anywhere".to_owned())
        } else {
            None
        };
        match why {
            Some(why) => self.report.unchecked(Property::Occupancy, why),
            None => self.occupancy(truth),
        }
        self.report
    }

    fn occupancy(&mut self, truth: &Truth) {
        for ((space, there), sum) in truth.spaces.iter().zip(&self.sums) {
            self.report.checked(Property::Occupancy, 1);
            if i64::from(*there) != *sum {
                self.report.violated(Property::Occupancy, || Violation {
                    id: Some(space.clone()),
                    position: None,
                    text: format!("{there} people are there, TRAFFIC adds up to {sum}"),
                });
            }
        }
    }
}

fn stored(attempt: &Attempt) -> bool {
    matches!(attempt.answer, Answer::Published | Answer::Spooled)
}

fn how_many(tries: &[Attempt], which: impl Fn(&Attempt) -> bool) -> u64 {
    tries.iter().filter(|t| which(t)).count() as u64
}

fn times(n: u64) -> String {
    match n {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        n => format!("{n} times"),
    }
}

#[cfg(test)]
mod tests;
