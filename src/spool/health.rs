//! Health of the spool's disk: its limits, and its last failure. A request reads the recorded state
//! and does not wait for the disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::AppendError;
use super::panics::catch_panics;
use super::store::SpoolStore;
use crate::config;
use crate::sync::lock;

/// Interval of disk checks while commits are made or something is wrong.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Interval of disk checks while the writer is idle.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of attempts to write to a disk that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Duration after which a commit counts as hung: the disk may never respond.
const HANG_TIMEOUT: Duration = Duration::from_secs(3);

/// Function that returns the free bytes of a directory's file system.
pub(super) type FreeSpaceProbe = Box<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// Returns `true` if a directory is in memory, so that its files do not survive a loss of power.
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

pub(super) struct DiskHealth {
    dir: PathBuf,
    max_bytes: u64,
    min_free_bytes: u64,
    free_space: FreeSpaceProbe,
    /// `true` if `state` has a reason to refuse entries.
    has_trouble: AtomicBool,
    /// Start of the running commit in ms since `epoch`, plus 1; 0 if none is running.
    commit_started: AtomicU64,
    epoch: Instant,
    state: Mutex<HealthState>,
}

#[derive(Default)]
struct HealthState {
    poison_reason: Option<String>,
    full_reason: Option<String>,
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

