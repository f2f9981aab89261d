//! `butlr-bridge topics`: what the bridge needs against what a real broker has.

use std::process::Output;
use std::time::{Duration, Instant};

use butlr_event::EventType;
use serde_json::Value;

use crate::harness::{
    Process, HttpRequest, agent, binary, event, fresh_ms, records_of, topics_of, trials,
};
use crate::real::{create_topics, delete_topics, describe, fresh_name, kafka, nobody_there, probe};

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

/// A configuration with topics of its own; they are deleted when dropped.
struct Configured {
    folder: tempfile::TempDir,
    prefix: String,
}

impl Configured {
    /// `more`: lines of the section `[topics]` and what follows it.
    fn new(bootstrap: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let prefix = fresh_name("topics");
        let text = format!(
            "[kafka]\nbootstrap_servers = \"{bootstrap}\"\n\n[topics]\ntemplate = \"{prefix}.{{type}}\"\nquarantine = \"{prefix}.quarantine\"\n{more}\n"
        );
        std::fs::write(folder.path().join("bridge.toml"), text).expect("a file");
        Self { folder, prefix }
    }

    fn file(&self) -> String {
        self.folder.path().join("bridge.toml").display().to_string()
    }

    fn topic(&self, event_type: EventType) -> String {
        format!("{}.{}", self.prefix, event_type.kebab_name())
    }

    /// `butlr-bridge topics`: exit code and output.
    #[track_caller]
    fn topics(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = binary();
        command.args(["topics", "--config", &self.file()]);
        let output: Output = command.args(arguments).output().expect("the binary");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().expect("no signal"), text + &error)
    }

    /// What Kafka's Java client says of all ten.
    fn described(&self) -> Vec<Value> {
        let address = kafka();
        let names = EventType::ALL.map(|t| self.topic(t));
        let mut arguments = vec!["describe", address.as_str()];
        arguments.extend(names.iter().map(String::as_str));
        probe(&arguments, "")
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        let address = std::env::var("BUTLR_BRIDGE_TEST_KAFKA").unwrap_or_default();
        if std::thread::panicking() || address.is_empty() {
            return;
        }
        let own = format!("{}.", self.prefix);
        let all = topics_of(&address);
        let own: Vec<_> = all.iter().filter(|t| t.starts_with(&own)).collect();
        if !own.is_empty() {
            delete_topics(&address, &own);
        }
    }
}

/// The lines about one topic: its own and those below it.
fn about<'o>(output: &'o str, topic: &str) -> Vec<&'o str> {
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

fn setting<'t>(topic: &'t Value, name: &str) -> &'t str {
    topic["configs"][name]["value"].as_str().unwrap_or("?")
}

fn missing_topics_are_listed_and_created_on_request() {
    let address = kafka();
    let more = "partitions = 4\nretention = \"8d\"\nmin_insync_replicas = 1\nreplication_factor = 1\n\
                [topics.types.TRAFFIC]\npartitions = 2\nretention = \"forever\"";
    let configured = Configured::new(&address, more);
    let (code, output) = configured.topics(&[]);
    assert_eq!(code, 1, "{output}");
    for event_type in EventType::ALL {
        let lines = about(&output, &configured.topic(event_type));
        assert!(lines.iter().any(|l| l.contains("missing")), "{output}");
    }
    let none = topics_of(&address);
    assert!(
        !none.iter().any(|t| t.starts_with(&configured.prefix)),
        "looking creates nothing"
    );

    let (code, output) = configured.topics(&["--apply"]);
    assert_eq!(code, 0, "{output}");
    for (event_type, topic) in EventType::ALL.into_iter().zip(configured.described()) {
        let (partitions, retention) = match event_type {
            EventType::Traffic => (2, "-1"),
            _ => (4, "691200000"),
        };
        assert_eq!(topic["exists"], true, "{topic}");
        assert_eq!(topic["partitions"], partitions, "{topic}");
        assert_eq!(topic["replicationFactor"], 1, "{topic}");
        assert_eq!(setting(&topic, "retention.ms"), retention);
        assert_eq!(setting(&topic, "cleanup.policy"), "delete");
        assert_eq!(setting(&topic, "message.timestamp.type"), "CreateTime");
        assert_eq!(setting(&topic, "min.insync.replicas"), "1");
    }
    for arguments in [&[][..], &["--apply"]] {
        let (code, output) = configured.topics(arguments);
        assert_eq!(code, 0, "{output}");
        assert!(
            !output.contains("missing") && !output.contains("created"),
            "{output}"
        );
    }
}

