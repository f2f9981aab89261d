//! Requests, responses, and byte-for-byte copies in the topic.

use std::io::{Read, Write};

use butlr_event::EventType;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::harness::{
    BridgeSetup, HttpResponse, TestBridge, minimal_event, read_response, sample, spellings, trials,
    unique_ms, write_head, write_request,
};

trials! {
    "http": [
        all_ten_samples_are_published_byte_for_byte,
        every_spelling_is_taken_in_the_event_and_in_the_route,
        a_type_other_than_the_routes_is_422,
        an_unknown_type_in_the_route_is_404,
        an_arrays_items_are_published_with_exactly_their_bytes,
        one_bad_event_takes_none_of_its_neighbours_down,
        an_empty_array_is_422,
        an_array_that_is_too_long_is_422_and_nothing_of_it_is_stored,
        a_syntax_error_anywhere_in_an_array_is_400_for_all,
        the_largest_array_that_is_allowed_is_published,
        an_event_that_is_too_large_is_413_and_422_within_an_array,
        gzip_is_unpacked,
        a_gzip_bomb_is_413,
        gzip_that_is_cut_off_is_400,
        an_unknown_encoding_is_415,
        json_is_taken_by_any_of_its_names_and_without_one,
        other_content_types_are_415,
        an_unknown_route_is_404,
        another_method_is_405_and_says_what_is_allowed,
        a_problem_says_all_that_it_should,
        a_problem_carries_the_senders_request_id,
        an_indecent_request_id_is_replaced,
        a_chunked_body_is_taken,
        a_client_that_expects_100_continue_gets_it,
        a_connection_is_kept_for_the_next_event,
    ],
}

const TRAFFIC: EventType = EventType::Traffic;
const ROOM: EventType = EventType::RoomOccupancy;

fn valid_event(event_type: EventType, id: &str) -> String {
    minimal_event(event_type, id, unique_ms(), "space_1")
}

