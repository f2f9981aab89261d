//! Where a configuration comes from: a TOML file, over it the environment, over that the command line.

use super::env_name::{NEAR_PREFIX, PREFIX, describe_misspelling};
use super::error::{ConfigErrors, ValueOrigin};
use super::keys::{self, KeyShape};
use super::tree::{ConfigNode, KeyPath, NodeData, build_node};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use toml::Value;

/// Where to take the configuration from; each part overrides the one before it. Without any of them, the defaults hold.
///
/// There is no `Debug`: the environment holds secrets.
#[derive(Clone, Default)]
pub struct ConfigSources {
    /// The TOML file. Paths in it are relative to the working directory.
    pub file: Option<PathBuf>,
    /// Environment variables, name and value; others than the bridge's are ignored.
    pub env: Vec<(String, String)>,
    /// Dotted keys and their values from the command line. A text may stand for a number or a boolean.
    pub flags: Vec<(String, Value)>,
}

impl ConfigSources {
    /// The file and this process's environment.
    pub fn from_process(file: Option<PathBuf>) -> Self {
        // A value that is not UTF-8 is kept with replacement characters, by which `load` finds and refuses it.
        let text = |raw: OsString| raw.to_string_lossy().into_owned();
        let env = std::env::vars_os()
            .map(|(name, value)| (text(name), text(value)))
            .filter(|(name, _)| name.starts_with(NEAR_PREFIX))
            .collect();
        Self {
            file,
            env,
            flags: Vec::new(),
        }
    }

    /// All layers as one tree. `None` where the file could not be read: nothing sensible can be said about values then.
    pub(super) fn build_tree(&self, mistakes: &ConfigErrors) -> Option<ConfigNode> {
        let mut tree = Some(ConfigNode::empty_table());
        if let Some(path) = &self.file {
            tree = read_file_layer(path, mistakes);
        }
        let mut merge_layer = |layer: Option<ConfigNode>| {
            if let (Some(tree), Some(layer)) = (&mut tree, layer) {
                tree.merge(layer);
            }
        };
        // In the order of their names a table stands before what is in it, so that the narrower variable wins.
        let env: BTreeMap<&str, &str> = self
            .env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        for (name, value) in env {
            merge_layer(read_env_layer(name, value, mistakes));
        }
        for (key, value) in &self.flags {
            merge_layer(read_flag_layer(key, value, mistakes));
        }
        tree
    }
}

fn read_file_layer(path: &Path, mistakes: &ConfigErrors) -> Option<ConfigNode> {
    let shown = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            mistakes.add(
                shown,
                ValueOrigin::File,
                format!("the configuration file cannot be read: {error}"),
            );
            return None;
        }
    };
    match text.parse::<toml::Table>() {
        Ok(table) => build_node(
            Value::Table(table),
            &KeyPath::default(),
            &ValueOrigin::File,
            mistakes,
        ),
        Err(error) => {
            mistakes.add(
                shown,
                ValueOrigin::File,
                describe_syntax_error(&text, &error),
            );
            None
        }
    }
}

fn read_env_layer(name: &str, value: &str, mistakes: &ConfigErrors) -> Option<ConfigNode> {
    let origin = ValueOrigin::Environment(name.to_owned());
    let Some(path) = name.strip_prefix(PREFIX) else {
        if let Some(problem) = describe_misspelling(name) {
            mistakes.add(name, origin, problem);
        }
        return None;
    };
    let path = path.to_ascii_lowercase();
    let (key, found) = resolve_key(path.split("__"));
    let (place, names) = match found {
        Ok(found) => found,
        Err(problem) => {
            mistakes.add(key, origin, problem);
            return None;
        }
    };
    if value.contains(char::REPLACEMENT_CHARACTER) {
        mistakes.add(place.key, origin, "the value is not UTF-8");
        return None;
    }
    let value = match keys::find_shape(&place.pattern) {
        Some(KeyShape::Value) => Value::String(value.to_owned()),
        _ => match value.trim().parse::<Value>() {
            Ok(value) => value,
            Err(error) => {
                let problem = describe_syntax_error(value.trim(), &error);
                mistakes.add(
                    place.key,
                    origin,
                    format!("a table or an array is given as inline TOML; {problem}"),
                );
                return None;
            }
        },
    };
    Some(wrap_in_tables(
        build_node(value, &place, &origin, mistakes)?,
        names,
    ))
}

fn read_flag_layer(key: &str, value: &Value, mistakes: &ConfigErrors) -> Option<ConfigNode> {
    match resolve_key(key.split('.')) {
        (_, Ok((place, names))) => Some(wrap_in_tables(
            build_node(value.clone(), &place, &ValueOrigin::CommandLine, mistakes)?,
            names,
        )),
        (key, Err(problem)) => {
            mistakes.add(key, ValueOrigin::CommandLine, problem);
            None
        }
    }
}

/// Walks from the root along these names. Also gives the key as far as it was understood.
fn resolve_key<'n>(
    names: impl Iterator<Item = &'n str>,
) -> (String, Result<(KeyPath, Vec<String>), String>) {
    let mut place = KeyPath::default();
    let mut path = Vec::new();
    for name in names {
        let key = keys::join_quoted(&place.key, name);
        if keys::find_shape(&place.pattern) == Some(KeyShape::Array) {
            return (
                place.key,
                Err("an array is given whole, as inline TOML: '[{ … }]'".to_owned()),
            );
        }
        if matches!(
            place.pattern.as_str(),
            "kafka.properties" | "kafka.secret_files"
        ) {
            return (
                key,
                Err(
                    "property names contain dots, so the table is given whole, as inline TOML: '{ \
                     \"sasl.username\" = \"…\" }'"
                        .to_owned(),
                ),
            );
        }
        match place.child(name) {
            Ok((child, name)) => {
                place = child;
                path.push(name);
            }
            Err(problem) => return (key, Err(problem)),
        }
    }
    (place.key.clone(), Ok((place, path)))
}

/// Puts a node back where its names say, below the root.
fn wrap_in_tables(node: ConfigNode, names: Vec<String>) -> ConfigNode {
    names.into_iter().rev().fold(node, |inner, name| {
        let origin = inner.origin.clone();
        ConfigNode {
            origin,
            data: NodeData::Table(BTreeMap::from([(name, inner)])),
        }
    })
}

/// Where and what, but never the line itself: it may hold a secret.
fn describe_syntax_error(text: &str, error: &toml::de::Error) -> String {
    // The parser's own messages are fixed texts; those about a number that does not fit would repeat it.
    let message = if error.message().contains(|c: char| c.is_ascii_digit()) {
        "a value that does not fit"
    } else {
        error.message()
    };
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return format!("not TOML: {message}");
    };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("not TOML, line {line}, column {column}: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_does_not_fit_is_not_repeated() {
        let text = "[http]\npassword = 99999999999999999999999999999999999999999999";
        let message = describe_syntax_error(text, &text.parse::<toml::Table>().unwrap_err());
        assert!(message.contains("line 2, column 12"), "{message}");
        assert!(!message.contains("999"), "{message}");
    }
}
