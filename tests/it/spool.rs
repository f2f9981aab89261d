//! Spool of a running bridge: events that Kafka does not accept are kept on disk and stored later.

use std::path::Path;
use std::time::{Duration, Instant};

use butlr_bridge::kafka::embedded::EmbeddedKafka;
use butlr_event::EventType;
use tempfile::TempDir;

use crate::harness::{
    BridgeSetup, KafkaBackend, TestBridge, eventually, list_topics, minimal_event, read_records,
    trials, unique_ms,
};
use crate::load::{BridgeLoad, count_events};
use crate::real_kafka::{RealBroker, create_topics, lock_heavy, ten_topics, wait_within};

trials! {
    "spool": [
        the_disk_is_not_touched_while_kafka_confirms,
        a_missing_topic_is_spooled_and_no_other,
        what_was_spooled_is_drained_in_order_with_its_headers,
        a_copy_of_a_spooled_event_is_a_duplicate,
        what_is_spooled_is_known_and_drained_after_a_restart,
        a_full_spool_is_reported_and_has_room_again_later,
        an_array_is_kept_at_once,
        a_bridge_with_a_spool_is_ready_without_kafka,
        without_kafka_no_event_waits_for_what_cannot_be_read_back,
        only_one_bridge_has_a_spool,
    ],
    "spool" needs ["BUTLR_BRIDGE_TEST_KAFKA", "BUTLR_BRIDGE_TEST_JAVA_CP"]: [
        all_is_taken_while_kafka_is_paused,
        all_is_taken_while_kafka_is_stopped,
    ],
}

/// Type whose topic is missing at first.
const LATE_TYPE: EventType = EventType::Traffic;
const PREFIX: &str = "spooled";

fn template() -> String {
    format!("{PREFIX}.{{type}}")
}

fn topic(event_type: EventType) -> String {
    format!("{PREFIX}.{}", event_type.kebab_name())
}

/// Starts a broker with all topics but one.
fn start_with_nine_topics() -> EmbeddedKafka {
    let others = EventType::ALL.into_iter().filter(|t| *t != LATE_TYPE);
    let topics: Vec<_> = others.map(|t| (topic(t), 3)).collect();
    EmbeddedKafka::start(&topics).expect("an embedded broker")
}

fn create_late_topic(kafka: &EmbeddedKafka) {
    let created = kafka.with_cluster(|cluster| cluster.create_topic(&topic(LATE_TYPE), 3, 1));
    created.expect("a topic");
}

fn spool_setup(address: &str, spool: &Path) -> BridgeSetup {
    BridgeSetup::with_kafka(KafkaBackend::Address(address.to_owned()))
        .set("topics.template", template())
        .set("spool.dir", spool.to_str().expect("a path"))
        .set("spool.min_free_bytes", "0")
}

fn temp_dir() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

/// Starts a bridge and waits until it knows that a topic is missing.
fn bridge_without_a_topic(kafka: &EmbeddedKafka, spool: &Path) -> TestBridge {
    let bridge = spool_setup(kafka.bootstrap_servers(), spool).start();
    eventually("the watch sees that the topic is missing", || {
        (bridge.topic_state(LATE_TYPE) == "missing").then_some(())
    });
    bridge
}

fn spooled_entries(bridge: &TestBridge) -> u64 {
    bridge.status()["spool"]["present"]
        .as_u64()
        .expect("a number")
}

#[track_caller]
fn wait_until_empty(bridge: &TestBridge) {
    eventually("the spool is empty", || {
        (spooled_entries(bridge) == 0).then_some(())
    });
}

/// A bridge in this process releases its spool with its last thread, a moment after its end.
#[track_caller]
fn wait_until_free(spool: &Path) {
    eventually("the spool is released", || {
        let lock = std::fs::File::open(spool.join("lock")).expect("the lock file");
        lock.try_lock().ok()
    });
}

fn late_event(id: &str) -> String {
    minimal_event(LATE_TYPE, id, unique_ms(), "space")
}

