//! Restart without a store: the bridge restores its memory from the ends of the topics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use butlr_bridge::config::{self, ConfigSources};
use butlr_bridge::dedup::EventFacts;
use butlr_bridge::dedup::claim::ReservationOutcome;
use butlr_bridge::dedup::memory::MemoryStore;
use butlr_bridge::dedup::rebuild::{RebuildContext, RebuildOutcome, rebuild};
use butlr_bridge::kafka::client;
use butlr_bridge::kafka::embedded::EmbeddedKafka;
use butlr_event::ksuid::Ksuid;
use butlr_event::{EventType, ParseLimits, ParsedBody, parse};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::json;

use crate::harness::{
    BridgeSetup, HttpResponse, KafkaBackend, TestBridge, TestRecord, eventually, minimal_event,
    read_records, trials, unique_ms,
};
use crate::real_kafka::{
    RealBroker, create_topics, delete_topics, free_address, kafka_address, lock_heavy, ten_topics,
    unique_name, wait_within,
};

trials! {
    "restart": [
        events_of_all_types_are_known_again,
        values_are_known_through_several_restarts,
        the_copy_of_a_conflict_is_known,
        what_is_older_than_the_window_is_not_taken,
        what_came_late_is_still_out_of_order,
        a_second_bridge_knows_what_the_first_stored,
        others_records_do_not_hurt,
        a_burst_of_old_events_hides_nothing,
        records_that_waited_on_disk_end_no_search,
        many_partitions_and_an_empty_tail,
        events_are_taken_while_it_goes_on,
        a_topic_that_is_missing_keeps_nobody_waiting,
        a_topic_that_may_not_be_read_is_reported,
        the_budget_of_records_is_kept,
        the_time_limit_holds,
        the_time_limit_begins_with_kafkas_first_answer,
        a_record_of_another_time_ends_no_search,
        stop_ends_the_reading_at_once,
        it_can_be_switched_off,
    ],
    "restart" needs ["BUTLR_BRIDGE_TEST_KAFKA"]: [
        markers_of_transactions_are_no_end,
        a_topic_that_grew_yields_the_current_values,
    ],
    "restart" needs ["BUTLR_BRIDGE_TEST_KAFKA", "BUTLR_BRIDGE_TEST_JAVA_CP"]: [
        a_kafka_that_is_back_later_is_read_then,
    ],
}

use EventType::{RoomOccupancy, Traffic};

const MINUTE: i64 = 60_000;

/// Ten topics that outlive the bridges, in the real Kafka if there is one, otherwise in an embedded
/// broker.
struct RestartFixture {
    template: String,
    address: String,
    embedded: Option<EmbeddedKafka>,
}

impl RestartFixture {
    fn new() -> Self {
        match std::env::var("BUTLR_BRIDGE_TEST_KAFKA") {
            Ok(address) if !address.is_empty() => {
                let template = unique_name("{type}");
                create_topics(&address, &ten_topics(&template), 3, &[]);
                Self {
                    template,
                    address,
                    embedded: None,
                }
            }
            _ => Self::embedded(3),
        }
    }

    fn embedded(partitions: i32) -> Self {
        let template = "restart.{type}".to_owned();
        let topics = ten_topics(&template).into_iter().map(|t| (t, partitions));
        let kafka = EmbeddedKafka::start(&topics.collect::<Vec<_>>()).expect("a broker");
        Self {
            template,
            address: kafka.bootstrap_servers().to_owned(),
            embedded: Some(kafka),
        }
    }

    fn setup(&self) -> BridgeSetup {
        BridgeSetup::with_kafka(KafkaBackend::Address(self.address.clone()))
            .set("topics.template", self.template.as_str())
    }

    /// Starts a bridge and waits until its memory is restored.
    fn bridge(&self) -> TestBridge {
        let bridge = self.setup().start();
        wait_until_rebuilt(&bridge);
        bridge
    }

    fn topic(&self, event_type: EventType) -> String {
        self.template.replace("{type}", event_type.kebab_name())
    }

    fn records(&self, event_type: EventType) -> Vec<TestRecord> {
        read_records(&self.address, &self.topic(event_type))
    }

    /// Publishes records without the bridge.
    fn write(&self, records: &[PlainRecord]) {
        write(&self.address, &[], records);
    }

