//! A value as the user wrote it, and its readings.

use super::units;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;
use toml::Value;

/// A value as the user wrote it.
pub(super) struct WrittenValue<'v> {
    value: &'v Value,
    typing: Typing,
}

/// Types that values have where they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Typing {
    /// The types of TOML.
    Typed,
    /// Texts only, as in the environment and on the command line: `"5"` is also a number.
    TextOnly,
}

impl<'v> WrittenValue<'v> {
    pub fn new(value: &'v Value, typing: Typing) -> Self {
        Self { value, typing }
    }

    /// Returns the text. The error names only the type of another value, which may be a secret.
    pub fn text(&self) -> Result<&'v str, String> {
        self.value
            .as_str()
            .ok_or_else(|| describe_expected("a text in quotes", self.value))
    }

    pub fn parse_integer(&self) -> Result<i64, String> {
        match self.value {
            Value::Integer(number) => Ok(*number),
            Value::String(text) if self.typing == Typing::TextOnly => {
                parse_as(text.trim(), "a whole number")
            }
            other => Err(describe_expected("a whole number", other)),
        }
    }

    pub fn parse_boolean(&self) -> Result<bool, String> {
        match self.value {
            Value::Boolean(value) => Ok(*value),
            Value::String(text) if self.typing == Typing::TextOnly => {
                parse_as(text.trim(), "true or false")
            }
            other => Err(describe_expected("true or false", other)),
        }
    }

    /// Reads a number of bytes.
    pub fn parse_size(&self) -> Result<u64, String> {
        match self.value {
            Value::Integer(number) => units::parse_size(&number.to_string()),
            Value::String(text) => units::parse_size(text),
            other => Err(describe_expected("a size such as \"64KiB\"", other)),
        }
    }

    pub fn parse_duration(&self) -> Result<Duration, String> {
        match self.value {
            Value::Integer(number) => units::parse_duration(&number.to_string()),
            Value::Float(number) => units::parse_duration(&number.to_string()),
            Value::String(text) => units::parse_duration(text),
            other => Err(describe_expected("a duration such as \"3s\"", other)),
        }
    }

    pub fn parse_duration_within(
        &self,
        bounds: &RangeInclusive<Duration>,
    ) -> Result<Duration, String> {
        check_bounds(self.parse_duration()?, bounds, units::format_duration)
    }

    /// Reads the value of a librdkafka property. librdkafka takes only texts; users also write
    /// numbers and booleans.
    pub fn parse_property(&self) -> Result<String, String> {
        match self.value {
            Value::String(text) => Ok(text.clone()),
            Value::Integer(number) => Ok(number.to_string()),
            Value::Float(number) => Ok(number.to_string()),
            Value::Boolean(value) => Ok(value.to_string()),
            other => Err(describe_expected("a text, a number or a boolean", other)),
        }
    }
}

/// Returns the value if it lies within these bounds.
pub(super) fn check_bounds<T: Copy + PartialOrd>(
    value: T,
    bounds: &RangeInclusive<T>,
    format: impl Fn(T) -> String,
) -> Result<T, String> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    let [value, min, max] = [value, *bounds.start(), *bounds.end()].map(format);
    Err(format!("{value} is out of range; allowed: {min} to {max}"))
}

pub(super) fn parse_as<T: FromStr>(text: &str, expected: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not {expected}"))
}

fn describe_expected(expected: &str, found: &Value) -> String {
    format!("{expected} is expected, not {}", describe_type(found))
}

/// Returns the type of a value, for a sentence. Errors about types contain nothing else of the
/// value, which may be a secret.
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
