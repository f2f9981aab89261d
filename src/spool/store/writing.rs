//! Appending, and what becomes of segments: begun, sealed, retired.

use std::{
    io::ErrorKind,
    ops::Range,
    sync::{PoisonError, atomic::Ordering::Relaxed},
};

use super::{
    MANIFEST_FILE, SpoolStore, StoreError,
    file::{FileError, SegmentFile},
    lock, now_ms, retired_name, segment_name,
    state::{MAX_ROWS, Segment, SegmentStage, sequence},
};
use butlr_event::destination::Destination;

use crate::spool::entry::SpoolEntry;

/// A segment that has nothing left is replaced by a new one when it is larger than this.
const SMALL_SEGMENT_BYTES: u64 = 1 << 20;

/// What appending needs to know.
pub(super) enum AppendTarget {
    /// To this segment, from this place on.
    Ready { number: u32, next: u32 },
    /// Nothing can be appended, because of this.
    Unwritable(String),
}

impl SpoolStore {
    /// Appends all of them in one commit, durable on return. Sequence numbers ascend in the order given, over all destinations,
    /// and never come again.
    ///
    /// # Errors
    /// [`StoreError::Write`]: it is not known what is on disk, and nothing can be appended until
    /// [`Store::recover_writing`] has succeeded. Otherwise nothing of it is.
    pub fn append(&self, entries: &[(Destination, Vec<u8>)]) -> Result<Range<u64>, StoreError> {
        let mut writer = lock(&self.append_target);
        let count = u32::try_from(entries.len())
            .ok()
            .filter(|count| *count <= MAX_ROWS);
        let count = count.ok_or(StoreError::TooMany(entries.len()))?;
        let (number, next) = self.prepare_append(&mut writer, count)?;
        let first = sequence(number, next);
        if count == 0 {
            return Ok(first..first);
        }
        let rows = entries
            .iter()
            .zip(first..)
            .map(|((to, bytes), seq)| (to.index(), seq, bytes.as_slice()));
        let committed = match &*self.active.read().unwrap_or_else(PoisonError::into_inner) {
            Some((_, file)) => file.append(rows),
            None => Err(FileError("it is closed".to_owned())),
        };
        if let Err(FileError(why)) = committed {
            let file = segment_name(number);
            self.seal(number, false);
            *writer = AppendTarget::Unwritable(format!("writing {file} failed: {why}"));
            return Err(StoreError::Write { file, why });
        }
        *writer = AppendTarget::Ready {
            number,
            next: next + count,
        };
        self.record_append(number, next + count, entries);
        Ok(first..first + u64::from(count))
    }

    /// Where the next `count` rows go.
    fn prepare_append(
        &self,
        writer: &mut AppendTarget,
        count: u32,
    ) -> Result<(u32, u32), StoreError> {
        if let AppendTarget::Ready { number, next } = *writer
            && next > 0
            && (self.active_bytes() >= self.segment_bytes || next + count > MAX_ROWS)
        {
            self.seal(number, true);
            self.begin_segment(writer)?;
        }
        match &*writer {
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

    /// Why nothing can be appended, if so.
    pub fn unwritable_reason(&self) -> Option<String> {
        match &*lock(&self.append_target) {
            AppendTarget::Ready { .. } => None,
            AppendTarget::Unwritable(why) => Some(why.clone()),
        }
    }

    /// After a failed commit: begins a new segment, and proves with a commit that it can be written. What was committed before
    /// stays readable. Does nothing when all is well.
    ///
    /// # Errors
    /// It still can't be written.
    pub fn recover_writing(&self) -> Result<(), StoreError> {
        let mut writer = lock(&self.append_target);
        match &*writer {
            AppendTarget::Ready { .. } => Ok(()),
            AppendTarget::Unwritable(_) => self.begin_segment(&mut writer),
        }
    }

    /// Begins a segment: a file is made under another name, proved, made durable, named, noted in the manifest, and only then
    /// written to. Interrupted anywhere, it leaves an empty segment or a file that is removed at the next start.
    pub(super) fn begin_segment(&self, writer: &mut AppendTarget) -> Result<(), StoreError> {
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
            *self.active.write().unwrap_or_else(PoisonError::into_inner) = Some((number, file));
            self.state().segments.insert(number, segment);
            self.write_manifest()
        });
        match result {
            Ok(()) => *writer = AppendTarget::Ready { number, next: 0 },
            Err(error) => {
                // Nothing was written to it, so it is nothing; a name that stays behind is an empty segment.
                drop(
                    self.active
                        .write()
                        .unwrap_or_else(PoisonError::into_inner)
                        .take(),
                );
                self.state().segments.remove(&number);
                let _ = self.disk.remove(&self.segment_path(number));
                *writer = AppendTarget::Unwritable(error.to_string());
                return Err(error);
            }
        }
        Ok(())
    }