fn stored_values(bridge: &TestBridge, event_type: EventType) -> Vec<String> {
    let records = bridge.records(event_type);
    let mut values: Vec<_> = records.iter().map(|r| r.text().to_owned()).collect();
    values.sort();
    values
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn send_encoded(bridge: &TestBridge, encoding: &str, body: &[u8]) -> HttpResponse {
    bridge
        .request("POST", "/v1/events")
        .header("content-type", "application/json")
        .header("content-encoding", encoding)
        .body(body)
        .send()
}

fn all_ten_samples_are_published_byte_for_byte() {
    let bridge = BridgeSetup::default().start();
    for event_type in EventType::ALL {
        let sent = sample(event_type);
        let response = bridge.send(&sent);
        let reply = response.expect(200).json();
        assert_eq!(response.header("content-type"), Some("application/json"));
        let records = bridge.records(event_type);
        let [record] = records.as_slice() else {
            panic!("{records:?}");
        };
        assert_eq!(record.text(), sent.trim());
        let id = serde_json::from_str::<Value>(&sent).unwrap()["id"].clone();
        let expected = json!({
            "status": "published",
            "id": id,
            "topic": bridge.topic(event_type),
            "partition": record.partition,
            "offset": record.offset,
        });
        assert_eq!(reply, expected);
    }
}

fn every_spelling_is_taken_in_the_event_and_in_the_route() {
    let bridge = BridgeSetup::default().start();
    for event_type in EventType::ALL {
        let sent: Vec<_> = spellings(event_type)
            .iter()
            .map(|s| valid_event(event_type, &format!("id {s}")).replace(event_type.name(), s))
            .collect();
        for (body, route) in sent.iter().zip(spellings(event_type).iter().rev()) {
            let reply = bridge.post(&format!("/v1/events/{route}"), body);
            assert_eq!(reply.expect(200).json()["topic"], bridge.topic(event_type));
        }
        let mut sent = sent;
        sent.sort();
        assert_eq!(stored_values(&bridge, event_type), sent);
    }
    let minute = valid_event(EventType::RoomOccupancy1Min, "event_2");
    bridge
        .post("/v1/events/room_occupancy_1m", minute)
        .expect(200);
}

fn a_type_other_than_the_routes_is_422() {
    let bridge = BridgeSetup::default().start();
    let response = bridge.post("/v1/events/TRAFFIC", valid_event(ROOM, "event_1"));
    response.expect_problem(422, "invalid_event");
    let mismatch = ("/type".to_owned(), "type_mismatch".to_owned());
    assert_eq!(response.errors(), [mismatch]);
    assert!(bridge.records(ROOM).is_empty());
    assert!(bridge.records(TRAFFIC).is_empty());
}

fn an_unknown_type_in_the_route_is_404() {
    let bridge = BridgeSetup::default().start();
    for route in ["SMOKE", "Traffic", "room-occupancy", "TRAFFIC_1MIN", "%20"] {
        let response = bridge.post(
            &format!("/v1/events/{route}"),
            valid_event(TRAFFIC, "event_1"),
        );
        response.expect_problem(404, "not_found");
    }
    assert!(bridge.records(TRAFFIC).is_empty());
}

fn an_arrays_items_are_published_with_exactly_their_bytes() {
    let bridge = BridgeSetup::default().start();
    let odd = "{ \"data\" : 3.0 ,\t\"version\":\"v1.0.0\",\r\n \"type\":\"ROOM_OCCUPANCY\",\
               \"timestamp\":1.7e12,\"unknown\":[1e999, \"\\u00e4 / ä\"],\
               \"metadata\":{\"room_id\":\"r\"},\"id\":\"event_odd\"  }";
    let items = [
        sample(ROOM).trim().to_owned(),
        odd.to_owned(),
        valid_event(ROOM, "event_3"),
    ];
    let body = format!(
        " [\n  {}\t,{} ,\r\n\r\n{}\n] \n",
        items[0], items[1], items[2]
    );
    let reply = bridge.send(body).expect(200).json();
    let results = reply["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    let records = bridge.records(ROOM);
    for (result, item) in results.iter().zip(&items) {
        assert_eq!(result["status"], "published");
        assert_eq!(result["topic"], bridge.topic(ROOM));
        let record = records
            .iter()
            .find(|r| result["partition"] == r.partition && result["offset"] == r.offset);
        assert_eq!(record.expect("the reported record").text(), item);
    }
    assert_eq!(results[1]["id"], "event_odd");
}

fn one_bad_event_takes_none_of_its_neighbours_down() {
    let bridge = BridgeSetup::default().start();
    let bad = valid_event(ROOM, "event_bad").replace("\"data\":4", "\"data\":-4");
    let body = format!(
        "[{},{bad},7,{}]",
        valid_event(ROOM, "event_1"),
        valid_event(TRAFFIC, "event_2")
    );
    let response = bridge.send(body);
    let reply = response.expect(422).json();
    assert_eq!(response.header("retry-after"), None);
    let results = reply["results"].as_array().unwrap();
    let status: Vec<_> = results
        .iter()
        .map(|r| r["status"].as_str().unwrap())
        .collect();
    assert_eq!(status, ["published", "refused", "refused", "published"]);
    assert_eq!(results[1]["code"], "invalid_event");
    assert_eq!(results[1]["errors"][0]["pointer"], "/data");
    assert_eq!(results[2]["errors"][0]["pointer"], "");
    assert_eq!(bridge.records(ROOM).len(), 1);
    assert_eq!(bridge.records(TRAFFIC).len(), 1);
}

fn an_empty_array_is_422() {
    let bridge = BridgeSetup::default().start();
    for body in ["[]", " [ \n ] "] {
        bridge.send(body).expect_problem(422, "empty_array");
    }
}

fn an_array_that_is_too_long_is_422_and_nothing_of_it_is_stored() {
    let bridge = BridgeSetup::default().set("http.max_events", 3).start();
    let body = format!("[{}]", vec![valid_event(ROOM, "event_1"); 4].join(","));
    bridge.send(body).expect_problem(422, "too_many_events");
    assert!(bridge.records(ROOM).is_empty());
}

fn a_syntax_error_anywhere_in_an_array_is_400_for_all() {
    let bridge = BridgeSetup::default().start();
    let [one, two] = ["event_1", "event_2"].map(|id| valid_event(ROOM, id));
    for body in [
        format!("[{one},{two},]"),
        format!("[{one},{two}"),
        format!("[{one} {two}]"),
        format!("[{one},{two}] x"),
        format!("[{one},{}]", &two[..two.len() - 1]),
    ] {
        bridge.send(body).expect_problem(400, "not_json");
    }
    assert!(bridge.records(ROOM).is_empty());
}

fn the_largest_array_that_is_allowed_is_published() {
    let bridge = BridgeSetup::default().start();
    let items: Vec<_> = (0..1000)
        .map(|i| {
            minimal_event(
                TRAFFIC,
                &format!("event_{i}"),
                unique_ms(),
                &format!("room_{}", i % 50),
            )
        })
        .collect();
    let response = bridge.send(format!("[{}]", items.join(",")));
    let reply = response.expect(200).json();
    for (i, result) in reply["results"].as_array().unwrap().iter().enumerate() {
        assert_eq!(result["status"], "published");
        assert_eq!(result["id"], format!("event_{i}"));
    }
    let mut sent = items;
    sent.sort();
    assert_eq!(stored_values(&bridge, TRAFFIC), sent);
}

fn an_event_that_is_too_large_is_413_and_422_within_an_array() {
    let bridge = BridgeSetup::default()
        .set("http.max_event_bytes", "1KiB")
        .start();
    let padding = format!(",\"note\":\"{}\"}}", "x".repeat(1024));
    let small = valid_event(ROOM, "event_1");
    let large = format!("{}{padding}", &small[..small.len() - 1]);
    bridge.send(&large).expect_problem(413, "event_too_large");
    let reply = bridge.send(format!("[{large},{small}]"));
    let results = reply.expect(422).json()["results"].clone();
    assert_eq!(results[0]["code"], "event_too_large");
    assert_eq!(results[1]["status"], "published");
    assert_eq!(stored_values(&bridge, ROOM), [small]);
}

fn gzip_is_unpacked() {
    let bridge = BridgeSetup::default().start();
    let sent = sample(ROOM);
    send_encoded(&bridge, "gzip", &gzip(sent.as_bytes())).expect(200);
    assert_eq!(stored_values(&bridge, ROOM), [sent.trim()]);
}

fn a_gzip_bomb_is_413() {
    let bridge = BridgeSetup::default()
        .set("http.max_body_bytes", "256KiB")
        .start();
    let bomb = gzip(&vec![b' '; 8 << 20]);
    assert!(bomb.len() < 64 << 10);
    send_encoded(&bridge, "gzip", &bomb).expect_problem(413, "body_too_large");
}

fn gzip_that_is_cut_off_is_400() {
    let bridge = BridgeSetup::default().start();
    let packed = gzip(valid_event(ROOM, "event_1").as_bytes());
    for broken in [&packed[..packed.len() - 1], &packed[..12], b"{}"] {
        send_encoded(&bridge, "gzip", broken).expect_problem(400, "not_gzip");
    }
    assert!(bridge.records(ROOM).is_empty());
}

fn an_unknown_encoding_is_415() {
    let bridge = BridgeSetup::default().start();
    for encoding in ["br", "zstd", "deflate", "gzip, gzip"] {
        let response = send_encoded(&bridge, encoding, valid_event(ROOM, "event_1").as_bytes());
        response.expect_problem(415, "unsupported_encoding");
    }
}

fn json_is_taken_by_any_of_its_names_and_without_one() {
    let bridge = BridgeSetup::default().start();
    for name in [
        "application/json",
        "Application/JSON;charset=utf-8",
        "application/cloudevents+json",
        "text/json",
    ] {
        let request = bridge.request("POST", "/v1/events");
        let request = request.header("content-type", name);
        request.body(valid_event(ROOM, name)).send().expect(200);
    }
    let body = valid_event(ROOM, "event_without");
    let mut stream = bridge.connect();
    write_request(&mut stream, &[], &body);
    let response = bridge.read_response(&mut stream);
    response.expect(200);
    assert_eq!(bridge.records(ROOM).len(), 5);
}

fn other_content_types_are_415() {
    let bridge = BridgeSetup::default().start();
    for name in [
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
    ] {
        let request = bridge.request("POST", "/v1/events");
        let request = request.header("content-type", name);
        let response = request.body(valid_event(ROOM, "event_1")).send();
        response.expect_problem(415, "unsupported_media_type");
    }
}

fn an_unknown_route_is_404() {
    let bridge = BridgeSetup::default().start();
    for path in [
        "/",
        "/v1",
        "/v1/event",
        "/v1/events/TRAFFIC/x",
        "/v2/events",
        "/metrics",
    ] {
        bridge
            .post(path, valid_event(ROOM, "event_1"))
            .expect_problem(404, "not_found");
    }
}

fn another_method_is_405_and_says_what_is_allowed() {
    let bridge = BridgeSetup::default().start();
    for path in ["/v1/events", "/v1/events/TRAFFIC"] {
        for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
            let request = bridge.request(method, path);
            let response = match method {
                "PUT" => request.body("{}").send(),
                _ => request.send(),
            };
            response.expect_problem(405, "method_not_allowed");
            assert_eq!(response.header("allow"), Some("POST"));
        }
    }
}

fn a_problem_says_all_that_it_should() {
    let bridge = BridgeSetup::default().start();
    let body = valid_event(ROOM, "event_7").replace("\"data\":4", "\"data\":\"4\"");
    let response = bridge.send(body);
    response.expect(422);
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json")
    );
    let problem = response.json();
    assert_eq!(problem["type"], "urn:butlr-bridge:problem:invalid_event");
    assert_eq!(problem["status"], 422);
    assert_eq!(problem["code"], "invalid_event");
    for text in ["title", "detail", "request_id"] {
        let value = problem[text].as_str().unwrap_or_default();
        assert!(!value.is_empty(), "{text}: {problem}");
    }
    let error = &problem["errors"][0];
    assert_eq!(error["pointer"], "/data");
    assert_eq!(error["code"], "wrong_type");
    assert!(
        error["detail"].as_str().unwrap().contains("number"),
        "{error}"
    );
    let header = response.header("x-request-id");
    assert_eq!(header, problem["request_id"].as_str());
}

