//! Errors: bodies that cannot be read, and items that are not valid events.

use std::fmt;

use serde::{Serialize, Serializer};

use super::EventType;

/// Maximum number of errors reported for one event.
pub const MAX_FIELD_ERRORS: usize = 32;

/// Error of a request's body that cannot be split into events.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct UnreadableBody {
    /// Kind of the error, for programs.
    pub code: UnreadableBodyCode,
    /// The error, its position and the remedy, for people: one or two sentences.
    pub detail: String,
}

/// Kind of an [`UnreadableBody`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnreadableBodyCode {
    /// Empty, cut off, or with a syntax error.
    NotJson,
    /// Not UTF-8.
    NotUtf8,
    /// Starts with a byte order mark, which JSON must not have (RFC 8259, section 8.1).
    ByteOrderMark,
    /// Nested deeper than [`MAX_DEPTH`](super::MAX_DEPTH).
    TooDeep,
    /// A string has an escape for one half of a surrogate pair. This is not Unicode, and most
    /// consumers could not read it.
    LoneSurrogate,
    /// Array without events.
    EmptyArray,
    /// Array of more than [`ParseLimits::max_events`](super::ParseLimits::max_events).
    TooManyEvents,
}

impl UnreadableBodyCode {
    /// Every code.
    pub const ALL: [Self; 7] = [
        UnreadableBodyCode::NotJson,
        UnreadableBodyCode::NotUtf8,
        UnreadableBodyCode::ByteOrderMark,
        UnreadableBodyCode::TooDeep,
        UnreadableBodyCode::LoneSurrogate,
        UnreadableBodyCode::EmptyArray,
        UnreadableBodyCode::TooManyEvents,
    ];

    /// Code in the response. It is the same in every release.
    pub const fn as_str(self) -> &'static str {
        match self {
            UnreadableBodyCode::NotJson => "not_json",
            UnreadableBodyCode::NotUtf8 => "not_utf8",
            UnreadableBodyCode::ByteOrderMark => "byte_order_mark",
            UnreadableBodyCode::TooDeep => "too_deep",
            UnreadableBodyCode::LoneSurrogate => "lone_surrogate",
            UnreadableBodyCode::EmptyArray => "empty_array",
            UnreadableBodyCode::TooManyEvents => "too_many_events",
        }
    }

    /// HTTP status of the response: 400 if the body is not JSON that every consumer can read, 422
    /// if an array has the wrong number of events.
    pub const fn status(self) -> u16 {
        match self {
            UnreadableBodyCode::NotJson
            | UnreadableBodyCode::NotUtf8
            | UnreadableBodyCode::ByteOrderMark
            | UnreadableBodyCode::TooDeep
            | UnreadableBodyCode::LoneSurrogate => 400,
            UnreadableBodyCode::EmptyArray | UnreadableBodyCode::TooManyEvents => 422,
        }
    }
}

/// Item that is not accepted as an event, from a body that could be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RejectedItem<'a> {
    /// The item is not a valid event.
    Invalid {
        /// Event type that the item claims to have, if it can be read.
        claimed_type: Option<EventType>,
        /// Errors, 1 to [`MAX_FIELD_ERRORS`], in the order of the envelope's fields.
        errors: Vec<FieldError>,
        /// JSON of the item, without surrounding white space.
        raw: &'a str,
    },
    /// The item is larger than
    /// [`ParseLimits::max_event_bytes`](super::ParseLimits::max_event_bytes). Nothing else was
    /// checked.
    TooLarge {
        /// Event type that the item claims to have, if it can be read.
        claimed_type: Option<EventType>,
        /// Size of the JSON, without surrounding white space.
        bytes: usize,
    },
}

impl RejectedItem<'_> {
    /// Event type that the item claims to have, if it can be read.
    pub fn claimed_type(&self) -> Option<EventType> {
        match self {
            RejectedItem::Invalid { claimed_type, .. }
            | RejectedItem::TooLarge { claimed_type, .. } => *claimed_type,
        }
    }
}

/// Error in one field of an event, serialised as in the `errors` of a problem response.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) to the field within the event, also for a missing field.
    pub pointer: String,
    /// Kind of the error, for programs.
    pub code: FieldErrorCode,
    /// The error and the expected value, for people: one sentence. It quotes little of the event
    /// and escapes control characters, so it is safe to log.
    pub detail: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FieldError {
            pointer,
            code,
            detail,
        } = self;
        write!(f, "{pointer} {}: {detail}", code.as_str())
    }
}

/// Kind of a [`FieldError`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FieldErrorCode {
    /// Required field is missing.
    Missing,
    /// Value of the wrong JSON type.
    WrongType,
    /// Empty string where this is not allowed.
    Empty,
    /// Id longer than [`MAX_ID_BYTES`](super::MAX_ID_BYTES).
    TooLong,
    /// Id with a control character.
    ControlCharacter,
    /// Number outside the field's range, or too large for a double.
    OutOfRange,
    /// Number with a fraction where a whole number is required.
    NotIntegral,
    /// Point of DETECTIONS that does not have exactly two numbers.
    NotAPair,
    /// Documented field that occurs twice in one object; readers differ on which one counts.
    DuplicateKey,
    /// Type that does not exist.
    UnknownType,
    /// Type that differs from the one in the URL.
    TypeMismatch,
    /// Major version other than 1.
    UnsupportedVersion,
    /// Text that is not a version.
    InvalidVersion,
    /// Event that is rejected although no error was found in it: a bug in the bridge.
    Invalid,
}

impl FieldErrorCode {
    /// Every code.
    pub const ALL: [Self; 14] = [
        FieldErrorCode::Missing,
        FieldErrorCode::WrongType,
        FieldErrorCode::Empty,
        FieldErrorCode::TooLong,
        FieldErrorCode::ControlCharacter,
        FieldErrorCode::OutOfRange,
        FieldErrorCode::NotIntegral,
        FieldErrorCode::NotAPair,
        FieldErrorCode::DuplicateKey,
        FieldErrorCode::UnknownType,
        FieldErrorCode::TypeMismatch,
        FieldErrorCode::UnsupportedVersion,
        FieldErrorCode::InvalidVersion,
        FieldErrorCode::Invalid,
    ];

    /// Code in the response. It is the same in every release.
    pub const fn as_str(self) -> &'static str {
        match self {
            FieldErrorCode::Missing => "missing",
            FieldErrorCode::WrongType => "wrong_type",
            FieldErrorCode::Empty => "empty",
            FieldErrorCode::TooLong => "too_long",
            FieldErrorCode::ControlCharacter => "control_character",
            FieldErrorCode::OutOfRange => "out_of_range",
            FieldErrorCode::NotIntegral => "not_integral",
            FieldErrorCode::NotAPair => "not_a_pair",
            FieldErrorCode::DuplicateKey => "duplicate_key",
            FieldErrorCode::UnknownType => "unknown_type",
            FieldErrorCode::TypeMismatch => "type_mismatch",
            FieldErrorCode::UnsupportedVersion => "unsupported_version",
            FieldErrorCode::InvalidVersion => "invalid_version",
            FieldErrorCode::Invalid => "invalid",
        }
    }
}

impl Serialize for FieldErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