    /// Restores a memory as a bridge would, and returns it with the outcome.
    fn read(
        &self,
        stop: &AtomicBool,
        change: impl FnOnce(&mut config::DedupConfig),
    ) -> (Arc<MemoryStore>, RebuildOutcome) {
        read_memory(&self.address, &self.template, stop, change)
    }
}

impl Drop for RestartFixture {
    fn drop(&mut self) {
        if self.embedded.is_none() && !std::thread::panicking() {
            delete_topics(&self.address, &ten_topics(&self.template));
        }
    }
}

fn read_memory(
    address: &str,
    template: &str,
    stop: &AtomicBool,
    change: impl FnOnce(&mut config::DedupConfig),
) -> (Arc<MemoryStore>, RebuildOutcome) {
    let flags = [
        ("kafka.bootstrap_servers", address),
        ("topics.template", template),
    ];
    let sources = ConfigSources {
        flags: flags.map(|(k, v)| (k.to_owned(), v.into())).into(),
        ..ConfigSources::default()
    };
    let mut config = config::load(&sources, &|_, _| Ok(())).expect("a configuration");
    change(&mut config.dedup);
    let names = config.topics.names();
    let memory = MemoryStore::new(&config.dedup, Instant::now());
    let consumer = client::base_config(&config.kafka, address);
    let context = RebuildContext {
        topics: &names,
        memory: &memory,
        settings: &config.dedup,
        stop,
    };
    let outcome = rebuild(consumer, context, &mut |_| ());
    (memory, outcome)
}

fn is_known(memory: &Arc<MemoryStore>, body: &str) -> bool {
    let limits = ParseLimits {
        max_events: 1,
        max_event_bytes: 10_000,
    };
    let Ok(ParsedBody::Single(Ok(event))) = parse(body.as_bytes(), None, limits) else {
        panic!("not an event: {body}");
    };
    let reservation = memory.reserve(&EventFacts::from_event(&event, true), Instant::now());
    matches!(reservation, ReservationOutcome::Redelivery { .. })
}

fn is_rebuilding(bridge: &TestBridge) -> bool {
    bridge.metric("butlr_bridge_dedup_rebuilding") == 1.0
}

fn wait_until_rebuilt(bridge: &TestBridge) {
    eventually("the memory is restored", || {
        (!is_rebuilding(bridge)).then_some(())
    });
}

/// Record that is not written by a bridge.
struct PlainRecord {
    topic: String,
    key: String,
    value: Option<Vec<u8>>,
    headers: Vec<(&'static str, String)>,
    timestamp_ms: i64,
}

impl PlainRecord {
    /// Builds the record that a bridge would write for an event received at `received_ms`.
    fn for_event(fixture: &RestartFixture, body: &str, received_ms: i64) -> Self {
        let value: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let event_type = value["type"].as_str().and_then(EventType::parse);
        let event_type = event_type.expect("a type");
        let time = std::time::UNIX_EPOCH + Duration::from_millis(received_ms.unsigned_abs());
        let received = humantime::format_rfc3339_millis(time).to_string();
        let room = value["metadata"]["room_id"].as_str().expect("a room");
        Self {
            topic: fixture.topic(event_type),
            key: room.to_owned(),
            headers: vec![
                ("ce_specversion", "1.0".to_owned()),
                ("ce_id", value["id"].as_str().expect("an id").to_owned()),
                ("ce_receivedat", received),
            ],
            timestamp_ms: value["timestamp"].as_i64().expect("a time"),
            value: Some(body.as_bytes().to_vec()),
        }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

fn write(address: &str, settings: &[(&str, &str)], records: &[PlainRecord]) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address);
    config.set("partitioner", "murmur2_random");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    let producer: BaseProducer = config.create().expect("a producer");
    let is_transaction = settings.iter().any(|(name, _)| *name == "transactional.id");
    let limit = Duration::from_secs(20);
    if is_transaction {
        producer.init_transactions(limit).expect("transactions");
        producer.begin_transaction().expect("a transaction");
    }
    for plain in records {
        let add = |all: OwnedHeaders, (key, value): &(&'static str, String)| {
            all.insert(Header {
                key,
                value: Some(value),
            })
        };
        let mut record: BaseRecord<'_, String, Vec<u8>> = BaseRecord::to(&plain.topic)
            .key(&plain.key)
            .timestamp(plain.timestamp_ms)
            .headers(plain.headers.iter().fold(OwnedHeaders::new(), add));
        record.payload = plain.value.as_ref();
        producer.send(record).map_err(|(e, _)| e).expect("queued");
    }
    producer.flush(limit).expect("stored");
    if is_transaction {
        producer.commit_transaction(limit).expect("committed");
    }
}

/// Adds partitions to a topic, as an operator would.
fn grow_topic(address: &str, topic: &str, partitions: usize) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address);
    let admin: AdminClient<DefaultClientContext> = config.create().expect("an admin client");
    let more = [NewPartitions::new(topic, partitions)];
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
    let grown = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(admin.create_partitions(&more, &options));
    for result in grown.expect("Kafka responds") {
        result.expect("partitions are added");
    }
}

