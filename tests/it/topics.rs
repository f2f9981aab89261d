//! `butlr-bridge topics`: required topics compared with a real broker.

use std::process::Output;
use std::time::{Duration, Instant};

use butlr_event::EventType;
use serde_json::Value;

use crate::harness::{
    BridgeProcess, HttpRequest, agent, binary, list_topics, minimal_event, read_records, trials,
    unique_ms,
};
use crate::real_kafka::{
    create_topics, delete_topics, describe_topic, free_address, kafka_address, run_probe,
    unique_name,
};

trials! {
    "kafka" needs ["BUTLR_BRIDGE_TEST_KAFKA", "BUTLR_BRIDGE_TEST_JAVA_CP"]: [
        missing_topics_are_listed_and_created_on_request,
        what_differs_is_named_and_left_alone,
        each_difference_alone_is_a_failure,
    ],
    "kafka" needs ["BUTLR_BRIDGE_TEST_KAFKA"]: [
        serve_creates_topics_on_request,
        serve_creates_none_unasked,
    ],
    "kafka": [
        a_kafka_that_is_away_is_a_failure,
    ],
}

/// Configuration with topics of its own, which are deleted on drop.
struct TopicsFixture {
    folder: tempfile::TempDir,
    prefix: String,
}

impl TopicsFixture {
    /// Creates it; `more` holds further lines of the section `[topics]` and later sections.
    fn new(bootstrap: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let prefix = unique_name("topics");
        let text = format!(
            "[kafka]\nbootstrap_servers = \"{bootstrap}\"\n\n[topics]\ntemplate = \"{prefix}.{{type}}\"\nquarantine = \"{prefix}.quarantine\"\n{more}\n"
        );
        std::fs::write(folder.path().join("bridge.toml"), text).expect("a file");
        Self { folder, prefix }
    }

    fn config_path(&self) -> String {
        self.folder.path().join("bridge.toml").display().to_string()
    }

    fn topic(&self, event_type: EventType) -> String {
        format!("{}.{}", self.prefix, event_type.kebab_name())
    }

    /// Runs `butlr-bridge topics` and returns exit code and output.
    #[track_caller]
    fn run_topics(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = binary();
        command.args(["topics", "--config", &self.config_path()]);
        let output: Output = command.args(arguments).output().expect("the binary");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().expect("no signal"), text + &error)
    }

    /// Describes all ten topics with Kafka's Java client.
    fn describe_topics(&self) -> Vec<Value> {
        let address = kafka_address();
        let names = EventType::ALL.map(|t| self.topic(t));
        let mut arguments = vec!["describe", address.as_str()];
        arguments.extend(names.iter().map(String::as_str));
        run_probe(&arguments, "")
    }
}

impl Drop for TopicsFixture {
    fn drop(&mut self) {
        let address = std::env::var("BUTLR_BRIDGE_TEST_KAFKA").unwrap_or_default();
        if std::thread::panicking() || address.is_empty() {
            return;
        }
        let own = format!("{}.", self.prefix);
        let all = list_topics(&address);
        let own: Vec<_> = all.iter().filter(|t| t.starts_with(&own)).collect();
        if !own.is_empty() {
            delete_topics(&address, &own);
        }
    }
}

/// Returns the lines about one topic.
fn lines_about<'o>(output: &'o str, topic: &str) -> Vec<&'o str> {
    let mut lines = output
        .lines()
        .skip_while(|line| !starts_with_word(line, topic));
    let first = lines.next().into_iter();
    first
        .chain(lines.take_while(|line| line.starts_with(' ')))
        .collect()
}

fn starts_with_word(line: &str, word: &str) -> bool {
    line.split_whitespace().next() == Some(word)
}

fn read_setting<'t>(topic: &'t Value, name: &str) -> &'t str {
    topic["configs"][name]["value"].as_str().unwrap_or("?")
}

fn missing_topics_are_listed_and_created_on_request() {
    let address = kafka_address();
    let more = "partitions = 4\nretention = \"8d\"\nmin_insync_replicas = 1\nreplication_factor = 1\n\
                [topics.types.TRAFFIC]\npartitions = 2\nretention = \"forever\"";
    let configured = TopicsFixture::new(&address, more);
    let (code, output) = configured.run_topics(&[]);
    assert_eq!(code, 1, "{output}");
    for event_type in EventType::ALL {
        let lines = lines_about(&output, &configured.topic(event_type));
        assert!(lines.iter().any(|l| l.contains("missing")), "{output}");
    }
    let none = list_topics(&address);
    assert!(
        !none.iter().any(|t| t.starts_with(&configured.prefix)),
        "inspecting creates nothing"
    );

    let (code, output) = configured.run_topics(&["--apply"]);
    assert_eq!(code, 0, "{output}");
    for (event_type, topic) in EventType::ALL.into_iter().zip(configured.describe_topics()) {
        let (partitions, retention) = match event_type {
            EventType::Traffic => (2, "-1"),
            _ => (4, "691200000"),
        };
        assert_eq!(topic["exists"], true, "{topic}");
        assert_eq!(topic["partitions"], partitions, "{topic}");
        assert_eq!(topic["replicationFactor"], 1, "{topic}");
        assert_eq!(read_setting(&topic, "retention.ms"), retention);
        assert_eq!(read_setting(&topic, "cleanup.policy"), "delete");
        assert_eq!(read_setting(&topic, "message.timestamp.type"), "CreateTime");
        assert_eq!(read_setting(&topic, "min.insync.replicas"), "1");
    }
    for arguments in [&[][..], &["--apply"]] {
        let (code, output) = configured.run_topics(arguments);
        assert_eq!(code, 0, "{output}");
        assert!(
            !output.contains("missing") && !output.contains("created"),
            "{output}"
        );
    }
}

