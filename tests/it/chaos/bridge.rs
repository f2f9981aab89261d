//! One bridge, in as many processes as it takes: killed, ended and started again on its spool and its addresses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ledgers::{MetricSamples, ReportedLedger};
use super::refusals::LoggedRefusal;
use crate::harness::{BridgeProcess, HttpRequest, agent, binary};
use crate::real_kafka::{free_address, wait_within};

/// `shutdown.timeout`: so long a bridge has for its end.
pub const SHUTDOWN: Duration = Duration::from_secs(8);
/// What a busy machine may add to that.
const SLACK: Duration = Duration::from_secs(8);

/// How to start it, each time.
pub struct BridgePlan {
    /// `KEY=VALUE`
    pub settings: Vec<String>,
    /// Put before the command.
    pub command_prefix: Vec<String>,
    pub environment: Vec<(String, PathBuf)>,
    /// Where its processes' output is kept.
    pub dir: PathBuf,
}

/// A bridge whose process may be away.
pub struct RestartableBridge {
    plan: BridgePlan,
    pub ingest: SocketAddr,
    pub admin: SocketAddr,
    process: Option<BridgeProcess>,
    /// The processes that are over.
    pub ended_processes: Vec<EndedProcess>,
}

/// What is known of a process that is over.
#[derive(Clone, Debug)]
pub struct EndedProcess {
    pub end: ProcessEnd,
    /// From its last line, where it had one.
    pub ledger: Option<ReportedLedger>,
    /// What it refused with 503, as far as it said so.
    pub refusals: Vec<LoggedRefusal>,
    /// Most memory, bytes.
    pub peak_memory: u64,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEnd {
    /// By SIGKILL, as it should.
    Killed,
    /// By SIGTERM, as it should; and how long that took.
    Graceful(Duration),
    /// Otherwise.
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

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        let memory = peak_memory(&mut process);
        if memory.is_some() {
            process.signal("KILL");
        }
        let status = process.wait();
        let ended = match (memory, signal(status)) {
            (Some(_), Some(9)) => ProcessEnd::Killed,
            _ => ProcessEnd::Unexpected(format!("by itself: {status}")),
        };
        self.record_end(process, ended, memory);
    }

    /// SIGTERM; waits for its end.
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
            None => ProcessEnd::Unexpected(format!("by itself: {}", process.wait())),
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

    /// `/status`, where it answers.
    pub fn status(&self) -> Option<Value> {
        let text = self.get("/status")?;
        serde_json::from_str(&text).ok()
    }

    /// `/metrics`, where it answers.
    pub fn metrics(&self) -> Option<MetricSamples> {
        self.get("/metrics").map(|text| MetricSamples::parse(&text))
    }

    fn get(&self, path: &str) -> Option<String> {
        let url = format!("http://{}{path}", self.admin);
        let answer = HttpRequest::new("GET", &url).try_send(&agent()).ok()?;
        (answer.status == 200).then(|| answer.text())
    }

    /// Waits until nothing is under way in it, nor waits on its disk.
    ///
    /// # Errors
    /// What still is after `limit`.
    pub fn wait_until_idle(&self, limit: Duration) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let status = self.status();
            let busy = match &status {
                Some(status) => super::ledgers::describe_in_flight(status),
                None => Some("no answer from /status".to_owned()),
            };
            match busy {
                None => return Ok(()),
                Some(busy) if began.elapsed() >= limit => {
                    return Err(format!("not at rest within {limit:?}: {busy}"));
                }
                Some(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Waits until it is ready to take events.
    pub fn wait_until_ready(&self) {
        wait_within(Duration::from_secs(20), "/readyz says 200", || {
            self.get("/readyz").is_some()
        });
    }
}

impl Drop for RestartableBridge {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            // A trial that failed midway: what it said is kept all the same.
            let output = process.output();
            let number = self.ended_processes.len() + 1;
            let _ = std::fs::write(self.plan.dir.join(format!("bridge-{number}.log")), output);
        }
    }
}

/// `None` where the process is gone.
fn peak_memory(process: &mut BridgeProcess) -> Option<u64> {
    process.is_running().then(|| process.peak_memory())
}

fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

/// The same command behind others.
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
