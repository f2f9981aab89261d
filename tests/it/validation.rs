//! Rejected events as a sender sees them: the status, the pointers to errors, and bounded memory.

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use butlr_event::EventType;

use crate::harness::{
    BridgeProcess, BridgeSetup, HttpRequest, TestBridge, agent, eventually, minimal_event, trials,
    unique_ms, write_head,
};

trials! {
    "http": [
        every_mistake_is_reported_at_once_with_its_place,
        at_most_32_mistakes_are_reported,
        a_documented_key_twice_is_422,
        an_unknown_key_twice_is_kept,
        what_is_nested_deeper_than_64_is_400,
        ten_megabytes_of_brackets_cost_no_memory_where_they_are_let_in,
        numbers_that_do_not_fit_matter_only_where_the_bridge_reads_them,
        nan_is_400,
        what_is_not_utf8_is_400,
        a_byte_order_mark_is_400,
        a_lone_surrogate_is_400,
        json_that_is_cut_off_is_400,
        a_body_that_ends_before_its_length_is_never_an_event,
        another_major_version_is_422,
        an_event_without_its_space_is_422,
    ],
}

const ROOM: EventType = EventType::RoomOccupancy;

fn valid_event() -> String {
    minimal_event(ROOM, "event_1", unique_ms(), "room_1")
}

/// Fails the test unless the response is this problem and nothing was stored.
#[track_caller]
fn expect_refused(bridge: &TestBridge, body: impl AsRef<[u8]>, status: u16, code: &str) {
    bridge.send(body).expect_problem(status, code);
    assert_eq!(
        bridge.metric_sum("butlr_bridge_events_total", "published"),
        0.0
    );
}

#[track_caller]
fn post_mistakes(bridge: &TestBridge, body: &str) -> Vec<(String, String)> {
    let response = bridge.send(body);
    response.expect_problem(422, "invalid_event");
    response.errors()
}

fn error_pair(pointer: &str, code: &str) -> (String, String) {
    (pointer.to_owned(), code.to_owned())
}

fn every_mistake_is_reported_at_once_with_its_place() {
    let bridge = BridgeSetup::embedded().start();
    let body = r#"{"id":"","type":"DETECTIONS","timestamp":-1,"version":"v2.0.0",
        "metadata":{"room_id":7,"org_id":["a"]},"data":{"local":[[1]],"world":"far"}}"#;
    let found = post_mistakes(&bridge, body);
    for expected in [
        error_pair("/id", "empty"),
        error_pair("/timestamp", "out_of_range"),
        error_pair("/version", "unsupported_version"),
        error_pair("/metadata/room_id", "wrong_type"),
        error_pair("/metadata/org_id", "wrong_type"),
        error_pair("/data/local/0", "not_a_pair"),
        error_pair("/data/world", "wrong_type"),
    ] {
        assert!(
            found.contains(&expected),
            "{expected:?} is not in {found:?}"
        );
    }
    assert_eq!(found.len(), 7, "{found:?}");
    let counted =
        |code: &str| bridge.metric(&format!("butlr_bridge_mistakes_total{{code=\"{code}\"}}"));
    assert_eq!((counted("wrong_type"), counted("not_a_pair")), (3.0, 1.0));
    let refused = bridge.metric("butlr_bridge_rejections_total{code=\"invalid_event\"}");
    assert_eq!(refused, 1.0);
}

fn at_most_32_mistakes_are_reported() {
    let bridge = BridgeSetup::embedded().start();
    let points = vec!["[1]"; 100].join(",");
    let body = minimal_event(EventType::Detections, "event_1", unique_ms(), "room_1");
    let body = body.replace("[8.25,2]", &points);
    assert_eq!(post_mistakes(&bridge, &body).len(), 32);
}

