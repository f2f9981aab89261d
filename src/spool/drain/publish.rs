//! From an entry to the record that carries it: headers and a replaced timestamp are decided now, not when it was spooled.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use xxhash_rust::xxh3::xxh3_64;

use crate::dedup::Facts;
use crate::dedup::desk::Desk;
use crate::marks::Marks;
use crate::record::{ProducerRecord, PublishContext, TimestampPolicy};
use crate::spool::entry::{Content, Entry};
use crate::spool::suspects::Suspect;
use butlr_event::{Event, ParseLimits, ParsedBody, parse};

/// Calls `hand` with the record of the entry, and its event where it is one.
///
/// # Errors
/// Why it can never be published.
pub(super) fn publish<T>(
    bytes: &[u8],
    topic: &str,
    stamping: TimestampPolicy,
    hand: impl FnOnce(ProducerRecord<'_>, Option<&Event<'_>>) -> T,
) -> Result<T, String> {
    let entry = Entry::decode(bytes).map_err(|error| error.to_string())?;
    let context = PublishContext {
        topic,
        policy: stamping,
        received_at: time(entry.received_ms),
        now: SystemTime::now(),
        is_spooled: true,
        replayed_from: None,
    };
    match &entry.content {
        Content::Quarantined(quarantined) => {
            let value = &entry.value;
            let record = ProducerRecord::from_quarantined(quarantined, value, context);
            Ok(hand(record, None))
        }
        Content::Event {
            marks,
            replayed_from,
        } => {
            let event = event(&entry.value)?;
            let context = PublishContext {
                replayed_from: replayed_from.as_ref(),
                ..context
            };
            let record = ProducerRecord::from_event(&event, Some(marks), context);
            Ok(hand(record, Some(&event)))
        }
    }
}

/// An entry is in Kafka now: who looks for duplicates is told.
pub(super) fn tell(desk: &Desk, bytes: &[u8], stamping: TimestampPolicy) {
    with_event(bytes, |event, marks, received_at| {
        let plausible = stamping.is_plausible(event.timestamp_ms(), received_at);
        desk.drained(&Facts::of(event, plausible), marks);
    });
}

/// An entry never gets into Kafka: likewise.
pub(super) fn tell_set_aside(desk: &Desk, bytes: &[u8], stamping: TimestampPolicy) {
    with_event(bytes, |event, marks, received_at| {
        let plausible = stamping.is_plausible(event.timestamp_ms(), received_at);
        desk.set_aside(&Facts::of(event, plausible), marks);
    });
}

/// An entry of before that may be in Kafka already; with whether it was in doubt. `None`: it can't be published.
pub(super) fn suspect(seq: u64, bytes: &[u8]) -> Option<(Suspect, bool)> {
    let entry = Entry::decode(bytes).ok()?;
    let id = match &entry.content {
        Content::Quarantined(_) => None,
        Content::Event { marks, .. } => {
            let event = event(&entry.value).ok()?;
            let own = marks.own_id(event.id());
            Some(own.unwrap_or_else(|| event.id().to_owned()))
        }
    };
    let suspect = Suspect {
        seq,
        id,
        value_hash: xxh3_64(&entry.value),
        received_ms: entry.received_ms,
    };
    Some((suspect, entry.in_doubt))
}

fn with_event(bytes: &[u8], call: impl FnOnce(&Event<'_>, &Marks, SystemTime)) {
    if let Ok(entry) = Entry::decode(bytes)
        && let Content::Event { marks, .. } = &entry.content
        && let Ok(event) = event(&entry.value)
    {
        call(&event, marks, time(entry.received_ms));
    }
}

fn event(value: &[u8]) -> Result<Event<'_>, String> {
    match parse(value, None, ParseLimits::UNLIMITED) {
        Ok(ParsedBody::Single(Ok(event))) => Ok(event),
        Ok(ParsedBody::Single(Err(_))) => Err("its value is no valid event for this release".to_owned()),
        Ok(ParsedBody::Array(_)) => Err("its value is an array".to_owned()),
        Err(unreadable) => Err(format!("its value is no event: {}", unreadable.detail)),
    }
}

fn time(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
