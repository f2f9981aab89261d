//! What of a record is still to be sent, and how much of that at a time.

use std::collections::VecDeque;
use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use super::candidate::ReplayCandidate;
use butlr_event::{Event, EventType, ParseLimits, ParsedBody, RejectedItem, parse};

/// A record, taken apart.
#[derive(Debug)]
pub struct ReplayWork<'k> {
    /// The record.
    pub candidate: &'k ReplayCandidate,
    /// Its events that are valid and not stored, in their order.
    pub items: VecDeque<ReplayItem>,
    /// How many events are valid.
    pub valid: usize,
    /// What is wrong with the rest; each code once.
    pub codes: Vec<&'static str>,
    /// Some of it is no valid event: it may be one day.
    pub has_invalid: bool,
    /// An event could not be stored, as far as is known.
    pub has_failed: bool,
    /// Hashes of events that are stored and not written down yet.
    pub stored: Vec<u64>,
    /// All there is to say of it is written down already.
    pub is_recorded: bool,
}

/// An event.
#[derive(Clone, Debug)]
pub struct ReplayItem {
    /// Its bytes, within the record's value.
    pub range: Range<usize>,
    /// The hash of those.
    pub hash: u64,
    /// Its type.
    pub event_type: EventType,
}

impl<'k> ReplayWork<'k> {
    /// Takes a record apart. `is_stored`: by the hash of an event.
    pub fn from_candidate(
        kept: &'k ReplayCandidate,
        limits: ParseLimits,
        is_stored: impl Fn(u64) -> bool,
    ) -> Self {
        let mut work = Self {
            candidate: kept,
            items: VecDeque::new(),
            valid: 0,
            codes: Vec::new(),
            has_invalid: false,
            has_failed: false,
            stored: Vec::new(),
            is_recorded: false,
        };
        let parsed = parse(&kept.value, kept.expected_type, limits);
        match parsed {
            Err(unreadable) => work.add_invalid(unreadable.code.as_str()),
            Ok(ParsedBody::Single(one)) => work.add_item(one, &is_stored),
            Ok(ParsedBody::Array(many)) => many
                .into_iter()
                .for_each(|one| work.add_item(one, &is_stored)),
        }
        work
    }

    fn add_item(
        &mut self,
        one: Result<Event<'_>, RejectedItem<'_>>,
        is_stored: &impl Fn(u64) -> bool,
    ) {
        match one {
            Err(RejectedItem::TooLarge { .. }) => self.add_invalid("event_too_large"),
            Err(RejectedItem::Invalid { errors, .. }) => {
                errors
                    .iter()
                    .for_each(|e| self.add_invalid(e.code.as_str()));
            }
            Ok(event) => {
                self.valid += 1;
                let hash = xxh3_64(event.raw());
                if is_stored(hash) {
                    self.stored.push(hash);
                    return;
                }
                let start = event.raw().as_ptr().addr() - self.candidate.value.as_ptr().addr();
                self.items.push_back(ReplayItem {
                    range: start..start + event.raw().len(),
                    hash,
                    event_type: event.event_type(),
                });
            }
        }
    }

    fn add_invalid(&mut self, code: &'static str) {
        self.has_invalid = true;
        if !self.codes.contains(&code) {
            self.codes.push(code);
        }
    }

    /// Whether there is anything to send, or to write down.
    pub fn is_needed(&self) -> bool {
        !self.items.is_empty() || !self.stored.is_empty()
    }

    /// The types of what is to be sent.
    pub fn types(&self) -> impl Iterator<Item = EventType> + '_ {
        self.items.iter().map(|item| item.event_type)
    }

    /// An event's bytes.
    pub fn item_bytes(&self, item: &ReplayItem) -> &'k [u8] {
        &self.candidate.value[item.range.clone()]
    }
}

