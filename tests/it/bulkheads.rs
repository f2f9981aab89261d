//! Isolation of topics: events of a broken topic get a quick response with a code for the cause,
//! and the other nine types keep their speed.

use std::thread;
use std::time::{Duration, Instant};

use butlr_bridge::kafka::embedded::EmbeddedKafka;
use butlr_event::EventType;
use rdkafka::types::RDKafkaRespErr;

use crate::harness::{
    BridgeSetup, HttpResponse, TestBridge, eventually, list_topics, minimal_event, trials,
    unique_ms,
};

trials! {
    "faults": [
        a_missing_topic_is_reported_at_once_and_never_created,
        a_topic_that_is_created_later_is_found,
        a_missing_topic_does_not_stop_the_rest_of_an_array,
        a_forbidden_topic_is_reported_at_once,
        a_dead_topic_fills_its_own_budget_only,
    ],
}

const DEAD_TYPE: EventType = EventType::Traffic;

fn valid_event(event_type: EventType, id: &str) -> String {
    minimal_event(event_type, id, unique_ms(), "space_1")
}

/// Starts a bridge whose broker has nine of the ten topics.
fn start_with_nine_topics() -> TestBridge {
    let bridge = BridgeSetup::embedded()
        .without_topics()
        .prepare_broker(|kafka| {
            for event_type in EventType::ALL.into_iter().filter(|&t| t != DEAD_TYPE) {
                let topic = format!("butlr.event.{}.v1", event_type.kebab_name());
                kafka
                    .with_cluster(move |cluster| cluster.create_topic(&topic, 3, 1))
                    .unwrap();
            }
        })
        .start();
    wait_for_state(&bridge, "missing");
    bridge
}

#[track_caller]
fn wait_for_state(bridge: &TestBridge, state: &str) {
    eventually("the watch sees the topic's state", || {
        (bridge.topic_state(DEAD_TYPE) == state).then_some(())
    });
}

/// Sends an event of the broken type, which must be refused with this code within a second.
#[track_caller]
fn send_refused_at_once(bridge: &TestBridge, code: &str) -> HttpResponse {
    let start = Instant::now();
    let response = bridge.send(valid_event(DEAD_TYPE, "event_1"));
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    response.expect_problem(503, code);
    assert_eq!(response.header("retry-after"), Some("5"));
    response
}

/// Checks that the other nine types are accepted in much less than the deadline.
#[track_caller]
fn assert_other_types_work(bridge: &TestBridge) {
    for event_type in EventType::ALL.into_iter().filter(|&t| t != DEAD_TYPE) {
        let start = Instant::now();
        bridge
            .send(valid_event(event_type, "event_other"))
            .expect(200);
        let took = start.elapsed();
        assert!(
            took < bridge.config.http.answer_within / 2,
            "{event_type}: {took:?}"
        );
    }
}

fn a_missing_topic_is_reported_at_once_and_never_created() {
    let bridge = start_with_nine_topics();
    for _ in 0..3 {
        let response = send_refused_at_once(&bridge, "topic_missing");
        assert_eq!(response.json()["id"], "event_1");
    }
    assert_other_types_work(&bridge);
    let topic = bridge.topic(DEAD_TYPE).to_owned();
    let available =
        |topic: &str| format!("butlr_bridge_kafka_topic_available{{topic=\"{topic}\"}}");
    assert_eq!(bridge.metric(&available(&topic)), 0.0);
    assert_eq!(
        bridge.metric(&available(bridge.topic(EventType::Detections))),
        1.0
    );
    // The topic must still be missing after several checks of the watch.
    thread::sleep(Duration::from_secs(3));
    let topics = list_topics(&bridge.bootstrap_servers);
    assert!(!topics.contains(&topic), "{topics:?}");
    assert_eq!(topics.len(), 9, "{topics:?}");
}

