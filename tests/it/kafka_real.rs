//! Tests that need a real Kafka: Java's view of the records, log cleaning, topics, permissions.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use butlr_event::EventType;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use serde_json::Value;

use crate::harness::{
    BridgeProcess, BridgeSetup, HttpResponse, KafkaBackend, TestBridge, binary, clock_ms,
    eventually, list_topics, minimal_event, read_records, sample, trials, unique_ms,
};
use crate::load::{BridgeLoad, assert_stored, count_by_status, count_events};
use crate::real_kafka::{
    create_topics, decode_bytes, delete_topics, describe_topic, java_partitions, kafka_address,
    lock_heavy, require_env, run_probe, ten_topics, unique_name, wait_within, watermarks,
};
use crate::records::{SAMPLE_ORG, SAMPLE_TIME, expected_headers, received_headers, sample_space};

trials! {
    "kafka" needs ["BUTLR_BRIDGE_TEST_KAFKA", "BUTLR_BRIDGE_TEST_JAVA_CP"]: [
        java_reads_every_record_as_the_contract_says,
        java_puts_every_key_into_the_same_partition,
        a_missing_topic_is_reported_and_not_created,
    ],
    "kafka" needs ["BUTLR_BRIDGE_TEST_KAFKA"]: [
        an_event_two_hours_ahead_does_not_fail_its_neighbours,
        an_event_of_2024_is_still_there_after_the_cleaner_ran,
        a_topic_deleted_at_run_time_is_reported_and_works_again_once_created,
        load_ends_with_as_many_stored_as_accepted,
        dev_sends_its_events_to_a_kafka_of_ones_own,
    ],
    "kafka" needs [
        "BUTLR_BRIDGE_TEST_KAFKA", "BUTLR_BRIDGE_TEST_KAFKA_SASL", "BUTLR_BRIDGE_TEST_JAVA_CP"
    ]: [
        a_forbidden_topic_is_reported_and_stalls_no_other,
    ],
    "kafka" needs [
        "BUTLR_BRIDGE_TEST_KAFKA", "BUTLR_BRIDGE_TEST_KAFKA_SASL",
        "BUTLR_BRIDGE_TEST_KAFKA_SASL_SSL", "BUTLR_BRIDGE_TEST_KAFKA_CA"
    ]: [
        plain_and_scram_with_and_without_tls_log_in,
        a_wrong_password_is_not_ready_and_answers_in_time,
        a_broker_of_an_unknown_authority_is_not_trusted,
    ],
}

const HOUR: i64 = 3_600_000;

type ProduceResult = Result<(), Option<RDKafkaErrorCode>>;

/// Forwards delivery reports.
struct ReportChannel(mpsc::Sender<ProduceResult>);

impl ClientContext for ReportChannel {}

impl ProducerContext for ReportChannel {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let result = result.as_ref().map(drop);
        let _ = self.0.send(result.map_err(|(e, _)| e.rdkafka_error_code()));
    }
}

/// Publishes a record without the bridge, with an ordinary producer.
fn produce(topic: &str, timestamp: i64, settings: &[(&str, &str)]) -> ProduceResult {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka_address());
    for (name, value) in settings {
        config.set(*name, *value);
    }
    let (reports, reported) = mpsc::channel();
    let producer: ThreadedProducer<ReportChannel> = config
        .create_with_context(ReportChannel(reports))
        .expect("a producer");
    let record = BaseRecord::to(topic).key("k").payload("{}");
    let sent = producer.send(record.timestamp(timestamp));
    sent.map_err(|(error, _)| error).expect("queued");
    let report = reported.recv_timeout(Duration::from_secs(20));
    report.expect("a delivery report")
}

/// Returns keys of many forms: documented, short, long, with any Unicode.
fn spaces() -> Vec<String> {
    let mut spaces: Vec<String> = (0..150)
        .map(|n| format!("room_2pEPJsoyqg4pCQfnO{n}"))
        .collect();
    spaces.extend((1..=20).map(|n| "x".repeat(n)));
    spaces.extend((0..20).map(|n| format!("Raum Ü{n} · 会議室{n} 🏢")));
    spaces.extend(["é", "e\u{301}", "\u{a0}", "\u{10ffff}", "\u{feff}", "ß"].map(str::to_owned));
    spaces.push("木".repeat(85));
    spaces
}

