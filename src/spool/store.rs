//! The store: the spool on disk, as many small databases (*segments*) in one directory.
//!
//! ```text
//! lock             held by the one process that may use the directory
//! manifest.json    segments, removed rows, and how far entries were handed to Kafka
//! 00000007.redb    a segment: rows by destination and sequence number
//! 00000006.retired a segment whose rows are all removed; waits until the manifest has forgotten it
//! <file>.new       unfinished file; removed at the next start
//! set-aside.redb   dead letters: entries that Kafka refuses for good, with the reason
//! damaged/         files in which something was wrong, as they were found
//! ```
//!
//! Invariants (docs/spool-format.md has the format and the reasons):
//!
//! - A segment is written only by the process that began it. A segment found at a start is read
//!   through an overlay in memory, so that even redb's own repair leaves the file as it is.
//! - Rows are only added to a segment. Removals are recorded in the manifest and nowhere else;
//!   without it entries come again, which is what [`HandoverMark`] is for. A segment goes as a
//!   whole once it has no rows left. When few are left and space is short, a file with those
//!   replaces it.
//! - A sequence number contains the number of its segment, and the file with the greatest number is
//!   never removed. So sequence numbers are never used again, even if the manifest is lost.
//! - After an error nothing more is written to that segment: an fsync after a failed one proves
//!   nothing.
//! - A row is framed and has a checksum, so that rows can be found in a file that redb refuses.

mod backends;
mod compaction;
mod dead_letters;
mod disk;
mod file;
mod frame;
mod manifest;
mod opening;
mod reading;
mod removed_rows;
mod repair;
mod state;
#[cfg(test)]
mod tests;
mod writing;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

pub use self::dead_letters::DeadLetter;
pub(super) use self::disk::free_bytes;
pub use self::reading::ReadLimit;
use self::{
    dead_letters::DeadLetterFile,
    disk::{DirectoryLock, StoreDisk},
    file::SegmentFile,
    manifest::WrittenHandover,
    state::{SegmentStage, StoreState},
    writing::AppendTarget,
};
use crate::sync::lock;
use butlr_event::clock::now_ms;
use butlr_event::destination::Destination;

/// Directory and segment size of a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the spool; created if it is missing.
    pub dir: PathBuf,
    /// Size at which a new segment is begun; at most [`MAX_SEGMENT_BYTES`], because a damaged
    /// segment is read as a whole.
    pub segment_bytes: u64,
}

/// Reason why a spool cannot be opened at all. Damage is not one: see [`OpenReport::damaged`].
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses it.
    #[error(
        "another process uses the spool {dir}: end it, or give each replica a directory of its own in spool.dir"
    )]
    Locked {
        /// The spool's directory.
        dir: String,
    },
    /// The directory cannot be used.
    #[error(
        "cannot use the spool {dir}: {source}; spool.dir must be a directory on a disk that this user may write to"
    )]
    Io {
        /// The spool's directory.
        dir: String,
        /// The system's error.
        source: io::Error,
    },
    /// The directory belongs to another program.
    #[error(
        "{dir} holds a {MANIFEST_FILE} of another program and no file of a spool: give the spool a directory of its own; if it is a spool of which only a damaged {MANIFEST_FILE} is left, move that file away"
    )]
    Foreign {
        /// The directory.
        dir: String,
    },
}

/// Error of an operation on an open store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing can be appended until [`SpoolStore::recover_writing`] has succeeded. The entries are
    /// certainly not in the spool.
    #[error("the spool cannot be written: {why}")]
    Unwritable {
        /// The first error.
        why: String,
    },
    /// The commit failed. After a restart the entries may be in the spool, or not.
    #[error("writing {file} failed: {why}")]
    Write {
        /// Name of the file in the spool's directory.
        file: String,
        /// The error.
        why: String,
    },
    /// The entries cannot be read.
    #[error("reading {file} failed: {why}")]
    Read {
        /// Name of the file in the spool's directory.
        file: String,
        /// The error.
        why: String,
    },
    /// One commit has more entries than a segment can hold.
    #[error("{0} entries are too many for one commit")]
    TooMany(usize),
    /// There is no such entry.
    #[error("there is no entry {0}")]
    Missing(u64),
    /// The store is open for reading only.
    #[error("the spool is open for reading only")]
    ReadOnly,
}

