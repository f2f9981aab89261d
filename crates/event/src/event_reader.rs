//! Reader of valid events: one pass over an event, without an explanation if it is not valid.
//!
//! Every event goes through it, so it allocates nothing: strings are borrowed from the body (only
//! those with escapes are copied), and the points of DETECTIONS are checked and hashed, not stored.
//! Its errors only stop the pass; `diagnosis` explains them.
//!
//! The code for `metadata` is derived. The envelope and `data` are read by hand-written visitors,
//! because the type decides how `data` is read, in the same pass.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::rules::{self, DataKind, FieldNameSeed, FieldNames, SpaceIdField, envelope, metadata};
use super::value_hash::{ListHasher, ObjectHasher, ValueHash};
use super::{Event, EventType};

/// Reads `text` as an event of the expected type; `None` if it is not a valid one. `text` has no
/// surrounding white space.
pub(crate) fn read_event(text: &str, expected: Option<EventType>) -> Option<Event<'_>> {
    let mut json = serde_json::Deserializer::from_str(text);
    let event = EventSeed { text, expected }.deserialize(&mut json).ok()?;
    json.end().ok()?;
    Some(event)
}

/// Documented fields of an object seen so far, as a bit set.
#[derive(Default)]
struct SeenFields(u32);

impl SeenFields {
    fn add<E: Error>(&mut self, index: usize) -> Result<(), E> {
        let bit = 1 << index;
        if self.0 & bit != 0 {
            return Err(invalid_event());
        }
        self.0 |= bit;
        Ok(())
    }
}

/// Error that stops the pass.
#[cold]
fn invalid_event<E: Error>() -> E {
    E::custom("not valid")
}

/// String that is borrowed if it has no escapes. (Serde always copies in an `Option<Cow<str>>`.)
#[derive(Deserialize)]
struct CowText<'a>(#[serde(borrow)] Cow<'a, str>);

/// Checks or converts a string without storing it.
struct StringCheck<T>(fn(&str) -> Option<T>);

impl<'de, T> DeserializeSeed<'de> for StringCheck<T> {
    type Value = T;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T> Visitor<'_> for StringCheck<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a valid string")
    }

    #[inline]
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).ok_or_else(invalid_event)
    }
}

/// Checks that a value is a string or null.
#[derive(Default)]
struct StringOrNull;

impl<'de> Deserialize<'de> for StringOrNull {
    #[inline]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringOrNullVisitor;
        impl Visitor<'_> for StringOrNullVisitor {
            type Value = StringOrNull;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or null")
            }

            #[inline]
            fn visit_str<E>(self, _: &str) -> Result<StringOrNull, E> {
                Ok(StringOrNull)
            }

            #[inline]
            fn visit_unit<E>(self) -> Result<StringOrNull, E> {
                Ok(StringOrNull)
            }
        }
        deserializer.deserialize_any(StringOrNullVisitor)
    }
}

/// Reads a whole event.
struct EventSeed<'a> {
    text: &'a str,
    expected: Option<EventType>,
}

impl<'de> DeserializeSeed<'de> for EventSeed<'de> {
    type Value = Event<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EventSeed<'de> {
    type Value = Event<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut seen = SeenFields::default();
        let mut id = None;
        let mut event_type = None;
        let mut timestamp_ms = None;
        let mut version = None;
        let mut metadata = None;
        let mut data = DataField::Absent;
        while let Some(key) = map.next_key_seed(FieldNameSeed(&rules::ENVELOPE))? {
            let Some(key) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            seen.add(key)?;
            match key {
                envelope::ID => id = Some(map.next_value::<CowText<'_>>()?.0),
                envelope::TYPE => {
                    event_type = Some(map.next_value_seed(StringCheck(EventType::parse))?)
                }
                envelope::TIMESTAMP => {
                    let number = map.next_value::<&RawValue>()?.get();
                    timestamp_ms = Some(
                        rules::parse_integer(number, rules::MAX_TIMESTAMP_MS)
                            .map_err(|_| invalid_event())?,
                    );
                }
                envelope::VERSION => {
                    version =
                        Some(map.next_value_seed(StringCheck(|text| {
                            rules::check_version(text).ok()
                        }))?);
                }
                envelope::METADATA => {
                    metadata = Some(map.next_value::<ObjectOnly<EventMetadata<'_>>>()?.0)
                }
                _ => {
                    data = match event_type {
                        // In the usual order of fields, type comes first and data needs one pass.
                        Some(event_type)
                            if rules::data_kind(event_type) == DataKind::Detections =>
                        {
                            DataField::Checked(map.next_value::<DetectionsHash>()?.0)
                        }
                        _ => DataField::Unchecked(map.next_value::<&RawValue>()?),
                    };
                }
            }
        }
        let (Some(id), Some(event_type), Some(timestamp_ms), Some(()), Some(metadata)) =
            (id, event_type, timestamp_ms, version, metadata)
        else {
            return Err(invalid_event());
        };
        if self.expected.is_some_and(|expected| expected != event_type)
            || rules::check_id(&id).is_err()
        {
            return Err(invalid_event());
        }
        let data = data
            .validate(rules::data_kind(event_type))
            .ok_or_else(invalid_event)?;
        let EventMetadata {
            org_id,
            sensor_id,
            floor_id,
            room_id,
            zone_id,
            ..
        } = metadata;
        let space_id = match rules::space_id_field(event_type) {
            SpaceIdField::RoomOrFloor => room_id.or(floor_id),
            SpaceIdField::Named(metadata::FLOOR_ID) => floor_id,
            SpaceIdField::Named(metadata::ROOM_ID) => room_id,
            SpaceIdField::Named(_) => zone_id,
        };
        let space_id = space_id
            .map(|text| text.0)
            .filter(|id| rules::check_id(id).is_ok())
            .ok_or_else(invalid_event)?;
        Ok(Event {
            raw: self.text,
            id,
            event_type,
            timestamp_ms,
            space_id,
            org_id: org_id.map(|text| text.0),
            sensor_id: sensor_id.map(|text| text.0),
            data_hash: data.0,
        })
    }
}

