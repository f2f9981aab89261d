//! What the tests on a real Kafka share: brokers of their own, Kafka's Java client, topics made by hand.

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

/// The real Kafka; only trials that need one ask.
pub fn kafka_address() -> String {
    require_env("BUTLR_BRIDGE_TEST_KAFKA")
}

/// A variable that a trial's needs include.
pub fn require_env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// A name of a topic that nobody else uses.
pub fn unique_name(of: &str) -> String {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    let number = NAMES.fetch_add(1, Ordering::Relaxed);
    format!("it.{}.{of}.{number}", std::process::id())
}

/// Tests that load the machine, or run a second broker, go one at a time: two cores have room for one of them.
pub fn lock_heavy() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks until the answer is yes; panics with `what` when it is not within `limit`.
#[track_caller]
pub fn wait_within(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// An address of this machine where nothing listens.
pub fn free_address() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

fn test_script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/kafka")
        .join(name)
}

/// Runs Kafka's own Java client (`tests/kafka/KafkaProbe.java`); one JSON value a line of its answer.
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

/// What Kafka's Java client says of a topic.
#[track_caller]
pub fn describe_topic(bootstrap: &str, topic: &str) -> Value {
    run_probe(&["describe", bootstrap, topic], "").remove(0)
}

/// Bytes from a field of the probe.
pub fn decode_bytes(field: &Value) -> Vec<u8> {
    STANDARD
        .decode(field.as_str().expect("base64"))
        .expect("base64")
}

/// The partitions, of `partitions`, that the Java producer takes for keys.
pub fn java_partitions(partitions: usize, keys: &[Vec<u8>]) -> Vec<i64> {
    let mut input = String::new();
    for key in keys {
        input.push_str(&STANDARD.encode(key));
        input.push('\n');
    }
    let answer = run_probe(&["partitions", &partitions.to_string()], &input);
    answer
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

/// A Kafka of the test's own, to be stopped and paused; gone with everything it stored when dropped.
pub struct RealBroker {
    dir: tempfile::TempDir,
    port: String,
}

impl RealBroker {
    /// Starts one on free ports; takes some 5 s.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("butlr-bridge-kafka-")
            .tempdir();
        let mut broker = Self {
            dir: dir.expect("a temporary folder"),
            port: String::new(),
        };
        broker.restart();
        let port = std::fs::read_to_string(broker.path().join("port"));
        broker.port = port.expect("broker.sh notes its port").trim().to_owned();
        broker
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("broker")
    }

    fn run_script(&self, arguments: &[&str]) {
        let path = self.path();
        let output = Command::new(test_script("broker.sh"))
            .args(arguments)
            .arg("--dir")
            .arg(path)
            .stdin(Stdio::null())
            .output();
        expect_success("broker.sh", arguments, output.expect("broker.sh starts"));
    }

    /// `host:port`, the same after a stop and a start.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it with the ports and the data it had.
    pub fn restart(&self) {
        self.run_script(&["start"]);
    }

    /// Ends it, as its operator would.
    pub fn stop(&self) {
        self.run_script(&["stop"]);
    }

    /// Lets its process stand still: connections stay open, nothing answers.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it run on.
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
        // A paused one is resumed by the script.
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

/// The topics of all ten types.
pub fn ten_topics(template: &str) -> Vec<String> {
    let types = EventType::ALL.iter();
    types
        .map(|t| template.replace("{type}", t.kebab_name()))
        .collect()
}

/// Creates topics, with settings as Kafka names them, and waits until they are there.
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
    for result in results.expect("Kafka is reached") {
        result.expect("the topic is created");
    }
    wait_within(Duration::from_secs(20), "the topics are there", || {
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
    for result in results.expect("Kafka is reached") {
        result.expect("the topic is deleted");
    }
    wait_within(Duration::from_secs(20), "the topics are gone", || {
        let names = list_topics(bootstrap);
        !names.iter().any(|n| listed.contains(&n.as_str()))
    });
}

/// The first offset that is still there and the one after the last, summed over all partitions.
pub fn watermarks(bootstrap: &str, topic: &str) -> (i64, i64) {
    let consumer: BaseConsumer = client_config(bootstrap).create().expect("a consumer");
    let limit = Duration::from_secs(10);
    let metadata = consumer
        .fetch_metadata(Some(topic), limit)
        .expect("Kafka is reached");
    let partitions = metadata.topics()[0].partitions().iter();
    partitions
        .map(|p| {
            // A partition just made may have no leader yet.
            eventually("the marks of a partition", || {
                consumer.fetch_watermarks(topic, p.id(), limit).ok()
            })
        })
        .fold((0, 0), |(low, high), (l, h)| (low + l, high + h))
}
