//! What Redis' answers mean, and the bytes of a current value.

use redis::Value;

use crate::dedup::Facts;
use crate::dedup::claim::{Current, under};
use crate::marks::{Duplicate, Marks, Revision};
use butlr_event::event_id::EventId;

/// What Redis says of an event.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// Another one has to be decided first.
    Wait,
    /// It is stored, on somebody's disk only where `spooled`.
    Redelivery { spooled: bool },
    /// Its value is the current one.
    Repeat,
    /// It is to be published, marked so; this becomes the current value.
    Publish(Marks, Option<Current>),
    /// It is stored, and to be published again, marked so. Nothing is held for that.
    Again(Marks),
}

/// Reads the answer to a claim. `None`: that is none.
pub fn read(value: &Value, facts: &Facts<'_>, id: &EventId) -> Option<Answer> {
    let Value::BulkString(bytes) = value else {
        return None;
    };
    match bytes.split_first()? {
        (b'w', _) => Some(Answer::Wait),
        (b'd', rest) => Some(Answer::Redelivery {
            spooled: rest.first() == Some(&b's'),
        }),
        (b'r', _) => Some(Answer::Repeat),
        (b'p', rest) => {
            publish(rest, facts, id).map(|(marks, current)| Answer::Publish(marks, current))
        }
        (b'a', rest) => publish(rest, facts, id).map(|(marks, _)| Answer::Again(marks)),
        _ => None,
    }
}

fn publish(bytes: &[u8], facts: &Facts<'_>, id: &EventId) -> Option<(Marks, Option<Current>)> {
    let (&[duplicate, conflict, cell, order], replaced) = bytes.split_first_chunk()?;
    let conflict = conflict == b'c';
    let mut marks = Marks {
        duplicate: match duplicate {
            b'd' => Some(Duplicate::Redelivery),
            b'r' => Some(Duplicate::Repeat),
            _ => None,
        },
        conflict: conflict.then_some(facts.reading),
        stale: cell == b's',
        out_of_order: order == b'o',
        ..Marks::default()
    };
    let revision = match cell {
        b'f' => Some(0),
        b'k' => Some(unpack(replaced)?.revision),
        b'v' => {
            let replaced = unpack(replaced)?;
            let number = replaced.revision.saturating_add(1);
            marks.revision = Some(Revision {
                number,
                supersedes: replaced.id,
            });
            Some(number)
        }
        _ => None,
    };
    let current = revision.map(|revision| Current {
        reading: facts.reading,
        id: under(&marks, id.clone()),
        revision,
    });
    Some((marks, current))
}

/// Version, reading, revision, second of the id (-1: none), epoch in which it can be relied on (none yet), id.
pub fn pack(current: &Current) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(b'1');
    bytes.extend(current.reading.to_le_bytes());
    bytes.extend(current.revision.to_le_bytes());
    // Seconds fit a double exactly, and Lua knows nothing else.
    let seconds = current.id.seconds().unwrap_or(-1) as f64;
    bytes.extend(seconds.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(current.id.to_string().into_bytes());
    bytes
}

fn unpack(bytes: &[u8]) -> Option<Current> {
    let rest = bytes.strip_prefix(b"1")?;
    let (reading, rest) = rest.split_first_chunk()?;
    let (revision, rest) = rest.split_first_chunk()?;
    let (_seconds_and_epoch, id) = rest.split_first_chunk::<16>()?;
    Some(Current {
        reading: u64::from_le_bytes(*reading),
        id: EventId::new(std::str::from_utf8(id).ok()?),
        revision: u32::from_le_bytes(*revision),
    })
}
