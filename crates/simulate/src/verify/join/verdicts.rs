//! The answers and marks of each (type, space, timestamp), held against the oracle.

use std::collections::{HashMap, HashSet};

use super::worlds::{Fit, Group, Heard, Mark, Worlds};
use super::{Join, stored};
use crate::journal::{Answer, Attempt};
use crate::oracle::Verdict;
use crate::verify::entry::{Duplicate, Entry};
use crate::verify::names::is_occupancy;
use crate::verify::options::Judging;
use crate::verify::report::Property;
use butlr_event::ksuid::Ksuid;

/// (type, space, timestamp) and `data`, both hashed.
pub type Readings = HashSet<(u64, u64)>;

/// What was found of the repeats of a bucket.
#[derive(Debug, Default)]
pub struct Repeats {
    /// Those that are none, and why.
    pub wrong: HashMap<Ksuid, &'static str>,
    /// Those of readings of which no answer of this run tells.
    pub before: HashSet<Ksuid>,
}

/// What repeats are compared with: all that is there, and all that must be: when one of those is missing, that is told of
/// itself and not of its repeats. Empty when no event needs it.
pub fn readings(attempts: &[Attempt], entries: &[Entry]) -> Readings {
    let is_duplicate = |a: &Attempt| matches!(a.answer, Answer::Redelivery | Answer::Repeat);
    if !attempts.iter().any(is_duplicate) {
        return HashSet::new();
    }
    let there = entries.iter().map(|e| (e.key, e.data));
    let must_be = attempts.iter().filter(|a| stored(a));
    there.chain(must_be.map(|a| (a.key, a.data))).collect()
}

impl Join<'_> {
    /// Judges the answers of a bucket, which are in the order in which they were noted.
    pub(super) fn judge(&mut self, attempts: &mut [Attempt], entries: &mut [Entry]) -> Repeats {
        let mut repeats = Repeats::default();
        let Some(judging) = self.judging else {
            return repeats;
        };
        // Stable: the tries of a reading stay in their order.
        attempts.sort_by_key(|a| a.key);
        entries.sort_unstable_by_key(|e| (e.key, e.id, e.position));
        let mut rest = &*entries;
        for tries in attempts.chunk_by(|a, b| a.key == b.key) {
            let key = tries[0].key;
            let from = rest.partition_point(|e| e.key < key);
            let until = rest.partition_point(|e| e.key <= key);
            let records = &rest[from..until];
            rest = &rest[until..];
            self.reading(tries, records, judging, &mut repeats);
        }
        repeats
    }

    /// All tries and all records of one reading.
    fn reading(
        &mut self,
        tries: &[Attempt],
        records: &[Entry],
        judging: Judging,
        repeats: &mut Repeats,
    ) {
        let mut worlds = Worlds::new();
        for group in tries.chunk_by(|a, b| a.id == b.id) {
            let (attempt, own) = (&group[0], group);
            let group = self.group(own, tries, records);
            let fit = worlds.hear(&group);
            let verdicts = &mut self.report.verdicts[attempt.event_type.index()];
            verdicts.unknown += u64::from(group.unknown);
            let heard = group.heard.len() as u64;
            let says = match fit {
                Fit::Before => {
                    repeats.before.insert(group.id);
                    verdicts.unjudged += heard;
                    continue;
                }
                Fit::Unsure => {
                    verdicts.unjudged += heard;
                    continue;
                }
                Fit::Right(says) | Fit::ForgotRepeat(says) => says,
                Fit::Unrecognised(says) | Fit::Wrong(says) => says,
            };
            for heard in &group.heard {
                verdicts.told[told(*heard, says) as usize] += 1;
            }
            let as_revision =
                |heard: &Heard| matches!(heard, Heard::Stored(Some(Mark::Revision(_))));
            let fit = match fit {
                Fit::Wrong(says)
                    if judging.excuses_a_revision(says) && group.heard.iter().any(as_revision) =>
                {
                    Fit::Unrecognised(says)
                }
                Fit::Wrong(Verdict::Revision)
                    if judging.excuses_a_repeat()
                        && group.heard.contains(&Heard::Repeat)
                        && waited_before(tries, attempt) =>
                {
                    Fit::Unrecognised(Verdict::Revision)
                }
                fit => fit,
            };
            match fit {
                Fit::ForgotRepeat(_) => verdicts.forgotten += 1,
                Fit::Unrecognised(_) => verdicts.unrecognised += 1,
                _ => {}
            }
            self.report.checked(Property::Judged, heard);
            match fit {
                Fit::Unrecognised(says) if judging.expects(says) => self.misjudged(&group, says),
                // By the rules its last tries are redeliveries, whatever the first one was.
                Fit::ForgotRepeat(_) if judging.expects_repeats_ids() => {
                    self.misjudged(&group, Verdict::Redelivery);
                }
                Fit::Wrong(_) if own.iter().any(|t| t.answer == Answer::Repeat) => {
                    let why = match is_occupancy(group.event_type) {
                        true => "the reading's value was another one then",
                        false => "no type of which readings are repeated",
                    };
                    repeats.wrong.insert(group.id, why);
                }
                Fit::Wrong(says) if own.iter().any(stored) => self.misjudged(&group, says),
                // Of what was answered redelivery and is none, `absent` and `count` tell.
                _ => {}
            }
        }
    }

    fn misjudged(&mut self, group: &Group, says: Verdict) {
        let heard: Vec<_> = group.heard.iter().map(|heard| shown(*heard)).collect();
        let unknown = if group.unknown { ", and unknown" } else { "" };
        self.violated(Property::Judged, group.id, None, || {
            let heard = heard.join(", ");
            format!(
                "is a {} by the rules, and was {heard}{unknown}",
                says.name()
            )
        });
    }

    /// What is known of tries of one event, of all `tries` and `records` of its reading.
    fn group(&self, group: &[Attempt], tries: &[Attempt], records: &[Entry]) -> Group {
        let id = group[0].id;
        let from = records.partition_point(|e| e.id < id);
        let until = records.partition_point(|e| e.id <= id);
        let records = &records[from..until];
        let at = |attempt: &Attempt| {
            let (partition, offset) = attempt.at.filter(|_| self.originals && stored(attempt))?;
            let place =
                |e: &&Entry| (e.position.partition, e.position.offset) == (partition, offset);
            records.iter().find(place)
        };
        let of_id = || tries.iter().filter(|t| t.id == id);
        let named: Vec<_> = of_id().filter_map(at).map(|e| e.position).collect();
        let unnamed = of_id().filter(|t| stored(t) && at(t).is_none()).count();
        let left = records.iter().filter(|e| !named.contains(&e.position));
        let left: Vec<&Entry> = left.collect();
        // Without a place in the answer, only what is left over can be its record. Which one, matters only where they differ.
        let only = match (unnamed, &left[..]) {
            (1, [only, others @ ..]) if others.iter().all(|e| is_alike(e, only)) => Some(*only),
            _ => None,
        };
        let heard = |attempt: &Attempt| match attempt.answer {
            Answer::Published | Answer::Spooled => {
                let entry = at(attempt).or(only);
                Some(match entry.and_then(|e| e.duplicate) {
                    Some(Duplicate::Redelivery) => Heard::Redelivery,
                    Some(Duplicate::Repeat) => Heard::Repeat,
                    None => Heard::Stored(entry.and_then(mark)),
                })
            }
            Answer::Redelivery => Some(Heard::Redelivery),
            Answer::Repeat => Some(Heard::Repeat),
            Answer::Refused | Answer::Quarantined | Answer::Unknown => None,
        };
        Group {
            id,
            event_type: group[0].event_type,
            data: group[0].data,
            heard: group.iter().filter_map(heard).collect(),
            unknown: group.iter().any(|t| t.answer == Answer::Unknown),
            unheard: match (unnamed, only) {
                (0, _) => left.into_iter().map(mark).collect(),
                (_, Some(_)) => left.into_iter().skip(1).map(mark).collect(),
                _ => None,
            },
        }
    }
}

