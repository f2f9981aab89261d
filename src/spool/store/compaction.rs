//! Giving back the space of what was removed: a few entries for a topic that is away would else keep the whole segments in which
//! they lie.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use super::{
    SpoolStore, StoreError,
    file::FileError,
    lock,
    repair::temporary_name,
    segment_name,
    state::{DestinationCounts, Segment, SegmentStage, place_of, sequence},
};
use butlr_event::destination::Destination;

/// A segment is written anew when less than one in so many of its rows is needed.
const SPARSE_FACTOR: u64 = 4;
/// After it failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

impl SpoolStore {
    /// From so many bytes on disk on, [`Store::flush`] writes a sparse segment anew. Without this it never does.
    #[must_use]
    pub fn with_compaction_above(mut self, bytes: u64) -> Self {
        self.compact_above = bytes;
        self
    }

    /// Whether the next [`Store::flush`] gives back space.
    pub fn is_compaction_due(&self) -> bool {
        self.pick_sparse_segment().is_some()
    }

    /// The segment of which most is given back.
    fn pick_sparse_segment(&self) -> Option<u32> {
        if self.bytes() <= self.compact_above || self.unwritable_reason().is_some() {
            return None;
        }
        let (number, bytes) = {
            let state = self.state();
            if state
                .compaction_failed
                .is_some_and(|at| at.elapsed() < RETRY_INTERVAL)
            {
                return None;
            }
            let sparse = state.segments.iter().filter(|(_, s)| s.is_sparse());
            let (number, segment) = sparse.max_by_key(|(_, segment)| segment.wasted_bytes())?;
            (*number, segment.bytes)
        };
        let free = self.disk.free_bytes(&self.dir);
        // More than is needed, so that a full disk is left alone.
        (!free.is_ok_and(|free| free < bytes)).then_some(number)
    }

    /// Writes one sparse segment anew, with the rows that are needed and their numbers, if there is one. Where that fails, nothing
    /// is lost by it.
    pub(super) fn compact_one(&self) {
        let Some(number) = self.pick_sparse_segment() else {
            return;
        };
        let done = match self.open_reader(number) {
            Ok(file) => self.rewrite_live_rows(number, &file),
            Err(FileError(why)) => self.repair(number, &why),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "the space of what was removed from the spool could not be given back yet");
            self.state().compaction_failed = Some(Instant::now());
        }
    }

    fn rewrite_live_rows(&self, number: u32, file: &super::SegmentFile) -> Result<(), StoreError> {
        let name = segment_name(number);
        let failed = |FileError(why)| StoreError::Write {
            file: name.clone(),
            why,
        };
        // Nobody retires, repairs or opens it meanwhile.
        let mut readers = lock(&self.readers);
        let (removed, live, end) = {
            let state = self.state();
            let segment = state.segments.get(&number);
            let Some(segment) = segment.filter(|segment| segment.is_sparse()) else {
                return Ok(());
            };
            (segment.removed.clone(), segment.live, segment.end)
        };
        let mut rows = BTreeMap::new();
        let mut counts: DestinationCounts = [0; Destination::COUNT];
        for (to, count) in counts.iter_mut().enumerate() {
            file.scan(to, sequence(number, removed.first_live()), |seq, row| {
                if seq >= sequence(number, end) {
                    return ControlFlow::Break(());
                }
                if let Ok(bytes) = row
                    && !removed.contains(place_of(seq))
                {
                    rows.insert((to, seq), bytes.to_vec());
                    *count += 1;
                }
                ControlFlow::Continue(())
            })
            .map_err(failed)?;
        }
        if counts != live {
            return Err(failed(FileError("not all of it can be read".to_owned())));
        }
        let rows = rows.iter().map(|(row, bytes)| (*row, &bytes[..])).collect();
        self.write_replacement(&name, &rows).map_err(failed)?;
        if let Some(segment) = self.state().segments.get_mut(&number) {
            // True of the file that is there, and of the new one: which of them a start finds is not known from here on.
            segment.stage = SegmentStage::Sealed(None);
            segment.rows = live;
        }
        let placed = self
            .write_manifest()
            .and_then(|()| self.install_replacement(&name).map_err(failed));
        if placed.is_err() {
            let _ = self.disk.remove(&self.path(&temporary_name(&name)));
            return placed;
        }
        readers.retain(|(open, _)| *open != number);
        let len = self.disk.len(&self.path(&name)).ok();
        let mut state = self.state();
        if let Some(segment) = state.segments.get_mut(&number) {
            segment.stage = SegmentStage::Sealed(len);
            segment.bytes = len.unwrap_or(segment.bytes);
        }
        state.dirty = true;
        Ok(())
    }
}

impl Segment {
    fn is_sparse(&self) -> bool {
        let live: u64 = self.live.iter().sum();
        let rows: u64 = self.rows.iter().sum();
        self.stage != SegmentStage::Writing
            && self.in_memory.is_none()
            && live > 0
            && live * SPARSE_FACTOR < rows
    }

    /// About so many bytes.
    fn wasted_bytes(&self) -> u64 {
        let live: u64 = self.live.iter().sum();
        let rows: u64 = self.rows.iter().sum();
        self.bytes - self.bytes * live / rows.max(1)
    }
}
