//! A run of one partition's records, read forwards: which of them count, and what they tell memory.

use std::time::Duration;

use super::told::{Told, belongs_to};
use super::{SLACK, Start};
use crate::dedup::memory::Memory;
use crate::kafka::tail::{Record, Span};

/// So many records that did not wait tell whether the search goes on: one may be from another time than those
/// around it.
const FIRST: u8 = 8;

/// What is kept of a record.
#[derive(Debug)]
enum Seen {
    Told(Told),
    /// It is from before the window, and made a value of this cell current: what lies before it is not.
    Replaced(u64),
}

/// A span of a partition, and what its records tell.
#[derive(Debug)]
pub struct Chunk {
    span: Span,
    /// How many of its first records were looked at for their age, and whether all of them are from before the window.
    looked_at: u8,
    beyond: bool,
    seen: Vec<Seen>,
    /// The place of the first one there that is told.
    first_told: Option<usize>,
}

impl AsMut<Span> for Chunk {
    fn as_mut(&mut self) -> &mut Span {
        &mut self.span
    }
}

impl Chunk {
    /// With nothing read yet.
    pub fn of(span: Span) -> Self {
        Self {
            span,
            looked_at: 0,
            beyond: true,
            seen: Vec::new(),
            first_told: None,
        }
    }

    /// Its offsets.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Keeps what one of its records tells, in a topic `of` so many partitions. Returns whether it is one of the bridge's.
    pub fn see(&mut self, record: &Record<'_>, of: usize, start: Start, window: Duration) -> bool {
        let Some(received_ms) = record.received_ms else {
            return false;
        };
        let age = start.age(received_ms);
        if !record.waited && self.looked_at < FIRST {
            self.looked_at += 1;
            self.beyond &= age > window + SLACK;
        }
        let is_old = age > window;
        // In a topic of which little is new, most are from before the window and before all that is told: with nothing
        // left for them to have replaced.
        if is_old && self.looked_at == FIRST && self.beyond && self.first_told.is_none() {
            return true;
        }
        let mut told = Told::by(record);
        if let Some(told) = &mut told
            && !belongs_to(record, self.span.partition(), of)
        {
            // From before the topic grew: what replaced it would lie elsewhere.
            told.current = None;
        }
        let is_ours = is_old || told.is_some();
        match told {
            Some(told) if is_old => {
                let replaced = told.current.map(|(cell, _)| Seen::Replaced(cell));
                self.seen.extend(replaced);
            }
            Some(told) => {
                self.first_told.get_or_insert(self.seen.len());
                self.seen.push(Seen::Told(told));
            }
            None => {}
        }
        is_ours
    }

    /// Before the chunk lies nothing that the window has: its first records are older, and they are in order but for
    /// some seconds.
    pub fn reaches_beyond(&self) -> bool {
        self.looked_at > 0 && self.beyond
    }

    /// Hands on what was told, the last record first: of an id, and of a (type, space, timestamp), that one wins, here as
    /// between chunks. Returns how many ids and how many current values were taken.
    ///
    /// Current values only of a chunk that was read to its end; and only there it matters what was replaced: before one that
    /// was not nothing is read until it was.
    pub fn settle(self, memory: &Memory, start: Start) -> (u64, u64) {
        let is_whole = self.span.is_read() && !self.span.is_altered();
        let (mut ids, mut values) = (0, 0);
        // Where the search ends nothing is read that these could have replaced.
        let replacing_nothing = match self.reaches_beyond() {
            true => self.first_told.unwrap_or(self.seen.len()),
            false => 0,
        };
        for seen in self.seen.into_iter().skip(replacing_nothing).rev() {
            let told = match seen {
                Seen::Told(told) => told,
                Seen::Replaced(cell) => {
                    if is_whole {
                        memory.restore_replaced(cell);
                    }
                    continue;
                }
            };
            let age = start.age(told.received_ms);
            if let Some((source, timestamp_ms)) = told.newest {
                memory.restore_newest(source, timestamp_ms);
            }
            let (id, reading) = (told.id_key, told.reading);
            let taken = memory.restore_id(id, reading, told.conflict, age, start.instant);
            ids += u64::from(taken);
            if let Some((cell, current)) = told.current.filter(|_| is_whole) {
                let taken = memory.restore_current(cell, current, age, start.instant);
                values += u64::from(taken);
            }
        }
        (ids, values)
    }
}
