//! Faults during operation: fatal producer errors, disconnecting clients, late delivery reports.

use std::thread;
use std::time::Duration;

use butlr_event::EventType;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::harness::{
    BridgeSetup, HttpResponse, TestBridge, eventually, minimal_event, trials, unique_ms,
    write_request,
};

trials! {
    "faults": [
        a_producer_that_becomes_fatal_is_replaced,
        a_producer_that_is_fatal_from_the_start_is_replaced,
        a_producer_whose_epoch_ran_out_is_replaced,
        a_kafka_that_refuses_every_producer_is_not_hammered,
        errors_that_can_be_tried_again_are_not_seen_by_the_sender,
        errors_of_kafka_are_reported_by_their_code,
        an_event_that_kafka_finds_too_large_is_413,
        an_event_whose_client_goes_away_is_still_delivered,
        a_report_that_comes_too_late_is_counted,
        what_no_broker_confirmed_is_not_published,
        what_no_broker_confirmed_is_spooled_and_published_then,
        a_batch_that_the_broker_calls_a_duplicate_is_not_published,
    ],
}

use RDKafkaRespErr::*;

const ROOM: EventType = EventType::RoomOccupancy;
const REPLACEMENTS: &str = "butlr_bridge_kafka_producer_replacements_total";

fn valid_event(id: &str) -> String {
    minimal_event(ROOM, id, unique_ms(), "room_1")
}

fn inject_errors(bridge: &TestBridge, api: RDKafkaApiKey, errors: &'static [RDKafkaRespErr]) {
    bridge
        .kafka()
        .with_cluster(move |cluster| cluster.request_errors(api, errors));
}

#[track_caller]
fn assert_stores_again(bridge: &TestBridge) {
    eventually("events are stored again", || {
        (bridge.send(valid_event("event_again")).status == 200).then_some(())
    });
}

fn a_producer_that_becomes_fatal_is_replaced() {
    let bridge = BridgeSetup::embedded().start();
    bridge.send(valid_event("event_1")).expect(200);
    assert_eq!(bridge.metric(REPLACEMENTS), 0.0);
    // librdkafka treats this as a permanent sequence gap.
    inject_errors(
        &bridge,
        RDKafkaApiKey::Produce,
        &[RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER],
    );
    let response = bridge.send(valid_event("event_2"));
    response.expect(503);
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_stores_again(&bridge);
    assert_eq!(bridge.metric(REPLACEMENTS), 1.0);
    assert_eq!(bridge.status()["kafka"]["producer_replacements"], 1);
    // Covers all types and partitions, and causes no second replacement.
    for i in 0..20 {
        let event_type = EventType::ALL[i % 10];
        let body = minimal_event(event_type, "event_3", unique_ms(), &format!("space_{i}"));
        bridge.send(body).expect(200);
    }
    assert_eq!(bridge.metric(REPLACEMENTS), 1.0);
}

fn a_producer_whose_epoch_ran_out_is_replaced() {
    let bridge = BridgeSetup::embedded().start();
    bridge.send(valid_event("event_1")).expect(200);
    // A broker's response to an epoch that restarted at 0; librdkafka does not treat it as fatal.
    inject_errors(
        &bridge,
        RDKafkaApiKey::Produce,
        &[RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH; 3],
    );
    eventually("an event is refused because of the error", || {
        (bridge.send(valid_event("event_2")).status == 503).then_some(())
    });
    assert_stores_again(&bridge);
    assert!(bridge.metric(REPLACEMENTS) >= 1.0);
}

fn a_producer_that_is_fatal_from_the_start_is_replaced() {
    let bridge = BridgeSetup::embedded()
        .prepare_broker(|kafka| {
            kafka.with_cluster(|cluster| {
                let errors = [RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED];
                cluster.request_errors(RDKafkaApiKey::InitProducerId, &errors);
            });
        })
        .start();
    // Replaced without a refused event.
    eventually("the producer is replaced", || {
        (bridge.metric(REPLACEMENTS) == 1.0).then_some(())
    });
    bridge.send(valid_event("event_1")).expect(200);
}

fn a_kafka_that_refuses_every_producer_is_not_hammered() {
    let bridge = BridgeSetup::embedded()
        .prepare_broker(|kafka| {
            kafka.with_cluster(|cluster| {
                let errors = [RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED; 500];
                cluster.request_errors(RDKafkaApiKey::InitProducerId, &errors);
            });
        })
        .start();
    let before = bridge.metric(REPLACEMENTS);
    let start = std::time::Instant::now();
    thread::sleep(Duration::from_secs(3));
    let replaced = bridge.metric(REPLACEMENTS) - before;
    let seconds = start.elapsed().as_secs_f64();
    assert!(replaced >= 1.0, "the bridge keeps trying");
    assert!(replaced <= 2.0 * seconds + 1.0, "{replaced} in {seconds} s");
    let response = bridge.send(valid_event("event_1"));
    response.expect(503);
    bridge
        .kafka()
        .with_cluster(|cluster| cluster.clear_request_errors(RDKafkaApiKey::InitProducerId));
    assert_stores_again(&bridge);
}