impl StoreError {
    fn write(file: impl ToString, error: impl ToString) -> Self {
        let (file, why) = (file.to_string(), error.to_string());
        Self::Write { file, why }
    }

    fn read(file: impl ToString, error: impl ToString) -> Self {
        let (file, why) = (file.to_string(), error.to_string());
        Self::Read { file, why }
    }
}

/// State of a spool at opening.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// Entries by [`Destination::index`].
    pub entries: [u64; Destination::COUNT],
    /// Segments with entries.
    pub segments: usize,
    /// Bytes on disk.
    pub bytes: u64,
    /// Damaged files.
    pub damaged: Vec<DamagedFile>,
    /// Names of files that should exist.
    pub missing: Vec<String>,
    /// Complete entries of commits that were interrupted by the end of the process or the machine.
    pub unfinished: u64,
    /// Duration of opening.
    pub took: Duration,
}

/// A file in which something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedFile {
    /// Name of the file.
    pub file: String,
    /// Path of its copy in `damaged/`; `None` if it could not be copied.
    pub moved_to: Option<PathBuf>,
    /// The damage.
    pub why: String,
    /// Number of lost entries, if known.
    pub lost: Option<u64>,
}

impl DamagedFile {
    fn new(file: &str, why: String, moved_to: Option<PathBuf>) -> Self {
        Self {
            file: file.to_owned(),
            moved_to,
            why,
            lost: None,
        }
    }
}

/// Record of how far entries of a destination were handed to Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandoverMark {
    /// Greatest sequence number that may have been handed over.
    pub upto: u64,
    /// Partition and offset at which a search for these entries can begin; empty if unknown.
    pub tails: Vec<(i32, i64)>,
}

/// A segment, as `spool status` shows it.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    /// Name of the file in the spool's directory.
    pub file: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// Entries still needed, by [`Destination::index`].
    pub entries: [u64; Destination::COUNT],
    /// `true` if new entries are appended to it.
    pub is_writing: bool,
}

/// Result of [`SpoolStore::verify`].
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Complete entries, by [`Destination::index`].
    pub entries: [u64; Destination::COUNT],
    /// Segments read.
    pub segments: usize,
    /// Damaged files.
    pub damaged: Vec<DamagedFile>,
}

/// An open spool; see the [module](self). One thread appends entries while another reads and
/// removes them; neither waits for the other's disk access.
pub struct SpoolStore {
    disk: Arc<dyn StoreDisk>,
    dir: PathBuf,
    segment_bytes: u64,
    /// See [`SpoolStore::with_compaction_above`].
    compact_above: u64,
    read_only: bool,
    /// Locked before all others.
    append_target: Mutex<AppendTarget>,
    /// The segment that is written, and read at the same time.
    active: RwLock<Option<(u32, SegmentFile)>>,
    /// Open files of other segments, most recently read last.
    readers: Mutex<Vec<(u32, Arc<SegmentFile>)>>,
    /// Locked while the manifest is written.
    manifest: Mutex<()>,
    dead_letter_file: Mutex<DeadLetterFile>,
    dead_letter_bytes: AtomicU64,
    dead_letter_count: AtomicU64,
    /// Locked after all others, and never during disk access.
    state: Mutex<StoreState>,
    present: [AtomicU64; Destination::COUNT],
    lost: [AtomicU64; Destination::COUNT],
    damaged: Mutex<Vec<DamagedFile>>,
    unfinished: AtomicU64,
    handovers_at_open: [Option<HandoverMark>; Destination::COUNT],
    _lock: Option<DirectoryLock>,
}

