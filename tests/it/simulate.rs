//! Simulator against the bridge: it proves that what it sent is stored, and it finds what is wrong.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;
use butlr_simulate::city::{CityBehaviour, CitySize, GroundTruth};
use butlr_simulate::journal::{JournalWriter, RunHeader};
use butlr_simulate::message::DeliveryKind;
use butlr_simulate::oracle::OracleVerdict;
use butlr_simulate::progress::ProgressOutput;
use butlr_simulate::sender::{
    self, FinishedRun, ReportedOutcome, RunLimits, SendPace, SendTarget, StopSignal,
};
use butlr_simulate::stream::{DeliveryStream, SenderBehaviour};
use butlr_simulate::verify::{self, Property, VerifierKafka};
use libtest_mimic::Trial;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;

use crate::harness::{
    BridgeSetup, KafkaBackend, TestBridge, TestRecord, binary, clock_ms, read_records, trial,
};
use crate::real_kafka::{create_topics, free_address, kafka_address, lock_heavy, unique_name};

/// Returns the tests of this module.
pub fn trials() -> Vec<Trial> {
    const KAFKA: &[&str] = &["BUTLR_BRIDGE_TEST_KAFKA"];
    macro_rules! all {
        ($($needs:expr => [$($name:ident),* $(,)?]),* $(,)?) => {
            vec![$($({
                let path = concat!(module_path!(), "::", stringify!($name));
                trial("simulate", path, $needs, $name)
            }),*),*]
        };
    }
    let mut all = all![
        &[] => [
            what_a_city_sends_is_all_there,
            traffic_adds_up_to_the_occupancies_and_to_the_truth,
            what_was_not_answered_2xx_is_dropped_and_counted,
            a_seed_and_a_start_make_the_same_events,
            mistakes_on_the_command_line_are_reported,
            nobody_there_is_a_failure,
        ],
        KAFKA => [
            thirty_seconds_as_fast_as_possible_are_proved,
            missing_changed_and_duplicate_records_are_found,
        ],
    ];
    all.extend(acceptance::trials());
    all
}

mod acceptance;

const HOUR_MS: i64 = 3_600_000;

/// Creates a small city, starting some hours ago, with all habits of the sender.
fn city_stream(seed: u64, behaviour: SenderBehaviour) -> DeliveryStream {
    let size = CitySize {
        rooms: 12,
        sensors: None,
    };
    let habits = CityBehaviour {
        skewed: 0.1,
        ..CityBehaviour::default()
    };
    DeliveryStream::from_seed(seed, size, clock_ms() - 12 * HOUR_MS, habits, behaviour)
}

/// Sends this many events as fast as they are accepted.
fn send(
    bridge: &TestBridge,
    stream: DeliveryStream,
    events: u64,
    journal: Option<JournalWriter>,
) -> FinishedRun {
    let target = SendTarget::parse(&format!("http://{}/v1/events", bridge.ingest)).expect("a URL");
    let options = sender::Options {
        connections: 16,
        pace: SendPace::Max,
        limits: RunLimits {
            events: Some(events),
            duration: None,
        },
        ..sender::Options::new(target)
    };
    let finished = sender::run(
        options,
        stream,
        journal,
        ProgressOutput::Silent,
        StopSignal::new(),
    );
    let finished = finished.expect("a run");
    assert!(finished.ledger.is_balanced());
    bridge.count_events(finished.ledger.tries());
    finished
}

