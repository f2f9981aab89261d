//! Whether the disk takes more: its limits, and what it said last.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::store::Store;
use super::{NotKept, lock};
use crate::config;

/// Between two looks at the disk while something is wrong, and before a commit.
const LOOK: Duration = Duration::from_millis(100);
/// The same while nothing happens.
const IDLE: Duration = Duration::from_secs(1);
/// Between two tries at a disk that failed.
const RETRY: Duration = Duration::from_secs(1);
/// A commit that takes longer hangs: the disk does not answer, and may never.
const HANGS: Duration = Duration::from_secs(3);

/// Bytes that are free where a directory lies.
pub(super) type Free = Box<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// The file system's word on it.
pub(super) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(dir)?;
    // What is left for others than root.
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Whether a directory lies in memory: what is fsynced there does not outlive the machine's power.
pub fn is_in_memory(dir: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        const TMPFS: u64 = 0x0102_1994;
        const RAMFS: u64 = 0x8584_58f6;
        let kind = rustix::fs::statfs(dir).map(|found| found.f_type as u64);
        kind.is_ok_and(|kind| [TMPFS, RAMFS].contains(&kind))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = dir;
        false
    }
}

/// Known by looking now and then; a request only asks what is known.
pub(super) struct Health {
    dir: PathBuf,
    max_bytes: u64,
    min_free_bytes: u64,
    free: Free,
    /// Whether there is anything to tell.
    trouble: AtomicBool,
    /// When the commit under way began, in ms since `epoch`, and 1 more; 0 without one.
    commit: AtomicU64,
    epoch: Instant,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    poisoned: Option<String>,
    full: Option<String>,
    looked: Option<Instant>,
    tried: Option<Instant>,
    is_free_unknown: bool,
}

impl Health {
    pub fn new(settings: &config::SpoolConfig, free: Free) -> Self {
        Self {
            dir: settings.dir.clone().unwrap_or_default(),
            max_bytes: settings.max_bytes,
            min_free_bytes: settings.min_free_bytes,
            free,
            trouble: AtomicBool::new(false),
            commit: AtomicU64::new(0),
            epoch: Instant::now(),
            known: Mutex::default(),
        }
    }

