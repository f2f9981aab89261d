//! Tests of the configuration as a whole; those of a single module are in its file.

mod errors;
mod layers;
mod reference;
mod rules;
mod secrets;

use super::{Config, ConfigError, ConfigSources, load};
use std::io::Write;
use tempfile::NamedTempFile;

/// Stands in for librdkafka: knows all properties but `no.such.property`, and accepts all values
/// but `refused`.
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

/// Loads a file with this text, and these environment variables.
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
    load_with(text, &[]).unwrap_or_else(|errors| panic!("{}", format_errors(&errors)))
}

/// Returns the errors of a file, one per line.
pub(super) fn load_errors(text: &str) -> String {
    load_errors_with(text, &[])
}

pub(super) fn load_errors_with(text: &str, env: &[(&str, &str)]) -> String {
    format_errors(&load_with(text, env).expect_err("an error"))
}

pub(super) fn format_errors(errors: &[ConfigError]) -> String {
    assert!(!errors.is_empty());
    errors.iter().map(|error| format!("{error}\n")).collect()
}

/// Asserts that a file has exactly one error, at this key, and that its text contains `problem`.
#[track_caller]
pub(super) fn assert_one_error(text: &str, key: &str, problem: &str) {
    let found = load_with(text, &[]).expect_err(key);
    assert!(
        found.len() == 1 && found[0].key == key && found[0].problem.contains(problem),
        "{}",
        format_errors(&found)
    );
}
