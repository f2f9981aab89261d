//! One value as somebody wrote it, and what it can be read as.

use super::units;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;
use toml::Value;

/// A value as somebody wrote it.
pub(super) struct WrittenValue<'v> {
    value: &'v Value,
    /// The environment and the command line know only texts: there `"5"` is also a number.
    is_text_only: bool,
}

impl<'v> WrittenValue<'v> {
    pub fn new(value: &'v Value, any_text: bool) -> Self {
        Self {
            value,
            is_text_only: any_text,
        }
    }

    /// A text. Where it is none only the type is told: any text may be a secret.
    pub fn text(&self) -> Result<&'v str, String> {
        self.value.as_str().ok_or_else(|| {
            format!(
                "a text in quotes is expected, not {}",
                describe_type(self.value)
            )
        })
    }

    /// A whole number.
    pub fn parse_integer(&self) -> Result<i64, String> {
        match self.value {
            Value::Integer(number) => Ok(*number),
            Value::String(text) if self.is_text_only => parse_as(text.trim(), "a whole number"),
            other => Err(format!(
                "a whole number is expected, not {}",
                describe_type(other)
            )),
        }
    }

    /// Yes or no.
    pub fn parse_boolean(&self) -> Result<bool, String> {
        match self.value {
            Value::Boolean(yes) => Ok(*yes),
            Value::String(text) if self.is_text_only => parse_as(text.trim(), "true or false"),
            other => Err(format!(
                "true or false is expected, not {}",
                describe_type(other)
            )),
        }
    }

    /// A number of bytes.
    pub fn parse_size(&self) -> Result<u64, String> {
        match self.value {
            Value::Integer(number) => units::parse_size(&number.to_string()),
            Value::String(text) => units::parse_size(text),
            other => Err(format!(
                "a size is expected, such as \"64KiB\", not {}",
                describe_type(other)
            )),
        }
    }

    /// A duration.
    pub fn parse_duration(&self) -> Result<Duration, String> {
        match self.value {
            Value::Integer(number) => units::parse_duration(&number.to_string()),
            Value::Float(number) => units::parse_duration(&number.to_string()),
            Value::String(text) => units::parse_duration(text),
            other => Err(format!(
                "a duration is expected, such as \"3s\", not {}",
                describe_type(other)
            )),
        }
    }

    /// What librdkafka takes: it knows texts only, users write numbers and booleans as such.
    pub fn parse_property(&self) -> Result<String, String> {
        match self.value {
            Value::String(text) => Ok(text.clone()),
            Value::Integer(number) => Ok(number.to_string()),
            Value::Float(number) => Ok(number.to_string()),
            Value::Boolean(yes) => Ok(yes.to_string()),
            other => Err(format!(
                "a text, a number or a boolean is expected, not {}",
                describe_type(other)
            )),
        }
    }
}

/// The duration, if it lies within these bounds.
pub(super) fn check_bounds(
    duration: Duration,
    bounds: &RangeInclusive<Duration>,
) -> Result<Duration, String> {
    if bounds.contains(&duration) {
        return Ok(duration);
    }
    let [duration, from, to] =
        [duration, *bounds.start(), *bounds.end()].map(units::format_duration);
    Err(format!(
        "{duration} is out of bounds; allowed: {from} to {to}"
    ))
}

pub(super) fn parse_as<T: FromStr>(text: &str, allowed: impl Display) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not {allowed}"))
}

/// The type of a value, for a sentence. Where a type is wrong, only this is told: any value may be a secret.
pub(super) fn describe_type(value: &Value) -> &'static str {
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
