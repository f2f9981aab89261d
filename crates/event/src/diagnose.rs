//! The diagnose pass: finds every mistake in an event that the typed pass has refused.
//!
//! It goes down level by level over raw values, so one mistake hides no other. What it keeps is bounded: the documented
//! fields of each level (slices of the body) and [`MAX_MISTAKES`] mistakes.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::rules::{
    self, Data, IdFault, Key, Names, NumberFault, Space, VersionFault, envelope, metadata,
};
use super::{Code, EventType, MAX_MISTAKES, Mistake, Refused};

/// The most characters of an event that a detail quotes.
const MAX_QUOTE: usize = 64;

/// Every mistake in `event`, which has no white space around it.
///
/// # Errors
/// It is not JSON at all.
pub(crate) fn diagnose(
    event: &str,
    expected: Option<EventType>,
) -> Result<Refused<'_>, serde_json::Error> {
    let mut mistakes = Mistakes::default();
    let mut claimed = None;
    if Kind::of(event) == Kind::Object {
        let fields = Object::read(event, &rules::ENVELOPE)?;
        claimed = event_type(fields.values[envelope::TYPE]);
        mistakes.envelope(&fields, claimed, expected);
    } else {
        serde_json::from_str::<IgnoredAny>(event)?;
        mistakes.wrong_type("", "An event", "a JSON object", event);
    }
    if mistakes.0.is_empty() {
        mistakes.add(
            "",
            Code::Invalid,
            format_args!("The event is refused, but its mistake was not found: please report this as a defect."),
        );
    }
    Ok(Refused::Invalid {
        claimed,
        errors: mistakes.0,
        raw: event,
    })
}

/// The type that `event` claims to have, and nothing else of it.
///
/// # Errors
/// It is not JSON at all.
pub(crate) fn claimed(event: &str) -> Result<Option<EventType>, serde_json::Error> {
    if Kind::of(event) == Kind::Object {
        Ok(event_type(Object::read(event, &TYPE_ONLY)?.values[0]))
    } else {
        serde_json::from_str::<IgnoredAny>(event).map(|_| None)
    }
}

/// The field that [`claimed`] is about.
static TYPE_ONLY: Names<1> = Names::new(["type"]);

/// The type by its field's value.
fn event_type(value: Option<&str>) -> Option<EventType> {
    EventType::parse(&string(value?)?)
}

/// The kinds of JSON values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Object,
    Array,
    String,
    Number,
    Boolean,
    Null,
}

impl Kind {
    /// By the first byte, which is enough for valid JSON.
    fn of(json: &str) -> Kind {
        match json.as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Boolean,
            Some(b'n') => Kind::Null,
            _ => Kind::Number,
        }
    }
}

/// A JSON string's text, or `None` for any other JSON value.
fn string(json: &str) -> Option<Cow<'_, str>> {
    if Kind::of(json) != Kind::String {
        return None;
    }
    // Strings without escapes, and so nearly all, are what stands between the quotes.
    match json.get(1..json.len() - 1) {
        Some(text) if !text.contains('\\') => Some(Cow::Borrowed(text)),
        _ => serde_json::from_str(json).ok().map(Cow::Owned),
    }
}

/// An object's documented fields, as JSON.
struct Object<'a, const N: usize> {
    /// The first value of each.
    values: [Option<&'a str>; N],
    /// Whether there is another one.
    again: [bool; N],
}

impl<'a, const N: usize> Object<'a, N> {
    fn read(json: &'a str, names: &Names<N>) -> Result<Self, serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_str(json);
        let object = reader.deserialize_map(Fields {
            names,
            json: PhantomData,
        })?;
        reader.end()?;
        Ok(object)
    }
}

struct Fields<'n, 'a, const N: usize> {
    names: &'n Names<N>,
    json: PhantomData<&'a str>,
}

impl<'de: 'a, 'a, const N: usize> Visitor<'de> for Fields<'_, 'a, N> {
    type Value = Object<'a, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = Object {
            values: [None; N],
            again: [false; N],
        };
        while let Some(place) = map.next_key_seed(Key(self.names))? {
            match place {
                Some(place) if object.values[place].is_none() => {
                    object.values[place] = Some(map.next_value::<&RawValue>()?.get());
                }
                other => {
                    map.next_value::<IgnoredAny>()?;
                    if let Some(place) = other {
                        object.again[place] = true;
                    }
                }
            }
        }
        Ok(object)
    }
}