/// Builds an id made this many seconds after 2014.
fn event_id(second: i64) -> String {
    let ms = (Ksuid::EPOCH_SECONDS + second) * 1000;
    format!("event_{}", Ksuid::new(ms, [7; 16]))
}

fn occupancy(id: &str, timestamp_ms: i64, value: u32) -> String {
    minimal_event(RoomOccupancy, id, timestamp_ms, "room_1")
        .replace("\"data\":4", &format!("\"data\":{value}"))
}

#[track_caller]
fn assert_published(response: &HttpResponse) {
    let reply = response.expect(200).json();
    assert_eq!(reply["status"], "published", "{reply}");
}

#[track_caller]
fn assert_duplicate(response: &HttpResponse, kind: &str) {
    let reply = response.expect(200).json();
    assert_eq!(
        (&reply["status"], &reply["kind"]),
        (&json!("duplicate"), &json!(kind)),
        "{reply}"
    );
}

fn events_of_all_types_are_known_again() {
    let fixture = RestartFixture::new();
    let now = unique_ms();
    let of = |n: usize, t: EventType| {
        let id = format!("event_{t}_{n}");
        minimal_event(t, &id, now, &format!("space_{n}"))
    };
    let first = fixture.bridge();
    for n in 0..5 {
        for event_type in EventType::ALL {
            assert_published(&first.send(of(n, event_type)));
        }
    }
    first.finish();
    let second = fixture.bridge();
    for event_type in EventType::ALL {
        for n in 0..5 {
            assert_duplicate(&second.send(of(n, event_type)), "redelivery");
        }
        assert_eq!(fixture.records(event_type).len(), 5);
    }
}

fn values_are_known_through_several_restarts() {
    let fixture = RestartFixture::new();
    let minute = unique_ms() - MINUTE;
    let bridge = fixture.bridge();
    assert_published(&bridge.send(occupancy(&event_id(100), minute, 4)));
    assert_duplicate(&bridge.send(occupancy(&event_id(160), minute, 4)), "repeat");
    bridge.finish();

    let bridge = fixture.bridge();
    assert_duplicate(
        &bridge.send(occupancy(&event_id(100), minute, 4)),
        "redelivery",
    );
    // Its id is in no topic.
    assert_duplicate(&bridge.send(occupancy(&event_id(160), minute, 4)), "repeat");
    assert_duplicate(&bridge.send(occupancy(&event_id(161), minute, 4)), "repeat");
    assert_published(&bridge.send(occupancy(&event_id(220), minute, 5)));
    bridge.finish();

    let bridge = fixture.bridge();
    assert_duplicate(
        &bridge.send(occupancy(&event_id(220), minute, 5)),
        "redelivery",
    );
    assert_published(&bridge.send(occupancy(&event_id(110), minute, 7)));
    // The dropped repeat again, of a value that is no longer current: no revision back to it.
    assert_published(&bridge.send(occupancy(&event_id(160), minute, 4)));
    assert_published(&bridge.send(occupancy(&event_id(280), minute, 4)));
    bridge.finish();

    let bridge = fixture.bridge();
    assert_duplicate(
        &bridge.send(occupancy(&event_id(110), minute, 7)),
        "redelivery",
    );
    assert_duplicate(
        &bridge.send(occupancy(&event_id(280), minute, 4)),
        "redelivery",
    );
    assert_duplicate(&bridge.send(occupancy(&event_id(300), minute, 4)), "repeat");
    assert_published(&bridge.send(occupancy(&event_id(340), minute, 5)));
    bridge.finish();

    let headers: Vec<_> = fixture
        .records(RoomOccupancy)
        .iter()
        .map(|r| {
            let header = |name| r.header(name).unwrap_or_default().to_owned();
            let names = ["ce_id", "ce_revision", "ce_supersedes", "ce_stale"];
            names.map(header)
        })
        .collect();
    let expected = [
        [event_id(100), "".into(), "".into(), "".into()],
        [event_id(220), "1".into(), event_id(100), "".into()],
        [event_id(110), "".into(), "".into(), "true".into()],
        [event_id(160), "".into(), "".into(), "true".into()],
        [event_id(280), "2".into(), event_id(220), "".into()],
        [event_id(340), "3".into(), event_id(280), "".into()],
    ];
    assert_eq!(headers, expected);
}