fn a_topic_that_is_created_later_is_found() {
    let bridge = start_with_nine_topics();
    bridge
        .send(valid_event(DEAD_TYPE, "event_1"))
        .expect_problem(503, "topic_missing");
    let topic = bridge.topic(DEAD_TYPE).to_owned();
    bridge
        .kafka()
        .with_cluster(move |cluster| cluster.create_topic(&topic, 3, 1))
        .unwrap();
    wait_for_state(&bridge, "available");
    bridge.send(valid_event(DEAD_TYPE, "event_2")).expect(200);
    assert_eq!(bridge.records(DEAD_TYPE).len(), 1);
}

fn a_missing_topic_does_not_stop_the_rest_of_an_array() {
    let bridge = start_with_nine_topics();
    let body = format!(
        "[{},{},{}]",
        valid_event(EventType::PirMotion, "event_1"),
        valid_event(DEAD_TYPE, "event_2"),
        valid_event(EventType::RoomOccupancy, "event_3")
    );
    let response = bridge.send(body);
    let results = response.expect(503).json()["results"].clone();
    assert_eq!(response.header("retry-after"), Some("5"));
    assert_eq!(results[0]["status"], "published");
    assert_eq!(results[1]["code"], "topic_missing");
    assert_eq!(results[2]["status"], "published");
}

fn a_forbidden_topic_is_reported_at_once() {
    let bridge = BridgeSetup::embedded().start();
    let topic = bridge.topic(DEAD_TYPE).to_owned();
    let set_error = |error| {
        let topic = topic.clone();
        bridge
            .kafka()
            .with_cluster(move |cluster| cluster.topic_error(&topic, error))
            .unwrap();
    };
    set_error(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    wait_for_state(&bridge, "forbidden");
    send_refused_at_once(&bridge, "topic_forbidden");
    assert_other_types_work(&bridge);
    set_error(RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
    wait_for_state(&bridge, "available");
    eventually("events are stored again", || {
        (bridge.send(valid_event(DEAD_TYPE, "event_2")).status == 200).then_some(())
    });
}

fn a_dead_topic_fills_its_own_budget_only() {
    const BUDGET: usize = 5;
    let set_leader = |kafka: &EmbeddedKafka, leader: Option<i32>| {
        for partition in 0..3 {
            let topic = format!("butlr.event.{}.v1", DEAD_TYPE.kebab_name());
            kafka
                .with_cluster(move |cluster| cluster.partition_leader(&topic, partition, leader))
                .unwrap();
        }
    };
    // Set before any producer knows a leader, because the embedded broker cannot take one away
    // later.
    let bridge = BridgeSetup::embedded()
        .set("kafka.max_in_flight_per_topic", BUDGET as i64)
        .set("http.answer_within", "4s")
        .prepare_broker(move |kafka| set_leader(kafka, None))
        .start();
    assert_other_types_work(&bridge);
    thread::scope(|scope| {
        let bridge = &bridge;
        let stuck: Vec<_> = (0..BUDGET)
            .map(|i| {
                scope.spawn(move || {
                    let start = Instant::now();
                    let response = bridge.send(valid_event(DEAD_TYPE, &format!("stuck_{i}")));
                    (response, start.elapsed())
                })
            })
            .collect();
        let lane =
            |bridge: &TestBridge| bridge.status()["types"][DEAD_TYPE.index()]["in_flight"].clone();
        eventually("the topic's budget is used up", || {
            (lane(bridge) == BUDGET).then_some(())
        });
        let start = Instant::now();
        let response = bridge.send(valid_event(DEAD_TYPE, "event_beyond"));
        let took = start.elapsed();
        response.expect_problem(503, "topic_overloaded");
        assert_eq!(response.header("retry-after"), Some("1"));
        assert!(took < bridge.config.http.answer_within / 2, "{took:?}");
        assert_other_types_work(bridge);
        for stuck in stuck {
            let (response, took) = stuck.join().unwrap();
            response.expect_problem(503, "kafka_unconfirmed");
            assert!(
                took < bridge.config.http.answer_within + Duration::from_secs(3),
                "{took:?}"
            );
        }
    });
    set_leader(bridge.kafka(), Some(1));
    eventually("its events are stored again", || {
        (bridge.send(valid_event(DEAD_TYPE, "event_again")).status == 200).then_some(())
    });
}
