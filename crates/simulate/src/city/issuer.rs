//! Creation of messages, each with its own id.

use super::chance::{self, ChanceTopic};
use crate::message::{CityMessage, CityPlace, Computation, MessageData};
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// The reading that a message reports.
#[derive(Clone, Copy, Debug)]
pub struct ReadingRef {
    pub event_type: EventType,
    pub place: CityPlace,
    pub timestamp_ms: i64,
}

impl ReadingRef {
    /// Type and place in one number.
    pub fn subject_code(self) -> u64 {
        let (kind, index) = match self.place {
            CityPlace::Floor(index) => (0, index),
            CityPlace::Room(index) => (1, index),
            CityPlace::Zone(index) => (2, index),
            CityPlace::Sensor(index) => (3, index),
        };
        (self.event_type.index() as u64) << 40 | kind << 32 | u64::from(index)
    }
}

/// Creates messages. An id is a hash of the reading and the time of its computation, so it does not
/// depend on which other messages there are.
#[derive(Clone, Copy, Debug)]
pub struct MessageIssuer {
    seed: u64,
}

impl MessageIssuer {
    /// Another seed gives other ids for the same messages.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// A message for a reading that is computed only once.
    pub fn issue_once(
        &self,
        reading: ReadingRef,
        computed_ms: i64,
        data: MessageData,
    ) -> CityMessage {
        self.issue(reading, computed_ms, data, Computation::First)
    }

    /// A message for one computation of a reading.
    pub fn issue(
        &self,
        reading: ReadingRef,
        computed_ms: i64,
        data: MessageData,
        computation: Computation,
    ) -> CityMessage {
        let ReadingRef {
            event_type,
            place,
            timestamp_ms,
        } = reading;
        let subject = [
            reading.subject_code(),
            timestamp_ms as u64,
            computed_ms as u64,
        ];
        let payload = chance::payload(self.seed, ChanceTopic::Computation, subject);
        CityMessage {
            event_type,
            place,
            timestamp_ms,
            computed_ms,
            id: Ksuid::new(computed_ms, payload),
            data,
            computation,
        }
    }
}
