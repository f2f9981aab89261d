//! The configuration as a tree in which every value remembers where it was written, and the laying of one layer over
//! another.
//!
//! A [`Node`] has the shape that [`keys`] demands: building one reports unknown keys and wrong shapes and leaves them out,
//! so that whoever reads the tree only meets values to interpret. A node has no `Debug`: it holds secrets.

use super::error::{ConfigErrors, ValueOrigin};
use super::keys::{self, KeyShape};
use super::suggestion::find_nearest;
use super::written_value::describe_type;
use butlr_event::EventType;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use toml::Value;

/// Where the names of tables are event types, which have several spellings.
const TYPES_TABLE: &str = "topics.types";

#[derive(Clone)]
pub(super) struct ConfigNode {
    pub origin: ValueOrigin,
    pub data: NodeData,
}

#[derive(Clone)]
pub(super) enum NodeData {
    Value(Value),
    /// With their places in the array as written: an item that is none is left out.
    Items(Vec<(usize, ConfigNode)>),
    Table(BTreeMap<String, ConfigNode>),
}

impl ConfigNode {
    pub fn empty_table() -> Self {
        Self {
            origin: ValueOrigin::File,
            data: NodeData::Table(BTreeMap::new()),
        }
    }

    /// Lays `over` on this node: tables merge by key, all else is replaced whole.
    pub fn merge(&mut self, over: ConfigNode) {
        match (&mut self.data, over.data) {
            (NodeData::Table(under), NodeData::Table(over)) => {
                for (name, node) in over {
                    match under.entry(name) {
                        Entry::Occupied(mut entry) => entry.get_mut().merge(node),
                        Entry::Vacant(entry) => {
                            entry.insert(node);
                        }
                    }
                }
            }
            (_, data) => {
                *self = ConfigNode {
                    origin: over.origin,
                    data,
                }
            }
        }
    }
}

/// A place in the tree: its key as the user knows it, and as [`keys`] knows it.
#[derive(Clone, Default)]
pub(super) struct KeyPath {
    pub key: String,
    pub pattern: String,
}

impl KeyPath {
    /// The place of `name` in the table at this place; `Err` says that there is none and what is near.
    pub fn child(&self, name: &str) -> Result<(KeyPath, String), String> {
        let pattern =
            keys::child_pattern(&self.pattern, name).ok_or_else(|| self.describe_unknown(name))?;
        let name = if self.pattern == TYPES_TABLE {
            parse_type_name(name)?
        } else {
            name
        };
        Ok((
            KeyPath {
                key: keys::join_quoted(&self.key, name),
                pattern,
            },
            name.to_owned(),
        ))
    }

    pub fn item(&self, index: usize) -> KeyPath {
        KeyPath {
            key: format!("{}[{index}]", self.key),
            pattern: format!("{}[]", self.pattern),
        }
    }

    fn describe_unknown(&self, name: &str) -> String {
        let siblings = keys::child_names(&self.pattern);
        if let Some(near) = find_nearest(name, siblings.iter().copied()) {
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

fn parse_type_name(name: &str) -> Result<&'static str, String> {
    EventType::parse(name).map(EventType::name).ok_or_else(|| {
        let names = EventType::ALL.map(EventType::name);
        match find_nearest(name, names) {
            Some(near) => format!("unknown event type; did you mean {near}?"),
            None => format!("unknown event type; known: {}", names.join(", ")),
        }
    })
}

/// Makes a node of what was written at a place. What does not belong there is reported and left out.
pub(super) fn build_node(
    value: Value,
    place: &KeyPath,
    origin: &ValueOrigin,
    mistakes: &ConfigErrors,
) -> Option<ConfigNode> {
    let data = match (keys::find_shape(&place.pattern)?, value) {
        (KeyShape::Table, Value::Table(table)) => {
            NodeData::Table(build_table(table, place, origin, mistakes))
        }
        (KeyShape::Array, Value::Array(items)) => NodeData::Items(
            items
                .into_iter()
                .enumerate()
                .filter_map(|(index, item)| {
                    Some((
                        index,
                        build_node(item, &place.item(index), origin, mistakes)?,
                    ))
                })
                .collect(),
        ),
        (KeyShape::Value, value) if !matches!(value, Value::Table(_) | Value::Array(_)) => {
            NodeData::Value(value)
        }
        (wanted, value) => {
            mistakes.add(
                &place.key,
                origin.clone(),
                describe_wrong_shape(wanted, &value, place),
            );
            return None;
        }
    };
    Some(ConfigNode {
        origin: origin.clone(),
        data,
    })
}

fn build_table(
    table: toml::Table,
    place: &KeyPath,
    origin: &ValueOrigin,
    mistakes: &ConfigErrors,
) -> BTreeMap<String, ConfigNode> {
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
                if let Some(node) = build_node(value, &child, origin, mistakes) {
                    nodes.insert(name, node);
                }
            }
        }
    }
    nodes
}

/// Says what stands there by its type alone: the value may be a secret that slipped to the wrong place.
fn describe_wrong_shape(wanted: KeyShape, found: &Value, place: &KeyPath) -> String {
    let found = describe_type(found);
    let table = place.key.as_str();
    match wanted {
        KeyShape::Value if place.pattern.starts_with("kafka.") && place.pattern.ends_with(".*") => {
            format!(
                "one value is expected, not {found}; a property's name contains dots and \
                 needs quotes, as in \"sasl.username\" = \"…\""
            )
        }
        KeyShape::Value => format!("one value is expected, not {found}"),
        KeyShape::Table => format!("a table is expected, such as {{ … }}, not {found}"),
        KeyShape::Array => {
            format!("an array of tables is expected, such as [[{table}]], not {found}")
        }
    }
}
