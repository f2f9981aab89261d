//! Making messages: each with an id of its own.

use super::chance::{self, Topic};
use crate::message::{Computation, Data, Message, Place};
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// Gives messages their ids: hashes of what a message is about and when it was computed, so an id does not depend on
/// which other messages there are.
#[derive(Clone, Copy, Debug)]
pub struct Issuer {
    seed: u64,
}

impl Issuer {
    /// Another seed gives other ids for the same messages.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// A message whose reading is computed only once.
    pub fn once(
        &self,
        event_type: EventType,
        place: Place,
        timestamp_ms: i64,
        computed_ms: i64,
        data: Data,
    ) -> Message {
        self.message(
            event_type,
            place,
            timestamp_ms,
            computed_ms,
            data,
            Computation::First,
        )
    }

    /// A message.
    pub fn message(
        &self,
        event_type: EventType,
        place: Place,
        timestamp_ms: i64,
        computed_ms: i64,
        data: Data,
        computation: Computation,
    ) -> Message {
        let about = [
            subject(event_type, place),
            timestamp_ms as u64,
            computed_ms as u64,
        ];
        let id = Ksuid::new(
            computed_ms,
            chance::payload(self.seed, Topic::Computation, about),
        );
        Message {
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
pub fn subject(event_type: EventType, place: Place) -> u64 {
    let (kind, index) = match place {
        Place::Floor(index) => (0, index),
        Place::Room(index) => (1, index),
        Place::Zone(index) => (2, index),
        Place::Sensor(index) => (3, index),
    };
    (event_type.index() as u64) << 40 | kind << 32 | u64::from(index)
}