fn the_copy_of_a_conflict_is_known() {
    let fixture = RestartFixture::new();
    let now = unique_ms();
    let one = minimal_event(Traffic, "event_1", now, "room_1");
    let other = minimal_event(Traffic, "event_1", now, "room_2");
    let third = minimal_event(RoomOccupancy, "event_1", now, "room_1");
    for round in 0..3 {
        let bridge = fixture.bridge();
        for body in [&one, &other, &third] {
            match round {
                0 => assert_published(&bridge.send(body)),
                _ => assert_duplicate(&bridge.send(body), "redelivery"),
            }
        }
        bridge.finish();
    }
    assert_eq!(fixture.records(Traffic).len(), 2);
    let occupancies = fixture.records(RoomOccupancy);
    assert_eq!(occupancies[0].header("ce_originalid"), Some("event_1"));
}

fn what_is_older_than_the_window_is_not_taken() {
    let fixture = RestartFixture::new();
    let now = unique_ms();
    let body = |n: i64| {
        minimal_event(
            Traffic,
            &format!("event_{n}"),
            now - n,
            &format!("room_{n}"),
        )
    };
    let records = [
        PlainRecord::for_event(&fixture, &body(20), now - 20 * MINUTE),
        PlainRecord::for_event(&fixture, &body(16), now - 16 * MINUTE),
        PlainRecord::for_event(&fixture, &body(14), now - 14 * MINUTE),
        // From a bridge whose clock is ahead.
        PlainRecord::for_event(&fixture, &body(-5), now + 5 * MINUTE),
    ];
    fixture.write(&records);
    let bridge = fixture.bridge();
    assert_eq!(bridge.status()["dedup"]["ids"], 2);
    for n in [14, -5] {
        assert_duplicate(&bridge.send(body(n)), "redelivery");
    }
    for n in [16, 20] {
        assert_published(&bridge.send(body(n)));
    }
}

fn what_came_late_is_still_out_of_order() {
    let fixture = RestartFixture::new();
    let now = unique_ms();
    let bridge = fixture.bridge();
    assert_published(&bridge.send(minimal_event(
        EventType::PirMotion,
        "event_1",
        now,
        "room_1",
    )));
    bridge.finish();
    let bridge = fixture.bridge();
    assert_published(&bridge.send(minimal_event(
        EventType::PirMotion,
        "event_2",
        now - 1,
        "room_1",
    )));
    assert_eq!(
        bridge.metric_sum("butlr_bridge_out_of_order_total", ""),
        1.0
    );
}

/// A new machine gets nothing but the topics.
fn a_second_bridge_knows_what_the_first_stored() {
    let fixture = RestartFixture::new();
    let body = minimal_event(Traffic, "event_1", unique_ms(), "room_1");
    let first = fixture.bridge();
    assert_published(&first.send(&body));
    let second = fixture.bridge();
    assert_duplicate(&second.send(&body), "redelivery");
    // The second does not know later events of the first: they share no store.
    let later = minimal_event(Traffic, "event_2", unique_ms(), "room_1");
    assert_published(&first.send(&later));
    assert_published(&second.send(&later));
}

