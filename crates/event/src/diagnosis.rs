//! Diagnosis of a rejected item: finds every field error.
//!
//! It goes down level by level over raw values, so no error hides another. Its memory is bounded:
//! the documented fields of each level (slices of the body) and [`MAX_FIELD_ERRORS`] errors.

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

/// Maximum number of characters of an event that a detail quotes.
const MAX_EXCERPT_CHARS: usize = 64;

/// Finds every error in `item`, which has no surrounding white space.
///
/// # Errors
/// The item is not JSON.
pub(crate) fn diagnose(
    item: &str,
    expected: Option<EventType>,
) -> Result<RejectedItem<'_>, serde_json::Error> {
    let mut errors = FieldErrors::default();
    let mut claimed_type = None;
    if JsonKind::from_json(item) == JsonKind::Object {
        let fields = ObjectFields::read(item, &rules::ENVELOPE)?;
        claimed_type = parse_event_type(fields.values[envelope::TYPE]);
        errors.check_envelope(&fields, claimed_type, expected);
    } else {
        serde_json::from_str::<IgnoredAny>(item)?;
        errors.add_wrong_type("", "An event", "a JSON object", item);
    }
    if errors.0.is_empty() {
        errors.add(
            "",
            FieldErrorCode::Invalid,
            format_args!(
                "The event was rejected, but no error was found in it: please report this as a bug."
            ),
        );
    }
    Ok(RejectedItem::Invalid {
        claimed_type,
        errors: errors.0,
        raw: item,
    })
}

/// Reads only the type that `item` claims to have.
///
/// # Errors
/// The item is not JSON.
pub(crate) fn read_claimed_type(item: &str) -> Result<Option<EventType>, serde_json::Error> {
    if JsonKind::from_json(item) == JsonKind::Object {
        Ok(parse_event_type(
            ObjectFields::read(item, &TYPE_ONLY)?.values[0],
        ))
    } else {
        serde_json::from_str::<IgnoredAny>(item).map(|_| None)
    }
}

static TYPE_ONLY: FieldNames<1> = FieldNames::new(["type"]);

fn parse_event_type(value: Option<&str>) -> Option<EventType> {
    EventType::parse(&read_string(value?)?)
}

/// Kind of a JSON value.
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
    /// Goes by the first byte, which is enough for valid JSON.
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

/// Reads a JSON string; `None` for any other JSON value.
fn read_string(json: &str) -> Option<Cow<'_, str>> {
    if JsonKind::from_json(json) != JsonKind::String {
        return None;
    }
    // Nearly all strings have no escapes, so they are the text between the quotes.
    match json.get(1..json.len() - 1) {
        Some(text) if !text.contains('\\') => Some(Cow::Borrowed(text)),
        _ => serde_json::from_str(json).ok().map(Cow::Owned),
    }
}

