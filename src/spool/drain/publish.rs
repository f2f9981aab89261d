//! From an entry to its record. Headers and a replaced timestamp are decided when the entry is
//! published, not when it is spooled.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use xxhash_rust::xxh3::xxh3_64;

use crate::dedup::EventFacts;
use crate::dedup::deduplicator::Deduplicator;
use crate::marks::Marks;
use crate::record::{ProducerRecord, PublishContext, TimestampPolicy};
use crate::spool::entry::{EntryContent, SpoolEntry};
use crate::spool::in_doubt::InDoubtEntry;
use butlr_event::{Event, ParseLimits, ParsedBody, parse};

/// Calls `call` with the record of an entry, and with its event unless it is a rejected item.
///
/// # Errors
/// The reason why the entry can never be published.
pub(super) fn with_record<T>(
    bytes: &[u8],
    topic: &str,
    timestamp_policy: TimestampPolicy,
    call: impl FnOnce(ProducerRecord<'_>, Option<&Event<'_>>) -> T,
) -> Result<T, String> {
    let entry = SpoolEntry::decode(bytes).map_err(|error| error.to_string())?;
    let context = PublishContext {
        topic,
        policy: timestamp_policy,
        received_at: to_system_time(entry.received_ms),
        now: SystemTime::now(),
        is_spooled: true,
        replayed_from: None,
    };
    match &entry.content {
        EntryContent::Quarantined(quarantined) => {
            let record = ProducerRecord::from_quarantined(quarantined, &entry.value, context);
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

/// Tells duplicate detection that an entry is in Kafka.
pub(super) fn notify_stored(
    deduplicator: &Deduplicator,
    bytes: &[u8],
    timestamp_policy: TimestampPolicy,
) {
    with_facts(bytes, timestamp_policy, |facts, marks| {
        deduplicator.mark_drained(facts, marks);
    });
}

/// Tells duplicate detection that an entry never gets into Kafka.
pub(super) fn notify_dead_letter(
    deduplicator: &Deduplicator,
    bytes: &[u8],
    timestamp_policy: TimestampPolicy,
) {
    with_facts(bytes, timestamp_policy, |facts, marks| {
        deduplicator.forget_dead_letter(facts, marks);
    });
}

/// Returns the search key of an entry that Kafka may hold already, and `true` if the entry was in
/// doubt when it was spooled; `None` if it cannot be published.
pub(super) fn to_in_doubt_entry(seq: u64, bytes: &[u8]) -> Option<(InDoubtEntry, bool)> {
    let entry = SpoolEntry::decode(bytes).ok()?;
    let id = match &entry.content {
        EntryContent::Quarantined(_) => None,
        EntryContent::Event { marks, .. } => {
            let event = parse_event(&entry.value).ok()?;
            let conflict_id = marks.conflict_id(event.id());
            Some(conflict_id.unwrap_or_else(|| event.id().to_owned()))
        }
    };
    let search_key = InDoubtEntry {
        seq,
        id,
        value_hash: xxh3_64(&entry.value),
        received_ms: entry.received_ms,
    };
    Some((search_key, entry.in_doubt))
}

fn with_facts(
    bytes: &[u8],
    timestamp_policy: TimestampPolicy,
    call: impl FnOnce(&EventFacts<'_>, &Marks),
) {
    if let Ok(entry) = SpoolEntry::decode(bytes)
        && let EntryContent::Event { marks, .. } = &entry.content
        && let Ok(event) = parse_event(&entry.value)
    {
        let received_at = to_system_time(entry.received_ms);
        let is_plausible = timestamp_policy.is_plausible(event.timestamp_ms(), received_at);
        call(&EventFacts::from_event(&event, is_plausible), marks);
    }
}

fn parse_event(value: &[u8]) -> Result<Event<'_>, String> {
    match parse(value, None, ParseLimits::UNLIMITED) {
        Ok(ParsedBody::Single(Ok(event))) => Ok(event),
        Ok(ParsedBody::Single(Err(_))) => {
            Err("its value is not a valid event for this release".to_owned())
        }
        Ok(ParsedBody::Array(_)) => Err("its value is an array".to_owned()),
        Err(unreadable) => Err(format!("its value is not an event: {}", unreadable.detail)),
    }
}

fn to_system_time(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
