//! The configuration as a tree in which every value remembers where it was written, and the laying of one layer over
//! another.
//!
//! A [`Node`] has the shape that [`keys`] demands: building one reports unknown keys and wrong shapes and leaves them out,
//! so that whoever reads the tree only meets values to interpret. A node has no `Debug`: it holds secrets.

use super::keys::{self, Shape};
use super::mistake::{Mistakes, Origin};
use super::suggest::nearest;
use super::written::kind;
use butlr_event::EventType;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use toml::Value;

/// Where the names of tables are event types, which have several spellings.
const TYPES: &str = "topics.types";

#[derive(Clone)]
pub(super) struct Node {
    pub origin: Origin,
    pub data: Data,
}

#[derive(Clone)]
pub(super) enum Data {
    Value(Value),
    /// With their places in the array as written: an item that is none is left out.
    Items(Vec<(usize, Node)>),
    Table(BTreeMap<String, Node>),
}

impl Node {
    pub fn empty_table() -> Self {
        Self {
            origin: Origin::File,
            data: Data::Table(BTreeMap::new()),
        }
    }

    /// Lays `over` on this node: tables merge by key, all else is replaced whole.
    pub fn lay(&mut self, over: Node) {
        match (&mut self.data, over.data) {
            (Data::Table(under), Data::Table(over)) => {
                for (name, node) in over {
                    match under.entry(name) {
                        Entry::Occupied(mut entry) => entry.get_mut().lay(node),
                        Entry::Vacant(entry) => {
                            entry.insert(node);
                        }
                    }
                }
            }
            (_, data) => {
                *self = Node {
                    origin: over.origin,
                    data,
                }
            }
        }
    }
}

/// A place in the tree: its key as the user knows it, and as [`keys`] knows it.
#[derive(Clone, Default)]
pub(super) struct Place {
    pub key: String,
    pub pattern: String,
}

impl Place {
    /// The place of `name` in the table at this place; `Err` says that there is none and what is near.
    pub fn child(&self, name: &str) -> Result<(Place, String), String> {
        let pattern = keys::child(&self.pattern, name).ok_or_else(|| self.unknown(name))?;
        let name = if self.pattern == TYPES {
            canonical_type(name)?
        } else {
            name
        };
        Ok((
            Place {
                key: keys::join_quoted(&self.key, name),
                pattern,
            },
            name.to_owned(),
        ))
    }

    pub fn item(&self, index: usize) -> Place {
        Place {
            key: format!("{}[{index}]", self.key),
            pattern: format!("{}[]", self.pattern),
        }
    }

    fn unknown(&self, name: &str) -> String {
        let siblings = keys::children(&self.pattern);
        if let Some(near) = nearest(name, siblings.iter().copied()) {
            return format!("unknown key; did you mean {near}?");
        }
        // The right name in the wrong section.
        let elsewhere =
            |key: &&str| key.rsplit('.').next() == Some(name) && !key.contains(['*', '[']);
        if let Some(elsewhere) = keys::KEYS.iter().map(|known| known.key).find(elsewhere) {
            return format!("unknown key; did you mean {elsewhere}?");
        }
        format!("unknown key; known here: {}", siblings.join(", "))
    }
}

fn canonical_type(name: &str) -> Result<&'static str, String> {
    EventType::parse(name).map(EventType::name).ok_or_else(|| {
        let names = EventType::ALL.map(EventType::name);
        match nearest(name, names) {
            Some(near) => format!("unknown event type; did you mean {near}?"),
            None => format!("unknown event type; known: {}", names.join(", ")),
        }
    })
}

/// Makes a node of what was written at a place. What does not belong there is reported and left out.
pub(super) fn build(
    value: Value,
    place: &Place,
    origin: &Origin,
    mistakes: &Mistakes,
) -> Option<Node> {
    let data = match (keys::shape(&place.pattern)?, value) {
        (Shape::Table, Value::Table(table)) => {
            Data::Table(build_table(table, place, origin, mistakes))
        }
        (Shape::Array, Value::Array(items)) => Data::Items(
            items
                .into_iter()
                .enumerate()
                .filter_map(|(index, item)| {
                    Some((index, build(item, &place.item(index), origin, mistakes)?))
                })
                .collect(),
        ),
        (Shape::Value, value) if !matches!(value, Value::Table(_) | Value::Array(_)) => {
            Data::Value(value)
        }
        (wanted, value) => {
            mistakes.add(
                &place.key,
                origin.clone(),
                wrong_shape(wanted, &value, place),
            );
            return None;
        }
    };
    Some(Node {
        origin: origin.clone(),
        data,
    })
}

fn build_table(
    table: toml::Table,
    place: &Place,
    origin: &Origin,
    mistakes: &Mistakes,
) -> BTreeMap<String, Node> {
    let mut nodes = BTreeMap::new();
    for (written, value) in table {
        let key = keys::join_quoted(&place.key, &written);
        match place.child(&written) {
            Err(problem) => mistakes.add(key, origin.clone(), problem),
            Ok((_, name)) if nodes.contains_key(&name) => {
                mistakes.add(
                    key,
                    origin.clone(),
                    format!("{name} is given twice, in two spellings"),
                );
            }
            Ok((child, name)) => {
                if let Some(node) = build(value, &child, origin, mistakes) {
                    nodes.insert(name, node);
                }
            }
        }
    }
    nodes
}

/// Says what stands there by its type alone: the value may be a secret that slipped to the wrong place.
fn wrong_shape(wanted: Shape, found: &Value, place: &Place) -> String {
    let found = kind(found);
    let table = place.key.as_str();
    match wanted {
        Shape::Value if place.pattern.starts_with("kafka.") && place.pattern.ends_with(".*") => {
            format!(
                "one value is expected, not {found}; a property's name contains dots and \
                 needs quotes, as in \"sasl.username\" = \"…\""
            )
        }
        Shape::Value => format!("one value is expected, not {found}"),
        Shape::Table => format!("a table is expected, such as {{ … }}, not {found}"),
        Shape::Array => {
            format!("an array of tables is expected, such as [[{table}]], not {found}")
        }
    }
}
