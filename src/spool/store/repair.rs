//! What becomes of a segment in which something is wrong: what is whole in it goes on living under its name, and the file as it
//! was lies in `damaged/`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{
    DAMAGED_DIR, DamagedFile, SpoolStore, StoreError,
    disk::read_readable_sectors,
    file::{FileError, SegmentFile},
    frame::salvage,
    lock, segment_name,
    state::{DestinationCounts, SegmentStage, place_of, segment_of},
    writing::AppendTarget,
};
use butlr_event::destination::Destination;

/// Whole rows, by destination and sequence number.
pub(super) type SegmentRows<'f> = BTreeMap<(usize, u64), &'f [u8]>;

impl SpoolStore {
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
        let bytes = match self.read_salvageable(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                drop(readers);
                // A disk that takes nothing either may give everything back another time.
                self.write_manifest().map_err(|_| unreadable(&error))?;
                self.abandon_segment(number, &format!("{why}; {error}"));
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
        let moved_to = self.preserve_damaged(&segment_name(number));
        let file = self.replace_segment(number, &rows, moved_to.is_some());
        let lost = self.recount(number, &rows, file);
        drop(readers);
        let damaged = DamagedFile {
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
    pub(super) fn read_salvageable(&self, path: &Path) -> io::Result<Vec<u8>> {
        let read = self.disk.read(path);
        read.or_else(|_| read_readable_sectors(&*self.disk.open_read_only(path)?))
    }

    /// Nothing can be read of it at all: it stays where it is, for another start, and counts for nothing.
    pub(super) fn abandon_segment(&self, number: u32, why: &str) {
        let segment = {
            let mut state = self.state();
            let segment = state.segments.remove(&number);
            let written = segment.as_ref().map(|segment| segment.to_written(number));
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
        lock(&self.damaged).push(DamagedFile {
            file,
            moved_to: None,
            why: why.to_owned(),
            lost,
        });
    }

    fn stop_writing(&self, number: u32) {
        let mut writer = lock(&self.append_target);
        if matches!(&*writer, AppendTarget::Ready { number: active, .. } if *active == number) {
            self.seal(number, false);
            // Where this fails, appending says so.
            let _ = self.begin_segment(&mut writer);
        }
    }

    /// A durable copy of a file in `damaged/`; none where that can't be.
    pub(super) fn preserve_damaged(&self, name: &str) -> Option<PathBuf> {
        if self.read_only {
            return None;
        }
        let dir = self.path(DAMAGED_DIR);
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
            .copy_durably(&self.path(name), &to)
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
    fn replace_segment(
        &self,
        number: u32,
        rows: &SegmentRows,
        may_go: bool,
    ) -> Option<Arc<SegmentFile>> {
        if may_go && self.replace_file(&segment_name(number), rows).is_ok() {
            return None;
        }
        Self::build_in_memory(rows).ok()
    }

    pub(super) fn build_in_memory(rows: &SegmentRows) -> Result<Arc<SegmentFile>, FileError> {
        let file = SegmentFile::in_memory()?;
        file.append(rows.iter().map(|((to, seq), bytes)| (*to, *seq, *bytes)))?;
        Ok(Arc::new(file))
    }

    pub(super) fn replace_file(&self, name: &str, rows: &SegmentRows) -> Result<(), FileError> {
        self.write_replacement(name, rows)?;
        self.install_replacement(name)
    }

    /// Writes a file with these rows that is yet to be put in the place of `name`.
    pub(super) fn write_replacement(
        &self,
        name: &str,
        rows: &SegmentRows,
    ) -> Result<(), FileError> {
        let new = self.path(&temporary_name(name));
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

    pub(super) fn install_replacement(&self, name: &str) -> Result<(), FileError> {
        let new = self.path(&temporary_name(name));
        self.disk.rename(&new, &self.path(name))?;
        Ok(self.disk.sync_dir(&self.dir)?)
    }

    /// Sets what is known of a segment to what was saved. Returns how many entries that were there are lost, by what was known.
    fn recount(
        &self,
        number: u32,
        rows: &SegmentRows,
        memory: Option<Arc<SegmentFile>>,
    ) -> Option<u64> {
        let len = self.disk.len(&self.segment_path(number)).ok();
        let mut state = self.state();
        let segment = state.segments.get_mut(&number)?;
        let live = |rows: &SegmentRows, segment: &super::state::Segment| {
            let mut live: DestinationCounts = [0; Destination::COUNT];
            for (to, seq) in rows.keys() {
                live[*to] += u64::from(!segment.removed.contains(place_of(*seq)));
            }
            live
        };
        // What a file held that was still written to when its process ended is not known.
        let is_known = segment.checked || matches!(segment.stage, SegmentStage::Sealed(Some(_)));
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
        segment.stage = SegmentStage::Sealed(len.filter(|_| memory.is_none()));
        segment.bytes = len.unwrap_or(segment.bytes);
        segment.in_memory = memory;
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

pub(super) fn temporary_name(name: &str) -> String {
    format!("{name}.new")
}
