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

use super::rules::{self, Data, Key, Names, Space, envelope, metadata};
use super::value_hash::{List, Object, ValueHash};
use super::{Event, EventType};

/// The event that `text` is, if it is a valid one of the expected type. `text` has no white space around it.
pub(crate) fn read(text: &str, expected: Option<EventType>) -> Option<Event<'_>> {
    let mut json = serde_json::Deserializer::from_str(text);
    let event = Envelope { text, expected }.deserialize(&mut json).ok()?;
    json.end().ok()?;
    Some(event)
}

/// Which of an object's documented fields were there.
#[derive(Default)]
struct Seen(u32);

impl Seen {
    fn mark<E: Error>(&mut self, place: usize) -> Result<(), E> {
        let bit = 1 << place;
        if self.0 & bit != 0 {
            return Err(no());
        }
        self.0 |= bit;
        Ok(())
    }
}

/// The error of this pass.
#[cold]
fn no<E: Error>() -> E {
    E::custom("not valid")
}

/// A string. (An `Option<Cow<str>>` of serde's own would always be copied.)
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    #[inline]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow<'a>(PhantomData<&'a str>);
        impl<'de: 'a, 'a> Visitor<'de> for Borrow<'a> {
            type Value = Text<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            #[inline]
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow(PhantomData))
    }
}

/// A string that is looked at and let go.
struct Check<T>(fn(&str) -> Option<T>);

impl<'de, T> DeserializeSeed<'de> for Check<T> {
    type Value = T;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T> Visitor<'_> for Check<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a valid string")
    }

    #[inline]
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).ok_or_else(no)
    }
}

/// A string or null that nothing is read from.
struct StringOrNull;

impl<'de> Deserialize<'de> for StringOrNull {
    #[inline]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Accept;
        impl Visitor<'_> for Accept {
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
        deserializer.deserialize_any(Accept)
    }
}

/// The whole event.
struct Envelope<'a> {
    text: &'a str,
    expected: Option<EventType>,
}

impl<'de> DeserializeSeed<'de> for Envelope<'de> {
    type Value = Event<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Envelope<'de> {
    type Value = Event<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut seen = Seen::default();
        let mut id = None;
        let mut event_type = None;
        let mut timestamp_ms = None;
        let mut version = None;
        let mut place = None;
        let mut data = Payload::Absent;
        while let Some(key) = map.next_key_seed(Key(&rules::ENVELOPE))? {
            let Some(key) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            seen.mark(key)?;
            match key {
                envelope::ID => id = Some(map.next_value::<Text<'_>>()?.0),
                envelope::TYPE => event_type = Some(map.next_value_seed(Check(EventType::parse))?),
                envelope::TIMESTAMP => {
                    let number = map.next_value::<&RawValue>()?.get();
                    timestamp_ms =
                        Some(rules::integral(number, rules::MAX_TIMESTAMP_MS).map_err(|_| no())?);
                }
                envelope::VERSION => {
                    version = Some(map.next_value_seed(Check(|text| rules::version(text).ok()))?);
                }
                envelope::METADATA => place = Some(map.next_value::<Metadata<'_>>()?),
                _ => {
                    data = match event_type {
                        // The usual order of fields: the data need no second look.
                        Some(event_type) if rules::data(event_type) == Data::Detections => {
                            Payload::Checked(map.next_value::<Detections>()?.0)
                        }
                        _ => Payload::Unchecked(map.next_value::<&RawValue>()?),
                    };
                }
            }
        }
        let (Some(id), Some(event_type), Some(timestamp_ms), Some(()), Some(place)) =
            (id, event_type, timestamp_ms, version, place)
        else {
            return Err(no());
        };
        if self.expected.is_some_and(|expected| expected != event_type) || rules::id(&id).is_err() {
            return Err(no());
        }
        let data = data.checked(rules::data(event_type)).ok_or_else(no)?;
        let Metadata {
            org_id,
            sensor_id,
            floor_id,
            room_id,
            zone_id,
        } = place;
        let space_id = match rules::space(event_type) {
            Space::RoomElseFloor => room_id.or(floor_id),
            Space::In(metadata::FLOOR_ID) => floor_id,
            Space::In(metadata::ROOM_ID) => room_id,
            Space::In(_) => zone_id,
        };
        let space_id = space_id.filter(|id| rules::id(id).is_ok()).ok_or_else(no)?;
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
struct Metadata<'a> {
    org_id: Option<Cow<'a, str>>,
    floor_id: Option<Cow<'a, str>>,
    room_id: Option<Cow<'a, str>>,
    zone_id: Option<Cow<'a, str>>,
    sensor_id: Option<Cow<'a, str>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Metadata<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<'a>(PhantomData<&'a str>);
        impl<'de: 'a, 'a> Visitor<'de> for Fields<'a> {
            type Value = Metadata<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("metadata")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut seen = Seen::default();
                let mut read = Metadata::default();
                while let Some(key) = map.next_key_seed(Key(&rules::METADATA))? {
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
                    *field = map.next_value::<Option<Text<'_>>>()?.map(|text| text.0);
                }
                Ok(read)
            }
        }
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// The event's `data`.
enum Payload<'a> {
    Absent,
    /// DETECTIONS', and they are valid.
    Checked(ValueHash),
    Unchecked(&'a RawValue),
}

impl Payload<'_> {
    /// Its hash, if it is what the rule says.
    fn checked(&self, rule: Data) -> Option<ValueHash> {
        let raw = match self {
            Payload::Absent => return (rule == Data::Nothing).then_some(ValueHash::NULL),
            Payload::Checked(hash) => return (rule == Data::Detections).then_some(*hash),
            Payload::Unchecked(raw) => raw,
        };
        let text = raw.get();
        match rule {
            Data::Count => count(text),
            Data::Traffic => serde_json::from_str::<Traffic>(text).ok().map(|t| t.0),
            Data::Detections => serde_json::from_str::<Detections>(text).ok().map(|d| d.0),
            Data::Nothing => (text == "null" || text.starts_with('{')).then(|| ValueHash::of(raw)),
        }
    }
}

