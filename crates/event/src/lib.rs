//! What the sender sends, and what of it is a valid event.
//!
//! [`parse()`] takes a request's body apart:
//!
//! 1. `text`: is it text the bridge can work on (UTF-8, no byte order mark, no half surrogate pairs, not nested too
//!    deep)? These rules hold for the whole body, the parts that the bridge does not know included, because every
//!    consumer has to be able to read what is published.
//! 2. `typed`: one pass over each event that reads what the bridge needs and allocates nothing (unless a string that it
//!    keeps contains an escape). It says yes or no.
//! 3. `diagnose`: only after a no: the pass that finds every mistake.
//!
//! Invariant: `typed` says yes exactly when `diagnose` finds no mistake. Both take each rule from `rules`, and the
//! property tests hold the one against the other. Should they ever disagree, the event is refused with
//! [`Code::Invalid`].
//!
//! An [`Event`] can only be made here, so one that exists is valid.

pub mod clock;
pub mod destination;
mod diagnosis;
mod error;
pub mod event_id;
mod event_reader;
mod event_type;
pub mod ksuid;
mod parser;
mod rules;
mod text;
mod value_hash;

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use error::{
    FieldError, FieldErrorCode, MAX_FIELD_ERRORS, RejectedItem, UnreadableBody, UnreadableBodyCode,
};
pub use event_type::EventType;
pub use parser::{ParseLimits, ParsedBody, parse};
pub use rules::{MAX_COUNT, MAX_ID_BYTES, MAX_TIMESTAMP_MS};
pub use text::MAX_DEPTH;

/// One valid event, borrowed from the request's body.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    raw: &'a str,
    id: Cow<'a, str>,
    event_type: EventType,
    timestamp_ms: i64,
    space_id: Cow<'a, str>,
    org_id: Option<Cow<'a, str>>,
    sensor_id: Option<Cow<'a, str>>,
    data_hash: u64,
}

impl<'a> Event<'a> {
    /// The sender's id of this event: 1 to 256 bytes, no control characters. Opaque: its form is not promised.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the event tells.
    pub fn event_type(&self) -> EventType {
        self.event_type
    }

    /// The moment of sensing, in milliseconds since 1970 UTC: 0 to [`MAX_TIMESTAMP_MS`].
    pub fn timestamp_ms(&self) -> i64 {
        self.timestamp_ms
    }

    /// The id of the most specific space that the event is about (its floor, room or zone, by type): 1 to 256 bytes,
    /// no control characters.
    pub fn space_id(&self) -> &str {
        &self.space_id
    }

    /// The organisation, as it came: any string, or `None` where it is absent, null or empty.
    pub fn org_id(&self) -> Option<&str> {
        self.org_id.as_deref().filter(|id| !id.is_empty())
    }

    /// The sensor, as it came: any string, or `None` where it is absent, null or empty (events about a place have none).
    pub fn sensor_id(&self) -> Option<&str> {
        self.sensor_id.as_deref().filter(|id| !id.is_empty())
    }

    /// A hash of its `data` by value: the order of keys, white space and whether a number is written `4` or `4.0` make no
    /// difference. The same in every process and release.
    pub fn data_hash(&self) -> u64 {
        self.data_hash
    }

    /// The event's JSON, byte for byte as it was received, without the white space around it.
    pub fn raw(&self) -> &'a [u8] {
        self.raw.as_bytes()
    }
}
