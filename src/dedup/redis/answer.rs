//! Parses Redis' answers to claims, and encodes current values.

use redis::Value;

use crate::dedup::claim::{CurrentReading, published_id};
use crate::dedup::{EventFacts, ReadingHash, StorageLocation};
use crate::marks::{DuplicateKind, Marks, Revision};
use butlr_event::event_id::EventId;

/// Answer to a claim.
#[derive(Debug, PartialEq)]
pub enum ClaimAnswer {
    /// Another event must be decided first.
    Wait,
    /// The event is stored.
    Redelivery(StorageLocation),
    /// The event's value is the current one.
    Repeat,
    /// The event is to be published with these marks; the value becomes the current one.
    Publish(Marks, Option<CurrentReading>),
    /// The event is stored, and to be published again with these marks. Redis holds nothing for it.
    Republish(Marks),
}

/// Parses the answer to a claim; `None` if it is not one.
pub fn parse_answer(value: &Value, facts: &EventFacts<'_>, id: &EventId) -> Option<ClaimAnswer> {
    let Value::BulkString(bytes) = value else {
        return None;
    };
    match bytes.split_first()? {
        (b'w', _) => Some(ClaimAnswer::Wait),
        (b'd', rest) => Some(ClaimAnswer::Redelivery(match rest.first() {
            Some(b's') => StorageLocation::Spooled,
            _ => StorageLocation::Published,
        })),
        (b'r', _) => Some(ClaimAnswer::Repeat),
        (b'p', rest) => parse_publish(rest, facts, id)
            .map(|(marks, current)| ClaimAnswer::Publish(marks, current)),
        (b'a', rest) => {
            parse_publish(rest, facts, id).map(|(marks, _)| ClaimAnswer::Republish(marks))
        }
        _ => None,
    }
}

fn parse_publish(
    bytes: &[u8],
    facts: &EventFacts<'_>,
    id: &EventId,
) -> Option<(Marks, Option<CurrentReading>)> {
    let (&[duplicate, conflict, change, order], replaced) = bytes.split_first_chunk()?;
    let mut marks = Marks {
        duplicate: match duplicate {
            b'd' => Some(DuplicateKind::Redelivery),
            b'r' => Some(DuplicateKind::Repeat),
            _ => None,
        },
        conflict: (conflict == b'c').then_some(facts.reading.0),
        stale: change == b's',
        out_of_order: order == b'o',
        ..Marks::default()
    };
    let revision = match change {
        b'f' => Some(0),
        b'k' => Some(decode_current(replaced)?.revision),
        b'v' => {
            let replaced = decode_current(replaced)?;
            let number = replaced.revision.saturating_add(1);
            marks.revision = Some(Revision {
                number,
                supersedes: replaced.id,
            });
            Some(number)
        }
        _ => None,
    };
    let current = revision.map(|revision| CurrentReading {
        reading: facts.reading,
        id: published_id(&marks, id.clone()),
        revision,
    });
    Some((marks, current))
}

/// Encodes version, reading, revision, second of the id (-1 if none), the epoch in which the value
/// is trusted (none yet), and the id.
pub fn encode_current(current: &CurrentReading) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(b'1');
    bytes.extend(current.reading.0.to_le_bytes());
    bytes.extend(current.revision.to_le_bytes());
    // A double holds the seconds exactly, and Lua has no other numbers.
    let seconds = current.id.ksuid_seconds().unwrap_or(-1) as f64;
    bytes.extend(seconds.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(current.id.to_string().into_bytes());
    bytes
}

fn decode_current(bytes: &[u8]) -> Option<CurrentReading> {
    let rest = bytes.strip_prefix(b"1")?;
    let (reading, rest) = rest.split_first_chunk()?;
    let (revision, rest) = rest.split_first_chunk()?;
    let (_seconds_and_epoch, id) = rest.split_first_chunk::<16>()?;
    Some(CurrentReading {
        reading: ReadingHash(u64::from_le_bytes(*reading)),
        id: EventId::new(std::str::from_utf8(id).ok()?),
        revision: u32::from_le_bytes(*revision),
    })
}
