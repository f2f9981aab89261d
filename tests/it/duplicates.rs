//! Duplicate detection: redeliveries, repeats, revisions, stale and late events, reused ids.

use std::thread;
use std::time::Duration;

use butlr_event::EventType;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::harness::{
    BridgeSetup, HttpResponse, TestBridge, TestRecord, eventually, minimal_event, trials, unique_ms,
};

trials! {
    "duplicates": [
        a_redelivery_is_answered_and_not_published,
        how_a_reading_is_written_makes_no_difference,
        an_id_that_comes_with_another_reading_is_published_under_its_own,
        a_repeat_is_answered_and_its_id_remembered,
        a_revision_says_what_it_replaces_also_when_it_goes_back,
        an_earlier_computation_that_comes_late_is_stale,
        within_a_second_the_order_of_arrival_decides,
        events_older_than_the_newest_of_their_source_are_marked,
        only_occupancies_have_repeats_and_revisions,
        copies_inside_an_array_and_an_array_sent_again,
        an_array_with_a_repeat_and_a_revision_of_its_own_items,
        two_arrays_that_share_their_items_in_opposite_order,
        copies_at_the_same_moment_are_published_once,
        when_the_first_fails_one_of_those_that_wait_takes_its_place,
        a_record_stored_behind_a_503_makes_its_copy_a_redelivery,
        what_may_have_been_replaced_is_not_taken_for_current,
        a_revision_whose_answer_never_came_is_not_taken_for_not_stored,
        what_was_refused_is_not_remembered,
        tagged_duplicates_are_published_and_say_so,
        with_both_off_nothing_is_compared,
        only_redeliveries_can_be_dropped,
        what_is_older_than_the_window_is_new_again,
        at_the_bound_the_oldest_is_forgotten_and_counted,
        memory_is_shown_in_metrics_and_status,
    ],
}

use EventType::{Detections, PirMotion, RoomOccupancy, RoomOccupancy1Min, Traffic};

/// Builds a KSUID, the sender's form of an id, with this many seconds since 2014 and this last
/// digit.
fn ksuid(seconds: u32, last: u8) -> String {
    let mut payload = [0; 16];
    payload[15] = last;
    let computed_ms = (i64::from(seconds) + 1_400_000_000) * 1000;
    let id = butlr_event::ksuid::Ksuid::new(computed_ms, payload);
    format!("event_{id}")
}

fn occupancy(id: &str, timestamp_ms: i64, value: &str) -> String {
    minimal_event(RoomOccupancy, id, timestamp_ms, "room_1")
        .replace("\"data\":4", &format!("\"data\":{value}"))
}

fn detections(id: &str, timestamp_ms: i64, sensor: &str) -> String {
    minimal_event(Detections, id, timestamp_ms, "room_1").replace(
        "\"metadata\":{",
        &format!("\"metadata\":{{\"sensor_id\":\"{sensor}\","),
    )
}

#[track_caller]
fn assert_published(response: &HttpResponse) {
    let reply = response.expect(200).json();
    assert_eq!(reply["status"], "published", "{reply}");
    assert!(reply["partition"].is_i64(), "{reply}");
}

#[track_caller]
fn assert_duplicate(response: &HttpResponse, kind: &str, id: &str) {
    let reply = response.expect(200).json();
    let expected = serde_json::json!({"status": "duplicate", "kind": kind, "id": id});
    assert_eq!(reply, expected);
}

fn counter(bridge: &TestBridge, name: &str) -> f64 {
    bridge.metric_sum(&format!("butlr_bridge_{name}"), "")
}

fn duplicate_count(bridge: &TestBridge, kind: &str) -> f64 {
    bridge.metric_sum("butlr_bridge_duplicates_total", &format!("kind=\"{kind}\""))
}

/// Returns the headers that relate an event to stored ones.
fn marks(record: &TestRecord) -> Vec<(&str, &str)> {
    let known = [
        "ce_revision",
        "ce_supersedes",
        "ce_stale",
        "ce_duplicate",
        "ce_outoforder",
        "ce_idconflict",
        "ce_originalid",
    ];
    let found = known
        .into_iter()
        .filter_map(|name| Some((name, record.header(name)?)));
    found.collect()
}

