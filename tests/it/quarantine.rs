//! Quarantine: rejected items are stored before they are refused. Covers the record, copies, and
//! failures to store.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use butlr_event::EventType;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use xxhash_rust::xxh3::xxh3_128;

use crate::harness::{
    BridgeSetup, HttpResponse, KafkaBackend, TestBridge, TestRecord, binary, clock_ms, eventually,
    list_topics, minimal_event, read_records, toml, trials, unique_ms,
};
use crate::real_kafka::{delete_topics, describe_topic, kafka_address, unique_name};

trials! {
    "quarantine": [
        an_invalid_event_becomes_the_record_of_the_contract,
        an_arrays_items_are_kept_alone,
        what_is_not_json_is_kept_whole,
        further_tries_of_the_same_bytes_are_stored_once,
        the_same_bytes_at_the_same_moment_are_stored_once,
    ],
    "embedded": [
        a_record_is_stored_before_the_answer,
        a_record_stored_behind_a_503_is_not_stored_again,
        accepted_means_202,
        many_mistakes_are_cut_to_a_header,
        a_credential_is_recorded_by_name_only,
        too_large_or_unauthorized_bodies_are_not_quarantined,
        a_quarantine_that_is_off_keeps_nothing,
        without_kafka_it_is_503,
        a_topic_that_is_missing_is_503_and_events_flow,
        with_a_spool_a_missing_topic_keeps_nobody_waiting,
    ],
    "kafka" needs ["BUTLR_BRIDGE_TEST_KAFKA"]: [
        a_topic_that_is_deleted_is_503_until_it_is_back,
    ],
    "kafka" needs ["BUTLR_BRIDGE_TEST_KAFKA", "BUTLR_BRIDGE_TEST_JAVA_CP"]: [
        topics_creates_it_with_30_days,
    ],
}

const ROOM: EventType = EventType::RoomOccupancy;

type QuarantineCluster = MockCluster<'static, DefaultProducerContext>;

fn with_quarantine(setup: BridgeSetup) -> BridgeSetup {
    // Long enough for a Kafka that is creating topics for other tests.
    let setup = setup.set("http.answer_within", "10s");
    setup.set("quarantine.keep", true)
}

fn valid_event() -> String {
    minimal_event(
        ROOM,
        &format!("event_{}", unique_ms()),
        unique_ms(),
        "room_1",
    )
}

/// Builds an event with invalid data.
fn invalid_event() -> String {
    valid_event().replace("\"data\":4", "\"data\":-1")
}

fn quarantined_records(bridge: &TestBridge) -> Vec<TestRecord> {
    read_records(
        &bridge.bootstrap_servers,
        &bridge.config.topics.quarantine.name,
    )
}

fn header_texts(headers: &[(String, Vec<u8>)]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8(value.clone()).expect("headers are UTF-8");
        assert_eq!(all.insert(name.clone(), value), None, "{name} twice");
    }
    all
}

fn owned_pairs<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// Checks key, timestamp and time of receipt, and returns the other headers.
#[track_caller]
fn check_headers(record: &TestRecord, (from, to): (i64, i64)) -> BTreeMap<String, String> {
    let key = format!("{:032x}", xxh3_128(&record.value));
    assert_eq!(record.key.as_deref(), Some(key.as_bytes()));
    let mut headers = header_texts(&record.headers);
    let received = headers.remove("butlr-received-at").expect("a time");
    let time = humantime::parse_rfc3339(&received).expect("RFC 3339");
    let ms = time.duration_since(UNIX_EPOCH).expect("after 1970");
    assert_eq!(record.timestamp, Some(ms.as_millis() as i64), "{received}");
    assert!((from..=to).contains(&(ms.as_millis() as i64)), "{received}");
    assert!(headers.keys().all(|name| !name.starts_with("ce_")));
    headers
}

/// Returns the number of quarantined items of all types.
fn quarantined_count(bridge: &TestBridge) -> f64 {
    bridge.metric_sum("butlr_bridge_events_total", "outcome=\"quarantined\"")
}

