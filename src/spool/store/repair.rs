//! Repair of damaged segments: a file with the complete rows takes the segment's name, and a copy
//! of the damaged file goes to `damaged/`.

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

/// Complete rows, by index of the destination and sequence number.
pub(super) type SegmentRows<'f> = BTreeMap<(usize, u64), &'f [u8]>;

impl SpoolStore {
    /// Repairs a segment after the error `why`.
    pub(super) fn repair(&self, number: u32, why: &str) -> Result<(), StoreError> {
        self.stop_writing(number);
        let mut readers = lock(&self.readers);
        readers.retain(|(open, _)| *open != number);
        let path = self.segment_path(number);
        let bytes = match self.read_salvageable(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                drop(readers);
                // A disk that takes no writes either may be readable another time.
                self.write_manifest()
                    .map_err(|_| StoreError::read(segment_name(number), &error))?;
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
        let damaged = DamagedFile::new(&segment_name(number), why.to_owned(), moved_to);
        self.report_damaged(DamagedFile { lost, ..damaged }, Some(rows.len()));
        if !self.read_only {
            // If this fails, the next start finds the damage again.
            let _ = self.write_manifest();
        }
        Ok(())
    }

    /// Reads a file as a whole, or sector by sector if it has bad ones.
    pub(super) fn read_salvageable(&self, path: &Path) -> io::Result<Vec<u8>> {
        let read = self.disk.read(path);
        read.or_else(|_| read_readable_sectors(&*self.disk.open_read_only(path)?))
    }

    /// Counts the entries of a segment that cannot be read at all as lost. The file stays where it
    /// is, for another start.
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
        tracing::error!(file, why, lost, "a file of the spool cannot be read at all");
        let damaged = DamagedFile::new(&file, why.to_owned(), None);
        lock(&self.damaged).push(DamagedFile { lost, ..damaged });
    }

    fn stop_writing(&self, number: u32) {
        let mut target = lock(&self.append_target);
        if matches!(&*target, AppendTarget::Ready { number: active, .. } if *active == number) {
            self.seal(number, false);
            // If this fails, the next append returns the error.
            let _ = self.begin_segment(&mut target);
        }
    }

    /// Copies a file to `damaged/`, durably. Returns the copy's path, if that succeeds.
    pub(super) fn preserve_damaged(&self, name: &str) -> Option<PathBuf> {
        if self.read_only {
            return None;
        }
        let dir = self.path(DAMAGED_DIR);
        self.disk.create_dir(&dir).ok()?;
        let taken = self.disk.list(&dir).ok()?;
        let name_for = |number: usize| {
            if number == 0 {
                name.to_owned()
            } else {
                format!("{name}.{number}")
            }
        };
        let is_free = |name: &String| taken.iter().all(|(taken, _)| taken != name);
        let to = dir.join((0..).map(name_for).find(is_free)?);
        let copied = self
            .disk
            .copy_durably(&self.path(name), &to)
            .and_then(|()| self.disk.sync_dir(&dir));
        match copied {
            Ok(()) => Some(to),
            Err(error) => {
                tracing::warn!(file = name, %error, "could not keep a damaged file of the spool");
                let _ = self.disk.remove(&to);
                None
            }
        }
    }

    /// Replaces a damaged file by one with `rows`. Returns a file in memory if that fails, or if
    /// the damaged file has no copy.
    fn replace_segment(
        &self,
        number: u32,
        rows: &SegmentRows,
        has_copy: bool,
    ) -> Option<Arc<SegmentFile>> {
        if has_copy && self.replace_file(&segment_name(number), rows).is_ok() {
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

    /// Writes a file with `rows` that [`SpoolStore::install_replacement`] then renames to `name`.
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
            // A full disk needs the space.
            let _ = self.disk.remove(&new);
        })
    }

    pub(super) fn install_replacement(&self, name: &str) -> Result<(), FileError> {
        let new = self.path(&temporary_name(name));
        self.disk.rename(&new, &self.path(name))?;
        Ok(self.disk.sync_dir(&self.dir)?)
    }

    /// Sets the counts of a segment to those of its complete rows. Returns the number of lost
    /// entries, if it is known.
    fn recount(
        &self,
        number: u32,
        rows: &SegmentRows,
        in_memory: Option<Arc<SegmentFile>>,
    ) -> Option<u64> {
        let len = self.disk.len(&self.segment_path(number)).ok();
        let mut state = self.state();
        let segment = state.segments.get_mut(&number)?;
        // The manifest has no exact counts of a file that was still written when its process ended.
        let is_known = segment.checked || matches!(segment.stage, SegmentStage::Sealed(Some(_)));
        let before = segment.live;
        let mut after: DestinationCounts = [0; Destination::COUNT];
        segment.rows = [0; Destination::COUNT];
        for (to, seq) in rows.keys() {
            segment.rows[*to] += 1;
            after[*to] += u64::from(!segment.removed.contains(place_of(*seq)));
        }
        // A lost row counts as removed, so that a late confirmation does not count it down again.
        let whole: BTreeSet<u32> = rows.keys().map(|(_, seq)| place_of(*seq)).collect();
        segment.end = whole.last().map_or(0, |last| last + 1);
        for place in (0..segment.end).filter(|place| !whole.contains(place)) {
            segment.removed.insert(place);
        }
        segment.live = after;
        segment.checked = true;
        segment.stage = SegmentStage::Sealed(len.filter(|_| in_memory.is_none()));
        segment.bytes = len.unwrap_or(segment.bytes);
        segment.in_memory = in_memory;
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
