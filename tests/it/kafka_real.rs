//! What only a real Kafka can show: Java's view of the records, its cleaner, its topics, its permissions.

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
    BridgeProcess, BridgeSetup, HttpAnswer, KafkaBackend, TestBridge, binary, clock_ms, eventually,
    list_topics, minimal_event, read_records, sample, trials, unique_ms,
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
        a_missing_topic_is_told_and_not_created,
    ],
    "kafka" needs ["BUTLR_BRIDGE_TEST_KAFKA"]: [
        an_event_two_hours_ahead_does_not_fail_its_neighbours,
        an_event_of_2024_is_still_there_after_the_cleaner_ran,
        a_topic_deleted_under_way_is_told_and_works_again_once_created,
        load_ends_with_as_many_stored_as_accepted,
        dev_sends_its_events_to_a_kafka_of_ones_own,
    ],
    "kafka" needs [
        "BUTLR_BRIDGE_TEST_KAFKA", "BUTLR_BRIDGE_TEST_KAFKA_SASL", "BUTLR_BRIDGE_TEST_JAVA_CP"
    ]: [
        a_forbidden_topic_is_told_and_stalls_no_other,
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

/// Hands delivery reports on.
struct ReportChannel(mpsc::Sender<ProduceResult>);

impl ClientContext for ReportChannel {}

impl ProducerContext for ReportChannel {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let result = result.as_ref().map(drop);
        let _ = self.0.send(result.map_err(|(e, _)| e.rdkafka_error_code()));
    }
}

/// Publishes a record around the bridge, with a producer as anyone else's.
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

/// Keys as they may come: the documentation's, short, long, any Unicode.
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

/// What a record must be; `time` is `None` where it is stamped with the moment of publishing.
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
    let answer = bridge.send(format!("[{}]", items.join(",")));
    let results = answer.json()["results"].clone();
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
    // What the bridge protects from: this broker refuses such a record.
    let refused = produce(bridge.topic(event_type), ahead, &[]);
    assert_eq!(refused, Err(Some(RDKafkaErrorCode::InvalidTimestamp)));

    // One space, so one partition, so one batch.
    let body = |id: &str, time| minimal_event(event_type, id, time, "space");
    let mut items: Vec<_> = (0..50)
        .map(|n| body(&format!("a{n}"), unique_ms()))
        .collect();
    items.insert(25, body("ahead-in-array", ahead));
    let answer = bridge.send(format!("[{}]", items.join(",")));
    answer.expect(200);

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
    let (kept, control) = (EventType::RoomOccupancy, EventType::Traffic);
    bridge.send(sample(kept)).expect(200);
    // A record with its own time of 2024, in a topic of the same settings, shows when the cleaner has run. Twice, so
    // that one whole run lies in between.
    for run in 1..=2 {
        produce(bridge.topic(control), SAMPLE_TIME, &[]).expect("an old record is taken");
        wait_within(Duration::from_secs(30), "the cleaner runs", || {
            watermarks(&bridge.bootstrap_servers, bridge.topic(control)) == (run, run)
        });
    }
    assert_eq!(bridge.records(control), []);
    let records = bridge.records(kept);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].text(), sample(kept).trim());
    assert_eq!(records[0].offset, 0);
}

