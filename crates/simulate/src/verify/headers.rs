//! The headers and the timestamp that the contract asks for, derived from the value alone.

use std::ops::RangeInclusive;
use std::time::UNIX_EPOCH;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::names::{ce_type, is_occupancy};
use super::parsed_value::ParsedValue;
use super::record_digest::DuplicateHeader;
use crate::hash;

/// Which time records are stamped with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TimestampBasis {
    /// The event's own, replaced where it lies too far off.
    Event,
    /// When the bridge received it.
    Received,
}

/// What holds for all records of a run.
#[derive(Clone, Copy, Debug)]
pub struct HeaderExpectations {
    /// Which time records are stamped with.
    pub timestamps: TimestampBasis,
    /// The earliest and the latest moment at which the bridge can have received an event, ms since 1970.
    pub received_ms: (i64, i64),
    /// An event further back than this at the moment of publishing has its time replaced, ms.
    pub max_past_ms: i64,
    /// An event further ahead than this likewise.
    pub max_future_ms: i64,
}

/// What headers say that only the answers, or other records, can confirm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderMarks {
    /// It waited on disk.
    pub spooled: bool,
    /// It is a duplicate.
    pub duplicate: Option<DuplicateHeader>,
    /// It is a revision of the event with this id ([`hash::bytes`]).
    pub supersedes: Option<u64>,
    /// It is stale.
    pub stale: bool,
    /// Something newer came before it.
    pub out_of_order: bool,
    /// Its timestamp is not its own time.
    pub time_replaced: bool,
}

/// A record's headers in their order.
pub type HeaderList<'r> = [(&'r str, Option<&'r [u8]>)];

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

/// All that RFC 3986 does not call unreserved.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// When the bridge had a record, by its headers; ms since 1970.
pub fn received_ms(headers: &HeaderList<'_>) -> Option<i64> {
    let mut values = headers.iter().filter(|(name, _)| *name == "ce_receivedat");
    parse_time(std::str::from_utf8(values.next()?.1?).ok()?)
}

