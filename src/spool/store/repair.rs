//! What becomes of a segment in which something is wrong: what is whole in it goes on living under its name, and the file as it
//! was lies in `damaged/`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{
    DAMAGED, Damaged, Store, StoreError,
    disk::read_in_pieces,
    file::{FileError, SegmentFile},
    frame::salvage,
    lock, segment_name,
    state::{Counts, Stage, place_of, segment_of},
    writing::Writer,
};
use butlr_event::destination::Destination;

/// Whole rows, by destination and sequence number.
pub(super) type Rows<'f> = BTreeMap<(usize, u64), &'f [u8]>;

impl Store {
    /// `why`: what is wrong with it.
    pub(super) fn repair(&self, number: u32, why: &str) -> Result<(), StoreError> {
        self.stop_writing(number);
        let mut readers = lock(&self.readers);
        readers.retain(|(open, _)| *open != number);
        let path = self.segment_path(number);
        let unreadable = |error: &io::Error| StoreError::Read {
            file: segment_name(number),
            why: error.to_string(),
        };
        let bytes = match self.read_what_can_be(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                drop(readers);
                // A disk that takes nothing either may give everything back another time.
                self.write_manifest().map_err(|_| unreadable(&error))?;
                self.give_up(number, &format!("{why}; {error}"));
                return Ok(());
            }
        };
        let end = self
            .state()
            .segments
            .get(&number)
            .map_or(0, |segment| segment.end);
        let rows = salvage(&bytes, |seq| {
            segment_of(seq) == number && place_of(seq) < end
        })
        .whole;
        let moved_to = self.keep_damaged(&segment_name(number));
        let file = self.replace(number, &rows, moved_to.is_some());
        let lost = self.count_again(number, &rows, file);
        drop(readers);
        let damaged = Damaged {
            file: segment_name(number),
            moved_to,
            why: why.to_owned(),
            lost,
        };
        tracing::error!(
            file = damaged.file, why, lost, kept = rows.len(), moved_to = ?damaged.moved_to,
            "a file of the spool is damaged: what is whole in it is kept"
        );
        lock(&self.damaged).push(damaged);
        if !self.read_only {
            // What it says is found out again at the next start.
            let _ = self.write_manifest();
        }
        Ok(())
    }

    /// A file with bad sectors can't be read in one go, whatever is whole in it.
    pub(super) fn read_what_can_be(&self, path: &Path) -> io::Result<Vec<u8>> {
        let read = self.disk.read(path);
        read.or_else(|_| read_in_pieces(&*self.disk.open_read_only(path)?))
    }

    /// Nothing can be read of it at all: it stays where it is, for another start, and counts for nothing.
    pub(super) fn give_up(&self, number: u32, why: &str) {
        let segment = {
            let mut state = self.state();
            let segment = state.segments.remove(&number);
            let written = segment.as_ref().map(|segment| segment.written(number));
            state.unreadable.extend(written);
            segment
        };
        let lost = segment.map(|segment| {
            for (to, live) in segment.live.into_iter().enumerate() {
                self.lost[to].fetch_add(live, Relaxed);
                self.present[to].fetch_sub(live, Relaxed);
            }
            segment.live.iter().sum()
        });
        let file = segment_name(number);
        tracing::error!(file, why, lost, "a file of the spool can't be read at all");
        lock(&self.damaged).push(Damaged {
            file,
            moved_to: None,
            why: why.to_owned(),
            lost,
        });
    }

    fn stop_writing(&self, number: u32) {
        let mut writer = lock(&self.writer);
        if matches!(&*writer, Writer::Ready { number: active, .. } if *active == number) {
            self.seal(number, false);
            // Where this fails, appending says so.
            let _ = self.begin(&mut writer);
        }
    }

    /// A durable copy of a file in `damaged/`; none where that can't be.
    pub(super) fn keep_damaged(&self, name: &str) -> Option<PathBuf> {
        if self.read_only {
            return None;
        }
        let dir = self.path(DAMAGED);
        self.disk.create_dir(&dir).ok()?;
        let taken = self.disk.list(&dir).ok()?;
        let name_for = |turn: usize| {
            if turn == 0 {
                name.to_owned()
            } else {
                format!("{name}.{turn}")
            }
        };
        let free = |name: &String| taken.iter().all(|(taken, _)| taken != name);
        let to = dir.join((0..).map(name_for).find(free)?);
        let kept = self
            .disk
            .keep_copy(&self.path(name), &to)
            .and_then(|()| self.disk.sync_dir(&dir));
        match kept {
            Ok(()) => Some(to),
            Err(error) => {
                tracing::warn!(file = name, %error, "a damaged file of the spool could not be kept");
                let _ = self.disk.remove(&to);
                None
            }
        }
    }

    /// Puts a file with these rows in the place of the damaged one, or keeps them in memory where that can't be.
    fn replace(&self, number: u32, rows: &Rows, may_go: bool) -> Option<Arc<SegmentFile>> {
        if may_go && self.replace_file(&segment_name(number), rows).is_ok() {
            return None;
        }
        Self::in_memory(rows).ok()
    }

    pub(super) fn in_memory(rows: &Rows) -> Result<Arc<SegmentFile>, FileError> {
        let file = SegmentFile::in_memory()?;
        file.append(rows.iter().map(|((to, seq), bytes)| (*to, *seq, *bytes)))?;
        Ok(Arc::new(file))
    }

    pub(super) fn replace_file(&self, name: &str, rows: &Rows) -> Result<(), FileError> {
        self.write_new(name, rows)?;
        self.put_in_place(name)
    }

    /// Writes a file with these rows that is yet to be put in the place of `name`.
    pub(super) fn write_new(&self, name: &str, rows: &Rows) -> Result<(), FileError> {
        let new = self.path(&new_name(name));
        match self.disk.remove(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let write = || {
            let file = SegmentFile::create(self.disk.create(&new)?)?;
            file.append(rows.iter().map(|((to, seq), bytes)| (*to, *seq, *bytes)))?;
            file.close()
        };
        write().inspect_err(|_| {
            // On a full disk its space is needed.
            let _ = self.disk.remove(&new);
        })
    }

    pub(super) fn put_in_place(&self, name: &str) -> Result<(), FileError> {
        let new = self.path(&new_name(name));
        self.disk.rename(&new, &self.path(name))?;
        Ok(self.disk.sync_dir(&self.dir)?)
    }

    /// Sets what is known of a segment to what was saved. Returns how many entries that were there are lost, by what was known.
    fn count_again(
        &self,
        number: u32,
        rows: &Rows,
        memory: Option<Arc<SegmentFile>>,
    ) -> Option<u64> {
        let len = self.disk.len(&self.segment_path(number)).ok();
        let mut state = self.state();
        let segment = state.segments.get_mut(&number)?;
        let live = |rows: &Rows, segment: &super::state::Segment| {
            let mut live: Counts = [0; Destination::COUNT];
            for (to, seq) in rows.keys() {
                live[*to] += u64::from(!segment.removed.contains(place_of(*seq)));
            }
            live
        };
        // What a file held that was still written to when its process ended is not known.
        let is_known = segment.checked || matches!(segment.stage, Stage::Sealed(Some(_)));
        let (before, after) = (segment.live, live(rows, segment));
        // What damage took is not to be counted down once more when its record is confirmed.
        let whole: BTreeSet<u32> = rows.keys().map(|(_, seq)| place_of(*seq)).collect();
        segment.end = whole.last().map_or(0, |last| last + 1);
        for place in (0..segment.end).filter(|place| !whole.contains(place)) {
            segment.removed.insert(place);
        }
        segment.rows = [0; Destination::COUNT];
        rows.keys().for_each(|(to, _)| segment.rows[*to] += 1);
        segment.live = after;
        segment.checked = true;
        segment.stage = Stage::Sealed(len.filter(|_| memory.is_none()));
        segment.bytes = len.unwrap_or(segment.bytes);
        segment.memory = memory;
        state.dirty = true;
        let mut lost = 0;
        for to in 0..Destination::COUNT {
            let gone = before[to].saturating_sub(after[to]);
            self.lost[to].fetch_add(gone, Relaxed);
            self.present[to].fetch_add(after[to], Relaxed);
            self.present[to].fetch_sub(before[to], Relaxed);
            lost += gone;
        }
        (is_known || lost > 0).then_some(lost)
    }
}

pub(super) fn new_name(name: &str) -> String {
    format!("{name}.new")
}
