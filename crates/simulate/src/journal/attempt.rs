//! One try to deliver an event, and what was answered.

use super::buckets::{Fields, Fixed};
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// A request that was answered or given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Which (type, space, timestamp) the event is about: [`crate::hash::reading_key`].
    pub key: u64,
    /// Its id.
    pub id: Ksuid,
    /// [`crate::hash::bytes`] of the event as sent.
    pub value: u64,
    /// The same of its `data` alone; of nothing where it has none.
    pub data: u64,
    /// Its type.
    pub event_type: EventType,
    /// Why it was sent.
    pub cause: Cause,
    /// What was answered.
    pub answer: Answer,
    /// Its request was given up before: it was noted when its answer came after all, or was no longer waited for, so
    /// that others may have been noted before it that were sent after it.
    pub late: bool,
    /// Status and word of the answer contradict each other.
    pub contradictory: bool,
    /// Partition and offset, where the answer named them.
    pub at: Option<(i32, i64)>,
}

/// Why an event was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// It was due.
    Planned,
    /// The sender sends it once more although nothing went wrong.
    Redelivery,
    /// The try before was not answered in time; it may still be in flight.
    AfterTimeout,
    /// The try before was answered with a failure, or its connection broke.
    AfterFailure,
}

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    /// Kafka has it.
    Published,
    /// It is on disk; Kafka gets it later.
    Spooled,
    /// A duplicate of one with the same id.
    Redelivery,
    /// A duplicate of one with the same reading.
    Repeat,
    /// 4xx: it was not stored, and won't be.
    Refused,
    /// No valid event: it is kept, but not among events.
    Quarantined,
    /// 5xx, a 4xx that only asks for patience, a broken connection, or no answer in time: it may have been stored.
    Unknown,
}

const CAUSES: [Cause; 4] = [
    Cause::Planned,
    Cause::Redelivery,
    Cause::AfterTimeout,
    Cause::AfterFailure,
];

impl Answer {
    /// Every answer.
    pub const ALL: [Answer; 7] = [
        Answer::Published,
        Answer::Spooled,
        Answer::Redelivery,
        Answer::Repeat,
        Answer::Refused,
        Answer::Quarantined,
        Answer::Unknown,
    ];

    /// Whether the event is promised to be there, by itself or by another that tells the same.
    pub const fn is_promise(self) -> bool {
        matches!(
            self,
            Answer::Published | Answer::Spooled | Answer::Redelivery | Answer::Repeat
        )
    }

    /// As reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Answer::Published => "published",
            Answer::Spooled => "spooled",
            Answer::Redelivery => "duplicate (redelivery)",
            Answer::Repeat => "duplicate (repeat)",
            Answer::Refused => "refused",
            Answer::Quarantined => "quarantined",
            Answer::Unknown => "unknown",
        }
    }
}

/// Bits beside the answer.
const LATE: u8 = 0x40;
const CONTRADICTORY: u8 = 0x80;

/// `key | id | value | data | type, cause, answer | partition (-1: none) | offset`, integers with the lowest byte first.
impl Fixed for Attempt {
    const SIZE: usize = 8 + 20 + 8 + 8 + 3 + 4 + 8;

    fn key(&self) -> u64 {
        self.key
    }

    fn put(&self, out: &mut Vec<u8>) {
        let (partition, offset) = self.at.unwrap_or((-1, -1));
        out.extend(self.key.to_le_bytes());
        out.extend(self.id.as_bytes());
        out.extend(self.value.to_le_bytes());
        out.extend(self.data.to_le_bytes());
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let bits = bit(self.late, LATE) | bit(self.contradictory, CONTRADICTORY);
        let tags = [
            self.event_type.index() as u8,
            self.cause as u8,
            self.answer as u8 | bits,
        ];
        out.extend(tags);
        out.extend(partition.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }

    fn take(mut bytes: Fields<'_>) -> Option<Self> {
        let key = u64::from_le_bytes(bytes.some()?);
        let id = Ksuid::from_bytes(bytes.some()?);
        let value = u64::from_le_bytes(bytes.some()?);
        let data = u64::from_le_bytes(bytes.some()?);
        let [event_type, cause, answer] = bytes.some()?;
        let partition = i32::from_le_bytes(bytes.some()?);
        let offset = i64::from_le_bytes(bytes.some()?);
        Some(Self {
            key,
            id,
            value,
            data,
            event_type: *EventType::ALL.get(usize::from(event_type))?,
            cause: *CAUSES.get(usize::from(cause))?,
            answer: *Answer::ALL.get(usize::from(answer & !(LATE | CONTRADICTORY)))?,
            late: answer & LATE != 0,
            contradictory: answer & CONTRADICTORY != 0,
            at: (partition >= 0).then_some((partition, offset)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_places_in_their_lists() {
        for (place, cause) in CAUSES.into_iter().enumerate() {
            assert_eq!(cause as usize, place);
        }
        for (place, answer) in Answer::ALL.into_iter().enumerate() {
            assert_eq!(answer as usize, place);
        }
    }
}
