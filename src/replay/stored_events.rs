//! Search for the stored events of records that are in doubt.

use std::collections::HashMap;

use rdkafka::message::Message;

use super::Error;
use super::candidate::{ItemHash, QuarantinePosition, StoredItems};
use super::history::merge_ends;
use super::marker::TopicEnds;
use super::reader::{OffsetRange, ReplayReader};
use crate::kafka::headers::{catch_invalid_name, header_text};

/// Finds the stored events of records in doubt, by the header `ce_replayedfrom`.
pub fn find_stored(
    reader: &ReplayReader,
    in_doubt: &HashMap<QuarantinePosition, TopicEnds>,
    quarantine: &str,
) -> Result<StoredItems, Error> {
    let mut ends = TopicEnds::new();
    in_doubt
        .values()
        .for_each(|of_record| merge_ends(&mut ends, of_record));
    let mut found = StoredItems::new();
    for (topic, ends) in &ends {
        let ranges = match reader.fetch_ranges(topic) {
            Err(Error::Missing(_)) => continue,
            ranges => ranges?,
        };
        let ranges: Vec<_> = ranges
            .into_iter()
            .map(|now| range_since(now, ends.get(&now.partition)))
            .collect();
        reader.read_messages(topic, &ranges, &mut |message| {
            let origin = catch_invalid_name(|| header_text(message, "ce_replayedfrom")).flatten();
            let position = origin.and_then(|text| parse_position(text, quarantine));
            if let Some(position) = position.filter(|position| in_doubt.contains_key(position)) {
                let hash = ItemHash::from_bytes(message.payload().unwrap_or_default());
                found.entry(position).or_default().insert(hash);
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// Returns the offsets since `end`; the whole partition if it is new or was created anew.
fn range_since(now: OffsetRange, end: Option<&i64>) -> OffsetRange {
    let from = end.copied().filter(|end| *end <= now.to);
    OffsetRange {
        from: from.unwrap_or(now.from).max(now.from),
        ..now
    }
}

/// Parses `topic/partition/offset`. Returns `None` if the topic is not the quarantine.
fn parse_position(text: &str, quarantine: &str) -> Option<QuarantinePosition> {
    let rest = text.strip_prefix(quarantine)?.strip_prefix('/')?;
    let (partition, offset) = rest.split_once('/')?;
    Some((partition.parse().ok()?, offset.parse().ok()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_positions_in_the_quarantine_are_parsed() {
        assert_eq!(parse_position("q.v1/2/17", "q.v1"), Some((2, 17).into()));
        for other in ["q.v2/2/17", "q.v1/2", "q.v1/x/17", "q.v11/2/17", ""] {
            assert_eq!(parse_position(other, "q.v1"), None, "{other}");
        }
    }

    #[test]
    fn a_partition_is_searched_from_its_former_end() {
        let now = OffsetRange {
            partition: 0,
            from: 10,
            to: 20,
        };
        assert_eq!(range_since(now, Some(&15)).from, 15);
        assert_eq!(
            range_since(now, Some(&5)).from,
            10,
            "retention deleted the rest"
        );
        assert_eq!(
            range_since(now, Some(&25)).from,
            10,
            "the topic was created anew"
        );
        assert_eq!(range_since(now, None).from, 10);
    }
}