fn others_records_do_not_hurt() {
    let fixture = RestartFixture::new();
    let now = unique_ms();
    let body = |n: i64| minimal_event(Traffic, &format!("event_{n}"), now - n, "room_1");
    let ours = |n: i64| PlainRecord::for_event(&fixture, &body(n), now);
    let alien = |value: Option<Vec<u8>>, headers: Vec<(&'static str, String)>| PlainRecord {
        topic: fixture.topic(Traffic),
        key: "room_1".to_owned(),
        value,
        headers,
        timestamp_ms: now,
    };
    let long_ago = "2020-01-01T00:00:00.000Z";
    let received = ("ce_receivedat", long_ago.replace("2020", "2999"));
    let mut records = vec![ours(1)];
    for n in 0..3000 {
        records.push(match n % 8 {
            0 => alien(None, vec![]),
            1 => alien(Some(b"{}".to_vec()), vec![]),
            2 => alien(Some(vec![0xff, 0xfe, 0]), vec![("ce_id", "x".repeat(99))]),
            // An event without the time of receipt.
            3 => alien(Some(body(-n).into()), vec![("ce_receivedat", "now".into())]),
            4 => alien(Some(b"[[[[".to_vec()), vec![received.clone()]),
            5 => alien(
                Some(format!("[{}]", body(n)).into()),
                vec![received.clone()],
            ),
            6 => alien(None, vec![received.clone()]),
            _ => alien(Some(b"1".to_vec()), vec![("traceparent", String::new())]),
        });
    }
    records.push(alien(Some(vec![b' '; 900_000]), vec![received]));
    fixture.write(&records);
    let (memory, outcome) = fixture.read(&AtomicBool::new(false), |_| {});
    assert!(outcome.is_complete, "{outcome:?}");
    assert_eq!(
        (outcome.records, outcome.ids, outcome.unreadable),
        (3002, 1, 3001),
        "{outcome:?}"
    );
    assert!(is_known(&memory, &body(1)));
    let bridge = fixture.bridge();
    assert_duplicate(&bridge.send(body(1)), "redelivery");
    assert_published(&bridge.send(body(-3)));
}

/// Kafka's lookup by time would point behind these records, because it goes by the events' times.
fn a_burst_of_old_events_hides_nothing() {
    let fixture = RestartFixture::new();
    let now = unique_ms();
    let fresh = |n: i64| {
        minimal_event(
            Traffic,
            &format!("event_{n}"),
            now - n,
            &format!("room_{n}"),
        )
    };
    let old = |n: i64| {
        let time = now - 2 * 86_400_000 - n;
        minimal_event(
            Traffic,
            &format!("old_{n}"),
            time,
            &format!("room_{}", n % 50),
        )
    };
    let bridge = fixture.bridge();
    let send = |bodies: Vec<String>| {
        let response = bridge.send(format!("[{}]", bodies.join(",")));
        response.expect(200);
    };
    send((0..50).map(fresh).collect());
    for burst in 0..4 {
        send((0..1000).map(|n| old(1000 * burst + n)).collect());
    }
    bridge.finish();
    let bridge = fixture.bridge();
    for n in 0..50 {
        assert_duplicate(&bridge.send(fresh(n)), "redelivery");
        assert_duplicate(&bridge.send(old(n * 79)), "redelivery");
    }
}

fn records_that_waited_on_disk_end_no_search() {
    let fixture = RestartFixture::new();
    let now = unique_ms();
    let body = |n: i64| minimal_event(Traffic, &format!("event_{n}"), now - n, "room_1");
    let mut records = vec![PlainRecord::for_event(&fixture, &body(0), now - MINUTE)];
    for n in 1..3000 {
        // Half of them were received so long ago that they are not loaded.
        let age = match n % 2 {
            0 => 86_400_000,
            _ => 10 * MINUTE,
        };
        records
            .push(PlainRecord::for_event(&fixture, &body(n), now - age).with("ce_spooled", "true"));
    }
    fixture.write(&records);
    let bridge = fixture.bridge();
    assert_duplicate(&bridge.send(body(0)), "redelivery");
    assert_duplicate(&bridge.send(body(1)), "redelivery");
    assert_published(&bridge.send(body(2)));
}

fn many_partitions_and_an_empty_tail() {
    let fixture = RestartFixture::embedded(40);
    let body = |n: usize| {
        minimal_event(
            Traffic,
            &format!("event_{n}"),
            unique_ms(),
            &format!("room_{n}"),
        )
    };
    let bodies: Vec<_> = (0..300).map(body).collect();
    let bridge = fixture.bridge();
    let all = format!("[{}]", bodies.join(","));
    bridge.send(&all).expect(200);
    bridge.finish();
    let bridge = fixture.bridge();
    let response = bridge.send(&all).expect(200).json();
    let results = response["results"].as_array().expect("results");
    assert!(
        results.iter().all(|r| r["kind"] == "redelivery"),
        "{response}"
    );
}

