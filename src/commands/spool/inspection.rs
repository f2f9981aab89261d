//! Read-only inspection of a spool, even while a bridge uses it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once};
use std::time::Duration;

use super::{CommandExit, SpoolArguments, SpoolCommandError, require_spool};
use crate::spool::store::{DamagedFile, DeadLetter, OpenReport, ReadLimit, SpoolStore, StoreError};
use crate::sync::lock;
use butlr_event::destination::Destination;

/// Tries to open a spool that changes meanwhile.
const MAX_OPEN_ATTEMPTS: usize = 10;
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Limits of one read.
const BATCH: ReadLimit = ReadLimit {
    entries: 1_000,
    bytes: 4 << 20,
};

/// Spool that is opened read-only.
pub struct SpoolInspection {
    pub dir: PathBuf,
    pub store: SpoolStore,
    pub found: OpenReport,
    /// A bridge is known to use the spool.
    pub is_in_use: bool,
}

impl SpoolInspection {
    /// Opens the spool that the arguments name.
    pub fn open(arguments: &SpoolArguments) -> Result<Self, SpoolCommandError> {
        let dir = arguments.dir()?;
        require_spool(&dir)?;
        require_readable(&dir)?;
        // A file that is being written or deleted can look damaged.
        for _ in 1..MAX_OPEN_ATTEMPTS {
            let inspection = catch_redb_panics(|| Self::open_once(&dir));
            let try_again = match &inspection {
                Ok(inspection) => inspection.is_in_use && !inspection.is_sound(),
                Err(_) => is_in_use(&dir),
            };
            if !try_again {
                return inspection;
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
        catch_redb_panics(|| Self::open_once(&dir))
    }

    fn open_once(dir: &Path) -> Result<Self, SpoolCommandError> {
        let is_in_use = is_in_use(dir);
        let opened = SpoolStore::open_read_only(dir);
        let (store, found) = opened.map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let reason = source.unwrap_or_else(|| error.to_string());
            let dir = dir.display();
            SpoolCommandError::Failed(format!("the spool {dir} cannot be read: {reason}"))
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            store,
            found,
            is_in_use,
        })
    }

    fn is_sound(&self) -> bool {
        self.found.damaged.is_empty() && self.found.missing.is_empty()
    }

    /// Passes the entries of `to` to `each`, ascending, until it returns `false`.
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

    /// Returns the dead letters of these destinations; of all if none is selected.
    pub fn dead_letters(
        &self,
        selected: &[Destination],
    ) -> Result<Vec<DeadLetter>, SpoolCommandError> {
        let all = self.store.dead_letters();
        let mut all = all.map_err(|error| self.read_error(&error))?;
        all.retain(|entry| selected.is_empty() || selected.contains(&entry.destination));
        Ok(all)
    }

    fn read_error(&self, error: &StoreError) -> SpoolCommandError {
        let mut text = error.to_string();
        if self.is_in_use {
            text += "; a bridge uses this spool and deletes files while it drains: try again, or inspect a copy";
        }
        SpoolCommandError::Failed(text)
    }

    /// Describes all damage that was found at opening and since, one line each.
    pub fn describe_damage(&self, verified: &[DamagedFile]) -> Vec<String> {
        let since = self.store.damaged();
        let damaged = self.found.damaged.iter().chain(&since).chain(verified);
        let missing = self.found.missing.iter().map(|file| {
            format!("{file} is missing: its entries are lost, unless they were drained")
        });
        let mut lines: Vec<String> = Vec::new();
        for line in damaged.map(describe_damaged_file).chain(missing) {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines
    }

    /// Prints all damage to standard error.
    pub fn report_damage(&self, verified: &[DamagedFile]) -> CommandExit {
        let damage = self.describe_damage(verified);
        for line in &damage {
            eprintln!("damage: {line}");
        }
        if !damage.is_empty() {
            eprintln!("{}", self.advice());
        }
        CommandExit::success_if(damage.is_empty())
    }

    /// Returns advice about damage.
    pub fn advice(&self) -> &'static str {
        if self.is_in_use {
            "a bridge uses this spool, and a file that it is writing can look damaged: run the command again, or on a copy, to make sure"
        } else {
            "nothing was changed; the next `serve` or `spool drain` keeps the intact entries and moves the damaged files to damaged/, so copy the directory first if you need them"
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

/// Fails if this user may not read the files, so that they do not look damaged.
fn require_readable(dir: &Path) -> Result<(), SpoolCommandError> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    for path in files.map(|file| file.path()).filter(|path| path.is_file()) {
        if let Err(error) = File::open(&path)
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            return Err(SpoolCommandError::Failed(format!(
                "{} cannot be read: {error}; run this command as the bridge's user",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Returns `true` if a visible process holds the spool's lock; processes in other containers are
/// not visible. Reads `/proc/locks` instead of taking the lock, which could keep a bridge from
/// starting.
fn is_in_use(dir: &Path) -> bool {
    let inode = fs::metadata(dir.join("lock")).map(|lock| lock.ino());
    let locks = fs::read_to_string("/proc/locks");
    match (inode, locks) {
        (Ok(inode), Ok(locks)) => is_locked(&locks, inode),
        _ => false,
    }
}

/// Searches `/proc/locks` for a lock on this inode, in lines such as
/// `1: FLOCK  ADVISORY  WRITE 14825 fe:00:6357101 0 EOF`. The device is ignored, because some file
/// systems show a different one.
fn is_locked(locks: &str, inode: u64) -> bool {
    locks.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", _, file, ..] = fields[..] else {
            return false;
        };
        let locked = file.rsplit(':').next();
        locked.and_then(|locked| locked.parse().ok()) == Some(inode)
    })
}

/// Message of redb's last panic, if nothing else has panicked since.
static LAST_REDB_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Turns panics of redb into errors. redb can panic on a file that is damaged or written while it
/// is read, even when it closes the file. Other panics continue.
pub fn catch_redb_panics<T>(
    call: impl FnOnce() -> Result<T, SpoolCommandError>,
) -> Result<T, SpoolCommandError> {
    silence_redb_panics();
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let Some(message) = lock(&LAST_REDB_PANIC).take() else {
            resume_unwind(panic)
        };
        Err(SpoolCommandError::Failed(format!(
            "the spool cannot be read: {message}; if a bridge uses it, try again, or inspect a copy"
        )))
    })
}

fn silence_redb_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous_hook = take_hook();
        set_hook(Box::new(move |panic| {
            let is_redb = panic
                .location()
                .is_some_and(|at| at.file().contains("/redb-"));
            *lock(&LAST_REDB_PANIC) = is_redb.then(|| panic.to_string().replace('\n', " "));
            if !is_redb {
                previous_hook(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_exclusive_flock_on_the_inode_counts() {
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
    fn damage_is_described_with_its_loss() {
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
    fn other_panics_continue() {
        let panicked = catch_unwind(|| catch_redb_panics::<()>(|| panic!("a bug of ours")));
        assert!(panicked.is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_open_spool_is_in_use() {
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
