//! Bridge that is killed, stopped and restarted with the same spool and addresses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ledgers::{MetricSamples, ReportedLedger};
use super::refusals::LoggedRefusal;
use crate::harness::{BridgeProcess, HttpRequest, agent, binary};
use crate::real_kafka::{free_address, wait_within};

/// `shutdown.timeout`.
pub const SHUTDOWN: Duration = Duration::from_secs(8);
/// Additional time for a shutdown on a busy machine.
const SLACK: Duration = Duration::from_secs(8);

/// Command and settings used for each start.
pub struct BridgePlan {
    /// `KEY=VALUE`
    pub settings: Vec<String>,
    /// Command put in front, for example to enter a mount namespace.
    pub command_prefix: Vec<String>,
    pub environment: Vec<(String, PathBuf)>,
    /// Directory for the output of each process.
    pub dir: PathBuf,
}

/// Bridge whose process may be down.
pub struct RestartableBridge {
    plan: BridgePlan,
    pub ingest: SocketAddr,
    pub admin: SocketAddr,
    process: Option<BridgeProcess>,
    /// Processes that have ended.
    pub ended_processes: Vec<EndedProcess>,
}

/// Facts about a process that has ended.
#[derive(Clone, Debug)]
pub struct EndedProcess {
    pub end: ProcessEnd,
    /// From the last log line, if there is one.
    pub ledger: Option<ReportedLedger>,
    /// Requests refused with 503, from the log.
    pub refusals: Vec<LoggedRefusal>,
    /// In bytes.
    pub peak_memory: u64,
}

/// End of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEnd {
    /// SIGKILL, as intended.
    Killed,
    /// SIGTERM, as intended, with the time it took.
    Graceful(Duration),
    /// Any other end.
    Unexpected(String),
}

impl RestartableBridge {
    pub fn start(plan: BridgePlan) -> Self {
        let mut bridge = Self {
            plan,
            ingest: free_address(),
            admin: free_address(),
            process: None,
            ended_processes: Vec::new(),
        };
        bridge.restart();
        bridge
    }

    /// Starts a process and waits until it listens.
    pub fn restart(&mut self) {
        let mut serve = binary();
        serve.arg("serve");
        let addresses = [
            format!("http.bind={}", self.ingest),
            format!("admin.bind={}", self.admin),
        ];
        for setting in addresses.iter().chain(&self.plan.settings) {
            serve.args(["--set", setting]);
        }
        let mut serve = prefix_command(&self.plan.command_prefix, serve);
        serve.envs(self.plan.environment.iter().map(|(k, v)| (k, v)));
        let process = self.process.insert(BridgeProcess::start(&mut serve));
        assert_eq!(process.ingest(), self.ingest);
    }

    /// Kills the process with SIGKILL.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        let memory = peak_memory(&mut process);
        if memory.is_some() {
            process.signal("KILL");
        }
        let status = process.wait();
        let ended = match (memory, signal(status)) {
            (Some(_), Some(9)) => ProcessEnd::Killed,
            _ => ProcessEnd::Unexpected(format!("ended by itself: {status}")),
        };
        self.record_end(process, ended, memory);
    }

    /// Stops the process with SIGTERM and waits for its end.
    pub fn terminate(&mut self) {
        let mut process = self.process.take().expect("it runs");
        let memory = peak_memory(&mut process);
        let began = Instant::now();
        if memory.is_some() {
            process.signal("TERM");
        }
        let limit = SHUTDOWN + SLACK;
        while process.is_running() && began.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(10));
        }
        let took = began.elapsed();
        let ended = match memory {
            None => ProcessEnd::Unexpected(format!("ended by itself: {}", process.wait())),
            Some(_) if process.is_running() => {
                process.signal("KILL");
                process.wait();
                ProcessEnd::Unexpected(format!("not within {limit:?} of SIGTERM"))
            }
            Some(_) => match process.wait() {
                status if status.success() => ProcessEnd::Graceful(took),
                status => ProcessEnd::Unexpected(format!("SIGTERM ended it with {status}")),
            },
        };
        self.record_end(process, ended, memory);
    }

    fn record_end(&mut self, process: BridgeProcess, ended: ProcessEnd, memory: Option<u64>) {
        let output = process.output();
        let number = self.ended_processes.len() + 1;
        let _ = std::fs::write(self.plan.dir.join(format!("bridge-{number}.log")), &output);
        self.ended_processes.push(EndedProcess {
            end: ended,
            ledger: ReportedLedger::from_log(&output),
            refusals: LoggedRefusal::from_log(&output),
            peak_memory: memory.unwrap_or(0),
        });
    }

    /// Returns `/status` if there is a response.
    pub fn status(&self) -> Option<Value> {
        let text = self.get("/status")?;
        serde_json::from_str(&text).ok()
    }

    /// Returns `/metrics` if there is a response.
    pub fn metrics(&self) -> Option<MetricSamples> {
        self.get("/metrics").map(|text| MetricSamples::parse(&text))
    }

    fn get(&self, path: &str) -> Option<String> {
        let url = format!("http://{}{path}", self.admin);
        let response = HttpRequest::new("GET", &url).try_send(&agent()).ok()?;
        (response.status == 200).then(|| response.text())
    }

    /// Waits until nothing is in flight and the spool is empty.
    ///
    /// # Errors
    /// Rest after `limit`.
    pub fn wait_until_idle(&self, limit: Duration) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let status = self.status();
            let busy = match &status {
                Some(status) => super::ledgers::describe_in_flight(status),
                None => Some("no response from /status".to_owned()),
            };
            match busy {
                None => return Ok(()),
                Some(busy) if began.elapsed() >= limit => {
                    return Err(format!("not idle within {limit:?}: {busy}"));
                }
                Some(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Waits until the bridge is ready for events.
    pub fn wait_until_ready(&self) {
        wait_within(Duration::from_secs(20), "/readyz returns 200", || {
            self.get("/readyz").is_some()
        });
    }
}

impl Drop for RestartableBridge {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            // Keeps the output of a trial that failed midway.
            let output = process.output();
            let number = self.ended_processes.len() + 1;
            let _ = std::fs::write(self.plan.dir.join(format!("bridge-{number}.log")), output);
        }
    }
}

/// Returns `None` if the process is gone.
fn peak_memory(process: &mut BridgeProcess) -> Option<u64> {
    process.is_running().then(|| process.peak_memory())
}

fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

/// Puts a prefix in front of a command.
fn prefix_command(enter: &[String], command: Command) -> Command {
    let [program, arguments @ ..] = enter else {
        return command;
    };
    let mut all = Command::new(program);
    all.args(arguments)
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        all.current_dir(dir);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => all.env(name, value),
            None => all.env_remove(name),
        };
    }
    all
}