fn events_are_taken_while_it_goes_on() {
    let fixture = RestartFixture::embedded(10);
    let kafka = fixture.embedded.as_ref().expect("embedded");
    let now = unique_ms();
    let before = minimal_event(Traffic, "event_before", now, "room_1");
    let meanwhile = minimal_event(Traffic, "event_meanwhile", now, "room_1");
    fixture.write(&[PlainRecord::for_event(&fixture, &before, now)]);
    let delay = |ms| {
        let set = move |cluster: &rdkafka::mocking::MockCluster<'static, _>| {
            cluster.broker_round_trip_time(1, Duration::from_millis(ms))
        };
        kafka.with_cluster(set).expect("a delay");
    };
    // Asking for the ends of so many partitions takes about 10 s.
    delay(100);
    let bridge = fixture.setup().start();
    assert!(is_rebuilding(&bridge));
    assert_eq!(bridge.status()["dedup"]["rebuilding"], true);
    // Sent twice: the second is compared with the events stored since the start.
    assert_published(&bridge.send(&meanwhile));
    assert_duplicate(&bridge.send(&meanwhile), "redelivery");
    // A copy that could not be recognised yet is counted as possible.
    assert_published(&bridge.send(&before));
    assert!(is_rebuilding(&bridge));
    let unchecked = bridge.metric_sum("butlr_bridge_dedup_unchecked_total", "");
    assert_eq!(unchecked, 2.0);
    delay(0);
    wait_until_rebuilt(&bridge);
    assert_duplicate(&bridge.send(&meanwhile), "redelivery");
    assert_duplicate(&bridge.send(&before), "redelivery");
    assert_eq!(bridge.status()["dedup"]["rebuilding"], false);
}

fn a_topic_that_is_missing_keeps_nobody_waiting() {
    let fixture = RestartFixture::new();
    let body = minimal_event(Traffic, "event_1", unique_ms(), "room_1");
    let bridge = fixture.bridge();
    assert_published(&bridge.send(&body));
    bridge.finish();
    let missing = fixture.topic(RoomOccupancy);
    if fixture.embedded.is_none() {
        delete_topics(&fixture.address, &[&missing]);
    }
    let (memory, outcome) = fixture.read(&AtomicBool::new(false), |_| {});
    assert!(outcome.is_complete, "{outcome:?}");
    assert!(is_known(&memory, &body));
    if fixture.embedded.is_none() {
        create_topics(&fixture.address, &[&missing], 3, &[]);
    }
    // Without any topic there is nothing to read.
    let none = "nobody.made.{type}";
    let (_, outcome) = read_memory(&fixture.address, none, &AtomicBool::new(false), |_| {});
    assert!(outcome.is_complete && outcome.records == 0, "{outcome:?}");
}

fn a_topic_that_may_not_be_read_is_reported() {
    use rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as DENIED;
    let fixture = RestartFixture::embedded(3);
    let now = unique_ms();
    let traffic = minimal_event(Traffic, "event_1", now, "room_1");
    let occupancy = occupancy(&event_id(1), now, 4);
    let bodies = [&traffic, &occupancy];
    fixture.write(&bodies.map(|body| PlainRecord::for_event(&fixture, body, now)));
    let kafka = fixture.embedded.as_ref().expect("embedded");
    let denied = fixture.topic(RoomOccupancy);
    let topic = denied.clone();
    kafka
        .with_cluster(move |cluster| cluster.topic_error(&topic, DENIED))
        .expect("an error");
    let (memory, outcome) = fixture.read(&AtomicBool::new(false), |_| {});
    let why = outcome.incomplete_reason.expect("a reason");
    assert!(why.contains(&denied) && !outcome.is_complete, "{why}");
    assert!(outcome.duration < Duration::from_secs(10));
    assert!(is_known(&memory, &traffic));
    assert!(!is_known(&memory, &occupancy));
    // A bridge keeps reporting it.
    let bridge = fixture.setup().without_waiting().start();
    wait_until_rebuilt(&bridge);
    let dedup = &bridge.status()["dedup"];
    let why = dedup["incomplete_reason"].as_str().expect("a reason");
    assert!(why.contains(&denied), "{why}");
}