/// Whether the same value was spooled before, under another id.
fn waited_before(tries: &[Attempt], attempt: &Attempt) -> bool {
    let before = tries.iter().take_while(|t| t.id != attempt.id);
    let mut spooled = before.filter(|t| t.answer == Answer::Spooled);
    spooled.any(|t| t.data == attempt.data)
}

/// Whether two records say the same of what their event is.
fn is_alike(one: &Entry, other: &Entry) -> bool {
    let said = |e: &Entry| (e.duplicate, mark(e));
    said(one) == said(other)
}

/// `None` where the headers are not to be trusted.
fn mark(entry: &Entry) -> Option<Mark> {
    if entry.misheaded {
        return None;
    }
    Some(match (entry.supersedes, entry.stale) {
        (Some(of), _) => Mark::Revision(of),
        (None, true) => Mark::Stale,
        (None, false) => Mark::Plain,
    })
}

/// What the bridge took it for.
fn told(heard: Heard, says: Verdict) -> Verdict {
    match heard {
        Heard::Redelivery => Verdict::Redelivery,
        Heard::Repeat => Verdict::Repeat,
        Heard::Stored(Some(Mark::Plain)) => Verdict::First,
        Heard::Stored(Some(Mark::Revision(_))) => Verdict::Revision,
        Heard::Stored(Some(Mark::Stale)) => Verdict::Stale,
        Heard::Stored(None) if says.is_duplicate() => Verdict::First,
        Heard::Stored(None) => says,
    }
}

fn shown(heard: Heard) -> &'static str {
    match heard {
        Heard::Redelivery => "answered duplicate (redelivery)",
        Heard::Repeat => "answered duplicate (repeat)",
        Heard::Stored(Some(Mark::Plain)) => "stored without a mark",
        Heard::Stored(Some(Mark::Revision(_))) => "stored as a revision",
        Heard::Stored(Some(Mark::Stale)) => "stored as a stale one",
        Heard::Stored(None) => "stored",
    }
}

#[cfg(test)]
mod tests;
