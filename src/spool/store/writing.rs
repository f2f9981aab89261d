//! Appending entries, and the life of segments: begun, sealed, retired.

use std::{io::ErrorKind, ops::Range, sync::atomic::Ordering::Relaxed};

use super::{
    MANIFEST_FILE, SpoolStore, StoreError,
    file::{FileError, SegmentFile},
    lock, now_ms, retired_name, segment_name,
    state::{MAX_ROWS, Segment, SegmentStage, sequence},
};
use butlr_event::destination::Destination;

use crate::spool::entry::SpoolEntry;

/// An empty segment larger than this is replaced by a new one.
const SMALL_SEGMENT_BYTES: u64 = 1 << 20;

/// Position of the next append.
pub(super) enum AppendTarget {
    /// Place `next` of the segment `number`.
    Ready { number: u32, next: u32 },
    /// Nothing can be appended, for this reason.
    Unwritable(String),
}

impl SpoolStore {
    /// Appends entries in one commit, durable on return. Their sequence numbers ascend in the given
    /// order, over all destinations, and are never used again.
    ///
    /// # Errors
    /// After [`StoreError::Write`] the entries may be on disk, and nothing can be appended until
    /// [`SpoolStore::recover_writing`] has succeeded. After other errors they are not on disk.
    pub fn append(&self, entries: &[(Destination, Vec<u8>)]) -> Result<Range<u64>, StoreError> {
        let mut target = lock(&self.append_target);
        let count = u32::try_from(entries.len())
            .ok()
            .filter(|count| *count <= MAX_ROWS);
        let count = count.ok_or(StoreError::TooMany(entries.len()))?;
        let (number, next) = self.prepare_append(&mut target, count)?;
        let first = sequence(number, next);
        if count == 0 {
            return Ok(first..first);
        }
        let rows = entries
            .iter()
            .zip(first..)
            .map(|((to, bytes), seq)| (to.index(), seq, bytes.as_slice()));
        let committed = match &*self.active() {
            Some((_, file)) => file.append(rows),
            None => Err(FileError("it is closed".to_owned())),
        };
        if let Err(FileError(why)) = committed {
            let file = segment_name(number);
            self.seal(number, false);
            *target = AppendTarget::Unwritable(format!("writing {file} failed: {why}"));
            return Err(StoreError::Write { file, why });
        }
        *target = AppendTarget::Ready {
            number,
            next: next + count,
        };
        self.record_append(number, next + count, entries);
        Ok(first..first + u64::from(count))
    }

    /// Returns the segment and place of the next `count` rows; begins a segment if they do not fit.
    fn prepare_append(
        &self,
        target: &mut AppendTarget,
        count: u32,
    ) -> Result<(u32, u32), StoreError> {
        if let AppendTarget::Ready { number, next } = *target
            && next > 0
            && (self.active_bytes() >= self.segment_bytes || next + count > MAX_ROWS)
        {
            self.seal(number, true);
            self.begin_segment(target)?;
        }
        match &*target {
            AppendTarget::Ready { number, next } => Ok((*number, *next)),
            AppendTarget::Unwritable(why) => Err(StoreError::Unwritable { why: why.clone() }),
        }
    }

    fn record_append(&self, number: u32, end: u32, entries: &[(Destination, Vec<u8>)]) {
        let mut state = self.state();
        let Some(segment) = state.segments.get_mut(&number) else {
            return;
        };
        for (to, _) in entries {
            segment.rows[to.index()] += 1;
            segment.live[to.index()] += 1;
            self.present[to.index()].fetch_add(1, Relaxed);
        }
        if segment.first_ms.is_none() {
            segment.first_ms = Some(received_ms(&entries[0].1).unwrap_or_else(now_ms));
        }
        segment.end = end;
        state.dirty = true;
    }

    /// Returns the reason why nothing can be appended, if there is one.
    pub fn unwritable_reason(&self) -> Option<String> {
        match &*lock(&self.append_target) {
            AppendTarget::Ready { .. } => None,
            AppendTarget::Unwritable(why) => Some(why.clone()),
        }
    }

    /// After a failed commit, begins a new segment and tests it with a commit. Committed entries
    /// stay readable. Does nothing if the store can be written.
    ///
    /// # Errors
    /// The disk still fails.
    pub fn recover_writing(&self) -> Result<(), StoreError> {
        let mut target = lock(&self.append_target);
        match &*target {
            AppendTarget::Ready { .. } => Ok(()),
            AppendTarget::Unwritable(_) => self.begin_segment(&mut target),
        }
    }

    /// Begins a segment: creates a file under another name, tests it with a commit, renames it,
    /// lists it in the manifest, and only then writes to it. An interruption leaves an empty
    /// segment, or a file that the next start removes.
    pub(super) fn begin_segment(&self, target: &mut AppendTarget) -> Result<(), StoreError> {
        if self.read_only {
            return Err(StoreError::ReadOnly);
        }
        let number = {
            let mut state = self.state();
            state.next_segment += 1;
            state.next_segment - 1
        };
        let result = self.create_segment_file(number).and_then(|file| {
            let mut segment = Segment::new(SegmentStage::Writing, 0);
            (segment.end, segment.checked) = (0, true);
            segment.written_counter = file.written_counter();
            *self.active_mut() = Some((number, file));
            self.state().segments.insert(number, segment);
            self.write_manifest()
        });
        match result {
            Ok(()) => *target = AppendTarget::Ready { number, next: 0 },
            Err(error) => {
                // The file has no rows; if it stays behind, it is an empty segment.
                *self.active_mut() = None;
                self.state().segments.remove(&number);
                let _ = self.disk.remove(&self.segment_path(number));
                *target = AppendTarget::Unwritable(error.to_string());
                return Err(error);
            }
        }
        Ok(())
    }

