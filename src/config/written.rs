//! One value as somebody wrote it, and what it can be read as.

use super::value;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;
use toml::Value;

/// A value as somebody wrote it.
pub(super) struct Written<'v> {
    value: &'v Value,
    /// The environment and the command line know only texts: there `"5"` is also a number.
    any_text: bool,
}

impl<'v> Written<'v> {
    pub fn new(value: &'v Value, any_text: bool) -> Self {
        Self { value, any_text }
    }

    /// A text. Where it is none only the type is told: any text may be a secret.
    pub fn text(&self) -> Result<&'v str, String> {
        self.value
            .as_str()
            .ok_or_else(|| format!("a text in quotes is expected, not {}", kind(self.value)))
    }

    /// A whole number.
    pub fn integer(&self) -> Result<i64, String> {
        match self.value {
            Value::Integer(number) => Ok(*number),
            Value::String(text) if self.any_text => parsed(text.trim(), "a whole number"),
            other => Err(format!("a whole number is expected, not {}", kind(other))),
        }
    }

    /// Yes or no.
    pub fn boolean(&self) -> Result<bool, String> {
        match self.value {
            Value::Boolean(yes) => Ok(*yes),
            Value::String(text) if self.any_text => parsed(text.trim(), "true or false"),
            other => Err(format!("true or false is expected, not {}", kind(other))),
        }
    }

    /// A number of bytes.
    pub fn size(&self) -> Result<u64, String> {
        match self.value {
            Value::Integer(number) => value::size(&number.to_string()),
            Value::String(text) => value::size(text),
            other => Err(format!(
                "a size is expected, such as \"64KiB\", not {}",
                kind(other)
            )),
        }
    }

    /// A duration.
    pub fn duration(&self) -> Result<Duration, String> {
        match self.value {
            Value::Integer(number) => value::duration(&number.to_string()),
            Value::Float(number) => value::duration(&number.to_string()),
            Value::String(text) => value::duration(text),
            other => Err(format!(
                "a duration is expected, such as \"3s\", not {}",
                kind(other)
            )),
        }
    }

    /// What librdkafka takes: it knows texts only, users write numbers and booleans as such.
    pub fn property(&self) -> Result<String, String> {
        match self.value {
            Value::String(text) => Ok(text.clone()),
            Value::Integer(number) => Ok(number.to_string()),
            Value::Float(number) => Ok(number.to_string()),
            Value::Boolean(yes) => Ok(yes.to_string()),
            other => Err(format!(
                "a text, a number or a boolean is expected, not {}",
                kind(other)
            )),
        }
    }
}

/// The duration, if it lies within these bounds.
pub(super) fn within(
    duration: Duration,
    bounds: &RangeInclusive<Duration>,
) -> Result<Duration, String> {
    if bounds.contains(&duration) {
        return Ok(duration);
    }
    let [duration, from, to] = [duration, *bounds.start(), *bounds.end()].map(value::show_duration);
    Err(format!(
        "{duration} is out of bounds; allowed: {from} to {to}"
    ))
}

pub(super) fn parsed<T: FromStr>(text: &str, allowed: impl Display) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not {allowed}"))
}

/// The type of a value, for a sentence. Where a type is wrong, only this is told: any value may be a secret.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a decimal number",
        Value::Boolean(_) => "a boolean",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "an array",
        Value::Table(_) => "a table",
    }
}