fn errors_that_can_be_tried_again_are_not_seen_by_the_sender() {
    let bridge = BridgeSetup::embedded().start();
    bridge.send(valid_event("event_1")).expect(200);
    let errors = &[
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
    ];
    inject_errors(&bridge, RDKafkaApiKey::Produce, errors);
    bridge.send(valid_event("event_2")).expect(200);
    assert_eq!(bridge.records(ROOM).len(), 2);
    assert_eq!(bridge.metric(REPLACEMENTS), 0.0);
}

fn errors_of_kafka_are_reported_by_their_code() {
    let bridge = BridgeSetup::embedded().start();
    bridge.send(valid_event("event_1")).expect(200);
    for (error, status, code) in [
        (
            &[RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED],
            503,
            "topic_forbidden",
        ),
        (&[RD_KAFKA_RESP_ERR_INVALID_RECORD], 503, "kafka_refused"),
        (&[RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP], 503, "kafka_refused"),
    ] {
        inject_errors(&bridge, RDKafkaApiKey::Produce, error);
        let response = bridge.send(valid_event("event_refused"));
        response.expect_problem(status, code);
        assert!(response.header("retry-after").is_some());
        assert_stores_again(&bridge);
    }
}

fn an_event_that_kafka_finds_too_large_is_413() {
    let bridge = BridgeSetup::embedded().start();
    bridge.send(valid_event("event_1")).expect(200);
    inject_errors(
        &bridge,
        RDKafkaApiKey::Produce,
        &[RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE],
    );
    let padding = format!(r#"{{"padding":"{}","#, " ".repeat(100_000));
    let large = valid_event("event_2").replacen('{', &padding, 1);
    let response = bridge.send(large);
    response.expect_problem(413, "event_too_large");
    assert_eq!(response.header("retry-after"), None);
    assert_stores_again(&bridge);
    // For a small record, this error concerns the batch it was in, so it is retried.
    inject_errors(
        &bridge,
        RDKafkaApiKey::Produce,
        &[RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE],
    );
    let response = bridge.send(valid_event("event_3"));
    response.expect_problem(503, "kafka_refused");
    assert_stores_again(&bridge);
}

fn an_event_whose_client_goes_away_is_still_delivered() {
    let bridge = BridgeSetup::embedded()
        .set("http.answer_within", "10s")
        .start();
    bridge.send(valid_event("event_1")).expect(200);
    let delay = |millis| bridge.slow_down(Duration::from_millis(millis));
    delay(1000);
    let gone = valid_event("event_gone");
    let array = format!(
        "[{},{}]",
        valid_event("event_gone_2"),
        valid_event("event_gone_3")
    );
    for body in [&gone, &array] {
        let mut stream = bridge.connect();
        write_request(&mut stream, &[], body);
        eventually("the event is in flight", || {
            (bridge.metric("butlr_bridge_in_flight_events") > 0.0).then_some(())
        });
        drop(stream);
    }
    bridge.count_events(3);
    let published = "butlr_bridge_events_total{outcome=\"published\",type=\"ROOM_OCCUPANCY\"}";
    eventually("the events are counted as published", || {
        (bridge.metric(published) == 4.0).then_some(())
    });
    delay(0);
    let records = bridge.records(ROOM);
    assert_eq!(records.len(), 4);
    assert!(records.iter().any(|r| r.text() == gone));
    assert_eq!(bridge.metric("butlr_bridge_in_flight_events"), 0.0);
    assert_eq!(bridge.metric("butlr_bridge_in_flight_bytes"), 0.0);
}

fn a_report_that_comes_too_late_is_counted() {
    let bridge = BridgeSetup::embedded()
        .set("http.answer_within", "300ms")
        .start();
    eventually("Kafka is warm", || {
        (bridge.send(valid_event("event_1")).status == 200).then_some(())
    });
    let late = || bridge.metric_sum("butlr_bridge_late_reports_total", "");
    let before = late();
    bridge
        .kafka()
        .with_cluster(|cluster| cluster.broker_down(1))
        .unwrap();
    bridge
        .send(valid_event("event_2"))
        .expect_problem(503, "kafka_unconfirmed");
    // librdkafka checks for timed-out records once a second, usually after the response.
    for i in 0..10 {
        bridge.send(valid_event(&format!("event_{i}"))).expect(503);
    }
    eventually("a late report is counted", || {
        (late() > before).then_some(())
    });
    let lane = || bridge.status()["types"][ROOM.index()]["in_flight"].clone();
    eventually("nothing is in flight any more", || {
        (lane() == 0).then_some(())
    });
    bridge
        .kafka()
        .with_cluster(|cluster| cluster.broker_up(1))
        .unwrap();
    assert_stores_again(&bridge);
}

/// Sends two events to one partition. Kafka refuses the first temporarily and accepts the second,
/// as it does if it knows nothing of the producer yet; librdkafka then reports both as stored.
/// Returns both responses.
fn send_refused_and_overtaken(bridge: &TestBridge, bodies: [&str; 2]) -> [HttpResponse; 2] {
    eventually("Kafka is warm", || {
        (bridge.send(valid_event("event_1")).status == 200).then_some(())
    });
    let slow = |ms| bridge.slow_down(Duration::from_millis(ms));
    slow(500);
    inject_errors(
        bridge,
        RDKafkaApiKey::Produce,
        &[RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION],
    );
    let responses = thread::scope(|scope| {
        let received = bridge.metric_sum("butlr_bridge_received_total", "");
        let first = scope.spawn(|| bridge.send(bodies[0]));
        bridge.wait_until_received(received + 1.0);
        // By then the producer's linger has passed, so the first event is in its own request.
        thread::sleep(Duration::from_millis(30));
        let second = scope.spawn(|| bridge.send(bodies[1]));
        [first, second].map(|sent| sent.join().expect("answered"))
    });
    slow(0);
    responses
}

fn count_stored(bridge: &TestBridge, id: &str) -> usize {
    let records = bridge.records(ROOM);
    let with_id = records.iter().filter(|r| r.header("ce_id") == Some(id));
    with_id.count()
}

fn what_no_broker_confirmed_is_not_published() {
    let bridge = BridgeSetup::embedded().start();
    let body = valid_event("event_2");
    let [first, second] = send_refused_and_overtaken(&bridge, [&body, &valid_event("event_3")]);
    second.expect(200);
    assert_eq!(count_stored(&bridge, "event_3"), 1);
    assert_eq!(
        count_stored(&bridge, "event_2"),
        0,
        "the case did not occur"
    );
    first.expect_problem(503, "kafka_unconfirmed");
    // A retry by the sender counts as a new event.
    let again = bridge.send(&body).json();
    assert_eq!(again["status"], "published");
    assert_eq!(count_stored(&bridge, "event_2"), 1);
}

fn what_no_broker_confirmed_is_spooled_and_published_then() {
    let spool = tempfile::tempdir().expect("a temporary directory");
    let bridge = BridgeSetup::embedded()
        .set("spool.dir", spool.path().to_str().expect("UTF-8"))
        .set("kafka.confirm_within", "1s")
        .start();
    let body = valid_event("event_2");
    let [first, second] = send_refused_and_overtaken(&bridge, [&body, &valid_event("event_3")]);
    second.expect(200);
    first.expect(202);
    eventually("the event is stored", || {
        (count_stored(&bridge, "event_2") == 1).then_some(())
    });
    assert_eq!(bridge.send(&body).json()["kind"], "redelivery");
    assert_eq!(bridge.metric("butlr_bridge_kafka_presumed_total"), 1.0);
}

/// librdkafka takes the error for success and invents offsets.
fn a_batch_that_the_broker_calls_a_duplicate_is_not_published() {
    let bridge = BridgeSetup::embedded().start();
    eventually("Kafka is warm", || {
        (bridge.send(valid_event("event_1")).status == 200).then_some(())
    });
    // Keeps real offsets apart from invented ones; a matching one would not be believed.
    for n in 10..20 {
        bridge.send(valid_event(&format!("event_{n}"))).expect(200);
    }
    inject_errors(
        &bridge,
        RDKafkaApiKey::Produce,
        &[RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER],
    );
    let events = ["event_2", "event_3", "event_4"].map(valid_event);
    let response = bridge.send(format!("[{}]", events.join(",")));
    let reply = response.expect(503).json();
    for (n, id) in ["event_2", "event_3", "event_4"].iter().enumerate() {
        // Three in one batch; alone, the second and third are published.
        let published = reply["results"][n]["status"] == "published";
        assert_eq!(count_stored(&bridge, id), usize::from(published), "{reply}");
    }
    let presumed = bridge.metric("butlr_bridge_kafka_presumed_total");
    assert!((1.0..=3.0).contains(&presumed), "{presumed}");
}
