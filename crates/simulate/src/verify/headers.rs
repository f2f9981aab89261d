//! Checks headers and timestamp against the contract. The expectations follow from the value alone.

use std::ops::RangeInclusive;
use std::time::UNIX_EPOCH;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::consumed_record::{ConsumedRecord, HeaderList};
use super::contract::{ce_type, is_occupancy};
use super::parsed_value::ParsedValue;
use super::record_digest::{DuplicateHeader, EventIdHash};

/// The time used as record timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TimestampBasis {
    /// The event's own time, replaced if it is too far in the past or the future.
    Event,
    /// The time at which the bridge received the event.
    Received,
}

/// Expectations that are the same for all records of a run.
#[derive(Clone, Copy, Debug)]
pub struct HeaderExpectations {
    /// The time used as record timestamp.
    pub timestamps: TimestampBasis,
    /// Earliest and latest time at which the bridge can have received an event, ms since 1970.
    pub received_ms: (i64, i64),
    /// The timestamp is replaced if it is further than this in the past when published, ms.
    pub max_past_ms: i64,
    /// The timestamp is replaced if it is further than this in the future when published, ms.
    pub max_future_ms: i64,
}

/// Marks in the headers that only responses or other records can confirm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderMarks {
    /// The event was spooled.
    pub spooled: bool,
    /// The event is a duplicate.
    pub duplicate: Option<DuplicateHeader>,
    /// The event is a revision of the event with this id.
    pub supersedes: Option<EventIdHash>,
    /// The event is stale.
    pub stale: bool,
    /// A newer event was accepted before it.
    pub out_of_order: bool,
    /// The record's timestamp is not the event's own time.
    pub time_replaced: bool,
}

const REQUIRED_COUNT: usize = 8;
/// The contract's headers, the required ones first.
const HEADER_NAMES: [&str; 19] = [
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
    "ce_replayedfrom",
    "traceparent",
];

/// Every byte that RFC 3986 does not call unreserved.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Returns the time of receipt (`ce_receivedat`), ms since 1970.
pub fn received_ms(headers: &HeaderList<'_>) -> Option<i64> {
    let mut values = headers.iter().filter(|(name, _)| *name == "ce_receivedat");
    parse_time(std::str::from_utf8(values.next()?.1?).ok()?)
}

/// Checks the headers and the timestamp of a record whose value is `parsed`.
///
/// # Errors
/// The first expectation that the record violates, as in "expected …".
pub fn check(
    record: &ConsumedRecord<'_>,
    parsed: &ParsedValue<'_>,
    expected: &HeaderExpectations,
) -> Result<HeaderMarks, String> {
    let headers = record.headers.ok_or("header names in UTF-8")?;
    let mut values = [None; HEADER_NAMES.len()];
    for (name, value) in headers {
        let Some(index) = HEADER_NAMES.iter().position(|n| n == name) else {
            return Err(format!("no header {name:?}, as the contract has none"));
        };
        let text = value.and_then(|v| std::str::from_utf8(v).ok());
        let text = text.ok_or_else(|| format!("{name} in UTF-8"))?;
        if values[index].replace(text).is_some() {
            return Err(format!("{name} once, but it is there twice"));
        }
    }
    if let Some(missing) = values[..REQUIRED_COUNT].iter().position(Option::is_none) {
        return Err(format!("a header {}", HEADER_NAMES[missing]));
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
        ..,
    ] = values.map(Option::unwrap_or_default);
    let [
        ..,
        time_replaced,
        revision,
        supersedes,
        stale,
        duplicate,
        out_of_order,
        id_conflict,
        original_id,
        spooled,
        _replayed_from,
        _trace,
    ] = values;

    expect_equal("ce_specversion", spec_version, "1.0")?;
    expect_equal("content-type", content_type, "application/json")?;
    expect_equal("ce_subject", subject, &parsed.space)?;
    if id_conflict.or(original_id).is_some() {
        return Err(
            "no ce_idconflict, as no two different events were sent with the same id".to_owned(),
        );
    }
    expect_equal("ce_id", id, &parsed.id)?;
    if !is_source(source, parsed.org.as_deref()) {
        let org = parsed.org.as_deref().unwrap_or("no organisation");
        return Err(format!("the ce_source of {org}, not {source:?}"));
    }
    expect_equal("ce_type", event_type, ce_type(parsed.event_type))?;
    if parse_time(time) != Some(parsed.timestamp_ms) {
        let ms = parsed.timestamp_ms;
        return Err(format!("ce_time to be {ms} ms, not {time:?}"));
    }
    let (earliest, latest) = expected.received_ms;
    let received_ms = parse_time(received_at).filter(|ms| (earliest..=latest).contains(ms));
    let received_ms = received_ms
        .ok_or_else(|| format!("ce_receivedat to be a time during the run, not {received_at:?}"))?;
    // `check_timestamp` checks the first optional header, ce_timereplaced.
    let optional = HEADER_NAMES.iter().zip(values).skip(REQUIRED_COUNT + 1);
    for (name, value) in optional {
        if let Some(value) = value
            && !is_allowed_value(name, value)
        {
            return Err(format!("a valid {name}, not {value:?}"));
        }
    }
    if revision.is_some() != supersedes.is_some() {
        return Err("ce_revision and ce_supersedes together".to_owned());
    }
    if revision.is_some() && !is_occupancy(parsed.event_type) {
        return Err("no ce_revision, as only occupancy can be revised".to_owned());
    }
    if stale.is_some() && !is_occupancy(parsed.event_type) {
        return Err("no ce_stale, as only occupancy can be revised".to_owned());
    }
    let marks = [
        ("ce_revision", revision),
        ("ce_stale", stale),
        ("ce_duplicate", duplicate),
        ("ce_outoforder", out_of_order),
    ];
    let mut marks = marks.into_iter().filter(|(_, value)| value.is_some());
    if let (Some((one, _)), Some((other, _))) = (marks.next(), marks.next()) {
        return Err(format!("{one} or {other}, not both"));
    }
    let published_ms = received_ms..=record.latest_publish_ms;
    check_timestamp(
        record.timestamp_ms,
        time_replaced,
        published_ms,
        parsed,
        expected,
    )?;
    Ok(HeaderMarks {
        spooled: spooled.is_some(),
        duplicate: duplicate.map(|kind| match kind {
            "repeat" => DuplicateHeader::Repeat,
            _ => DuplicateHeader::Redelivery,
        }),
        supersedes: supersedes.map(EventIdHash::new),
        stale: stale.is_some(),
        out_of_order: out_of_order.is_some(),
        time_replaced: time_replaced.is_some(),
    })
}

