//! What Redis' answers mean, and the bytes of a current value.

use redis::Value;

use crate::dedup::EventFacts;
use crate::dedup::claim::{CurrentReading, published_id};
use crate::marks::{DuplicateKind, Marks, Revision};
use butlr_event::event_id::EventId;

/// What Redis says of an event.
#[derive(Debug, PartialEq)]
pub enum ClaimAnswer {
    /// Another one has to be decided first.
    Wait,
    /// It is stored, on somebody's disk only where `spooled`.
    Redelivery { spooled: bool },
    /// Its value is the current one.
    Repeat,
    /// It is to be published, marked so; this becomes the current value.
    Publish(Marks, Option<CurrentReading>),
    /// It is stored, and to be published again, marked so. Nothing is held for that.
    Republish(Marks),
}

/// Reads the answer to a claim. `None`: that is none.
pub fn parse_answer(value: &Value, facts: &EventFacts<'_>, id: &EventId) -> Option<ClaimAnswer> {
    let Value::BulkString(bytes) = value else {
        return None;
    };
    match bytes.split_first()? {
        (b'w', _) => Some(ClaimAnswer::Wait),
        (b'd', rest) => Some(ClaimAnswer::Redelivery {
            spooled: rest.first() == Some(&b's'),
        }),
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
    let (&[duplicate, conflict, cell, order], replaced) = bytes.split_first_chunk()?;
    let conflict = conflict == b'c';
    let mut marks = Marks {
        duplicate: match duplicate {
            b'd' => Some(DuplicateKind::Redelivery),
            b'r' => Some(DuplicateKind::Repeat),
            _ => None,
        },
        conflict: conflict.then_some(facts.reading),
        stale: cell == b's',
        out_of_order: order == b'o',
        ..Marks::default()
    };
    let revision = match cell {
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

/// Version, reading, revision, second of the id (-1: none), epoch in which it can be relied on (none yet), id.
pub fn encode_current(current: &CurrentReading) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(b'1');
    bytes.extend(current.reading.to_le_bytes());
    bytes.extend(current.revision.to_le_bytes());
    // Seconds fit a double exactly, and Lua knows nothing else.
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
        reading: u64::from_le_bytes(*reading),
        id: EventId::new(std::str::from_utf8(id).ok()?),
        revision: u32::from_le_bytes(*revision),
    })
}
