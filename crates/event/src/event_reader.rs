//! The typed pass: reads a valid event in one go and says no to everything else, without saying why.
//!
//! It is on the path of every event, so it allocates nothing: strings are borrowed from the body (those with escapes
//! are copied), the points of DETECTIONS are checked and let go. The errors it makes inside are only a way to stop.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::rules::{self, DataKind, FieldNameSeed, FieldNames, SpaceIdField, envelope, metadata};
use super::value_hash::{ListHasher, ObjectHasher, ValueHash};
use super::{Event, EventType};

/// The event that `text` is, if it is a valid one of the expected type. `text` has no white space around it.
pub(crate) fn read_event(text: &str, expected: Option<EventType>) -> Option<Event<'_>> {
    let mut json = serde_json::Deserializer::from_str(text);
    let event = EventSeed { text, expected }.deserialize(&mut json).ok()?;
    json.end().ok()?;
    Some(event)
}

/// Which of an object's documented fields were there.
#[derive(Default)]
struct SeenFields(u32);

impl SeenFields {
    fn mark<E: Error>(&mut self, place: usize) -> Result<(), E> {
        let bit = 1 << place;
        if self.0 & bit != 0 {
            return Err(invalid_event());
        }
        self.0 |= bit;
        Ok(())
    }
}

/// The error of this pass.
#[cold]
fn invalid_event<E: Error>() -> E {
    E::custom("not valid")
}

/// A string. (An `Option<Cow<str>>` of serde's own would always be copied.)
struct CowText<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for CowText<'a> {
    #[inline]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CowTextVisitor<'a>(PhantomData<&'a str>);
        impl<'de: 'a, 'a> Visitor<'de> for CowTextVisitor<'a> {
            type Value = CowText<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            #[inline]
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(CowText(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(CowText(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(CowTextVisitor(PhantomData))
    }
}

/// A string that is looked at and let go.
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

/// A string or null that nothing is read from.
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

/// The whole event.
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
        let mut place = None;
        let mut data = DataField::Absent;
        while let Some(key) = map.next_key_seed(FieldNameSeed(&rules::ENVELOPE))? {
            let Some(key) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            seen.mark(key)?;
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
                envelope::METADATA => place = Some(map.next_value::<EventMetadata<'_>>()?),
                _ => {
                    data = match event_type {
                        // The usual order of fields: the data need no second look.
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
        let (Some(id), Some(event_type), Some(timestamp_ms), Some(()), Some(place)) =
            (id, event_type, timestamp_ms, version, place)
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
        } = place;
        let space_id = match rules::space_id_field(event_type) {
            SpaceIdField::RoomOrFloor => room_id.or(floor_id),
            SpaceIdField::Named(metadata::FLOOR_ID) => floor_id,
            SpaceIdField::Named(metadata::ROOM_ID) => room_id,
            SpaceIdField::Named(_) => zone_id,
        };
        let space_id = space_id
            .filter(|id| rules::check_id(id).is_ok())
            .ok_or_else(invalid_event)?;
        Ok(Event {
            raw: self.text,
            id,
            event_type,
            timestamp_ms,
            space_id,
            org_id,
            sensor_id,
            data_hash: data.0,
        })
    }
}

/// What the bridge reads from `metadata`; null is as good as absent.
#[derive(Default)]
struct EventMetadata<'a> {
    org_id: Option<Cow<'a, str>>,
    floor_id: Option<Cow<'a, str>>,
    room_id: Option<Cow<'a, str>>,
    zone_id: Option<Cow<'a, str>>,
    sensor_id: Option<Cow<'a, str>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for EventMetadata<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MetadataVisitor<'a>(PhantomData<&'a str>);
        impl<'de: 'a, 'a> Visitor<'de> for MetadataVisitor<'a> {
            type Value = EventMetadata<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("metadata")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut seen = SeenFields::default();
                let mut read = EventMetadata::default();
                while let Some(key) = map.next_key_seed(FieldNameSeed(&rules::METADATA))? {
                    let Some(key) = key else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    seen.mark(key)?;
                    let field = match key {
                        metadata::ORG_ID => &mut read.org_id,
                        metadata::FLOOR_ID => &mut read.floor_id,
                        metadata::ROOM_ID => &mut read.room_id,
                        metadata::ZONE_ID => &mut read.zone_id,
                        metadata::SENSOR_ID => &mut read.sensor_id,
                        _ => {
                            map.next_value::<StringOrNull>()?;
                            continue;
                        }
                    };
                    *field = map.next_value::<Option<CowText<'_>>>()?.map(|text| text.0);
                }
                Ok(read)
            }
        }
        deserializer.deserialize_map(MetadataVisitor(PhantomData))
    }
}

/// The event's `data`.
enum DataField<'a> {
    Absent,
    /// DETECTIONS', and they are valid.
    Checked(ValueHash),
    Unchecked(&'a RawValue),
}

impl DataField<'_> {
    /// Its hash, if it is what the rule says.
    fn validate(&self, rule: DataKind) -> Option<ValueHash> {
        let raw = match self {
            DataField::Absent => {
                return (rule == DataKind::OptionalObject).then_some(ValueHash::NULL);
            }
            DataField::Checked(hash) => return (rule == DataKind::Detections).then_some(*hash),
            DataField::Unchecked(raw) => raw,
        };
        let text = raw.get();
        match rule {
            DataKind::Count => hash_count(text),
            DataKind::Traffic => serde_json::from_str::<TrafficHash>(text).ok().map(|t| t.0),
            DataKind::Detections => serde_json::from_str::<DetectionsHash>(text)
                .ok()
                .map(|d| d.0),
            DataKind::OptionalObject => {
                (text == "null" || text.starts_with('{')).then(|| ValueHash::from_json(raw))
            }
        }
    }
}

/// A valid count's hash.
fn hash_count(text: &str) -> Option<ValueHash> {
    let count = rules::parse_integer(text, rules::MAX_COUNT).ok()?;
    Some(ValueHash::from_integer(count))
}

/// Valid data of TRAFFIC.
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
        let both = RequiredFields::<CountHash, 2>(&rules::TRAFFIC, PhantomData);
        deserializer.deserialize_map(both).map(TrafficHash)
    }
}

/// Valid data of DETECTIONS.
struct DetectionsHash(ValueHash);

impl<'de> Deserialize<'de> for DetectionsHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let both = RequiredFields::<PointsHash, 2>(&rules::DETECTIONS, PhantomData);
        deserializer.deserialize_map(both).map(DetectionsHash)
    }
}

/// An object in which each of the named fields is there, once, and a valid `T`.
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
                Ok(known) => {
                    seen.mark(known)?;
                    let key = ValueHash::from_integer(known as i64);
                    object.insert(key, map.next_value::<T>()?.into());
                }
                Err(unknown) => {
                    object.insert(
                        unknown,
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

/// A key: its place among the documented ones, or else its hash.
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

/// A valid list of points.
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