/// An array's items, handed one by one to a function until it returns false. How many there are.
fn each_item<'a>(json: &'a str, item: impl FnMut(usize, &'a str) -> bool) -> usize {
    struct Each<'a, F>(F, PhantomData<&'a str>);
    impl<'de: 'a, 'a, F: FnMut(usize, &'a str) -> bool> Visitor<'de> for Each<'a, F> {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<usize, A::Error> {
            let mut count = 0;
            while let Some(item) = list.next_element::<&RawValue>()? {
                count += 1;
                if !(self.0)(count - 1, item.get()) {
                    break;
                }
            }
            while list.next_element::<IgnoredAny>()?.is_some() {
                count += 1;
            }
            Ok(count)
        }
    }
    // A part of JSON that was read before cannot fail.
    serde_json::Deserializer::from_str(json)
        .deserialize_seq(Each(item, PhantomData))
        .unwrap_or(0)
}

/// The mistakes found so far, at most [`MAX_MISTAKES`].
#[derive(Default)]
struct Mistakes(Vec<Mistake>);

impl Mistakes {
    fn add(&mut self, pointer: &str, code: Code, detail: fmt::Arguments<'_>) {
        if !self.is_full() {
            self.0.push(Mistake {
                pointer: pointer.to_owned(),
                code,
                detail: detail.to_string(),
            });
        }
    }

    fn is_full(&self) -> bool {
        self.0.len() >= MAX_MISTAKES
    }

    fn missing(&mut self, pointer: &str, what: &str, rule: &str) {
        self.add(
            pointer,
            Code::Missing,
            format_args!("{what} is missing; it must be {rule}."),
        );
    }

    fn wrong_type(&mut self, pointer: &str, what: &str, rule: &str, json: &str) {
        self.add(
            pointer,
            Code::WrongType,
            format_args!("{what} must be {rule}, but it is {}.", Value(json)),
        );
    }

    /// What stands twice, if it does.
    fn duplicate(&mut self, pointer: &str, name: &str, again: bool) {
        if again {
            self.add(
                pointer,
                Code::DuplicateKey,
                format_args!("{name} stands more than once in one object; readers may differ on which one counts."),
            );
        }
    }

    fn envelope(
        &mut self,
        fields: &Object<'_, 6>,
        claimed: Option<EventType>,
        expected: Option<EventType>,
    ) {
        let field = |place: usize| (fields.values[place], fields.again[place]);

        let (id, again) = field(envelope::ID);
        self.duplicate("/id", "id", again);
        match id {
            None => self.missing("/id", "id", &id_rule()),
            Some(id) => self.id("/id", "id", id),
        }

        let (event_type, again) = field(envelope::TYPE);
        self.duplicate("/type", "type", again);
        match event_type {
            None => self.missing("/type", "type", &type_rule()),
            Some(json) => self.event_type(json, claimed, expected),
        }

        let (timestamp, again) = field(envelope::TIMESTAMP);
        self.duplicate("/timestamp", "timestamp", again);
        let rule = format!(
            "the milliseconds since 1970 UTC as a whole number from 0 to {}",
            rules::MAX_TIMESTAMP_MS
        );
        self.number(
            "/timestamp",
            "timestamp",
            timestamp,
            rules::MAX_TIMESTAMP_MS,
            &rule,
        );

        let (version, again) = field(envelope::VERSION);
        self.duplicate("/version", "version", again);
        self.version(version);

        let (metadata, again) = field(envelope::METADATA);
        self.duplicate("/metadata", "metadata", again);
        self.metadata(metadata, claimed);

        let (data, again) = field(envelope::DATA);
        self.duplicate("/data", "data", again);
        if let Some(claimed) = claimed {
            self.data(data, claimed);
        }
    }

    fn event_type(&mut self, json: &str, claimed: Option<EventType>, expected: Option<EventType>) {
        match (claimed, expected) {
            (None, _) if Kind::of(json) == Kind::String => self.add(
                "/type",
                Code::UnknownType,
                format_args!("{} is no known type; type must be {}.", Value(json), type_rule()),
            ),
            (None, _) => self.wrong_type("/type", "type", &type_rule(), json),
            (Some(claimed), Some(expected)) if claimed != expected => self.add(
                "/type",
                Code::TypeMismatch,
                format_args!("The event's type is {claimed}, but the URL it was sent to takes {expected} only."),
            ),
            (Some(_), _) => {}
        }
    }

    fn id(&mut self, pointer: &str, what: &str, json: &str) {
        let Some(id) = string(json) else {
            return self.wrong_type(pointer, what, &id_rule(), json);
        };
        match rules::id(&id) {
            Ok(()) => {}
            Err(IdFault::Empty) => {
                self.add(
                    pointer,
                    Code::Empty,
                    format_args!("{what} is empty; it must be {}.", id_rule()),
                );
            }
            Err(IdFault::TooLong) => self.add(
                pointer,
                Code::TooLong,
                format_args!(
                    "{what} is {} bytes long; it must be {}.",
                    id.len(),
                    id_rule()
                ),
            ),
            Err(IdFault::ControlCharacter) => self.add(
                pointer,
                Code::ControlCharacter,
                format_args!(
                    "{what} has a control character in it: {}; it must be {}.",
                    Value(json),
                    id_rule()
                ),
            ),
        }
    }

