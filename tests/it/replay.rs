//! `butlr-bridge replay`: every quarantined event that is valid now is sent once, whatever happens
//! to a run.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant, UNIX_EPOCH};

use butlr_event::EventType;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use xxhash_rust::xxh3::xxh3_128;

use crate::harness::{
    BridgeProcess, BridgeSetup, PATIENCE, TestBridge, TestRecord, TopicTail, binary, clock_ms,
    eventually, minimal_event, read_records, trials, unique_ms,
};

trials! {
    "replay": [
        what_is_valid_now_is_sent_once,
        an_array_that_was_too_long_is_sent_event_by_event,
        an_event_quarantined_at_each_attempt_is_sent_once,
        filters_choose_and_a_dry_run_changes_nothing,
        what_failed_is_sent_by_the_next_run,
        a_run_that_was_killed_is_finished_by_the_next,
        two_runs_at_the_same_time_send_each_record_once,
    ],
    "embedded": [
        a_record_of_days_ago_is_kept_as_long_as_a_new_one,
        without_its_topic_it_says_so,
    ],
}

const ROOM: EventType = EventType::RoomOccupancy;
/// Shortens the lease of a batch, so that the next run does not wait long for a run that is gone.
const SHORT_LEASE: [&str; 2] = ["--set", "http.answer_within=1s"];
/// Makes the producer linger: at least 300 ms pass between an intent and its events, and between the
/// events and the done marker.
const LINGER: (&str, &str) = ("BUTLR_BRIDGE__KAFKA__PROPERTIES", r#"{"linger.ms"="300"}"#);
const DAY: i64 = 86_400_000;

/// Starts a bridge with a quarantine; its Kafka is used by the command.
fn start_bridge(setup: BridgeSetup) -> TestBridge {
    setup
        .set("quarantine.keep", true)
        .set("http.answer_within", "10s")
        .start()
}

/// Builds the command for the bridge's topics. It remembers nothing that was published, as if days
/// had passed.
fn replay_command(bridge: &TestBridge, arguments: &[&str]) -> Command {
    let mut command = binary();
    command.args(["replay", "--from", "quarantine"]);
    let settings = [
        format!("kafka.bootstrap_servers={}", bridge.bootstrap_servers),
        format!("topics.template={}", bridge.config.topics.template),
        format!("topics.quarantine={}", bridge.config.topics.quarantine.name),
        "dedup.id_window=1s".to_owned(),
        "dedup.reading_window=1s".to_owned(),
        "dedup.rebuild_within=0s".to_owned(),
    ];
    for setting in &settings {
        command.args(["--set", setting]);
    }
    command.args(arguments);
    command
}

/// Runs the command and returns its exit code and output.
fn run_replay(bridge: &TestBridge, arguments: &[&str]) -> (i32, String) {
    let output = replay_command(bridge, arguments)
        .output()
        .expect("the binary");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().expect("no signal");
    (code, text(&output.stdout) + &text(&output.stderr))
}

/// Returns a number from the summary.
#[track_caller]
fn read_figure(output: &str, name: &str) -> u64 {
    let lines = output.lines().map(str::trim);
    let line = lines.filter_map(|line| line.strip_prefix(name));
    let mut counts = line.filter_map(|rest| rest.trim().parse().ok());
    let count = counts.next();
    count.unwrap_or_else(|| panic!("no {name} in {output}"))
}

#[track_caller]
fn read_figures<const N: usize>(output: &str, names: [&str; N]) -> [u64; N] {
    names.map(|name| read_figure(output, name))
}

/// Writes quarantine records as an earlier release would have done.
struct QuarantineWriter {
    producer: BaseProducer,
    topic: String,
}

impl QuarantineWriter {
    fn for_bridge(bridge: &TestBridge) -> Self {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &bridge.bootstrap_servers);
        client.set("partitioner", "murmur2_random");
        Self {
            producer: client.create().expect("a producer"),
            topic: bridge.config.topics.quarantine.name.clone(),
        }
    }

    fn add(&self, value: &str, codes: &str, received_ms: i64) {
        let time = UNIX_EPOCH + Duration::from_millis(received_ms.unsigned_abs());
        let received = humantime::format_rfc3339_millis(time).to_string();
        let mut headers = OwnedHeaders::new();
        for (key, value) in [
            ("butlr-error-codes", codes),
            ("butlr-error-detail", "as it was"),
            ("butlr-received-at", &received),
            ("butlr-path", "/v1/events"),
            ("butlr-credential", "vendor"),
        ] {
            headers = headers.insert(Header {
                key,
                value: Some(value),
            });
        }
        let key = format!("{:032x}", xxh3_128(value.as_bytes()));
        let record = BaseRecord::to(&self.topic)
            .key(&key)
            .payload(value)
            .timestamp(received_ms)
            .headers(headers);
        assert!(self.producer.send(record).is_ok());
        self.producer.poll(Duration::ZERO);
    }

    /// Waits until all records are stored.
    fn flush(self) {
        self.producer
            .flush(Duration::from_secs(20))
            .expect("stored");
    }
}