/// Documented fields of `metadata`, as in [`rules::METADATA`]. An absent field counts as null.
///
/// Derived code rejects a repeated field and ignores unknown ones, as the rules require, but it
/// would also accept an array: see [`ObjectOnly`].
#[derive(Default, Deserialize)]
#[serde(default)]
struct EventMetadata<'a> {
    #[serde(borrow)]
    org_id: Option<CowText<'a>>,
    #[serde(rename = "site_id")]
    _site_id: StringOrNull,
    #[serde(rename = "building_id")]
    _building_id: StringOrNull,
    #[serde(borrow)]
    floor_id: Option<CowText<'a>>,
    #[serde(borrow)]
    room_id: Option<CowText<'a>>,
    #[serde(borrow)]
    zone_id: Option<CowText<'a>>,
    #[serde(rename = "org_name")]
    _org_name: StringOrNull,
    #[serde(rename = "site_name")]
    _site_name: StringOrNull,
    #[serde(rename = "building_name")]
    _building_name: StringOrNull,
    #[serde(rename = "floor_name")]
    _floor_name: StringOrNull,
    #[serde(rename = "room_name")]
    _room_name: StringOrNull,
    #[serde(rename = "zone_name")]
    _zone_name: StringOrNull,
    #[serde(rename = "floor_custom_id")]
    _floor_custom_id: StringOrNull,
    #[serde(rename = "room_custom_id")]
    _room_custom_id: StringOrNull,
    #[serde(rename = "zone_custom_id")]
    _zone_custom_id: StringOrNull,
    #[serde(rename = "hive_id")]
    _hive_id: StringOrNull,
    #[serde(borrow)]
    sensor_id: Option<CowText<'a>>,
    #[serde(rename = "hive_serial")]
    _hive_serial: StringOrNull,
    #[serde(rename = "mac_address")]
    _mac_address: StringOrNull,
    #[serde(rename = "sensor_mode")]
    _sensor_mode: StringOrNull,
    #[serde(rename = "sensor_model")]
    _sensor_model: StringOrNull,
    #[serde(rename = "hive_model")]
    _hive_model: StringOrNull,
    #[serde(rename = "hive_version")]
    _hive_version: StringOrNull,
}

/// Reads a derived struct from an object only.
struct ObjectOnly<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ObjectOnly<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = ObjectOnly<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(ObjectOnly)
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// Field `data` of an event.
enum DataField<'a> {
    Absent,
    /// Valid data of DETECTIONS.
    Checked(ValueHash),
    Unchecked(&'a RawValue),
}

impl DataField<'_> {
    /// Returns the hash of the data; `None` if it is not valid data of this kind.
    fn validate(&self, kind: DataKind) -> Option<ValueHash> {
        let raw = match self {
            DataField::Absent => {
                return (kind == DataKind::OptionalObject).then_some(ValueHash::NULL);
            }
            DataField::Checked(hash) => return (kind == DataKind::Detections).then_some(*hash),
            DataField::Unchecked(raw) => raw,
        };
        let text = raw.get();
        match kind {
            DataKind::Count => hash_count(text),
            DataKind::Traffic => serde_json::from_str::<TrafficHash>(text)
                .ok()
                .map(|traffic| traffic.0),
            DataKind::Detections => serde_json::from_str::<DetectionsHash>(text)
                .ok()
                .map(|detections| detections.0),
            DataKind::OptionalObject => {
                (text == "null" || text.starts_with('{')).then(|| ValueHash::from_json(raw))
            }
        }
    }
}