fn the_disk_is_not_touched_while_kafka_confirms() {
    let folder = temp_dir();
    let bridge = BridgeSetup::default()
        .set("spool.dir", folder.path().to_str().expect("a path"))
        .start();
    let before = list_files(folder.path());
    for number in 0..50 {
        let event = minimal_event(LATE_TYPE, &format!("event_{number}"), unique_ms(), "space");
        bridge.send(event).expect(200);
    }
    assert_eq!(list_files(folder.path()), before);
    assert_eq!(bridge.metric("butlr_bridge_spool_spooled_total"), 0.0);
}

/// Lists names and sizes.
fn list_files(folder: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(folder).expect("the spool directory");
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            let size = entry.metadata().expect("a file").len();
            (entry.file_name().to_string_lossy().into_owned(), size)
        })
        .collect();
    files.sort();
    files
}

fn a_missing_topic_is_spooled_and_no_other() {
    let (kafka, folder) = (start_with_nine_topics(), temp_dir());
    let bridge = bridge_without_a_topic(&kafka, folder.path());
    let began = Instant::now();
    let response = bridge.send(late_event("event_1")).expect(202).json();
    assert!(began.elapsed() < Duration::from_secs(1), "at once");
    assert_eq!(response["status"], "spooled");
    assert_eq!(response["id"], "event_1");
    for other in EventType::ALL.into_iter().filter(|t| *t != LATE_TYPE) {
        bridge
            .send(minimal_event(other, "event_other", unique_ms(), "space"))
            .expect(200);
    }
    let status = bridge.status();
    assert_eq!(status["ledger"]["spooled"], 1);
    assert_eq!(
        status["spool"]["waiting"][0]["destination"],
        LATE_TYPE.name()
    );
    assert_eq!(
        bridge.metric("butlr_bridge_events_total{outcome=\"spooled\",type=\"TRAFFIC\"}"),
        1.0
    );
    assert!(!list_topics(&bridge.bootstrap_servers).contains(&topic(LATE_TYPE)));
    create_late_topic(&kafka);
    wait_until_empty(&bridge);
    bridge.send(late_event("event_2")).expect(200);
}

fn what_was_spooled_is_drained_in_order_with_its_headers() {
    let (kafka, folder) = (start_with_nine_topics(), temp_dir());
    let bridge = bridge_without_a_topic(&kafka, folder.path());
    let sent: Vec<_> = (0..200)
        .map(|number| {
            let body = minimal_event(
                LATE_TYPE,
                &format!("event_{number}"),
                unique_ms(),
                "one space",
            );
            bridge.send(&body).expect(202);
            body
        })
        .collect();
    create_late_topic(&kafka);
    wait_until_empty(&bridge);
    let records = bridge.records(LATE_TYPE);
    let values: Vec<_> = records
        .iter()
        .map(|r| String::from_utf8(r.value.clone()).expect("JSON"))
        .collect();
    assert_eq!(values, sent, "one space is in one partition, in order");
    for record in &records {
        assert_eq!(record.header("ce_spooled"), Some("true"));
    }
    let status = bridge.status();
    assert_eq!(status["spool"]["ledger"]["drained"], 200);
    assert_eq!(bridge.metric("butlr_bridge_spool_drained_total"), 200.0);
}

fn a_copy_of_a_spooled_event_is_a_duplicate() {
    let (kafka, folder) = (start_with_nine_topics(), temp_dir());
    let bridge = bridge_without_a_topic(&kafka, folder.path());
    let body = late_event("event_1");
    bridge.send(&body).expect(202);
    let copy = bridge.send(&body).expect(202).json();
    assert_eq!(copy["status"], "duplicate");
    assert_eq!(copy["kind"], "redelivery");
    create_late_topic(&kafka);
    wait_until_empty(&bridge);
    assert_eq!(bridge.send(&body).expect(200).json()["status"], "duplicate");
    assert_eq!(bridge.records(LATE_TYPE).len(), 1);
}

