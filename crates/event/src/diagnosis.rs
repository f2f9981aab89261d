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
    self, DataKind, FieldNameSeed, FieldNames, IdFault, NumberFault, SpaceIdField, VersionFault,
    envelope, metadata,
};
use super::{EventType, FieldError, FieldErrorCode, MAX_FIELD_ERRORS, RejectedItem};

/// The most characters of an event that a detail quotes.
const MAX_EXCERPT_CHARS: usize = 64;

/// Every mistake in `event`, which has no white space around it.
///
/// # Errors
/// It is not JSON at all.
pub(crate) fn diagnose(
    event: &str,
    expected: Option<EventType>,
) -> Result<RejectedItem<'_>, serde_json::Error> {
    let mut mistakes = FieldErrors::default();
    let mut claimed = None;
    if JsonKind::from_json(event) == JsonKind::Object {
        let fields = ObjectFields::read(event, &rules::ENVELOPE)?;
        claimed = parse_event_type(fields.values[envelope::TYPE]);
        mistakes.check_envelope(&fields, claimed, expected);
    } else {
        serde_json::from_str::<IgnoredAny>(event)?;
        mistakes.add_wrong_type("", "An event", "a JSON object", event);
    }
    if mistakes.0.is_empty() {
        mistakes.add(
            "",
            FieldErrorCode::Invalid,
            format_args!("The event is refused, but its mistake was not found: please report this as a defect."),
        );
    }
    Ok(RejectedItem::Invalid {
        claimed_type: claimed,
        errors: mistakes.0,
        raw: event,
    })
}

/// The type that `event` claims to have, and nothing else of it.
///
/// # Errors
/// It is not JSON at all.
pub(crate) fn read_claimed_type(event: &str) -> Result<Option<EventType>, serde_json::Error> {
    if JsonKind::from_json(event) == JsonKind::Object {
        Ok(parse_event_type(
            ObjectFields::read(event, &TYPE_ONLY)?.values[0],
        ))
    } else {
        serde_json::from_str::<IgnoredAny>(event).map(|_| None)
    }
}

/// The field that [`claimed`] is about.
static TYPE_ONLY: FieldNames<1> = FieldNames::new(["type"]);

/// The type by its field's value.
fn parse_event_type(value: Option<&str>) -> Option<EventType> {
    EventType::parse(&read_string(value?)?)
}

/// The kinds of JSON values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum JsonKind {
    Object,
    Array,
    String,
    Number,
    Boolean,
    Null,
}

impl JsonKind {
    /// By the first byte, which is enough for valid JSON.
    fn from_json(json: &str) -> JsonKind {
        match json.as_bytes().first() {
            Some(b'{') => JsonKind::Object,
            Some(b'[') => JsonKind::Array,
            Some(b'"') => JsonKind::String,
            Some(b't' | b'f') => JsonKind::Boolean,
            Some(b'n') => JsonKind::Null,
            _ => JsonKind::Number,
        }
    }
}

/// A JSON string's text, or `None` for any other JSON value.
fn read_string(json: &str) -> Option<Cow<'_, str>> {
    if JsonKind::from_json(json) != JsonKind::String {
        return None;
    }
    // Strings without escapes, and so nearly all, are what stands between the quotes.
    match json.get(1..json.len() - 1) {
        Some(text) if !text.contains('\\') => Some(Cow::Borrowed(text)),
        _ => serde_json::from_str(json).ok().map(Cow::Owned),
    }
}

/// An object's documented fields, as JSON.
struct ObjectFields<'a, const N: usize> {
    /// The first value of each.
    values: [Option<&'a str>; N],
    /// Whether there is another one.
    repeated: [bool; N],
}

impl<'a, const N: usize> ObjectFields<'a, N> {
    fn read(json: &'a str, names: &FieldNames<N>) -> Result<Self, serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_str(json);
        let object = reader.deserialize_map(ObjectFieldsVisitor {
            names,
            json: PhantomData,
        })?;
        reader.end()?;
        Ok(object)
    }
}

