//! Events of a record that are still to be sent, and their selection into batches.

use std::collections::VecDeque;
use std::ops::Range;

use super::candidate::{ItemHash, ReplayCandidate};
use butlr_event::{Event, EventType, ParseLimits, ParsedBody, RejectedItem, parse};

/// Record of the quarantine, split into its events.
#[derive(Debug)]
pub struct ReplayWork<'k> {
    pub candidate: &'k ReplayCandidate,
    /// Valid events that are not stored yet, in their order.
    pub items: VecDeque<ReplayItem>,
    /// Number of valid events.
    pub valid: usize,
    /// Error codes of the rest, without repetition.
    pub codes: Vec<&'static str>,
    /// Some of it is not a valid event; a later release may accept it.
    pub has_invalid: bool,
    /// An event could not be stored, or its outcome is unknown.
    pub has_failed: bool,
    /// Hashes of stored events that no marker records yet.
    pub stored: Vec<ItemHash>,
    /// A marker already records the whole outcome.
    pub is_recorded: bool,
}

/// Valid event within a record.
#[derive(Clone, Debug)]
pub struct ReplayItem {
    /// Bytes within the record's value.
    pub range: Range<usize>,
    pub hash: ItemHash,
    pub event_type: EventType,
}

impl<'k> ReplayWork<'k> {
    /// Splits a record. `is_stored` decides by hash which events are stored already.
    pub fn from_candidate(
        candidate: &'k ReplayCandidate,
        limits: ParseLimits,
        is_stored: impl Fn(ItemHash) -> bool,
    ) -> Self {
        let mut work = Self {
            candidate,
            items: VecDeque::new(),
            valid: 0,
            codes: Vec::new(),
            has_invalid: false,
            has_failed: false,
            stored: Vec::new(),
            is_recorded: false,
        };
        match parse(&candidate.value, candidate.expected_type, limits) {
            Err(unreadable) => work.add_invalid(unreadable.code.as_str()),
            Ok(ParsedBody::Single(item)) => work.add_item(item, &is_stored),
            Ok(ParsedBody::Array(items)) => items
                .into_iter()
                .for_each(|item| work.add_item(item, &is_stored)),
        }
        work
    }

    fn add_item(
        &mut self,
        item: Result<Event<'_>, RejectedItem<'_>>,
        is_stored: &impl Fn(ItemHash) -> bool,
    ) {
        match item {
            Err(RejectedItem::TooLarge { .. }) => self.add_invalid("event_too_large"),
            Err(RejectedItem::Invalid { errors, .. }) => {
                errors
                    .iter()
                    .for_each(|e| self.add_invalid(e.code.as_str()));
            }
            Ok(event) => {
                self.valid += 1;
                let hash = ItemHash::from_bytes(event.raw());
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

    /// Returns `true` if there is anything to send or to record.
    pub fn is_needed(&self) -> bool {
        !self.items.is_empty() || !self.stored.is_empty()
    }

    /// Returns the types of the events to send.
    pub fn types(&self) -> impl Iterator<Item = EventType> + '_ {
        self.items.iter().map(|item| item.event_type)
    }

    /// Returns an event's bytes.
    pub fn item_bytes(&self, item: &ReplayItem) -> &'k [u8] {
        &self.candidate.value[item.range.clone()]
    }
}

/// Most events and bytes of one batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    pub events: usize,
    pub bytes: usize,
}

/// Counts the records that make up a batch. The last one may be an array that is sent in parts.
pub fn count_batch_records(works: &VecDeque<ReplayWork<'_>>, limits: BatchLimits) -> usize {
    let (mut records, mut items, mut bytes) = (0, 0, 0);
    for work in works {
        if records >= limits.events || items >= limits.events || bytes >= limits.bytes {
            break;
        }
        records += 1;
        items += work.items.len();
        bytes += work.items.iter().map(|i| i.range.len()).sum::<usize>();
    }
    records
}

/// Selects the events of a batch of `records` records; at least one if there is any.
pub fn select_items<'k>(
    works: &VecDeque<ReplayWork<'k>>,
    records: usize,
    limits: BatchLimits,
) -> Vec<(&'k ReplayCandidate, &'k [u8])> {
    let (mut all, mut bytes) = (Vec::new(), 0);
    for work in works.iter().take(records) {
        for item in &work.items {
            if all.len() >= limits.events || bytes >= limits.bytes {
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

    const LIMITS: ParseLimits = ParseLimits {
        max_events: 3,
        max_event_bytes: 1_000,
    };

    fn event(id: &str, data: &str) -> String {
        format!(
            r#"{{"id":"{id}","type":"ROOM_OCCUPANCY","timestamp":1,"version":"v1","metadata":{{"room_id":"r"}},"data":{data}}}"#
        )
    }

    fn candidate(value: String) -> ReplayCandidate {
        ReplayCandidate {
            value: value.into(),
            ..ReplayCandidate::for_test((0, 1).into(), "k")
        }
    }

    #[test]
    fn an_array_is_split_into_its_events() {
        let (a, b) = (event("a", "1"), event("b", "2"));
        let array = candidate(format!("\n[{a}, {}\t,{b} ]", event("c", "-3")));
        let hash = ItemHash::from_bytes(b.as_bytes());
        let work = ReplayWork::from_candidate(&array, LIMITS, |stored| stored == hash);
        assert_eq!(work.items.len(), 1);
        assert_eq!(work.item_bytes(&work.items[0]), a.as_bytes());
        assert_eq!((work.valid, work.stored.as_slice()), (2, [hash].as_slice()));
        assert_eq!(
            (work.has_invalid, work.codes.as_slice()),
            (true, ["out_of_range"].as_slice())
        );
    }

    #[test]
    fn items_that_are_still_invalid_are_counted_by_code() {
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
            let invalid = candidate(value);
            let work = ReplayWork::from_candidate(&invalid, LIMITS, |_| false);
            assert_eq!(
                (work.codes.as_slice(), work.is_needed()),
                ([code].as_slice(), false)
            );
        }
    }

    #[test]
    fn a_large_array_is_sent_in_parts() {
        let three = [event("a", "1"), event("b", "1"), event("c", "1")].join(",");
        let (first, second) = (candidate(format!("[{three}]")), candidate(event("d", "4")));
        let works =
            [&first, &second].map(|array| ReplayWork::from_candidate(array, LIMITS, |_| false));
        let works = VecDeque::from(works);
        let cases = [(2, 9_999, 1, 2), (4, 9_999, 2, 4), (4, 1, 1, 1)];
        for (events, bytes, records, items) in cases {
            let limits = BatchLimits { events, bytes };
            assert_eq!(count_batch_records(&works, limits), records);
            assert_eq!(select_items(&works, records, limits).len(), items);
        }
    }
}
