//! Entries that Kafka refuses for good: in a file like a segment's, which is never retired.

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

/// An entry that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it was to go.
    pub destination: Destination,
    /// Its sequence number.
    pub seq: u64,
    /// Why Kafka refuses it.
    pub reason: String,
    /// When it was set aside, ms since 1970.
    pub at_ms: i64,
    /// The entry.
    pub value: Vec<u8>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct DeadLetterHeader {
    reason: String,
    at_ms: i64,
}

impl SpoolStore {
    /// Moves an entry to those that Kafka refuses for good. Durable on return; interrupted, it is in both places, and at the next start only
    /// in the latter.
    ///
    /// # Errors
    /// It stays where it is.
    pub fn move_to_dead_letters(
        &self,
        to: Destination,
        seq: u64,
        reason: &str,
    ) -> Result<(), StoreError> {
        if self.read_only {
            return Err(StoreError::ReadOnly);
        }
        let entry = self
            .read(to, seq, 1, usize::MAX)?
            .pop()
            .filter(|(found, _)| *found == seq);
        let (_, value) = entry.ok_or(StoreError::Missing(seq))?;
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
            .map_err(|FileError(why)| StoreError::Write {
                file: DEAD_LETTER_FILE.to_owned(),
                why,
            })?;
        // It lies there now, whatever becomes of where it was.
        let _ = self.remove(to, &[seq]);
        let _ = self.flush();
        Ok(())
    }

    fn append_dead_letter(&self, to: Destination, seq: u64, row: &[u8]) -> Result<(), FileError> {
        let mut is_sound = lock(&self.is_dead_letter_file_sound);
        let path = self.path(DEAD_LETTER_FILE);
        if std::mem::take(&mut *is_sound) {
            let file = SegmentFile::open(self.disk.open(&path)?)?;
            file.put(to.index(), seq, row)?;
            file.close()?;
            self.dead_letter_count.fetch_add(1, Relaxed);
        } else {
            let bytes = match self.disk.read(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                read => read?,
            };
            // One that could not be set aside is not, although the file may have it.
            let mut rows = salvage(&bytes, |seq| !self.is_live(seq)).whole;
            rows.insert((to.index(), seq), row);
            self.replace_file(DEAD_LETTER_FILE, &rows)?;
            self.dead_letter_count.store(rows.len() as u64, Relaxed);
        }
        *is_sound = true;
        self.dead_letter_bytes
            .store(self.disk.len(&path).unwrap_or(0), Relaxed);
        Ok(())
    }

    pub(super) fn is_live(&self, seq: u64) -> bool {
        let state = self.state();
        let segment = state.segments.get(&segment_of(seq));
        segment.is_some_and(|segment| !segment.removed.contains(place_of(seq)))
    }

    /// All that were set aside.
    ///
    /// # Errors
    /// They can't be read.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>, StoreError> {
        let _one_at_a_time = lock(&self.is_dead_letter_file_sound);
        let unreadable = |FileError(why)| StoreError::Read {
            file: DEAD_LETTER_FILE.to_owned(),
            why,
        };
        if self.disk.len(&self.path(DEAD_LETTER_FILE)).is_err() {
            return Ok(Vec::new());
        }
        self.read_dead_letters().map_err(unreadable)
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
                return Err(FileError("an entry's checksum does not fit".to_owned()));
            }
        }
        Ok(entries)
    }

    /// At opening, before entries that are also in a segment are removed there: what can be read may be known to the kernel
    /// alone, and not be on disk.
    pub(super) fn make_dead_letters_durable(&self) -> Result<(), FileError> {
        let bytes = self.disk.read(&self.path(DEAD_LETTER_FILE))?;
        self.replace_file(DEAD_LETTER_FILE, &salvage(&bytes, |_| true).whole)
    }

    /// At opening: what was set aside, by destination. A damaged file is replaced by what is whole in it.
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
                tracing::error!(
                    file = DEAD_LETTER_FILE,
                    why,
                    kept = rows.len(),
                    ?moved_to,
                    "a file of the spool is damaged"
                );
                lock(&self.damaged).push(DamagedFile {
                    file: DEAD_LETTER_FILE.to_owned(),
                    moved_to,
                    why,
                    lost: None,
                });
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