fn valid_event(id: &str) -> String {
    minimal_event(ROOM, id, unique_ms(), &format!("room_{id}"))
}

/// Returns `ce_replayedfrom` of each record.
#[track_caller]
fn replayed_from(records: &[TestRecord]) -> Vec<&str> {
    let place = |r: &'_ TestRecord| r.header("ce_replayedfrom").is_some();
    assert!(records.iter().all(place));
    records
        .iter()
        .filter_map(|r| r.header("ce_replayedfrom"))
        .collect()
}

fn quarantined_records(bridge: &TestBridge) -> Vec<TestRecord> {
    read_records(
        &bridge.bootstrap_servers,
        &bridge.config.topics.quarantine.name,
    )
}

/// Returns the quarantined records without markers.
fn stored_records(bridge: &TestBridge) -> Vec<TestRecord> {
    let mut all = quarantined_records(bridge);
    all.retain(|r| r.header("butlr-replayed").is_none());
    all
}

fn what_is_valid_now_is_sent_once() {
    let bridge = start_bridge(BridgeSetup::default());
    let (first, second) = (valid_event("first"), valid_event("second"));
    let received = clock_ms() - 5_000;
    let writer = QuarantineWriter::for_bridge(&bridge);
    writer.add(&first, "unknown_type", received);
    writer.add(&format!("\n {second} "), "unknown_type", received + 1);
    writer.add("{", "not_json", received + 2);
    writer.add(
        &valid_event("third").replace("4}", "-4}"),
        "unknown_type",
        received + 3,
    );
    // The same bytes, quarantined twice.
    writer.add(&first, "unknown_type", received + 4);
    writer.flush();
    let before = stored_records(&bridge);

    let (code, output) = run_replay(&bridge, &[]);
    assert_eq!(code, 0, "{output}");
    let names = [
        "records read",
        "records matched",
        "events valid now",
        "published",
        "duplicates",
    ];
    assert_eq!(read_figures(&output, names), [5, 5, 3, 2, 1], "{output}");
    assert_eq!(
        read_figures(&output, ["still not_json", "still out_of_range"]),
        [1, 1]
    );
    let records = bridge.records(ROOM);
    assert_eq!(records.len(), 2);
    let topic = &bridge.config.topics.quarantine.name;
    for (record, value) in [("first", &first), ("second", &second)].map(|(id, value)| {
        let same = records.iter().find(|r| r.header("ce_id") == Some(id));
        (same.expect("a stored record"), value)
    }) {
        assert_eq!(record.text(), value);
        assert_eq!(record.header("ce_type"), Some("io.butlr.room-occupancy.v1"));
        let received_at = record.header("ce_receivedat").expect("a time");
        let time = humantime::parse_rfc3339(received_at).expect("RFC 3339");
        let ms = time
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_millis() as i64;
        assert!((received..received + 5).contains(&ms), "{received_at}");
        let place = record.header("ce_replayedfrom").expect("a place");
        let same = before.iter().any(|r| {
            r.text().trim() == value && place == format!("{topic}/{}/{}", r.partition, r.offset)
        });
        assert!(same, "{place}");
    }
    // Two more runs, as if days later.
    std::thread::sleep(Duration::from_millis(1_100));
    for _ in 0..2 {
        let (code, output) = run_replay(&bridge, &[]);
        assert_eq!(code, 0, "{output}");
        assert_eq!(
            read_figures(&output, ["published", "replayed before"]),
            [0, 3],
            "{output}"
        );
    }
    assert_eq!(bridge.records(ROOM).len(), 2);
    assert_eq!(
        stored_records(&bridge),
        before,
        "nothing was quarantined again"
    );
    // Consumers recognise markers by key and header.
    let markers: Vec<_> = quarantined_records(&bridge)
        .into_iter()
        .filter(|r| r.key.as_deref() == Some(b"butlr-replay"))
        .collect();
    let kinds: Vec<_> = markers.iter().map(|r| r.header("butlr-replayed")).collect();
    assert_eq!(kinds, [Some("intent"), Some("done")]);
}

