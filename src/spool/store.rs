//! The spool on disk: many small databases, *segments*, in one directory.
//!
//! ```text
//! lock             held by the one process that may use the directory
//! manifest.json    which segments there are, what was removed from them, how far entries were handed to Kafka
//! 00000007.redb    a segment: rows by destination and sequence number
//! 00000006.retired its rows are all removed; waits for the manifest to forget it
//! <one of these>.new  not yet something: removed at the next start
//! set-aside.redb   entries that Kafka refuses for good, with the reason
//! damaged/         files in which something was wrong, as they were found
//! ```
//!
//! What holds:
//!
//! - A segment is written by the process that began it, and by no other. One that is found is read through
//!   an overlay in memory, so that even redb's repair leaves the file as it is.
//! - Rows are only ever added to a segment. What was removed stands in the manifest, and only there: losing that means that entries come
//!   again, which is what [`Handed`] is for. When nothing is left, the file goes as a whole; when little is and space gets short, a new
//!   one with that takes its name.
//! - A sequence number contains the number of its segment, and the file with the greatest number is never removed, so numbers
//!   don't come again even when the manifest is lost.
//! - After an error nothing more is written to that segment: what an fsync did after one that failed means nothing.
//! - A row is framed and has a checksum, so rows can be found in a file that redb refuses.

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
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

pub use self::dead_letters::DeadLetter;
use self::{
    disk::{DirectoryLock, StoreDisk},
    file::SegmentFile,
    manifest::WrittenHandover,
    state::{SegmentStage, StoreState},
    writing::AppendTarget,
};
use butlr_event::clock::now_ms;
use butlr_event::destination::Destination;

/// Where a spool lies, and in what pieces.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory; created where it is missing.
    pub dir: PathBuf,
    /// A new segment is begun when one has grown to this size; at most [`LARGEST_SEGMENT`], because a damaged one is read as a whole.
    pub segment_bytes: u64,
}

/// Why a spool can't be opened at all. Damage is no reason: see [`Found::damaged`].
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "another process uses the spool {dir}: end it, or give each replica a directory of its own in spool.dir"
    )]
    Locked {
        /// The spool's directory.
        dir: String,
    },
    /// The directory can't be used.
    #[error(
        "the spool {dir} can't be used: {source}; spool.dir must be a directory on a disk that this user may write to"
    )]
    Io {
        /// The spool's directory.
        dir: String,
        /// What the system says.
        source: io::Error,
    },
    /// It is another program's.
    #[error(
        "{dir} holds a {MANIFEST_FILE} that is no spool's, and no file of a spool: give the spool a directory of its own; if this is one whose {MANIFEST_FILE} is damaged and nothing else is left of it, move that away"
    )]
    Foreign {
        /// The directory.
        dir: String,
    },
}

/// Why something could not be done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing can be appended until [`Store::recover_writing`] has succeeded. What was to be appended is certainly not there.
    #[error("nothing can be written to the spool since {why}")]
    Unwritable {
        /// What was wrong first.
        why: String,
    },
    /// The commit failed: what was to be appended may be there after a restart, or not.
    #[error("writing {file} failed: {why}")]
    Write {
        /// In the spool's directory.
        file: String,
        /// What was wrong.
        why: String,
    },
    /// What the entries are can't be read.
    #[error("reading {file} failed: {why}")]
    Read {
        /// In the spool's directory.
        file: String,
        /// What was wrong.
        why: String,
    },
    /// More entries in one call than a segment can have.
    #[error("{0} entries are too many for one commit")]
    TooMany(usize),
    /// There is no such entry.
    #[error("there is no entry {0}")]
    Missing(u64),
    /// The store was opened to be read only.
    #[error("the spool was opened to be read only")]
    ReadOnly,
}

/// What a spool was found to be at opening.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// Entries by [`Destination::index`].
    pub entries: [u64; Destination::COUNT],
    /// Files with entries.
    pub segments: usize,
    /// On disk.
    pub bytes: u64,
    /// What was wrong, and set aside.
    pub damaged: Vec<DamagedFile>,
    /// Files that should be there.
    pub missing: Vec<String>,
    /// Entries of commits that were not finished when the process or the machine ended, and that are whole all the same.
    pub unfinished: u64,
    /// How long opening took.
    pub took: Duration,
}

