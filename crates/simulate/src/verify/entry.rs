//! What is kept of a record until it is joined with the journal.

use crate::journal::buckets::{Fields, Fixed};
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Whose topic, by [`EventType::index`].
    pub topic: u8,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

/// What `ce_duplicate` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duplicate {
    /// The same event again.
    Redelivery,
    /// The same value again.
    Repeat,
}

/// A record whose value tells an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which (type, space, timestamp) its value is about.
    pub key: u64,
    /// The id that its value tells.
    pub id: Ksuid,
    /// Hash of its value.
    pub value: u64,
    /// Hash of the `data` in it.
    pub data: u64,
    /// The type that its value tells.
    pub event_type: EventType,
    /// Where it is.
    pub position: Position,
    /// Topic, key or partition are not what the value asks for.
    pub misplaced: bool,
    /// Headers or timestamp are not.
    pub misheaded: bool,
    /// Its headers say that it waited on disk.
    pub spooled: bool,
    /// Its headers say that it is a duplicate, and of which kind.
    pub duplicate: Option<Duplicate>,
    /// Its headers say that it is a revision of the event with this id ([`hash::bytes`]).
    ///
    /// [`hash::bytes`]: crate::hash::bytes
    pub supersedes: Option<u64>,
    /// Its headers say that it is stale.
    pub stale: bool,
    /// Its headers say that something newer came before it.
    pub out_of_order: bool,
    /// Its headers say that it was received before the run began.
    pub earlier: bool,
    /// TRAFFIC: which of the truth's spaces it is about.
    pub space: Option<u32>,
    /// TRAFFIC: in less out.
    pub net: i32,
}

/// `key | id | value | data | supersedes | type, topic | flags | partition | offset | space (all ones: none) | net`.
impl Fixed for Entry {
    const SIZE: usize = 8 + 20 + 8 + 8 + 8 + 2 + 2 + 4 + 8 + 4 + 4;

    fn key(&self) -> u64 {
        self.key
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend(self.key.to_le_bytes());
        out.extend(self.id.as_bytes());
        out.extend(self.value.to_le_bytes());
        out.extend(self.data.to_le_bytes());
        out.extend(self.supersedes.unwrap_or_default().to_le_bytes());
        let flags = [
            self.misplaced,
            self.misheaded,
            self.spooled,
            self.duplicate == Some(Duplicate::Redelivery),
            self.duplicate == Some(Duplicate::Repeat),
            self.earlier,
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
        out.extend(self.space.unwrap_or(u32::MAX).to_le_bytes());
        out.extend(self.net.to_le_bytes());
    }

    fn take(mut bytes: Fields<'_>) -> Option<Self> {
        let key = u64::from_le_bytes(bytes.some()?);
        let id = Ksuid::from_bytes(bytes.some()?);
        let value = u64::from_le_bytes(bytes.some()?);
        let data = u64::from_le_bytes(bytes.some()?);
        let supersedes = u64::from_le_bytes(bytes.some()?);
        let [event_type, topic] = bytes.some()?;
        let flags = u16::from_le_bytes(bytes.some()?);
        let flag = |place: u32| flags & 1 << place != 0;
        let position = Position {
            topic,
            partition: i32::from_le_bytes(bytes.some()?),
            offset: i64::from_le_bytes(bytes.some()?),
        };
        let space = u32::from_le_bytes(bytes.some()?);
        Some(Self {
            key,
            id,
            value,
            data,
            event_type: *EventType::ALL.get(usize::from(event_type))?,
            position,
            misplaced: flag(0),
            misheaded: flag(1),
            spooled: flag(2),
            duplicate: match (flag(3), flag(4)) {
                (true, _) => Some(Duplicate::Redelivery),
                (_, true) => Some(Duplicate::Repeat),
                _ => None,
            },
            earlier: flag(5),
            supersedes: flag(6).then_some(supersedes),
            stale: flag(7),
            out_of_order: flag(8),
            space: (space != u32::MAX).then_some(space),
            net: i32::from_le_bytes(bytes.some()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::buckets::{self, Buckets};

    #[test]
    fn comes_back_as_it_was() {
        let entry = |n: u32| Entry {
            key: 0,
            id: Ksuid::from_bytes([n as u8; 20]),
            value: u64::from(n) << 40,
            data: 3,
            event_type: EventType::ALL[n as usize % 10],
            position: Position {
                topic: n as u8 % 10,
                partition: n as i32,
                offset: i64::from(n) << 33,
            },
            misplaced: n.is_multiple_of(2),
            misheaded: n.is_multiple_of(3),
            spooled: n.is_multiple_of(4),
            duplicate: match n % 7 {
                0 => Some(Duplicate::Redelivery),
                1 => Some(Duplicate::Repeat),
                _ => None,
            },
            supersedes: n.is_multiple_of(8).then_some(u64::from(n) << 50),
            stale: n.is_multiple_of(10),
            out_of_order: n.is_multiple_of(11),
            earlier: n.is_multiple_of(9),
            space: n.is_multiple_of(5).then_some(n),
            net: -(n as i32),
        };
        let dir = tempfile::tempdir().unwrap();
        let mut buckets = Buckets::create(dir.path()).unwrap();
        let entries: Vec<_> = (0..20).map(entry).collect();
        entries.iter().for_each(|e| buckets.push(e).unwrap());
        let sum = buckets.close().unwrap()[0];
        assert_eq!(buckets::read::<Entry>(dir.path(), 0, sum).unwrap(), entries);
    }
}