/// A valid count's hash.
fn count(text: &str) -> Option<ValueHash> {
    let count = rules::integral(text, rules::MAX_COUNT).ok()?;
    Some(ValueHash::integer(count))
}

/// Valid data of TRAFFIC.
struct Traffic(ValueHash);

impl<'de> Deserialize<'de> for Traffic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count(ValueHash);
        impl From<Count> for ValueHash {
            fn from(count: Count) -> Self {
                count.0
            }
        }
        impl<'de> Deserialize<'de> for Count {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let number = <&RawValue>::deserialize(deserializer)?.get();
                count(number).map(Count).ok_or_else(no)
            }
        }
        let both = Both::<Count, 2>(&rules::TRAFFIC, PhantomData);
        deserializer.deserialize_map(both).map(Traffic)
    }
}

/// Valid data of DETECTIONS.
struct Detections(ValueHash);

impl<'de> Deserialize<'de> for Detections {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let both = Both::<Points, 2>(&rules::DETECTIONS, PhantomData);
        deserializer.deserialize_map(both).map(Detections)
    }
}

/// An object in which each of the named fields is there, once, and a valid `T`.
struct Both<T, const N: usize>(&'static Names<N>, PhantomData<T>);

impl<'de, T: Deserialize<'de> + Into<ValueHash>, const N: usize> Visitor<'de> for Both<T, N> {
    type Value = ValueHash;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ValueHash, A::Error> {
        let mut seen = Seen::default();
        let mut object = Object::new();
        while let Some(key) = map.next_key_seed(Field(self.0))? {
            match key {
                Ok(known) => {
                    seen.mark(known)?;
                    let key = ValueHash::integer(known as i64);
                    object.insert(key, map.next_value::<T>()?.into());
                }
                Err(unknown) => {
                    object.insert(unknown, ValueHash::of(map.next_value::<&RawValue>()?));
                }
            }
        }
        if seen.0.count_ones() as usize == N {
            Ok(object.end())
        } else {
            Err(no())
        }
    }
}

/// A key: its place among the documented ones, or else its hash.
struct Field<const N: usize>(&'static Names<N>);

impl<'de, const N: usize> DeserializeSeed<'de> for Field<N> {
    type Value = Result<usize, ValueHash>;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<const N: usize> Visitor<'_> for Field<N> {
    type Value = Result<usize, ValueHash>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    #[inline]
    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.place(key).ok_or_else(|| ValueHash::text(key)))
    }
}

/// A valid list of points.
struct Points(ValueHash);

impl From<Points> for ValueHash {
    fn from(points: Points) -> Self {
        points.0
    }
}

impl<'de> Deserialize<'de> for Points {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Points;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of points")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Points, A::Error> {
                let mut hash = List::new();
                while let Some((x, y)) = list.next_element::<(f64, f64)>()? {
                    hash.push(ValueHash::number(x));
                    hash.push(ValueHash::number(y));
                }
                Ok(Points(hash.end()))
            }
        }
        deserializer.deserialize_seq(Each)
    }
}
