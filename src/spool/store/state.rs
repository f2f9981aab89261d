//! State of the store in memory: its segments, and how far entries were handed to Kafka.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use super::{
    HandoverMark,
    file::SegmentFile,
    manifest::{Manifest, WrittenHandover, WrittenSegment},
    removed_rows::{RemovedRows, WrittenRemovedRows},
};
use butlr_event::destination::Destination;

/// Counts by [`Destination::index`].
pub(super) type DestinationCounts = [u64; Destination::COUNT];

/// Bits of a sequence number for the place in its segment; the other bits are the segment's number.
/// No two segments have the same number, so sequence numbers are unique even if the manifest is
/// lost.
const ROW_BITS: u32 = 24;
/// Maximum number of rows of a segment.
pub(super) const MAX_ROWS: u32 = 1 << ROW_BITS;

pub(super) fn sequence(segment: u32, place: u32) -> u64 {
    // Added rather than combined by bits, because the place may be one beyond the last.
    (u64::from(segment) << ROW_BITS) + u64::from(place)
}

pub(super) fn segment_of(seq: u64) -> u32 {
    u32::try_from(seq >> ROW_BITS).unwrap_or(u32::MAX)
}

pub(super) fn place_of(seq: u64) -> u32 {
    (seq & u64::from(MAX_ROWS - 1)) as u32
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SegmentStage {
    /// The segment that is written.
    Writing,
    /// Never written again; the length of the file, if it is known to be complete.
    Sealed(Option<u64>),
}

pub(super) struct Segment {
    pub stage: SegmentStage,
    pub bytes: u64,
    /// Time of receipt of the first entry, ms since 1970.
    pub first_ms: Option<i64>,
    pub rows: DestinationCounts,
    /// Rows that are not removed.
    pub live: DestinationCounts,
    pub removed: RemovedRows,
    /// Rows from this place on were never acknowledged.
    pub end: u32,
    /// This process has read all rows and found them complete.
    pub checked: bool,
    /// The rows of a damaged file that could not be replaced.
    pub in_memory: Option<Arc<SegmentFile>>,
    /// Offset up to which the file is written; `None` once it is sealed.
    pub written_counter: Option<Arc<AtomicU64>>,
}

impl Segment {
    pub(super) fn new(stage: SegmentStage, bytes: u64) -> Self {
        Self {
            stage,
            bytes,
            first_ms: None,
            rows: [0; Destination::COUNT],
            live: [0; Destination::COUNT],
            removed: RemovedRows::default(),
            end: MAX_ROWS,
            checked: false,
            in_memory: None,
            written_counter: None,
        }
    }

    pub(super) fn from_written(written: &WrittenSegment, bytes: u64) -> Self {
        let mut segment = Self::new(SegmentStage::Sealed(written.sealed), bytes);
        segment.first_ms = written.first_ms;
        segment.rows.copy_from_slice(&written.rows);
        segment.live.copy_from_slice(&written.live);
        segment.removed = written
            .removed
            .as_ref()
            .map(RemovedRows::from)
            .unwrap_or_default();
        segment
    }

    pub(super) fn to_written(&self, number: u32) -> WrittenSegment {
        WrittenSegment {
            number,
            first_ms: self.first_ms,
            sealed: self.sealed_len(),
            rows: self.rows.to_vec(),
            live: self.live.to_vec(),
            removed: (!self.removed.is_empty()).then(|| WrittenRemovedRows::from(&self.removed)),
        }
    }

    /// Returns the length of the file, if it is sealed and known to be complete.
    pub(super) fn sealed_len(&self) -> Option<u64> {
        match self.stage {
            SegmentStage::Writing => None,
            SegmentStage::Sealed(len) => len,
        }
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.written_counter
            .as_ref()
            .map_or(self.bytes, |written| written.load(Relaxed))
    }

    pub(super) fn is_drained(&self) -> bool {
        self.live == [0; Destination::COUNT]
    }
}

#[derive(Default)]
pub(super) struct StoreState {
    pub segments: BTreeMap<u32, Segment>,
    pub next_segment: u32,
    /// Segments of which only the name is left, until the manifest has forgotten them.
    pub retired: Vec<u32>,
    pub handovers: [Vec<WrittenHandover>; Destination::COUNT],
    /// Segments that could not be read at all; they may be readable after another start.
    pub unreadable: Vec<WrittenSegment>,
    /// The manifest on disk is out of date.
    pub dirty: bool,
    /// Time at which a compaction failed last.
    pub compaction_failed: Option<Instant>,
}

/// Maximum number of hand-overs of a destination; further ones are merged into the last.
const MAX_HANDOVERS: usize = 16;

impl StoreState {
    pub(super) fn manifest(&mut self) -> Manifest {
        self.prune_handovers();
        Manifest {
            next_segment: self.next_segment,
            segments: self
                .segments
                .iter()
                .map(|(number, segment)| segment.to_written(*number))
                .chain(self.unreadable.iter().cloned())
                .collect(),
            handed: self.handovers.iter().flatten().cloned().collect(),
        }
    }

    pub(super) fn record_handover(&mut self, handover: WrittenHandover) {
        let handovers = &mut self.handovers[handover.to];
        let is_full = handovers.len() >= MAX_HANDOVERS;
        match handovers.last_mut() {
            Some(last) if is_full => last.upto = last.upto.max(handover.upto),
            _ => handovers.push(handover),
        }
    }

    /// Returns the mark that a start would find, with the tails of the oldest hand-over.
    pub(super) fn handover_mark(&self, to: usize) -> Option<HandoverMark> {
        let handovers = &self.handovers[to];
        let upto = handovers.iter().map(|handover| handover.upto).max()?;
        Some(HandoverMark {
            upto,
            tails: handovers[0].tails.clone(),
        })
    }

    /// Removes hand-overs that end before the oldest segment with entries of their destination.
    fn prune_handovers(&mut self) {
        for (to, handovers) in self.handovers.iter_mut().enumerate() {
            let known = self.segments.iter();
            let known = known.filter(|(_, segment)| segment.live[to] > 0);
            let unreadable = self.unreadable.iter().map(|segment| segment.number);
            let oldest = known.map(|(number, _)| *number).chain(unreadable).min();
            match oldest {
                Some(oldest) => {
                    handovers.retain(|handover| segment_of(handover.upto) >= oldest);
                }
                None => handovers.clear(),
            }
        }
    }
}