fn an_array_that_was_too_long_is_sent_event_by_event() {
    let bridge = start_bridge(BridgeSetup::default().set("http.max_events", 2));
    let mut items: Vec<_> = (0..5).map(|i| valid_event(&format!("item{i}"))).collect();
    items.push("17".to_owned());
    let response = bridge.send(format!("[{}]", items.join(" , ")));
    response.expect_problem(422, "too_many_events");
    let (_, output) = run_replay(&bridge, &["--set", "http.max_events=2"]);
    assert_eq!(
        read_figures(&output, ["still too_many_events", "published"]),
        [1, 0]
    );
    for published in [5, 0] {
        let (code, output) = run_replay(&bridge, &[]);
        assert_eq!(code, 0, "{output}");
        assert_eq!(
            read_figures(&output, ["still wrong_type", "published"]),
            [1, published]
        );
        std::thread::sleep(Duration::from_millis(1_100));
    }
    let records = bridge.records(ROOM);
    let values: BTreeSet<_> = records.iter().map(TestRecord::text).collect();
    let sent: BTreeSet<_> = items[..5].iter().map(String::as_str).collect();
    assert_eq!((records.len(), values), (5, sent));
    assert_eq!(
        replayed_from(&records)
            .into_iter()
            .collect::<BTreeSet<_>>()
            .len(),
        1
    );
}

fn an_event_quarantined_at_each_attempt_is_sent_once() {
    let bridge = start_bridge(BridgeSetup::default());
    let (alone, in_an_array) = (valid_event("alone"), valid_event("part"));
    let writer = QuarantineWriter::for_bridge(&bridge);
    for turn in 0..3 {
        writer.add(&alone, "unknown_type", clock_ms() + turn);
        let array = format!("[{in_an_array},{}]", in_an_array.replace("4}", "-4}"));
        writer.add(&array, "unknown_type", clock_ms() + turn);
    }
    writer.flush();
    // Nothing else can recognise the copies.
    let no_dedup = ["--set", "dedup.redelivery=off", "--set", "dedup.repeat=off"];
    for published in [2, 0] {
        let (code, output) = run_replay(&bridge, &no_dedup);
        assert_eq!(code, 0, "{output}");
        assert_eq!(read_figure(&output, "published"), published, "{output}");
    }
    assert_once(&bridge, &[alone, in_an_array].into());
}

