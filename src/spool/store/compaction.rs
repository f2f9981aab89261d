//! Compaction: frees the space of removed rows. Otherwise a few entries for a topic that is
//! unavailable would keep their whole segments.

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

/// A segment is sparse if less than one in this many of its rows is needed.
const SPARSE_FACTOR: u64 = 4;
/// Pause after a failed compaction.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

impl SpoolStore {
    /// Lets [`SpoolStore::flush`] compact a sparse segment while the spool has more than `bytes` on
    /// disk. Without this it never does.
    #[must_use]
    pub fn with_compaction_above(mut self, bytes: u64) -> Self {
        self.compact_above = bytes;
        self
    }

    /// Returns `true` if the next [`SpoolStore::flush`] compacts a segment.
    pub fn is_compaction_due(&self) -> bool {
        self.pick_sparse_segment().is_some()
    }

    /// Picks the sparse segment that frees the most space.
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
        // More than the new file needs, so that a full disk is left alone.
        (!free.is_ok_and(|free| free < bytes)).then_some(number)
    }

    /// Rewrites one sparse segment with the rows still needed, under their sequence numbers. A
    /// failure loses nothing.
    pub(super) fn compact_one(&self) {
        let Some(number) = self.pick_sparse_segment() else {
            return;
        };
        let compacted = match self.open_reader(number) {
            Ok(file) => self.rewrite_live_rows(number, &file),
            Err(FileError(why)) => self.repair(number, &why),
        };
        if let Err(error) = compacted {
            tracing::warn!(%error, "could not free the space of removed entries of the spool yet");
            self.state().compaction_failed = Some(Instant::now());
        }
    }

    fn rewrite_live_rows(&self, number: u32, file: &super::SegmentFile) -> Result<(), StoreError> {
        let name = segment_name(number);
        let failed = |error: FileError| StoreError::write(&name, error);
        // Locked, so that nobody retires, repairs or opens the segment meanwhile.
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
            return Err(failed(FileError(
                "not all of its entries can be read".to_owned(),
            )));
        }
        let rows = rows.iter().map(|(row, bytes)| (*row, &bytes[..])).collect();
        self.write_replacement(&name, &rows).map_err(failed)?;
        if let Some(segment) = self.state().segments.get_mut(&number) {
            // True of the old file and of the new one: from here on a start may find either.
            segment.stage = SegmentStage::Sealed(None);
            segment.rows = live;
        }
        let installed = self
            .write_manifest()
            .and_then(|()| self.install_replacement(&name).map_err(failed));
        if installed.is_err() {
            let _ = self.disk.remove(&self.path(&temporary_name(&name)));
            return installed;
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
        let (live, rows): (u64, u64) = (self.live.iter().sum(), self.rows.iter().sum());
        self.stage != SegmentStage::Writing
            && self.in_memory.is_none()
            && live > 0
            && live * SPARSE_FACTOR < rows
    }

    /// Estimates the bytes of removed rows.
    fn wasted_bytes(&self) -> u64 {
        let (live, rows): (u64, u64) = (self.live.iter().sum(), self.rows.iter().sum());
        self.bytes - self.bytes * live / rows.max(1)
    }
}
