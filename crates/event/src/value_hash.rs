//! Hash of a JSON value: the order of keys, white space, and `4` or `4.0` make no difference; the
//! order of a list does.
//!
//! Numbers that are not 64-bit integers are hashed as doubles, and those too large for a double by
//! their text.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

/// Hash of one value. Replicas compare it, so it is the same in every process and release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ValueHash(pub(crate) u64);

/// Tags that distinguish values of different JSON types.
mod tag {
    pub const NULL: u64 = 0x2545_f491_4f6c_dd1d;
    pub const BOOL: u64 = 0x9e6c_63d0_9a1a_f0cb;
    pub const INTEGER: u64 = 0xd1b5_4a32_d192_ed03;
    pub const DOUBLE: u64 = 0x8cb9_2ba7_2f3d_8dd7;
    pub const TEXT: u64 = 0xaef1_7502_108e_f2d9;
    pub const LIST: u64 = 0x6a09_e667_f3bc_c909;
    pub const OBJECT: u64 = 0xbb67_ae85_84ca_a73b;
    pub const BIG_NUMBER: u64 = 0x3c6e_f372_fe94_f82b;
}

/// Folded multiplication as in wyhash: every input bit affects every output bit.
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0x9e37_79b9_7f4a_7c15) * u128::from(b ^ 0xbf58_476d_1ce4_e5b9);
    (product as u64) ^ (product >> 64) as u64 ^ b.rotate_left(32)
}

impl ValueHash {
    /// Hash of null and of an absent value.
    pub(crate) const NULL: Self = Self(tag::NULL);

    pub(crate) fn from_integer(value: i64) -> Self {
        Self(mix(tag::INTEGER, value as u64))
    }

    #[inline]
    pub(crate) fn from_number(value: f64) -> Self {
        let whole = value as i64;
        if whole as f64 == value && whole != i64::MAX {
            Self::from_integer(whole)
        } else {
            Self(mix(tag::DOUBLE, value.to_bits()))
        }
    }

    pub(crate) fn from_text(text: &str) -> Self {
        Self(mix(tag::TEXT, xxh3_64(text.as_bytes())))
    }

    /// Hashes any JSON value.
    pub(crate) fn from_json(value: &RawValue) -> Self {
        // `value` is JSON, so this fails only for a number too large for a double.
        let hash = serde_json::from_str(value.get());
        hash.unwrap_or_else(|_| Self(mix(tag::BIG_NUMBER, xxh3_64(value.get().as_bytes()))))
    }
}

/// Hashes a list, item by item.
pub(crate) struct ListHasher {
    hash: u64,
    length: u64,
}

impl ListHasher {
    pub(crate) fn new() -> Self {
        Self {
            hash: tag::LIST,
            length: 0,
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, item: ValueHash) {
        self.hash = mix(self.hash, item.0);
        self.length += 1;
    }

    pub(crate) fn finish(self) -> ValueHash {
        ValueHash(mix(self.hash, self.length))
    }
}

/// Hashes an object, field by field, in any order.
pub(crate) struct ObjectHasher {
    sum: u64,
    length: u64,
}

impl ObjectHasher {
    pub(crate) fn new() -> Self {
        Self { sum: 0, length: 0 }
    }

    pub(crate) fn insert(&mut self, key: ValueHash, value: ValueHash) {
        self.sum = self.sum.wrapping_add(mix(key.0, value.0));
        self.length += 1;
    }

    pub(crate) fn finish(self) -> ValueHash {
        ValueHash(mix(mix(tag::OBJECT, self.sum), self.length))
    }
}

impl<'de> Deserialize<'de> for ValueHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueHashVisitor)
    }
}

/// Hashes a key.
struct KeyHashSeed;

impl<'de> DeserializeSeed<'de> for KeyHashSeed {
    type Value = ValueHash;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<ValueHash, D::Error> {
        deserializer.deserialize_str(ValueHashVisitor)
    }
}

struct ValueHashVisitor;

impl<'de> Visitor<'de> for ValueHashVisitor {
    type Value = ValueHash;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<ValueHash, E> {
        Ok(ValueHash::NULL)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<ValueHash, E> {
        Ok(ValueHash(mix(tag::BOOL, u64::from(value))))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<ValueHash, E> {
        Ok(ValueHash::from_integer(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<ValueHash, E> {
        Ok(match i64::try_from(value) {
            Ok(value) => ValueHash::from_integer(value),
            Err(_) => ValueHash(mix(tag::DOUBLE, (value as f64).to_bits())),
        })
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<ValueHash, E> {
        Ok(ValueHash::from_number(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<ValueHash, E> {
        Ok(ValueHash::from_text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<ValueHash, A::Error> {
        let mut list = ListHasher::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(list.finish())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<ValueHash, A::Error> {
        let mut object = ObjectHasher::new();
        while let Some(key) = fields.next_key_seed(KeyHashSeed)? {
            object.insert(key, fields.next_value()?);
        }
        Ok(object.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(json: &str) -> ValueHash {
        ValueHash::from_json(serde_json::from_str::<&RawValue>(json).unwrap())
    }

    #[test]
    fn spelling_makes_no_difference() {
        for (a, b) in [
            ("4", "4.0"),
            ("4", "40e-1"),
            ("0", "-0.0"),
            ("2.5", "2.50"),
            ("9223372036854775808", "9223372036854775808.0"),
            (r#"{"a":1,"b":[1,2]}"#, r#" { "b" : [1.0,2] , "a":1e0 } "#),
            (r#""é""#, r#""\u00e9""#),
            (r#"{"é":null}"#, r#"{"\u00e9":null}"#),
        ] {
            let (left, right) = (hash(a.trim()), hash(b.trim()));
            assert_eq!(left, right, "{a} {b}");
        }
    }

    #[test]
    fn different_values_have_different_hashes() {
        let values = [
            "null",
            "true",
            "false",
            "0",
            "1",
            "-1",
            "1.5",
            "9223372036854775807",
            "9223372036854775808",
            "1e999",
            "1e998",
            r#""""#,
            r#""1""#,
            r#""null""#,
            "[]",
            "[[]]",
            "[1]",
            "[1,1]",
            "[1,2]",
            "[2,1]",
            "[[1],2]",
            "[[1,2]]",
            "{}",
            r#"{"a":1}"#,
            r#"{"a":2}"#,
            r#"{"b":1}"#,
            r#"{"a":1,"b":1}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1}}"#,
            r#"{"b":{"a":1}}"#,
            r#"{"a":1,"b":2}"#,
            r#"{"a":2,"b":1}"#,
        ];
        for (i, a) in values.iter().enumerate() {
            for b in &values[i + 1..] {
                assert_ne!(hash(a), hash(b), "{a} {b}");
            }
        }
    }

    /// Replicas and releases compare hashes.
    #[test]
    fn hashes_are_stable() {
        let value = hash(r#"{"local":[[0.25,0.5]],"world":[[1,2.5]],"x":["a",null,true]}"#);
        assert_eq!(value.0, 11_579_030_860_440_287_048);
    }
}
