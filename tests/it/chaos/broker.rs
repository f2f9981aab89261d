//! A Kafka of the suite's own behind a proxy, with everything that can be done to it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

use crate::harness::FaultyProxy;
use crate::real_kafka::wait_within;

/// Kafka may take so long to do what it is asked while it is well.
const PATIENCE: Duration = Duration::from_secs(30);

/// One broker for many schedules; gone with everything it stored when dropped.
pub struct ChaosKafka {
    dir: tempfile::TempDir,
    port: u16,
    pub proxy: FaultyProxy,
}

impl ChaosKafka {
    /// Takes some 5 s.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("butlr-bridge-chaos-kafka-")
            .tempdir()
            .expect("a temporary folder");
        let broker = dir.path().join("broker");
        start_broker(&broker);
        let port = std::fs::read_to_string(broker.join("port")).expect("broker.sh notes its port");
        let port: u16 = port.trim().parse().expect("a port");
        let local = |port: u16| ([127, 0, 0, 1], port).into();
        // As `broker.sh` says: the listener at N+4 is advertised as N+5.
        let proxy =
            FaultyProxy::start(local(port + 5), local(port + 4)).expect("broker.sh's free port");
        Self { dir, port, proxy }
    }

    fn broker(&self) -> PathBuf {
        self.dir.path().join("broker")
    }

    /// Where no network fault is felt.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Behind the proxy.
    pub fn proxied_address(&self) -> String {
        format!("127.0.0.1:{}", self.port + 5)
    }

    /// What it logged since its last start, and before it.
    pub fn logs(&self) -> [PathBuf; 2] {
        ["log", "log.before"].map(|name| self.broker().join(name))
    }

    /// Ends it at once.
    pub fn kill(&self) {
        run_script(&self.broker(), "kill", &[]);
    }

    /// Ends it as its operator would.
    pub fn stop(&self) {
        run_script(&self.broker(), "stop", &[]);
    }

    /// Starts it with the ports and the data it had.
    pub fn restart(&self) {
        start_broker(&self.broker());
    }

    /// Lets it stand still: connections stay open, nothing answers.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it run on.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.broker().join("pid")).expect("it runs");
        let sent = Command::new("kill").args([signal, pid.trim()]).status();
        assert!(sent.expect("kill starts").success(), "kill {signal} {pid}");
    }

    /// How many replicas of a topic must have a record.
    pub fn set_min_insync_replicas(&self, topic: &str, replicas: &str) {
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", self.address())
            .create()
            .expect("an admin client");
        let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(5)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        wait_within(PATIENCE, "min.insync.replicas is changed", || {
            let topic = ResourceSpecifier::Topic(topic);
            let change = AlterConfig::new(topic).set("min.insync.replicas", replicas);
            let changed = runtime.block_on(admin.alter_configs(&[change], &options));
            changed.is_ok_and(|results| results.iter().all(Result::is_ok))
        });
    }
}

impl Drop for ChaosKafka {
    fn drop(&mut self) {
        // A paused one is resumed by the script.
        let ended = Command::new(broker_script())
            .args(["stop", "--remove", "--dir"])
            .arg(self.broker())
            .stdin(Stdio::null())
            .output();
        if !ended.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("the suite's Kafka could not be stopped: {ended:?}");
        }
    }
}

fn broker_script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/broker.sh")
}

/// Quick to start, as it is started often.
#[track_caller]
fn start_broker(broker: &Path) {
    let quick = [
        ["--jvm", "-XX:TieredStopAtLevel=1"],
        ["--jvm", "-XX:+UseSerialGC"],
        // After a crash it waits for the end of its own session of before.
        ["--set", "broker.session.timeout.ms=2000"],
        ["--set", "broker.heartbeat.interval.ms=500"],
    ];
    run_script(broker, "start", quick.as_flattened());
}

#[track_caller]
fn run_script(broker: &Path, command: &str, options: &[&str]) {
    let output = Command::new(broker_script())
        .arg(command)
        .arg("--dir")
        .arg(broker)
        .args(options)
        .stdin(Stdio::null())
        .output()
        .expect("broker.sh starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "broker.sh {command}: {stderr}");
}