struct ObjectFieldsVisitor<'n, 'a, const N: usize> {
    names: &'n FieldNames<N>,
    json: PhantomData<&'a str>,
}

impl<'de: 'a, 'a, const N: usize> Visitor<'de> for ObjectFieldsVisitor<'_, 'a, N> {
    type Value = ObjectFields<'a, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = ObjectFields {
            values: [None; N],
            repeated: [false; N],
        };
        while let Some(place) = map.next_key_seed(FieldNameSeed(self.names))? {
            match place {
                Some(place) if object.values[place].is_none() => {
                    object.values[place] = Some(map.next_value::<&RawValue>()?.get());
                }
                other => {
                    map.next_value::<IgnoredAny>()?;
                    if let Some(place) = other {
                        object.repeated[place] = true;
                    }
                }
            }
        }
        Ok(object)
    }
}

/// An array's items, handed one by one to a function until it returns false. How many there are.
fn for_each_item<'a>(json: &'a str, item: impl FnMut(usize, &'a str) -> bool) -> usize {
    struct ArrayVisitor<'a, F>(F, PhantomData<&'a str>);
    impl<'de: 'a, 'a, F: FnMut(usize, &'a str) -> bool> Visitor<'de> for ArrayVisitor<'a, F> {
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
        .deserialize_seq(ArrayVisitor(item, PhantomData))
        .unwrap_or(0)
}