fn a_documented_key_twice_is_422() {
    let bridge = BridgeSetup::embedded().start();
    let twice = |part: &str| valid_event().replace(part, &format!("{part},{part}"));
    let id = post_mistakes(&bridge, &twice("\"id\":\"event_1\""));
    assert_eq!(id, [error_pair("/id", "duplicate_key")]);
    let room = post_mistakes(&bridge, &twice("\"room_id\":\"room_1\""));
    assert_eq!(room, [error_pair("/metadata/room_id", "duplicate_key")]);
    let data = post_mistakes(&bridge, &twice("\"data\":4"));
    assert_eq!(data, [error_pair("/data", "duplicate_key")]);
}

fn an_unknown_key_twice_is_kept() {
    let bridge = BridgeSetup::embedded().start();
    let body = valid_event().replace("\"data\":4", "\"x\":1,\"x\":{\"id\":2,\"id\":3},\"data\":4");
    bridge.send(&body).expect(200);
    assert_eq!(bridge.records(ROOM)[0].text(), body);
}

fn what_is_nested_deeper_than_64_is_400() {
    let bridge = BridgeSetup::embedded().start();
    // The event itself is the first level.
    let nested = |levels: usize| {
        let inner = format!("{}{}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        valid_event().replace("\"data\":4", &format!("\"data\":4,\"x\":{inner}"))
    };
    expect_refused(&bridge, nested(65), 400, "too_deep");
    expect_refused(&bridge, format!("[{}]", nested(64)), 400, "too_deep");
    let objects = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    expect_refused(&bridge, objects, 400, "too_deep");
    bridge.send(nested(64)).expect(200);
}

fn ten_megabytes_of_brackets_cost_no_memory_where_they_are_let_in() {
    // A separate process, because its memory is measured; it needs no Kafka.
    let process = BridgeProcess::serve(&[
        "kafka.bootstrap_servers=127.0.0.1:1",
        "http.max_body_bytes=16MiB",
        "quarantine.keep=false",
    ]);
    let peak = || process.peak_memory();
    let url = format!("http://{}/v1/events", process.ingest());
    let send = |body: &[u8]| HttpRequest::new("POST", &url).body(body).send(&agent());
    send(b"{").expect_problem(400, "not_json");
    let before = peak();
    let size = 10_000_000;
    for byte in [b'[', b'{', b'"', b'0'] {
        let response = send(&vec![byte; size]);
        assert_eq!(response.status, 400, "{}", response.text());
        assert!(response.body.len() < 2_000, "{}", response.text());
    }
    let array = format!("[{}[]]", "[],".repeat(size / 3 - 1));
    send(array.as_bytes()).expect_problem(422, "too_many_events");
    let after = peak();
    // The body once while it is read and once as a whole, on each of the few workers.
    let allowed = 8 * size as u64;
    assert!(after - before < allowed, "{before} to {after} bytes");
}

fn numbers_that_do_not_fit_matter_only_where_the_bridge_reads_them() {
    let bridge = BridgeSetup::embedded().start();
    for (part, with, pointer, code) in [
        ("\"data\":4", "\"data\":1e999", "/data", "out_of_range"),
        ("\"data\":4", "\"data\":4.5", "/data", "not_integral"),
        ("\"data\":4", "\"data\":-1", "/data", "out_of_range"),
    ] {
        let found = post_mistakes(&bridge, &valid_event().replace(part, with));
        assert_eq!(found, [error_pair(pointer, code)], "{with}");
    }
    let time = valid_event().replace("\"timestamp\":", "\"timestamp\":1e999,\"was\":");
    assert_eq!(
        post_mistakes(&bridge, &time),
        [error_pair("/timestamp", "out_of_range")]
    );
    let unknown = valid_event().replace(
        "\"data\":4",
        "\"data\":4e0,\"x\":[1e999,-1e-999,123456789012345678901234567890]",
    );
    bridge.send(&unknown).expect(200);
    assert_eq!(bridge.records(ROOM)[0].text(), unknown);
}

fn nan_is_400() {
    let bridge = BridgeSetup::embedded().start();
    for value in ["NaN", "Infinity", "-Infinity", "nan", "0x10", "01", "'4'"] {
        let body = valid_event().replace("\"data\":4", &format!("\"data\":4,\"x\":{value}"));
        expect_refused(&bridge, body, 400, "not_json");
    }
}