fn the_budget_of_records_is_kept() {
    let fixture = RestartFixture::new();
    let now = unique_ms();
    let body = |n: i64| minimal_event(Traffic, &format!("event_{n}"), now, "room_1");
    let records: Vec<_> = (0..5000)
        .map(|n| PlainRecord::for_event(&fixture, &body(n), now - 5000 + n))
        .collect();
    fixture.write(&records);
    let stop = AtomicBool::new(false);
    let (memory, outcome) = fixture.read(&stop, |dedup| dedup.max_ids = 1000);
    assert!(!outcome.is_complete);
    assert!((500..=1000).contains(&outcome.records), "{outcome:?}");
    let why = outcome.incomplete_reason.expect("a reason");
    assert!(why.contains("dedup.max_ids"), "{why}");
    // The newest events, which are the first to be sent again.
    assert!(is_known(&memory, &body(4999)));
    assert!(!is_known(&memory, &body(0)));
    let (memory, outcome) = fixture.read(&stop, |_| {});
    assert!(outcome.is_complete, "{outcome:?}");
    assert!(is_known(&memory, &body(0)));
}

fn the_time_limit_holds() {
    let fixture = RestartFixture::embedded(40);
    let kafka = fixture.embedded.as_ref().expect("embedded");
    // Asking for the ends of so many partitions takes about 40 s.
    let delay = |cluster: &rdkafka::mocking::MockCluster<'static, _>| {
        cluster.broker_round_trip_time(1, Duration::from_millis(100))
    };
    kafka.with_cluster(delay).expect("a delay");
    let began = Instant::now();
    let (_, outcome) = fixture.read(&AtomicBool::new(false), |dedup| {
        dedup.rebuild_within = Duration::from_secs(1);
    });
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(!outcome.is_complete && outcome.records == 0);
    let why = outcome.incomplete_reason.expect("a reason");
    assert!(why.contains("1s (dedup.rebuild_within)"), "{why}");
}

/// Nothing can be stored before that either.
fn the_time_limit_begins_with_kafkas_first_answer() {
    let fixture = RestartFixture::embedded(3);
    let now = unique_ms();
    let body = minimal_event(Traffic, "event_1", now, "room_1");
    fixture.write(&[PlainRecord::for_event(&fixture, &body, now)]);
    let kafka = fixture.embedded.as_ref().expect("embedded");
    let set = |is_up: bool| {
        kafka.with_cluster(move |cluster| {
            if is_up {
                cluster.broker_up(1)
            } else {
                cluster.broker_down(1)
            }
        })
    };
    set(false).expect("down");
    let (memory, outcome) = std::thread::scope(|scope| {
        let stop = AtomicBool::new(false);
        let fixture = &fixture;
        let reading = scope.spawn(move || {
            fixture.read(&stop, |dedup| {
                dedup.rebuild_within = Duration::from_secs(3);
            })
        });
        std::thread::sleep(Duration::from_secs(5));
        assert!(!reading.is_finished());
        set(true).expect("up");
        reading.join().expect("the thread did not panic")
    });
    assert!(outcome.is_complete, "{outcome:?}");
    assert!(outcome.duration >= Duration::from_secs(5));
    assert!(is_known(&memory, &body));
}

fn a_record_of_another_time_ends_no_search() {
    let fixture = RestartFixture::new();
    let now = unique_ms();
    let body = |n: i64| minimal_event(Traffic, &format!("event_{n}"), now - n, "room_1");
    let of = |n: i64| match n % 500 {
        499 => PlainRecord::for_event(&fixture, &body(n), now - 86_400_000),
        _ => PlainRecord::for_event(&fixture, &body(n), now - MINUTE),
    };
    fixture.write(&(0..12_000).map(of).collect::<Vec<_>>());
    let (memory, outcome) = fixture.read(&AtomicBool::new(false), |_| {});
    assert!(outcome.is_complete, "{outcome:?}");
    assert_eq!((outcome.records, outcome.ids), (12_000, 12_000 - 24));
    assert!(is_known(&memory, &body(0)) && is_known(&memory, &body(11_998)));
}