/// Difference of a topic from the configuration (type, partitions, setting) and the expected
/// message.
type TopicDifference = (EventType, i32, (&'static str, &'static str), &'static str);

const DIFFERENCES: [TopicDifference; 4] = [
    (
        EventType::Traffic,
        3,
        ("retention.ms", "604800000"),
        "3 partitions",
    ),
    (
        EventType::Detections,
        6,
        ("cleanup.policy", "compact"),
        "compact",
    ),
    (
        EventType::PirMotion,
        6,
        ("message.timestamp.type", "LogAppendTime"),
        "LogAppendTime",
    ),
    (
        EventType::RoomOccupancy,
        6,
        ("retention.ms", "3600000"),
        "retention.ms=3600000",
    ),
];

fn create_differing(topic: &str, (_, partitions, setting, _): TopicDifference) {
    let settings = [("retention.ms", "604800000"), setting];
    create_topics(&kafka_address(), &[topic], partitions, &settings);
}

fn what_differs_is_named_and_left_alone() {
    let configured = TopicsFixture::new(&kafka_address(), "");
    for different in DIFFERENCES {
        create_differing(&configured.topic(different.0), different);
    }
    let before: Vec<_> = DIFFERENCES
        .map(|d| describe_topic(&kafka_address(), &configured.topic(d.0)))
        .into();
    for apply in [false, true] {
        let arguments: &[&str] = if apply { &["--apply"] } else { &[] };
        let (code, output) = configured.run_topics(arguments);
        assert_eq!(code, 1, "{output}");
        for (event_type, _, _, named) in DIFFERENCES {
            let lines = lines_about(&output, &configured.topic(event_type));
            assert!(lines.iter().any(|l| l.contains(named)), "{named}: {output}");
        }
    }
    let after: Vec<_> = DIFFERENCES
        .map(|d| describe_topic(&kafka_address(), &configured.topic(d.0)))
        .into();
    assert_eq!(before, after, "--apply changes no existing topic");
    let created = configured.describe_topics();
    assert!(
        created.iter().all(|topic| topic["exists"] == true),
        "the missing topics are created"
    );
}

fn each_difference_alone_is_a_failure() {
    let configured = TopicsFixture::new(&kafka_address(), "");
    let (code, output) = configured.run_topics(&["--apply"]);
    assert_eq!(code, 0, "{output}");
    for different in DIFFERENCES {
        let topic = configured.topic(different.0);
        delete_topics(&kafka_address(), &[&topic]);
        create_differing(&topic, different);
        let (code, output) = configured.run_topics(&[]);
        assert_eq!(code, 1, "{topic}: {output}");
        delete_topics(&kafka_address(), &[&topic]);
        let (code, output) = configured.run_topics(&["--apply"]);
        assert_eq!(code, 0, "{output}");
    }
}

fn serve_creates_topics_on_request() {
    let configured = TopicsFixture::new(&kafka_address(), "partitions = 2");
    let mut command = binary();
    command.args([
        "serve",
        "--create-topics",
        "--config",
        &configured.config_path(),
    ]);
    command.args([
        "--set",
        "http.bind=127.0.0.1:0",
        "--set",
        "admin.bind=127.0.0.1:0",
    ]);
    let mut serve = BridgeProcess::start(&mut command);
    let url = format!("http://{}/v1/events", serve.ingest());
    let began = Instant::now();
    let body = minimal_event(EventType::Traffic, "e", unique_ms(), "s");
    loop {
        let request = HttpRequest::new("POST", &url).body(&body);
        let response = request.send(&agent());
        if response.status == 200 {
            break;
        }
        assert_eq!(response.status, 503, "{}", response.text());
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "{}",
            serve.output()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let names = list_topics(&kafka_address());
    for event_type in EventType::ALL {
        assert!(names.contains(&configured.topic(event_type)));
    }
    serve.signal("TERM");
    assert!(serve.wait().success(), "{}", serve.output());
    let records = read_records(&kafka_address(), &configured.topic(EventType::Traffic));
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].text(), body);
}

fn serve_creates_none_unasked() {
    let configured = TopicsFixture::new(&kafka_address(), "");
    let mut command = binary();
    command.args(["serve", "--config", &configured.config_path()]);
    command.args([
        "--set",
        "http.bind=127.0.0.1:0",
        "--set",
        "admin.bind=127.0.0.1:0",
    ]);
    let serve = BridgeProcess::start(&mut command);
    serve.wait_for("the log names each missing topic", |output| {
        (output.matches("the topic is missing").count() == 11).then_some(())
    });
    let names = list_topics(&kafka_address());
    assert!(!names.iter().any(|t| t.starts_with(&configured.prefix)));
}

fn a_kafka_that_is_away_is_a_failure() {
    let address = free_address().to_string();
    let configured = TopicsFixture::new(&address, "");
    let began = Instant::now();
    let (code, output) = configured.run_topics(&[]);
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("cannot be reached"), "{output}");
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}
