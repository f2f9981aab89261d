//! A JSON tree that keeps repeated keys, which `serde_json::Value` does not.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A JSON value.
#[derive(Debug)]
pub enum JsonTree {
    Null,
    Bool,
    /// A number that serde_json reads as an integer of 64 bits.
    Integer(i128),
    /// Any other number, rounded to a double. Its digits are lost.
    Double(f64),
    Text(String),
    Array(Vec<JsonTree>),
    /// Every key with its value, in the order of the text.
    Object(Vec<(String, JsonTree)>),
}

impl JsonTree {
    /// Returns the values of `key`, or none at all if this is not an object.
    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a JsonTree> {
        let fields = match self {
            JsonTree::Object(fields) => fields.as_slice(),
            _ => &[],
        };
        fields
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value)
    }

    /// Returns the deepest nesting of arrays and objects.
    pub fn depth(&self) -> usize {
        match self {
            JsonTree::Array(items) => 1 + items.iter().map(JsonTree::depth).max().unwrap_or(0),
            JsonTree::Object(fields) => {
                1 + fields
                    .iter()
                    .map(|(_, value)| value.depth())
                    .max()
                    .unwrap_or(0)
            }
            _ => 0,
        }
    }
}

impl<'de> Deserialize<'de> for JsonTree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonTreeVisitor)
    }
}

struct JsonTreeVisitor;

impl<'de> Visitor<'de> for JsonTreeVisitor {
    type Value = JsonTree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<JsonTree, E> {
        Ok(JsonTree::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<JsonTree, E> {
        Ok(JsonTree::Bool)
    }

    fn visit_i64<E>(self, number: i64) -> Result<JsonTree, E> {
        Ok(JsonTree::Integer(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<JsonTree, E> {
        Ok(JsonTree::Integer(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<JsonTree, E> {
        Ok(JsonTree::Double(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<JsonTree, E> {
        Ok(JsonTree::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<JsonTree, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(JsonTree::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<JsonTree, A::Error> {
        let mut object = Vec::new();
        while let Some(field) = fields.next_entry()? {
            object.push(field);
        }
        Ok(JsonTree::Object(object))
    }
}
