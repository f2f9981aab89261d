//! What one record of the bridge's topics tells of what was stored.

use std::time::UNIX_EPOCH;

use super::place::partition_of;
use crate::dedup::Facts;
use crate::dedup::claim::Current;
use crate::dedup::event_id::EventId;
use crate::event::{Limits, Parsed, parse};

/// A record of the bridge is never too large for it.
const ANY_SIZE: Limits = Limits {
    max_events: usize::MAX,
    max_event_bytes: usize::MAX,
};

/// Further ahead than `kafka.max_future` may be.
const FAR_AHEAD_MS: i64 = 3_600_000;

/// A record, as far as it is looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record<'r> {
    key: Option<&'r [u8]>,
    value: &'r [u8],
    id: Option<&'r str>,
    received_ms: Option<i64>,
    revision: u32,
    spooled: bool,
    stale: bool,
    duplicate: bool,
    conflict: bool,
    time_replaced: bool,
}

impl<'r> Record<'r> {
    /// One without headers.
    pub fn new(key: Option<&'r [u8]>, value: &'r [u8]) -> Self {
        Self {
            key,
            value,
            ..Self::default()
        }
    }

    /// Takes note of a header; those of others do not matter.
    pub fn header(&mut self, name: &str, value: &'r [u8]) {
        let Some(name) = name.strip_prefix("ce_") else {
            return;
        };
        let text = || std::str::from_utf8(value).ok();
        match name {
            "id" => self.id = text(),
            "receivedat" => self.received_ms = text().and_then(millis),
            "revision" => self.revision = text().and_then(|t| t.parse().ok()).unwrap_or(0),
            "spooled" => self.spooled = true,
            "stale" => self.stale = true,
            "duplicate" => self.duplicate = true,
            "idconflict" => self.conflict = true,
            "timereplaced" => self.time_replaced = true,
            _ => {}
        }
    }

    /// When the bridge had it, ms since 1970; `None`: it is none of the bridge's.
    pub fn received_ms(&self) -> Option<i64> {
        self.received_ms
    }

    /// Whether a bridge would put it into this partition of `of` now.
    pub fn belongs_to(&self, partition: i32, of: usize) -> bool {
        self.key
            .is_some_and(|key| partition_of(key, of) == Some(partition))
    }

    /// It waited on disk.
    pub fn spooled(&self) -> bool {
        self.spooled
    }

    /// What it tells; `None`: it is none of the bridge's.
    pub fn told(&self) -> Option<Told> {
        let received_ms = self.received_ms?;
        let Ok(Parsed::One(Ok(event))) = parse(self.value, None, ANY_SIZE) else {
            return None;
        };
        // Where records carry the time of receipt, no header tells of clocks that are far ahead.
        let is_far_ahead = event.timestamp_ms() - received_ms > FAR_AHEAD_MS;
        let facts = Facts::of(&event, !self.time_replaced && !is_far_ahead);
        let makes_current = !self.stale && !self.duplicate;
        let current = facts.cell.filter(|_| makes_current).map(|cell| {
            let current = Current {
                reading: facts.reading,
                id: EventId::new(self.id.unwrap_or(facts.id)),
                revision: self.revision,
            };
            (cell, current)
        });
        Some(Told {
            id_key: facts.id_key,
            reading: facts.reading,
            conflict: self.conflict,
            newest: facts
                .plausible_time
                .then_some((facts.source, facts.timestamp_ms)),
            current,
            received_ms,
        })
    }
}

/// ms since 1970 of a time in RFC 3339.
fn millis(text: &str) -> Option<i64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

/// What a record tells.
#[derive(Clone, Debug)]
pub struct Told {
    /// The key of its event's id.
    pub id_key: u64,
    /// The key of the reading.
    pub reading: u64,
    /// Another event was stored under that id.
    pub conflict: bool,
    /// A source, and the time of an event of it.
    pub newest: Option<(u64, i64)>,
    /// The value that it made current, with its cell.
    pub current: Option<(u64, Current)>,
    /// When the bridge had it, ms since 1970.
    pub received_ms: i64,
}