/// Checks the headers of a record that tells `told`, and its timestamp (CreateTime, ms since 1970; `None` for any other).
/// It was published at `published_until_ms` at the latest.
///
/// # Errors
/// The first thing that is not as it must be.
pub fn check(
    headers: &HeaderList<'_>,
    timestamp_ms: Option<i64>,
    published_until_ms: i64,
    parsed: &ParsedValue<'_>,
    expected: &HeaderExpectations,
) -> Result<HeaderMarks, String> {
    let mut values = [None; HEADER_NAMES.len()];
    for (name, value) in headers {
        let Some(place) = HEADER_NAMES.iter().position(|n| n == name) else {
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
        time_replaced,
        optional @ ..,
    ] = values.map(|v| (v.unwrap_or_default(), v.is_some()));
    let [
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
    ] = optional;

    expect_equal("ce_specversion", spec_version.0, "1.0")?;
    expect_equal("content-type", content_type.0, "application/json")?;
    expect_equal("ce_subject", subject.0, &parsed.space)?;
    if id_conflict.1 || original_id.1 {
        return Err("no ce_idconflict, as no two events were sent with one id".to_owned());
    }
    expect_equal("ce_id", id.0, &parsed.id)?;
    if !is_source(source.0, parsed.org.as_deref()) {
        let org = parsed.org.as_deref().unwrap_or("no organisation");
        return Err(format!("ce_source of {org}, not {:?}", source.0));
    }
    expect_equal("ce_type", event_type.0, ce_type(parsed.event_type))?;
    if parse_time(time.0) != Some(parsed.timestamp_ms) {
        let ms = parsed.timestamp_ms;
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
    let rest = HEADER_NAMES[REQUIRED_COUNT + 1..].iter().zip(optional);
    for (name, (value, _)) in rest.filter(|(_, (_, given))| *given) {
        if !is_allowed_value(name, value) {
            return Err(format!("{name} in its form, not {value:?}"));
        }
    }
    if revision.1 != supersedes.1 {
        return Err("ce_revision and ce_supersedes together".to_owned());
    }
    if revision.1 && !is_occupancy(parsed.event_type) {
        return Err("no ce_revision, as only occupancy is revised".to_owned());
    }
    if stale.1 && !is_occupancy(parsed.event_type) {
        return Err("no ce_stale, as only occupancy is revised".to_owned());
    }
    let marks = [
        ("ce_revision", revision.1),
        ("ce_stale", stale.1),
        ("ce_duplicate", duplicate.1),
        ("ce_outoforder", out_of_order.1),
    ];
    let mut marks = marks.into_iter().filter(|(_, given)| *given);
    if let (Some((one, _)), Some((other, _))) = (marks.next(), marks.next()) {
        return Err(format!("{one} or {other}, not both"));
    }
    let replaced = time_replaced.1.then_some(time_replaced.0);
    let moment = received_ms..=published_until_ms;
    check_timestamp(timestamp_ms, replaced, moment, parsed, expected)?;
    Ok(HeaderMarks {
        spooled: spooled.1,
        duplicate: duplicate.1.then_some(match duplicate.0 {
            "repeat" => DuplicateHeader::Repeat,
            _ => DuplicateHeader::Redelivery,
        }),
        supersedes: supersedes
            .1
            .then(|| hash::hash_bytes(supersedes.0.as_bytes())),
        stale: stale.1,
        out_of_order: out_of_order.1,
        time_replaced: time_replaced.1,
    })
}

fn expect_equal(name: &str, found: &str, expected: &str) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{name} {expected:?}, not {found:?}")),
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

/// ms since 1970, from `2026-11-22T16:44:34.123Z`; `None` for every other form.
fn parse_time(text: &str) -> Option<i64> {
    if text.len() != "2026-11-22T16:44:34.123Z".len() {
        return None;
    }
    let time = humantime::parse_rfc3339(text).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// The record's timestamp: which one it must be, and that it is a replaced one where the event's own lies too far off, and
/// only there. `moment`: when it was published, at the earliest (by the bridge's own clock) and at the latest.
fn check_timestamp(
    timestamp_ms: Option<i64>,
    replaced: Option<&str>,
    moment: RangeInclusive<i64>,
    parsed: &ParsedValue<'_>,
    expected: &HeaderExpectations,
) -> Result<(), String> {
    let timestamp_ms = timestamp_ms.ok_or("a timestamp of the kind CreateTime")?;
    // 0 would mean "now" to the producer.
    let exactly = |ms: i64, whose: &str| match timestamp_ms == ms.max(1) {
        true => Ok(()),
        false => Err(format!(
            "the {whose} time {ms} as timestamp, not {timestamp_ms}"
        )),
    };
    let HeaderExpectations {
        max_past_ms,
        max_future_ms,
        ..
    } = *expected;
    let (own_ms, whose) = match expected.timestamps {
        TimestampBasis::Event => (parsed.timestamp_ms, "event's"),
        TimestampBasis::Received => (*moment.start(), "receipt's"),
    };
    let Some(reason) = replaced else {
        exactly(own_ms, whose)?;
        // Whenever it was published, it was at least so far off.
        let (past, future) = (moment.start() - own_ms, own_ms - moment.end());
        if past > max_past_ms || future > max_future_ms {
            let off = past.max(future);
            return Err(format!(
                "the time of publishing as timestamp, as the {whose} own lies {off} ms off"
            ));
        }
        return Ok(());
    };
    if !moment.contains(&timestamp_ms) {
        return Err(format!(
            "the time of publishing as timestamp, as ce_timereplaced is {reason}, not {timestamp_ms}"
        ));
    }
    let (off, most) = match reason {
        "future" => (own_ms - timestamp_ms, max_future_ms),
        "past" => (timestamp_ms - own_ms, max_past_ms),
        _ => return Err(format!("ce_timereplaced future or past, not {reason:?}")),
    };
    match off > most {
        true => Ok(()),
        false => Err(format!(
            "no ce_timereplaced {reason}, as the {whose} time lies {off} ms off, and {most} are allowed"
        )),
    }
}

#[cfg(test)]
mod tests;