fn what_a_city_sends_is_all_there() {
    let bridge = TestBridge::start(BridgeSetup::default());
    let kafka = VerifierKafka {
        bootstrap_servers: bridge.bootstrap_servers.clone(),
        properties: Vec::new(),
    };
    let topics = bridge.config.topics.template.clone();
    let starts = verify::fetch_start_offsets(&kafka, &topics).expect("ten topics");
    let run = RunHeader {
        topics,
        starts: Some(starts),
    };
    let journal = JournalWriter::create(None, run).expect("a directory");
    let behaviour = SenderBehaviour {
        redelivered: 0.03,
        late: 0.02,
        invalid: 0.02,
        ..SenderBehaviour::default()
    };
    let finished = send(&bridge, city_stream(7, behaviour), 4_000, Some(journal));
    let ledger = &finished.ledger;
    for kind in [
        DeliveryKind::First,
        DeliveryKind::Repeat,
        DeliveryKind::Late,
        DeliveryKind::Redelivery,
        DeliveryKind::Invalid,
    ] {
        assert!(ledger.kind_count(kind) > 0, "no {kind:?} among {ledger:?}");
    }
    let invalid = ledger.kind_count(DeliveryKind::Invalid);
    assert_eq!(ledger.status_count(200), ledger.deliveries() - invalid);
    // The sender does not know that a retry is pointless.
    assert_eq!(
        ledger.status_count(400) + ledger.status_count(422),
        3 * invalid
    );

    let journal = finished.journal.expect("was given");
    let journal = journal.finish(finished.truth, true).expect("written");
    let options = verify::Options::new(kafka);
    let report = verify::verify(&journal, &options, &mut |_, _| ()).expect("a proof");
    assert!(report.is_proved(), "{report}");
    for property in Property::ALL {
        let finding = report.finding(property);
        assert!(finding.unchecked_reason.is_none(), "{report}");
        assert!(
            finding.checked > 0,
            "{property:?} was not checked: {report}"
        );
    }
    let count_word = |word| ledger.reported_outcome_count(word);
    assert_eq!(report.records, count_word(ReportedOutcome::Published));
    assert_eq!(
        count_word(ReportedOutcome::Redelivery),
        ledger.kind_count(DeliveryKind::Redelivery)
    );
    assert!(count_word(ReportedOutcome::Repeat) > 0);
    assert_eq!(report.copies.all, 0, "{report}");
    let by_verdict = report.all_verdicts().by_verdict;
    for verdict in OracleVerdict::ALL {
        let expected = EventType::ALL.map(|t| ledger.expected_count(t, verdict));
        let expected: u64 = expected.into_iter().sum();
        assert_eq!(
            by_verdict[verdict as usize], expected,
            "{verdict:?}: {report}"
        );
    }
    bridge.finish();
}

/// Returns the space and the event of a record.
fn parse_record(record: &TestRecord) -> (String, Value) {
    let key = String::from_utf8(record.key.clone().expect("a key")).expect("UTF-8");
    (key, serde_json::from_slice(&record.value).expect("JSON"))
}

fn computed_at(event: &Value) -> i64 {
    let id = event["id"]
        .as_str()
        .and_then(|id| id.strip_prefix("event_"));
    Ksuid::parse(id.expect("an id")).expect("a KSUID").seconds()
}

