//! Helpers for tests on a real Kafka: separate brokers, Kafka's Java client, topic administration.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use butlr_event::EventType;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;

use crate::harness::{eventually, list_topics};

/// Returns the address of the real Kafka. Only tests that declare the need may call it.
pub fn kafka_address() -> String {
    require_env("BUTLR_BRIDGE_TEST_KAFKA")
}

/// Returns a variable that the test declared as a need.
pub fn require_env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// Builds a topic name that no other test uses.
pub fn unique_name(of: &str) -> String {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    let number = NAMES.fetch_add(1, Ordering::Relaxed);
    format!("it.{}.{of}.{number}", std::process::id())
}

/// Serialises tests that load the machine or run another broker: two cores can take only one of
/// them.
pub fn lock_heavy() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls until `is_so` returns `true`; fails the test with `what` after `limit`.
#[track_caller]
pub fn wait_within(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Returns a local address where nothing listens.
pub fn free_address() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

fn test_script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/kafka")
        .join(name)
}

/// Runs Kafka's Java client (`tests/kafka/KafkaProbe.java`) and returns one JSON value per output
/// line.
#[track_caller]
pub fn run_probe(arguments: &[&str], input: &str) -> Vec<Value> {
    let mut probe = Command::new(test_script("probe.sh"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("probe.sh starts");
    let mut stdin = probe.stdin.take().expect("piped");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = probe.wait_with_output().expect("probe.sh ends");
    let _ = writer.join();
    let text = expect_success("probe.sh", arguments, output);
    text.lines()
        .map(|line| serde_json::from_str(line).expect("the probe answers in JSON"))
        .collect()
}

/// Describes a topic with Kafka's Java client.
#[track_caller]
pub fn describe_topic(bootstrap: &str, topic: &str) -> Value {
    run_probe(&["describe", bootstrap, topic], "").remove(0)
}

/// Decodes a base64 field of the probe.
pub fn decode_bytes(field: &Value) -> Vec<u8> {
    STANDARD
        .decode(field.as_str().expect("base64"))
        .expect("base64")
}

/// Returns the partitions that the Java producer chooses for keys, out of `partitions`.
pub fn java_partitions(partitions: usize, keys: &[Vec<u8>]) -> Vec<i64> {
    let mut input = String::new();
    for key in keys {
        input.push_str(&STANDARD.encode(key));
        input.push('\n');
    }
    let response = run_probe(&["partitions", &partitions.to_string()], &input);
    response
        .iter()
        .map(|p| p.as_i64().expect("a number"))
        .collect()
}

#[track_caller]
fn expect_success(what: &str, arguments: &[&str], output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{what} {arguments:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Broker of one test, which can be stopped and paused; removed with its data on drop.
pub struct RealBroker {
    dir: tempfile::TempDir,
    options: &'static [&'static str],
    port: u16,
}

impl RealBroker {
    /// Starts a broker on free ports, which takes about 5 s.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a broker with these options of `broker.sh start`, which also apply to each restart.
    pub fn start_with(options: &'static [&'static str]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("butlr-bridge-kafka-")
            .tempdir();
        let mut broker = Self {
            dir: dir.expect("a temporary directory"),
            options,
            port: 0,
        };
        broker.restart();
        let port = std::fs::read_to_string(broker.path().join("port"));
        let port = port.expect("broker.sh writes its port");
        broker.port = port.trim().parse().expect("a port");
        broker
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("broker")
    }

    fn run_script(&self, command: &str, options: &[&str]) {
        let output = Command::new(test_script("broker.sh"))
            .args([command, "--dir"])
            .arg(self.path())
            .args(options)
            .stdin(Stdio::null())
            .output();
        expect_success("broker.sh", &[command], output.expect("broker.sh starts"));
    }

    /// Returns the first of the broker's ports; `broker.sh` describes the others.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the log since the last start and the log before it.
    pub fn logs(&self) -> [PathBuf; 2] {
        ["log", "log.before"].map(|name| self.path().join(name))
    }

    /// Returns `host:port`, which a restart does not change.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts the broker again with the same ports and data.
    pub fn restart(&self) {
        self.run_script("start", self.options);
    }

    /// Stops the broker with SIGTERM.
    pub fn stop(&self) {
        self.run_script("stop", &[]);
    }

    /// Kills the broker with SIGKILL.
    pub fn kill(&self) {
        self.run_script("kill", &[]);
    }

    /// Stops the process: connections stay open but get no response.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Continues the process.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.path().join("pid")).expect("it runs");
        let sent = Command::new("kill").args([signal, pid.trim()]).status();
        assert!(sent.expect("kill starts").success(), "kill {signal} {pid}");
    }
}

impl Drop for RealBroker {
    fn drop(&mut self) {
        // The script resumes a paused broker first.
        let ended = Command::new(test_script("broker.sh"))
            .args(["stop", "--remove", "--dir"])
            .arg(self.path())
            .stdin(Stdio::null())
            .output();
        if !ended.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("a test's Kafka could not be stopped: {ended:?}");
        }
    }
}

