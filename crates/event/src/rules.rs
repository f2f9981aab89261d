//! Rules of a valid event, each in one place. `event_reader` only checks them, `diagnosis` explains
//! the errors.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Visitor};

use super::EventType;

/// Maximum length of `id` and of space ids, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 256;

/// Maximum `timestamp`: the last millisecond of the year 9999, the last year of RFC 3339.
pub const MAX_TIMESTAMP_MS: i64 = 253_402_300_799_999;

/// Maximum number of people: 2^53 - 1. Most JSON parsers read numbers as doubles, and above this
/// two different counts can become the same double.
pub const MAX_COUNT: i64 = 9_007_199_254_740_991;

/// Fields of the envelope, in the order in which errors are reported.
pub(crate) static ENVELOPE: FieldNames<6> =
    FieldNames::new(["id", "type", "timestamp", "version", "metadata", "data"]);

/// Indexes in [`ENVELOPE`].
pub(crate) mod envelope {
    pub(crate) const ID: usize = 0;
    pub(crate) const TYPE: usize = 1;
    pub(crate) const TIMESTAMP: usize = 2;
    pub(crate) const VERSION: usize = 3;
    pub(crate) const METADATA: usize = 4;
    pub(crate) const DATA: usize = 5;
}

/// Documented fields of `metadata`: those of a space, then those of a sensor. All are checked in
/// events of every type. `event_reader` has the same fields in a struct.
pub(crate) static METADATA: FieldNames<23> = FieldNames::new([
    "org_id",
    "site_id",
    "building_id",
    "floor_id",
    "room_id",
    "zone_id",
    "org_name",
    "site_name",
    "building_name",
    "floor_name",
    "room_name",
    "zone_name",
    "floor_custom_id",
    "room_custom_id",
    "zone_custom_id",
    "hive_id",
    "sensor_id",
    "hive_serial",
    "mac_address",
    "sensor_mode",
    "sensor_model",
    "hive_model",
    "hive_version",
]);

/// Indexes in [`METADATA`] of the fields that can hold the space id.
pub(crate) mod metadata {
    pub(crate) const FLOOR_ID: usize = 3;
    pub(crate) const ROOM_ID: usize = 4;
    pub(crate) const ZONE_ID: usize = 5;
}

/// Fields of the data of TRAFFIC.
pub(crate) static TRAFFIC: FieldNames<2> = FieldNames::new(["in", "out"]);

/// Fields of the data of DETECTIONS.
pub(crate) static DETECTIONS: FieldNames<2> = FieldNames::new(["local", "world"]);

/// Names of an object's documented fields.
pub(crate) struct FieldNames<const N: usize> {
    names: [&'static str; N],
    /// Bit set of the names with each length. A key is compared with these only, because an event
    /// has about twenty keys.
    by_length: [u32; MAX_NAME_BYTES + 1],
}

/// Length of the longest documented name, `floor_custom_id`.
const MAX_NAME_BYTES: usize = 15;

impl<const N: usize> FieldNames<N> {
    /// Fails to compile if there are more names than bits, or if one exceeds [`MAX_NAME_BYTES`].
    pub(crate) const fn new(names: [&'static str; N]) -> Self {
        let mut by_length = [0; MAX_NAME_BYTES + 1];
        let mut index = 0;
        while index < N {
            by_length[names[index].len()] |= 1_u32 << index;
            index += 1;
        }
        FieldNames { names, by_length }
    }

    /// The names by index.
    pub(crate) fn as_array(&self) -> &[&'static str; N] {
        &self.names
    }

    /// Index of a key.
    #[inline]
    pub(crate) fn index_of(&self, key: &str) -> Option<usize> {
        let mut candidates = *self.by_length.get(key.len())?;
        while candidates != 0 {
            let index = candidates.trailing_zeros() as usize;
            if self.names[index] == key {
                return Some(index);
            }
            candidates &= candidates - 1;
        }
        None
    }
}

/// Reads a key as its index among the documented ones.
pub(crate) struct FieldNameSeed<'n, const N: usize>(pub(crate) &'n FieldNames<N>);

impl<'de, const N: usize> DeserializeSeed<'de> for FieldNameSeed<'_, N> {
    type Value = Option<usize>;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<const N: usize> Visitor<'_> for FieldNameSeed<'_, N> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    #[inline]
    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.index_of(key))
    }
}

