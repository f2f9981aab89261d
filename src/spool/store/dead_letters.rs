//! Dead letters: entries that Kafka refuses for good, in a file like a segment's that is never
//! retired.

use std::{io::ErrorKind, ops::ControlFlow, sync::atomic::Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use super::{
    DamagedFile, SpoolStore, StoreError,
    file::{FileError, SegmentFile},
    frame::salvage,
    lock, now_ms,
    state::{place_of, segment_of},
};
use butlr_event::destination::Destination;

pub(super) const DEAD_LETTER_FILE: &str = "set-aside.redb";

/// An entry that Kafka refuses for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Destination of the entry.
    pub destination: Destination,
    /// Sequence number of the entry.
    pub seq: u64,
    /// The reason why it cannot be published.
    pub reason: String,
    /// Time at which it became a dead letter, ms since 1970.
    pub at_ms: i64,
    /// The entry.
    pub value: Vec<u8>,
}

/// State of the file of dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum DeadLetterFile {
    /// Written by another process, or after an error.
    #[default]
    Unchecked,
    /// Written by this process, without an error.
    Sound,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct DeadLetterHeader {
    reason: String,
    at_ms: i64,
}

impl SpoolStore {
    /// Makes an entry a dead letter. Durable on return. After an interruption the entry can be in
    /// both places; the next start removes it from the segment.
    ///
    /// # Errors
    /// The entry stays where it is.
    pub fn move_to_dead_letters(
        &self,
        to: Destination,
        seq: u64,
        reason: &str,
    ) -> Result<(), StoreError> {
        if self.read_only {
            return Err(StoreError::ReadOnly);
        }
        let value = self.read_one(to, seq)?.ok_or(StoreError::Missing(seq))?;
        let head = DeadLetterHeader {
            reason: reason.to_owned(),
            at_ms: now_ms(),
        };
        let head = serde_json::to_vec(&head).expect("a string and a number");
        let mut row = u32::try_from(head.len())
            .unwrap_or(0)
            .to_le_bytes()
            .to_vec();
        row.extend(head);
        row.extend(value);
        self.append_dead_letter(to, seq, &row)
            .map_err(|error| StoreError::write(DEAD_LETTER_FILE, error))?;
        // It is a dead letter now, also if the removal from the segment fails.
        let _ = self.remove(to, &[seq]);
        let _ = self.flush();
        Ok(())
    }

    fn append_dead_letter(&self, to: Destination, seq: u64, row: &[u8]) -> Result<(), FileError> {
        let mut state = lock(&self.dead_letter_file);
        let path = self.path(DEAD_LETTER_FILE);
        if std::mem::take(&mut *state) == DeadLetterFile::Sound {
            let file = SegmentFile::open(self.disk.open(&path)?)?;
            file.put(to.index(), seq, row)?;
            file.close()?;
            self.dead_letter_count.fetch_add(1, Relaxed);
        } else {
            let bytes = match self.disk.read(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                read => read?,
            };
            // A row that is still in a segment belongs to a move that failed.
            let mut rows = salvage(&bytes, |seq| !self.is_live(seq)).whole;
            rows.insert((to.index(), seq), row);
            self.replace_file(DEAD_LETTER_FILE, &rows)?;
            self.dead_letter_count.store(rows.len() as u64, Relaxed);
        }
        *state = DeadLetterFile::Sound;
        self.dead_letter_bytes
            .store(self.disk.len(&path).unwrap_or(0), Relaxed);
        Ok(())
    }

    pub(super) fn is_live(&self, seq: u64) -> bool {
        let state = self.state();
        let segment = state.segments.get(&segment_of(seq));
        segment.is_some_and(|segment| !segment.removed.contains(place_of(seq)))
    }

    /// Reads all dead letters.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>, StoreError> {
        let _one_at_a_time = lock(&self.dead_letter_file);
        if self.disk.len(&self.path(DEAD_LETTER_FILE)).is_err() {
            return Ok(Vec::new());
        }
        self.read_dead_letters()
            .map_err(|error| StoreError::read(DEAD_LETTER_FILE, error))
    }

    fn read_dead_letters(&self) -> Result<Vec<DeadLetter>, FileError> {
        let file = SegmentFile::read_only(self.disk.open_read_only(&self.path(DEAD_LETTER_FILE))?)?;
        let mut entries = Vec::new();
        for destination in Destination::all() {
            let mut broken = false;
            file.scan(destination.index(), 0, |seq, row| {
                match row
                    .ok()
                    .and_then(|row| decode_dead_letter(destination, seq, row))
                {
                    Some(entry) => entries.push(entry),
                    None => broken = true,
                }
                ControlFlow::Continue(())
            })?;
            if broken {
                return Err(FileError("an entry's checksum does not match".to_owned()));
            }
        }
        Ok(entries)
    }

    /// Rewrites the file at opening, before entries that are also in a segment are removed there:
    /// its rows may exist only in the kernel's cache.
    pub(super) fn make_dead_letters_durable(&self) -> Result<(), FileError> {
        let bytes = self.disk.read(&self.path(DEAD_LETTER_FILE))?;
        self.replace_file(DEAD_LETTER_FILE, &salvage(&bytes, |_| true).whole)
    }

    /// Loads the destinations and sequence numbers of dead letters at opening. A damaged file is
    /// replaced by one with its complete rows.
    pub(super) fn load_dead_letters(&self) -> Vec<(Destination, u64)> {
        let path = self.path(DEAD_LETTER_FILE);
        let Ok(len) = self.disk.len(&path) else {
            return Vec::new();
        };
        self.dead_letter_bytes.store(len, Relaxed);
        let seqs = |entries: Vec<DeadLetter>| {
            entries
                .iter()
                .map(|entry| (entry.destination, entry.seq))
                .collect()
        };
        match self.read_dead_letters() {
            Ok(entries) => seqs(entries),
            Err(FileError(why)) => {
                let bytes = self.read_salvageable(&path).unwrap_or_default();
                let rows = salvage(&bytes, |_| true).whole;
                let moved_to = self.preserve_damaged(DEAD_LETTER_FILE);
                if moved_to.is_some() {
                    let _ = self.replace_file(DEAD_LETTER_FILE, &rows);
                }
                let damaged = DamagedFile::new(DEAD_LETTER_FILE, why, moved_to);
                self.report_damaged(damaged, Some(rows.len()));
                let found = rows
                    .keys()
                    .filter_map(|(to, seq)| Some((Destination::from_index(*to)?, *seq)));
                found.collect()
            }
        }
    }
}

fn decode_dead_letter(destination: Destination, seq: u64, row: &[u8]) -> Option<DeadLetter> {
    let (len, rest) = row.split_first_chunk()?;
    let (head, value) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    let DeadLetterHeader { reason, at_ms } = serde_json::from_slice(head).ok()?;
    Some(DeadLetter {
        destination,
        seq,
        reason,
        at_ms,
        value: value.to_vec(),
    })
}
