//! Whether the disk takes more: its limits, and what it said last.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::store::SpoolStore;
use super::{AppendError, lock};
use crate::config;

/// Between two looks at the disk while something is wrong, and before a commit.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// The same while nothing happens.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// Between two tries at a disk that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// A commit that takes longer hangs: the disk does not answer, and may never.
const HANG_TIMEOUT: Duration = Duration::from_secs(3);

/// Bytes that are free where a directory lies.
pub(super) type FreeSpaceProbe = Box<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

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
pub(super) struct DiskHealth {
    dir: PathBuf,
    max_bytes: u64,
    min_free_bytes: u64,
    free_space: FreeSpaceProbe,
    /// Whether there is anything to tell.
    has_trouble: AtomicBool,
    /// When the commit under way began, in ms since `epoch`, and 1 more; 0 without one.
    commit_started: AtomicU64,
    epoch: Instant,
    state: Mutex<HealthState>,
}

#[derive(Default)]
struct HealthState {
    poisoned: Option<String>,
    full: Option<String>,
    last_check: Option<Instant>,
    last_retry: Option<Instant>,
    is_free_unknown: bool,
}

impl DiskHealth {
    pub fn new(settings: &config::SpoolConfig, free: FreeSpaceProbe) -> Self {
        Self {
            dir: settings.dir.clone().unwrap_or_default(),
            max_bytes: settings.max_bytes,
            min_free_bytes: settings.min_free_bytes,
            free_space: free,
            has_trouble: AtomicBool::new(false),
            commit_started: AtomicU64::new(0),
            epoch: Instant::now(),
            state: Mutex::default(),
        }
    }

    /// Calls into the store, which may take as long as the disk likes.
    pub fn track_commit<T>(&self, commit: impl FnOnce() -> T) -> T {
        let since = self.epoch.elapsed().as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX - 1);
        self.commit_started.store(since + 1, Ordering::Relaxed);
        let done = commit();
        self.commit_started.store(0, Ordering::Relaxed);
        done
    }

    /// Whether the disk does not answer.
    pub fn is_hung(&self) -> bool {
        let Some(since) = self.commit_started.load(Ordering::Relaxed).checked_sub(1) else {
            return false;
        };
        self.epoch.elapsed() >= Duration::from_millis(since) + HANG_TIMEOUT
    }

    fn hung_reason(&self) -> Option<String> {
        let why = || format!("the disk has not answered for {HANG_TIMEOUT:?} or more");
        self.is_hung().then(why)
    }

    /// Why nothing is kept, if so.
    pub fn refusal(&self) -> Option<AppendError> {
        if let Some(why) = self.hung_reason() {
            return Some(AppendError::Unwritable { why });
        }
        if !self.has_trouble.load(Ordering::Relaxed) {
            return None;
        }
        let known = lock(&self.state);
        let poisoned = known.poisoned.clone();
        let full = || known.full.clone().map(|why| AppendError::Full { why });
        poisoned
            .map(|why| AppendError::Unwritable { why })
            .or_else(full)
    }

    pub fn poison_reason(&self) -> Option<String> {
        self.hung_reason()
            .or_else(|| lock(&self.state).poisoned.clone())
    }

    pub fn full_reason(&self) -> Option<String> {
        lock(&self.state).full.clone()
    }

    /// How long the writer may leave the disk unlooked at.
    pub fn poll_interval(&self) -> Duration {
        match self.has_trouble.load(Ordering::Relaxed) {
            true => CHECK_INTERVAL,
            false => IDLE_INTERVAL,
        }
    }

    /// Whether so many bytes are too many; if so, there is no room until there is some to spare.
    pub fn check_size_limit(&self, bytes: u64) -> Option<AppendError> {
        if bytes <= self.max_bytes {
            return None;
        }
        let why = self.limit_reason();
        let mut known = lock(&self.state);
        self.set_full(&mut known, Some(why.clone()));
        Some(AppendError::Full { why })
    }

    fn set_full(&self, known: &mut HealthState, full: Option<String>) {
        match (&known.full, &full) {
            (None, Some(why)) => tracing::error!(
                "the spool is full: {why}; events that Kafka does not take are answered 503"
            ),
            (Some(_), None) => tracing::info!("the spool has room again"),
            _ => {}
        }
        known.full = full;
        self.update_trouble(known);
    }

    fn limit_reason(&self) -> String {
        format!("spool.max_bytes ({}) is reached", self.max_bytes)
    }

    /// Looks at the disk, if that is due; the writer calls it.
    pub fn check_disk(&self, store: &SpoolStore) {
        if !self.has_trouble.load(Ordering::Relaxed)
            && let Some(why) = store.unwritable_reason()
        {
            // Since something else than a commit failed: the next one is not to be the first to find out.
            self.poison(why);
        }
        let is_due = |known: &HealthState| {
            known
                .last_check
                .is_none_or(|at| at.elapsed() >= CHECK_INTERVAL)
        };
        if !is_due(&lock(&self.state)) {
            return;
        }
        // Not while others wait for what is known: a disk may take long to answer.
        let free = (self.free_space)(&self.dir);
        let mut known = lock(&self.state);
        let full = self.find_shortage(store, free, &mut known);
        self.set_full(&mut known, full);
        known.last_check = Some(Instant::now());
    }

    fn find_shortage(
        &self,
        store: &SpoolStore,
        free: io::Result<u64>,
        known: &mut HealthState,
    ) -> Option<String> {
        // Once there is no room, a little more than none has to be there, lest it changes with each event.
        let spare = |limit: u64| match known.full {
            Some(_) => limit / 16,
            None => 0,
        };
        if store.bytes() >= self.max_bytes - spare(self.max_bytes) {
            return Some(self.limit_reason());
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
        let mut known = lock(&self.state);
        tracing::error!(
            "the spool cannot be written: {why}; events that Kafka does not take are answered 503 until it can"
        );
        known.poisoned = Some(why);
        known.last_retry = Some(Instant::now());
        self.update_trouble(&known);
    }

    /// Lets the disk prove itself, if that is due.
    pub fn try_recover(&self, store: &SpoolStore) {
        let known = lock(&self.state);
        let due = known
            .last_retry
            .is_none_or(|at| at.elapsed() >= RETRY_INTERVAL);
        if known.poisoned.is_none() || known.full.is_some() || !due {
            return;
        }
        drop(known);
        let tried = super::writer::catch_panics(|| store.recover_writing());
        let mut known = lock(&self.state);
        known.last_retry = Some(Instant::now());
        match tried {
            Ok(()) => {
                tracing::info!("the spool can be written again");
                known.poisoned = None;
            }
            Err(why) => known.poisoned = Some(why),
        }
        self.update_trouble(&known);
    }

    fn update_trouble(&self, known: &HealthState) {
        let trouble = known.poisoned.is_some() || known.full.is_some();
        self.has_trouble.store(trouble, Ordering::Relaxed);
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
