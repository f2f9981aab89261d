//! From an entry to the record that carries it: headers and a replaced timestamp are decided now, not when it was spooled.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use xxhash_rust::xxh3::xxh3_64;

use crate::dedup::EventFacts;
use crate::dedup::deduplicator::Deduplicator;
use crate::marks::Marks;
use crate::record::{ProducerRecord, PublishContext, TimestampPolicy};
use crate::spool::entry::{EntryContent, SpoolEntry};
use crate::spool::in_doubt::InDoubtEntry;
use butlr_event::{Event, ParseLimits, ParsedBody, parse};

/// Calls `hand` with the record of the entry, and its event where it is one.
///
/// # Errors
/// Why it can never be published.
pub(super) fn with_record<T>(
    bytes: &[u8],
    topic: &str,
    stamping: TimestampPolicy,
    call: impl FnOnce(ProducerRecord<'_>, Option<&Event<'_>>) -> T,
) -> Result<T, String> {
    let entry = SpoolEntry::decode(bytes).map_err(|error| error.to_string())?;
    let context = PublishContext {
        topic,
        policy: stamping,
        received_at: to_system_time(entry.received_ms),
        now: SystemTime::now(),
        is_spooled: true,
        replayed_from: None,
    };
    match &entry.content {
        EntryContent::Quarantined(quarantined) => {
            let value = &entry.value;
            let record = ProducerRecord::from_quarantined(quarantined, value, context);
            Ok(call(record, None))
        }
        EntryContent::Event {
            marks,
            replayed_from,
        } => {
            let event = parse_event(&entry.value)?;
            let context = PublishContext {
                replayed_from: replayed_from.as_ref(),
                ..context
            };
            let record = ProducerRecord::from_event(&event, Some(marks), context);
            Ok(call(record, Some(&event)))
        }
    }
}

/// An entry is in Kafka now: who looks for duplicates is told.
pub(super) fn notify_stored(desk: &Deduplicator, bytes: &[u8], stamping: TimestampPolicy) {
    with_event(bytes, |event, marks, received_at| {
        let plausible = stamping.is_plausible(event.timestamp_ms(), received_at);
        desk.mark_drained(&EventFacts::from_event(event, plausible), marks);
    });
}

/// An entry never gets into Kafka: likewise.
pub(super) fn notify_dead_letter(desk: &Deduplicator, bytes: &[u8], stamping: TimestampPolicy) {
    with_event(bytes, |event, marks, received_at| {
        let plausible = stamping.is_plausible(event.timestamp_ms(), received_at);
        desk.forget_dead_letter(&EventFacts::from_event(event, plausible), marks);
    });
}

/// An entry of before that may be in Kafka already; with whether it was in doubt. `None`: it can't be published.
pub(super) fn to_in_doubt_entry(seq: u64, bytes: &[u8]) -> Option<(InDoubtEntry, bool)> {
    let entry = SpoolEntry::decode(bytes).ok()?;
    let id = match &entry.content {
        EntryContent::Quarantined(_) => None,
        EntryContent::Event { marks, .. } => {
            let event = parse_event(&entry.value).ok()?;
            let own = marks.conflict_id(event.id());
            Some(own.unwrap_or_else(|| event.id().to_owned()))
        }
    };
    let suspect = InDoubtEntry {
        seq,
        id,
        value_hash: xxh3_64(&entry.value),
        received_ms: entry.received_ms,
    };
    Some((suspect, entry.in_doubt))
}

fn with_event(bytes: &[u8], call: impl FnOnce(&Event<'_>, &Marks, SystemTime)) {
    if let Ok(entry) = SpoolEntry::decode(bytes)
        && let EntryContent::Event { marks, .. } = &entry.content
        && let Ok(event) = parse_event(&entry.value)
    {
        call(&event, marks, to_system_time(entry.received_ms));
    }
}

fn parse_event(value: &[u8]) -> Result<Event<'_>, String> {
    match parse(value, None, ParseLimits::UNLIMITED) {
        Ok(ParsedBody::Single(Ok(event))) => Ok(event),
        Ok(ParsedBody::Single(Err(_))) => {
            Err("its value is no valid event for this release".to_owned())
        }
        Ok(ParsedBody::Array(_)) => Err("its value is an array".to_owned()),
        Err(unreadable) => Err(format!("its value is no event: {}", unreadable.detail)),
    }
}

fn to_system_time(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