fn stop_ends_the_reading_at_once() {
    let stop = AtomicBool::new(false);
    let address = free_address().to_string();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let (_, outcome) = read_memory(&address, "t.{type}", &stop, |_| {});
            (outcome, Instant::now())
        });
        std::thread::sleep(Duration::from_millis(500));
        let asked = Instant::now();
        stop.store(true, Ordering::Relaxed);
        let (outcome, ended) = reading.join().expect("the thread did not panic");
        let took = ended - asked;
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(outcome.incomplete_reason.as_deref(), Some("stopped"));
    });
    // The same for a bridge.
    let setup = BridgeSetup::with_kafka(KafkaBackend::Address(free_address().to_string()));
    let bridge = setup
        .set("shutdown.drain_delay", "0s")
        .without_waiting()
        .start();
    let asked = Instant::now();
    bridge.finish();
    assert!(asked.elapsed() < Duration::from_secs(5));
}

fn it_can_be_switched_off() {
    let fixture = RestartFixture::new();
    let body = minimal_event(Traffic, "event_1", unique_ms(), "room_1");
    let bridge = fixture.bridge();
    assert_published(&bridge.send(&body));
    bridge.finish();
    let bridge = fixture.setup().set("dedup.rebuild_within", "0s").start();
    assert!(!is_rebuilding(&bridge));
    assert_published(&bridge.send(&body));
    assert_duplicate(&bridge.send(&body), "redelivery");
}

/// Markers take offsets but are not records.
fn markers_of_transactions_are_no_end() {
    let fixture = RestartFixture::new();
    let now = unique_ms();
    let body = |n: i64| minimal_event(Traffic, &format!("event_{n}"), now - n, "room_1");
    for n in 0..20 {
        let id = unique_name("transaction");
        let settings = [("transactional.id", id.as_str())];
        write(
            &fixture.address,
            &settings,
            &[PlainRecord::for_event(&fixture, &body(n), now)],
        );
    }
    let began = Instant::now();
    let (memory, outcome) = fixture.read(&AtomicBool::new(false), |_| {});
    assert!(outcome.is_complete, "{outcome:?}");
    assert_eq!((outcome.records, outcome.ids), (20, 20));
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!((0..20).all(|n| is_known(&memory, &body(n))));
}

/// Keys move to other partitions, so a value and its replacement may lie in different ones.
fn a_topic_that_grew_yields_the_current_values() {
    let fixture = RestartFixture::new();
    let minute = unique_ms() - MINUTE;
    let rooms: Vec<_> = (0..20).map(|n| format!("room_{n}")).collect();
    let of = |second: i64, room: &str, value: u32| {
        minimal_event(
            RoomOccupancy,
            &format!("{}_{room}", event_id(second)),
            minute,
            room,
        )
        .replace("\"data\":4", &format!("\"data\":{value}"))
    };
    let bridge = fixture.bridge();
    for room in &rooms {
        assert_published(&bridge.send(of(100, room, 4)));
    }
    bridge.finish();
    grow_topic(&fixture.address, &fixture.topic(RoomOccupancy), 8);
    let bridge = fixture.bridge();
    for room in &rooms {
        assert_published(&bridge.send(of(200, room, 5)));
    }
    bridge.finish();
    let bridge = fixture.bridge();
    for room in &rooms {
        assert_duplicate(&bridge.send(of(100, room, 4)), "redelivery");
        assert_duplicate(&bridge.send(of(300, room, 5)), "repeat");
        assert_published(&bridge.send(of(400, room, 4)));
    }
}

fn a_kafka_that_is_back_later_is_read_then() {
    let _alone = lock_heavy();
    assert!(!kafka_address().is_empty());
    let broker = RealBroker::start();
    let template = "restart.{type}";
    create_topics(&broker.address(), &ten_topics(template), 3, &[]);
    let setup = || {
        BridgeSetup::with_kafka(KafkaBackend::Address(broker.address()))
            .set("topics.template", template)
    };
    let body = minimal_event(Traffic, "event_1", unique_ms(), "room_1");
    let bridge = setup().start();
    assert_published(&bridge.send(&body));
    bridge.finish();
    broker.stop();

    let bridge = setup().without_waiting().start();
    std::thread::sleep(Duration::from_secs(4));
    assert!(is_rebuilding(&bridge));
    broker.restart();
    bridge.wait_until_ready();
    wait_within(Duration::from_secs(15), "the memory is restored", || {
        !is_rebuilding(&bridge)
    });
    assert_duplicate(&bridge.send(&body), "redelivery");
    assert_eq!(read_records(&broker.address(), "restart.traffic").len(), 1);
}
