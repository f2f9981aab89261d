//! Typed reading of the tree. Every mistake is collected; a mistaken value reads as its default, so that reading goes on.

use super::error::{ConfigErrors, ValueOrigin};
use super::keys::{self, DefaultValue};
use super::tree::{ConfigNode, KeyPath, NodeData};
use super::units::format_size;
use super::written_value::{WrittenValue, check_bounds, parse_as};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::Value;

/// One table of the tree, or the place where it would be.
pub(super) struct SectionReader<'n> {
    node: Option<&'n ConfigNode>,
    path: KeyPath,
    mistakes: &'n ConfigErrors,
}

impl<'n> SectionReader<'n> {
    pub fn root(tree: &'n ConfigNode, mistakes: &'n ConfigErrors) -> Self {
        Self {
            node: Some(tree),
            path: KeyPath::default(),
            mistakes,
        }
    }

    /// The table `name` in this one.
    pub fn section(&self, name: &str) -> SectionReader<'n> {
        let (place, name) = self.child_path(name);
        SectionReader {
            node: child(self.node, &name),
            path: place,
            mistakes: self.mistakes,
        }
    }

    /// The items of the array `name`: tables.
    pub fn items(&self, name: &str) -> Vec<SectionReader<'n>> {
        let (place, name) = self.child_path(name);
        let Some(ConfigNode {
            data: NodeData::Items(items),
            ..
        }) = child(self.node, &name)
        else {
            return Vec::new();
        };
        let item = |(index, node): &'n (usize, ConfigNode)| SectionReader {
            node: Some(node),
            path: place.item(*index),
            mistakes: self.mistakes,
        };
        items.iter().map(item).collect()
    }

    /// The names that the user put into this table.
    pub fn key_names(&self) -> Vec<&'n str> {
        match self.node {
            Some(ConfigNode {
                data: NodeData::Table(table),
                ..
            }) => table.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether somebody wrote this key.
    pub fn is_set(&self, name: &str) -> bool {
        child(self.node, name).is_some()
    }

    /// This table's key.
    pub fn key(&self) -> &str {
        &self.path.key
    }

    /// Reports a mistake at the key `name` of this table (at the table itself where `name` is empty).
    pub fn report_error(&self, name: &str, problem: impl Into<String>) {
        if name.is_empty() {
            let origin = self
                .node
                .map_or(ValueOrigin::File, |node| node.origin.clone());
            return self.mistakes.add(self.path.key.clone(), origin, problem);
        }
        // What an item of an array lacks is missing where the array was written; all else that nobody wrote, nowhere.
        let item = self.node.filter(|_| self.path.pattern.ends_with("[]"));
        let origin = child(self.node, name)
            .or(item)
            .map_or(ValueOrigin::File, |node| node.origin.clone());
        self.mistakes
            .add(self.child_path(name).0.key, origin, problem);
    }

    /// Reports that a key was not given, unless it was and only had to be left out.
    pub fn report_missing(&self, name: &str, problem: impl Into<String>) {
        if !self.is_set(name) && self.is_valid(&[&self.child_path(name).0.key]) {
            self.report_error(name, problem);
        }
    }

    /// Whether nothing is known to be wrong with these (dotted, whole) keys.
    pub fn is_valid(&self, keys: &[&str]) -> bool {
        self.mistakes.has_none_in(keys)
    }

    /// Reads one value: the one written, or else the default. `None` where there is neither.
    pub fn read<T>(
        &self,
        name: &str,
        parse: impl Fn(WrittenValue<'_>) -> Result<T, String>,
    ) -> Option<T> {
        if let Some(ConfigNode {
            origin,
            data: NodeData::Value(value),
        }) = child(self.node, name)
        {
            match parse(WrittenValue::new(value, *origin != ValueOrigin::File)) {
                Ok(read) => return Some(read),
                Err(problem) => self.report_error(name, problem),
            }
        }
        let (place, _) = self.child_path(name);
        match keys::find_default(&place.pattern) {
            Some(DefaultValue::Literal(text)) => {
                let value = Value::String(text.to_owned());
                let read = parse(WrittenValue::new(&value, true));
                Some(read.unwrap_or_else(|problem| {
                    panic!("the default of {} is wrong: {problem}", place.key)
                }))
            }
            Some(DefaultValue::Described(_)) => None,
            None => panic!("{} is read but not in the table of keys", place.key),
        }
    }

    /// A text that is no secret.
    pub fn text(&self, name: &str) -> Option<String> {
        self.read(name, |written| written.text().map(str::to_owned))
    }

    /// A secret text; an empty one is left to the caller.
    pub fn secret(&self, name: &str) -> Option<String> {
        self.text(name)
    }

    /// A whole number within bounds.
    pub fn integer<T>(&self, name: &str, bounds: RangeInclusive<i64>) -> Option<T>
    where
        T: TryFrom<i64>,
    {
        self.read(name, |written| {
            let number = written.parse_integer()?;
            let fits = if bounds.contains(&number) {
                T::try_from(number).ok()
            } else {
                None
            };
            fits.ok_or_else(|| {
                format!(
                    "{number} is out of bounds; allowed: {} to {}",
                    bounds.start(),
                    bounds.end()
                )
            })
        })
    }

    /// A number of bytes within bounds.
    pub fn size(&self, name: &str, bounds: RangeInclusive<usize>) -> Option<usize> {
        self.read(name, |written| {
            let bytes = written.parse_size()?;
            usize::try_from(bytes)
                .ok()
                .filter(|bytes| bounds.contains(bytes))
                .ok_or_else(|| {
                    let show = |bytes: &usize| format_size(*bytes as u64);
                    format!(
                        "{} is out of bounds; allowed: {} to {}",
                        format_size(bytes),
                        show(bounds.start()),
                        show(bounds.end())
                    )
                })
        })
    }

    /// A duration within bounds.
    pub fn duration(&self, name: &str, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        self.read(name, |written| {
            check_bounds(written.parse_duration()?, &bounds)
        })
    }

    /// An IP address with a port.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.read(name, |written| {
            parse_as(
                written.text()?,
                "an IP address with a port, such as 127.0.0.1:8080 or [::1]:8080",
            )
        })
    }

    /// One of several words.
    pub fn choice<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Option<T> {
        self.read(name, |written| {
            let text = written.text()?;
            let chosen = words
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, choice)| *choice);
            chosen.ok_or_else(|| {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                format!("{text:?} is not known; allowed: {}", words.join(", "))
            })
        })
    }

    fn child_path(&self, name: &str) -> (KeyPath, String) {
        match self.path.child(name) {
            Ok(found) => found,
            Err(_) => panic!(
                "{name} in {} is read but not in the table of keys",
                self.path.pattern
            ),
        }
    }
}

fn child<'n>(node: Option<&'n ConfigNode>, name: &str) -> Option<&'n ConfigNode> {
    match &node?.data {
        NodeData::Table(table) => table.get(name),
        _ => None,
    }
}