/// The mistakes found so far, at most [`MAX_MISTAKES`].
#[derive(Default)]
struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    fn add(&mut self, pointer: &str, code: FieldErrorCode, detail: fmt::Arguments<'_>) {
        if !self.is_full() {
            self.0.push(FieldError {
                pointer: pointer.to_owned(),
                code,
                detail: detail.to_string(),
            });
        }
    }

    fn is_full(&self) -> bool {
        self.0.len() >= MAX_FIELD_ERRORS
    }

    fn add_missing(&mut self, pointer: &str, what: &str, rule: &str) {
        self.add(
            pointer,
            FieldErrorCode::Missing,
            format_args!("{what} is missing; it must be {rule}."),
        );
    }

    fn add_wrong_type(&mut self, pointer: &str, what: &str, rule: &str, json: &str) {
        self.add(
            pointer,
            FieldErrorCode::WrongType,
            format_args!(
                "{what} must be {rule}, but it is {}.",
                JsonDescription(json)
            ),
        );
    }

    /// What stands twice, if it does.
    fn add_duplicate(&mut self, pointer: &str, name: &str, again: bool) {
        if again {
            self.add(
                pointer,
                FieldErrorCode::DuplicateKey,
                format_args!("{name} stands more than once in one object; readers may differ on which one counts."),
            );
        }
    }

    fn check_envelope(
        &mut self,
        fields: &ObjectFields<'_, 6>,
        claimed: Option<EventType>,
        expected: Option<EventType>,
    ) {
        let field = |place: usize| (fields.values[place], fields.repeated[place]);

        let (id, again) = field(envelope::ID);
        self.add_duplicate("/id", "id", again);
        match id {
            None => self.add_missing("/id", "id", &describe_id_rule()),
            Some(id) => self.check_id("/id", "id", id),
        }

        let (event_type, again) = field(envelope::TYPE);
        self.add_duplicate("/type", "type", again);
        match event_type {
            None => self.add_missing("/type", "type", &describe_type_rule()),
            Some(json) => self.check_event_type(json, claimed, expected),
        }

        let (timestamp, again) = field(envelope::TIMESTAMP);
        self.add_duplicate("/timestamp", "timestamp", again);
        let rule = format!(
            "the milliseconds since 1970 UTC as a whole number from 0 to {}",
            rules::MAX_TIMESTAMP_MS
        );
        self.check_number(
            "/timestamp",
            "timestamp",
            timestamp,
            rules::MAX_TIMESTAMP_MS,
            &rule,
        );

        let (version, again) = field(envelope::VERSION);
        self.add_duplicate("/version", "version", again);
        self.check_version(version);

        let (metadata, again) = field(envelope::METADATA);
        self.add_duplicate("/metadata", "metadata", again);
        self.check_metadata(metadata, claimed);

        let (data, again) = field(envelope::DATA);
        self.add_duplicate("/data", "data", again);
        if let Some(claimed) = claimed {
            self.check_data(data, claimed);
        }
    }

    fn check_event_type(
        &mut self,
        json: &str,
        claimed: Option<EventType>,
        expected: Option<EventType>,
    ) {
        match (claimed, expected) {
            (None, _) if JsonKind::from_json(json) == JsonKind::String => self.add(
                "/type",
                FieldErrorCode::UnknownType,
                format_args!("{} is no known type; type must be {}.", JsonDescription(json), describe_type_rule()),
            ),
            (None, _) => self.add_wrong_type("/type", "type", &describe_type_rule(), json),
            (Some(claimed), Some(expected)) if claimed != expected => self.add(
                "/type",
                FieldErrorCode::TypeMismatch,
                format_args!("The event's type is {claimed}, but the URL it was sent to takes {expected} only."),
            ),
            (Some(_), _) => {}
        }
    }

    fn check_id(&mut self, pointer: &str, what: &str, json: &str) {
        let Some(id) = read_string(json) else {
            return self.add_wrong_type(pointer, what, &describe_id_rule(), json);
        };
        match rules::check_id(&id) {
            Ok(()) => {}
            Err(IdFault::Empty) => {
                self.add(
                    pointer,
                    FieldErrorCode::Empty,
                    format_args!("{what} is empty; it must be {}.", describe_id_rule()),
                );
            }
            Err(IdFault::TooLong) => self.add(
                pointer,
                FieldErrorCode::TooLong,
                format_args!(
                    "{what} is {} bytes long; it must be {}.",
                    id.len(),
                    describe_id_rule()
                ),
            ),
            Err(IdFault::ControlCharacter) => self.add(
                pointer,
                FieldErrorCode::ControlCharacter,
                format_args!(
                    "{what} has a control character in it: {}; it must be {}.",
                    JsonDescription(json),
                    describe_id_rule()
                ),
            ),
        }
    }

    fn check_number(
        &mut self,
        pointer: &str,
        what: &str,
        json: Option<&str>,
        max: i64,
        rule: &str,
    ) {
        let Some(json) = json else {
            return self.add_missing(pointer, what, rule);
        };
        let code = match rules::parse_integer(json, max) {
            Ok(_) => return,
            Err(NumberFault::NotANumber) => return self.add_wrong_type(pointer, what, rule, json),
            Err(NumberFault::NotIntegral) => FieldErrorCode::NotIntegral,
            Err(NumberFault::OutOfRange) => FieldErrorCode::OutOfRange,
        };
        self.add(
            pointer,
            code,
            format_args!(
                "{what} must be {rule}, but it is {}.",
                JsonDescription(json)
            ),
        );
    }

    fn check_version(&mut self, json: Option<&str>) {
        const RULE: &str = "v1, v1.x or v1.x.y, where x and y are digits";
        let Some(json) = json else {
            return self.add_missing("/version", "version", RULE);
        };
        let Some(version) = read_string(json) else {
            return self.add_wrong_type("/version", "version", RULE, json);
        };
        match rules::check_version(&version) {
            Ok(()) => {}
            Err(VersionFault::OtherMajor) => self.add(
                "/version",
                FieldErrorCode::UnsupportedVersion,
                format_args!(
                    "{} is another major version than the supported one; version must be {RULE}.",
                    JsonDescription(json)
                ),
            ),
            Err(VersionFault::Invalid) => self.add(
                "/version",
                FieldErrorCode::InvalidVersion,
                format_args!(
                    "{} is no version; it must be {RULE}.",
                    JsonDescription(json)
                ),
            ),
        }
    }

    fn check_metadata(&mut self, json: Option<&str>, claimed: Option<EventType>) {
        const RULE: &str = "an object that names the organisation, the place and the sensor";
        let Some(json) = json else {
            return self.add_missing("/metadata", "metadata", RULE);
        };
        let Some(fields) = read_object(json, &rules::METADATA) else {
            return self.add_wrong_type("/metadata", "metadata", RULE, json);
        };
        let is_set = |place: usize| {
            fields.values[place].is_some_and(|json| JsonKind::from_json(json) != JsonKind::Null)
        };
        let space = claimed.map(|claimed| match rules::space_id_field(claimed) {
            SpaceIdField::Named(place) => (claimed, place),
            SpaceIdField::RoomOrFloor if is_set(metadata::ROOM_ID) => (claimed, metadata::ROOM_ID),
            SpaceIdField::RoomOrFloor => (claimed, metadata::FLOOR_ID),
        });
        for (place, name) in rules::METADATA.as_array().iter().enumerate() {
            let pointer = format!("/metadata/{name}");
            self.add_duplicate(&pointer, name, fields.repeated[place]);
            match (fields.values[place], space) {
                (Some(json), Some((_, space))) if space == place => {
                    self.check_id(&pointer, name, json)
                }
                (None, Some((claimed, space))) if space == place => {
                    let instead = match rules::space_id_field(claimed) {
                        SpaceIdField::RoomOrFloor => ", and so is room_id",
                        SpaceIdField::Named(_) => "",
                    };
                    self.add(
                        &pointer,
                        FieldErrorCode::Missing,
                        format_args!(
                            "{name} is missing{instead}; {claimed} needs it for its space: {}.",
                            describe_id_rule()
                        ),
                    );
                }
                (Some(json), _)
                    if !matches!(JsonKind::from_json(json), JsonKind::String | JsonKind::Null) =>
                {
                    self.add_wrong_type(&pointer, name, "a string or null", json);
                }
                _ => {}
            }
        }
    }

    fn check_data(&mut self, json: Option<&str>, claimed: EventType) {
        let what = format!("data of {claimed}");
        match rules::data_kind(claimed) {
            DataKind::Count => self.check_count("/data", &what, json),
            DataKind::OptionalObject => {
                if let Some(json) = json.filter(|json| {
                    !matches!(JsonKind::from_json(json), JsonKind::Null | JsonKind::Object)
                }) {
                    self.add_wrong_type("/data", &what, "absent, null or an object", json);
                }
            }
            DataKind::Traffic => {
                self.check_required_fields(
                    json,
                    &what,
                    &rules::TRAFFIC,
                    "the counts in and out",
                    |mistakes, pointer, name, json| {
                        mistakes.check_count(pointer, name, json);
                    },
                );
            }
            DataKind::Detections => {
                let lists = "the lists of points local and world";
                self.check_required_fields(
                    json,
                    &what,
                    &rules::DETECTIONS,
                    lists,
                    FieldErrors::check_points,
                );
            }
        }
    }

    fn check_count(&mut self, pointer: &str, what: &str, json: Option<&str>) {
        let rule = format!("a whole number from 0 to {} (2^53 - 1)", rules::MAX_COUNT);
        self.check_number(pointer, what, json, rules::MAX_COUNT, &rule);
    }

    /// An object that needs both of two fields.
    fn check_required_fields(
        &mut self,
        json: Option<&str>,
        what: &str,
        names: &FieldNames<2>,
        contents: &str,
        check: impl Fn(&mut Self, &str, &str, Option<&str>),
    ) {
        let rule = format!("an object with {contents}");
        let Some(json) = json else {
            return self.add_missing("/data", what, &rule);
        };
        let Some(fields) = read_object(json, names) else {
            return self.add_wrong_type("/data", what, &rule, json);
        };
        for (place, name) in names.as_array().iter().enumerate() {
            let pointer = format!("/data/{name}");
            self.add_duplicate(&pointer, name, fields.repeated[place]);
            check(self, &pointer, name, fields.values[place]);
        }
    }

    fn check_points(&mut self, pointer: &str, name: &str, json: Option<&str>) {
        const RULE: &str = "an array of points, each an array of two numbers";
        let Some(json) = json else {
            return self.add_missing(pointer, name, RULE);
        };
        if JsonKind::from_json(json) != JsonKind::Array {
            return self.add_wrong_type(pointer, name, RULE, json);
        }
        for_each_item(json, |index, point| {
            self.check_point(pointer, index, point);
            !self.is_full()
        });
    }

    fn check_point(&mut self, list: &str, index: usize, json: &str) {
        if JsonKind::from_json(json) != JsonKind::Array {
            return self.add_wrong_type(
                &format!("{list}/{index}"),
                "A point",
                "an array of two numbers",
                json,
            );
        }
        let count = for_each_item(json, |place, number| {
            if place < 2 {
                self.check_coordinate(list, index, place, number);
            }
            place < 1
        });
        if count != 2 {
            self.add(
                &format!("{list}/{index}"),
                FieldErrorCode::NotAPair,
                format_args!(
                    "A point must be an array of two numbers, but this one has {count} items."
                ),
            );
        }
    }

    fn check_coordinate(&mut self, list: &str, index: usize, place: usize, json: &str) {
        if JsonKind::from_json(json) != JsonKind::Number {
            let pointer = format!("{list}/{index}/{place}");
            self.add_wrong_type(&pointer, "A point's coordinate", "a number", json);
        } else if serde_json::from_str::<f64>(json).is_err() {
            // The typed pass reads coordinates with the same function.
            self.add(
                &format!("{list}/{index}/{place}"),
                FieldErrorCode::OutOfRange,
                format_args!(
                    "A point's coordinate must fit a 64-bit floating-point number, but it is {}.",
                    JsonDescription(json)
                ),
            );
        }
    }
}