/// A file in which something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedFile {
    /// Its name.
    pub file: String,
    /// Where it lies now as it was; none where it could not be moved.
    pub moved_to: Option<PathBuf>,
    /// What is wrong.
    pub why: String,
    /// How many entries are lost with it; none where nobody knows.
    pub lost: Option<u64>,
}

/// How far entries of a destination were handed to Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandoverMark {
    /// Entries beyond this sequence number were not.
    pub upto: u64,
    /// Partition → offset at which the search for those that were can begin. Empty where it is not known.
    pub tails: Vec<(i32, i64)>,
}

/// A segment, as `/status` and `spool status` show it.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    /// In the spool's directory.
    pub file: String,
    /// On disk.
    pub bytes: u64,
    /// That are still needed, by [`Destination::index`].
    pub entries: [u64; Destination::COUNT],
    /// New entries go there.
    pub is_writing: bool,
}

/// What [`Store::verify`] read.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Whole ones, by [`Destination::index`].
    pub entries: [u64; Destination::COUNT],
    /// Files.
    pub segments: usize,
    /// What was wrong.
    pub damaged: Vec<DamagedFile>,
}

/// See the module. Entries are appended by one thread, read and removed by another; neither waits for the other's disk.
pub struct SpoolStore {
    disk: Arc<dyn StoreDisk>,
    dir: PathBuf,
    segment_bytes: u64,
    /// See [`Store::compacting_above`].
    compact_above: u64,
    read_only: bool,
    /// Appending. Taken before all others.
    append_target: Mutex<AppendTarget>,
    /// The file that is written, which is read at the same time.
    active: RwLock<Option<(u32, SegmentFile)>>,
    /// Files that were read last.
    readers: Mutex<Vec<(u32, Arc<SegmentFile>)>>,
    /// Held while the manifest is written.
    manifest: Mutex<()>,
    /// Whether the file was made by this process, and nothing has failed in it.
    is_dead_letter_file_sound: Mutex<bool>,
    dead_letter_bytes: AtomicU64,
    dead_letter_count: AtomicU64,
    /// Held for moments only. Taken after all others.
    state: Mutex<StoreState>,
    present: [AtomicU64; Destination::COUNT],
    lost: [AtomicU64; Destination::COUNT],
    damaged: Mutex<Vec<DamagedFile>>,
    unfinished: AtomicU64,
    handovers_at_open: [Option<HandoverMark>; Destination::COUNT],
    _lock: Option<DirectoryLock>,
}

impl SpoolStore {
    /// Opens the spool for this process alone: creates the directory, locks it, looks at every segment, sets aside what is damaged,
    /// and begins a new segment. Where the last can't be done (a full disk), the store is there all the same, and
    /// [`Store::recover_writing`] tries again.
    ///
    /// # Errors
    /// Another process has it, or the directory can't be used.
    pub fn open(options: Options) -> Result<(Self, OpenReport), OpenError> {
        Self::open_on(Arc::new(disk::OsDisk), options, false)
    }