    /// Runs a call into the store, which may hang with the disk.
    pub fn track_commit<T>(&self, commit: impl FnOnce() -> T) -> T {
        let since = self.epoch.elapsed().as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX - 1);
        self.commit_started.store(since + 1, Ordering::Relaxed);
        let done = commit();
        self.commit_started.store(0, Ordering::Relaxed);
        done
    }

    /// Returns `true` if the disk does not respond.
    pub fn is_hung(&self) -> bool {
        let Some(since) = self.commit_started.load(Ordering::Relaxed).checked_sub(1) else {
            return false;
        };
        self.epoch.elapsed() >= Duration::from_millis(since) + HANG_TIMEOUT
    }

    fn hung_reason(&self) -> Option<String> {
        let why = || format!("the disk has not responded for {HANG_TIMEOUT:?} or more");
        self.is_hung().then(why)
    }

    /// The reason why no entry is accepted, if there is one.
    pub fn refusal(&self) -> Option<AppendError> {
        if let Some(why) = self.hung_reason() {
            return Some(AppendError::Unwritable { why });
        }
        if !self.has_trouble.load(Ordering::Relaxed) {
            return None;
        }
        let state = lock(&self.state);
        let poisoned = state.poison_reason.clone();
        let full = || state.full_reason.clone();
        poisoned
            .map(|why| AppendError::Unwritable { why })
            .or_else(|| full().map(|why| AppendError::Full { why }))
    }

    pub fn poison_reason(&self) -> Option<String> {
        self.hung_reason()
            .or_else(|| lock(&self.state).poison_reason.clone())
    }

    pub fn full_reason(&self) -> Option<String> {
        lock(&self.state).full_reason.clone()
    }

    /// Time after which the writer has to check the disk again.
    pub fn poll_interval(&self) -> Duration {
        if self.has_trouble.load(Ordering::Relaxed) {
            CHECK_INTERVAL
        } else {
            IDLE_INTERVAL
        }
    }

    /// Returns an error if `bytes` exceed the limit; the spool then stays full until there is some
    /// headroom.
    pub fn check_size_limit(&self, bytes: u64) -> Option<AppendError> {
        if bytes <= self.max_bytes {
            return None;
        }
        let why = self.limit_reason();
        self.set_full(&mut lock(&self.state), Some(why.clone()));
        Some(AppendError::Full { why })
    }

    fn set_full(&self, state: &mut HealthState, full_reason: Option<String>) {
        match (&state.full_reason, &full_reason) {
            (None, Some(why)) => tracing::error!(
                "the spool is full: {why}; events that Kafka does not accept get a 503"
            ),
            (Some(_), None) => tracing::info!("the spool has room again"),
            _ => {}
        }
        state.full_reason = full_reason;
        self.update_trouble(state);
    }

    fn limit_reason(&self) -> String {
        format!("spool.max_bytes ({}) is reached", self.max_bytes)
    }

    /// Checks the disk if that is due. Called by the writer.
    pub fn check_disk(&self, store: &SpoolStore) {
        if !self.has_trouble.load(Ordering::Relaxed)
            && let Some(why) = store.unwritable_reason()
        {
            // Something other than a commit failed: refuse entries before the next commit fails.
            self.poison(why);
        }
        let last_check = lock(&self.state).last_check;
        if last_check.is_some_and(|at| at.elapsed() < CHECK_INTERVAL) {
            return;
        }
        // Without the lock: the disk may take long, and requests need the state.
        let free = (self.free_space)(&self.dir);
        let mut state = lock(&self.state);
        let full_reason = self.find_shortage(store, free, &mut state);
        self.set_full(&mut state, full_reason);
        state.last_check = Some(Instant::now());
    }

    fn find_shortage(
        &self,
        store: &SpoolStore,
        free: io::Result<u64>,
        state: &mut HealthState,
    ) -> Option<String> {
        // Hysteresis: a full spool needs 1/16 headroom, so that the state does not flap.
        let headroom = |limit: u64| match state.full_reason {
            Some(_) => limit / 16,
            None => 0,
        };
        if store.bytes() >= self.max_bytes - headroom(self.max_bytes) {
            return Some(self.limit_reason());
        }
        let least = self.min_free_bytes + headroom(self.min_free_bytes);
        match free {
            Ok(free) if free < least => Some(format!(
                "the disk has {free} bytes left, and spool.min_free_bytes ({}) must stay free",
                self.min_free_bytes
            )),
            Ok(_) => None,
            Err(error) => {
                if !std::mem::replace(&mut state.is_free_unknown, true) {
                    tracing::warn!(
                        %error,
                        "cannot read the free space of the spool's disk: spool.min_free_bytes is not enforced"
                    );
                }
                None
            }
        }
    }

    /// Accepts no entries until a test commit succeeds.
    pub fn poison(&self, why: String) {
        let mut state = lock(&self.state);
        tracing::error!(
            "cannot write to the spool: {why}; until this works again, events that Kafka does not accept get a 503"
        );
        state.poison_reason = Some(why);
        state.last_retry = Some(Instant::now());
        self.update_trouble(&state);
    }

    /// After a failure: makes a test commit if that is due.
    pub fn try_recover(&self, store: &SpoolStore) {
        let state = lock(&self.state);
        let is_due = state
            .last_retry
            .is_none_or(|at| at.elapsed() >= RETRY_INTERVAL);
        if state.poison_reason.is_none() || state.full_reason.is_some() || !is_due {
            return;
        }
        drop(state);
        let recovered = catch_panics(|| store.recover_writing());
        let mut state = lock(&self.state);
        state.last_retry = Some(Instant::now());
        state.poison_reason = match recovered {
            Ok(Ok(())) => {
                tracing::info!("the spool can be written again");
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(format!("the store panicked: {panic}")),
        };
        self.update_trouble(&state);
    }

    fn update_trouble(&self, state: &HealthState) {
        let has_trouble = state.poison_reason.is_some() || state.full_reason.is_some();
        self.has_trouble.store(has_trouble, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_os = "linux")]
    fn a_directory_in_memory_is_recognised() {
        let shm = std::path::Path::new("/dev/shm");
        let is_tmpfs = std::fs::read_to_string("/proc/mounts")
            .is_ok_and(|mounts| mounts.lines().any(|line| line.contains(" /dev/shm tmpfs ")));
        assert_eq!(super::is_in_memory(shm), is_tmpfs);
        assert!(!super::is_in_memory(std::path::Path::new("/proc")));
    }
}