fn an_invalid_event_becomes_the_record_of_the_contract() {
    let bridge = with_quarantine(BridgeSetup::default()).start();
    // Another spelling, bytes that a parser would write differently, and white space around them.
    let value = valid_event()
        .replace("ROOM_OCCUPANCY", "room_occupancy")
        .replace("\"data\":4", "\"data\" : -1.0 , \"ü\":\"\\u00fc\"")
        .replace("v1.0.0", "v2.0.0");
    let from = clock_ms();
    let response = bridge
        .request("POST", "/v1/events?token=open-sesame")
        .header("content-type", "application/json; charset=utf-8")
        .body(format!(" \r\n{value}\n\t"))
        .send();
    let between = (from, clock_ms());
    response.expect_problem(422, "invalid_event");
    assert_eq!(response.json()["quarantined"], true, "{}", response.text());
    assert_eq!(response.errors().len(), 2, "{}", response.text());

    let records = quarantined_records(&bridge);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].text(), value);
    let mut headers = check_headers(&records[0], between);
    let detail = headers.remove("butlr-error-detail").expect("a detail");
    assert!(
        detail.contains("/version") && detail.contains("/data"),
        "{detail}"
    );
    let expected = owned_pairs([
        ("butlr-error-codes", "unsupported_version,out_of_range"),
        ("butlr-path", "/v1/events"),
        ("butlr-credential", "anonymous"),
        ("butlr-claimed-type", "ROOM_OCCUPANCY"),
        ("content-type", "application/json; charset=utf-8"),
    ]);
    assert_eq!(headers, expected);

    let of_type = "butlr_bridge_events_total{outcome=\"quarantined\",type=\"ROOM_OCCUPANCY\"}";
    assert_eq!(bridge.metric(of_type), 1.0);
    let rejected = "butlr_bridge_rejections_total{code=\"invalid_event\"}";
    assert_eq!(bridge.metric(rejected), 1.0);
    assert!(bridge.records(ROOM).is_empty());
    let summary = bridge.finish();
    let ledger = summary.ledger;
    let outcome = butlr_bridge::metrics::EventOutcome::Quarantined;
    assert_eq!((ledger.received, ledger.count(outcome)), (1, 1));
}

fn an_arrays_items_are_kept_alone() {
    let bridge = with_quarantine(BridgeSetup::default()).start();
    let (first, last) = (valid_event(), valid_event());
    let mismatch = minimal_event(EventType::Traffic, "event_t", unique_ms(), "room_1");
    let (negative, number) = (invalid_event(), "17");
    let body = format!("[ {first} , {negative},\n{mismatch},{number},{negative} ,{last}]");
    let from = clock_ms();
    let response = bridge.post("/v1/events/room_occupancy", body);
    let results = response.expect(422).json()["results"].clone();
    let statuses: Vec<_> = (0..6).map(|i| results[i]["status"].clone()).collect();
    assert_eq!(
        statuses,
        [
            "published",
            "refused",
            "refused",
            "refused",
            "refused",
            "published"
        ]
    );
    for (i, kept) in [false, true, true, true, true, false].iter().enumerate() {
        assert_eq!(results[i]["quarantined"] == true, *kept, "{i}: {results}");
    }
    let records = quarantined_records(&bridge);
    // The same item is stored once.
    let found: BTreeMap<&str, BTreeMap<String, String>> = records
        .iter()
        .map(|r| (r.text(), check_headers(r, (from, clock_ms()))))
        .collect();
    assert_eq!((records.len(), found.len()), (3, 3));
    let header_of = |value: &str, name: &str| found[value].get(name).cloned();
    assert!(found.contains_key(negative.as_str()));
    assert_eq!(
        header_of(&mismatch, "butlr-error-codes").as_deref(),
        Some("type_mismatch")
    );
    assert_eq!(
        header_of(&mismatch, "butlr-claimed-type").as_deref(),
        Some("TRAFFIC")
    );
    assert_eq!(header_of(number, "butlr-claimed-type"), None);
    for value in found.keys() {
        let path = header_of(value, "butlr-path");
        assert_eq!(path.as_deref(), Some("/v1/events/room_occupancy"));
    }
    assert_eq!(quarantined_count(&bridge), 4.0);
    assert_eq!(bridge.records(ROOM).len(), 2);
}

