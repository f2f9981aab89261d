//! Typed reading of the tree. Every mistake is collected; a mistaken value reads as its default, so that reading goes on.

use super::keys::{self, Preset};
use super::mistake::{Mistakes, Origin};
use super::tree::{Data, Node, Place};
use super::value::show_size;
use super::written::{Written, parsed, within};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::Value;

/// One table of the tree, or the place where it would be.
pub(super) struct Reader<'n> {
    node: Option<&'n Node>,
    place: Place,
    mistakes: &'n Mistakes,
}

impl<'n> Reader<'n> {
    pub fn root(tree: &'n Node, mistakes: &'n Mistakes) -> Self {
        Self {
            node: Some(tree),
            place: Place::default(),
            mistakes,
        }
    }

    /// The table `name` in this one.
    pub fn section(&self, name: &str) -> Reader<'n> {
        let (place, name) = self.child_place(name);
        Reader {
            node: child(self.node, &name),
            place,
            mistakes: self.mistakes,
        }
    }

    /// The items of the array `name`: tables.
    pub fn items(&self, name: &str) -> Vec<Reader<'n>> {
        let (place, name) = self.child_place(name);
        let Some(Node {
            data: Data::Items(items),
            ..
        }) = child(self.node, &name)
        else {
            return Vec::new();
        };
        let item = |(index, node): &'n (usize, Node)| Reader {
            node: Some(node),
            place: place.item(*index),
            mistakes: self.mistakes,
        };
        items.iter().map(item).collect()
    }

    /// The names that the user put into this table.
    pub fn names(&self) -> Vec<&'n str> {
        match self.node {
            Some(Node {
                data: Data::Table(table),
                ..
            }) => table.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether somebody wrote this key.
    pub fn given(&self, name: &str) -> bool {
        child(self.node, name).is_some()
    }

    /// This table's key.
    pub fn key(&self) -> &str {
        &self.place.key
    }

    /// Reports a mistake at the key `name` of this table (at the table itself where `name` is empty).
    pub fn mistake(&self, name: &str, problem: impl Into<String>) {
        if name.is_empty() {
            let origin = self.node.map_or(Origin::File, |node| node.origin.clone());
            return self.mistakes.add(self.place.key.clone(), origin, problem);
        }
        // What an item of an array lacks is missing where the array was written; all else that nobody wrote, nowhere.
        let item = self.node.filter(|_| self.place.pattern.ends_with("[]"));
        let origin = child(self.node, name)
            .or(item)
            .map_or(Origin::File, |node| node.origin.clone());
        self.mistakes
            .add(self.child_place(name).0.key, origin, problem);
    }

    /// Reports that a key was not given, unless it was and only had to be left out.
    pub fn missing(&self, name: &str, problem: impl Into<String>) {
        if !self.given(name) && self.sound(&[&self.child_place(name).0.key]) {
            self.mistake(name, problem);
        }
    }

    /// Whether nothing is known to be wrong with these (dotted, whole) keys.
    pub fn sound(&self, keys: &[&str]) -> bool {
        self.mistakes.none_in(keys)
    }

    /// Reads one value: the one written, or else the default. `None` where there is neither.
    pub fn read<T>(
        &self,
        name: &str,
        parse: impl Fn(Written<'_>) -> Result<T, String>,
    ) -> Option<T> {
        if let Some(Node {
            origin,
            data: Data::Value(value),
        }) = child(self.node, name)
        {
            match parse(Written::new(value, *origin != Origin::File)) {
                Ok(read) => return Some(read),
                Err(problem) => self.mistake(name, problem),
            }
        }
        let (place, _) = self.child_place(name);
        match keys::preset(&place.pattern) {
            Some(Preset::Text(text)) => {
                let value = Value::String(text.to_owned());
                let read = parse(Written::new(&value, true));
                Some(read.unwrap_or_else(|problem| {
                    panic!("the default of {} is wrong: {problem}", place.key)
                }))
            }
            Some(Preset::Told(_)) => None,
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
            let number = written.integer()?;
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
            let bytes = written.size()?;
            usize::try_from(bytes)
                .ok()
                .filter(|bytes| bounds.contains(bytes))
                .ok_or_else(|| {
                    let show = |bytes: &usize| show_size(*bytes as u64);
                    format!(
                        "{} is out of bounds; allowed: {} to {}",
                        show_size(bytes),
                        show(bounds.start()),
                        show(bounds.end())
                    )
                })
        })
    }

    /// A duration within bounds.
    pub fn duration(&self, name: &str, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        self.read(name, |written| within(written.duration()?, &bounds))
    }

    /// An IP address with a port.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.read(name, |written| {
            parsed(
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

    fn child_place(&self, name: &str) -> (Place, String) {
        match self.place.child(name) {
            Ok(found) => found,
            Err(_) => panic!(
                "{name} in {} is read but not in the table of keys",
                self.place.pattern
            ),
        }
    }
}

fn child<'n>(node: Option<&'n Node>, name: &str) -> Option<&'n Node> {
    match &node?.data {
        Data::Table(table) => table.get(name),
        _ => None,
    }
}