/// How many records a batch begins with: the last may be an array that is sent in parts.
pub fn count_batch_records(
    works: &VecDeque<ReplayWork<'_>>,
    most: usize,
    most_bytes: usize,
) -> usize {
    let (mut records, mut items, mut bytes) = (0, 0, 0);
    for work in works {
        if records >= most || items >= most || bytes >= most_bytes {
            break;
        }
        records += 1;
        items += work.items.len();
        bytes += work.items.iter().map(|i| i.range.len()).sum::<usize>();
    }
    records
}

/// What a batch sends: at least one event, where there is one.
pub fn select_items<'k>(
    works: &VecDeque<ReplayWork<'k>>,
    taken: usize,
    most: usize,
    most_bytes: usize,
) -> Vec<(&'k ReplayCandidate, &'k [u8])> {
    let (mut all, mut bytes) = (Vec::new(), 0);
    for work in works.iter().take(taken) {
        for item in &work.items {
            if all.len() >= most || bytes >= most_bytes {
                return all;
            }
            bytes += item.range.len();
            all.push((work.candidate, work.item_bytes(item)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::candidate::QuarantinePosition;

    const LIMITS: ParseLimits = ParseLimits {
        max_events: 3,
        max_event_bytes: 1_000,
    };

    fn event(id: &str, data: &str) -> String {
        format!(
            r#"{{"id":"{id}","type":"ROOM_OCCUPANCY","timestamp":1,"version":"v1","metadata":{{"room_id":"r"}},"data":{data}}}"#
        )
    }

    fn kept(value: String) -> ReplayCandidate {
        ReplayCandidate {
            value: value.into(),
            ..ReplayCandidate::for_test(QuarantinePosition(0, 1), "k")
        }
    }

    #[test]
    fn an_array_is_its_events() {
        let (a, b) = (event("a", "1"), event("b", "2"));
        let kept = kept(format!("\n[{a}, {}\t,{b} ]", event("c", "-3")));
        let hash = xxh3_64(b.as_bytes());
        let work = ReplayWork::from_candidate(&kept, LIMITS, |stored| stored == hash);
        assert_eq!(work.items.len(), 1);
        assert_eq!(work.item_bytes(&work.items[0]), a.as_bytes());
        assert_eq!((work.valid, work.stored.as_slice()), (2, [hash].as_slice()));
        assert_eq!(
            (work.has_invalid, work.codes.as_slice()),
            (true, ["out_of_range"].as_slice())
        );
    }

    #[test]
    fn what_is_still_none_is_told_by_its_code() {
        for (value, code) in [
            ("{".to_owned(), "not_json"),
            (
                format!(
                    "[{}]",
                    [
                        event("a", "1"),
                        event("b", "1"),
                        event("c", "1"),
                        event("d", "1")
                    ]
                    .join(",")
                ),
                "too_many_events",
            ),
            (
                event("a", &format!("\"{}\"", "x".repeat(1_000))),
                "event_too_large",
            ),
        ] {
            let kept = kept(value);
            let work = ReplayWork::from_candidate(&kept, LIMITS, |_| false);
            assert_eq!(
                (work.codes.as_slice(), work.is_needed()),
                ([code].as_slice(), false)
            );
        }
    }

    #[test]
    fn a_large_array_is_sent_in_parts() {
        let three = [event("a", "1"), event("b", "1"), event("c", "1")].join(",");
        let (first, second) = (kept(format!("[{three}]")), kept(event("d", "4")));
        let works =
            [&first, &second].map(|kept| ReplayWork::from_candidate(kept, LIMITS, |_| false));
        let works = VecDeque::from(works);
        assert_eq!(
            (
                count_batch_records(&works, 2, 9_999),
                select_items(&works, 1, 2, 9_999).len()
            ),
            (1, 2)
        );
        assert_eq!(
            (
                count_batch_records(&works, 4, 9_999),
                select_items(&works, 2, 4, 9_999).len()
            ),
            (2, 4)
        );
        assert_eq!(
            (
                count_batch_records(&works, 4, 1),
                select_items(&works, 1, 4, 1).len()
            ),
            (1, 1)
        );
    }
}