/// Hash of a valid count.
fn hash_count(text: &str) -> Option<ValueHash> {
    let count = rules::parse_integer(text, rules::MAX_COUNT).ok()?;
    Some(ValueHash::from_integer(count))
}

/// Hash of valid data of TRAFFIC.
struct TrafficHash(ValueHash);

impl<'de> Deserialize<'de> for TrafficHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CountHash(ValueHash);
        impl From<CountHash> for ValueHash {
            fn from(count: CountHash) -> Self {
                count.0
            }
        }
        impl<'de> Deserialize<'de> for CountHash {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let number = <&RawValue>::deserialize(deserializer)?.get();
                hash_count(number).map(CountHash).ok_or_else(invalid_event)
            }
        }
        let fields = RequiredFields::<CountHash, 2>(&rules::TRAFFIC, PhantomData);
        deserializer.deserialize_map(fields).map(TrafficHash)
    }
}

/// Hash of valid data of DETECTIONS.
struct DetectionsHash(ValueHash);

impl<'de> Deserialize<'de> for DetectionsHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = RequiredFields::<PointsHash, 2>(&rules::DETECTIONS, PhantomData);
        deserializer.deserialize_map(fields).map(DetectionsHash)
    }
}

/// Reads an object that has each of the named fields exactly once, with a valid `T`.
struct RequiredFields<T, const N: usize>(&'static FieldNames<N>, PhantomData<T>);

impl<'de, T: Deserialize<'de> + Into<ValueHash>, const N: usize> Visitor<'de>
    for RequiredFields<T, N>
{
    type Value = ValueHash;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ValueHash, A::Error> {
        let mut seen = SeenFields::default();
        let mut object = ObjectHasher::new();
        while let Some(key) = map.next_key_seed(FieldKeySeed(self.0))? {
            match key {
                Ok(index) => {
                    seen.add(index)?;
                    let key = ValueHash::from_integer(index as i64);
                    object.insert(key, map.next_value::<T>()?.into());
                }
                Err(unknown_key) => {
                    object.insert(
                        unknown_key,
                        ValueHash::from_json(map.next_value::<&RawValue>()?),
                    );
                }
            }
        }
        if seen.0.count_ones() as usize == N {
            Ok(object.finish())
        } else {
            Err(invalid_event())
        }
    }
}

/// Reads a key as its index among the documented ones, or as its hash if it is not documented.
struct FieldKeySeed<const N: usize>(&'static FieldNames<N>);

impl<'de, const N: usize> DeserializeSeed<'de> for FieldKeySeed<N> {
    type Value = Result<usize, ValueHash>;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<const N: usize> Visitor<'_> for FieldKeySeed<N> {
    type Value = Result<usize, ValueHash>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    #[inline]
    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self
            .0
            .index_of(key)
            .ok_or_else(|| ValueHash::from_text(key)))
    }
}

/// Hash of a valid list of points.
struct PointsHash(ValueHash);

impl From<PointsHash> for ValueHash {
    fn from(points: PointsHash) -> Self {
        points.0
    }
}

impl<'de> Deserialize<'de> for PointsHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PointsVisitor;
        impl<'de> Visitor<'de> for PointsVisitor {
            type Value = PointsHash;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of points")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<PointsHash, A::Error> {
                let mut hash = ListHasher::new();
                while let Some((x, y)) = list.next_element::<(f64, f64)>()? {
                    hash.push(ValueHash::from_number(x));
                    hash.push(ValueHash::from_number(y));
                }
                Ok(PointsHash(hash.finish()))
            }
        }
        deserializer.deserialize_seq(PointsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use serde::forward_to_deserialize_any;

    use super::*;

    /// Returns the field names that a derived struct asks for, as an error text.
    struct FieldNamesOnly;

    impl<'de> Deserializer<'de> for FieldNamesOnly {
        type Error = serde::de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(Error::custom("not a struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            Err(Error::custom(fields.join(" ")))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
            option unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
            ignored_any
        }
    }

    #[test]
    fn metadata_has_the_documented_fields() {
        let fields = EventMetadata::deserialize(FieldNamesOnly).err().unwrap();
        assert_eq!(fields.to_string(), rules::METADATA.as_array().join(" "));
    }
}
