//! Reading entries back.

use std::{ops::ControlFlow, sync::Arc};

use super::{
    DamagedFile, SpoolStore, StoreError, VerifyReport,
    file::{FileError, SegmentFile},
    lock,
    removed_rows::RemovedRows,
    segment_name,
    state::{SegmentStage, place_of, segment_of, sequence},
};
use butlr_event::destination::Destination;

/// Every destination may be reading another segment.
const MAX_OPEN_FILES: usize = Destination::COUNT + 1;

/// Limits of one read. The first entry is read whatever its size.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    /// Maximum number of entries.
    pub entries: usize,
    /// Number of bytes at which the read ends.
    pub bytes: usize,
}

impl ReadLimit {
    /// One entry.
    pub const ONE: Self = Self {
        entries: 1,
        bytes: usize::MAX,
    };
}

/// Copy of the state of a segment that a read needs.
struct SegmentView {
    number: u32,
    removed: RemovedRows,
    end: u32,
}

struct ReadBatch {
    entries: Vec<(u64, Vec<u8>)>,
    /// Next sequence number to read.
    from: u64,
    max_entries: usize,
    bytes_left: usize,
}

impl ReadBatch {
    fn is_full(&self) -> bool {
        self.entries.len() >= self.max_entries || self.bytes_left == 0
    }

    fn push(&mut self, seq: u64, bytes: &[u8]) {
        self.bytes_left = self.bytes_left.saturating_sub(bytes.len());
        self.entries.push((seq, bytes.to_vec()));
        self.from = seq + 1;
    }
}

impl SpoolStore {
    /// Reads entries of `to` from sequence number `from` on, ascending, without removed ones.
    ///
    /// A damaged segment is replaced by one with its complete rows, after a copy was put into
    /// `damaged/`; the other rows are counted in [`SpoolStore::lost`]. A segment that cannot be
    /// read at all is lost as a whole and stays where it is.
    ///
    /// # Errors
    /// The disk can neither be read nor written.
    pub fn read(
        &self,
        to: Destination,
        from: u64,
        limit: ReadLimit,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let mut batch = ReadBatch {
            entries: Vec::new(),
            from,
            max_entries: limit.entries,
            bytes_left: limit.bytes,
        };
        while !batch.is_full() {
            let Some(view) = self.view_segment(to, batch.from) else {
                break;
            };
            let next = sequence(view.number + 1, 0);
            self.read_segment(to, &view, &mut batch)?;
            if !batch.is_full() {
                batch.from = next;
            }
        }
        Ok(batch.entries)
    }

    /// Reads the entry `seq` of `to`; `None` if it was removed or is lost.
    ///
    /// # Errors
    /// As for [`SpoolStore::read`].
    pub fn read_one(&self, to: Destination, seq: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let read = self.read(to, seq, ReadLimit::ONE)?.pop();
        Ok(read.and_then(|(found, bytes)| (found == seq).then_some(bytes)))
    }

    /// Finds the first segment that has entries of `to` from `from` on.
    fn view_segment(&self, to: Destination, from: u64) -> Option<SegmentView> {
        let state = self.state();
        let mut from_there = state.segments.range(segment_of(from)..);
        let (number, segment) = from_there.find(|(_, segment)| segment.live[to.index()] > 0)?;
        Some(SegmentView {
            number: *number,
            removed: segment.removed.clone(),
            end: segment.end,
        })
    }

    fn read_segment(
        &self,
        to: Destination,
        view: &SegmentView,
        batch: &mut ReadBatch,
    ) -> Result<(), StoreError> {
        let Err(FileError(why)) = self.scan_segment(to, view, batch) else {
            return Ok(());
        };
        self.repair(view.number, &why)?;
        let still_there = self.state().segments.contains_key(&view.number);
        if !still_there {
            return Ok(());
        }
        self.scan_segment(to, view, batch)
            .map_err(|error| StoreError::read(segment_name(view.number), error))
    }

