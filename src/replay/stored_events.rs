//! Which events of records in doubt are stored: looked for where they would be.

use std::collections::{HashMap, HashSet};

use rdkafka::message::Message;
use xxhash_rust::xxh3::xxh3_64;

use super::Error;
use super::candidate::{QuarantinePosition, header_text};
use super::history::merge_ends;
use super::marker::TopicEnds;
use super::reader::{OffsetRange, ReplayReader};

/// The hashes of the events that are stored, by their record in the quarantine topic.
pub fn find_stored(
    reader: &ReplayReader,
    doubts: &HashMap<QuarantinePosition, TopicEnds>,
    quarantine: &str,
) -> Result<HashMap<QuarantinePosition, HashSet<u64>>, Error> {
    let mut ends = TopicEnds::new();
    doubts
        .values()
        .for_each(|of_one| merge_ends(&mut ends, of_one));
    let mut found: HashMap<QuarantinePosition, HashSet<u64>> = HashMap::new();
    for (topic, ends) in &ends {
        let spans = match reader.fetch_ranges(topic) {
            Err(Error::Missing(_)) => continue,
            spans => spans?,
        };
        let spans: Vec<_> = spans
            .into_iter()
            .map(|now| range_since(now, ends.get(&now.partition)))
            .collect();
        reader.read_messages(topic, &spans, &mut |message| {
            let from = header_text(message, "ce_replayedfrom")
                .and_then(|text| parse_position(text, quarantine));
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
fn range_since(now: OffsetRange, end: Option<&i64>) -> OffsetRange {
    let from = end.copied().filter(|end| *end <= now.to);
    OffsetRange {
        from: from.unwrap_or(now.from).max(now.from),
        ..now
    }
}

/// `topic/partition/offset`, of this topic.
fn parse_position(text: &str, quarantine: &str) -> Option<QuarantinePosition> {
    let rest = text.strip_prefix(quarantine)?.strip_prefix('/')?;
    let (partition, offset) = rest.split_once('/')?;
    Some(QuarantinePosition(
        partition.parse().ok()?,
        offset.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_quarantine() {
        assert_eq!(
            parse_position("q.v1/2/17", "q.v1"),
            Some(QuarantinePosition(2, 17))
        );
        for other in ["q.v2/2/17", "q.v1/2", "q.v1/x/17", "q.v11/2/17", ""] {
            assert_eq!(parse_position(other, "q.v1"), None, "{other}");
        }
    }

    #[test]
    fn a_partition_is_read_from_where_it_ended() {
        let now = OffsetRange {
            partition: 0,
            from: 10,
            to: 20,
        };
        assert_eq!(range_since(now, Some(&15)).from, 15);
        assert_eq!(
            range_since(now, Some(&5)).from,
            10,
            "retention took the rest"
        );
        assert_eq!(
            range_since(now, Some(&25)).from,
            10,
            "it is another topic by now"
        );
        assert_eq!(range_since(now, None).from, 10);
    }
}
