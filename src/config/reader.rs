//! Typed reading of the tree.
//!
//! Every error is collected. A value with an error reads as its default, so that reading goes on.

use super::error::{ConfigErrors, ValueOrigin};
use super::keys::{self, DefaultValue, KeySpec, ValueType};
use super::tree::{ConfigNode, KeyPath, NodeData};
use super::units::format_size;
use super::written_value::{Typing, WrittenValue, check_bounds, parse_as};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::Value;

/// Reader of one table of the tree, which need not exist.
pub(super) struct SectionReader<'n> {
    node: Option<&'n ConfigNode>,
    path: KeyPath,
    errors: &'n ConfigErrors,
}

impl<'n> SectionReader<'n> {
    pub fn root(tree: &'n ConfigNode, errors: &'n ConfigErrors) -> Self {
        Self {
            node: Some(tree),
            path: KeyPath::default(),
            errors,
        }
    }

    /// Returns the reader of the table `name` in this one.
    pub fn section(&self, name: &str) -> SectionReader<'n> {
        let (path, name) = self.child_path(name);
        SectionReader {
            node: child(self.node, &name),
            path,
            errors: self.errors,
        }
    }

    /// Returns a reader for each item of the array of tables `name`.
    pub fn items(&self, name: &str) -> Vec<SectionReader<'n>> {
        let (path, name) = self.child_path(name);
        let Some(ConfigNode {
            data: NodeData::Items(items),
            ..
        }) = child(self.node, &name)
        else {
            return Vec::new();
        };
        let item = |(index, node): &'n (usize, ConfigNode)| SectionReader {
            node: Some(node),
            path: path.item(*index),
            errors: self.errors,
        };
        items.iter().map(item).collect()
    }

    /// Returns the names that the user wrote in this table.
    pub fn key_names(&self) -> Vec<&'n str> {
        match self.node {
            Some(ConfigNode {
                data: NodeData::Table(table),
                ..
            }) => table.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// Returns `true` if the user wrote this key.
    pub fn is_set(&self, name: &str) -> bool {
        child(self.node, name).is_some()
    }

    /// Returns the key of this table.
    pub fn key(&self) -> &str {
        &self.path.key
    }

    /// Reports an error at the key `name` of this table, or at the table itself if `name` is empty.
    pub fn report_error(&self, name: &str, problem: impl Into<String>) {
        if name.is_empty() {
            let origin = self
                .node
                .map_or(ValueOrigin::File, |node| node.origin.clone());
            return self.errors.add(self.path.key.clone(), origin, problem);
        }
        // A key that an array's item lacks has the origin of the array.
        let item = self.node.filter(|_| self.path.pattern.ends_with("[]"));
        let origin = child(self.node, name)
            .or(item)
            .map_or(ValueOrigin::File, |node| node.origin.clone());
        self.errors
            .add(self.child_path(name).0.key, origin, problem);
    }

    /// Reports that a key is missing, unless it was left out of the tree because of an error.
    pub fn report_missing(&self, name: &str, problem: impl Into<String>) {
        if !self.is_set(name) && self.is_valid(&[&self.child_path(name).0.key]) {
            self.report_error(name, problem);
        }
    }

    /// Returns the value of `result`, or reports its error at the key `name`.
    pub fn ok_or_report<T>(&self, name: &str, result: Result<T, String>) -> Option<T> {
        result
            .map_err(|problem| self.report_error(name, problem))
            .ok()
    }

    /// Returns `true` if no error was found in these keys, each written in full.
    pub fn is_valid(&self, keys: &[&str]) -> bool {
        self.errors.has_none_in(keys)
    }

    /// Checks a rule between keys, each written in full, if all of them are valid.
    ///
    /// Reports the problem that `find_problem` returns at the first of them. Only for the root.
    pub fn check_rule(&self, keys: &[&str], find_problem: impl FnOnce() -> Option<String>) {
        if self.is_valid(keys)
            && let Some(problem) = find_problem()
            && let Some((section, name)) = keys[0].split_once('.')
        {
            self.section(section).report_error(name, problem);
        }
    }

    /// Reads the value of a key that has a literal default.
    pub fn read<T>(&self, name: &str, parse: impl Fn(WrittenValue<'_>) -> Result<T, String>) -> T {
        self.read_optional(name, parse)
            .unwrap_or_else(|| panic!("{name} in {} has no literal default", self.path.pattern))
    }

    /// Reads the written value of a key, or else its literal default.
    pub fn read_optional<T>(
        &self,
        name: &str,
        parse: impl Fn(WrittenValue<'_>) -> Result<T, String>,
    ) -> Option<T> {
        if let Some(ConfigNode {
            origin,
            data: NodeData::Value(value),
        }) = child(self.node, name)
        {
            let parsed = parse(WrittenValue::new(value, origin.typing()));
            if let Some(value) = self.ok_or_report(name, parsed) {
                return Some(value);
            }
        }
        let spec = self.key_spec(name);
        let DefaultValue::Literal(text) = spec.default else {
            return None;
        };
        let value = Value::String(text.to_owned());
        let parsed = parse(WrittenValue::new(&value, Typing::TextOnly));
        Some(parsed.unwrap_or_else(|problem| panic!("default of {}: {problem}", spec.key)))
    }

    /// Reads a text, as it is written.
    pub fn text(&self, name: &str) -> Option<String> {
        self.read_optional(name, |written| written.text().map(str::to_owned))
    }

    pub fn boolean(&self, name: &str) -> bool {
        self.read(name, |written| written.parse_boolean())
    }

    pub fn integer<T: TryFrom<i64>>(&self, name: &str) -> T {
        self.read(name, self.integer_parser(name))
    }

    pub fn optional_integer<T: TryFrom<i64>>(&self, name: &str) -> Option<T> {
        self.read_optional(name, self.integer_parser(name))
    }

    fn integer_parser<T: TryFrom<i64>>(
        &self,
        name: &str,
    ) -> impl Fn(WrittenValue<'_>) -> Result<T, String> + use<T> {
        let ValueType::Integer(bounds) = &self.key_spec(name).value_type else {
            panic!("{name} in {} is not an integer", self.path.pattern)
        };
        |written| {
            let number = check_bounds(written.parse_integer()?, bounds, |number| {
                number.to_string()
            })?;
            T::try_from(number).map_err(|_| format!("{number} is too large for this machine"))
        }
    }

    /// Reads a number of bytes.
    pub fn size<T: TryFrom<u64>>(&self, name: &str) -> T {
        let ValueType::Size(bounds) = &self.key_spec(name).value_type else {
            panic!("{name} in {} is not a size", self.path.pattern)
        };
        self.read(name, |written| {
            let bytes = check_bounds(written.parse_size()?, bounds, format_size)?;
            T::try_from(bytes)
                .map_err(|_| format!("{} is too large for this machine", format_size(bytes)))
        })
    }

    pub fn duration(&self, name: &str) -> Duration {
        let bounds = self.duration_bounds(name);
        self.read(name, |written| written.parse_duration_within(bounds))
    }

    pub fn optional_duration(&self, name: &str) -> Option<Duration> {
        let bounds = self.duration_bounds(name);
        self.read_optional(name, |written| written.parse_duration_within(bounds))
    }

    /// Returns the range that the table of keys allows for a duration.
    pub fn duration_bounds(&self, name: &str) -> &'static RangeInclusive<Duration> {
        match &self.key_spec(name).value_type {
            ValueType::Duration(bounds) | ValueType::DurationOrForever(bounds) => bounds,
            _ => panic!("{name} in {} is not a duration", self.path.pattern),
        }
    }

    /// Reads an IP address with a port.
    pub fn address(&self, name: &str) -> SocketAddr {
        self.read(name, |written| {
            parse_as(
                written.text()?,
                "an IP address with a port, such as 127.0.0.1:8080 or [::1]:8080",
            )
        })
    }

    /// Reads one of several words, which are those of the table of keys.
    pub fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> T {
        let ValueType::Choice(words) = self.key_spec(name).value_type else {
            panic!("{name} in {} is not a choice", self.path.pattern)
        };
        debug_assert!(choices.iter().map(|(word, _)| word).eq(words), "{name}");
        self.read(name, |written| {
            let text = written.text()?;
            let chosen = choices.iter().find(|(word, _)| *word == text);
            chosen
                .map(|(_, choice)| *choice)
                .ok_or_else(|| format!("{text:?} is not allowed; use one of: {}", words.join(", ")))
        })
    }

    fn key_spec(&self, name: &str) -> &'static KeySpec {
        let (path, _) = self.child_path(name);
        keys::find_key(&path.pattern)
            .unwrap_or_else(|| panic!("{} is not in the table of keys", path.pattern))
    }

    fn child_path(&self, name: &str) -> (KeyPath, String) {
        self.path.child(name).unwrap_or_else(|_| {
            panic!(
                "{name} in {} is not in the table of keys",
                self.path.pattern
            )
        })
    }
}

fn child<'n>(node: Option<&'n ConfigNode>, name: &str) -> Option<&'n ConfigNode> {
    match &node?.data {
        NodeData::Table(table) => table.get(name),
        _ => None,
    }
}
