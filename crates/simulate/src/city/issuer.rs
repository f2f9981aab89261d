//! Making messages: each with an id of its own.

use super::chance::{self, ChanceTopic};
use crate::message::{CityMessage, CityPlace, Computation, MessageData};
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// Gives messages their ids: hashes of what a message is about and when it was computed, so an id does not depend on
/// which other messages there are.
#[derive(Clone, Copy, Debug)]
pub struct MessageIssuer {
    seed: u64,
}

impl MessageIssuer {
    /// Another seed gives other ids for the same messages.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// A message whose reading is computed only once.
    pub fn issue_once(
        &self,
        event_type: EventType,
        place: CityPlace,
        timestamp_ms: i64,
        computed_ms: i64,
        data: MessageData,
    ) -> CityMessage {
        self.issue(
            event_type,
            place,
            timestamp_ms,
            computed_ms,
            data,
            Computation::First,
        )
    }

    /// A message.
    pub fn issue(
        &self,
        event_type: EventType,
        place: CityPlace,
        timestamp_ms: i64,
        computed_ms: i64,
        data: MessageData,
        computation: Computation,
    ) -> CityMessage {
        let about = [
            subject_code(event_type, place),
            timestamp_ms as u64,
            computed_ms as u64,
        ];
        let id = Ksuid::new(
            computed_ms,
            chance::payload(self.seed, ChanceTopic::Computation, about),
        );
        CityMessage {
            event_type,
            place,
            timestamp_ms,
            computed_ms,
            id,
            data,
            computation,
        }
    }
}

/// A type and a place in one number.
pub fn subject_code(event_type: EventType, place: CityPlace) -> u64 {
    let (kind, index) = match place {
        CityPlace::Floor(index) => (0, index),
        CityPlace::Room(index) => (1, index),
        CityPlace::Zone(index) => (2, index),
        CityPlace::Sensor(index) => (3, index),
    };
    (event_type.index() as u64) << 40 | kind << 32 | u64::from(index)
}
