//! The real binary as a child process, for tests of the command line, signals and output.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{PATIENCE, eventually};

/// Creates a command for the binary, without the `BUTLR_BRIDGE_` variables of this process.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_butlr-bridge"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BUTLR_BRIDGE_") {
            command.env_remove(name);
        }
    }
    command.env("NO_PROXY", "*").env("no_proxy", "*");
    command
}

/// Running command with its output; killed on drop.
pub struct BridgeProcess {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl BridgeProcess {
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process");
        let output = Arc::new(Mutex::new(String::new()));
        let out = child.stdout.take().expect("piped");
        let err = child.stderr.take().expect("piped");
        collect_output(BufReader::new(out), Arc::clone(&output));
        collect_output(BufReader::new(err), Arc::clone(&output));
        Self { child, output }
    }

    /// Starts `serve` on two free ports with these settings (`KEY=VALUE`) and waits until it
    /// listens.
    #[track_caller]
    pub fn serve(settings: &[&str]) -> Self {
        let mut command = binary();
        command.arg("serve");
        for setting in ["http.bind=127.0.0.1:0", "admin.bind=127.0.0.1:0"]
            .iter()
            .chain(settings)
        {
            command.args(["--set", setting]);
        }
        let process = Self::start(&mut command);
        process.ingest();
        process
    }

    /// Returns everything written to standard output and standard error so far.
    pub fn output(&self) -> String {
        self.output.lock().expect("lock not poisoned").clone()
    }

    /// Polls the output until `find` returns a value.
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            let output = self.output();
            if let Some(found) = find(&output) {
                return found;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "timed out waiting until {what}; output: {output}"
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Returns the ingest address from the log of `serve`.
    #[track_caller]
    pub fn ingest(&self) -> SocketAddr {
        self.address("ingest")
    }

    /// Returns the admin address from the log of `serve`.
    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        self.address("admin")
    }

    #[track_caller]
    fn address(&self, field: &str) -> SocketAddr {
        self.wait_for("the log contains the addresses", |output| {
            let line = output.lines().find(|l| l.contains("is listening"))?;
            if let Ok(line) = serde_json::from_str::<serde_json::Value>(line) {
                return line[field].as_str()?.parse().ok();
            }
            let line = without_colours(line);
            let value = line.split_once(&format!("{field}="))?.1;
            value.split_whitespace().next()?.parse().ok()
        })
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.expect("kill").success());
    }

    /// Stops the process with SIGSTOP and waits until none of its threads runs.
    #[track_caller]
    pub fn pause(&self) {
        self.signal("STOP");
        let tasks = format!("/proc/{}/task", self.child.id());
        eventually("all threads are stopped", || {
            let tasks = std::fs::read_dir(&tasks).expect("a running process on Linux");
            let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
                let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat")));
                // The state follows the command name, which is in parentheses.
                stat.is_ok_and(|stat| {
                    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
                    state.is_some_and(|state| state.starts_with('T'))
                })
            };
            tasks.into_iter().all(is_stopped).then_some(())
        });
    }

    /// Continues the process after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Waits until the process has ended.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let output = Arc::clone(&self.output);
        let ended = eventually("the process has ended", || {
            self.child.try_wait().expect("a child")
        });
        // Both reader threads end when the pipes close.
        eventually("its output has ended", || {
            (Arc::strong_count(&output) == 2).then_some(())
        });
        ended
    }

    /// Returns the peak memory of the process in bytes.
    #[track_caller]
    pub fn peak_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("a running process on Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: Option<u64> = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse().ok());
        1024 * kib.unwrap_or_else(|| panic!("no VmHWM in {status}"))
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }
}

impl Drop for BridgeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("output of the process:\n{}", self.output());
        }
    }
}

fn collect_output(from: impl BufRead + Send + 'static, into: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in from.split(b'\n').map_while(Result::ok) {
            let mut into = into.lock().expect("lock not poisoned");
            into.push_str(&String::from_utf8_lossy(&line));
            into.push('\n');
        }
    });
}

/// Returns the line with the final counters from a JSON log.
pub fn find_final_counters(output: &str) -> Option<serde_json::Value> {
    let lines = output.lines();
    let mut lines = lines.filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    lines.find(|line| line["message"] == "ended")
}

/// Removes colour codes. Text logs have them even in a pipe.
pub fn without_colours(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain += before;
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    plain + rest
}