    fn number(&mut self, pointer: &str, what: &str, json: Option<&str>, max: i64, rule: &str) {
        let Some(json) = json else {
            return self.missing(pointer, what, rule);
        };
        let code = match rules::integral(json, max) {
            Ok(_) => return,
            Err(NumberFault::NotANumber) => return self.wrong_type(pointer, what, rule, json),
            Err(NumberFault::NotIntegral) => Code::NotIntegral,
            Err(NumberFault::OutOfRange) => Code::OutOfRange,
        };
        self.add(
            pointer,
            code,
            format_args!("{what} must be {rule}, but it is {}.", Value(json)),
        );
    }

    fn version(&mut self, json: Option<&str>) {
        const RULE: &str = "v1, v1.x or v1.x.y, where x and y are digits";
        let Some(json) = json else {
            return self.missing("/version", "version", RULE);
        };
        let Some(version) = string(json) else {
            return self.wrong_type("/version", "version", RULE, json);
        };
        match rules::version(&version) {
            Ok(()) => {}
            Err(VersionFault::OtherMajor) => self.add(
                "/version",
                Code::UnsupportedVersion,
                format_args!(
                    "{} is another major version than the supported one; version must be {RULE}.",
                    Value(json)
                ),
            ),
            Err(VersionFault::Invalid) => self.add(
                "/version",
                Code::InvalidVersion,
                format_args!("{} is no version; it must be {RULE}.", Value(json)),
            ),
        }
    }

    fn metadata(&mut self, json: Option<&str>, claimed: Option<EventType>) {
        const RULE: &str = "an object that names the organisation, the place and the sensor";
        let Some(json) = json else {
            return self.missing("/metadata", "metadata", RULE);
        };
        let Some(fields) = object(json, &rules::METADATA) else {
            return self.wrong_type("/metadata", "metadata", RULE, json);
        };
        let is_set =
            |place: usize| fields.values[place].is_some_and(|json| Kind::of(json) != Kind::Null);
        let space = claimed.map(|claimed| match rules::space(claimed) {
            Space::In(place) => (claimed, place),
            Space::RoomElseFloor if is_set(metadata::ROOM_ID) => (claimed, metadata::ROOM_ID),
            Space::RoomElseFloor => (claimed, metadata::FLOOR_ID),
        });
        for (place, name) in rules::METADATA.all().iter().enumerate() {
            let pointer = format!("/metadata/{name}");
            self.duplicate(&pointer, name, fields.again[place]);
            match (fields.values[place], space) {
                (Some(json), Some((_, space))) if space == place => self.id(&pointer, name, json),
                (None, Some((claimed, space))) if space == place => {
                    let instead = match rules::space(claimed) {
                        Space::RoomElseFloor => ", and so is room_id",
                        Space::In(_) => "",
                    };
                    self.add(
                        &pointer,
                        Code::Missing,
                        format_args!(
                            "{name} is missing{instead}; {claimed} needs it for its space: {}.",
                            id_rule()
                        ),
                    );
                }
                (Some(json), _) if !matches!(Kind::of(json), Kind::String | Kind::Null) => {
                    self.wrong_type(&pointer, name, "a string or null", json);
                }
                _ => {}
            }
        }
    }

    fn data(&mut self, json: Option<&str>, claimed: EventType) {
        let what = format!("data of {claimed}");
        match rules::data(claimed) {
            Data::Count => self.count("/data", &what, json),
            Data::Nothing => {
                if let Some(json) =
                    json.filter(|json| !matches!(Kind::of(json), Kind::Null | Kind::Object))
                {
                    self.wrong_type("/data", &what, "absent, null or an object", json);
                }
            }
            Data::Traffic => {
                self.both(
                    json,
                    &what,
                    &rules::TRAFFIC,
                    "the counts in and out",
                    |mistakes, pointer, name, json| {
                        mistakes.count(pointer, name, json);
                    },
                );
            }
            Data::Detections => {
                let lists = "the lists of points local and world";
                self.both(json, &what, &rules::DETECTIONS, lists, Mistakes::points);
            }
        }
    }

    fn count(&mut self, pointer: &str, what: &str, json: Option<&str>) {
        let rule = format!("a whole number from 0 to {} (2^53 - 1)", rules::MAX_COUNT);
        self.number(pointer, what, json, rules::MAX_COUNT, &rule);
    }