/// Field with the space id of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SpaceIdField {
    /// This field of [`METADATA`].
    Named(usize),
    /// `room_id`, or `floor_id` if `room_id` is absent or null.
    RoomOrFloor,
}

/// Field with the space id in events of this type.
pub(crate) const fn space_id_field(event_type: EventType) -> SpaceIdField {
    match event_type {
        EventType::Detections | EventType::Traffic => SpaceIdField::RoomOrFloor,
        EventType::FloorOccupancy | EventType::FloorOccupancy1Min => {
            SpaceIdField::Named(metadata::FLOOR_ID)
        }
        EventType::RoomOccupancy
        | EventType::RoomOccupancy1Min
        | EventType::PirMotion
        | EventType::PirNoMotion => SpaceIdField::Named(metadata::ROOM_ID),
        EventType::ZoneOccupancy | EventType::ZoneOccupancy1Min => {
            SpaceIdField::Named(metadata::ZONE_ID)
        }
    }
}

/// Kind of an event's `data`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DataKind {
    /// Number of people.
    Count,
    /// Numbers `in` and `out`.
    Traffic,
    /// Lists of points `local` and `world`.
    Detections,
    /// Absent, null or any object.
    OptionalObject,
}

/// Kind of `data` in events of this type.
pub(crate) const fn data_kind(event_type: EventType) -> DataKind {
    match event_type {
        EventType::Detections => DataKind::Detections,
        EventType::Traffic => DataKind::Traffic,
        EventType::FloorOccupancy
        | EventType::FloorOccupancy1Min
        | EventType::RoomOccupancy
        | EventType::RoomOccupancy1Min
        | EventType::ZoneOccupancy
        | EventType::ZoneOccupancy1Min => DataKind::Count,
        EventType::PirMotion | EventType::PirNoMotion => DataKind::OptionalObject,
    }
}

/// Error of an id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum IdFault {
    Empty,
    TooLong,
    ControlCharacter,
}

/// Checks `id` or a space id: 1 to [`MAX_ID_BYTES`] bytes without control characters.
pub(crate) fn check_id(id: &str) -> Result<(), IdFault> {
    if id.is_empty() {
        return Err(IdFault::Empty);
    }
    if id.len() > MAX_ID_BYTES {
        return Err(IdFault::TooLong);
    }
    // Without an early exit, the loop compiles to a few vector instructions.
    let plain = id
        .bytes()
        .fold(true, |plain, byte| plain & (0x20..0x7f).contains(&byte));
    if !plain && id.chars().any(char::is_control) {
        return Err(IdFault::ControlCharacter);
    }
    Ok(())
}

/// Error of a version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VersionFault {
    OtherMajor,
    Invalid,
}

/// Checks a version: `v1`, `v1.x` or `v1.x.y`, where x and y are digits.
pub(crate) fn check_version(version: &str) -> Result<(), VersionFault> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let rest = version.strip_prefix('v').ok_or(VersionFault::Invalid)?;
    let end = rest
        .bytes()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(rest.len());
    let (major, rest) = rest.split_at(end);
    if major != "1" {
        // `v01` is not a version. `v2-beta` is one with another major, whatever follows.
        let major_is_number = major == "0" || (!major.is_empty() && !major.starts_with('0'));
        let suffix_is_valid = rest.is_empty() || rest.starts_with(['.', '-', '+']);
        return Err(if major_is_number && suffix_is_valid {
            VersionFault::OtherMajor
        } else {
            VersionFault::Invalid
        });
    }
    let valid = match rest.strip_prefix('.') {
        None => rest.is_empty(),
        Some(rest) => match rest.split_once('.') {
            None => digits(rest),
            Some((minor, patch)) => digits(minor) && digits(patch),
        },
    };
    if valid {
        Ok(())
    } else {
        Err(VersionFault::Invalid)
    }
}

