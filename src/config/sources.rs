//! Sources of a configuration: a TOML file, then the environment, then the command line.

use super::env_name::{NEAR_PREFIX, PREFIX, describe_misspelling};
use super::error::{ConfigErrors, ValueOrigin};
use super::keys::{self, KeyShape};
use super::tree::{ConfigNode, KeyPath, NodeData, build_node};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use toml::Value;

/// Sources of a configuration, each overriding the one before. Without any, the defaults apply.
///
/// There is no `Debug`, because the environment holds secrets.
#[derive(Clone, Default)]
pub struct ConfigSources {
    /// The TOML file. Paths in it are relative to the working directory.
    pub file: Option<PathBuf>,
    /// Environment variables, as name and value; those not meant for the bridge are ignored.
    pub env: Vec<(String, String)>,
    /// Dotted keys and values from the command line. A text may stand for a number or a boolean.
    pub flags: Vec<(String, Value)>,
}

impl ConfigSources {
    /// Takes the file, and the environment of this process.
    pub fn from_process(file: Option<PathBuf>) -> Self {
        // `load` recognises a value that is not UTF-8 by its replacement characters, and refuses
        // it.
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

    /// Merges all layers into one tree. Returns `None` if the file cannot be read: its values are
    /// unknown then, so further errors would mislead.
    pub(super) fn build_tree(&self, errors: &ConfigErrors) -> Option<ConfigNode> {
        let mut tree = Some(ConfigNode::empty_table());
        if let Some(path) = &self.file {
            tree = read_file_layer(path, errors);
        }
        let mut merge_layer = |layer: Option<ConfigNode>| {
            if let (Some(tree), Some(layer)) = (&mut tree, layer) {
                tree.merge(layer);
            }
        };
        // Ordered by name, a table comes before its keys, so the more specific variable wins.
        let env: BTreeMap<&str, &str> = self
            .env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        for (name, value) in env {
            merge_layer(read_env_layer(name, value, errors));
        }
        for (key, value) in &self.flags {
            merge_layer(read_flag_layer(key, value, errors));
        }
        tree
    }
}

fn read_file_layer(path: &Path, errors: &ConfigErrors) -> Option<ConfigNode> {
    let shown_path = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            errors.add(
                shown_path,
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
            errors,
        ),
        Err(error) => {
            errors.add(
                shown_path,
                ValueOrigin::File,
                describe_syntax_error(&text, &error),
            );
            None
        }
    }
}

fn read_env_layer(name: &str, value: &str, errors: &ConfigErrors) -> Option<ConfigNode> {
    let origin = ValueOrigin::Environment(name.to_owned());
    let Some(levels) = name.strip_prefix(PREFIX) else {
        if let Some(problem) = describe_misspelling(name) {
            errors.add(name, origin, problem);
        }
        return None;
    };
    let (key, resolved) = resolve_key(levels.to_ascii_lowercase().split("__"));
    let (path, names) = match resolved {
        Ok(resolved) => resolved,
        Err(problem) => {
            errors.add(key, origin, problem);
            return None;
        }
    };
    if value.contains(char::REPLACEMENT_CHARACTER) {
        errors.add(path.key, origin, "the value is not valid UTF-8");
        return None;
    }
    let value = parse_text(value, &path, &origin, errors)?;
    Some(wrap_in_tables(
        build_node(value, &path, &origin, errors)?,
        names,
    ))
}

fn read_flag_layer(key: &str, value: &Value, errors: &ConfigErrors) -> Option<ConfigNode> {
    let origin = ValueOrigin::CommandLine;
    match resolve_key(key.split('.')) {
        (_, Ok((path, names))) => {
            let value = match value {
                Value::String(text) => parse_text(text, &path, &origin, errors)?,
                other => other.clone(),
            };
            Some(wrap_in_tables(
                build_node(value, &path, &origin, errors)?,
                names,
            ))
        }
        (key, Err(problem)) => {
            errors.add(key, origin, problem);
            None
        }
    }
}

/// Reads the text of a variable or a flag: a table or an array is written as inline TOML.
fn parse_text(
    text: &str,
    path: &KeyPath,
    origin: &ValueOrigin,
    errors: &ConfigErrors,
) -> Option<Value> {
    if keys::find_shape(&path.pattern) == Some(KeyShape::Value) {
        return Some(Value::String(text.to_owned()));
    }
    let text = text.trim();
    text.parse::<Value>()
        .map_err(|error| {
            let problem = describe_syntax_error(text, &error);
            let problem = format!("write a table or an array as inline TOML; {problem}");
            errors.add(path.key.clone(), origin.clone(), problem);
        })
        .ok()
}

/// Walks from the root along these names. Also returns the key, as far as it was understood.
fn resolve_key<'n>(
    names: impl Iterator<Item = &'n str>,
) -> (String, Result<(KeyPath, Vec<String>), String>) {
    let mut path = KeyPath::default();
    let mut canonical_names = Vec::new();
    for name in names {
        let key = keys::join_quoted(&path.key, name);
        if keys::find_shape(&path.pattern) == Some(KeyShape::Array) {
            return (
                path.key,
                Err("give an array as a whole, as inline TOML: '[{ … }]'".to_owned()),
            );
        }
        if matches!(
            path.pattern.as_str(),
            "kafka.properties" | "kafka.secret_files"
        ) {
            return (
                key,
                Err(
                    "property names contain dots; give the table as a whole, as inline TOML: \
                     '{ \"sasl.username\" = \"…\" }'"
                        .to_owned(),
                ),
            );
        }
        match path.child(name) {
            Ok((child, name)) => {
                path = child;
                canonical_names.push(name);
            }
            Err(problem) => return (key, Err(problem)),
        }
    }
    (path.key.clone(), Ok((path, canonical_names)))
}

/// Wraps a node in the tables with these names, up to the root.
fn wrap_in_tables(node: ConfigNode, names: Vec<String>) -> ConfigNode {
    names.into_iter().rev().fold(node, |inner, name| {
        let origin = inner.origin.clone();
        ConfigNode {
            origin,
            data: NodeData::Table(BTreeMap::from([(name, inner)])),
        }
    })
}

/// Describes position and problem, without the line itself, which may hold a secret.
fn describe_syntax_error(text: &str, error: &toml::de::Error) -> String {
    // The messages of the parser are fixed texts, except that one about a number repeats it.
    let message = if error.message().contains(|c: char| c.is_ascii_digit()) {
        "a number is out of range"
    } else {
        error.message()
    };
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return format!("not valid TOML: {message}");
    };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("not valid TOML at line {line}, column {column}: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_out_of_range_is_not_repeated() {
        let text = "[http]\npassword = 99999999999999999999999999999999999999999999";
        let message = describe_syntax_error(text, &text.parse::<toml::Table>().unwrap_err());
        assert!(message.contains("line 2, column 12"), "{message}");
        assert!(!message.contains("999"), "{message}");
    }
}
