//! How a body or an event is refused.

use std::fmt;

use serde::{Serialize, Serializer};

use super::EventType;

/// The most mistakes that are reported for one event.
pub const MAX_MISTAKES: usize = 32;

/// Why a request's body as a whole cannot be taken apart into events.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Unreadable {
    /// What is wrong, for programs.
    pub code: UnreadableCode,
    /// What is wrong, where, and what to do: one or two sentences for people.
    pub detail: String,
}

/// The kinds of [`Unreadable`] bodies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnreadableCode {
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

impl UnreadableCode {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        UnreadableCode::NotJson,
        UnreadableCode::NotUtf8,
        UnreadableCode::ByteOrderMark,
        UnreadableCode::TooDeep,
        UnreadableCode::LoneSurrogate,
        UnreadableCode::EmptyArray,
        UnreadableCode::TooManyEvents,
    ];

    /// The code as the answer has it. It stays the same from release to release.
    pub const fn as_str(self) -> &'static str {
        match self {
            UnreadableCode::NotJson => "not_json",
            UnreadableCode::NotUtf8 => "not_utf8",
            UnreadableCode::ByteOrderMark => "byte_order_mark",
            UnreadableCode::TooDeep => "too_deep",
            UnreadableCode::LoneSurrogate => "lone_surrogate",
            UnreadableCode::EmptyArray => "empty_array",
            UnreadableCode::TooManyEvents => "too_many_events",
        }
    }

    /// The HTTP status it is answered with: 400 for what is not JSON (or not safely readable as such), 422 for an array
    /// with the wrong number of events.
    pub const fn status(self) -> u16 {
        match self {
            UnreadableCode::NotJson
            | UnreadableCode::NotUtf8
            | UnreadableCode::ByteOrderMark
            | UnreadableCode::TooDeep
            | UnreadableCode::LoneSurrogate => 400,
            UnreadableCode::EmptyArray | UnreadableCode::TooManyEvents => 422,
        }
    }
}

/// Why one event is refused, though the body it came in could be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused<'a> {
    /// It breaks the rules of a valid event.
    Invalid {
        /// The type it claims to have, where that can be read.
        claimed: Option<EventType>,
        /// Every mistake, 1 to [`MAX_MISTAKES`], in the order of the envelope's fields.
        errors: Vec<Mistake>,
        /// Its JSON, without the white space around it.
        raw: &'a str,
    },
    /// Its JSON, without the white space around it, is larger than
    /// [`Limits::max_event_bytes`](super::Limits::max_event_bytes). Nothing else of it was checked.
    TooLarge {
        /// The type it claims to have, where that can be read.
        claimed: Option<EventType>,
        /// Its size.
        bytes: usize,
    },
}

impl Refused<'_> {
    /// The type the event claims to have, where that can be read: also when that is not what is wrong with it.
    pub fn claimed(&self) -> Option<EventType> {
        match self {
            Refused::Invalid { claimed, .. } | Refused::TooLarge { claimed, .. } => *claimed,
        }
    }
}

/// One mistake in an event; serialised as the problem's `errors` have it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Mistake {
    /// Where: a JSON pointer (RFC 6901) into the event. For a missing field, where it should have been.
    pub pointer: String,
    /// What is wrong, for programs.
    pub code: Code,
    /// What is wrong and what is expected: a sentence for people. It quotes little of the event, with control
    /// characters escaped, so it is safe to log.
    pub detail: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mistake {
            pointer,
            code,
            detail,
        } = self;
        write!(f, "{pointer} {}: {detail}", code.as_str())
    }
}

/// The kinds of [`Mistake`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Code {
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

impl Code {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Code::Missing,
        Code::WrongType,
        Code::Empty,
        Code::TooLong,
        Code::ControlCharacter,
        Code::OutOfRange,
        Code::NotIntegral,
        Code::NotAPair,
        Code::DuplicateKey,
        Code::UnknownType,
        Code::TypeMismatch,
        Code::UnsupportedVersion,
        Code::InvalidVersion,
        Code::Invalid,
    ];

    /// The code as the answer has it. It stays the same from release to release.
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::Missing => "missing",
            Code::WrongType => "wrong_type",
            Code::Empty => "empty",
            Code::TooLong => "too_long",
            Code::ControlCharacter => "control_character",
            Code::OutOfRange => "out_of_range",
            Code::NotIntegral => "not_integral",
            Code::NotAPair => "not_a_pair",
            Code::DuplicateKey => "duplicate_key",
            Code::UnknownType => "unknown_type",
            Code::TypeMismatch => "type_mismatch",
            Code::UnsupportedVersion => "unsupported_version",
            Code::InvalidVersion => "invalid_version",
            Code::Invalid => "invalid",
        }
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