/// Documented fields of an object, as JSON.
struct ObjectFields<'a, const N: usize> {
    /// First value of each field.
    values: [Option<&'a str>; N],
    /// `true` if the field occurs more than once.
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
        while let Some(field) = map.next_key_seed(FieldNameSeed(self.names))? {
            match field {
                Some(index) if object.values[index].is_none() => {
                    object.values[index] = Some(map.next_value::<&RawValue>()?.get());
                }
                Some(index) => {
                    map.next_value::<IgnoredAny>()?;
                    object.repeated[index] = true;
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(object)
    }
}

/// Calls `item` with each item of an array until it returns `false`. Returns the number of items.
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
    // The array is part of JSON that was read before, so this cannot fail.
    serde_json::Deserializer::from_str(json)
        .deserialize_seq(ArrayVisitor(item, PhantomData))
        .unwrap_or(0)
}

/// Errors found so far, at most [`MAX_FIELD_ERRORS`].
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

    fn add_missing(&mut self, pointer: &str, name: &str, rule: &str) {
        self.add(
            pointer,
            FieldErrorCode::Missing,
            format_args!("{name} is missing; it must be {rule}."),
        );
    }

    fn add_wrong_type(&mut self, pointer: &str, name: &str, rule: &str, json: &str) {
        self.add(
            pointer,
            FieldErrorCode::WrongType,
            format_args!(
                "{name} must be {rule}, but it is {}.",
                JsonDescription(json)
            ),
        );
    }

    fn add_duplicate(&mut self, pointer: &str, name: &str) {
        self.add(
            pointer,
            FieldErrorCode::DuplicateKey,
            format_args!(
                "{name} occurs more than once in one object; readers differ on which one counts."
            ),
        );
    }

    /// Adds an error if the field occurs more than once, and returns its first value.
    fn take_envelope_field<'a>(
        &mut self,
        fields: &ObjectFields<'a, 6>,
        index: usize,
    ) -> Option<&'a str> {
        if fields.repeated[index] {
            let name = rules::ENVELOPE.as_array()[index];
            self.add_duplicate(&format!("/{name}"), name);
        }
        fields.values[index]
    }

    fn check_envelope(
        &mut self,
        fields: &ObjectFields<'_, 6>,
        claimed_type: Option<EventType>,
        expected: Option<EventType>,
    ) {
        match self.take_envelope_field(fields, envelope::ID) {
            None => self.add_missing("/id", "id", &describe_id_rule()),
            Some(id) => self.check_id("/id", "id", id),
        }

        match self.take_envelope_field(fields, envelope::TYPE) {
            None => self.add_missing("/type", "type", &describe_type_rule()),
            Some(json) => self.check_event_type(json, claimed_type, expected),
        }

        let timestamp = self.take_envelope_field(fields, envelope::TIMESTAMP);
        let rule = format!(
            "the milliseconds since 1970 UTC, a whole number from 0 to {}",
            rules::MAX_TIMESTAMP_MS
        );
        self.check_number(
            "/timestamp",
            "timestamp",
            timestamp,
            rules::MAX_TIMESTAMP_MS,
            &rule,
        );

        let version = self.take_envelope_field(fields, envelope::VERSION);
        self.check_version(version);

        let metadata = self.take_envelope_field(fields, envelope::METADATA);
        self.check_metadata(metadata, claimed_type);

        let data = self.take_envelope_field(fields, envelope::DATA);
        if let Some(claimed_type) = claimed_type {
            self.check_data(data, claimed_type);
        }
    }

    fn check_event_type(
        &mut self,
        json: &str,
        claimed_type: Option<EventType>,
        expected: Option<EventType>,
    ) {
        match (claimed_type, expected) {
            (None, _) if JsonKind::from_json(json) == JsonKind::String => self.add(
                "/type",
                FieldErrorCode::UnknownType,
                format_args!(
                    "{} is not a known type; type must be {}.",
                    JsonDescription(json),
                    describe_type_rule()
                ),
            ),
            (None, _) => self.add_wrong_type("/type", "type", &describe_type_rule(), json),
            (Some(claimed), Some(expected)) if claimed != expected => self.add(
                "/type",
                FieldErrorCode::TypeMismatch,
                format_args!("The event's type is {claimed}, but the URL accepts only {expected}."),
            ),
            (Some(_), _) => {}
        }
    }

    fn check_id(&mut self, pointer: &str, name: &str, json: &str) {
        let Some(id) = read_string(json) else {
            return self.add_wrong_type(pointer, name, &describe_id_rule(), json);
        };
        match rules::check_id(&id) {
            Ok(()) => {}
            Err(IdFault::Empty) => {
                self.add(
                    pointer,
                    FieldErrorCode::Empty,
                    format_args!("{name} is empty; it must be {}.", describe_id_rule()),
                );
            }
            Err(IdFault::TooLong) => self.add(
                pointer,
                FieldErrorCode::TooLong,
                format_args!(
                    "{name} is {} bytes long; it must be {}.",
                    id.len(),
                    describe_id_rule()
                ),
            ),
            Err(IdFault::ControlCharacter) => self.add(
                pointer,
                FieldErrorCode::ControlCharacter,
                format_args!(
                    "{name} contains a control character: {}; it must be {}.",
                    JsonDescription(json),
                    describe_id_rule()
                ),
            ),
        }
    }

    fn check_number(
        &mut self,
        pointer: &str,
        name: &str,
        json: Option<&str>,
        max: i64,
        rule: &str,
    ) {
        let Some(json) = json else {
            return self.add_missing(pointer, name, rule);
        };
        let code = match rules::parse_integer(json, max) {
            Ok(_) => return,
            Err(NumberFault::NotANumber) => return self.add_wrong_type(pointer, name, rule, json),
            Err(NumberFault::NotIntegral) => FieldErrorCode::NotIntegral,
            Err(NumberFault::OutOfRange) => FieldErrorCode::OutOfRange,
        };
        self.add(
            pointer,
            code,
            format_args!(
                "{name} must be {rule}, but it is {}.",
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
                    "{} is not a supported major version; version must be {RULE}.",
                    JsonDescription(json)
                ),
            ),
            Err(VersionFault::Invalid) => self.add(
                "/version",
                FieldErrorCode::InvalidVersion,
                format_args!(
                    "{} is not a version; it must be {RULE}.",
                    JsonDescription(json)
                ),
            ),
        }
    }

    fn check_metadata(&mut self, json: Option<&str>, claimed_type: Option<EventType>) {
        const RULE: &str = "an object that names the organisation, the space and the sensor";
        let Some(json) = json else {
            return self.add_missing("/metadata", "metadata", RULE);
        };
        let Some(fields) = read_object(json, &rules::METADATA) else {
            return self.add_wrong_type("/metadata", "metadata", RULE, json);
        };
        let has_room = fields.values[metadata::ROOM_ID]
            .is_some_and(|json| JsonKind::from_json(json) != JsonKind::Null);
        let space_id = claimed_type.map(|claimed| match rules::space_id_field(claimed) {
            SpaceIdField::Named(index) => (claimed, index),
            SpaceIdField::RoomOrFloor if has_room => (claimed, metadata::ROOM_ID),
            SpaceIdField::RoomOrFloor => (claimed, metadata::FLOOR_ID),
        });
        for (index, name) in rules::METADATA.as_array().iter().enumerate() {
            let pointer = format!("/metadata/{name}");
            if fields.repeated[index] {
                self.add_duplicate(&pointer, name);
            }
            match (fields.values[index], space_id) {
                (Some(json), Some((_, space))) if space == index => {
                    self.check_id(&pointer, name, json)
                }
                (None, Some((claimed, space))) if space == index => {
                    let alternative = match rules::space_id_field(claimed) {
                        SpaceIdField::RoomOrFloor => ", and so is room_id",
                        SpaceIdField::Named(_) => "",
                    };
                    self.add(
                        &pointer,
                        FieldErrorCode::Missing,
                        format_args!(
                            "{name} is missing{alternative}; {claimed} requires it as the id of its space: {}.",
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
        let name = format!("data of {claimed}");
        match rules::data_kind(claimed) {
            DataKind::Count => self.check_count("/data", &name, json),
            DataKind::OptionalObject => {
                if let Some(json) = json.filter(|json| {
                    !matches!(JsonKind::from_json(json), JsonKind::Null | JsonKind::Object)
                }) {
                    self.add_wrong_type("/data", &name, "absent, null or an object", json);
                }
            }
            DataKind::Traffic => {
                let counts = "the counts in and out";
                self.check_required_fields(
                    json,
                    &rules::TRAFFIC,
                    &name,
                    counts,
                    FieldErrors::check_count,
                );
            }
            DataKind::Detections => {
                let lists = "the lists of points local and world";
                self.check_required_fields(
                    json,
                    &rules::DETECTIONS,
                    &name,
                    lists,
                    FieldErrors::check_points,
                );
            }
        }
    }

    fn check_count(&mut self, pointer: &str, name: &str, json: Option<&str>) {
        let rule = format!("a whole number from 0 to {} (2^53 - 1)", rules::MAX_COUNT);
        self.check_number(pointer, name, json, rules::MAX_COUNT, &rule);
    }

    /// Checks data that is an object with two required fields.
    fn check_required_fields(
        &mut self,
        json: Option<&str>,
        fields: &FieldNames<2>,
        name: &str,
        contents: &str,
        check: impl Fn(&mut Self, &str, &str, Option<&str>),
    ) {
        let rule = format!("an object with {contents}");
        let Some(json) = json else {
            return self.add_missing("/data", name, &rule);
        };
        let Some(object) = read_object(json, fields) else {
            return self.add_wrong_type("/data", name, &rule, json);
        };
        for (index, name) in fields.as_array().iter().enumerate() {
            let pointer = format!("/data/{name}");
            if object.repeated[index] {
                self.add_duplicate(&pointer, name);
            }
            check(self, &pointer, name, object.values[index]);
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
        let count = for_each_item(json, |axis, number| {
            self.check_coordinate(list, index, axis, number);
            axis < 1
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

    fn check_coordinate(&mut self, list: &str, index: usize, axis: usize, json: &str) {
        if JsonKind::from_json(json) != JsonKind::Number {
            let pointer = format!("{list}/{index}/{axis}");
            self.add_wrong_type(&pointer, "A point's coordinate", "a number", json);
        } else if serde_json::from_str::<f64>(json).is_err() {
            // `event_reader` reads coordinates with the same function.
            self.add(
                &format!("{list}/{index}/{axis}"),
                FieldErrorCode::OutOfRange,
                format_args!(
                    "A point's coordinate must fit in a 64-bit floating-point number, but it is {}.",
                    JsonDescription(json)
                ),
            );
        }
    }
}

/// Reads an object that is part of JSON read before; `None` for any other JSON value.
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

/// Describes a JSON value within a sentence. Strings and numbers are quoted in part, with everything
/// escaped that a log or terminal could interpret (line breaks, control codes, reversed writing).
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

/// Shortens a text to [`MAX_EXCERPT_CHARS`] characters after escaping.
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
    fn excerpts_are_short_and_on_one_line() {
        let excerpt = |text: &str| JsonExcerpt(text).to_string();
        assert_eq!(
            excerpt("a\n\u{1b}[31m\"\u{202e}\u{85}é"),
            r#"a\n\u{1b}[31m\"\u{202e}\u{85}é"#
        );
        assert_eq!(excerpt(&"x".repeat(64)), "x".repeat(64));
        assert_eq!(excerpt(&"x".repeat(65)), "x".repeat(64) + "…");
        assert_eq!(excerpt(&"\0".repeat(100)), "\\0".repeat(32) + "…");
    }

    #[test]
    fn strings_are_read_with_their_escapes() {
        assert_eq!(read_string(r#""a""#).as_deref(), Some("a"));
        assert_eq!(read_string(r#""""#).as_deref(), Some(""));
        assert_eq!(read_string(r#""\u0061\n\"""#).as_deref(), Some("a\n\""));
        assert_eq!(read_string("1"), None);
    }
}