fn header_list(record: &Value) -> Vec<(String, Vec<u8>)> {
    let headers = record["headers"].as_array().expect("headers");
    let pair = |h: &Value| {
        (
            h[0].as_str().expect("a name").to_owned(),
            decode_bytes(&h[1]),
        )
    };
    headers.iter().map(pair).collect()
}

/// Expected record; `time` is `None` if it is stamped with the time of publishing.
struct ExpectedRecord {
    event_type: EventType,
    space: String,
    body: String,
    time: Option<i64>,
    headers: BTreeMap<String, String>,
}

fn expect_sample(event_type: EventType) -> ExpectedRecord {
    let body = sample(event_type);
    let json: Value = serde_json::from_str(&body).expect("JSON");
    let id = json["id"].as_str().expect("an id");
    let space = sample_space(event_type);
    let mut headers = expected_headers(event_type, id, SAMPLE_TIME, SAMPLE_ORG, space);
    headers.insert("ce_timereplaced".into(), "past".into());
    ExpectedRecord {
        event_type,
        space: space.to_owned(),
        body: body.trim().to_owned(),
        time: None,
        headers,
    }
}

fn expect_current(event_type: EventType, id: &str, space: String) -> ExpectedRecord {
    let time = unique_ms();
    ExpectedRecord {
        event_type,
        body: minimal_event(event_type, id, time, &space),
        headers: expected_headers(event_type, id, time, "org_1", &space),
        space,
        time: Some(time),
    }
}

fn java_reads_every_record_as_the_contract_says() {
    let bridge = BridgeSetup::with_kafka(KafkaBackend::Real)
        .set("topics.partitions", 6)
        .start();
    let mut all: Vec<_> = EventType::ALL.map(expect_sample).into();
    for (number, space) in spaces().into_iter().enumerate() {
        let event_type = EventType::ALL[number % 10];
        all.push(expect_current(
            event_type,
            &format!("event_{number}"),
            space,
        ));
    }
    let began = clock_ms();
    let (alone, together) = all.split_at(100);
    for expected in alone {
        bridge.send(&expected.body).expect(200);
    }
    let items: Vec<_> = together.iter().map(|e| e.body.as_str()).collect();
    bridge.send(format!("[{}]", items.join(","))).expect(200);
    let between = (began, clock_ms());

    let mut by_id: HashMap<String, ExpectedRecord> = HashMap::new();
    for expected in all {
        by_id.insert(expected.headers["ce_id"].clone(), expected);
    }
    let topics = EventType::ALL.map(|t| bridge.topic(t));
    let arguments = [&["read", &bridge.bootstrap_servers], &topics[..]].concat();
    let records = run_probe(&arguments, "");
    assert_eq!(records.len(), by_id.len());
    for record in &records {
        let headers = header_list(record);
        let (_, id) = headers
            .iter()
            .find(|(name, _)| name == "ce_id")
            .expect("an id");
        let id = std::str::from_utf8(id).expect("UTF-8");
        let expected = by_id.remove(id).expect("each id once");
        assert_eq!(record["topic"], bridge.topic(expected.event_type));
        assert_eq!(
            decode_bytes(&record["keyBase64"]),
            expected.space.as_bytes()
        );
        assert_eq!(
            decode_bytes(&record["valueBase64"]),
            expected.body.as_bytes()
        );
        assert_eq!(record["timestampType"], "CreateTime");
        let timestamp = record["timestamp"].as_i64().expect("a timestamp");
        match expected.time {
            Some(time) => assert_eq!(timestamp, time),
            None => assert!((between.0..=between.1).contains(&timestamp)),
        }
        assert_eq!(received_headers(&headers, between), expected.headers);
    }
}

