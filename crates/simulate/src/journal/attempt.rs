//! One try to deliver an event, and what was answered.

use super::buckets::{FieldReader, FixedSize};
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// A request that was answered or given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryAttempt {
    /// Which (type, space, timestamp) the event is about: [`crate::hash::reading_key`].
    pub reading_key: u64,
    /// Its id.
    pub id: Ksuid,
    /// [`crate::hash::bytes`] of the event as sent.
    pub value_hash: u64,
    /// The same of its `data` alone; of nothing where it has none.
    pub data_hash: u64,
    /// Its type.
    pub event_type: EventType,
    /// Why it was sent.
    pub cause: AttemptCause,
    /// What was answered.
    pub outcome: RecordedOutcome,
    /// Its request was given up before: it was noted when its answer came after all, or was no longer waited for, so
    /// that others may have been noted before it that were sent after it.
    pub late: bool,
    /// Status and word of the answer contradict each other.
    pub contradictory: bool,
    /// Partition and offset, where the answer named them.
    pub reported_position: Option<(i32, i64)>,
}

/// Why an event was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AttemptCause {
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
pub enum RecordedOutcome {
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

const CAUSES: [AttemptCause; 4] = [
    AttemptCause::Planned,
    AttemptCause::Redelivery,
    AttemptCause::AfterTimeout,
    AttemptCause::AfterFailure,
];

impl RecordedOutcome {
    /// Every answer.
    pub const ALL: [RecordedOutcome; 7] = [
        RecordedOutcome::Published,
        RecordedOutcome::Spooled,
        RecordedOutcome::Redelivery,
        RecordedOutcome::Repeat,
        RecordedOutcome::Refused,
        RecordedOutcome::Quarantined,
        RecordedOutcome::Unknown,
    ];

    /// Whether the event is promised to be there, by itself or by another that tells the same.
    pub const fn is_accepted(self) -> bool {
        matches!(
            self,
            RecordedOutcome::Published
                | RecordedOutcome::Spooled
                | RecordedOutcome::Redelivery
                | RecordedOutcome::Repeat
        )
    }

    /// As reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            RecordedOutcome::Published => "published",
            RecordedOutcome::Spooled => "spooled",
            RecordedOutcome::Redelivery => "duplicate (redelivery)",
            RecordedOutcome::Repeat => "duplicate (repeat)",
            RecordedOutcome::Refused => "refused",
            RecordedOutcome::Quarantined => "quarantined",
            RecordedOutcome::Unknown => "unknown",
        }
    }
}

/// Bits beside the answer.
const LATE: u8 = 0x40;
const CONTRADICTORY: u8 = 0x80;

/// `key | id | value | data | type, cause, answer | partition (-1: none) | offset`, integers with the lowest byte first.
impl FixedSize for DeliveryAttempt {
    const SIZE: usize = 8 + 20 + 8 + 8 + 3 + 4 + 8;

    fn key(&self) -> u64 {
        self.reading_key
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let (partition, offset) = self.reported_position.unwrap_or((-1, -1));
        out.extend(self.reading_key.to_le_bytes());
        out.extend(self.id.as_bytes());
        out.extend(self.value_hash.to_le_bytes());
        out.extend(self.data_hash.to_le_bytes());
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let bits = bit(self.late, LATE) | bit(self.contradictory, CONTRADICTORY);
        let tags = [
            self.event_type.index() as u8,
            self.cause as u8,
            self.outcome as u8 | bits,
        ];
        out.extend(tags);
        out.extend(partition.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }

    fn decode(mut bytes: FieldReader<'_>) -> Option<Self> {
        let key = u64::from_le_bytes(bytes.read_array()?);
        let id = Ksuid::from_bytes(bytes.read_array()?);
        let value = u64::from_le_bytes(bytes.read_array()?);
        let data = u64::from_le_bytes(bytes.read_array()?);
        let [event_type, cause, answer] = bytes.read_array()?;
        let partition = i32::from_le_bytes(bytes.read_array()?);
        let offset = i64::from_le_bytes(bytes.read_array()?);
        Some(Self {
            reading_key: key,
            id,
            value_hash: value,
            data_hash: data,
            event_type: *EventType::ALL.get(usize::from(event_type))?,
            cause: *CAUSES.get(usize::from(cause))?,
            outcome: *RecordedOutcome::ALL.get(usize::from(answer & !(LATE | CONTRADICTORY)))?,
            late: answer & LATE != 0,
            contradictory: answer & CONTRADICTORY != 0,
            reported_position: (partition >= 0).then_some((partition, offset)),
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
        for (place, answer) in RecordedOutcome::ALL.into_iter().enumerate() {
            assert_eq!(answer as usize, place);
        }
    }
}