fn client_config(bootstrap: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", bootstrap);
    client.set("allow.auto.create.topics", "false");
    client
}

fn with_admin<T>(
    bootstrap: &str,
    ask: impl AsyncFnOnce(AdminClient<DefaultClientContext>, AdminOptions) -> T,
) -> T {
    let admin = client_config(bootstrap).create().expect("an admin client");
    let options = AdminOptions::new()
        .operation_timeout(Some(Duration::from_secs(20)))
        .request_timeout(Some(Duration::from_secs(20)));
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(ask(admin, options))
}

/// Returns the topics of all ten types.
pub fn ten_topics(template: &str) -> Vec<String> {
    let types = EventType::ALL.iter();
    types
        .map(|t| template.replace("{type}", t.kebab_name()))
        .collect()
}

/// Creates topics with these Kafka settings and waits until they exist.
#[track_caller]
pub fn create_topics(
    bootstrap: &str,
    topics: &[impl AsRef<str>],
    partitions: i32,
    settings: &[(&str, &str)],
) {
    let results = with_admin(bootstrap, async |admin, options| {
        let new = topics.iter().map(|topic| {
            let new = NewTopic::new(topic.as_ref(), partitions, TopicReplication::Fixed(-1));
            settings.iter().fold(new, |new, (k, v)| new.set(k, v))
        });
        let new: Vec<_> = new.collect();
        admin.create_topics(&new, &options).await
    });
    for result in results.expect("Kafka responds") {
        result.expect("the topic is created");
    }
    wait_within(Duration::from_secs(20), "the topics exist", || {
        let names = list_topics(bootstrap);
        topics
            .iter()
            .all(|t| names.iter().any(|n| n.as_str() == t.as_ref()))
    });
}

/// Deletes topics and waits until they are gone.
#[track_caller]
pub fn delete_topics(bootstrap: &str, topics: &[impl AsRef<str>]) {
    let listed: Vec<_> = topics.iter().map(AsRef::as_ref).collect();
    let results = with_admin(bootstrap, async |admin, options| {
        admin.delete_topics(&listed, &options).await
    });
    for result in results.expect("Kafka responds") {
        result.expect("the topic is deleted");
    }
    wait_within(Duration::from_secs(20), "the topics are gone", || {
        let names = list_topics(bootstrap);
        !names.iter().any(|n| listed.contains(&n.as_str()))
    });
}

/// Returns the low and the high watermark, summed over all partitions.
pub fn watermarks(bootstrap: &str, topic: &str) -> (i64, i64) {
    let consumer: BaseConsumer = client_config(bootstrap).create().expect("a consumer");
    let limit = Duration::from_secs(10);
    let metadata = consumer
        .fetch_metadata(Some(topic), limit)
        .expect("Kafka responds");
    let partitions = metadata.topics()[0].partitions().iter();
    partitions
        .map(|p| {
            // A new partition may not have a leader yet.
            eventually("the partition has watermarks", || {
                consumer.fetch_watermarks(topic, p.id(), limit).ok()
            })
        })
        .fold((0, 0), |(low, high), (l, h)| (low + l, high + h))
}