fn java_puts_every_key_into_the_same_partition() {
    let bridge = BridgeSetup::with_kafka(KafkaBackend::Real)
        .set("topics.partitions", 6)
        .start();
    let spaces = spaces();
    let items: Vec<_> = spaces
        .iter()
        .enumerate()
        .map(|(n, space)| {
            minimal_event(
                EventType::RoomOccupancy,
                &format!("e{n}"),
                unique_ms(),
                space,
            )
        })
        .collect();
    let response = bridge.send(format!("[{}]", items.join(",")));
    let results = response.json()["results"].clone();
    let partitions_by_java = results.as_array().expect("results").iter();
    let partitions_by_java: Vec<_> = partitions_by_java
        .map(|r| r["partition"].as_i64().expect("a partition"))
        .collect();
    let keys: Vec<_> = spaces.iter().map(|s| s.as_bytes().to_vec()).collect();
    assert_eq!(partitions_by_java, java_partitions(6, &keys));
    let used: std::collections::BTreeSet<_> = partitions_by_java.iter().collect();
    assert_eq!(used.len(), 6, "all partitions are in use");
}

fn an_event_two_hours_ahead_does_not_fail_its_neighbours() {
    let bridge = BridgeSetup::with_kafka(KafkaBackend::Real).start();
    let event_type = EventType::Detections;
    let ahead = unique_ms() + 2 * HOUR;
    // The bridge prevents this: the broker refuses such a record.
    let refused = produce(bridge.topic(event_type), ahead, &[]);
    assert_eq!(refused, Err(Some(RDKafkaErrorCode::InvalidTimestamp)));

    // One space, and so one partition and one batch.
    let body = |id: &str, time| minimal_event(event_type, id, time, "space");
    let mut items: Vec<_> = (0..50)
        .map(|n| body(&format!("a{n}"), unique_ms()))
        .collect();
    items.insert(25, body("ahead-in-array", ahead));
    let response = bridge.send(format!("[{}]", items.join(",")));
    response.expect(200);

    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..51)
            .map(|n| {
                let sent = match n {
                    25 => body("ahead-alone", ahead),
                    _ => body(&format!("b{n}"), unique_ms()),
                };
                let bridge = &bridge;
                scope.spawn(move || bridge.send(sent).status)
            })
            .collect();
        for sender in senders {
            assert_eq!(sender.join().expect("a sender"), 200);
        }
    });
    let records = bridge.records(event_type);
    assert_eq!(records.len(), 102);
    let replaced = |r: &&crate::harness::TestRecord| r.header("ce_timereplaced") == Some("future");
    let mut ids: Vec<_> = records
        .iter()
        .filter(replaced)
        .map(|r| r.header("ce_id"))
        .collect();
    ids.sort();
    assert_eq!(ids, [Some("ahead-alone"), Some("ahead-in-array")]);
}

fn an_event_of_2024_is_still_there_after_the_cleaner_ran() {
    let bridge = BridgeSetup::with_kafka(KafkaBackend::Real)
        .set("topics.partitions", 1)
        .start();
    let (retained, control) = (EventType::RoomOccupancy, EventType::Traffic);
    bridge.send(sample(retained)).expect(200);
    // A record from 2024 in a topic with the same settings shows that the cleaner has run. Two of
    // them, so that a complete run lies in between.
    for run in 1..=2 {
        produce(bridge.topic(control), SAMPLE_TIME, &[]).expect("an old record is stored");
        wait_within(Duration::from_secs(30), "the cleaner has run", || {
            watermarks(&bridge.bootstrap_servers, bridge.topic(control)) == (run, run)
        });
    }
    assert_eq!(bridge.records(control), []);
    let records = bridge.records(retained);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].text(), sample(retained).trim());
    assert_eq!(records[0].offset, 0);
}