fn what_is_spooled_is_known_and_drained_after_a_restart() {
    let (kafka, folder) = (start_with_nine_topics(), temp_dir());
    let bridge_1 = bridge_without_a_topic(&kafka, folder.path());
    let (first, second) = (late_event("event_1"), late_event("event_2"));
    bridge_1.send(&first).expect(202);
    bridge_1.send(&second).expect(202);
    bridge_1.finish();
    wait_until_free(folder.path());

    let bridge_2 = bridge_without_a_topic(&kafka, folder.path());
    let copy = bridge_2.send(&first).expect(202).json();
    assert_eq!(copy["status"], "duplicate");
    assert_eq!(bridge_2.status()["spool"]["ledger"]["recovered"], 2);
    create_late_topic(&kafka);
    wait_until_empty(&bridge_2);
    assert_eq!(bridge_2.records(LATE_TYPE).len(), 2);
    assert_eq!(
        bridge_2.send(&second).expect(200).json()["status"],
        "duplicate"
    );
    bridge_2.finish();
}

fn a_full_spool_is_reported_and_has_room_again_later() {
    let (kafka, folder) = (start_with_nine_topics(), temp_dir());
    let bridge = spool_setup(kafka.bootstrap_servers(), folder.path())
        .set("spool.max_bytes", "4MiB")
        .set("spool.segment_bytes", "1MiB")
        .start();
    eventually("the watch sees that the topic is missing", || {
        (bridge.topic_state(LATE_TYPE) == "missing").then_some(())
    });
    let large = |number: usize| {
        let filler = "x".repeat(100_000);
        late_event(&format!("event_{number}")).replacen(
            '{',
            &format!("{{\"filler\":\"{filler}\","),
            1,
        )
    };
    let mut spooled = 0;
    let refused = loop {
        let response = bridge.send(large(spooled));
        if response.status != 202 {
            break response;
        }
        spooled += 1;
        assert!(spooled < 100, "4 MiB cannot hold 100 events of 100 kB");
    };
    assert!(spooled >= 10, "{spooled}");
    refused.expect_problem(503, "spool_full");
    assert!(refused.header("retry-after").is_some());
    assert!(bridge.status()["spool"]["full"].is_string());
    bridge
        .send(minimal_event(
            EventType::PirMotion,
            "other",
            unique_ms(),
            "space",
        ))
        .expect(200);
    create_late_topic(&kafka);
    wait_until_empty(&bridge);
    bridge.send(large(spooled)).expect(200);
    assert_eq!(bridge.records(LATE_TYPE).len(), spooled + 1);
}

fn an_array_is_kept_at_once() {
    let (kafka, folder) = (start_with_nine_topics(), temp_dir());
    let bridge = bridge_without_a_topic(&kafka, folder.path());
    let mut items: Vec<_> = (0..500)
        .map(|n| late_event(&format!("event_{n}")))
        .collect();
    items.push(minimal_event(
        EventType::PirMotion,
        "other",
        unique_ms(),
        "space",
    ));
    items.push("{}".to_owned());
    let began = Instant::now();
    let response = bridge.send(format!("[{}]", items.join(",")));
    assert!(began.elapsed() < Duration::from_secs(2), "few commits");
    let results = response.expect(422).json();
    assert_eq!(results["results"][0]["status"], "spooled");
    assert_eq!(results["results"][499]["status"], "spooled");
    assert_eq!(results["results"][500]["status"], "published");
    assert_eq!(results["results"][501]["status"], "refused");
}

/// Starts a bridge without Kafka and waits until it is ready.
fn bridge_without_kafka(spool: &Path, answer_within: &str) -> TestBridge {
    let bridge = spool_setup("127.0.0.1:1", spool)
        .without_waiting()
        .set("http.answer_within", answer_within)
        .set("kafka.confirm_within", "200ms")
        .start();
    bridge.wait_until_ready();
    bridge
}

