//! The headers and the timestamp that the contract asks for, derived from the value alone.

use std::time::UNIX_EPOCH;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::told::Told;

/// Which time records are stamped with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Timestamps {
    /// The event's own, replaced where it lies too far off.
    Event,
    /// When the bridge received it.
    Received,
}

/// What holds for all records of a run.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Which time records are stamped with.
    pub timestamps: Timestamps,
    /// The earliest and the latest moment at which the bridge can have received an event, ms since 1970.
    pub received_ms: (i64, i64),
    /// The latest moment at which a record can have been published, ms since 1970.
    pub published_until_ms: i64,
}

/// A record's headers in their order.
pub type Headers<'r> = [(&'r str, Option<&'r [u8]>)];

const REQUIRED: usize = 8;
/// The contract's headers, the required ones first.
const NAMES: [&str; 18] = [
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_time",
    "ce_subject",
    "ce_receivedat",
    "content-type",
    "ce_timereplaced",
    "ce_revision",
    "ce_supersedes",
    "ce_stale",
    "ce_duplicate",
    "ce_outoforder",
    "ce_idconflict",
    "ce_originalid",
    "ce_spooled",
    "traceparent",
];

/// All that RFC 3986 does not call unreserved.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Checks the headers of a record that tells `told`, and its timestamp (CreateTime, ms since 1970; `None` for any other).
///
/// # Errors
/// The first thing that is not as it must be.
pub fn check(
    headers: &Headers<'_>,
    timestamp_ms: Option<i64>,
    told: &Told<'_>,
    expected: &Expected,
) -> Result<(), String> {
    let mut values = [None; NAMES.len()];
    for (name, value) in headers {
        let Some(place) = NAMES.iter().position(|n| n == name) else {
            return Err(format!(
                "a header {name:?}, which the contract does not have"
            ));
        };
        let text = value.and_then(|v| std::str::from_utf8(v).ok());
        let text = text.ok_or_else(|| format!("{name} as text"))?;
        if values[place].replace(text).is_some() {
            return Err(format!("{name} once, not twice"));
        }
    }
    if let Some(missing) = values[..REQUIRED].iter().position(Option::is_none) {
        return Err(format!("a header {}", NAMES[missing]));
    }
    let [
        spec_version,
        id,
        source,
        event_type,
        time,
        subject,
        received_at,
        content_type,
        time_replaced,
        optional @ ..,
    ] = values.map(|v| (v.unwrap_or_default(), v.is_some()));
    let [.., id_conflict, original_id, _, _] = optional;

    equal("ce_specversion", spec_version.0, "1.0")?;
    equal("content-type", content_type.0, "application/json")?;
    equal("ce_subject", subject.0, &told.space)?;
    match (id_conflict.1, original_id.1) {
        (false, false) => equal("ce_id", id.0, &told.id)?,
        (true, true) => conflicting_id(id.0, original_id.0, &told.id)?,
        _ => return Err("ce_idconflict and ce_originalid together".to_owned()),
    }
    if !is_source(source.0, told.org.as_deref()) {
        let org = told.org.as_deref().unwrap_or("no organisation");
        return Err(format!("ce_source of {org}, not {:?}", source.0));
    }
    let kebab = event_type.0.strip_prefix("io.butlr.");
    if kebab.and_then(|t| t.strip_suffix(".v1")) != Some(told.event_type.kebab()) {
        let kebab = told.event_type.kebab();
        return Err(format!(
            "ce_type io.butlr.{kebab}.v1, not {:?}",
            event_type.0
        ));
    }
    if parse_time(time.0) != Some(told.timestamp_ms) {
        let ms = told.timestamp_ms;
        return Err(format!("ce_time of {ms} ms, not {:?}", time.0));
    }
    let (earliest, latest) = expected.received_ms;
    let received_ms = parse_time(received_at.0).filter(|ms| (earliest..=latest).contains(ms));
    let received_ms = received_ms.ok_or_else(|| {
        format!(
            "ce_receivedat as a moment of the run, not {:?}",
            received_at.0
        )
    })?;
    let rest = NAMES[REQUIRED + 1..].iter().zip(optional);
    for (name, (value, _)) in rest.filter(|(_, (_, given))| *given) {
        if !allowed(name, value) {
            return Err(format!("{name} in its form, not {value:?}"));
        }
    }
    let replaced = time_replaced.1.then_some(time_replaced.0);
    stamped(timestamp_ms, replaced, received_ms, told, expected)
}