/// Sends until the response has this status and code, for at most 8 s. Each response must arrive in
/// time.
#[track_caller]
fn wait_for_response(
    bridge: &TestBridge,
    event_type: EventType,
    status: u16,
    code: &str,
) -> HttpResponse {
    let began = Instant::now();
    for number in 0.. {
        let sent = Instant::now();
        let response = bridge.send(minimal_event(
            event_type,
            &format!("t{number}"),
            unique_ms(),
            "s",
        ));
        assert_in_time(bridge, sent.elapsed());
        if (response.status, response.code().as_str()) == (status, code) {
            return response;
        }
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "still {} {}",
            response.status,
            response.text()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    unreachable!()
}

/// Checks that a response met its deadline, with [`SLACK`].
#[track_caller]
pub fn assert_in_time(bridge: &TestBridge, took: Duration) {
    let limit = bridge.config.http.answer_within + SLACK;
    assert!(took < limit, "a response after {took:?}");
}

/// Additional time on a busy machine.
pub const SLACK: Duration = Duration::from_secs(2);

fn a_missing_topic_is_reported_and_not_created() {
    // The broker would create the topic for a client that allows it.
    let (address, control) = (kafka_address(), unique_name("control"));
    let careless = [("allow.auto.create.topics", "true")];
    produce(&control, unique_ms(), &careless).expect("created by the producer");
    assert!(list_topics(&address).contains(&control));
    delete_topics(&address, &[&control]);

    let bridge = BridgeSetup::with_kafka(KafkaBackend::Real)
        .without_topics()
        .without_waiting()
        .start();
    for event_type in EventType::ALL {
        let response = wait_for_response(&bridge, event_type, 503, "topic_missing");
        assert!(response.header("retry-after").is_some());
    }
    // The topic is known to be missing, so the response comes without an attempt.
    let sent = Instant::now();
    let response = bridge.send(minimal_event(EventType::Traffic, "e", unique_ms(), "s"));
    response.expect_problem(503, "topic_missing");
    assert!(
        sent.elapsed() < Duration::from_secs(1),
        "{:?}",
        sent.elapsed()
    );
    assert_eq!(bridge.topic_state(EventType::Traffic), "missing");
    let readiness = bridge.get_admin("/readyz");
    assert!(
        readiness.expect(503).text().contains("none of the topics"),
        "{}",
        readiness.text()
    );
    for event_type in [EventType::Traffic, EventType::PirNoMotion] {
        let topic = describe_topic(&address, bridge.topic(event_type));
        assert_eq!(topic["exists"], false, "{topic}");
    }
    let names = list_topics(&address);
    assert!(
        EventType::ALL
            .iter()
            .all(|&t| !names.contains(&bridge.topic(t).to_owned()))
    );
}

fn a_topic_deleted_at_run_time_is_reported_and_works_again_once_created() {
    let bridge = BridgeSetup::with_kafka(KafkaBackend::Real).start();
    let (deleted, other) = (EventType::Traffic, EventType::RoomOccupancy);
    let topic = bridge.topic(deleted).to_owned();
    for event_type in [deleted, other] {
        bridge
            .send(minimal_event(event_type, "before", unique_ms(), "s"))
            .expect(200);
    }
    delete_topics(&bridge.bootstrap_servers, &[&topic]);
    wait_for_response(&bridge, deleted, 503, "topic_missing");
    bridge
        .send(minimal_event(other, "meanwhile", unique_ms(), "s"))
        .expect(200);
    assert!(!list_topics(&bridge.bootstrap_servers).contains(&topic));

    create_topics(&bridge.bootstrap_servers, &[&topic], 3, &[]);
    let response = wait_for_response(&bridge, deleted, 200, "");
    for number in 0..20 {
        let body = minimal_event(
            deleted,
            &format!("after{number}"),
            unique_ms(),
            &format!("s{number}"),
        );
        bridge.send(body).expect(200);
    }
    let ids: Vec<_> = bridge.records(deleted);
    let ids: Vec<_> = ids.iter().filter_map(|r| r.header("ce_id")).collect();
    let first = response.json()["id"].as_str().expect("an id").to_owned();
    assert!(ids.contains(&first.as_str()));
    for number in 0..20 {
        assert!(ids.contains(&format!("after{number}").as_str()), "{ids:?}");
    }
}

fn with_login(
    setup: BridgeSetup,
    protocol: &str,
    mechanism: &str,
    user: &str,
    password: &str,
) -> BridgeSetup {
    setup
        .set(
            "kafka.properties",
            login_properties(protocol, mechanism, user, password),
        )
        .set("http.answer_within", "1s")
}

fn login_properties(protocol: &str, mechanism: &str, user: &str, password: &str) -> toml::Table {
    let mut table = toml::Table::new();
    for (name, value) in [
        ("security.protocol", protocol),
        ("sasl.mechanisms", mechanism),
        ("sasl.username", user),
        ("sasl.password", password),
    ] {
        table.insert(name.to_owned(), value.into());
    }
    if protocol == "SASL_SSL" {
        let ca = require_env("BUTLR_BRIDGE_TEST_KAFKA_CA");
        table.insert("ssl.ca.location".to_owned(), ca.into());
    }
    table
}

/// Ten topics, created over the listener without login; deleted on drop.
struct LoginTopics {
    template: String,
    names: Vec<String>,
}

impl LoginTopics {
    fn create() -> Self {
        let template = unique_name("{type}");
        let names = ten_topics(&template);
        create_topics(&kafka_address(), &names, 3, &[]);
        Self { template, names }
    }

    fn name_of(&self, event_type: EventType) -> &str {
        &self.names[event_type.index()]
    }
}

impl Drop for LoginTopics {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            delete_topics(&kafka_address(), &self.names);
        }
    }
}

