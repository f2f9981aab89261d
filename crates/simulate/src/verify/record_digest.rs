//! What is kept of a record until it is joined with the journal.

use crate::journal::buckets::{FieldReader, FixedSize};
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordPosition {
    /// Whose topic, by [`EventType::index`].
    pub topic: u8,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

/// What `ce_duplicate` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuplicateHeader {
    /// The same event again.
    Redelivery,
    /// The same value again.
    Repeat,
}

/// A record whose value tells an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordDigest {
    /// Which (type, space, timestamp) its value is about.
    pub reading_key: u64,
    /// The id that its value tells.
    pub id: Ksuid,
    /// Hash of its value.
    pub value_hash: u64,
    /// Hash of the `data` in it.
    pub data_hash: u64,
    /// The type that its value tells.
    pub event_type: EventType,
    /// Where it is.
    pub position: RecordPosition,
    /// Topic, key or partition are not what the value asks for.
    pub misplaced: bool,
    /// Headers or timestamp are not.
    pub wrong_headers: bool,
    /// Its headers say that it waited on disk.
    pub spooled: bool,
    /// Its headers say that it is a duplicate, and of which kind.
    pub duplicate: Option<DuplicateHeader>,
    /// Its headers say that it is a revision of the event with this id ([`hash::bytes`]).
    ///
    /// [`hash::bytes`]: crate::hash::bytes
    pub supersedes: Option<u64>,
    /// Its headers say that it is stale.
    pub stale: bool,
    /// Its headers say that something newer came before it.
    pub out_of_order: bool,
    /// Its headers say that it was received before the run began.
    pub before_run: bool,
    /// TRAFFIC: which of the truth's spaces it is about.
    pub space_index: Option<u32>,
    /// TRAFFIC: in less out.
    pub net: i32,
}

/// `key | id | value | data | supersedes | type, topic | flags | partition | offset | space (all ones: none) | net`.
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
        out.extend(self.supersedes.unwrap_or_default().to_le_bytes());
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
        out.extend([self.event_type.index() as u8, self.position.topic]);
        out.extend(flags.to_le_bytes());
        out.extend(self.position.partition.to_le_bytes());
        out.extend(self.position.offset.to_le_bytes());
        out.extend(self.space_index.unwrap_or(u32::MAX).to_le_bytes());
        out.extend(self.net.to_le_bytes());
    }

    fn decode(mut bytes: FieldReader<'_>) -> Option<Self> {
        let key = u64::from_le_bytes(bytes.read_array()?);
        let id = Ksuid::from_bytes(bytes.read_array()?);
        let value = u64::from_le_bytes(bytes.read_array()?);
        let data = u64::from_le_bytes(bytes.read_array()?);
        let supersedes = u64::from_le_bytes(bytes.read_array()?);
        let [event_type, topic] = bytes.read_array()?;
        let flags = u16::from_le_bytes(bytes.read_array()?);
        let flag = |place: u32| flags & 1 << place != 0;
        let position = RecordPosition {
            topic,
            partition: i32::from_le_bytes(bytes.read_array()?),
            offset: i64::from_le_bytes(bytes.read_array()?),
        };
        let space = u32::from_le_bytes(bytes.read_array()?);
        Some(Self {
            reading_key: key,
            id,
            value_hash: value,
            data_hash: data,
            event_type: *EventType::ALL.get(usize::from(event_type))?,
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
            supersedes: flag(6).then_some(supersedes),
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
    fn comes_back_as_it_was() {
        let entry = |n: u32| RecordDigest {
            reading_key: 0,
            id: Ksuid::from_bytes([n as u8; 20]),
            value_hash: u64::from(n) << 40,
            data_hash: 3,
            event_type: EventType::ALL[n as usize % 10],
            position: RecordPosition {
                topic: n as u8 % 10,
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
            supersedes: n.is_multiple_of(8).then_some(u64::from(n) << 50),
            stale: n.is_multiple_of(10),
            out_of_order: n.is_multiple_of(11),
            before_run: n.is_multiple_of(9),
            space_index: n.is_multiple_of(5).then_some(n),
            net: -(n as i32),
        };
        let dir = tempfile::tempdir().unwrap();
        let mut buckets = BucketWriter::create(dir.path()).unwrap();
        let entries: Vec<_> = (0..20).map(entry).collect();
        entries.iter().for_each(|e| buckets.push(e).unwrap());
        let sum = buckets.close().unwrap()[0];
        assert_eq!(
            buckets::read_bucket::<RecordDigest>(dir.path(), 0, sum).unwrap(),
            entries
        );
    }
}