fn expect_equal(name: &str, found: &str, expected: &str) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{name} {expected:?}, not {found:?}"))
    }
}

/// Returns `true` for `/butlr/<org_id>`, percent-encoded, or for `/butlr` without an organisation.
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

/// Returns `true` if an optional header has an allowed value.
fn is_allowed_value(name: &str, value: &str) -> bool {
    match name {
        "ce_revision" => value
            .parse::<u32>()
            .is_ok_and(|n| n > 0 && n.to_string() == value),
        "ce_supersedes" | "ce_replayedfrom" => !value.is_empty(),
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

/// Parses a time such as `2026-11-22T16:44:34.123Z` to ms since 1970; `None` for any other format.
fn parse_time(text: &str) -> Option<i64> {
    if text.len() != "2026-11-22T16:44:34.123Z".len() {
        return None;
    }
    let time = humantime::parse_rfc3339(text).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// Checks that the record's timestamp is the right one, and that it is replaced if and only if it
/// is too far off. `published_ms`: earliest (by the bridge's own clock) and latest time of
/// publishing.
fn check_timestamp(
    timestamp_ms: Option<i64>,
    replaced: Option<&str>,
    published_ms: RangeInclusive<i64>,
    parsed: &ParsedValue<'_>,
    expected: &HeaderExpectations,
) -> Result<(), String> {
    let timestamp_ms = timestamp_ms.ok_or("a timestamp of type CreateTime")?;
    let HeaderExpectations {
        max_past_ms,
        max_future_ms,
        ..
    } = *expected;
    let (basis_ms, basis) = match expected.timestamps {
        TimestampBasis::Event => (parsed.timestamp_ms, "event time"),
        TimestampBasis::Received => (*published_ms.start(), "time of receipt"),
    };
    let Some(reason) = replaced else {
        // librdkafka takes 0 for "now", so the bridge writes 1 instead.
        if timestamp_ms != basis_ms.max(1) {
            return Err(format!(
                "the {basis} {basis_ms} as timestamp, not {timestamp_ms}"
            ));
        }
        // Whenever the record was published, its time was at least this far off.
        let (past, future) = (
            published_ms.start() - basis_ms,
            basis_ms - published_ms.end(),
        );
        if past > max_past_ms || future > max_future_ms {
            let off = past.max(future);
            return Err(format!(
                "the time of publishing as timestamp, as the {basis} is {off} ms off"
            ));
        }
        return Ok(());
    };
    if !published_ms.contains(&timestamp_ms) {
        return Err(format!(
            "the time of publishing as timestamp, as ce_timereplaced is {reason}, not {timestamp_ms}"
        ));
    }
    let (off, limit) = match reason {
        "future" => (basis_ms - timestamp_ms, max_future_ms),
        "past" => (timestamp_ms - basis_ms, max_past_ms),
        _ => {
            return Err(format!(
                "ce_timereplaced to be future or past, not {reason:?}"
            ));
        }
    };
    if off > limit {
        Ok(())
    } else {
        Err(format!(
            "no ce_timereplaced {reason}, as the {basis} is {off} ms off and {limit} ms are allowed"
        ))
    }
}

#[cfg(test)]
mod tests;