    /// Calls into the store, which may take as long as the disk likes.
    pub fn committing<T>(&self, commit: impl FnOnce() -> T) -> T {
        let since = self.epoch.elapsed().as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX - 1);
        self.commit.store(since + 1, Ordering::Relaxed);
        let done = commit();
        self.commit.store(0, Ordering::Relaxed);
        done
    }

    /// Whether the disk does not answer.
    pub fn hangs(&self) -> bool {
        let Some(since) = self.commit.load(Ordering::Relaxed).checked_sub(1) else {
            return false;
        };
        self.epoch.elapsed() >= Duration::from_millis(since) + HANGS
    }

    fn hang(&self) -> Option<String> {
        let why = || format!("the disk has not answered for {HANGS:?} or more");
        self.hangs().then(why)
    }

    /// Why nothing is kept, if so.
    pub fn refusal(&self) -> Option<NotKept> {
        if let Some(why) = self.hang() {
            return Some(NotKept::Unwritable { why });
        }
        if !self.trouble.load(Ordering::Relaxed) {
            return None;
        }
        let known = lock(&self.known);
        let poisoned = known.poisoned.clone();
        let full = || known.full.clone().map(|why| NotKept::Full { why });
        poisoned
            .map(|why| NotKept::Unwritable { why })
            .or_else(full)
    }

    pub fn poisoned(&self) -> Option<String> {
        self.hang().or_else(|| lock(&self.known).poisoned.clone())
    }

    pub fn full(&self) -> Option<String> {
        lock(&self.known).full.clone()
    }

    /// How long the writer may leave the disk unlooked at.
    pub fn patience(&self) -> Duration {
        match self.trouble.load(Ordering::Relaxed) {
            true => LOOK,
            false => IDLE,
        }
    }

    /// Whether so many bytes are too many; if so, there is no room until there is some to spare.
    pub fn exceeded(&self, bytes: u64) -> Option<NotKept> {
        if bytes <= self.max_bytes {
            return None;
        }
        let why = self.limit();
        let mut known = lock(&self.known);
        self.set_full(&mut known, Some(why.clone()));
        Some(NotKept::Full { why })
    }

    fn set_full(&self, known: &mut Known, full: Option<String>) {
        match (&known.full, &full) {
            (None, Some(why)) => tracing::error!(
                "the spool is full: {why}; events that Kafka does not take are answered 503"
            ),
            (Some(_), None) => tracing::info!("the spool has room again"),
            _ => {}
        }
        known.full = full;
        self.note(known);
    }

    fn limit(&self) -> String {
        format!("spool.max_bytes ({}) is reached", self.max_bytes)
    }

    /// Looks at the disk, if that is due; the writer calls it.
    pub fn look(&self, store: &Store) {
        if !self.trouble.load(Ordering::Relaxed)
            && let Some(why) = store.unwritable()
        {
            // Since something else than a commit failed: the next one is not to be the first to find out.
            self.poison(why);
        }
        let is_due = |known: &Known| known.looked.is_none_or(|at| at.elapsed() >= LOOK);
        if !is_due(&lock(&self.known)) {
            return;
        }
        // Not while others wait for what is known: a disk may take long to answer.
        let free = (self.free)(&self.dir);
        let mut known = lock(&self.known);
        let full = self.lack(store, free, &mut known);
        self.set_full(&mut known, full);
        known.looked = Some(Instant::now());
    }

    fn lack(&self, store: &Store, free: io::Result<u64>, known: &mut Known) -> Option<String> {
        // Once there is no room, a little more than none has to be there, lest it changes with each event.
        let spare = |limit: u64| match known.full {
            Some(_) => limit / 16,
            None => 0,
        };
        if store.bytes() >= self.max_bytes - spare(self.max_bytes) {
            return Some(self.limit());
        }
        let least = self.min_free_bytes + spare(self.min_free_bytes);
        match free {
            Ok(free) if free < least => Some(format!(
                "the disk has {free} bytes left, and spool.min_free_bytes ({}) are to stay free",
                self.min_free_bytes
            )),
            Ok(_) => None,
            Err(error) => {
                if !std::mem::replace(&mut known.is_free_unknown, true) {
                    tracing::warn!(%error, "how much the spool's disk has left is not known: spool.min_free_bytes is not kept");
                }
                None
            }
        }
    }

    /// A commit failed: nothing is written until the disk has proved that it works.
    pub fn poison(&self, why: String) {
        let mut known = lock(&self.known);
        tracing::error!(
            "the spool cannot be written: {why}; events that Kafka does not take are answered 503 until it can"
        );
        known.poisoned = Some(why);
        known.tried = Some(Instant::now());
        self.note(&known);
    }

    /// Lets the disk prove itself, if that is due.
    pub fn recover(&self, store: &Store) {
        let known = lock(&self.known);
        let due = known.tried.is_none_or(|at| at.elapsed() >= RETRY);
        if known.poisoned.is_none() || known.full.is_some() || !due {
            return;
        }
        drop(known);
        let tried = super::writer::guarded(|| store.recover_writing());
        let mut known = lock(&self.known);
        known.tried = Some(Instant::now());
        match tried {
            Ok(()) => {
                tracing::info!("the spool can be written again");
                known.poisoned = None;
            }
            Err(why) => known.poisoned = Some(why),
        }
        self.note(&known);
    }

    fn note(&self, known: &Known) {
        let trouble = known.poisoned.is_some() || known.full.is_some();
        self.trouble.store(trouble, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_file_system_tells_what_is_left() {
        let dir = tempfile::tempdir().unwrap();
        assert!(super::free_bytes(dir.path()).unwrap() > 0);
        assert!(super::free_bytes(&dir.path().join("missing")).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_told_from_a_disk() {
        let shm = std::path::Path::new("/dev/shm");
        let is_tmpfs = std::fs::read_to_string("/proc/mounts")
            .is_ok_and(|mounts| mounts.lines().any(|line| line.contains(" /dev/shm tmpfs ")));
        assert_eq!(super::is_in_memory(shm), is_tmpfs);
        assert!(!super::is_in_memory(std::path::Path::new("/proc")));
    }
}
