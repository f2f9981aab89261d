//! A look at a spool that changes nothing there, whether or not a bridge uses it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use super::{SpoolArguments, SpoolCommandError, SpoolCommandOutcome, require_spool};
use crate::spool::store::{DamagedFile, DeadLetter, OpenReport, ReadLimit, SpoolStore, StoreError};
use butlr_event::destination::Destination;

/// How often a spool is opened that changes while it is.
const MAX_OPEN_ATTEMPTS: usize = 10;
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
const BATCH: ReadLimit = ReadLimit {
    entries: 1_000,
    bytes: 4 << 20,
};

/// A spool, opened to be looked at.
pub struct SpoolInspection {
    pub dir: PathBuf,
    pub store: SpoolStore,
    pub found: OpenReport,
    /// A bridge is known to use it.
    pub is_in_use: bool,
}

impl SpoolInspection {
    /// Opens the spool that is meant.
    pub fn open(arguments: &SpoolArguments) -> Result<Self, SpoolCommandError> {
        let dir = arguments.dir()?;
        require_spool(&dir)?;
        require_readable(&dir)?;
        // A file that is being written, or that goes just then, can look damaged.
        for _ in 1..MAX_OPEN_ATTEMPTS {
            let look = catch_redb_panics(|| Self::open_once(&dir));
            let again = match &look {
                Ok(look) => look.is_in_use && !look.is_sound(),
                Err(_) => is_in_use(&dir),
            };
            if !again {
                return look;
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
        catch_redb_panics(|| Self::open_once(&dir))
    }

    fn open_once(dir: &Path) -> Result<Self, SpoolCommandError> {
        let in_use = is_in_use(dir);
        let opened = SpoolStore::open_read_only(dir);
        let (store, found) = opened.map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let why = source.unwrap_or_else(|| error.to_string());
            SpoolCommandError::Failed(format!("the spool {} cannot be read: {why}", dir.display()))
        })?;
        let dir = dir.to_owned();
        Ok(Self {
            dir,
            store,
            found,
            is_in_use: in_use,
        })
    }

    fn is_sound(&self) -> bool {
        self.found.damaged.is_empty() && self.found.missing.is_empty()
    }

    /// Entries of `to`, ascending, until `each` says that it has enough.
    pub fn for_each_entry(
        &self,
        to: Destination,
        mut each: impl FnMut(u64, &[u8]) -> Result<bool, SpoolCommandError>,
    ) -> Result<(), SpoolCommandError> {
        let mut from = 0;
        loop {
            let read = self.store.read(to, from, BATCH);
            let read = read.map_err(|error| self.read_error(&error))?;
            let Some((last, _)) = read.last() else {
                return Ok(());
            };
            from = last + 1;
            for (seq, bytes) in &read {
                if !each(*seq, bytes)? {
                    return Ok(());
                }
            }
        }
    }

    /// What was set aside for these destinations.
    pub fn dead_letters(&self, of: &[Destination]) -> Result<Vec<DeadLetter>, SpoolCommandError> {
        let all = self.store.dead_letters();
        let mut all = all.map_err(|error| self.read_error(&error))?;
        all.retain(|entry| of.is_empty() || of.contains(&entry.destination));
        Ok(all)
    }

    fn read_error(&self, error: &StoreError) -> SpoolCommandError {
        let mut text = error.to_string();
        if self.is_in_use {
            text += "; a bridge uses this spool, and files go while it drains: try again, or look at a copy";
        }
        SpoolCommandError::Failed(text)
    }

    /// Everything that is wrong, of opening and since; one line each.
    pub fn describe_damage(&self, verified: &[DamagedFile]) -> Vec<String> {
        let since = self.store.damaged();
        let damaged = self.found.damaged.iter().chain(&since).chain(verified);
        let mut lines: Vec<String> = Vec::new();
        for line in
            damaged
                .map(describe_damaged_file)
                .chain(self.found.missing.iter().map(|file| {
                    format!("{file} is missing: what it held is lost, unless it was drained")
                }))
        {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines
    }

    /// Tells on standard error what is wrong.
    pub fn report_damage(&self, verified: &[DamagedFile]) -> SpoolCommandOutcome {
        let damage = self.describe_damage(verified);
        for line in &damage {
            eprintln!("damage: {line}");
        }
        if !damage.is_empty() {
            eprintln!("{}", self.advice());
        }
        SpoolCommandOutcome::success_if(damage.is_empty())
    }

    /// What to do about damage.
    pub fn advice(&self) -> &'static str {
        match self.is_in_use {
            true => {
                "a bridge uses this spool, and a file that it is writing can look damaged: look again, or at a copy, before believing it"
            }
            false => {
                "nothing was changed; the next `serve` or `spool drain` keeps what is whole and puts the damaged files aside in damaged/, so copy the directory before if they matter"
            }
        }
    }
}