/// Sends until the answer has this status and code, which must be soon; each answer on the way comes in time.
#[track_caller]
fn wait_for_answer(
    bridge: &TestBridge,
    event_type: EventType,
    status: u16,
    code: &str,
) -> HttpAnswer {
    let began = Instant::now();
    for number in 0.. {
        let sent = Instant::now();
        let answer = bridge.send(minimal_event(
            event_type,
            &format!("t{number}"),
            unique_ms(),
            "s",
        ));
        assert_in_time(bridge, sent.elapsed());
        if (answer.status, answer.code().as_str()) == (status, code) {
            return answer;
        }
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "still {} {}",
            answer.status,
            answer.text()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    unreachable!()
}

/// The answer's bound, with room for a machine that is busy.
#[track_caller]
pub fn assert_in_time(bridge: &TestBridge, took: Duration) {
    let limit = bridge.config.http.answer_within + SLACK;
    assert!(took < limit, "an answer after {took:?}");
}

/// What a busy machine may add to a bound.
pub const SLACK: Duration = Duration::from_secs(2);

fn a_missing_topic_is_told_and_not_created() {
    // The broker would create it for a client that lets it.
    let (address, control) = (kafka_address(), unique_name("control"));
    let careless = [("allow.auto.create.topics", "true")];
    produce(&control, unique_ms(), &careless).expect("created along the way");
    assert!(list_topics(&address).contains(&control));
    delete_topics(&address, &[&control]);

    let bridge = BridgeSetup::with_kafka(KafkaBackend::Real)
        .without_topics()
        .without_waiting()
        .start();
    for event_type in EventType::ALL {
        let answer = wait_for_answer(&bridge, event_type, 503, "topic_missing");
        assert!(answer.header("retry-after").is_some());
    }
    // Known by now: told at once, without a try.
    let sent = Instant::now();
    let answer = bridge.send(minimal_event(EventType::Traffic, "e", unique_ms(), "s"));
    answer.expect_problem(503, "topic_missing");
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

fn a_topic_deleted_under_way_is_told_and_works_again_once_created() {
    let bridge = BridgeSetup::with_kafka(KafkaBackend::Real).start();
    let (gone, other) = (EventType::Traffic, EventType::RoomOccupancy);
    let topic = bridge.topic(gone).to_owned();
    for event_type in [gone, other] {
        bridge
            .send(minimal_event(event_type, "before", unique_ms(), "s"))
            .expect(200);
    }
    delete_topics(&bridge.bootstrap_servers, &[&topic]);
    wait_for_answer(&bridge, gone, 503, "topic_missing");
    bridge
        .send(minimal_event(other, "meanwhile", unique_ms(), "s"))
        .expect(200);
    assert!(!list_topics(&bridge.bootstrap_servers).contains(&topic));

    create_topics(&bridge.bootstrap_servers, &[&topic], 3, &[]);
    let answer = wait_for_answer(&bridge, gone, 200, "");
    for number in 0..20 {
        let body = minimal_event(
            gone,
            &format!("after{number}"),
            unique_ms(),
            &format!("s{number}"),
        );
        bridge.send(body).expect(200);
    }
    let ids: Vec<_> = bridge.records(gone);
    let ids: Vec<_> = ids.iter().filter_map(|r| r.header("ce_id")).collect();
    let first = answer.json()["id"].as_str().expect("an id").to_owned();
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

/// Ten topics, made over the listener that needs no login; deleted when dropped.
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

fn a_forbidden_topic_is_told_and_stalls_no_other() {
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
    let answer = wait_for_answer(&bridge, forbidden, 503, "topic_forbidden");
    assert!(answer.header("retry-after").is_some());

    // Side by side, the others know nothing of it, and the producer stays: a missing permission is not fatal.
    let replacements = || bridge.status()["kafka"]["producer_replacements"].clone();
    let before = replacements();
    let records = |t| read_records(&kafka_address(), topics.name_of(t)).len();
    // A broker takes a moment to learn of a denial; until then it took records.
    let stored_before = records(forbidden);
    for round in 0..20 {
        let items: Vec<_> = EventType::ALL
            .iter()
            .map(|&t| minimal_event(t, &format!("{round}-{}", t.kebab_name()), unique_ms(), "s"))
            .collect();
        let sent = Instant::now();
        let answer = bridge.send(format!("[{}]", items.join(",")));
        assert!(
            sent.elapsed() < Duration::from_secs(1),
            "{:?}",
            sent.elapsed()
        );
        answer.expect(503);
        let results = answer.json()["results"].clone();
        for event_type in EventType::ALL {
            let result = &results[event_type.index()];
            match event_type == forbidden {
                true => assert_eq!(result["code"], "topic_forbidden", "{result}"),
                false => assert_eq!(result["status"], "published", "{result}"),
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

/// Not ready, and every answer is 503 within the bound.
#[track_caller]
fn assert_stays_unready(bridge: &TestBridge) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        bridge.get_admin("/readyz").expect(503);
        bridge.get_admin("/livez").expect(200);
        let sent = Instant::now();
        let answer = bridge.send(minimal_event(EventType::Traffic, "e", unique_ms(), "s"));
        answer.expect_problem(503, "kafka_unconfirmed");
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
    // On a busy machine that may be too little for a load.
    eventually("the load flows", || (load.accepted() > 500).then_some(()));
    let attempts = load.stop();
    bridge.count_events(count_events(&attempts));
    let accepted = attempts.len();
    assert!(accepted > 500, "{accepted} is no load");
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
    let stored = || match list_topics(&address).iter().any(|t| t == topic) {
        true => watermarks(&address, topic).1,
        false => 0,
    };
    let before = stored();
    let mut dev =
        BridgeProcess::start(binary().args(["dev", "--kafka", &address, "--duration", "30s"]));
    wait_within(
        Duration::from_secs(20),
        "events of the simulated rooms",
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