fn a_problem_carries_the_senders_request_id() {
    let bridge = BridgeSetup::default().start();
    for body in ["{}", "{", "[7]"] {
        let request = bridge.request("POST", "/v1/events");
        let request = request.header("x-request-id", "trace-4711");
        let response = request.body(body).send();
        assert_eq!(
            response.header("x-request-id"),
            Some("trace-4711"),
            "{body}"
        );
        let request_id = &response.json()["request_id"];
        assert!(request_id == "trace-4711" || body == "[7]", "{request_id}");
    }
}

fn an_indecent_request_id_is_replaced() {
    let bridge = BridgeSetup::default().start();
    let long = "x".repeat(129);
    let mut seen = Vec::new();
    for given in ["", "a b", &long] {
        let request = bridge.request("POST", "/v1/events");
        let response = request.header("x-request-id", given).body("{").send();
        let own = response.header("x-request-id").expect("an id").to_owned();
        assert!(!own.is_empty() && own != given && !seen.contains(&own));
        seen.push(own);
    }
}

fn a_chunked_body_is_taken() {
    let bridge = BridgeSetup::default().start();
    let body = valid_event(ROOM, "event_1");
    let (first, second) = body.split_at(40);
    let mut stream = bridge.connect();
    let chunked = [("transfer-encoding", "chunked")];
    write_head(&mut stream, &chunked);
    for part in [first, second, ""] {
        write!(stream, "{:x}\r\n{part}\r\n", part.len()).unwrap();
    }
    let response = bridge.read_response(&mut stream);
    response.expect(200);
    assert_eq!(stored_values(&bridge, ROOM), [body]);
}

fn a_client_that_expects_100_continue_gets_it() {
    let bridge = BridgeSetup::default().start();
    let body = valid_event(ROOM, "event_1");
    let length = body.len().to_string();
    let mut stream = bridge.connect();
    let headers = [
        ("content-length", length.as_str()),
        ("expect", "100-continue"),
    ];
    write_head(&mut stream, &headers);
    let go_on = read_response(&mut stream).expect("an interim response");
    assert_eq!(go_on.status, 100);
    stream.write_all(body.as_bytes()).unwrap();
    let response = bridge.read_response(&mut stream);
    response.expect(200);
}

fn a_connection_is_kept_for_the_next_event() {
    let bridge = BridgeSetup::default().start();
    let mut stream = bridge.connect();
    for (body, status) in [
        (valid_event(ROOM, "event_1"), 200),
        ("{}".to_owned(), 422),
        ("{".to_owned(), 400),
        (valid_event(ROOM, "event_2"), 200),
    ] {
        write_request(&mut stream, &[], &body);
        let response = bridge.read_response(&mut stream);
        response.expect(status);
    }
    drop(stream.shutdown(std::net::Shutdown::Write));
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
}
