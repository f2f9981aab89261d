//! The digest of a record that is kept until it is joined with the journal.

use crate::hash;
use crate::journal::ReportedPosition;
use crate::journal::buckets::{FieldReader, FixedSize};
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// Position of a record in Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordPosition {
    /// The type whose topic it is in.
    pub topic: EventType,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

impl RecordPosition {
    /// Returns `true` if a response named this partition and offset.
    pub fn matches(self, reported: ReportedPosition) -> bool {
        (self.partition, self.offset) == (reported.partition, reported.offset)
    }
}

/// Value of the header `ce_duplicate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuplicateHeader {
    /// The same event was sent again.
    Redelivery,
    /// Another event has the same value.
    Repeat,
}

/// Hash of an event id as it appears in headers, with its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventIdHash(u64);

impl EventIdHash {
    /// Hashes the text of an id.
    pub fn new(id: &str) -> Self {
        Self(hash::hash_bytes(id.as_bytes()))
    }
}

/// Digest of a record whose value is an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordDigest {
    /// Hash of the value's (type, space, timestamp).
    pub reading_key: u64,
    /// The id in the value.
    pub id: Ksuid,
    /// Hash of the value.
    pub value_hash: u64,
    /// Hash of the `data` in the value.
    pub data_hash: u64,
    /// The type in the value.
    pub event_type: EventType,
    /// The record's position.
    pub position: RecordPosition,
    /// Topic, key or partition do not follow from the value.
    pub misplaced: bool,
    /// The headers or the timestamp do not follow from the value.
    pub wrong_headers: bool,
    /// Marked as spooled.
    pub spooled: bool,
    /// Marked as a duplicate of this kind.
    pub duplicate: Option<DuplicateHeader>,
    /// Marked as a revision of the event with this id.
    pub supersedes: Option<EventIdHash>,
    /// Marked as stale.
    pub stale: bool,
    /// Marked as out of order.
    pub out_of_order: bool,
    /// Received before the run began, according to the headers.
    pub before_run: bool,
    /// TRAFFIC: index of the space in the model's ground truth.
    pub space_index: Option<u32>,
    /// TRAFFIC: number of people that entered minus those that left.
    pub net: i32,
}

/// Layout: `key | id | value | data | supersedes | type, topic | flags | partition | offset | space
/// (all ones: none) | net`. Integers are little-endian.
impl FixedSize for RecordDigest {
    const SIZE: usize = 8 + 20 + 8 + 8 + 8 + 2 + 2 + 4 + 8 + 4 + 4;

    fn key(&self) -> u64 {
        self.reading_key
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.reading_key.to_le_bytes());
        out.extend(self.id.as_bytes());
        out.extend(self.value_hash.to_le_bytes());
        out.extend(self.data_hash.to_le_bytes());
        let supersedes = self.supersedes.map_or(0, |id| id.0);
        out.extend(supersedes.to_le_bytes());
        let flags = [
            self.misplaced,
            self.wrong_headers,
            self.spooled,
            self.duplicate == Some(DuplicateHeader::Redelivery),
            self.duplicate == Some(DuplicateHeader::Repeat),
            self.before_run,
            self.supersedes.is_some(),
            self.stale,
            self.out_of_order,
        ];
        let flags = flags
            .into_iter()
            .rev()
            .fold(0, |bits, flag| bits << 1 | u16::from(flag));
        let types = [self.event_type, self.position.topic];
        out.extend(types.map(|t| t.index() as u8));
        out.extend(flags.to_le_bytes());
        out.extend(self.position.partition.to_le_bytes());
        out.extend(self.position.offset.to_le_bytes());
        out.extend(self.space_index.unwrap_or(u32::MAX).to_le_bytes());
        out.extend(self.net.to_le_bytes());
    }

    fn decode(mut bytes: FieldReader<'_>) -> Option<Self> {
        let reading_key = u64::from_le_bytes(bytes.read_array()?);
        let id = Ksuid::from_bytes(bytes.read_array()?);
        let value_hash = u64::from_le_bytes(bytes.read_array()?);
        let data_hash = u64::from_le_bytes(bytes.read_array()?);
        let supersedes = u64::from_le_bytes(bytes.read_array()?);
        let [event_type, topic] = bytes.read_array()?;
        let flags = u16::from_le_bytes(bytes.read_array()?);
        let flag = |bit: u32| flags & 1 << bit != 0;
        let event_type_at = |index: u8| EventType::ALL.get(usize::from(index)).copied();
        let position = RecordPosition {
            topic: event_type_at(topic)?,
            partition: i32::from_le_bytes(bytes.read_array()?),
            offset: i64::from_le_bytes(bytes.read_array()?),
        };
        let space = u32::from_le_bytes(bytes.read_array()?);
        Some(Self {
            reading_key,
            id,
            value_hash,
            data_hash,
            event_type: event_type_at(event_type)?,
            position,
            misplaced: flag(0),
            wrong_headers: flag(1),
            spooled: flag(2),
            duplicate: match (flag(3), flag(4)) {
                (true, _) => Some(DuplicateHeader::Redelivery),
                (_, true) => Some(DuplicateHeader::Repeat),
                _ => None,
            },
            before_run: flag(5),
            supersedes: flag(6).then_some(EventIdHash(supersedes)),
            stale: flag(7),
            out_of_order: flag(8),
            space_index: (space != u32::MAX).then_some(space),
            net: i32::from_le_bytes(bytes.read_array()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::buckets::{self, BucketWriter};

    #[test]
    fn digests_are_read_back() {
        let digest = |n: u32| RecordDigest {
            reading_key: 0,
            id: Ksuid::from_bytes([n as u8; 20]),
            value_hash: u64::from(n) << 40,
            data_hash: 3,
            event_type: EventType::ALL[n as usize % 10],
            position: RecordPosition {
                topic: EventType::ALL[(n as usize + 3) % 10],
                partition: n as i32,
                offset: i64::from(n) << 33,
            },
            misplaced: n.is_multiple_of(2),
            wrong_headers: n.is_multiple_of(3),
            spooled: n.is_multiple_of(4),
            duplicate: match n % 7 {
                0 => Some(DuplicateHeader::Redelivery),
                1 => Some(DuplicateHeader::Repeat),
                _ => None,
            },
            supersedes: n
                .is_multiple_of(8)
                .then_some(EventIdHash(u64::from(n) << 50)),
            stale: n.is_multiple_of(10),
            out_of_order: n.is_multiple_of(11),
            before_run: n.is_multiple_of(9),
            space_index: n.is_multiple_of(5).then_some(n),
            net: -(n as i32),
        };
        let dir = tempfile::tempdir().unwrap();
        let mut buckets = BucketWriter::create(dir.path()).unwrap();
        let digests: Vec<_> = (0..20).map(digest).collect();
        digests.iter().for_each(|e| buckets.push(e).unwrap());
        let sum = buckets.close().unwrap()[0];
        assert_eq!(
            buckets::read_bucket::<RecordDigest>(dir.path(), 0, sum).unwrap(),
            digests
        );
    }
}