    fn create_segment_file(&self, number: u32) -> Result<SegmentFile, StoreError> {
        let name = segment_name(number);
        let new = self.path(&format!("{name}.new"));
        let made = || -> Result<SegmentFile, FileError> {
            let file = SegmentFile::create(self.disk.create(&new)?)?;
            file.probe_write(now_ms())?;
            self.disk.rename(&new, &self.path(&name))?;
            self.disk.sync_dir(&self.dir)?;
            Ok(file)
        };
        made().map_err(|FileError(why)| {
            let _ = self.disk.remove(&new);
            StoreError::Write { file: name, why }
        })
    }

    /// Nothing more is written to this segment. `whole`: no error has occurred in it. Readers wait meanwhile: nobody may look at
    /// a file that is being closed.
    pub(super) fn seal(&self, number: u32, whole: bool) {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        let Some((_, file)) = active.take_if(|(active, _)| *active == number) else {
            return;
        };
        let written = file.written_bytes();
        // A file that could not be closed properly is one that is found after a crash: redb repairs it when it is read.
        let closed = file.close();
        let len = self.disk.len(&self.segment_path(number)).ok();
        let mut state = self.state();
        let Some(segment) = state.segments.get_mut(&number) else {
            return;
        };
        let is_whole = whole && closed.is_ok();
        segment.stage = SegmentStage::Sealed(len.filter(|_| is_whole));
        segment.bytes = len.filter(|_| is_whole).unwrap_or(written);
        segment.checked = false;
        segment.written_counter = None;
        state.dirty = true;
    }

    /// A large segment that has nothing left is written no more, so that an empty spool is a small one.
    pub(super) fn renew_if_empty(&self) -> Result<(), StoreError> {
        let mut writer = lock(&self.append_target);
        let AppendTarget::Ready { number, .. } = *writer else {
            return Ok(());
        };
        let is_done = self
            .state()
            .segments
            .get(&number)
            .is_some_and(Segment::is_drained);
        if !is_done || self.active_bytes() <= SMALL_SEGMENT_BYTES {
            return Ok(());
        }
        self.seal(number, true);
        self.begin_segment(&mut writer)?;
        self.retire(&[number])
    }

    /// Removes segments of which nothing is needed. The new name is what makes it so; space is given up at once, because it may be
    /// what is needed to write the manifest.
    pub(super) fn retire(&self, numbers: &[u32]) -> Result<(), StoreError> {
        if numbers.is_empty() || self.read_only {
            return Ok(());
        }
        // Held, so that none of them is written anew meanwhile.
        let mut readers = lock(&self.readers);
        readers.retain(|(number, _)| !numbers.contains(number));
        let io = |name: String| {
            move |error: std::io::Error| StoreError::Write {
                file: name,
                why: error.to_string(),
            }
        };
        for number in numbers {
            let name = segment_name(*number);
            match self
                .disk
                .rename(&self.path(&name), &self.path(&retired_name(*number)))
            {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(name)(error)),
                _ => {}
            }
        }
        self.disk
            .sync_dir(&self.dir)
            .map_err(io(self.dir.display().to_string()))?;
        let mut state = self.state();
        for number in numbers {
            let segment = state.segments.remove(number);
            state.retired.push(*number);
            // One that could not be replaced may be the only one there is.
            if segment.is_none_or(|segment| segment.in_memory.is_none()) {
                let _ = self.disk.truncate(&self.path(&retired_name(*number)));
            }
        }
        state.dirty = true;
        Ok(())
    }

    /// Removes those that were not removed when they became empty, because of an error.
    pub(super) fn retire_drained(&self) -> Result<(), StoreError> {
        let is_done = |(number, segment): (&u32, &Segment)| {
            (segment.is_drained() && segment.stage != SegmentStage::Writing).then_some(*number)
        };
        let done: Vec<u32> = self.state().segments.iter().filter_map(is_done).collect();
        self.retire(&done)
    }

    /// Replaces the manifest by one that says what is so now. Durable on return.
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
            return Err(StoreError::Write {
                file: MANIFEST_FILE.to_owned(),
                why: error.to_string(),
            });
        }
        for number in retired {
            let mut state = self.state();
            // The greatest number stays to be seen.
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
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        active.as_ref().map_or(0, |(_, file)| file.written_bytes())
    }
}

pub(super) fn received_ms(bytes: &[u8]) -> Option<i64> {
    SpoolEntry::decode(bytes)
        .ok()
        .map(|entry| entry.received_ms)
}
