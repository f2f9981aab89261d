//! The configuration as a whole: layers, mistakes, rules, secrets. What one module does alone is tested beside it.

mod layers;
mod mistakes;
mod readme;
mod rules;
mod secrets;

use super::{Config, ConfigError, ConfigSources, load};
use std::io::Write;
use tempfile::NamedTempFile;

/// A stand-in for librdkafka: it knows all but `no.such.property`, and takes all but `refused`.
pub(super) fn check_property(name: &str, value: &str) -> Result<(), String> {
    match (name, value) {
        ("no.such.property", _) => Err(format!("No such configuration property: \"{name}\"")),
        (_, "refused") => Err(format!(
            "Invalid value \"{value}\" for configuration property \"{name}\""
        )),
        _ => Ok(()),
    }
}

pub(super) fn temp_file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// Loads a file with this text under these environment variables.
pub(super) fn load_with(text: &str, env: &[(&str, &str)]) -> Result<Config, Vec<ConfigError>> {
    let file = temp_file(text);
    let env = env
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    load(
        &ConfigSources {
            file: Some(file.path().to_owned()),
            env,
            flags: Vec::new(),
        },
        &check_property,
    )
}

pub(super) fn load_valid(text: &str) -> Config {
    load_with(text, &[]).unwrap_or_else(|mistakes| panic!("{}", format_errors(&mistakes)))
}

/// All mistakes of a file, a line each.
pub(super) fn load_errors(text: &str) -> String {
    load_errors_with(text, &[])
}

pub(super) fn load_errors_with(text: &str, env: &[(&str, &str)]) -> String {
    format_errors(&load_with(text, env).expect_err("a mistake"))
}

pub(super) fn format_errors(mistakes: &[ConfigError]) -> String {
    assert!(!mistakes.is_empty());
    mistakes
        .iter()
        .map(|mistake| format!("{mistake}\n"))
        .collect()
}

/// Asserts that a file has exactly one mistake, with this key, whose text contains this.
#[track_caller]
pub(super) fn assert_one_error(text: &str, key: &str, problem: &str) {
    let found = load_with(text, &[]).expect_err(key);
    assert!(
        found.len() == 1 && found[0].key == key && found[0].problem.contains(problem),
        "{}",
        format_errors(&found)
    );
}