/// Error of a whole number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NumberFault {
    NotANumber,
    NotIntegral,
    OutOfRange,
}

/// Parses the text of any JSON value as a whole number from 0 to `max` (at most 10^16).
///
/// It works on the decimal digits instead of a double: `4`, `4.0`, `40e-1` and `-0` are whole,
/// `4.0000000000000000001` is not, and numbers of any size are classified.
pub(crate) fn parse_integer(text: &str, max: i64) -> Result<i64, NumberFault> {
    let digits = text.as_bytes();
    let value = if digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit) && !digits.is_empty()
    {
        digits
            .iter()
            .fold(0, |value, digit| value * 10 + i64::from(digit - b'0'))
    } else {
        parse_decimal_integer(text)?
    };
    if value <= max {
        Ok(value)
    } else {
        Err(NumberFault::OutOfRange)
    }
}

/// Parses a number with a sign, fraction or exponent. `text` is valid JSON, so its syntax is not
/// checked.
#[cold]
fn parse_decimal_integer(text: &str) -> Result<i64, NumberFault> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text),
    };
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(NumberFault::NotANumber);
    }
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // The number is 0.DDD… times 10 to the power of `point`, with no 0 as first or last D.
    let digits = || whole.bytes().chain(fraction.bytes());
    let Some(first) = digits().position(|digit| digit != b'0') else {
        return Ok(0);
    };
    let trailing = digits().rev().position(|digit| digit != b'0').unwrap_or(0);
    let count = whole.len() + fraction.len() - first - trailing;
    let signed = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
    let point = exponent.saturating_add(signed(whole.len()) - signed(first));
    if point < signed(count) {
        return Err(NumberFault::NotIntegral);
    }
    // 10^17 and more exceeds every maximum.
    if negative || point > 17 {
        return Err(NumberFault::OutOfRange);
    }
    let value = digits()
        .skip(first)
        .take(count)
        .fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    Ok((signed(count)..point).fold(value, |value, _| value * 10))
}