impl SpoolStore {
    /// Opens the spool for this process alone: creates and locks the directory, checks the
    /// segments, moves damaged files aside, and begins a new segment. If the last step fails (a
    /// full disk), the store opens all the same, and [`SpoolStore::recover_writing`] tries again.
    ///
    /// # Errors
    /// Another process uses the directory, or it cannot be used.
    pub fn open(options: Options) -> Result<(Self, OpenReport), OpenError> {
        Self::open_on(Arc::new(disk::OsDisk), options, false)
    }

    /// Opens a spool, or a copy of one, without changing it.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn open_read_only(dir: &Path) -> Result<(Self, OpenReport), OpenError> {
        let options = Options {
            dir: dir.to_owned(),
            segment_bytes: 0,
        };
        Self::open_on(Arc::new(disk::OsDisk), options, true)
    }

    /// Removes entries: at once for [`SpoolStore::read`], on disk with the next
    /// [`SpoolStore::flush`]. Also removes segments that have no entries left.
    ///
    /// # Errors
    /// An empty segment could not be removed; the entries are removed.
    pub fn remove(&self, to: Destination, seqs: &[u64]) -> Result<(), StoreError> {
        let drained = {
            let mut state = self.state();
            state.dirty |= !seqs.is_empty();
            let mut drained = Vec::new();
            for seq in seqs {
                let Some(segment) = state.segments.get_mut(&state::segment_of(*seq)) else {
                    continue;
                };
                let place = state::place_of(*seq);
                let live = &mut segment.live[to.index()];
                if place >= segment.end || *live == 0 || !segment.removed.insert(place) {
                    continue;
                }
                *live -= 1;
                self.present[to.index()].fetch_sub(1, Relaxed);
                if segment.is_drained() && segment.stage != SegmentStage::Writing {
                    drained.push(state::segment_of(*seq));
                }
            }
            drained
        };
        self.retire(&drained)
    }

    /// Makes removals durable, shrinks an empty spool, and compacts one sparse segment if space is
    /// short. Call it regularly, and when the spool has become empty.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn flush(&self) -> Result<(), StoreError> {
        if self.read_only {
            return Ok(());
        }
        self.renew_if_empty()?;
        self.retire_drained()?;
        let dirty = self.state().dirty;
        if dirty {
            self.write_manifest()?;
        }
        self.compact_one();
        Ok(())
    }

    /// Records that entries of `to` up to `upto` are about to be handed to Kafka, where the next
    /// record of each partition gets at least the offset in `tails`. Durable on return.
    ///
    /// # Errors
    /// The disk does not take it. If the entries are handed over all the same, they can be stored
    /// twice after a crash.
    pub fn record_handover(
        &self,
        to: Destination,
        upto: u64,
        tails: &[(i32, i64)],
    ) -> Result<(), StoreError> {
        self.state().record_handover(WrittenHandover {
            to: to.index(),
            upto,
            tails: tails.to_vec(),
        });
        self.write_manifest()
    }

    /// Returns how far entries were handed to Kafka before this store was opened, if some of these
    /// may still be in it.
    pub fn handover_mark(&self, to: Destination) -> Option<HandoverMark> {
        self.handovers_at_open[to.index()].clone()
    }

    /// Returns the number of entries of `to`.
    pub fn present(&self, to: Destination) -> u64 {
        self.present[to.index()].load(Relaxed)
    }

    /// Returns the number of entries of `to` that were found to be lost since opening, after they
    /// had been counted in [`SpoolStore::present`] or [`OpenReport::entries`].
    pub fn lost(&self, to: Destination) -> u64 {
        self.lost[to.index()].load(Relaxed)
    }

    /// Returns the files found damaged since opening; [`OpenReport::damaged`] has the earlier ones.
    pub fn damaged(&self) -> Vec<DamagedFile> {
        lock(&self.damaged).clone()
    }

    /// Returns the number of dead letters, also from before opening.
    pub fn dead_letter_count(&self) -> u64 {
        self.dead_letter_count.load(Relaxed)
    }

    /// Returns the least sequence number of entries yet to be appended.
    pub fn next_seq(&self) -> u64 {
        match &*lock(&self.append_target) {
            AppendTarget::Ready { number, next } => state::sequence(*number, *next),
            AppendTarget::Unwritable(_) => state::sequence(self.state().next_segment, 0),
        }
    }

    /// Returns the approximate time of receipt of the oldest entry, ms since 1970: that of the
    /// first entry of its segment.
    pub fn oldest_ms(&self) -> Option<i64> {
        let state = self.state();
        state
            .segments
            .values()
            .find(|segment| !segment.is_drained())?
            .first_ms
    }

    /// Returns the bytes on disk of segments and dead letters.
    pub fn bytes(&self) -> u64 {
        let state = self.state();
        let segments = state.segments.values().map(state::Segment::disk_bytes);
        segments.sum::<u64>() + self.dead_letter_bytes.load(Relaxed)
    }

    /// Returns the segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let state = self.state();
        let info = |(number, segment): (&u32, &state::Segment)| SegmentInfo {
            file: segment_name(*number),
            bytes: segment.disk_bytes(),
            entries: segment.live,
            is_writing: segment.stage == SegmentStage::Writing,
        };
        state.segments.iter().map(info).collect()
    }

    fn state(&self) -> MutexGuard<'_, StoreState> {
        lock(&self.state)
    }

    fn active(&self) -> RwLockReadGuard<'_, Option<(u32, SegmentFile)>> {
        self.active.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn active_mut(&self) -> RwLockWriteGuard<'_, Option<(u32, SegmentFile)>> {
        self.active.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records and logs a damaged file; `kept` is the number of its complete entries.
    fn report_damaged(&self, damaged: DamagedFile, kept: Option<usize>) {
        let DamagedFile { file, why, .. } = &damaged;
        let (lost, moved_to) = (damaged.lost, &damaged.moved_to);
        tracing::error!(
            file,
            why,
            lost,
            kept,
            ?moved_to,
            "a file of the spool is damaged"
        );
        lock(&self.damaged).push(damaged);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn segment_path(&self, number: u32) -> PathBuf {
        self.path(&segment_name(number))
    }
}

