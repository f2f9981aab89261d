//! Small disk of one bridge, which can be filled up.
//!
//! The disk is a tmpfs in a separate mount namespace that a helper process holds. The mount
//! disappears with that process, however the tests end.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// More than a spool needs in one schedule, and too little to matter for the machine's memory.
const DISK_BYTES: usize = 96 << 20;

/// Mounted until dropped.
pub struct SmallDisk {
    holder: Child,
    entry: &'static NamespaceCommand,
    mount_point: PathBuf,
}

/// Commands that create a mount namespace and enter it.
struct NamespaceCommand {
    unshare: &'static [&'static str],
    nsenter: &'static [&'static str],
}

/// For root, and for a user who may be root in a user namespace.
static NAMESPACE_COMMANDS: [NamespaceCommand; 2] = [
    NamespaceCommand {
        unshare: &["--mount"],
        nsenter: &["--mount"],
    },
    NamespaceCommand {
        unshare: &["--user", "--map-root-user", "--mount"],
        nsenter: &["--user", "--preserve-credentials", "--mount"],
    },
];

/// Returns the commands that work on this machine.
fn find_namespace_command() -> Option<&'static NamespaceCommand> {
    static FOUND: OnceLock<Option<&'static NamespaceCommand>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let works = |entry: &&'static NamespaceCommand| {
            let dir = tempfile::tempdir().expect("a temporary directory");
            SmallDisk::try_mount(entry, dir.path()).is_some()
        };
        NAMESPACE_COMMANDS.iter().find(works)
    })
}

impl SmallDisk {
    /// Returns `true` if this machine allows such a mount.
    pub fn is_possible() -> bool {
        find_namespace_command().is_some()
    }

    /// Mounts a disk at `at`, which must exist.
    pub fn mount(at: &Path) -> Self {
        Self::try_mount(
            find_namespace_command().expect("available on this machine"),
            at,
        )
        .expect("a working namespace command")
    }

    fn try_mount(entry: &'static NamespaceCommand, at: &Path) -> Option<Self> {
        // The helper ends when its standard input closes, so no later than this process.
        let script = format!(
            r#"mount -t tmpfs -o size={DISK_BYTES},mode=0700 tmpfs "$1" && echo mounted && read -r _"#
        );
        let mut holder = Command::new("unshare")
            .args(entry.unshare)
            .args(["sh", "-c", &script, "sh"])
            .arg(at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut output_line = String::new();
        let mut output = BufReader::new(holder.stdout.take().expect("piped"));
        let _ = output.read_line(&mut output_line);
        let disk = Self {
            holder,
            entry,
            mount_point: at.to_owned(),
        };
        (output_line.trim() == "mounted").then_some(disk)
    }

    /// Returns the command prefix that makes a process see the disk.
    pub fn command_prefix(&self) -> Vec<String> {
        let target = format!("--target={}", self.holder.id());
        let words = ["nsenter", &target];
        let words = words.iter().chain(self.entry.nsenter);
        words.map(|word| (*word).to_owned()).collect()
    }

    /// Returns its directory as seen from outside the namespace.
    pub fn path(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(
            self.mount_point
                .strip_prefix("/")
                .expect("an absolute path"),
        )
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Fills the disk to the last byte.
    pub fn fill_up(&self) {
        let mut ballast = std::fs::File::create(self.ballast()).expect("a file");
        let piece = vec![1; 1 << 20];
        for size in [1 << 20, 4 << 10] {
            while ballast.write_all(&piece[..size]).is_ok() {}
        }
    }

    /// Frees the space taken by [`fill_up`](Self::fill_up).
    pub fn free(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
