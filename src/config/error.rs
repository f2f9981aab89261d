//! What is wrong with a configuration, and the list in which all of it is collected.

use std::cell::RefCell;
use std::fmt;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueOrigin {
    /// In the TOML file, or nowhere.
    File,
    /// In the environment variable of this name.
    Environment(String),
    /// On the command line.
    CommandLine,
}

/// One thing that is wrong with the configuration. Never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, such as `http.bind`, `kafka.properties."sasl.username"` or `auth.api_keys[0].header`; the path of the
    /// configuration file or the name of a variable where that is what cannot be read.
    pub key: String,
    /// Where the value was written.
    pub origin: ValueOrigin,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl ConfigError {
    /// A mistake that was not written at one particular place outside the file.
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

/// The list of all mistakes, in the order in which they are found.
#[derive(Default)]
pub(super) struct ConfigErrors(RefCell<Vec<ConfigError>>);

impl ConfigErrors {
    pub fn add(&self, key: impl Into<String>, origin: ValueOrigin, problem: impl Into<String>) {
        let mistake = ConfigError {
            key: key.into(),
            origin,
            problem: problem.into(),
        };
        let mut found = self.0.borrow_mut();
        if !found.contains(&mistake) {
            found.push(mistake);
        }
    }

    /// Whether none of these keys, nor anything in them, was found mistaken. A mistaken key reads as its default, and
    /// a rule between keys must not blame the user for that.
    pub fn has_none_in(&self, keys: &[&str]) -> bool {
        self.0.borrow().iter().all(|mistake| {
            keys.iter().all(|key| match mistake.key.strip_prefix(key) {
                Some(rest) => !(rest.is_empty() || rest.starts_with(['.', '['])),
                None => true,
            })
        })
    }

    pub fn into_vec(self) -> Vec<ConfigError> {
        self.0.into_inner()
    }
}