fn find_by_id<'r>(records: &'r [TestRecord], id: &str) -> &'r TestRecord {
    let mut with_id = records.iter().filter(|r| r.header("ce_id") == Some(id));
    let found = with_id
        .next()
        .unwrap_or_else(|| panic!("{id} is not stored"));
    assert!(with_id.next().is_none(), "{id} is stored twice");
    found
}

fn a_redelivery_is_answered_and_not_published() {
    let bridge = BridgeSetup::default().start();
    for event_type in EventType::ALL {
        let id = format!("event_{event_type}");
        let body = minimal_event(event_type, &id, unique_ms(), "space_1");
        assert_published(&bridge.send(&body));
        for _ in 0..3 {
            assert_duplicate(&bridge.send(&body), "redelivery", &id);
        }
        assert_eq!(bridge.records(event_type).len(), 1, "{event_type}");
        let series =
            format!("butlr_bridge_duplicates_total{{kind=\"redelivery\",type=\"{event_type}\"}}");
        assert_eq!(bridge.metric(&series), 3.0);
    }
    let ended = bridge.metric_sum("butlr_bridge_events_total", "outcome=\"duplicate\"");
    assert_eq!(ended, 30.0);
}

fn how_a_reading_is_written_makes_no_difference() {
    let bridge = BridgeSetup::default().start();
    let now = unique_ms();
    assert_published(&bridge.send(occupancy("event_1", now, "4")));
    let body = occupancy("event_1", now, "40e-1");
    assert_duplicate(&bridge.send(body), "redelivery", "event_1");
    let turned = format!(
        r#" {{ "data" : 4.0, "metadata":{{"room_id":"room_1", "more": [1]}},
            "version":"v1.2","timestamp":{now}.0,"type":"room_occupancy","id":"event\u005f1" }} "#
    );
    assert_duplicate(&bridge.send(turned), "redelivery", "event_1");

    let traffic = |data: &str| {
        minimal_event(Traffic, "event_2", now, "room_1").replace(r#"{"in":1,"out":2}"#, data)
    };
    assert_published(&bridge.send(traffic(r#"{"in":1,"out":2,"x":{"a":1,"b":[2]}}"#)));
    let turned = traffic(r#"{"x":{"b":[2.0],"a":1},"out":2.0,"in":1}"#);
    assert_duplicate(&bridge.send(turned), "redelivery", "event_2");
    // Fields unknown to the bridge count as well, so that nothing is lost.
    let other = bridge.send(traffic(r#"{"in":1,"out":2,"x":{"a":1,"b":[3]}}"#));
    assert_published(&other);

    let detections = |data: &str| {
        minimal_event(Detections, "event_3", now, "room_1")
            .replace(r#"{"local":[[0.5,1]],"world":[[8.25,2]]}"#, data)
    };
    assert_published(&bridge.send(detections(r#"{"local":[[0.5,1]],"world":[[8.25,2]]}"#)));
    let turned = detections(r#"{"world":[[8.250,2e0]],"local":[[5e-1,1.0]]}"#);
    assert_duplicate(&bridge.send(turned), "redelivery", "event_3");
    let other = detections(r#"{"local":[[8.25,2]],"world":[[0.5,1]]}"#);
    assert_published(&bridge.send(other));
    let kept = detections(r#"{"local":[[0.5,1]],"world":[[8.25,2]]}"#);
    assert_duplicate(&bridge.send(kept), "redelivery", "event_3");

    assert_published(&bridge.send(minimal_event(PirMotion, "event_4", now, "room_1")));
    let with_null =
        minimal_event(PirMotion, "event_4", now, "room_1").replace("}}", r#"},"data":null}"#);
    assert_duplicate(&bridge.send(with_null), "redelivery", "event_4");
}

fn an_id_that_comes_with_another_reading_is_published_under_its_own() {
    let bridge = BridgeSetup::default().start();
    let now = unique_ms();
    let first = minimal_event(Traffic, "event_1", now, "room_1");
    let second = minimal_event(Traffic, "event_1", now + 1, "room_1");
    let third = minimal_event(Detections, "event_1", now, "room_1");
    for body in [&first, &second, &third] {
        assert_published(&bridge.send(body));
    }
    for body in [&first, &second, &third] {
        assert_duplicate(&bridge.send(body), "redelivery", "event_1");
    }
    let records = bridge.records(Traffic);
    assert_eq!(records.len(), 2);
    assert_eq!(marks(find_by_id(&records, "event_1")), []);
    let own = records
        .iter()
        .find(|r| r.header("ce_id") != Some("event_1"));
    let own = own.expect("the second");
    let hash = own
        .header("ce_id")
        .unwrap()
        .strip_prefix("event_1~")
        .unwrap();
    assert_eq!(hash.len(), 8, "{hash}");
    assert!(
        hash.bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    );
    let expected = [("ce_idconflict", "true"), ("ce_originalid", "event_1")];
    assert_eq!(marks(own), expected);
    assert_eq!(own.value, second.as_bytes());
    assert_eq!(bridge.records(Detections).len(), 1);
    assert_eq!(counter(&bridge, "id_conflicts_total"), 2.0);
}

fn a_repeat_is_answered_and_its_id_remembered() {
    let bridge = BridgeSetup::default().start();
    let now = unique_ms();
    assert_published(&bridge.send(occupancy("event_1", now, "4")));
    assert_duplicate(
        &bridge.send(occupancy("event_2", now, "4")),
        "repeat",
        "event_2",
    );
    assert_duplicate(
        &bridge.send(occupancy("event_2", now, "4")),
        "redelivery",
        "event_2",
    );
    // Another space, minute or type makes another reading.
    assert_published(&bridge.send(occupancy("event_3", now + 60_000, "4")));
    assert_published(&bridge.send(occupancy("event_4", now, "4").replace("room_1", "room_2")));
    assert_published(&bridge.send(minimal_event(RoomOccupancy1Min, "event_5", now, "room_1")));
    assert_eq!(bridge.records(RoomOccupancy).len(), 3);
    assert_eq!(
        (
            duplicate_count(&bridge, "repeat"),
            duplicate_count(&bridge, "redelivery")
        ),
        (1.0, 1.0)
    );
}

fn a_revision_says_what_it_replaces_also_when_it_goes_back() {
    let bridge = BridgeSetup::default().start();
    let now = unique_ms();
    let [a, b, c, d] = [1, 2, 3, 4].map(|n| ksuid(n, 0));
    assert_published(&bridge.send(occupancy(&a, now, "4")));
    assert_published(&bridge.send(occupancy(&b, now, "5")));
    assert_duplicate(&bridge.send(occupancy(&c, now, "5")), "repeat", &c);
    assert_published(&bridge.send(occupancy(&d, now, "4")));
    // A replaced value is recognised as well.
    assert_duplicate(&bridge.send(occupancy(&a, now, "4")), "redelivery", &a);
    let records = bridge.records(RoomOccupancy);
    assert_eq!(records.len(), 3);
    assert_eq!(marks(find_by_id(&records, &a)), []);
    assert_eq!(
        marks(find_by_id(&records, &b)),
        [("ce_revision", "1"), ("ce_supersedes", &a)]
    );
    assert_eq!(
        marks(find_by_id(&records, &d)),
        [("ce_revision", "2"), ("ce_supersedes", &b)]
    );
    assert_eq!(counter(&bridge, "revisions_total"), 2.0);
}

fn an_earlier_computation_that_comes_late_is_stale() {
    let bridge = BridgeSetup::default().start();
    let now = unique_ms();
    let [early, earlier, current, later] = [3, 2, 5, 6].map(|n| ksuid(n, 0));
    assert_published(&bridge.send(occupancy(&current, now, "5")));
    assert_published(&bridge.send(occupancy(&early, now, "4")));
    // Equal to the current value, so nothing is lost.
    assert_duplicate(
        &bridge.send(occupancy(&earlier, now, "5")),
        "repeat",
        &earlier,
    );
    assert_published(&bridge.send(occupancy(&later, now, "6")));
    let records = bridge.records(RoomOccupancy);
    assert_eq!(marks(find_by_id(&records, &early)), [("ce_stale", "true")]);
    let revision = [("ce_revision", "1"), ("ce_supersedes", &*current)];
    assert_eq!(marks(find_by_id(&records, &later)), revision);
    assert_eq!(counter(&bridge, "stale_total"), 1.0);
    assert_eq!(counter(&bridge, "out_of_order_total"), 0.0);
}

fn within_a_second_the_order_of_arrival_decides() {
    let bridge = BridgeSetup::default().start();
    let now = unique_ms();
    let ids = [ksuid(7, 9), ksuid(7, 1), "no ksuid".to_owned(), ksuid(1, 0)];
    for (id, value) in ids.iter().zip(["1", "2", "3", "4"]) {
        assert_published(&bridge.send(occupancy(id, now, value)));
    }
    let records = bridge.records(RoomOccupancy);
    for (n, pair) in ids.windows(2).enumerate() {
        let number = (n + 1).to_string();
        let expected = [("ce_revision", &*number), ("ce_supersedes", &*pair[0])];
        assert_eq!(marks(find_by_id(&records, &pair[1])), expected);
    }
}

fn events_older_than_the_newest_of_their_source_are_marked() {
    let bridge = BridgeSetup::default().start();
    let now = unique_ms();
    // Order is tracked by sensor, not by room.
    assert_published(&bridge.send(detections("event_1", now, "sensor_1")));
    assert_published(&bridge.send(detections("event_2", now - 10, "sensor_2")));
    assert_published(&bridge.send(detections("event_3", now - 5, "sensor_1")));
    assert_published(&bridge.send(detections("event_4", now, "sensor_1")));
    let records = bridge.records(Detections);
    assert_eq!(marks(find_by_id(&records, "event_2")), []);
    assert_eq!(
        marks(find_by_id(&records, "event_3")),
        [("ce_outoforder", "true")]
    );
    assert_eq!(
        marks(find_by_id(&records, "event_4")),
        [],
        "an event of the same age is in order"
    );

    // Order is tracked by space; revisions and the like do not count.
    let minute = |n: i64| now - n * 60_000;
    assert_published(&bridge.send(occupancy(&ksuid(1, 0), minute(3), "1")));
    assert_published(&bridge.send(occupancy(&ksuid(2, 0), minute(1), "1")));
    assert_published(&bridge.send(occupancy(&ksuid(3, 0), minute(2), "1")));
    assert_published(&bridge.send(occupancy(&ksuid(4, 0), minute(3), "2")));
    assert_published(&bridge.send(occupancy(&ksuid(3, 1), minute(3), "3")));
    let records = bridge.records(RoomOccupancy);
    assert_eq!(
        marks(find_by_id(&records, &ksuid(3, 0))),
        [("ce_outoforder", "true")]
    );
    assert_eq!(
        marks(find_by_id(&records, &ksuid(4, 0)))[0],
        ("ce_revision", "1")
    );
    assert_eq!(
        marks(find_by_id(&records, &ksuid(3, 1))),
        [("ce_stale", "true")]
    );

    // An event two hours ahead must not make all later ones late.
    assert_published(&bridge.send(minimal_event(
        PirMotion,
        "event_5",
        now + 7_200_000,
        "room_1",
    )));
    assert_published(&bridge.send(minimal_event(PirMotion, "event_6", now, "room_1")));
    assert_eq!(marks(find_by_id(&bridge.records(PirMotion), "event_6")), []);
    assert_eq!(counter(&bridge, "out_of_order_total"), 2.0);
}

fn only_occupancies_have_repeats_and_revisions() {
    let bridge = BridgeSetup::default().start();
    let now = unique_ms();
    for event_type in [Detections, Traffic, PirMotion] {
        assert_published(&bridge.send(minimal_event(event_type, &ksuid(2, 0), now, "room_1")));
        assert_published(&bridge.send(minimal_event(event_type, &ksuid(3, 0), now, "room_1")));
        assert_published(&bridge.send(minimal_event(event_type, &ksuid(1, 0), now, "room_1")));
        let records = bridge.records(event_type);
        assert_eq!(records.len(), 3);
        // Each id is used once per type, so the later types are conflicts.
        let kinds = records.iter().flat_map(marks).map(|(name, _)| name);
        assert!(
            kinds
                .into_iter()
                .all(|name| name == "ce_idconflict" || name == "ce_originalid")
        );
    }
    assert_eq!(counter(&bridge, "events_total"), 9.0);
}

fn statuses(response: &HttpResponse) -> Vec<String> {
    let reply = response.expect(200).json();
    let results = reply["results"].as_array().expect("results");
    let status = |r: &serde_json::Value| match r["kind"].as_str() {
        Some(kind) => kind.to_owned(),
        None => r["status"].as_str().expect("a status").to_owned(),
    };
    results.iter().map(status).collect()
}

fn copies_inside_an_array_and_an_array_sent_again() {
    let bridge = BridgeSetup::default().start();
    let now = unique_ms();
    let (a, b) = (
        minimal_event(Traffic, "event_a", now, "room_1"),
        detections("event_b", now, "s"),
    );
    let body = format!("[{a},{b},{a},{b},{a}]");
    let first = statuses(&bridge.send(&body));
    assert_eq!(
        first,
        [
            "published",
            "published",
            "redelivery",
            "redelivery",
            "redelivery"
        ]
    );
    assert_eq!(statuses(&bridge.send(&body)), ["redelivery"; 5]);
    assert_duplicate(&bridge.send(&a), "redelivery", "event_a");
    assert_eq!(
        (
            bridge.records(Traffic).len(),
            bridge.records(Detections).len()
        ),
        (1, 1)
    );

    // The largest array, sent at the same moment by several senders.
    let many: Vec<_> = (0..1000)
        .map(|n| minimal_event(Traffic, &format!("event_{n}"), now, &format!("room_{n}")))
        .collect();
    let body = format!("[{}]", many.join(","));
    let all = thread::scope(|scope| {
        let sent: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| statuses(&bridge.send(&body))))
            .collect();
        let all = sent.into_iter().map(|s| s.join().expect("answered"));
        all.collect::<Vec<_>>()
    });
    for place in 0..1000 {
        let published = all.iter().filter(|one| one[place] == "published").count();
        assert_eq!(published, 1, "item {place}");
    }
    assert_eq!(bridge.records(Traffic).len(), 1001);
}

fn an_array_with_a_repeat_and_a_revision_of_its_own_items() {
    let bridge = BridgeSetup::default().start();
    let now = unique_ms();
    let items = [
        ("a", "4"),
        ("b", "4"),
        ("c", "5"),
        ("d", "5"),
        ("a", "4"),
        ("e", "4"),
    ]
    .map(|(id, value)| occupancy(&format!("event_{id}"), now, value));
    let response = bridge.send(format!("[{}]", items.join(",")));
    let expected = [
        "published",
        "repeat",
        "published",
        "repeat",
        "redelivery",
        "published",
    ];
    assert_eq!(statuses(&response), expected);
    let records = bridge.records(RoomOccupancy);
    assert_eq!(records.len(), 3);
    let last = find_by_id(&records, "event_e");
    assert_eq!(
        marks(last),
        [("ce_revision", "2"), ("ce_supersedes", "event_c")]
    );
}

fn two_arrays_that_share_their_items_in_opposite_order() {
    let bridge = BridgeSetup::embedded().start();
    bridge
        .kafka()
        .with_cluster(|cluster| cluster.broker_round_trip_time(1, Duration::from_millis(50)))
        .unwrap();
    for round in 0..5 {
        let now = unique_ms();
        let mut items: Vec<_> = (0..20)
            .map(|n| minimal_event(Traffic, &format!("event_{round}_{n}"), now, "room_1"))
            .collect();
        let forward = format!("[{}]", items.join(","));
        items.reverse();
        let backward = format!("[{}]", items.join(","));
        let (a, b) = thread::scope(|scope| {
            let a = scope.spawn(|| statuses(&bridge.send(&forward)));
            let b = scope.spawn(|| statuses(&bridge.send(&backward)));
            (a.join().expect("answered"), b.join().expect("answered"))
        });
        let published = |all: &[String]| all.iter().filter(|s| *s == "published").count();
        assert_eq!(published(&a) + published(&b), 20, "{a:?} {b:?}");
    }
    assert_eq!(bridge.records(Traffic).len(), 100);
}

/// Starts a bridge on a broker so slow that copies arrive while the first is in flight.
fn start_slow_bridge() -> TestBridge {
    let bridge = BridgeSetup::embedded().set("http.workers", 2).start();
    bridge
        .send(minimal_event(Traffic, "event_warm", unique_ms(), "room_1"))
        .expect(200);
    let slow = Duration::from_millis(300);
    bridge
        .kafka()
        .with_cluster(move |cluster| cluster.broker_round_trip_time(1, slow))
        .unwrap();
    bridge
}

fn copies_at_the_same_moment_are_published_once() {
    let bridge = start_slow_bridge();
    let now = unique_ms();
    let body = minimal_event(Traffic, "event_1", now, "room_1");
    let all = thread::scope(|scope| {
        let sent: Vec<_> = (0..12)
            .map(|_| scope.spawn(|| bridge.send(&body).json()))
            .collect();
        let all = sent.into_iter().map(|s| s.join().expect("answered"));
        all.collect::<Vec<_>>()
    });
    let firsts = all
        .iter()
        .filter(|result| result["status"] == "published")
        .count();
    let duplicates = all
        .iter()
        .filter(|result| result["kind"] == "redelivery")
        .count();
    assert_eq!((firsts, duplicates), (1, 11), "{all:?}");

    // A revision waits until the value for the same minute is stored.
    let received = bridge.metric_sum("butlr_bridge_received_total", "");
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| bridge.send(occupancy("event_2", now, "4")));
        bridge.wait_until_received(received + 1.0);
        let second = scope.spawn(|| bridge.send(occupancy("event_3", now, "5")));
        (
            first.join().expect("answered"),
            second.join().expect("answered"),
        )
    });
    assert_published(&first);
    assert_published(&second);
    let records = bridge.records(RoomOccupancy);
    let revision = [("ce_revision", "1"), ("ce_supersedes", "event_2")];
    assert_eq!(marks(find_by_id(&records, "event_3")), revision);
}

fn when_the_first_fails_one_of_those_that_wait_takes_its_place() {
    let bridge = start_slow_bridge();
    // A permanent rejection: nothing is stored.
    let errors = &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS];
    bridge
        .kafka()
        .with_cluster(|cluster| cluster.request_errors(RDKafkaApiKey::Produce, errors));
    let body = minimal_event(Traffic, "event_1", unique_ms(), "room_1");
    let all = thread::scope(|scope| {
        let sent: Vec<_> = (0..6).map(|_| scope.spawn(|| bridge.send(&body))).collect();
        let all = sent.into_iter().map(|s| s.join().expect("answered"));
        all.collect::<Vec<_>>()
    });
    let count = |what: &dyn Fn(&HttpResponse) -> bool| all.iter().filter(|a| what(a)).count();
    assert_eq!(count(&|a| a.status == 503), 1);
    assert_eq!(count(&|a| a.json()["status"] == "published"), 1);
    assert_eq!(count(&|a| a.json()["kind"] == "redelivery"), 4);
    let with_id = |r: &&TestRecord| r.header("ce_id") == Some("event_1");
    assert_eq!(bridge.records(Traffic).iter().filter(with_id).count(), 1);
}

fn a_record_stored_behind_a_503_makes_its_copy_a_redelivery() {
    let bridge = BridgeSetup::embedded()
        .set("http.answer_within", "400ms")
        .start();
    bridge
        .send(minimal_event(Traffic, "event_warm", unique_ms(), "room_1"))
        .expect(200);
    // Slower than the deadline of the response, faster than librdkafka's timeout.
    let stored = eventually("a record that is stored too late", || {
        let id = format!("event_{}", unique_ms());
        let body = minimal_event(Traffic, &id, unique_ms(), "room_1");
        let slow = |ms| bridge.slow_down(Duration::from_millis(ms));
        slow(450);
        let late = bridge.metric("butlr_bridge_late_reports_total{result=\"stored\"}");
        let response = bridge.send(&body);
        slow(0);
        if response.status != 503 {
            return None;
        }
        // The copy arrives while the first is undecided, or soon after.
        let again = bridge.send(&body);
        let is_late = bridge.metric("butlr_bridge_late_reports_total{result=\"stored\"}") > late;
        (is_late && again.status == 200).then_some((id, again))
    });
    let (id, again) = stored;
    assert_duplicate(&again, "redelivery", &id);
}

/// The last value in Kafka may be the revision with an unknown outcome, so going back is published.
fn what_may_have_been_replaced_is_not_taken_for_current() {
    use RDKafkaRespErr::*;
    let bridge = BridgeSetup::embedded().start();
    // A forbidden topic is not retried for a moment, and the producer may have to be replaced.
    let taken = |id: &str, minute, value| {
        eventually("the event is accepted", || {
            let response = bridge.send(occupancy(id, minute, value));
            (response.status == 200).then_some(response)
        })
    };
    // Result of going back after a revision that failed with this error.
    let back_after = |error| {
        let minute = unique_ms();
        let [a, b, c, d] = [1, 2, 3, 4].map(|n| format!("event_{n}_{minute}"));
        assert_published(&taken(&a, minute, "4"));
        bridge
            .kafka()
            .with_cluster(move |cluster| cluster.request_errors(RDKafkaApiKey::Produce, &[error]));
        bridge.send(occupancy(&b, minute, "5")).expect(503);
        let back = taken(&c, minute, "4").json();
        // From now on the current value is known again.
        assert_duplicate(&bridge.send(occupancy(&d, minute, "4")), "repeat", &d);
        let records = bridge.records(RoomOccupancy);
        let record = records.iter().find(|r| r.header("ce_id") == Some(&c));
        let revision = record.map(|r| r.header("ce_supersedes") == Some(&a));
        (back["status"] == "published", revision)
    };
    for unknown in [
        RD_KAFKA_RESP_ERR_UNKNOWN,
        RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
    ] {
        assert_eq!(back_after(unknown), (true, Some(true)), "{unknown:?}");
    }
    let certain = RD_KAFKA_RESP_ERR_INVALID_RECORD;
    assert_eq!(back_after(certain), (false, None));
}

/// Kafka does not respond within the deadline.
fn a_revision_whose_answer_never_came_is_not_taken_for_not_stored() {
    let bridge = BridgeSetup::embedded()
        .set("http.answer_within", "600ms")
        .start();
    let slow = |ms| bridge.slow_down(Duration::from_millis(ms));
    let minute = unique_ms();
    eventually("Kafka is warm", || {
        (bridge.send(occupancy("event_a", minute, "4")).status == 200).then_some(())
    });
    slow(5_000);
    let failed = || bridge.metric("butlr_bridge_late_reports_total{result=\"failed\"}");
    let before = failed();
    bridge.send(occupancy("event_b", minute, "5")).expect(503);
    eventually("librdkafka has given up the record", || {
        (failed() > before).then_some(())
    });
    slow(0);
    let back = eventually("Kafka is back", || {
        let back = bridge.send(occupancy("event_c", minute, "4"));
        (back.status == 200).then_some(back)
    });
    assert_published(&back);
}

fn what_was_refused_is_not_remembered() {
    let bridge = BridgeSetup::embedded()
        .without_topics()
        .without_waiting()
        .start();
    let body = minimal_event(Traffic, "event_1", unique_ms(), "room_1");
    eventually("the topic is known to be missing", || {
        (bridge.send(&body).code() == "topic_missing").then_some(())
    });
    let topic = bridge.topic(Traffic).to_owned();
    bridge
        .kafka()
        .with_cluster(move |cluster| cluster.create_topic(&topic, 1, 1))
        .unwrap();
    let response = eventually("the event is stored", || {
        let response = bridge.send(&body);
        (response.status == 200).then_some(response)
    });
    assert_published(&response);
    assert_duplicate(&bridge.send(&body), "redelivery", "event_1");
}

fn tagged_duplicates_are_published_and_say_so() {
    let bridge = BridgeSetup::default()
        .set("dedup.redelivery", "tag")
        .set("dedup.repeat", "tag")
        .start();
    let now = unique_ms();
    assert_published(&bridge.send(occupancy("event_1", now, "4")));
    assert_published(&bridge.send(occupancy("event_1", now, "4")));
    assert_published(&bridge.send(occupancy("event_2", now, "4")));
    assert_published(&bridge.send(occupancy("event_3", now, "5")));
    let records = bridge.records(RoomOccupancy);
    let mut all: Vec<_> = records.iter().collect();
    all.sort_by_key(|r| r.offset);
    let marks: Vec<_> = all.into_iter().map(marks).collect();
    let revision = [("ce_revision", "1"), ("ce_supersedes", "event_1")];
    assert_eq!(marks[0], []);
    assert_eq!(marks[1], [("ce_duplicate", "redelivery")]);
    assert_eq!(marks[2], [("ce_duplicate", "repeat")]);
    assert_eq!(marks[3], revision);
    assert_eq!(
        (
            duplicate_count(&bridge, "redelivery"),
            duplicate_count(&bridge, "repeat")
        ),
        (1.0, 1.0)
    );
    assert_eq!(
        bridge.metric_sum("butlr_bridge_events_total", "outcome=\"published\""),
        4.0
    );
}

fn with_both_off_nothing_is_compared() {
    let bridge = BridgeSetup::default()
        .set("dedup.redelivery", "off")
        .set("dedup.repeat", "off")
        .start();
    let now = unique_ms();
    for (id, value) in [
        ("event_1", "4"),
        ("event_1", "4"),
        ("event_2", "4"),
        ("event_1", "5"),
    ] {
        assert_published(&bridge.send(occupancy(id, now, value)));
    }
    let records = bridge.records(RoomOccupancy);
    assert_eq!(records.len(), 4);
    assert!(records.iter().all(|r| marks(r).is_empty()));
    assert!(bridge.status()["dedup"].is_null());
}

fn only_redeliveries_can_be_dropped() {
    let bridge = BridgeSetup::default().set("dedup.repeat", "off").start();
    let now = unique_ms();
    assert_published(&bridge.send(occupancy("event_1", now, "4")));
    assert_published(&bridge.send(occupancy("event_2", now, "4")));
    assert_duplicate(
        &bridge.send(occupancy("event_1", now, "4")),
        "redelivery",
        "event_1",
    );
    assert_duplicate(
        &bridge.send(occupancy("event_2", now, "4")),
        "redelivery",
        "event_2",
    );
    assert_published(&bridge.send(occupancy("event_3", now, "5")));
    let records = bridge.records(RoomOccupancy);
    assert_eq!(marks(find_by_id(&records, "event_2")), []);
    let revision = [("ce_revision", "1"), ("ce_supersedes", "event_2")];
    assert_eq!(marks(find_by_id(&records, "event_3")), revision);
}

fn what_is_older_than_the_window_is_new_again() {
    let bridge = BridgeSetup::default().set("dedup.id_window", "1s").start();
    let body = minimal_event(Traffic, "event_1", unique_ms(), "room_1");
    assert_published(&bridge.send(&body));
    eventually("the id is forgotten", || {
        thread::sleep(Duration::from_millis(200));
        (bridge.send(&body).json()["status"] == "published").then_some(())
    });
    assert_eq!(bridge.records(Traffic).len(), 2);
    eventually("its memory is free again", || {
        (bridge.status()["dedup"]["ids"] == 0).then_some(())
    });
}

fn at_the_bound_the_oldest_is_forgotten_and_counted() {
    let bridge = BridgeSetup::default().set("dedup.max_ids", 1000).start();
    let now = unique_ms();
    for array in 0..10 {
        let items: Vec<_> = (0..500)
            .map(|n| {
                minimal_event(
                    Traffic,
                    &format!("event_{array}_{n}"),
                    now,
                    &format!("room_{n}"),
                )
            })
            .collect();
        bridge.send(format!("[{}]", items.join(","))).expect(200);
    }
    let ids = bridge.status()["dedup"]["ids"].as_u64().expect("a count");
    assert!((1..=1000).contains(&ids), "{ids}");
    assert_eq!(
        bridge.metric("butlr_bridge_dedup_evictions_total"),
        (5000 - ids) as f64
    );
    assert_published(&bridge.send(minimal_event(Traffic, "event_0_0", now, "room_0")));
    let last = minimal_event(Traffic, "event_9_499", now, "room_499");
    assert_duplicate(&bridge.send(last), "redelivery", "event_9_499");
}

fn memory_is_shown_in_metrics_and_status() {
    let bridge = BridgeSetup::default().start();
    bridge
        .send(occupancy("event_1", unique_ms(), "4"))
        .expect(200);
    bridge
        .send(minimal_event(Traffic, "event_2", unique_ms(), "room_1"))
        .expect(200);
    let entries =
        |kind: &str| bridge.metric(&format!("butlr_bridge_dedup_entries{{kind=\"{kind}\"}}"));
    assert_eq!(
        [entries("ids"), entries("readings"), entries("sources")],
        [2.0, 1.0, 2.0]
    );
    // An event waits only for its own topic, so the others may still be read.
    eventually("the memory is restored from all topics", || {
        (bridge.metric("butlr_bridge_dedup_rebuilding") == 0.0).then_some(())
    });
    assert_eq!(counter(&bridge, "dedup_unchecked_total"), 0.0);
    let expected = serde_json::json!({
        "rebuilding": false, "incomplete_reason": null, "ids": 2, "readings": 1, "sources": 2,
        "undecided": 0, "evictions": 0,
    });
    assert_eq!(bridge.status()["dedup"], expected);
}