fn what_is_not_utf8_is_400() {
    let bridge = BridgeSetup::embedded().start();
    let body = valid_event();
    let (before, after) = body.split_once("event_1").unwrap();
    for bytes in [&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"\xc0\x80"] {
        let body = [before.as_bytes(), bytes, after.as_bytes()].concat();
        expect_refused(&bridge, body, 400, "not_utf8");
    }
    let utf16: Vec<u8> = body.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let response = bridge.send(utf16);
    assert_eq!(response.status, 400, "{}", response.text());
}

fn a_byte_order_mark_is_400() {
    let bridge = BridgeSetup::embedded().start();
    expect_refused(
        &bridge,
        format!("\u{feff}{}", valid_event()),
        400,
        "byte_order_mark",
    );
}

fn a_lone_surrogate_is_400() {
    let bridge = BridgeSetup::embedded().start();
    for escape in [r"\ud800", r"\udc00", r"\ud800\u0041"] {
        let body = valid_event().replace("\"data\":4", &format!("\"data\":4,\"x\":\"{escape}\""));
        expect_refused(&bridge, body, 400, "lone_surrogate");
    }
    let pair = valid_event().replace("\"data\":4", r#""data":4,"x":"\ud83d\ude00""#);
    bridge.send(pair).expect(200);
}

fn json_that_is_cut_off_is_400() {
    let bridge = BridgeSetup::embedded().start();
    let body = valid_event();
    for end in 0..body.len() {
        expect_refused(&bridge, &body[..end], 400, "not_json");
    }
}

fn a_body_that_ends_before_its_length_is_never_an_event() {
    let bridge = BridgeSetup::embedded().start();
    let body = valid_event();
    let length = (body.len() + 1).to_string();
    let mut stream = bridge.connect();
    write_head(&mut stream, &[("content-length", &length)]);
    stream.write_all(body.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    // The client may get a response or not; nothing is accepted, held or stored.
    if let Some(response) = crate::harness::read_response(&mut stream) {
        assert_eq!(response.status, 400, "{}", response.text());
    }
    eventually("nothing is held", || {
        let held = bridge.metric("butlr_bridge_in_flight_bytes");
        (held == 0.0).then_some(())
    });
    assert_eq!(bridge.metric_sum("butlr_bridge_received_total", ""), 0.0);
    assert!(bridge.records(ROOM).is_empty());
    let start = Instant::now();
    bridge.send(body).expect(200);
    assert!(start.elapsed() < Duration::from_secs(10));
}

fn another_major_version_is_422() {
    let bridge = BridgeSetup::embedded().start();
    for (version, code) in [
        ("v2.0.0", "unsupported_version"),
        ("1.0", "invalid_version"),
        ("v1.0.0.0", "invalid_version"),
    ] {
        let body = valid_event().replace("v1.0.0", version);
        assert_eq!(
            post_mistakes(&bridge, &body),
            [error_pair("/version", code)],
            "{version}"
        );
    }
    for version in ["v1", "v1.4", "v1.22.333"] {
        bridge
            .send(valid_event().replace("v1.0.0", version))
            .expect(200);
    }
}

fn an_event_without_its_space_is_422() {
    let bridge = BridgeSetup::embedded().start();
    for (event_type, pointer) in [
        (EventType::RoomOccupancy, "/metadata/room_id"),
        (EventType::FloorOccupancy, "/metadata/floor_id"),
        (EventType::ZoneOccupancy1Min, "/metadata/zone_id"),
        (EventType::PirMotion, "/metadata/room_id"),
        // The room is optional here, the floor is required.
        (EventType::Traffic, "/metadata/floor_id"),
    ] {
        let body = minimal_event(event_type, "event_1", unique_ms(), "gone");
        let start = body.find("\"metadata\":{").unwrap() + "\"metadata\":{".len();
        let end = start + body[start..].find('}').unwrap();
        let body = format!("{}\"building_id\":\"b\"{}", &body[..start], &body[end..]);
        let found = post_mistakes(&bridge, &body);
        assert_eq!(found, [error_pair(pointer, "missing")], "{event_type}");
    }
}