fn a_bridge_with_a_spool_is_ready_without_kafka() {
    let folder = temp_dir();
    let bridge = bridge_without_kafka(folder.path(), "1s");
    bridge.send(late_event("event_1")).expect(202);
    bridge.send(late_event("event_2")).expect(202);
    assert_eq!(spooled_entries(&bridge), 2);
    bridge.finish();
}

fn without_kafka_no_event_waits_for_what_cannot_be_read_back() {
    let folder = temp_dir();
    let bridge = bridge_without_kafka(folder.path(), "30s");
    // Before that, Kafka may still be reached.
    std::thread::sleep(Duration::from_millis(2_100));
    let began = Instant::now();
    bridge.send(late_event("event_1")).expect(202);
    // Half of its deadline would be 15 s.
    assert!(began.elapsed() < Duration::from_secs(10));
    let unchecked = r#"butlr_bridge_dedup_unchecked_total{type="TRAFFIC"}"#;
    assert_eq!(bridge.metric(unchecked), 1.0);
    bridge.finish();
}

fn only_one_bridge_has_a_spool() {
    let (kafka, folder) = (start_with_nine_topics(), temp_dir());
    let _first = spool_setup(kafka.bootstrap_servers(), folder.path()).start();
    let arguments = [
        format!("kafka.bootstrap_servers={}", kafka.bootstrap_servers()),
        format!("spool.dir={}", folder.path().display()),
    ];
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let output = serve_and_wait(&arguments);
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("spool.dir"), "{stderr}");
}

fn serve_and_wait(settings: &[&str]) -> std::process::Output {
    let mut command = crate::harness::binary();
    command
        .arg("serve")
        .args(["--set", "http.bind=127.0.0.1:0"])
        .args(["--set", "admin.bind=127.0.0.1:0"]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.output().expect("the command starts")
}

/// Runs a load, then `away`, then `back`. No event may be refused, and all must be stored in the
/// end.
fn run_through_outage(away: impl FnOnce(&RealBroker), back: impl FnOnce(&RealBroker)) {
    let _alone = lock_heavy();
    let (broker, folder) = (RealBroker::start(), temp_dir());
    create_topics(&broker.address(), &ten_topics(&template()), 3, &[]);
    let bridge = spool_setup(&broker.address(), folder.path()).start();
    let load = BridgeLoad::start(bridge.ingest, 32);
    wait_within(Duration::from_secs(20), "the load is running", || {
        load.accepted() >= 500
    });
    away(&broker);
    std::thread::sleep(Duration::from_secs(8));
    bridge.get_admin("/readyz").expect(200);
    assert!(spooled_entries(&bridge) > 100);
    back(&broker);
    std::thread::sleep(Duration::from_secs(4));
    let attempts = load.stop();
    bridge.count_events(count_events(&attempts));
    let refused: Vec<_> = attempts
        .iter()
        .filter(|a| !matches!(a.status, Some(200 | 202)))
        .collect();
    assert!(
        refused.is_empty(),
        "{} refused, e.g. {:?}",
        refused.len(),
        refused[0]
    );
    let limit = bridge.config.http.answer_within + Duration::from_secs(2);
    let slowest = attempts.iter().map(|a| a.took).max().expect("a load");
    assert!(slowest < limit, "a response after {slowest:?}");
    wait_within(Duration::from_secs(60), "the spool is empty", || {
        spooled_entries(&bridge) == 0
    });
    let stored: std::collections::HashSet<_> = ten_topics(&template())
        .iter()
        .flat_map(|topic| read_records(&broker.address(), topic))
        .filter_map(|record| record.header("ce_id").map(str::to_owned))
        .collect();
    let missing = attempts.iter().filter(|a| !stored.contains(&a.id)).count();
    assert_eq!(missing, 0, "of {}", attempts.len());
    bridge.finish();
}

fn all_is_taken_while_kafka_is_paused() {
    run_through_outage(RealBroker::pause, RealBroker::resume);
}

fn all_is_taken_while_kafka_is_stopped() {
    run_through_outage(RealBroker::stop, RealBroker::restart);
}
