//! Entries that Kafka refuses for good: in a file like a segment's, which is never retired.

use std::{io::ErrorKind, ops::ControlFlow, sync::atomic::Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use super::{
    Damaged, Store, StoreError,
    file::{FileError, SegmentFile},
    frame::salvage,
    lock, now_ms,
    state::{place_of, segment_of},
};
use butlr_event::destination::Destination;

pub(super) const SET_ASIDE: &str = "set-aside.redb";

/// An entry that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
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
struct Head {
    reason: String,
    at_ms: i64,
}

impl Store {
    /// Moves an entry to those that Kafka refuses for good. Durable on return; interrupted, it is in both places, and at the next start only
    /// in the latter.
    ///
    /// # Errors
    /// It stays where it is.
    pub fn set_aside(&self, to: Destination, seq: u64, reason: &str) -> Result<(), StoreError> {
        if self.read_only {
            return Err(StoreError::ReadOnly);
        }
        let entry = self
            .read(to, seq, 1, usize::MAX)?
            .pop()
            .filter(|(found, _)| *found == seq);
        let (_, value) = entry.ok_or(StoreError::Missing(seq))?;
        let head = Head {
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
        self.append_set_aside(to, seq, &row)
            .map_err(|FileError(why)| StoreError::Write {
                file: SET_ASIDE.to_owned(),
                why,
            })?;
        // It lies there now, whatever becomes of where it was.
        let _ = self.remove(to, &[seq]);
        let _ = self.flush();
        Ok(())
    }

    fn append_set_aside(&self, to: Destination, seq: u64, row: &[u8]) -> Result<(), FileError> {
        let mut is_sound = lock(&self.set_aside);
        let path = self.path(SET_ASIDE);
        if std::mem::take(&mut *is_sound) {
            let file = SegmentFile::open(self.disk.open(&path)?)?;
            file.put(to.index(), seq, row)?;
            file.close()?;
            self.set_aside_count.fetch_add(1, Relaxed);
        } else {
            let bytes = match self.disk.read(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                read => read?,
            };
            // One that could not be set aside is not, although the file may have it.
            let mut rows = salvage(&bytes, |seq| !self.is_live(seq)).whole;
            rows.insert((to.index(), seq), row);
            self.replace_file(SET_ASIDE, &rows)?;
            self.set_aside_count.store(rows.len() as u64, Relaxed);
        }
        *is_sound = true;
        self.set_aside_bytes
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
    pub fn set_aside_entries(&self) -> Result<Vec<SetAside>, StoreError> {
        let _one_at_a_time = lock(&self.set_aside);
        let unreadable = |FileError(why)| StoreError::Read {
            file: SET_ASIDE.to_owned(),
            why,
        };
        if self.disk.len(&self.path(SET_ASIDE)).is_err() {
            return Ok(Vec::new());
        }
        self.read_set_aside().map_err(unreadable)
    }

    fn read_set_aside(&self) -> Result<Vec<SetAside>, FileError> {
        let file = SegmentFile::read_only(self.disk.open_read_only(&self.path(SET_ASIDE))?)?;
        let mut entries = Vec::new();
        for destination in Destination::all() {
            let mut broken = false;
            file.scan(destination.index(), 0, |seq, row| {
                match row.ok().and_then(|row| decode(destination, seq, row)) {
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
    pub(super) fn make_set_aside_durable(&self) -> Result<(), FileError> {
        let bytes = self.disk.read(&self.path(SET_ASIDE))?;
        self.replace_file(SET_ASIDE, &salvage(&bytes, |_| true).whole)
    }

    /// At opening: what was set aside, by destination. A damaged file is replaced by what is whole in it.
    pub(super) fn find_set_aside(&self) -> Vec<(Destination, u64)> {
        let path = self.path(SET_ASIDE);
        let Ok(len) = self.disk.len(&path) else {
            return Vec::new();
        };
        self.set_aside_bytes.store(len, Relaxed);
        let seqs = |entries: Vec<SetAside>| {
            entries
                .iter()
                .map(|entry| (entry.destination, entry.seq))
                .collect()
        };
        match self.read_set_aside() {
            Ok(entries) => seqs(entries),
            Err(FileError(why)) => {
                let bytes = self.read_what_can_be(&path).unwrap_or_default();
                let rows = salvage(&bytes, |_| true).whole;
                let moved_to = self.keep_damaged(SET_ASIDE);
                if moved_to.is_some() {
                    let _ = self.replace_file(SET_ASIDE, &rows);
                }
                tracing::error!(
                    file = SET_ASIDE,
                    why,
                    kept = rows.len(),
                    ?moved_to,
                    "a file of the spool is damaged"
                );
                lock(&self.damaged).push(Damaged {
                    file: SET_ASIDE.to_owned(),
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

fn decode(destination: Destination, seq: u64, row: &[u8]) -> Option<SetAside> {
    let (len, rest) = row.split_first_chunk()?;
    let (head, value) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    let Head { reason, at_ms } = serde_json::from_slice(head).ok()?;
    Some(SetAside {
        destination,
        seq,
        reason,
        at_ms,
        value: value.to_vec(),
    })
}