    fn create_segment_file(&self, number: u32) -> Result<SegmentFile, StoreError> {
        let name = segment_name(number);
        let new = self.path(&format!("{name}.new"));
        let create = || -> Result<SegmentFile, FileError> {
            let file = SegmentFile::create(self.disk.create(&new)?)?;
            file.probe_write(now_ms())?;
            self.disk.rename(&new, &self.path(&name))?;
            self.disk.sync_dir(&self.dir)?;
            Ok(file)
        };
        create().map_err(|FileError(why)| {
            let _ = self.disk.remove(&new);
            StoreError::Write { file: name, why }
        })
    }

    /// Closes a segment for writing; `is_sound` if no error has occurred in it. Readers wait,
    /// because a file must not be read while it is closed.
    pub(super) fn seal(&self, number: u32, is_sound: bool) {
        let mut active = self.active_mut();
        let Some((_, file)) = active.take_if(|(active, _)| *active == number) else {
            return;
        };
        let written = file.written_bytes();
        // A file that could not be closed is like one after a crash: redb repairs it when it is
        // read.
        let closed = file.close();
        let len = self.disk.len(&self.segment_path(number)).ok();
        let mut state = self.state();
        let Some(segment) = state.segments.get_mut(&number) else {
            return;
        };
        let len = len.filter(|_| is_sound && closed.is_ok());
        segment.stage = SegmentStage::Sealed(len);
        segment.bytes = len.unwrap_or(written);
        segment.checked = false;
        segment.written_counter = None;
        state.dirty = true;
    }

    /// Replaces a large current segment without entries by a new one, so that an empty spool is
    /// small.
    pub(super) fn renew_if_empty(&self) -> Result<(), StoreError> {
        let mut target = lock(&self.append_target);
        let AppendTarget::Ready { number, .. } = *target else {
            return Ok(());
        };
        let is_drained = self
            .state()
            .segments
            .get(&number)
            .is_some_and(Segment::is_drained);
        if !is_drained || self.active_bytes() <= SMALL_SEGMENT_BYTES {
            return Ok(());
        }
        self.seal(number, true);
        self.begin_segment(&mut target)?;
        self.retire(&[number])
    }

    /// Removes segments without entries. The rename makes the removal effective; the space is freed
    /// at once, because the manifest may need it.
    pub(super) fn retire(&self, numbers: &[u32]) -> Result<(), StoreError> {
        if numbers.is_empty() || self.read_only {
            return Ok(());
        }
        // Locked, so that no segment is compacted or repaired meanwhile.
        let mut readers = lock(&self.readers);
        readers.retain(|(number, _)| !numbers.contains(number));
        for number in numbers {
            let name = segment_name(*number);
            match self
                .disk
                .rename(&self.path(&name), &self.path(&retired_name(*number)))
            {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(StoreError::write(name, error));
                }
                _ => {}
            }
        }
        self.disk
            .sync_dir(&self.dir)
            .map_err(|error| StoreError::write(self.dir.display(), error))?;
        let mut state = self.state();
        for number in numbers {
            let segment = state.segments.remove(number);
            state.retired.push(*number);
            // If the rows are in memory, the damaged file may be the only copy of the original.
            if segment.is_none_or(|segment| segment.in_memory.is_none()) {
                let _ = self.disk.truncate(&self.path(&retired_name(*number)));
            }
        }
        state.dirty = true;
        Ok(())
    }

    /// Removes empty segments whose removal failed before.
    pub(super) fn retire_drained(&self) -> Result<(), StoreError> {
        let drained = |(number, segment): (&u32, &Segment)| {
            (segment.is_drained() && segment.stage != SegmentStage::Writing).then_some(*number)
        };
        let drained: Vec<u32> = self.state().segments.iter().filter_map(drained).collect();
        self.retire(&drained)
    }

    /// Writes the current state to the manifest. Durable on return.
    pub(super) fn write_manifest(&self) -> Result<(), StoreError> {
        if self.read_only {
            return Err(StoreError::ReadOnly);
        }
        let _one_at_a_time = lock(&self.manifest);
        let (manifest, retired) = {
            let mut state = self.state();
            state.dirty = false;
            (state.manifest(), std::mem::take(&mut state.retired))
        };
        let new = self.path(&format!("{MANIFEST_FILE}.new"));
        let written = self
            .disk
            .write(&new, &manifest.encode())
            .and_then(|()| self.disk.rename(&new, &self.path(MANIFEST_FILE)))
            .and_then(|()| self.disk.sync_dir(&self.dir));
        if let Err(error) = written {
            let _ = self.disk.remove(&new);
            let mut state = self.state();
            state.dirty = true;
            state.retired.extend(retired);
            return Err(StoreError::write(MANIFEST_FILE, error));
        }
        for number in retired {
            let mut state = self.state();
            // The file with the greatest number stays, so that the number is not used again.
            if state
                .segments
                .last_key_value()
                .is_none_or(|(last, _)| *last < number)
            {
                state.retired.push(number);
            } else {
                let _ = self.disk.remove(&self.path(&retired_name(number)));
            }
        }
        Ok(())
    }

    pub(super) fn active_bytes(&self) -> u64 {
        let active = self.active();
        active.as_ref().map_or(0, |(_, file)| file.written_bytes())
    }
}

pub(super) fn received_ms(bytes: &[u8]) -> Option<i64> {
    SpoolEntry::decode(bytes)
        .ok()
        .map(|entry| entry.received_ms)
}