/// Works like a consumer that knows nothing of the model.
fn traffic_adds_up_to_the_occupancies_and_to_the_truth() {
    let bridge = TestBridge::start(BridgeSetup::default());
    let behaviour = SenderBehaviour {
        redelivered: 0.05,
        late: 0.05,
        ..SenderBehaviour::default()
    };
    let finished = send(&bridge, city_stream(3, behaviour), 20_000, None);
    let GroundTruth { at_ms, spaces } = finished.truth;

    // Counts each event once, whatever was delivered twice.
    let mut seen = HashSet::new();
    let mut traffic: Vec<(String, i64, i64)> = Vec::new();
    for record in bridge.records(EventType::Traffic) {
        let (space, event) = parse_record(&record);
        if seen.insert(event["id"].as_str().expect("an id").to_owned()) {
            let net =
                event["data"]["in"].as_i64().unwrap() - event["data"]["out"].as_i64().unwrap();
            traffic.push((space, event["timestamp"].as_i64().unwrap(), net));
        }
    }
    let occupancy = |until_ms: i64| {
        let mut sums: HashMap<&str, i64> = HashMap::new();
        for (space, _, net) in traffic.iter().filter(|(_, at_ms, _)| *at_ms <= until_ms) {
            *sums.entry(space).or_default() += net;
        }
        sums
    };

    let at_the_end = occupancy(i64::MAX);
    assert!(
        spaces.iter().any(|(_, people)| *people > 0),
        "an empty city proves nothing"
    );
    for (space, people) in &spaces {
        let counted = at_the_end.get(space.as_str()).copied().unwrap_or(0);
        assert_eq!(counted, i64::from(*people), "{space}");
    }

    // Takes the value computed last for each space and minute, except the last five minutes, which
    // may still be revised.
    let mut minutes = 0;
    for event_type in [
        EventType::RoomOccupancy,
        EventType::FloorOccupancy,
        EventType::RoomOccupancy1Min,
    ] {
        let mut last: BTreeMap<(i64, String), (i64, i64)> = BTreeMap::new();
        for record in bridge.records(event_type) {
            let (space, event) = parse_record(&record);
            let minute = event["timestamp"].as_i64().expect("a time");
            let computed = (
                computed_at(&event),
                event["data"].as_i64().expect("a count"),
            );
            let known = last.entry((minute, space)).or_insert(computed);
            *known = (*known).max(computed);
        }
        for ((minute, space), (_, people)) in last {
            if minute + 6 * 60_000 > at_ms {
                continue;
            }
            let counted = occupancy(minute).get(space.as_str()).copied().unwrap_or(0);
            assert_eq!(counted, people, "{event_type} of {space} at {minute}");
            minutes += 1;
        }
    }
    assert!(minutes > 100, "only {minutes} minutes to compare");
    bridge.finish();
}

fn what_was_not_answered_2xx_is_dropped_and_counted() {
    let bridge = BridgeSetup::embedded()
        .without_topics()
        .without_waiting()
        .start();
    let topic_is_missing = || (bridge.topic_state(EventType::Traffic) == "missing").then_some(());
    crate::harness::eventually("the watch has checked the topics", topic_is_missing);
    let finished = send(&bridge, city_stream(1, SenderBehaviour::plain()), 20, None);
    let ledger = &finished.ledger;
    assert_eq!(
        ledger.send_outcome_count(sender::SendOutcome::Dropped),
        ledger.deliveries()
    );
    assert_eq!(ledger.status_count(503), 3 * ledger.deliveries());
    bridge.finish();
}

/// Runs `simulate` with these arguments to its end.
fn run_simulate(arguments: &[&str]) -> Output {
    let mut command = binary();
    command.arg("simulate").args(arguments);
    command.output().expect("a process")
}

fn to_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn a_seed_and_a_start_make_the_same_events() {
    let printed = |seed: &str| {
        let start = "2026-03-04T08:00:00Z";
        let arguments = [
            "--print", "--max", "--events", "30000", "--spaces", "12", "--start", start,
        ];
        let output = run_simulate(&[&arguments[..], &["--seed", seed, "--invalid", "1%"]].concat());
        assert!(output.status.success(), "{}", to_text(&output.stderr));
        to_text(&output.stdout)
    };
    let lines = printed("1");
    assert!(lines.lines().count() >= 30_000);
    assert!(
        lines == printed("1"),
        "another run of the same seed differs"
    );
    let other: HashSet<String> = printed("2").lines().map(str::to_owned).collect();
    assert!(lines.lines().all(|line| !other.contains(line)));
    let types: HashSet<String> = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|event| Some(event["type"].as_str()?.to_owned()))
        .collect();
    for event_type in EventType::ALL {
        assert!(types.contains(event_type.name()), "no {event_type}");
    }
}