/// Parses an exponent, clamped to a range that no text has enough digits to make up for.
fn parse_exponent(exponent: &str) -> i64 {
    const MAX_EXPONENT: i64 = i64::MAX / 4;
    let (negative, digits) = match exponent.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, exponent.strip_prefix('+').unwrap_or(exponent)),
    };
    let value = digits.bytes().fold(0_i64, |value, digit| {
        value
            .saturating_mul(10)
            .saturating_add(i64::from(digit) - i64::from(b'0'))
            .min(MAX_EXPONENT)
    });
    if negative { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_in_every_spelling() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("-0.0", 0),
            ("0e999999999999999999999", 0),
            ("4", 4),
            ("4.0", 4),
            ("40e-1", 4),
            ("0.4e1", 4),
            ("0.0004E+4", 4),
            ("1.7e12", 1_700_000_000_000),
            ("1727735832123.0000000", 1_727_735_832_123),
            ("9007199254740991", MAX_COUNT),
            ("9007199254740991.0", MAX_COUNT),
            ("900719925474099100000e-5", MAX_COUNT),
        ] {
            assert_eq!(parse_integer(text, MAX_COUNT), Ok(value), "{text}");
        }
    }

    #[test]
    fn numbers_that_are_not_whole_or_out_of_range() {
        for text in [
            "0.5",
            "-0.5",
            "4.0000000000000000001",
            "1e-1",
            "1e-99999999999999999999",
            "15e-1",
            "1.23e1",
        ] {
            assert_eq!(
                parse_integer(text, MAX_COUNT),
                Err(NumberFault::NotIntegral),
                "{text}"
            );
        }
        for text in [
            "-1",
            "-1.0",
            "9007199254740992",
            "9007199254740992.0",
            "99999999999999999",
            "999999999999999999",
            "1e17",
            "1e18",
            "1e999",
            "1e99999999999999999999",
            "18446744073709551616",
            "-9223372036854775809",
        ] {
            assert_eq!(
                parse_integer(text, MAX_COUNT),
                Err(NumberFault::OutOfRange),
                "{text}"
            );
        }
        for text in ["\"4\"", "null", "true", "[4]", "{}"] {
            assert_eq!(
                parse_integer(text, MAX_COUNT),
                Err(NumberFault::NotANumber),
                "{text}"
            );
        }
    }

    #[test]
    fn versions() {
        for valid in ["v1", "v1.0", "v1.0.0", "v1.23.456", "v1.00"] {
            assert_eq!(check_version(valid), Ok(()), "{valid}");
        }
        for other in [
            "v0",
            "v0.9",
            "v2",
            "v2.0.0",
            "v10.1",
            "v11",
            "v2.0.0-beta",
            "v2+x",
            "v3.x",
        ] {
            assert_eq!(
                check_version(other),
                Err(VersionFault::OtherMajor),
                "{other}"
            );
        }
        for invalid in [
            "",
            "v",
            "1",
            "1.0.0",
            "V1",
            "v01",
            "v1.",
            "v1..0",
            "v1.0.",
            "v1.0.0.0",
            "v1.0.0-beta",
            "v1.x",
            "v1 ",
            " v1",
            "v-1",
            "v2x",
            "v१",
        ] {
            assert_eq!(
                check_version(invalid),
                Err(VersionFault::Invalid),
                "{invalid}"
            );
        }
    }

    #[test]
    fn ids() {
        for valid in ["a", "é", "日本", "a b", "\u{2028}", &"x".repeat(256)] {
            assert_eq!(check_id(valid), Ok(()), "{valid}");
        }
        assert_eq!(check_id(""), Err(IdFault::Empty));
        assert_eq!(check_id(&"x".repeat(257)), Err(IdFault::TooLong));
        assert_eq!(check_id(&"é".repeat(129)), Err(IdFault::TooLong));
        for control in ["\0", "a\n", "\u{7f}", "\u{85}", "é\u{9f}"] {
            assert_eq!(
                check_id(control),
                Err(IdFault::ControlCharacter),
                "{control:?}"
            );
        }
    }

    #[test]
    fn indexes_match_their_names() {
        assert_eq!(ENVELOPE.as_array()[envelope::ID], "id");
        assert_eq!(ENVELOPE.as_array()[envelope::TYPE], "type");
        assert_eq!(ENVELOPE.as_array()[envelope::TIMESTAMP], "timestamp");
        assert_eq!(ENVELOPE.as_array()[envelope::VERSION], "version");
        assert_eq!(ENVELOPE.as_array()[envelope::METADATA], "metadata");
        assert_eq!(ENVELOPE.as_array()[envelope::DATA], "data");
        assert_eq!(METADATA.as_array()[metadata::FLOOR_ID], "floor_id");
        assert_eq!(METADATA.as_array()[metadata::ROOM_ID], "room_id");
        assert_eq!(METADATA.as_array()[metadata::ZONE_ID], "zone_id");
    }

    /// JSON pointers contain these names, so none may need the escapes of RFC 6901.
    #[test]
    fn documented_names_need_no_escape_in_a_pointer() {
        let names = ENVELOPE
            .as_array()
            .iter()
            .chain(METADATA.as_array())
            .chain(TRAFFIC.as_array())
            .chain(DETECTIONS.as_array());
        assert!(names.into_iter().all(|name| !name.contains(['/', '~'])));
    }
}
