//! Clock of a single bridge that can be stepped, based on libfaketime.
//!
//! libfaketime does not intercept C11's `cnd_timedwait`, which librdkafka uses: after a step forward
//! its waits would last until the real clock has caught up. A shim therefore replaces them with
//! `pthread_cond_timedwait`, which libfaketime does intercept. One effect on Linux is not reproduced:
//! a wait that has already begun lasts longer if the clock is stepped back.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::real_kafka::wait_within;

/// Both functions use the same layouts in glibc; the results are `thrd_success`, `thrd_timedout`
/// and `thrd_error`.
const WAIT_SHIM_SOURCE: &str = r#"
#include <errno.h>
#include <pthread.h>
#include <threads.h>
int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until) {
    int result = pthread_cond_timedwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, until);
    return result == 0 ? thrd_success : result == ETIMEDOUT ? thrd_timedout : thrd_error;
}
"#;

/// Compiles [`WAIT_SHIM_SOURCE`] to a library, if the machine has a compiler.
fn wait_shim() -> Option<&'static Path> {
    static SHIM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let make = || {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clock");
        std::fs::create_dir_all(&dir).ok()?;
        let beside = |ending: &str| dir.join(format!("{}.{ending}", std::process::id()));
        let (source, made, library) = (beside("c"), beside("so"), dir.join("waits.so"));
        std::fs::write(&source, WAIT_SHIM_SOURCE).ok()?;
        let mut compiler = Command::new("cc");
        compiler
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .arg(&made)
            .arg(&source);
        let compiled = compiler
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = std::fs::remove_file(source);
        // Renamed into place, because other trials may be using it.
        compiled
            .ok()?
            .success()
            .then(|| std::fs::rename(made, &library).ok())??;
        Some(library)
    };
    SHIM.get_or_init(make).as_deref()
}

/// Names what a trial with a clock step needs and this machine lacks.
pub fn missing_requirements() -> &'static [&'static str] {
    match find_faketime_library() {
        Some(_) => &[],
        None => &["libfaketimeMT.so.1 (Debian's package libfaketime) and a C compiler"],
    }
}

/// Finds the installed libfaketime.
pub fn find_faketime_library() -> Option<PathBuf> {
    let libraries = ["/usr/lib", "/usr/local/lib", "/usr/lib64"].map(PathBuf::from);
    let mut folders = libraries.to_vec();
    for folder in &libraries {
        let inside = std::fs::read_dir(folder).into_iter().flatten().flatten();
        folders.extend(inside.map(|entry| entry.path()));
    }
    let mut all = folders
        .iter()
        .map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    let found = all.find(|library| library.is_file())?;
    wait_shim().map(|_| found)
}

/// Clock of one bridge, shared by all its processes.
pub struct BridgeClock {
    file: PathBuf,
    library: PathBuf,
}

impl BridgeClock {
    /// Creates a clock without offset, controlled by a file in `dir`.
    pub fn new(dir: &Path) -> Self {
        let clock = Self {
            file: dir.join("clock"),
            library: find_faketime_library().expect("available on this machine"),
        };
        clock.set_offset(0);
        clock
    }

    /// Sets the offset in seconds; it takes effect within a second.
    pub fn set_offset(&self, seconds: i64) {
        // Renamed into place, because it may be read at any moment.
        let beside = self.file.with_extension("new");
        std::fs::write(&beside, format!("{seconds:+}\n")).expect("a file");
        std::fs::rename(beside, &self.file).expect("a file");
    }

    /// Returns the environment that makes a process use this clock.
    pub fn environment(&self) -> Vec<(String, PathBuf)> {
        let mut preloaded = wait_shim()
            .expect("available on this machine")
            .as_os_str()
            .to_owned();
        preloaded.push(":");
        preloaded.push(&self.library);
        vec![
            ("LD_PRELOAD".to_owned(), preloaded.into()),
            ("FAKETIME_TIMESTAMP_FILE".to_owned(), self.file.clone()),
            ("FAKETIME_CACHE_DURATION".to_owned(), "1".into()),
            // As when an operator corrects the clock: monotonic time is not affected.
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".into()),
            ("FAKETIME_DONT_RESET".to_owned(), "1".into()),
        ]
    }
}

/// Removes the files that the library leaves behind when a process is killed.
impl Drop for BridgeClock {
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
    let dir = tempfile::tempdir().expect("a temporary directory");
    let clock = BridgeClock::new(dir.path());
    let off = || {
        let mut date = Command::new("date");
        date.arg("+%s").envs(clock.environment());
        let output = date.output().expect("date").stdout;
        let time = String::from_utf8_lossy(&output).trim().parse::<i64>();
        time.expect("seconds") - crate::harness::clock_ms() / 1_000
    };
    for seconds in [0, 3_000, -500] {
        clock.set_offset(seconds);
        wait_within(Duration::from_secs(3), "the clock has the offset", || {
            (off() - seconds).abs() <= 1
        });
    }
}