fn describe_damaged_file(damaged: &DamagedFile) -> String {
    let DamagedFile {
        file, why, lost, ..
    } = damaged;
    match lost {
        Some(0) => format!("{file}: {why}; no entry is lost"),
        Some(1) => format!("{file}: {why}; 1 entry is lost"),
        Some(lost) => format!("{file}: {why}; {lost} entries are lost"),
        None => format!("{file}: {why}"),
    }
}

/// A file that this user may not read is not a damaged one.
fn require_readable(dir: &Path) -> Result<(), SpoolCommandError> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    for path in files.map(|file| file.path()).filter(|path| path.is_file()) {
        if let Err(error) = File::open(&path)
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            return Err(SpoolCommandError::Failed(format!(
                "{} cannot be read: {error}; run this as the user of the bridge",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Whether a process holds the spool's lock, as far as this one can see: those of other containers it cannot. Asks without
/// taking the lock, which would keep a bridge from starting just then.
fn is_in_use(dir: &Path) -> bool {
    let inode = fs::metadata(dir.join("lock")).map(|lock| lock.ino());
    let locks = fs::read_to_string("/proc/locks");
    match (inode, locks) {
        (Ok(inode), Ok(locks)) => is_locked(&locks, inode),
        _ => false,
    }
}

/// `1: FLOCK  ADVISORY  WRITE 14825 fe:00:6357101 0 EOF`; by the inode alone, since some file systems show another device.
fn is_locked(locks: &str, inode: u64) -> bool {
    locks.lines().any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", _, place, ..] = words[..] else {
            return false;
        };
        let found = place.rsplit(':').next();
        found.and_then(|found| found.parse().ok()) == Some(inode)
    })
}

/// What redb said when it panicked last, if nothing else has panicked since.
static LAST_REDB_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// redb can panic on a file that is damaged, or that is written while it is read; even when such a file is closed. That is an
/// error like others here.
pub fn catch_redb_panics<T>(
    call: impl FnOnce() -> Result<T, SpoolCommandError>,
) -> Result<T, SpoolCommandError> {
    silence_redb_panics();
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| match lock(&LAST_REDB_PANIC).take() {
        Some(why) => Err(SpoolCommandError::Failed(format!(
            "the spool cannot be read: {why}; where a bridge uses it, try again, or look at a copy"
        ))),
        None => resume_unwind(panic),
    })
}

fn silence_redb_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            let of_redb = panic
                .location()
                .is_some_and(|at| at.file().contains("/redb-"));
            *lock(&LAST_REDB_PANIC) = of_redb.then(|| panic.to_string().replace('\n', " "));
            if !of_redb {
                before(panic);
            }
        }));
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_the_bridge_is_told_from_others() {
        let locks = "1: FLOCK  ADVISORY  WRITE 1 fe:00:77 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 2 fe:00:99 0 EOF\n\
                     2: FLOCK  ADVISORY  READ 1 fe:00:78 0 EOF\n\
                     3: POSIX  ADVISORY  WRITE 1 fe:00:79 0 EOF\n";
        assert!(is_locked(locks, 77));
        for not_held in [7, 78, 79, 99] {
            assert!(!is_locked(locks, not_held), "{not_held}");
        }
    }

    #[test]
    fn damage_says_what_it_cost() {
        let damaged = |lost| DamagedFile {
            file: "1.redb".to_owned(),
            moved_to: None,
            why: "torn".to_owned(),
            lost,
        };
        assert_eq!(describe_damaged_file(&damaged(None)), "1.redb: torn");
        assert_eq!(
            describe_damaged_file(&damaged(Some(0))),
            "1.redb: torn; no entry is lost"
        );
        assert_eq!(
            describe_damaged_file(&damaged(Some(2))),
            "1.redb: torn; 2 entries are lost"
        );
    }

    #[test]
    fn a_panic_of_others_goes_on() {
        let panicked = catch_unwind(|| catch_redb_panics::<()>(|| panic!("a bug of ours")));
        assert!(panicked.is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_spool_that_is_open_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_in_use(dir.path()));
        let options = crate::spool::store::Options {
            dir: dir.path().to_owned(),
            segment_bytes: 1 << 20,
        };
        let (store, _) = SpoolStore::open(options).unwrap();
        assert!(is_in_use(dir.path()));
        drop(store);
        assert!(!is_in_use(dir.path()));
    }
}