    /// An object that needs both of two fields.
    fn both(
        &mut self,
        json: Option<&str>,
        what: &str,
        names: &Names<2>,
        contents: &str,
        check: impl Fn(&mut Self, &str, &str, Option<&str>),
    ) {
        let rule = format!("an object with {contents}");
        let Some(json) = json else {
            return self.missing("/data", what, &rule);
        };
        let Some(fields) = object(json, names) else {
            return self.wrong_type("/data", what, &rule, json);
        };
        for (place, name) in names.all().iter().enumerate() {
            let pointer = format!("/data/{name}");
            self.duplicate(&pointer, name, fields.again[place]);
            check(self, &pointer, name, fields.values[place]);
        }
    }

    fn points(&mut self, pointer: &str, name: &str, json: Option<&str>) {
        const RULE: &str = "an array of points, each an array of two numbers";
        let Some(json) = json else {
            return self.missing(pointer, name, RULE);
        };
        if Kind::of(json) != Kind::Array {
            return self.wrong_type(pointer, name, RULE, json);
        }
        each_item(json, |index, point| {
            self.point(pointer, index, point);
            !self.is_full()
        });
    }

    fn point(&mut self, list: &str, index: usize, json: &str) {
        if Kind::of(json) != Kind::Array {
            return self.wrong_type(
                &format!("{list}/{index}"),
                "A point",
                "an array of two numbers",
                json,
            );
        }
        let count = each_item(json, |place, number| {
            if place < 2 {
                self.coordinate(list, index, place, number);
            }
            place < 1
        });
        if count != 2 {
            self.add(
                &format!("{list}/{index}"),
                Code::NotAPair,
                format_args!(
                    "A point must be an array of two numbers, but this one has {count} items."
                ),
            );
        }
    }

    fn coordinate(&mut self, list: &str, index: usize, place: usize, json: &str) {
        if Kind::of(json) != Kind::Number {
            let pointer = format!("{list}/{index}/{place}");
            self.wrong_type(&pointer, "A point's coordinate", "a number", json);
        } else if serde_json::from_str::<f64>(json).is_err() {
            // The typed pass reads coordinates with the same function.
            self.add(
                &format!("{list}/{index}/{place}"),
                Code::OutOfRange,
                format_args!(
                    "A point's coordinate must fit a 64-bit floating-point number, but it is {}.",
                    Value(json)
                ),
            );
        }
    }
}

/// An object that is a part of JSON that was read before, or `None` for any other JSON value.
fn object<'a, const N: usize>(json: &'a str, names: &Names<N>) -> Option<Object<'a, N>> {
    if Kind::of(json) != Kind::Object {
        return None;
    }
    Object::read(json, names).ok()
}

fn id_rule() -> String {
    format!(
        "a string of 1 to {} bytes without control characters",
        rules::MAX_ID_BYTES
    )
}

fn type_rule() -> String {
    format!("one of {}", EventType::ALL.map(EventType::name).join(", "))
}

/// A JSON value, named in a sentence. Of strings and numbers the beginning is quoted, with everything escaped that could
/// be taken for more than a character of it (line ends, terminal codes, reversed writing).
struct Value<'a>(&'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = self.0;
        match Kind::of(json) {
            Kind::Object => f.write_str("an object"),
            Kind::Array => f.write_str("an array"),
            Kind::Null | Kind::Boolean => f.write_str(json),
            Kind::Number => write!(f, "the number {}", Quote(json)),
            Kind::String => {
                let text = string(json).unwrap_or(Cow::Borrowed(json));
                write!(f, "the string \"{}\"", Quote(&text))
            }
        }
    }
}

/// At most [`MAX_QUOTE`] characters, after escaping.
struct Quote<'a>(&'a str);

impl fmt::Display for Quote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut room = MAX_QUOTE;
        for character in self.0.chars() {
            let escaped = character.escape_debug();
            let Some(left) = room.checked_sub(escaped.len()) else {
                return f.write_str("…");
            };
            room = left;
            write!(f, "{escaped}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_short_and_on_one_line() {
        let quote = |text: &str| Quote(text).to_string();
        assert_eq!(
            quote("a\n\u{1b}[31m\"\u{202e}\u{85}é"),
            r#"a\n\u{1b}[31m\"\u{202e}\u{85}é"#
        );
        assert_eq!(quote(&"x".repeat(64)), "x".repeat(64));
        assert_eq!(quote(&"x".repeat(65)), "x".repeat(64) + "…");
        assert_eq!(quote(&"\0".repeat(100)), "\\0".repeat(32) + "…");
    }

    #[test]
    fn strings_are_read_with_their_escapes() {
        assert_eq!(string(r#""a""#).as_deref(), Some("a"));
        assert_eq!(string(r#""""#).as_deref(), Some(""));
        assert_eq!(string(r#""\u0061\n\"""#).as_deref(), Some("a\n\""));
        assert_eq!(string("1"), None);
    }
}