/// A topic other than the configuration says: partitions, settings, and what the command must say of it.
type Different = (EventType, i32, (&'static str, &'static str), &'static str);

const DIFFERENT: [Different; 4] = [
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

fn create(topic: &str, (_, partitions, setting, _): Different) {
    let settings = [("retention.ms", "604800000"), setting];
    create_topics(&kafka(), &[topic], partitions, &settings);
}

fn what_differs_is_named_and_left_alone() {
    let configured = Configured::new(&kafka(), "");
    for different in DIFFERENT {
        create(&configured.topic(different.0), different);
    }
    let before: Vec<_> = DIFFERENT
        .map(|d| describe(&kafka(), &configured.topic(d.0)))
        .into();
    for apply in [false, true] {
        let arguments: &[&str] = if apply { &["--apply"] } else { &[] };
        let (code, output) = configured.topics(arguments);
        assert_eq!(code, 1, "{output}");
        for (event_type, _, _, named) in DIFFERENT {
            let lines = about(&output, &configured.topic(event_type));
            assert!(lines.iter().any(|l| l.contains(named)), "{named}: {output}");
        }
    }
    let after: Vec<_> = DIFFERENT
        .map(|d| describe(&kafka(), &configured.topic(d.0)))
        .into();
    assert_eq!(before, after, "--apply changes nothing that is there");
    let created = configured.described();
    assert!(
        created.iter().all(|topic| topic["exists"] == true),
        "the missing ones are created"
    );
}

fn each_difference_alone_is_a_failure() {
    let configured = Configured::new(&kafka(), "");
    let (code, output) = configured.topics(&["--apply"]);
    assert_eq!(code, 0, "{output}");
    for different in DIFFERENT {
        let topic = configured.topic(different.0);
        delete_topics(&kafka(), &[&topic]);
        create(&topic, different);
        let (code, output) = configured.topics(&[]);
        assert_eq!(code, 1, "{topic}: {output}");
        delete_topics(&kafka(), &[&topic]);
        let (code, output) = configured.topics(&["--apply"]);
        assert_eq!(code, 0, "{output}");
    }
}

fn serve_creates_topics_on_request() {
    let configured = Configured::new(&kafka(), "partitions = 2");
    let mut command = binary();
    command.args(["serve", "--create-topics", "--config", &configured.file()]);
    command.args([
        "--set",
        "http.bind=127.0.0.1:0",
        "--set",
        "admin.bind=127.0.0.1:0",
    ]);
    let mut serve = Process::start(&mut command);
    let url = format!("http://{}/v1/events", serve.ingest());
    let began = Instant::now();
    let body = event(EventType::Traffic, "e", fresh_ms(), "s");
    loop {
        let request = HttpRequest::new("POST", &url).body(&body);
        let answer = request.send(&agent());
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "{}",
            serve.output()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let names = topics_of(&kafka());
    for event_type in EventType::ALL {
        assert!(names.contains(&configured.topic(event_type)));
    }
    serve.signal("TERM");
    assert!(serve.wait().success(), "{}", serve.output());
    let records = records_of(&kafka(), &configured.topic(EventType::Traffic));
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].text(), body);
}

fn serve_creates_none_unasked() {
    let configured = Configured::new(&kafka(), "");
    let mut command = binary();
    command.args(["serve", "--config", &configured.file()]);
    command.args([
        "--set",
        "http.bind=127.0.0.1:0",
        "--set",
        "admin.bind=127.0.0.1:0",
    ]);
    let serve = Process::start(&mut command);
    serve.wait_for("the log tells each missing topic", |output| {
        (output.matches("the topic is missing").count() == 11).then_some(())
    });
    let names = topics_of(&kafka());
    assert!(!names.iter().any(|t| t.starts_with(&configured.prefix)));
}

fn a_kafka_that_is_away_is_a_failure() {
    let address = nobody_there().to_string();
    let configured = Configured::new(&address, "");
    let began = Instant::now();
    let (code, output) = configured.topics(&[]);
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("cannot be reached"), "{output}");
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}
