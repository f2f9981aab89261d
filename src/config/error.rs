//! Errors in a configuration, and the list that collects them.

use super::written_value::Typing;
use std::cell::RefCell;
use std::fmt;

/// Place where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueOrigin {
    /// In the TOML file, or nowhere.
    File,
    /// In the environment variable of this name.
    Environment(String),
    /// On the command line.
    CommandLine,
}

impl ValueOrigin {
    pub(super) fn typing(&self) -> Typing {
        match self {
            ValueOrigin::File => Typing::Typed,
            ValueOrigin::Environment(_) | ValueOrigin::CommandLine => Typing::TextOnly,
        }
    }
}

/// An error in the configuration. Never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Key, such as `http.bind`, `kafka.properties."sasl.username"` or `auth.api_keys[0].header`.
    /// If a file or a variable as a whole is wrong, its path or name.
    pub key: String,
    /// Place where the value was written.
    pub origin: ValueOrigin,
    /// The problem, and what is allowed instead.
    pub problem: String,
}

impl ConfigError {
    /// Makes an error without a particular origin.
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            origin: ValueOrigin::File,
            problem: problem.into(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            origin,
            problem,
        } = self;
        match origin {
            ValueOrigin::File => write!(f, "{key}: {problem}"),
            ValueOrigin::Environment(name) if name == key => {
                write!(f, "environment {name}: {problem}")
            }
            ValueOrigin::Environment(name) => write!(f, "{key} (environment {name}): {problem}"),
            ValueOrigin::CommandLine => write!(f, "{key} (command line): {problem}"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The list of all errors, without repetitions, in the order in which they were found.
#[derive(Default)]
pub(super) struct ConfigErrors(RefCell<Vec<ConfigError>>);

impl ConfigErrors {
    pub fn add(&self, key: impl Into<String>, origin: ValueOrigin, problem: impl Into<String>) {
        let error = ConfigError {
            key: key.into(),
            origin,
            problem: problem.into(),
        };
        let mut errors = self.0.borrow_mut();
        if !errors.contains(&error) {
            errors.push(error);
        }
    }

    /// Returns `true` if no error was found in these keys or inside them. A wrong value reads as
    /// its default; a rule between keys must not report the default as an error of the user.
    pub fn has_none_in(&self, keys: &[&str]) -> bool {
        let is_in = |error: &ConfigError, key: &&str| {
            error
                .key
                .strip_prefix(key)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let errors = self.0.borrow();
        !errors
            .iter()
            .any(|error| keys.iter().any(|key| is_in(error, key)))
    }

    pub fn into_vec(self) -> Vec<ConfigError> {
        self.0.into_inner()
    }
}