/// An object that is a part of JSON that was read before, or `None` for any other JSON value.
fn read_object<'a, const N: usize>(
    json: &'a str,
    names: &FieldNames<N>,
) -> Option<ObjectFields<'a, N>> {
    if JsonKind::from_json(json) != JsonKind::Object {
        return None;
    }
    ObjectFields::read(json, names).ok()
}

fn describe_id_rule() -> String {
    format!(
        "a string of 1 to {} bytes without control characters",
        rules::MAX_ID_BYTES
    )
}

fn describe_type_rule() -> String {
    format!("one of {}", EventType::ALL.map(EventType::name).join(", "))
}

/// A JSON value, named in a sentence. Of strings and numbers the beginning is quoted, with everything escaped that could
/// be taken for more than a character of it (line ends, terminal codes, reversed writing).
struct JsonDescription<'a>(&'a str);

impl fmt::Display for JsonDescription<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = self.0;
        match JsonKind::from_json(json) {
            JsonKind::Object => f.write_str("an object"),
            JsonKind::Array => f.write_str("an array"),
            JsonKind::Null | JsonKind::Boolean => f.write_str(json),
            JsonKind::Number => write!(f, "the number {}", JsonExcerpt(json)),
            JsonKind::String => {
                let text = read_string(json).unwrap_or(Cow::Borrowed(json));
                write!(f, "the string \"{}\"", JsonExcerpt(&text))
            }
        }
    }
}

/// At most [`MAX_QUOTE`] characters, after escaping.
struct JsonExcerpt<'a>(&'a str);

impl fmt::Display for JsonExcerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut remaining = MAX_EXCERPT_CHARS;
        for character in self.0.chars() {
            let escaped = character.escape_debug();
            let Some(left) = remaining.checked_sub(escaped.len()) else {
                return f.write_str("…");
            };
            remaining = left;
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
        let quote = |text: &str| JsonExcerpt(text).to_string();
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
        assert_eq!(read_string(r#""a""#).as_deref(), Some("a"));
        assert_eq!(read_string(r#""""#).as_deref(), Some(""));
        assert_eq!(read_string(r#""\u0061\n\"""#).as_deref(), Some("a\n\""));
        assert_eq!(read_string("1"), None);
    }
}