    /// Opens a spool, or a copy of one, without changing anything there.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn open_read_only(dir: &Path) -> Result<(Self, OpenReport), OpenError> {
        let options = Options {
            dir: dir.to_owned(),
            segment_bytes: 0,
        };
        Self::open_on(Arc::new(disk::OsDisk), options, true)
    }

    /// No longer needed: at once for [`Store::read`], on disk by the next [`Store::flush`]. A segment that has none left goes.
    ///
    /// # Errors
    /// A segment that has none left could not be removed; the entries are removed.
    pub fn remove(&self, to: Destination, seqs: &[u64]) -> Result<(), StoreError> {
        let done = {
            let mut state = self.state();
            state.dirty |= !seqs.is_empty();
            let mut done = Vec::new();
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
                    done.push(state::segment_of(*seq));
                }
            }
            done
        };
        self.retire(&done)
    }

    /// Writes down what was removed. To be called now and then, and when the spool has become empty: then it is made small. Gives back
    /// the space of removed entries, of one segment at a time, where there is much of it.
    ///
    /// # Errors
    /// It can't be written.
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

    /// Notes that entries of `to` up to `upto` are about to be handed to Kafka, where the next record of each partition will get an offset of
    /// at least `tails`. Durable on return.
    ///
    /// # Errors
    /// It can't be written. Handing over all the same means that after a crash entries can come to Kafka twice.
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

    /// How far entries were handed to Kafka before this store was opened, where some of them may still be here.
    pub fn handover_mark(&self, to: Destination) -> Option<HandoverMark> {
        self.handovers_at_open[to.index()].clone()
    }

    /// Entries of `to`.
    pub fn present(&self, to: Destination) -> u64 {
        self.present[to.index()].load(Relaxed)
    }

    /// Entries of `to` that were counted in [`Store::present`] or [`Found::entries`] since opening and then found to be lost.
    pub fn lost(&self, to: Destination) -> u64 {
        self.lost[to.index()].load(Relaxed)
    }

    /// What was found to be damaged since opening; what was at opening is in [`Found::damaged`].
    pub fn damaged(&self) -> Vec<DamagedFile> {
        lock(&self.damaged).clone()
    }

    /// Entries that Kafka refused for good, also before opening.
    pub fn dead_letter_count(&self) -> u64 {
        self.dead_letter_count.load(Relaxed)
    }

    /// Entries that come from now on have this sequence number or a greater one; those that are there, a smaller one.
    pub fn next_seq(&self) -> u64 {
        match &*lock(&self.append_target) {
            AppendTarget::Ready { number, next } => state::sequence(*number, *next),
            AppendTarget::Unwritable(_) => state::sequence(self.state().next_segment, 0),
        }
    }

    /// Receipt of about the oldest entry, ms since 1970: the first of its segment.
    pub fn oldest_ms(&self) -> Option<i64> {
        let state = self.state();
        state
            .segments
            .values()
            .find(|segment| !segment.is_drained())?
            .first_ms
    }

    /// On disk: segments and what was set aside.
    pub fn bytes(&self) -> u64 {
        let segments: u64 = {
            let state = self.state();
            state
                .segments
                .values()
                .map(state::Segment::disk_bytes)
                .sum()
        };
        segments + self.dead_letter_bytes.load(Relaxed)
    }

    /// The segments, oldest first.
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

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn segment_path(&self, number: u32) -> PathBuf {
        self.path(&segment_name(number))
    }
}

/// The segment that is written is closed, so that the next start has nothing to find out.
impl Drop for SpoolStore {
    fn drop(&mut self) {
        if self.read_only {
            return;
        }
        let writing = match &*lock(&self.append_target) {
            AppendTarget::Ready { number, .. } => Some(*number),
            AppendTarget::Unwritable(_) => None,
        };
        if let Some(number) = writing {
            self.seal(number, true);
        }
        // Where this fails, it is found as after a kill.
        if self.state().dirty {
            let _ = self.write_manifest();
        }
    }
}

impl std::fmt::Debug for SpoolStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// Beyond this no segment is written on.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;

const MANIFEST_FILE: &str = "manifest.json";
const DAMAGED_DIR: &str = "damaged";

fn segment_name(number: u32) -> String {
    format!("{number:08}.redb")
}

fn retired_name(number: u32) -> String {
    format!("{number:08}.retired")
}

/// The number of a segment's file with this extension; none where the spool itself would write another name.
fn parse_segment_number(name: &str, extension: &str) -> Option<u32> {
    let digits = name.strip_suffix(extension)?.strip_suffix('.')?;
    let number = digits.parse().ok()?;
    (digits == format!("{number:08}")).then_some(number)
}

/// Whether this is what a file is called that was not finished.
fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(".new").is_some_and(|name| {
        [MANIFEST_FILE, dead_letters::DEAD_LETTER_FILE].contains(&name)
            || parse_segment_number(name, "redb").is_some()
    })
}

/// Whether a directory holds a spool, or a part of one: a segment, what was set aside, or a manifest.
///
/// # Errors
/// It can't be read.
pub fn contains_spool(dir: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let is_manifest =
            || std::fs::read(dir.join(MANIFEST_FILE)).is_ok_and(|b| manifest::is_manifest(&b));
        let is_one =
            parse_segment_number(&name, "redb").is_some() || name == dead_letters::DEAD_LETTER_FILE;
        if is_one || (name == MANIFEST_FILE && is_manifest()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A panic elsewhere leaves nothing half-done in these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
