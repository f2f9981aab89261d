//! How a body or an event is refused.

use std::fmt;

use serde::{Serialize, Serializer};

use super::EventType;

/// The most mistakes that are reported for one event.
pub const MAX_FIELD_ERRORS: usize = 32;

/// Why a request's body as a whole cannot be taken apart into events.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct UnreadableBody {
    /// What is wrong, for programs.
    pub code: UnreadableBodyCode,
    /// What is wrong, where, and what to do: one or two sentences for people.
    pub detail: String,
}

/// The kinds of [`Unreadable`] bodies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnreadableBodyCode {
    /// Empty, cut off, or a syntax error.
    NotJson,
    /// The bytes are not UTF-8.
    NotUtf8,
    /// It begins with a byte order mark, which JSON must not (RFC 8259, section 8.1).
    ByteOrderMark,
    /// Nested deeper than [`MAX_DEPTH`](super::MAX_DEPTH).
    TooDeep,
    /// A string has an escape for one half of a surrogate pair: no Unicode text, so most consumers could not read it.
    LoneSurrogate,
    /// An array without events.
    EmptyArray,
    /// An array of more than [`Limits::max_events`](super::Limits::max_events).
    TooManyEvents,
}

impl UnreadableBodyCode {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        UnreadableBodyCode::NotJson,
        UnreadableBodyCode::NotUtf8,
        UnreadableBodyCode::ByteOrderMark,
        UnreadableBodyCode::TooDeep,
        UnreadableBodyCode::LoneSurrogate,
        UnreadableBodyCode::EmptyArray,
        UnreadableBodyCode::TooManyEvents,
    ];

    /// The code as the answer has it. It stays the same from release to release.
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

    /// The HTTP status it is answered with: 400 for what is not JSON (or not safely readable as such), 422 for an array
    /// with the wrong number of events.
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

/// Why one event is refused, though the body it came in could be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RejectedItem<'a> {
    /// It breaks the rules of a valid event.
    Invalid {
        /// The type it claims to have, where that can be read.
        claimed_type: Option<EventType>,
        /// Every mistake, 1 to [`MAX_MISTAKES`], in the order of the envelope's fields.
        errors: Vec<FieldError>,
        /// Its JSON, without the white space around it.
        raw: &'a str,
    },
    /// Its JSON, without the white space around it, is larger than
    /// [`Limits::max_event_bytes`](super::Limits::max_event_bytes). Nothing else of it was checked.
    TooLarge {
        /// The type it claims to have, where that can be read.
        claimed_type: Option<EventType>,
        /// Its size.
        bytes: usize,
    },
}

impl RejectedItem<'_> {
    /// The type the event claims to have, where that can be read: also when that is not what is wrong with it.
    pub fn claimed_type(&self) -> Option<EventType> {
        match self {
            RejectedItem::Invalid {
                claimed_type: claimed,
                ..
            }
            | RejectedItem::TooLarge {
                claimed_type: claimed,
                ..
            } => *claimed,
        }
    }
}

/// One mistake in an event; serialised as the problem's `errors` have it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FieldError {
    /// Where: a JSON pointer (RFC 6901) into the event. For a missing field, where it should have been.
    pub pointer: String,
    /// What is wrong, for programs.
    pub code: FieldErrorCode,
    /// What is wrong and what is expected: a sentence for people. It quotes little of the event, with control
    /// characters escaped, so it is safe to log.
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

/// The kinds of [`Mistake`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FieldErrorCode {
    /// A required field is not there.
    Missing,
    /// The value is of another JSON type than the field's.
    WrongType,
    /// A string that must not be empty is.
    Empty,
    /// An id longer than [`MAX_ID_BYTES`](super::MAX_ID_BYTES).
    TooLong,
    /// An id with a control character in it.
    ControlCharacter,
    /// A number below or above what the field takes, or one that does not fit a double.
    OutOfRange,
    /// A number with a fraction where a whole one is needed.
    NotIntegral,
    /// A point of DETECTIONS without exactly two numbers.
    NotAPair,
    /// A field of the documentation stands twice in one object, so that readers may differ on which one counts.
    DuplicateKey,
    /// The type is none of the ten.
    UnknownType,
    /// The type is another one than the URL's.
    TypeMismatch,
    /// Another major version than 1.
    UnsupportedVersion,
    /// No version at all by its form.
    InvalidVersion,
    /// The event is not valid, but the search for its mistakes found none: a defect of the bridge.
    Invalid,
}

impl FieldErrorCode {
    /// Every kind.
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

    /// The code as the answer has it. It stays the same from release to release.
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
