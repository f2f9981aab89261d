//! Butlr's webhook events: the model, the parser, and the destinations of records.
//!
//! [`parse()`] splits a request's body into events in three steps:
//!
//! 1. `text` checks the whole body: UTF-8, no byte order mark, no lone surrogates, not nested too
//!    deep. These rules also cover the parts that the bridge does not know, because every consumer
//!    must be able to read the published event.
//! 2. `event_reader` reads each event in one pass, without allocations (except for strings with
//!    escapes), and only decides whether it is valid.
//! 3. `diagnosis` finds every field error, in a second pass over rejected events only.
//!
//! Invariant: `event_reader` accepts an event exactly if `diagnosis` finds no error in it. Both take
//! every rule from `rules`, and property tests compare the two. Should they ever disagree, the
//! event is rejected with [`FieldErrorCode::Invalid`].
//!
//! Only the parser makes an [`Event`], so an `Event` is always valid.

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
pub use event_type::{EventType, PerType};
pub use parser::{ItemResult, ParseLimits, ParsedBody, parse};
pub use rules::{MAX_COUNT, MAX_ID_BYTES, MAX_TIMESTAMP_MS};
pub use text::MAX_DEPTH;

/// Valid event, borrowed from the request's body.
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
    /// Id that the sender gave the event: 1 to 256 bytes without control characters. It is opaque;
    /// the sender does not promise a format.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Type of the event.
    pub fn event_type(&self) -> EventType {
        self.event_type
    }

    /// Time of sensing, in milliseconds since 1970 UTC: 0 to [`MAX_TIMESTAMP_MS`].
    pub fn timestamp_ms(&self) -> i64 {
        self.timestamp_ms
    }

    /// Id of the most specific space of the event (floor, room or zone, depending on the type): 1
    /// to 256 bytes without control characters.
    pub fn space_id(&self) -> &str {
        &self.space_id
    }

    /// Organisation as received: any string; `None` if absent, null or empty.
    pub fn org_id(&self) -> Option<&str> {
        self.org_id.as_deref().filter(|id| !id.is_empty())
    }

    /// Sensor as received: any string; `None` if absent, null or empty. Events about a space have
    /// no sensor.
    pub fn sensor_id(&self) -> Option<&str> {
        self.sensor_id.as_deref().filter(|id| !id.is_empty())
    }

    /// Hash of `data` by value: the order of keys, white space, and `4` or `4.0` make no
    /// difference. It is the same in every process and release.
    pub fn data_hash(&self) -> u64 {
        self.data_hash
    }

    /// JSON of the event exactly as received, without surrounding white space.
    pub fn raw(&self) -> &'a [u8] {
        self.raw.as_bytes()
    }
}
