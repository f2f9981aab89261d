//! The configuration as a tree. Each value remembers its origin, and one layer merges over another.
//!
//! A [`ConfigNode`] has the shape that [`keys`] requires. Building a node reports unknown keys and
//! wrong shapes and leaves them out, so readers only interpret values. A node has no `Debug`,
//! because it holds secrets.

use super::error::{ConfigErrors, ValueOrigin};
use super::keys::{self, KeyShape};
use super::suggestion::find_nearest;
use super::written_value::describe_type;
use butlr_event::EventType;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use toml::Value;

/// Table whose names are event types, which have several spellings.
const TYPES_TABLE: &str = "topics.types";

#[derive(Clone)]
pub(super) struct ConfigNode {
    pub origin: ValueOrigin,
    pub data: NodeData,
}

#[derive(Clone)]
pub(super) enum NodeData {
    Value(Value),
    /// Items with their index in the array as written; an item of a wrong shape is left out.
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

    /// Merges `over` into this node: tables merge by key, everything else is replaced as a whole.
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
                let origin = over.origin;
                *self = ConfigNode { origin, data };
            }
        }
    }
}

/// Path of a node: the key as the user writes it, and its pattern in [`keys`].
#[derive(Clone, Default)]
pub(super) struct KeyPath {
    pub key: String,
    pub pattern: String,
}

impl KeyPath {
    /// Returns the path of `name` in the table at this path, and its canonical name. The error
    /// suggests a name.
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
        let has_name =
            |key: &&str| key.rsplit('.').next() == Some(name) && !key.contains(['*', '[']);
        if let Some(key) = keys::KEYS.iter().map(|known| known.key).find(has_name) {
            return format!("unknown key; did you mean {key}?");
        }
        format!("unknown key; known keys here: {}", siblings.join(", "))
    }
}

fn parse_type_name(name: &str) -> Result<&'static str, String> {
    EventType::parse(name).map(EventType::name).ok_or_else(|| {
        let names = EventType::ALL.map(EventType::name);
        match find_nearest(name, names) {
            Some(near) => format!("unknown event type; did you mean {near}?"),
            None => format!("unknown event type; known types: {}", names.join(", ")),
        }
    })
}

/// Makes a node of the value written at a path. Reports and leaves out everything that does not
/// belong there.
pub(super) fn build_node(
    value: Value,
    path: &KeyPath,
    origin: &ValueOrigin,
    errors: &ConfigErrors,
) -> Option<ConfigNode> {
    let data = match (keys::find_shape(&path.pattern)?, value) {
        (KeyShape::Table, Value::Table(table)) => {
            NodeData::Table(build_table(table, path, origin, errors))
        }
        (KeyShape::Array, Value::Array(items)) => NodeData::Items(
            items
                .into_iter()
                .enumerate()
                .filter_map(|(index, item)| {
                    Some((index, build_node(item, &path.item(index), origin, errors)?))
                })
                .collect(),
        ),
        (KeyShape::Value, value) if !matches!(value, Value::Table(_) | Value::Array(_)) => {
            NodeData::Value(value)
        }
        (expected, value) => {
            errors.add(
                &path.key,
                origin.clone(),
                describe_wrong_shape(expected, &value, path),
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
    path: &KeyPath,
    origin: &ValueOrigin,
    errors: &ConfigErrors,
) -> BTreeMap<String, ConfigNode> {
    let mut nodes = BTreeMap::new();
    for (written, value) in table {
        let key = keys::join_quoted(&path.key, &written);
        match path.child(&written) {
            Err(problem) => errors.add(key, origin.clone(), problem),
            Ok((_, name)) if nodes.contains_key(&name) => {
                errors.add(
                    key,
                    origin.clone(),
                    format!("{name} is given twice, in two spellings; remove one"),
                );
            }
            Ok((child, name)) => {
                if let Some(node) = build_node(value, &child, origin, errors) {
                    nodes.insert(name, node);
                }
            }
        }
    }
    nodes
}

/// Describes a value by its type only: it may be a secret, written under a wrong key.
fn describe_wrong_shape(expected: KeyShape, found: &Value, path: &KeyPath) -> String {
    let found = describe_type(found);
    let table = path.key.as_str();
    match expected {
        KeyShape::Value if path.pattern.starts_with("kafka.") && path.pattern.ends_with(".*") => {
            format!(
                "one value is expected, not {found}; write the name of a property in quotes, \
                 as in \"sasl.username\" = \"…\""
            )
        }
        KeyShape::Value => format!("one value is expected, not {found}"),
        KeyShape::Table => format!("a table is expected, such as {{ … }}, not {found}"),
        KeyShape::Array => {
            format!("an array of tables is expected, such as [[{table}]], not {found}")
        }
    }
}