fn listener_setup(variable: &str, topics: &LoginTopics) -> BridgeSetup {
    BridgeSetup::with_kafka(KafkaBackend::Address(require_env(variable)))
        .set("topics.template", topics.template.as_str())
}

fn a_forbidden_topic_is_reported_and_stalls_no_other() {
    let topics = LoginTopics::create();
    let forbidden = EventType::Traffic;
    run_probe(
        &[
            "deny-write",
            &kafka_address(),
            topics.name_of(forbidden),
            "limited",
        ],
        "",
    );
    let setup = listener_setup("BUTLR_BRIDGE_TEST_KAFKA_SASL", &topics);
    let bridge = with_login(
        setup,
        "SASL_PLAINTEXT",
        "PLAIN",
        "limited",
        "limited-secret",
    )
    .start();
    let response = wait_for_response(&bridge, forbidden, 503, "topic_forbidden");
    assert!(response.header("retry-after").is_some());

    // Other topics are not affected and the producer stays: a missing permission is not fatal.
    let replacements = || bridge.status()["kafka"]["producer_replacements"].clone();
    let before = replacements();
    let records = |t| read_records(&kafka_address(), topics.name_of(t)).len();
    // A broker takes a moment to apply a denial; until then it stores records.
    let stored_before = records(forbidden);
    for round in 0..20 {
        let items: Vec<_> = EventType::ALL
            .iter()
            .map(|&t| minimal_event(t, &format!("{round}-{}", t.kebab_name()), unique_ms(), "s"))
            .collect();
        let sent = Instant::now();
        let response = bridge.send(format!("[{}]", items.join(",")));
        assert!(
            sent.elapsed() < Duration::from_secs(1),
            "{:?}",
            sent.elapsed()
        );
        response.expect(503);
        let results = response.json()["results"].clone();
        for event_type in EventType::ALL {
            let result = &results[event_type.index()];
            if event_type == forbidden {
                assert_eq!(result["code"], "topic_forbidden", "{result}")
            } else {
                assert_eq!(result["status"], "published", "{result}")
            }
        }
    }
    assert_eq!(records(forbidden), stored_before);
    assert_eq!(records(EventType::RoomOccupancy), 20);
    assert_eq!(replacements(), before);
}

fn plain_and_scram_with_and_without_tls_log_in() {
    let topics = LoginTopics::create();
    for (number, (variable, protocol, mechanism)) in [
        ("BUTLR_BRIDGE_TEST_KAFKA_SASL", "SASL_PLAINTEXT", "PLAIN"),
        (
            "BUTLR_BRIDGE_TEST_KAFKA_SASL",
            "SASL_PLAINTEXT",
            "SCRAM-SHA-256",
        ),
        ("BUTLR_BRIDGE_TEST_KAFKA_SASL_SSL", "SASL_SSL", "PLAIN"),
        (
            "BUTLR_BRIDGE_TEST_KAFKA_SASL_SSL",
            "SASL_SSL",
            "SCRAM-SHA-256",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let setup = listener_setup(variable, &topics);
        let bridge = with_login(setup, protocol, mechanism, "bridge", "bridge-secret").start();
        let id = format!("{protocol}-{mechanism}");
        bridge
            .send(minimal_event(EventType::Traffic, &id, unique_ms(), "s"))
            .expect(200);
        bridge.finish();
        let records = read_records(&kafka_address(), topics.name_of(EventType::Traffic));
        assert_eq!(records.len(), number + 1);
        assert_eq!(records[number].header("ce_id"), Some(id.as_str()));
    }
}

/// Checks that the bridge is not ready and that every response is a 503 in time.
#[track_caller]
fn assert_stays_unready(bridge: &TestBridge) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        bridge.get_admin("/readyz").expect(503);
        bridge.get_admin("/livez").expect(200);
        let sent = Instant::now();
        let response = bridge.send(minimal_event(EventType::Traffic, "e", unique_ms(), "s"));
        response.expect_problem(503, "kafka_unconfirmed");
        assert_in_time(bridge, sent.elapsed());
    }
}