    fn scan_segment(
        &self,
        to: Destination,
        view: &SegmentView,
        batch: &mut ReadBatch,
    ) -> Result<(), FileError> {
        let from = batch
            .from
            .max(sequence(view.number, view.removed.first_live()));
        let end = sequence(view.number, view.end);
        let mut is_broken = false;
        self.with_file(view.number, |file| {
            file.scan(to.index(), from, |seq, row| {
                if seq >= end {
                    return ControlFlow::Break(());
                }
                if view.removed.contains(place_of(seq)) {
                    return ControlFlow::Continue(());
                }
                match row {
                    Ok(bytes) => batch.push(seq, bytes),
                    Err(_) => is_broken = true,
                }
                if is_broken || batch.is_full() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
        })?;
        if is_broken {
            Err(FileError("an entry's checksum does not match".to_owned()))
        } else {
            Ok(())
        }
    }

    /// Calls `read` with the file of a segment.
    pub(super) fn with_file<T>(
        &self,
        number: u32,
        read: impl FnOnce(&SegmentFile) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        if let Some((active, file)) = &*self.active()
            && *active == number
        {
            return read(file);
        }
        read(&*self.open_reader(number)?)
    }

    pub(super) fn open_reader(&self, number: u32) -> Result<Arc<SegmentFile>, FileError> {
        if let Some(memory) = self.in_memory(number) {
            return Ok(memory);
        }
        let mut readers = lock(&self.readers);
        if let Some(place) = readers.iter().position(|(open, _)| *open == number) {
            let reader = readers.remove(place);
            let file = Arc::clone(&reader.1);
            readers.push(reader);
            return Ok(file);
        }
        let file = Arc::new(self.open_checked(number)?);
        if readers.len() >= MAX_OPEN_FILES {
            readers.remove(0);
        }
        readers.push((number, Arc::clone(&file)));
        Ok(file)
    }

    fn in_memory(&self, number: u32) -> Option<Arc<SegmentFile>> {
        self.state().segments.get(&number)?.in_memory.clone()
    }

    /// Opens a sealed segment. The first time in this process all of it is read, because redb may
    /// silently skip rows of a damaged file.
    fn open_checked(&self, number: u32) -> Result<SegmentFile, FileError> {
        let file = SegmentFile::read_only(self.disk.open_read_only(&self.segment_path(number))?)?;
        let (checked, rows, end) = {
            let state = self.state();
            let segment = state.segments.get(&number);
            let segment = segment.ok_or_else(|| FileError("it no longer exists".to_owned()))?;
            (segment.checked, segment.rows, segment.end)
        };
        if !checked {
            let read = count_whole_rows(&file, sequence(number, 0)..sequence(number, end))?;
            if read != rows {
                let count = |rows: [u64; Destination::COUNT]| rows.iter().sum::<u64>();
                return Err(FileError(format!(
                    "it has {} of {} entries",
                    count(read),
                    count(rows)
                )));
            }
            if let Some(segment) = self.state().segments.get_mut(&number) {
                segment.checked = true;
            }
        }
        Ok(file)
    }

    /// Reads all rows and checks checksums and counts. Changes nothing.
    pub fn verify(&self) -> VerifyReport {
        let numbers: Vec<u32> = self.state().segments.keys().copied().collect();
        let mut report = VerifyReport {
            damaged: self.damaged(),
            ..VerifyReport::default()
        };
        for number in numbers {
            let segment = match self.state().segments.get(&number) {
                Some(segment) => (segment.stage, segment.rows, segment.live, segment.end),
                None => continue,
            };
            let (stage, rows, live, end) = segment;
            report.segments += 1;
            let read = self.with_verified_file(number, stage, |file| {
                count_whole_rows(file, sequence(number, 0)..sequence(number, end))
            });
            match read {
                Ok(read) if read.iter().zip(&rows).all(|(read, rows)| read >= rows) => {
                    let sums = report.entries.iter_mut().zip(live);
                    sums.for_each(|(sum, live)| *sum += live);
                }
                Ok(read) => {
                    let (read, rows): (u64, u64) = (read.iter().sum(), rows.iter().sum());
                    let why = format!("it has {read} of {rows} entries");
                    report.add_damage(number, why, Some(rows - read));
                }
                Err(FileError(why)) => report.add_damage(number, why, None),
            }
        }
        report
    }

    fn with_verified_file<T>(
        &self,
        number: u32,
        stage: SegmentStage,
        read: impl FnOnce(&SegmentFile) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        match (stage, self.in_memory(number)) {
            (SegmentStage::Writing, _) => self.with_file(number, read),
            (_, Some(file)) => read(&file),
            // Not the open file: it may have cached pages that are damaged now.
            (_, None) => read(&SegmentFile::read_only(
                self.disk.open_read_only(&self.segment_path(number))?,
            )?),
        }
    }
}

impl VerifyReport {
    fn add_damage(&mut self, number: u32, why: String, lost: Option<u64>) {
        let damaged = DamagedFile::new(&segment_name(number), why, None);
        self.damaged.push(DamagedFile { lost, ..damaged });
    }
}

/// Counts the rows in `seqs`; an error if one is damaged.
pub(super) fn count_whole_rows(
    file: &SegmentFile,
    seqs: std::ops::Range<u64>,
) -> Result<[u64; Destination::COUNT], FileError> {
    let mut rows = [0; Destination::COUNT];
    for (to, count) in rows.iter_mut().enumerate() {
        let mut last = None;
        let mut wrong = None;
        file.scan(to, seqs.start, |seq, row| {
            if seq >= seqs.end {
                return ControlFlow::Break(());
            }
            if row.is_err() {
                wrong = Some("an entry's checksum does not match");
            } else if last.is_some_and(|last| last >= seq) {
                wrong = Some("its entries are not in order");
            }
            last = Some(seq);
            *count += 1;
            if wrong.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        if let Some(wrong) = wrong {
            return Err(FileError(wrong.to_owned()));
        }
    }
    Ok(rows)
}