fn equal(name: &str, found: &str, expected: &str) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{name} {expected:?}, not {found:?}")),
    }
}

/// `<id>~<8 hex digits>`, and the id itself in a header of its own.
fn conflicting_id(found: &str, original: &str, id: &str) -> Result<(), String> {
    equal("ce_originalid", original, id)?;
    let suffix = found
        .strip_prefix(id)
        .and_then(|rest| rest.strip_prefix('~'));
    match suffix.is_some_and(|s| is_hex(s, 8)) {
        true => Ok(()),
        false => Err(format!("ce_id {id}~<8 hex digits>, not {found:?}")),
    }
}

/// `/butlr/<org_id>`, percent-encoded; `/butlr` without one.
fn is_source(found: &str, org: Option<&str>) -> bool {
    let Some(mut rest) = found.strip_prefix("/butlr") else {
        return false;
    };
    let Some(org) = org else {
        return rest.is_empty();
    };
    let parts = std::iter::once("/").chain(utf8_percent_encode(org, ESCAPED));
    for part in parts {
        match rest.strip_prefix(part) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

/// Whether an optional header has one of its allowed forms.
fn allowed(name: &str, value: &str) -> bool {
    match name {
        "ce_revision" => value
            .parse::<u32>()
            .is_ok_and(|n| n > 0 && n.to_string() == value),
        "ce_supersedes" | "ce_originalid" => !value.is_empty(),
        "ce_duplicate" => matches!(value, "redelivery" | "repeat"),
        "traceparent" => {
            let parts: Vec<_> = value.split('-').collect();
            let lengths = [2, 32, 16, 2];
            let hex = |(part, length): (&&str, usize)| is_hex(part, length);
            parts.len() == lengths.len() && parts.iter().zip(lengths).all(hex)
        }
        _ => value == "true",
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == length && text.bytes().all(digit)
}

/// ms since 1970, from `2026-11-22T16:44:34.123Z`; `None` for every other form.
fn parse_time(text: &str) -> Option<i64> {
    if text.len() != "2026-11-22T16:44:34.123Z".len() {
        return None;
    }
    let time = humantime::parse_rfc3339(text).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// The record's timestamp: which one it must be, and that a replaced one is on the side that its header tells.
fn stamped(
    timestamp_ms: Option<i64>,
    replaced: Option<&str>,
    received_ms: i64,
    told: &Told<'_>,
    expected: &Expected,
) -> Result<(), String> {
    let timestamp_ms = timestamp_ms.ok_or("a timestamp of the kind CreateTime")?;
    // 0 would mean "now" to the producer.
    let exactly = |ms: i64, whose: &str| match timestamp_ms == ms.max(1) {
        true => Ok(()),
        false => Err(format!(
            "the {whose} time {ms} as timestamp, not {timestamp_ms}"
        )),
    };
    match (expected.timestamps, replaced) {
        (Timestamps::Received, None) => exactly(received_ms, "receipt's"),
        (Timestamps::Received, Some(_)) => {
            Err("no ce_timereplaced, as all are stamped with the time of receipt".to_owned())
        }
        (Timestamps::Event, None) => exactly(told.timestamp_ms, "event's"),
        (Timestamps::Event, Some(reason)) => {
            let side = match reason {
                "future" => told.timestamp_ms > timestamp_ms,
                "past" => told.timestamp_ms < timestamp_ms,
                _ => return Err(format!("ce_timereplaced future or past, not {reason:?}")),
            };
            let moment = expected.received_ms.0..=expected.published_until_ms;
            match side && moment.contains(&timestamp_ms) {
                true => Ok(()),
                false => Err(format!(
                    "the time of publishing as timestamp, as ce_timereplaced is {reason}, not {timestamp_ms}"
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests;
