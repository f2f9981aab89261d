//! One attempt to deliver an event, with its outcome.

use super::buckets::{FieldReader, FixedSize};
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// A request that got a response or was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryAttempt {
    /// The event's (type, space, timestamp), hashed by [`crate::hash::reading_key`].
    pub reading_key: u64,
    /// The event's id.
    pub id: Ksuid,
    /// [`crate::hash::hash_bytes`] of the event as sent.
    pub value_hash: u64,
    /// [`crate::hash::hash_bytes`] of its `data` alone; of the empty string if it has none.
    pub data_hash: u64,
    /// The event's type.
    pub event_type: EventType,
    /// The cause.
    pub cause: AttemptCause,
    /// The outcome.
    pub outcome: RecordedOutcome,
    /// The sender had stopped waiting for the response. Such an attempt is recorded when the
    /// response arrives after all, or at the end, so attempts that were sent later can precede it.
    pub late: bool,
    /// The response's status code and its `status` field contradict each other.
    pub contradictory: bool,
    /// The record's position according to the response, if it named one.
    pub reported_position: Option<ReportedPosition>,
}

/// Partition and offset of a record, as named in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedPosition {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// The cause of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AttemptCause {
    /// The event was due.
    Planned,
    /// The sender repeats the event although nothing went wrong.
    Redelivery,
    /// The previous attempt got no response in time; it may still be in flight.
    AfterTimeout,
    /// The previous attempt got an error response, or its connection broke.
    AfterFailure,
}

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordedOutcome {
    /// The event is in Kafka.
    Published,
    /// The event is on disk and will be published later.
    Spooled,
    /// A duplicate of an event with the same id.
    Redelivery,
    /// A duplicate of an event with the same reading.
    Repeat,
    /// 4xx: the event was not stored and never will be.
    Refused,
    /// Not a valid event: kept in the quarantine, not among the events.
    Quarantined,
    /// 5xx, a 4xx that asks for a retry, a broken connection, or no response in time: the event may
    /// have been stored.
    Unknown,
}

impl AttemptCause {
    /// Every cause, by discriminant.
    const ALL: [AttemptCause; 4] = [
        AttemptCause::Planned,
        AttemptCause::Redelivery,
        AttemptCause::AfterTimeout,
        AttemptCause::AfterFailure,
    ];
}

impl RecordedOutcome {
    /// Every outcome, by discriminant.
    pub const ALL: [RecordedOutcome; 7] = [
        RecordedOutcome::Published,
        RecordedOutcome::Spooled,
        RecordedOutcome::Redelivery,
        RecordedOutcome::Repeat,
        RecordedOutcome::Refused,
        RecordedOutcome::Quarantined,
        RecordedOutcome::Unknown,
    ];

    /// Returns `true` if the response promises that the event is stored, either itself or as
    /// another event with the same content.
    pub const fn is_accepted(self) -> bool {
        matches!(
            self,
            RecordedOutcome::Published
                | RecordedOutcome::Spooled
                | RecordedOutcome::Redelivery
                | RecordedOutcome::Repeat
        )
    }

    /// Returns the name used in reports.
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

/// Flags stored in the upper bits of the outcome byte.
const LATE: u8 = 0x40;
const CONTRADICTORY: u8 = 0x80;

/// Layout: `key | id | value | data | type, cause, outcome | partition (-1: none) | offset`.
/// Integers are little-endian.
impl FixedSize for DeliveryAttempt {
    const SIZE: usize = 8 + 20 + 8 + 8 + 3 + 4 + 8;

    fn key(&self) -> u64 {
        self.reading_key
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let ReportedPosition { partition, offset } =
            self.reported_position.unwrap_or(ReportedPosition {
                partition: -1,
                offset: -1,
            });
        out.extend(self.reading_key.to_le_bytes());
        out.extend(self.id.as_bytes());
        out.extend(self.value_hash.to_le_bytes());
        out.extend(self.data_hash.to_le_bytes());
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(self.late, LATE) | flag(self.contradictory, CONTRADICTORY);
        out.extend([
            self.event_type.index() as u8,
            self.cause as u8,
            self.outcome as u8 | flags,
        ]);
        out.extend(partition.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }

    fn decode(mut bytes: FieldReader<'_>) -> Option<Self> {
        let reading_key = u64::from_le_bytes(bytes.read_array()?);
        let id = Ksuid::from_bytes(bytes.read_array()?);
        let value_hash = u64::from_le_bytes(bytes.read_array()?);
        let data_hash = u64::from_le_bytes(bytes.read_array()?);
        let [event_type, cause, outcome] = bytes.read_array()?;
        let partition = i32::from_le_bytes(bytes.read_array()?);
        let offset = i64::from_le_bytes(bytes.read_array()?);
        Some(Self {
            reading_key,
            id,
            value_hash,
            data_hash,
            event_type: *EventType::ALL.get(usize::from(event_type))?,
            cause: *AttemptCause::ALL.get(usize::from(cause))?,
            outcome: *RecordedOutcome::ALL.get(usize::from(outcome & !(LATE | CONTRADICTORY)))?,
            late: outcome & LATE != 0,
            contradictory: outcome & CONTRADICTORY != 0,
            reported_position: (partition >= 0).then_some(ReportedPosition { partition, offset }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_are_indices_into_all() {
        for (index, cause) in AttemptCause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index);
        }
        for (index, outcome) in RecordedOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
    }
}
