//! Parser of a request's body: one event, or an array of events.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::{
    Event, EventType, RejectedItem, UnreadableBody, UnreadableBodyCode, diagnosis, event_reader,
    text,
};

/// Limits on the events in a body. The HTTP layer limits the size of the body as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseLimits {
    /// Maximum number of events in an array.
    pub max_events: usize,
    /// Maximum size of an event in bytes, without surrounding white space.
    pub max_event_bytes: usize,
}

impl ParseLimits {
    /// No limits, for events that were accepted before.
    pub const UNLIMITED: Self = Self {
        max_events: usize::MAX,
        max_event_bytes: usize::MAX,
    };
}

/// One item of a body: an event, or the reason why it is not one.
pub type ItemResult<'a> = Result<Event<'a>, RejectedItem<'a>>;

/// Items of a body.
#[derive(Debug)]
pub enum ParsedBody<'a> {
    /// One event that is not in an array.
    Single(ItemResult<'a>),
    /// Array of at least one event, in the order received.
    Array(Vec<ItemResult<'a>>),
}

/// Parses a body: one event, or an array of events that are each checked on their own.
///
/// `expected` is the type in the request's URL; an event of another type is rejected. JSON that is
/// neither an object nor an array counts as one event of the wrong JSON type.
///
/// # Errors
/// The body is not JSON, or breaks a rule for the whole body ([`UnreadableBodyCode`]). A syntax
/// error anywhere in an array fails the whole array, because the start of the next event is
/// unknown.
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

fn parse_single<'a>(
    body: &'a str,
    expected: Option<EventType>,
    limits: ParseLimits,
) -> Result<ItemResult<'a>, UnreadableBody> {
    text::check_depth(body)?;
    let item = text::trim(body);
    parse_item(item, expected, limits).map_err(|error| not_json_error(body, &error))
}

fn parse_array<'a>(
    body: &'a str,
    expected: Option<EventType>,
    limits: ParseLimits,
) -> Result<Vec<ItemResult<'a>>, UnreadableBody> {
    let mut json = serde_json::Deserializer::from_str(body);
    let read = json
        .deserialize_seq(ItemsVisitor {
            max: limits.max_events,
        })
        .and_then(|items| json.end().map(|()| items));
    let (items, count) = match read {
        Ok(read) => read,
        Err(error) => {
            // If the body is also too deep, that is the more useful error.
            text::check_depth(body)?;
            return Err(not_json_error(body, &error));
        }
    };
    // An array of many events has many brackets, so the cheap check is made per event.
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
                "The array has {count} events, but the limit is {}: send several smaller arrays.",
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

/// Parses the JSON of one item without surrounding white space. An array's items are known to be
/// JSON, a single one is not.
fn parse_item<'a>(
    item: &'a str,
    expected: Option<EventType>,
    limits: ParseLimits,
) -> Result<ItemResult<'a>, serde_json::Error> {
    if item.len() > limits.max_event_bytes {
        return Ok(Err(RejectedItem::TooLarge {
            claimed_type: diagnosis::read_claimed_type(item)?,
            bytes: item.len(),
        }));
    }
    match event_reader::read_event(item, expected) {
        Some(event) => Ok(Ok(event)),
        None => diagnosis::diagnose(item, expected).map(Err),
    }
}

/// Reads the first `max` items of an array, and counts all.
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
    // Parse the whole body again, so that the error's position is in the body, not in the event.
    let body_error = serde_json::from_str::<IgnoredAny>(body).err();
    let error = body_error.as_ref().unwrap_or(error);
    let detail = match error.classify() {
        Category::Eof => {
            format!("The body ends before its JSON is complete ({error}): it was cut off.")
        }
        _ => format!(
            "The body is not JSON: {error}. Send one event as a JSON object, or a JSON array of events."
        ),
    };
    UnreadableBody {
        code: UnreadableBodyCode::NotJson,
        detail,
    }
}
