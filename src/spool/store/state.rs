//! What the store knows without looking at the disk.

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

/// Of each destination.
pub(super) type DestinationCounts = [u64; Destination::COUNT];

/// A sequence number is the number of the segment and the place in it: no two segments have the same number, so no two entries
/// have the same sequence number, whatever is known about those of before.
const ROW_BITS: u32 = 24;
/// How many rows a segment can have.
pub(super) const MAX_ROWS: u32 = 1 << ROW_BITS;

pub(super) fn sequence(segment: u32, place: u32) -> u64 {
    // Added, because the place may be the one beyond the last.
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
    /// The one that is written.
    Writing,
    /// Never written again; the length of the file where it is known to be whole.
    Sealed(Option<u64>),
}

pub(super) struct Segment {
    pub stage: SegmentStage,
    pub bytes: u64,
    /// Receipt of its first entry.
    pub first_ms: Option<i64>,
    pub rows: DestinationCounts,
    /// Those that were not removed.
    pub live: DestinationCounts,
    pub removed: RemovedRows,
    /// Rows from this place on were never acknowledged.
    pub end: u32,
    /// Every row was read in this process, and found whole.
    pub checked: bool,
    /// In place of a file that is damaged and could not be replaced.
    pub in_memory: Option<Arc<SegmentFile>>,
    /// How far its file was written, while it is.
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

    /// How long its file is, where it is known to be whole.
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
    /// Those of which only the name is left, until the manifest has forgotten them.
    pub retired: Vec<u32>,
    pub handovers: [Vec<WrittenHandover>; Destination::COUNT],
    /// Those that could not be read at opening, as they were known: another time it may be possible.
    pub unreadable: Vec<WrittenSegment>,
    /// The manifest on disk says something else.
    pub dirty: bool,
    /// When a segment could not be written anew.
    pub compaction_failed: Option<Instant>,
}

/// Hand-overs that are told apart; more of them are taken together.
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

    pub(super) fn record_handover(&mut self, handed: WrittenHandover) {
        let of_this = &mut self.handovers[handed.to];
        let is_full = of_this.len() >= MAX_HANDOVERS;
        match of_this.last_mut() {
            Some(last) if is_full => last.upto = last.upto.max(handed.upto),
            _ => of_this.push(handed),
        }
    }

    /// As a start would find it: the tails are those of the oldest hand-over of which an entry may still be there.
    pub(super) fn handover_mark(&self, to: usize) -> Option<HandoverMark> {
        let of_this = &self.handovers[to];
        let upto = of_this.iter().map(|handed| handed.upto).max()?;
        Some(HandoverMark {
            upto,
            tails: of_this[0].tails.clone(),
        })
    }

    /// A hand-over has been forgotten when the segments that it reached into have nothing left of its destination.
    fn prune_handovers(&mut self) {
        for (to, of_this) in self.handovers.iter_mut().enumerate() {
            let known = self.segments.iter();
            let known = known.filter(|(_, segment)| segment.live[to] > 0);
            let unreadable = self.unreadable.iter().map(|segment| segment.number);
            let oldest = known.map(|(number, _)| *number).chain(unreadable).min();
            match oldest {
                Some(oldest) => of_this.retain(|handed| segment_of(handed.upto) >= oldest),
                None => of_this.clear(),
            }
        }
    }
}
