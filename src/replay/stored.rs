//! Which events of records in doubt are stored: looked for where they would be.

use std::collections::{HashMap, HashSet};

use rdkafka::message::Message;
use xxhash_rust::xxh3::xxh3_64;

use super::Error;
use super::history::join;
use super::kept::{Place, header};
use super::marker::Ends;
use super::reader::{Reader, Span};

/// The hashes of the events that are stored, by their record in the quarantine topic.
pub fn look(
    reader: &Reader,
    doubts: &HashMap<Place, Ends>,
    quarantine: &str,
) -> Result<HashMap<Place, HashSet<u64>>, Error> {
    let mut ends = Ends::new();
    doubts.values().for_each(|of_one| join(&mut ends, of_one));
    let mut found: HashMap<Place, HashSet<u64>> = HashMap::new();
    for (topic, ends) in &ends {
        let spans = match reader.spans(topic) {
            Err(Error::Missing(_)) => continue,
            spans => spans?,
        };
        let spans: Vec<_> = spans
            .into_iter()
            .map(|now| since(now, ends.get(&now.partition)))
            .collect();
        reader.messages(topic, &spans, &mut |message| {
            let from = header(message, "ce_replayedfrom").and_then(|text| place(text, quarantine));
            if let Some(place) = from.filter(|place| doubts.contains_key(place)) {
                let hash = xxh3_64(message.payload().unwrap_or_default());
                found.entry(place).or_default().insert(hash);
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// What came since the end was noted; all of a partition that is new, or was made anew.
fn since(now: Span, end: Option<&i64>) -> Span {
    let from = end.copied().filter(|end| *end <= now.to);
    Span {
        from: from.unwrap_or(now.from).max(now.from),
        ..now
    }
}

/// `topic/partition/offset`, of this topic.
fn place(text: &str, quarantine: &str) -> Option<Place> {
    let rest = text.strip_prefix(quarantine)?.strip_prefix('/')?;
    let (partition, offset) = rest.split_once('/')?;
    Some(Place(partition.parse().ok()?, offset.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_quarantine() {
        assert_eq!(place("q.v1/2/17", "q.v1"), Some(Place(2, 17)));
        for other in ["q.v2/2/17", "q.v1/2", "q.v1/x/17", "q.v11/2/17", ""] {
            assert_eq!(place(other, "q.v1"), None, "{other}");
        }
    }

    #[test]
    fn a_partition_is_read_from_where_it_ended() {
        let now = Span {
            partition: 0,
            from: 10,
            to: 20,
        };
        assert_eq!(since(now, Some(&15)).from, 15);
        assert_eq!(since(now, Some(&5)).from, 10, "retention took the rest");
        assert_eq!(since(now, Some(&25)).from, 10, "it is another topic by now");
        assert_eq!(since(now, None).from, 10);
    }
}