fn what_is_not_json_is_kept_whole() {
    let bridge = with_quarantine(BridgeSetup::default().set("http.max_events", 2)).start();
    let event = valid_event();
    let half = event.len() / 2;
    let cases: Vec<(Vec<u8>, u16, &str)> = vec![
        (event.as_bytes()[..half].to_vec(), 400, "not_json"),
        (format!(" [{event},\n{event} ").into(), 400, "not_json"),
        (b"".to_vec(), 400, "not_json"),
        (b"\x00\xff\xfe{}".to_vec(), 400, "not_utf8"),
        (
            format!("\u{feff}{event}").into_bytes(),
            400,
            "byte_order_mark",
        ),
        (
            format!("{}{}", "[".repeat(80), "]".repeat(80)).into(),
            400,
            "too_deep",
        ),
        (br#"{"id":"\ud800"}"#.to_vec(), 400, "lone_surrogate"),
        (b" [ ] ".to_vec(), 422, "empty_array"),
        (
            format!("[{event},{event},{event}]").into(),
            422,
            "too_many_events",
        ),
    ];
    let from = clock_ms();
    for (body, status, code) in &cases {
        let request = bridge.request("POST", "/v1/events");
        let response = request.body(body).send();
        response.expect_problem(*status, code);
        assert_eq!(response.json()["quarantined"], true, "{}", response.text());
    }
    let records = quarantined_records(&bridge);
    assert_eq!(records.len(), cases.len());
    for (body, _, code) in &cases {
        let record = records.iter().find(|r| r.value == *body);
        let record = record.unwrap_or_else(|| panic!("{code}"));
        let mut headers = check_headers(record, (from, clock_ms()));
        assert!(headers.remove("butlr-error-detail").is_some());
        let expected = owned_pairs([
            ("butlr-error-codes", code),
            ("butlr-path", "/v1/events"),
            ("butlr-credential", "anonymous"),
        ]);
        assert_eq!(headers, expected, "{code}");
    }
    let unknown = "butlr_bridge_events_total{outcome=\"quarantined\",type=\"unknown\"}";
    assert_eq!(bridge.metric(unknown), cases.len() as f64);
}

fn further_tries_of_the_same_bytes_are_stored_once() {
    let bridge = with_quarantine(BridgeSetup::default()).start();
    let (body, other) = (invalid_event(), invalid_event());
    for _ in 0..3 {
        let response = bridge.send(&body);
        response.expect_problem(422, "invalid_event");
        assert_eq!(response.json()["quarantined"], true);
    }
    assert_eq!(quarantined_records(&bridge).len(), 1);
    bridge.send(&other).expect(422);
    // The same bytes by another route, in an array.
    bridge
        .post("/v1/events", format!("[{body},{other}]"))
        .expect(422);
    assert_eq!(quarantined_records(&bridge).len(), 2);
    assert_eq!(quarantined_count(&bridge), 6.0);
    // Not a duplicate of an event, which has its own counter.
    assert_eq!(bridge.metric_sum("butlr_bridge_duplicates_total", ""), 0.0);
}

fn the_same_bytes_at_the_same_moment_are_stored_once() {
    let bridge = with_quarantine(BridgeSetup::default()).start();
    for round in 0..5 {
        let body = invalid_event();
        let responses: Vec<_> = thread::scope(|scope| {
            let senders: Vec<_> = (0..8).map(|_| scope.spawn(|| bridge.send(&body))).collect();
            senders.into_iter().map(|s| s.join().unwrap()).collect()
        });
        for response in responses {
            response.expect_problem(422, "invalid_event");
            assert_eq!(response.json()["quarantined"], true);
        }
        assert_eq!(quarantined_records(&bridge).len(), round + 1);
    }
    assert_eq!(quarantined_count(&bridge), 40.0);
}

fn slow_down(cluster: &QuarantineCluster, by: Duration) {
    cluster
        .broker_round_trip_time(1, by)
        .expect("a socket option");
}

fn a_record_is_stored_before_the_answer() {
    let bridge = with_quarantine(BridgeSetup::embedded()).start();
    bridge.send(invalid_event()).expect(422);
    let by = Duration::from_millis(700);
    bridge
        .kafka()
        .with_cluster(move |cluster| slow_down(cluster, by));
    let (body, began) = (invalid_event(), Instant::now());
    thread::scope(|scope| {
        let first = scope.spawn(|| bridge.send(&body));
        thread::sleep(Duration::from_millis(100));
        // A copy gets no response before the first one is stored either.
        let copy = bridge.send(&body);
        assert!(began.elapsed() >= by, "{:?}", began.elapsed());
        for response in [copy, first.join().unwrap()] {
            assert_eq!(response.expect(422).json()["quarantined"], true);
        }
    });
    assert!(began.elapsed() >= by, "{:?}", began.elapsed());
    bridge
        .kafka()
        .with_cluster(|cluster| slow_down(cluster, Duration::ZERO));
    assert_eq!(quarantined_records(&bridge).len(), 2);
}

/// The claim outlives the request: a late report commits it, so the retry finds the item stored.
fn a_record_stored_behind_a_503_is_not_stored_again() {
    let bridge = with_quarantine(BridgeSetup::embedded())
        .set("http.answer_within", "400ms")
        .start();
    bridge.send(invalid_event()).expect(422);
    let set_delay = |ms| {
        let by = Duration::from_millis(ms);
        bridge
            .kafka()
            .with_cluster(move |cluster| slow_down(cluster, by));
    };
    let late = || bridge.metric("butlr_bridge_late_reports_total{result=\"stored\"}");
    // Slower than the response may be, faster than librdkafka gives up.
    let stored_before = eventually("a rejected item that is stored too late", || {
        let (body, late_before) = (invalid_event(), late());
        let stored_before = quarantined_records(&bridge).len();
        set_delay(450);
        let answer = bridge.send(&body);
        set_delay(0);
        // The retry comes while the first is undecided, or soon after.
        let again = bridge.send(&body);
        let is_late = answer.status == 503 && again.status == 422 && late() > late_before;
        is_late.then_some(stored_before)
    });
    assert_eq!(quarantined_records(&bridge).len(), stored_before + 1);
}

fn accepted_means_202() {
    let bridge = with_quarantine(BridgeSetup::embedded())
        .set("quarantine.answer", "accept")
        .start();
    for _ in 0..2 {
        let response = bridge.send(valid_event().replace("\"data\":4", "\"data\":\"x\""));
        let body = response.expect(202).json();
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(response.header("retry-after"), None);
        assert_eq!(body["status"], "quarantined");
        assert_eq!(body["errors"][0]["pointer"], "/data");
        assert_eq!(body["errors"][0]["code"], "wrong_type");
    }
    let cut = bridge.send("{").expect(202).json();
    assert_eq!(
        (&cut["status"], &cut["code"]),
        (&"quarantined".into(), &"not_json".into())
    );
    let body = format!("[{},{}]", valid_event(), invalid_event());
    let results = bridge.send(body).expect(200).json()["results"].clone();
    assert_eq!(results[0]["status"], "published");
    assert_eq!(results[1]["status"], "quarantined");
    assert_eq!(results[1]["errors"][0]["code"], "out_of_range");
    assert_eq!(
        (
            quarantined_records(&bridge).len(),
            quarantined_count(&bridge)
        ),
        (4, 4.0)
    );
    // An item that is not stored is not accepted.
    let large = valid_event().replace(
        "\"data\":4",
        &format!("\"data\":\"{}\"", "x".repeat(300_000)),
    );
    bridge.send(large).expect_problem(413, "event_too_large");
    bridge
        .kafka()
        .with_cluster(|cluster| cluster.broker_down(1))
        .unwrap();
    bridge.send(invalid_event()).expect(503);
}

fn many_mistakes_are_cut_to_a_header() {
    let bridge = with_quarantine(BridgeSetup::embedded()).start();
    let points = vec!["[\"é\"]"; 100].join(",");
    let body = minimal_event(EventType::Detections, "event_1", unique_ms(), "room_1");
    bridge.send(body.replace("[8.25,2]", &points)).expect(422);
    let record = &quarantined_records(&bridge)[0];
    let detail = record.header("butlr-error-detail").expect("a detail");
    assert!((1900..=2051).contains(&detail.len()), "{}", detail.len());
    assert!(detail.ends_with('…'));
    // Each code appears once.
    let codes = record.header("butlr-error-codes").expect("codes");
    let codes: Vec<_> = codes.split(',').collect();
    assert!((1..=3).contains(&codes.len()), "{codes:?}");
}

fn a_credential_is_recorded_by_name_only() {
    let bridge = with_quarantine(BridgeSetup::embedded())
        .set(
            "auth.api_keys",
            toml(r#"[{name="gateway", header="x-api-key", value="alpha-key"}]"#),
        )
        .set(
            "auth.basic",
            toml(r#"[{name="vendor", username="butlr-user", password="pass:word"}]"#),
        )
        .start();
    let basic = "Basic YnV0bHItdXNlcjpwYXNzOndvcmQ=";
    let sent = [
        ("x-api-key", "alpha-key", "gateway"),
        ("authorization", basic, "vendor"),
    ];
    for (header, value, _) in sent {
        let request = bridge.request("POST", "/v1/events?key=alpha-key");
        request
            .header(header, value)
            .body(invalid_event())
            .send()
            .expect(422);
    }
    let mut records = quarantined_records(&bridge);
    records.sort_by_key(|r| r.timestamp);
    let names: Vec<_> = records
        .iter()
        .map(|r| r.header("butlr-credential"))
        .collect();
    let expected: Vec<_> = sent.iter().map(|(.., name)| Some(*name)).collect();
    assert_eq!(names, expected);
    for (_, value) in records.iter().flat_map(|r| &r.headers) {
        let value = std::str::from_utf8(value).expect("text");
        for secret in [
            "alpha-key",
            "pass:word",
            "butlr-user",
            "YnV0bHI",
            "authorization",
        ] {
            assert!(!value.contains(secret), "{value}");
        }
    }
}

fn too_large_or_unauthorized_bodies_are_not_quarantined() {
    let bridge = with_quarantine(BridgeSetup::embedded())
        .set("http.max_body_bytes", 20_000)
        .set("http.max_event_bytes", 5_000)
        .set(
            "auth.api_keys",
            toml(r#"[{name="gateway", header="x-api-key", value="alpha-key"}]"#),
        )
        .start();
    let send = |key: &str, body: &str| {
        let request = bridge.request("POST", "/v1/events");
        request.header("x-api-key", key).body(body).send()
    };
    let not_kept = |response: HttpResponse, status, code| {
        response.expect_problem(status, code);
        assert!(response.json().get("quarantined").is_none());
    };
    not_kept(send("wrong", &invalid_event()), 401, "unauthorized");
    not_kept(send("wrong", "{"), 401, "unauthorized");
    not_kept(
        send("alpha-key", &"x".repeat(20_001)),
        413,
        "body_too_large",
    );
    // Neither does an event that is too large, valid or not.
    let large = "x".repeat(5_000);
    let too_large =
        invalid_event().replace("\"data\":-1", &format!("\"data\":-1,\"x\":\"{large}\""));
    not_kept(send("alpha-key", &too_large), 413, "event_too_large");
    // A body that is not even JSON may be as large as librdkafka permits.
    let whole = send("alpha-key", &large.repeat(2));
    whole.expect_problem(400, "not_json");
    assert_eq!(whole.json()["quarantined"], true);
    let array = format!("[{too_large},{}]", invalid_event());
    let results = send("alpha-key", &array).expect(422).json()["results"].clone();
    assert_eq!(results[0]["code"], "event_too_large");
    assert!(results[0].get("quarantined").is_none());
    assert_eq!(results[1]["quarantined"], true);
    assert_eq!(
        (
            quarantined_records(&bridge).len(),
            quarantined_count(&bridge)
        ),
        (2, 2.0)
    );
}

fn a_quarantine_that_is_off_keeps_nothing() {
    let bridge = BridgeSetup::embedded()
        .set("quarantine.keep", false)
        .set("quarantine.answer", "accept")
        .start();
    let response = bridge.send(invalid_event());
    response.expect_problem(422, "invalid_event");
    assert!(response.json().get("quarantined").is_none());
    let refused = bridge.metric_sum("butlr_bridge_events_total", "outcome=\"refused\"");
    assert_eq!((quarantined_count(&bridge), refused), (0.0, 1.0));
    let name = bridge.config.topics.quarantine.name.as_str();
    let topics = list_topics(&bridge.bootstrap_servers);
    assert!(!topics.iter().any(|topic| topic == name), "{topics:?}");
}

fn without_kafka_it_is_503() {
    let bridge = with_quarantine(BridgeSetup::embedded())
        .set("http.answer_within", "1s")
        .start();
    bridge.send(invalid_event()).expect(422);
    bridge
        .kafka()
        .with_cluster(|cluster| cluster.broker_down(1))
        .unwrap();
    let body = invalid_event();
    for _ in 0..2 {
        let began = Instant::now();
        let response = bridge.send(&body);
        assert!(began.elapsed() < Duration::from_secs(3));
        response.expect_problem(503, "kafka_unconfirmed");
        assert!(response.header("retry-after").is_some());
        assert!(response.json().get("quarantined").is_none());
    }
    let array = bridge.send(format!("[{body},17]")).expect(503).json();
    assert_eq!(array["results"][0]["code"], "kafka_unconfirmed");
    assert_eq!(quarantined_count(&bridge), 1.0);
    bridge
        .kafka()
        .with_cluster(|cluster| cluster.broker_up(1))
        .unwrap();
    let kept = eventually("the item is quarantined again", || {
        let response = bridge.send(&body);
        (response.status != 503).then_some(response)
    });
    kept.expect_problem(422, "invalid_event");
    let same = quarantined_records(&bridge);
    assert_eq!(same.iter().filter(|r| r.text() == body).count(), 1);
}

/// Returns the setup of a bridge whose broker lacks only the quarantine topic.
fn without_quarantine_topic(setup: BridgeSetup) -> BridgeSetup {
    with_quarantine(setup)
        .without_topics()
        .prepare_broker(|kafka| {
            for event_type in EventType::ALL {
                let topic = format!("butlr.event.{}.v1", event_type.kebab_name());
                let made = kafka.with_cluster(move |cluster| cluster.create_topic(&topic, 3, 1));
                made.expect("a topic");
            }
        })
}

fn a_topic_that_is_missing_is_503_and_events_flow() {
    let bridge = without_quarantine_topic(BridgeSetup::embedded()).start();
    eventually("the watch knows that the topic is missing", || {
        let response = bridge.send(invalid_event());
        response.expect(503);
        (response.code() == "topic_missing").then_some(())
    });
    let began = Instant::now();
    let response = bridge.send(invalid_event());
    response.expect_problem(503, "topic_missing");
    assert!(response.header("retry-after").is_some());
    assert!(began.elapsed() < Duration::from_secs(1));
    let results = bridge
        .send(format!("[{},{}]", valid_event(), invalid_event()))
        .expect(503)
        .json();
    assert_eq!(results["results"][0]["status"], "published");
    assert_eq!(results["results"][1]["code"], "topic_missing");
    bridge.send(valid_event()).expect(200);
    assert_eq!(quarantined_count(&bridge), 0.0);
    let name = bridge.config.topics.quarantine.name.clone();
    let made = bridge.kafka().with_cluster({
        let name = name.clone();
        move |cluster| cluster.create_topic(&name, 3, 1)
    });
    made.expect("a topic");
    eventually("the item is quarantined", || {
        let response = bridge.send(invalid_event());
        (response.status == 422).then_some(())
    });
    assert_eq!(quarantined_records(&bridge).len(), 1);
}

fn with_a_spool_a_missing_topic_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().expect("a directory");
    let dir = folder.path().join("spool").display().to_string();
    let bridge = without_quarantine_topic(BridgeSetup::embedded())
        .set("spool.dir", dir)
        .set("spool.min_free_bytes", 0)
        .start();
    let bodies = [invalid_event(), invalid_event()];
    for body in bodies.iter().chain(&bodies) {
        let response = bridge.send(body);
        response.expect_problem(422, "invalid_event");
        assert_eq!(response.json()["quarantined"], true);
    }
    assert_eq!(quarantined_count(&bridge), 4.0);
    bridge.send(valid_event()).expect(200);
    let name = bridge.config.topics.quarantine.name.clone();
    let from = clock_ms() - 60_000;
    let made = bridge
        .kafka()
        .with_cluster(move |cluster| cluster.create_topic(&name, 3, 1));
    made.expect("a topic");
    let records = eventually("both are in Kafka", || {
        let records = quarantined_records(&bridge);
        (records.len() >= 2).then_some(records)
    });
    for body in &bodies {
        let record = records.iter().find(|r| r.text() == body);
        let headers = check_headers(record.expect("a stored record"), (from, clock_ms()));
        assert_eq!(headers["butlr-error-codes"], "out_of_range");
    }
    // The same bytes count as stored, in Kafka and on disk.
    bridge.send(&bodies[0]).expect(422);
    assert_eq!(quarantined_records(&bridge).len(), 2);
}

fn a_topic_that_is_deleted_is_503_until_it_is_back() {
    let bridge = with_quarantine(BridgeSetup::with_kafka(KafkaBackend::Real)).start();
    let body = invalid_event();
    bridge.send(&body).expect(422);
    let name = bridge.config.topics.quarantine.name.clone();
    delete_topics(&bridge.bootstrap_servers, &[&name]);
    eventually("the watch knows that the topic is missing", || {
        let response = bridge.send(invalid_event());
        response.expect(503);
        (response.code() == "topic_missing").then_some(())
    });
    // As far as the bridge knows, its copy was stored.
    bridge.send(&body).expect(422);
    bridge.send(valid_event()).expect(200);
    crate::real_kafka::create_topics(&bridge.bootstrap_servers, &[&name], 3, &[]);
    eventually("the item is quarantined again", || {
        let response = bridge.send(invalid_event());
        (response.status == 422).then_some(())
    });
    assert_eq!(quarantined_records(&bridge).len(), 1);
}

fn topics_creates_it_with_30_days() {
    let prefix = unique_name("quarantine");
    let name = format!("{prefix}.quarantine");
    let topics = |more: &[&str]| {
        let mut command = binary();
        command.arg("topics").args(more);
        for setting in [
            format!("kafka.bootstrap_servers={}", kafka_address()),
            format!("topics.template={prefix}.{{type}}"),
            format!("topics.quarantine={name}"),
            "topics.partitions=2".to_owned(),
        ] {
            command.args(["--set", &setting]);
        }
        let output = command.output().expect("the binary");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    };
    let (code, output) = topics(&[]);
    assert_eq!(code, Some(1), "{output}");
    let mut lines = output.lines().skip_while(|line| !line.starts_with(&name));
    assert!(lines.next().is_some(), "{output}");
    assert!(
        lines.next().is_some_and(|l| l.contains("missing")),
        "{output}"
    );
    let (code, output) = topics(&["--apply"]);
    assert_eq!(code, Some(0), "{output}");
    let topic = describe_topic(&kafka_address(), &name);
    let setting = |name: &str| topic["configs"][name]["value"].clone();
    assert_eq!(topic["partitions"], 2, "{topic}");
    assert_eq!(setting("retention.ms"), (30 * 86_400_000_i64).to_string());
    assert_eq!(setting("message.timestamp.type"), "CreateTime");
    let (code, output) = topics(&[]);
    assert_eq!(code, Some(0), "{output}");
    let own: Vec<_> = list_topics(&kafka_address())
        .into_iter()
        .filter(|topic| topic.starts_with(&prefix))
        .collect();
    assert_eq!(own.len(), 11, "{own:?}");
    delete_topics(&kafka_address(), &own);

    // Without a quarantine, no topic is required.
    let (_, output) = topics(&["--set", "quarantine.keep=false"]);
    assert!(!output.contains(&name), "{output}");
}