fn mistakes_on_the_command_line_are_reported() {
    let url = "http://127.0.0.1:9/v1/events";
    let mistakes: [(&[&str], &str); 8] = [
        (&[], "--url"),
        (&["--url", "ftp://x"], "http"),
        (&["--url", url, "--max", "--speed", "2"], "--speed"),
        (&["--url", url, "--invalid", "120%"], "120%"),
        (&["--url", url, "--start", "2999-01-01T00:00:00Z"], "future"),
        (&["--url", url, "--types", "CO2"], "CO2"),
        (&["--url", url, "--connections", "0"], "connections"),
        (&["--url", url, "--duration", "soon"], "duration"),
    ];
    for (arguments, expected) in mistakes {
        let output = run_simulate(arguments);
        let stderr = to_text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
}

fn nobody_there_is_a_failure() {
    let url = format!("http://{}/v1/events", free_address());
    let output = run_simulate(&["--url", &url, "--max", "--duration", "5s", "--spaces", "3"]);
    let stderr = to_text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.to_lowercase().contains("refused"), "{stderr}");
}

fn thirty_seconds_as_fast_as_possible_are_proved() {
    let _alone = lock_heavy();
    let bridge = BridgeSetup::with_kafka(KafkaBackend::Real).start();
    let url = format!("http://{}/v1/events/{{type}}", bridge.ingest);
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = dir.path().join("ledger.json");
    let output = run_simulate(&[
        "--url",
        &url,
        "--max",
        "--seed",
        "4",
        "--duration",
        "30s",
        "--invalid",
        "0.1%",
        "--verify",
        &bridge.bootstrap_servers,
        "--topics",
        &bridge.config.topics.template,
        "--output",
        ledger.to_str().expect("UTF-8"),
    ]);
    let (stdout, stderr) = (to_text(&output.stdout), to_text(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(
        stdout
            .lines()
            .filter(|line| line.starts_with("ok "))
            .count(),
        Property::ALL.len(),
        "{stdout}"
    );
    let ledger = read_json(&ledger);
    let accepted = ledger["ends"]["accepted"].as_u64().expect("a count");
    assert!(accepted > 10_000, "{accepted} events in 30 s; {ledger}");
    let outcomes = ["published", "duplicate"].map(|outcome| {
        let label = format!("outcome=\"{outcome}\"");
        bridge.metric_sum("butlr_bridge_events_total", &label) as u64
    });
    assert_eq!(outcomes.iter().sum::<u64>(), accepted);
    assert!(outcomes[1] > 0, "{outcomes:?}");
    bridge.count_events(count_attempts(&ledger));
    bridge.finish();
}

fn read_json(ledger: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(ledger).expect("written")).expect("JSON")
}

/// Counts the requests in a ledger.
fn count_attempts(ledger: &Value) -> u64 {
    let tries = ledger["tries"].as_array().expect("first, second, …");
    tries.iter().map(|n| n.as_u64().expect("a count")).sum()
}

/// Copies ten topics; `alter` changes the records of one type.
fn copy_topics(bridge: &TestBridge, template: &str, alter: impl Fn(&mut Vec<TestRecord>)) {
    let names: Vec<String> = EventType::ALL
        .iter()
        .map(|t| template.replace("{type}", t.kebab_name()))
        .collect();
    let partitions = bridge.config.topics.for_type(EventType::Traffic).partitions;
    create_topics(&kafka_address(), &names, partitions, &[]);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka_address())
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .expect("a producer");
    let mut copied = 0;
    for event_type in EventType::ALL {
        let mut records = bridge.records(event_type);
        if event_type == EventType::RoomOccupancy {
            alter(&mut records);
        }
        copied += records.len();
        for record in &records {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &record.headers {
                headers = headers.insert(Header {
                    key,
                    value: Some(value),
                });
            }
            let topic = template.replace("{type}", event_type.kebab_name());
            let copied = BaseRecord::to(&topic)
                .partition(record.partition)
                .key(record.key.as_ref().expect("a key"))
                .payload(&record.value)
                .timestamp(record.timestamp.expect("a timestamp"))
                .headers(headers);
            producer
                .send(copied)
                .map_err(|(error, _)| error)
                .expect("queued");
        }
        producer.flush(Duration::from_secs(20)).expect("stored");
    }
    let stored: usize = names
        .iter()
        .map(|name| read_records(&kafka_address(), name).len())
        .sum();
    assert_eq!(stored, copied);
}

