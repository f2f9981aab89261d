//! A clock of a bridge's own, by libfaketime: what it takes for the time of day can be put forward and back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::real::within;

/// What a trial needs, where it is missing.
pub fn needs() -> &'static [&'static str] {
    match library() {
        Some(_) => &[],
        None => &["libfaketimeMT.so.1 (Debian's package libfaketime)"],
    }
}

/// The library, where it is installed.
pub fn library() -> Option<PathBuf> {
    let libraries = ["/usr/lib", "/usr/local/lib", "/usr/lib64"].map(PathBuf::from);
    let mut folders = libraries.to_vec();
    for folder in &libraries {
        let inside = std::fs::read_dir(folder).into_iter().flatten().flatten();
        folders.extend(inside.map(|entry| entry.path()));
    }
    let mut all = folders
        .iter()
        .map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    all.find(|library| library.is_file())
}

/// The clock of one bridge, in all its processes.
pub struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// One that is right, by a file in `dir`.
    pub fn right(dir: &Path) -> Self {
        let clock = Self {
            file: dir.join("clock"),
            library: library().expect("possible here"),
        };
        clock.set(0);
        clock
    }

    /// Off by so many seconds, within a second from now.
    pub fn set(&self, seconds: i64) {
        // Put there whole: it may be read at any moment.
        let beside = self.file.with_extension("new");
        std::fs::write(&beside, format!("{seconds:+}\n")).expect("a file");
        std::fs::rename(beside, &self.file).expect("a file");
    }

    /// What makes a process go by it.
    pub fn environment(&self) -> Vec<(String, PathBuf)> {
        vec![
            ("LD_PRELOAD".to_owned(), self.library.clone()),
            ("FAKETIME_TIMESTAMP_FILE".to_owned(), self.file.clone()),
            ("FAKETIME_CACHE_DURATION".to_owned(), "1".into()),
            // Someone corrects the clock; time goes by as before.
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".into()),
            ("FAKETIME_DONT_RESET".to_owned(), "1".into()),
        ]
    }
}

/// Removes what the library leaves behind of processes that were killed.
impl Drop for Clock {
    fn drop(&mut self) {
        for entry in std::fs::read_dir("/dev/shm")
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let process = ["faketime_shm_", "sem.faketime_sem_"]
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix));
            if let Some(process) = process
                && !Path::new("/proc").join(process).exists()
            {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

pub fn a_process_goes_by_a_clock_of_its_own() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let clock = Clock::right(dir.path());
    let off = || {
        let mut date = Command::new("date");
        date.arg("+%s").envs(clock.environment());
        let told = date.output().expect("date").stdout;
        let told = String::from_utf8_lossy(&told).trim().parse::<i64>();
        told.expect("seconds") - crate::harness::clock_ms() / 1_000
    };
    for seconds in [0, 3_000, -500] {
        clock.set(seconds);
        within(Duration::from_secs(3), "it is off by that", || {
            (off() - seconds).abs() <= 1
        });
    }
}