/// Closes the segment that is written, so that the next start need not check it.
impl Drop for SpoolStore {
    fn drop(&mut self) {
        if self.read_only {
            return;
        }
        if let AppendTarget::Ready { number, .. } = *lock(&self.append_target) {
            self.seal(number, true);
        }
        // If this fails, the next start recovers as after a kill.
        if self.state().dirty {
            let _ = self.write_manifest();
        }
    }
}

impl std::fmt::Debug for SpoolStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpoolStore")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// Upper limit of [`Options::segment_bytes`].
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;

const MANIFEST_FILE: &str = "manifest.json";
const DAMAGED_DIR: &str = "damaged";

fn segment_name(number: u32) -> String {
    format!("{number:08}.redb")
}

fn retired_name(number: u32) -> String {
    format!("{number:08}.retired")
}

/// Parses the number of a segment's file with this extension; `None` for names that the spool
/// itself would not write.
fn parse_segment_number(name: &str, extension: &str) -> Option<u32> {
    let digits = name.strip_suffix(extension)?.strip_suffix('.')?;
    let number = digits.parse().ok()?;
    (digits == format!("{number:08}")).then_some(number)
}

/// Returns `true` for the name of an unfinished file.
fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(".new").is_some_and(|name| {
        [MANIFEST_FILE, dead_letters::DEAD_LETTER_FILE].contains(&name)
            || parse_segment_number(name, "redb").is_some()
    })
}

/// Returns `true` if a directory holds a spool, or a part of one: a segment, dead letters, or a
/// manifest.
///
/// # Errors
/// The directory cannot be read.
pub fn contains_spool(dir: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let is_manifest =
            || std::fs::read(dir.join(MANIFEST_FILE)).is_ok_and(|b| manifest::is_manifest(&b));
        let has_rows =
            parse_segment_number(&name, "redb").is_some() || name == dead_letters::DEAD_LETTER_FILE;
        if has_rows || (name == MANIFEST_FILE && is_manifest()) {
            return Ok(true);
        }
    }
    Ok(false)
}