/// Runs `verify` on these topics and returns exit code and output.
fn run_verify(journal: &Path, template: &str) -> (i32, String) {
    let output = binary()
        .arg("verify")
        .args([
            "--kafka",
            &kafka_address(),
            "--topics",
            template,
            "--journal",
        ])
        .arg(journal)
        .output()
        .expect("a process");
    let code = output.status.code().expect("an exit code");
    (code, to_text(&output.stdout) + &to_text(&output.stderr))
}

fn missing_changed_and_duplicate_records_are_found() {
    let _alone = lock_heavy();
    let bridge = BridgeSetup::with_kafka(KafkaBackend::Real).start();
    let dir = tempfile::tempdir().expect("a directory");
    let journal = dir.path().join("journal");
    let ledger = dir.path().join("ledger.json");
    let template = bridge.config.topics.template.clone();
    let url = format!("http://{}/v1/events", bridge.ingest);
    let output = run_simulate(&[
        "--url",
        &url,
        "--max",
        "--events",
        "3000",
        "--spaces",
        "30",
        "--sensors",
        "3",
        "--redelivered",
        "1%",
        "--verify",
        &bridge.bootstrap_servers,
        "--topics",
        &template,
        "--journal",
        journal.to_str().expect("UTF-8"),
        "--output",
        ledger.to_str().expect("UTF-8"),
        "--seed",
        "5",
    ]);
    assert!(
        output.status.success(),
        "{}{}",
        to_text(&output.stdout),
        to_text(&output.stderr)
    );
    bridge.count_events(count_attempts(&read_json(&ledger)));

    let copies = |what: &str| format!("{}.{{type}}", unique_name(what));
    let id = |record: &TestRecord| record.header("ce_id").expect("an id").to_owned();
    // A record that is stored once.
    let records = bridge.records(EventType::RoomOccupancy);
    let mut times: HashMap<String, usize> = HashMap::new();
    records
        .iter()
        .for_each(|r| *times.entry(id(r)).or_default() += 1);
    let at = records
        .iter()
        .position(|r| times[&id(r)] == 1)
        .expect("one there once");
    let victim = id(&records[at]);

    let faithful = copies("faithful");
    copy_topics(&bridge, &faithful, |_| ());
    let (code, report) = run_verify(&journal, &faithful);
    assert_eq!(code, 0, "{report}");

    type AlterRecords<'a> = &'a dyn Fn(&mut Vec<TestRecord>);
    let cases: [(&str, &str, AlterRecords<'_>); 3] = [
        (
            "missing",
            "every event answered 2xx is in Kafka",
            &|records| drop(records.remove(at)),
        ),
        ("changed", "values are byte for byte as sent", &|records| {
            let value = records[at]
                .text()
                .replace(r#""version":"v1.0.0""#, r#""version":"v1.0.1""#);
            assert_ne!(value.as_bytes(), records[at].value);
            records[at].value = value.into_bytes();
        }),
        (
            "twice",
            "each event has as many records as it was published",
            &|records| {
                records.push(records[at].clone());
            },
        ),
    ];
    for (what, claim, alter) in cases {
        let template = copies(what);
        copy_topics(&bridge, &template, alter);
        let (code, report) = run_verify(&journal, &template);
        assert_eq!(code, 1, "{what}: {report}");
        let failed: Vec<&str> = report.lines().filter(|l| l.contains("FAILED")).collect();
        assert_eq!(failed.len(), 1, "{what}: {report}");
        assert!(failed[0].contains(claim), "{what}: {report}");
        assert_eq!(report.matches(&victim).count(), 1, "{what}: {report}");
    }
    bridge.finish();
}