fn a_wrong_password_is_not_ready_and_answers_in_time() {
    let topics = LoginTopics::create();
    for (variable, protocol, mechanism) in [
        ("BUTLR_BRIDGE_TEST_KAFKA_SASL", "SASL_PLAINTEXT", "PLAIN"),
        (
            "BUTLR_BRIDGE_TEST_KAFKA_SASL_SSL",
            "SASL_SSL",
            "SCRAM-SHA-256",
        ),
    ] {
        let setup = listener_setup(variable, &topics).without_waiting();
        let bridge = with_login(setup, protocol, mechanism, "bridge", "not-the-password").start();
        assert_stays_unready(&bridge);
        assert!(!bridge.status().to_string().contains("not-the-password"));
    }
    assert_eq!(
        read_records(&kafka_address(), topics.name_of(EventType::Traffic)),
        []
    );
}

fn a_broker_of_an_unknown_authority_is_not_trusted() {
    let topics = LoginTopics::create();
    let mut properties = login_properties("SASL_SSL", "PLAIN", "bridge", "bridge-secret");
    properties.remove("ssl.ca.location");
    let bridge = listener_setup("BUTLR_BRIDGE_TEST_KAFKA_SASL_SSL", &topics)
        .set("kafka.properties", properties)
        .set("http.answer_within", "1s")
        .without_waiting()
        .start();
    assert_stays_unready(&bridge);
    drop(bridge);
    assert_eq!(
        read_records(&kafka_address(), topics.name_of(EventType::Traffic)),
        []
    );
}

fn load_ends_with_as_many_stored_as_accepted() {
    let _alone = lock_heavy();
    let bridge = BridgeSetup::with_kafka(KafkaBackend::Real).start();
    let load = BridgeLoad::start(bridge.ingest, 64);
    std::thread::sleep(Duration::from_secs(5));
    // A busy machine may need longer.
    eventually("the load is running", || {
        (load.accepted() > 500).then_some(())
    });
    let attempts = load.stop();
    bridge.count_events(count_events(&attempts));
    let accepted = attempts.len();
    assert!(accepted > 500, "only {accepted} events accepted");
    assert_eq!(count_by_status(&attempts), [(Some(200), accepted)].into());
    let records: Vec<_> = EventType::ALL
        .iter()
        .flat_map(|&t| bridge.records(t))
        .collect();
    assert_stored(&attempts, &records);
    assert_eq!(records.len(), accepted);
    let published = bridge.metric_sum("butlr_bridge_events_total", r#"outcome="published""#);
    assert_eq!(published, accepted as f64);
}

fn dev_sends_its_events_to_a_kafka_of_ones_own() {
    let address = kafka_address();
    let topic = "butlr.event.detections.v1";
    let stored = || {
        if list_topics(&address).iter().any(|t| t == topic) {
            watermarks(&address, topic).1
        } else {
            0
        }
    };
    let before = stored();
    let mut dev =
        BridgeProcess::start(binary().args(["dev", "--kafka", &address, "--duration", "30s"]));
    wait_within(
        Duration::from_secs(20),
        "events of the simulated rooms are stored",
        || stored() >= before + 5,
    );
    let output = dev.output();
    assert!(
        output.contains(&format!("-b {address} -C -t butlr.event.")),
        "{output}"
    );
    dev.signal("INT");
    assert!(dev.wait().success(), "{}", dev.output());
    let newest = read_records(&address, topic);
    let newest = newest.last().expect("a record");
    assert!(newest.text().contains(r#""type":"DETECTIONS""#));
}
