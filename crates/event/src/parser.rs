//! From a request's body to its events.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::{
    Event, EventType, RejectedItem, UnreadableBody, UnreadableBodyCode, diagnosis, event_reader,
    text,
};

/// How much a body may hold. (The size of the body as a whole is the HTTP layer's matter.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseLimits {
    /// The most events in an array.
    pub max_events: usize,
    /// The largest event, in bytes, without the white space around it.
    pub max_event_bytes: usize,
}

impl ParseLimits {
    /// What was taken once is never too large.
    pub const UNLIMITED: Self = Self {
        max_events: usize::MAX,
        max_event_bytes: usize::MAX,
    };
}

/// What a body holds.
#[derive(Debug)]
pub enum ParsedBody<'a> {
    /// One event, sent as it is.
    Single(Result<Event<'a>, RejectedItem<'a>>),
    /// An array: at least one event, in the order in which they were sent.
    Array(Vec<Result<Event<'a>, RejectedItem<'a>>>),
}

/// Takes a body apart: one event, or an array of them, each judged by itself.
///
/// `expected` is the type that the request's URL names: another one is a mistake of the event.
///
/// Whatever is JSON, but neither an object nor an array, is one event of the wrong JSON type.
///
/// # Errors
/// The body is not JSON, or breaks a rule for the whole body ([`UnreadableCode`]). A syntax error anywhere in an array
/// takes all of it down: nothing says where the next event would begin.
pub fn parse<'a>(
    body: &'a [u8],
    expected: Option<EventType>,
    limits: ParseLimits,
) -> Result<ParsedBody<'a>, UnreadableBody> {
    let body = text::decode_body(body)?;
    if text::trim(body).starts_with('[') {
        parse_array(body, expected, limits).map(ParsedBody::Array)
    } else {
        parse_single(body, expected, limits).map(ParsedBody::Single)
    }
}

/// A body that is one event. Outside: what is wrong with the body; inside: with the event.
fn parse_single<'a>(
    body: &'a str,
    expected: Option<EventType>,
    limits: ParseLimits,
) -> Result<Result<Event<'a>, RejectedItem<'a>>, UnreadableBody> {
    text::check_depth(body)?;
    let event = text::trim(body);
    parse_item(event, expected, limits).map_err(|error| not_json_error(body, &error))
}

/// A body that is an array.
fn parse_array<'a>(
    body: &'a str,
    expected: Option<EventType>,
    limits: ParseLimits,
) -> Result<Vec<Result<Event<'a>, RejectedItem<'a>>>, UnreadableBody> {
    let mut json = serde_json::Deserializer::from_str(body);
    let read = json
        .deserialize_seq(ItemsVisitor {
            max: limits.max_events,
        })
        .and_then(|items| json.end().map(|()| items));
    let (items, count) = match read {
        Ok(read) => read,
        Err(error) => {
            // Of two reasons the more telling one.
            text::check_depth(body)?;
            return Err(not_json_error(body, &error));
        }
    };
    // An array of many events has many brackets, so the cheap check is made on each.
    if count > items.len()
        || items
            .iter()
            .any(|item| text::can_exceed_depth(item.get(), text::MAX_DEPTH - 1))
    {
        text::check_depth(body)?;
    }
    if count == 0 {
        return Err(UnreadableBody {
            code: UnreadableBodyCode::EmptyArray,
            detail: "The array is empty: send at least one event.".to_owned(),
        });
    }
    if count > limits.max_events {
        return Err(UnreadableBody {
            code: UnreadableBodyCode::TooManyEvents,
            detail: format!(
                "The array has {count} events, and at most {} are taken at once: send it in parts.",
                limits.max_events
            ),
        });
    }
    items
        .into_iter()
        .map(|item| {
            parse_item(item.get(), expected, limits).map_err(|error| not_json_error(body, &error))
        })
        .collect()
}

/// One event's JSON, without white space around it. An array's item is known to be JSON.
fn parse_item<'a>(
    event: &'a str,
    expected: Option<EventType>,
    limits: ParseLimits,
) -> Result<Result<Event<'a>, RejectedItem<'a>>, serde_json::Error> {
    if event.len() > limits.max_event_bytes {
        let claimed = diagnosis::read_claimed_type(event)?;
        return Ok(Err(RejectedItem::TooLarge {
            claimed_type: claimed,
            bytes: event.len(),
        }));
    }
    match event_reader::read_event(event, expected) {
        Some(event) => Ok(Ok(event)),
        None => diagnosis::diagnose(event, expected).map(Err),
    }
}

/// The items of an array: the first `max` of them and how many there are.
struct ItemsVisitor {
    max: usize,
}

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = (Vec<&'de RawValue>, usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < self.max {
            match list.next_element::<&RawValue>()? {
                Some(item) => items.push(item),
                None => {
                    let count = items.len();
                    return Ok((items, count));
                }
            }
        }
        let mut count = items.len();
        while list.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok((items, count))
    }
}

#[cold]
fn not_json_error(body: &str, error: &serde_json::Error) -> UnreadableBody {
    // Said anew of the whole body, so that the place is the body's and not the event's.
    let again = serde_json::from_str::<IgnoredAny>(body).err();
    let error = again.as_ref().unwrap_or(error);
    let detail = match error.classify() {
        Category::Eof => format!("The body ends before its JSON does ({error}): it was cut off."),
        _ => format!(
            "The body is not JSON: {error}. Send one event as a JSON object, or a JSON array of events."
        ),
    };
    UnreadableBody {
        code: UnreadableBodyCode::NotJson,
        detail,
    }
}