fn filters_choose_and_a_dry_run_changes_nothing() {
    let bridge = start_bridge(BridgeSetup::default());
    let now = clock_ms();
    let writer = QuarantineWriter::for_bridge(&bridge);
    writer.add(&valid_event("old"), "unknown_type", now - 3 * 3_600_000);
    writer.add(&valid_event("a"), "unknown_type,missing", now - 60_000);
    writer.add(&valid_event("b"), "wrong_type", now - 60_000);
    writer.flush();
    let before = quarantined_records(&bridge);
    let (code, output) = run_replay(&bridge, &["--dry-run"]);
    assert_eq!(code, 0, "{output}");
    assert_eq!(
        read_figures(&output, ["records read", "events valid now"]),
        [3, 3],
        "{output}"
    );
    assert!(output.contains("nothing was sent"), "{output}");
    assert!(bridge.records(ROOM).is_empty());
    assert_eq!(quarantined_records(&bridge), before);

    let ids = || {
        let records = bridge.records(ROOM);
        let id = |r: &TestRecord| r.header("ce_id").unwrap_or_default().to_owned();
        records.iter().map(id).collect::<BTreeSet<_>>()
    };
    let owned = |all: &[&str]| {
        all.iter()
            .map(|id| (*id).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let recent = ["--since", "1h-ago"];
    let (_, output) = run_replay(&bridge, &[&recent[..], &["--code", "missing"]].concat());
    assert_eq!(
        read_figures(&output, ["records read", "records matched", "published"]),
        [3, 1, 1]
    );
    assert_eq!(ids(), owned(&["a"]));
    let (_, output) = run_replay(&bridge, &recent);
    assert_eq!(
        read_figures(&output, ["records matched", "replayed before", "published"]),
        [2, 1, 1]
    );
    assert_eq!(ids(), owned(&["a", "b"]));
    let (_, output) = run_replay(&bridge, &["--code", "empty", "--code", "unknown_type"]);
    assert_eq!(
        read_figures(&output, ["records matched", "published"]),
        [2, 1]
    );
    assert_eq!(ids(), owned(&["a", "b", "old"]));
    assert_eq!(bridge.records(ROOM).len(), 3);
    let (code, output) = run_replay(&bridge, &["--since", "yesterday"]);
    assert_eq!(code, 2, "{output}");
    let (code, output) = run_replay(&bridge, &["--code", "unknown_typ"]);
    assert_eq!(code, 2, "{output}");
    assert!(
        output.contains("similar value exists: 'unknown_type'"),
        "{output}"
    );
}

fn what_failed_is_sent_by_the_next_run() {
    let bridge = start_bridge(BridgeSetup::default());
    let writer = QuarantineWriter::for_bridge(&bridge);
    let traffic = minimal_event(EventType::Traffic, "traffic", unique_ms(), "room_1");
    writer.add(&traffic, "unknown_type", clock_ms());
    writer.add(&valid_event("room"), "unknown_type", clock_ms());
    writer.flush();
    // This topic does not exist.
    let nowhere = format!(
        "topics.types.TRAFFIC.name={}",
        crate::real_kafka::unique_name("nowhere")
    );
    for (published, before) in [(1, 0), (0, 1)] {
        let (code, output) = run_replay(&bridge, &["--set", &nowhere]);
        assert_eq!(code, 1, "{output}");
        let names = ["published", "replayed before", "failed"];
        assert_eq!(
            read_figures(&output, names),
            [published, before, 1],
            "{output}"
        );
    }
    for (published, before) in [(1, 1), (0, 2)] {
        let (code, output) = run_replay(&bridge, &[]);
        assert_eq!(code, 0, "{output}");
        let names = ["published", "replayed before", "failed"];
        assert_eq!(
            read_figures(&output, names),
            [published, before, 0],
            "{output}"
        );
    }
    assert_eq!(bridge.records(ROOM).len(), 1);
    assert_eq!(bridge.records(EventType::Traffic).len(), 1);
}

/// Checks that each of these events is stored once.
#[track_caller]
fn assert_once(bridge: &TestBridge, values: &BTreeSet<String>) {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for record in bridge.records(ROOM) {
        *counts.entry(record.text().to_owned()).or_default() += 1;
    }
    let duplicates: Vec<_> = counts.iter().filter(|(_, n)| **n > 1).collect();
    assert!(
        duplicates.is_empty(),
        "{} twice: {duplicates:?}",
        duplicates.len()
    );
    let missing = values.iter().filter(|v| !counts.contains_key(*v)).count();
    assert_eq!((missing, counts.len()), (0, values.len()));
}

fn quarantine_many(bridge: &TestBridge, count: usize) -> BTreeSet<String> {
    let writer = QuarantineWriter::for_bridge(bridge);
    let values: BTreeSet<_> = (0..count)
        .map(|i| valid_event(&format!("event{i}")))
        .collect();
    for (i, value) in values.iter().enumerate() {
        writer.add(value, "unknown_type", clock_ms() - 1_000 + i as i64 % 7);
    }
    writer.flush();
    values
}

/// Content of the last marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BatchState {
    /// A batch was begun and has no done marker yet.
    Open,
    /// The run that began the last batch has completed it.
    Completed,
    /// The last batch was closed by a later run.
    Abandoned,
}

/// Returns `None` if there is no marker yet.
fn read_batch_state(bridge: &TestBridge) -> Option<BatchState> {
    let records = quarantined_records(bridge);
    let is_marker = |r: &&TestRecord| r.header("butlr-replayed").is_some();
    let last = records.iter().rfind(is_marker)?;
    Some(match last.header("butlr-replayed") {
        Some("intent") => BatchState::Open,
        _ if is_abandonment(last) => BatchState::Abandoned,
        _ => BatchState::Completed,
    })
}

/// Returns `true` for the done marker of a batch whose run was gone.
fn is_abandonment(record: &TestRecord) -> bool {
    record.text().ends_with("\"finished\":null}}")
}

/// Starts a run and kills it in this state.
///
/// The first new record in `trigger` stops the process. If the state is right then, the process is
/// killed; otherwise it continues until the next record.
#[track_caller]
fn kill_run(bridge: &TestBridge, trigger: &str, state: BatchState) {
    let tail = || TopicTail::from_end(&bridge.bootstrap_servers, trigger);
    let mut new_records = tail();
    let mut command = replay_command(bridge, &SHORT_LEASE);
    let mut run = BridgeProcess::start(command.env(LINGER.0, LINGER.1));
    let started = Instant::now();
    loop {
        while new_records.poll().is_none() {
            assert!(run.is_running(), "the run ended: {}", run.output());
            assert!(started.elapsed() < 3 * PATIENCE, "{}", run.output());
        }
        run.pause();
        if read_batch_state(bridge) == Some(state) {
            break;
        }
        new_records = tail();
        run.resume();
    }
    run.signal("KILL");
    run.wait();
    assert_eq!(
        read_batch_state(bridge),
        Some(state),
        "a stopped process wrote a marker"
    );
}

fn a_run_that_was_killed_is_finished_by_the_next() {
    let bridge = start_bridge(BridgeSetup::default());
    let values = quarantine_many(&bridge, 4_000);
    let quarantine = bridge.config.topics.quarantine.name.as_str();
    // Kills a run after an intent alone, after some or all events of a batch, and between two
    // batches. Each run gets further.
    let kills = [
        (quarantine, BatchState::Open),
        (bridge.topic(ROOM), BatchState::Open),
        (quarantine, BatchState::Completed),
        (bridge.topic(ROOM), BatchState::Open),
    ];
    for (trigger, state) in kills {
        kill_run(&bridge, trigger, state);
    }
    let stored = bridge.records(ROOM).len();
    assert!((1..values.len()).contains(&stored), "{stored}");
    let (code, output) = run_replay(&bridge, &[]);
    assert_eq!(code, 0, "{output}");
    assert_once(&bridge, &values);
    // Each batch that was open was closed by the next run, which searched the topic for its events.
    let opened = kills.iter().filter(|(_, state)| *state == BatchState::Open);
    let records = quarantined_records(&bridge);
    let closed = records.iter().filter(|r| is_abandonment(r)).count();
    assert_eq!(closed, opened.count());
    let (_, output) = run_replay(&bridge, &[]);
    assert_eq!(
        read_figures(&output, ["published", "replayed before"]),
        [0, 4_000],
        "{output}"
    );
}

fn two_runs_at_the_same_time_send_each_record_once() {
    let bridge = start_bridge(BridgeSetup::default());
    let values = quarantine_many(&bridge, 3_000);
    let mut runs: Vec<_> = (0..3)
        .map(|i| {
            std::thread::sleep(Duration::from_millis(60 * i));
            BridgeProcess::start(&mut replay_command(&bridge, &SHORT_LEASE))
        })
        .collect();
    let codes: Vec<_> = runs.iter_mut().map(|run| run.wait().code()).collect();
    for (run, code) in runs.iter().zip(&codes) {
        let is_reported = run.output().contains("another replay is running");
        assert_eq!(*code == Some(1), is_reported, "{code:?}: {}", run.output());
    }
    eventually("a single run completes", || {
        let (code, _) = run_replay(&bridge, &[]);
        (code == 0).then_some(())
    });
    assert_once(&bridge, &values);
}

fn a_record_of_days_ago_is_kept_as_long_as_a_new_one() {
    let bridge = start_bridge(BridgeSetup::embedded());
    let then = clock_ms() - 10 * DAY;
    let writer = QuarantineWriter::for_bridge(&bridge);
    writer.add(
        &minimal_event(ROOM, "old", then, "room_1"),
        "unknown_type",
        then,
    );
    writer.flush();
    let from = clock_ms();
    let (code, output) = run_replay(&bridge, &[]);
    assert_eq!(code, 0, "{output}");
    let record = &bridge.records(ROOM)[0];
    assert_eq!(record.header("ce_timereplaced"), Some("past"));
    assert!(record.timestamp.is_some_and(|ms| ms >= from));
}

fn without_its_topic_it_says_so() {
    let bridge = BridgeSetup::embedded().start();
    let (code, output) = run_replay(&bridge, &["--set", "topics.quarantine=no.such"]);
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("no.such does not exist"), "{output}");
}
