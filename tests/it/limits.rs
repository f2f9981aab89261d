//! Limits on connections, time, sizes and events in flight. A request above a limit is refused at
//! once, and the bridge recovers completely.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use butlr_event::EventType;

use crate::harness::{
    BridgeProcess, BridgeSetup, HttpRequest, HttpResponse, PATIENCE, TestBridge, agent, eventually,
    minimal_event, read_response, trials, unique_ms, write_head, write_request,
};
use crate::real_kafka::lock_heavy;

trials! {
    "limits": [
        a_connection_beyond_the_limit_is_answered_503_and_closed,
        far_too_many_connections_are_closed_unanswered,
        a_body_that_drips_is_cut_off_with_408,
        headers_that_drip_are_cut_off,
        headers_that_drip_on_a_kept_connection_are_cut_off,
        an_idle_connection_is_closed,
        a_body_announced_too_large_is_413_unread,
        a_chunked_body_that_grows_too_large_is_413,
        the_rest_of_a_refused_body_is_not_waited_for,
        headers_that_are_too_large_are_refused,
        events_in_flight_are_limited_and_recover,
        an_array_that_does_not_fit_in_flight_is_503_as_a_whole,
        bytes_in_flight_are_limited_and_recover,
        bodies_that_are_still_coming_count_as_held,
        every_answer_comes_in_time_while_kafka_is_down,
        every_answer_comes_in_time_while_kafka_is_slow,
        memory_stays_flat_under_far_more_than_disk_and_kafka_take,
    ],
}

const ROOM: EventType = EventType::RoomOccupancy;

/// Additional time on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

fn valid_event(id: &str) -> String {
    minimal_event(ROOM, id, unique_ms(), "room_1")
}

/// Waits until the connection has ended. Returns `false` if it stays open.
#[track_caller]
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// Writes these bytes every 100 ms until the connection fails, for at most `limit`.
fn drip(stream: &TcpStream, bytes: &'static [u8], limit: Duration) -> thread::JoinHandle<()> {
    let mut stream = stream.try_clone().unwrap();
    let start = Instant::now();
    thread::spawn(move || {
        while start.elapsed() < limit && stream.write_all(bytes).is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    })
}

#[track_caller]
fn wait_for_in_flight(bridge: &TestBridge, events: f64) {
    eventually("the events are in flight", || {
        (bridge.metric("butlr_bridge_in_flight_events") == events).then_some(())
    });
}

/// Checks that the response is a 503 that came at once, with a `Retry-After`.
#[track_caller]
fn expect_overload(response: &HttpResponse, code: &str, took: Duration, bound: Duration) {
    response.expect_problem(503, code);
    assert_eq!(response.header("retry-after"), Some("1"));
    assert!(took < bound, "{took:?}");
}

fn a_connection_beyond_the_limit_is_answered_503_and_closed() {
    let bridge = BridgeSetup::embedded()
        .set("http.max_connections", 2)
        .start();
    let held = [bridge.connect(), bridge.connect()];
    eventually("both connections are counted", || {
        (bridge.metric("butlr_bridge_connections") == 2.0).then_some(())
    });
    let mut beyond = bridge.connect();
    let body = valid_event("event_1");
    write_request(&mut beyond, &[], &body);
    let response = bridge.read_response(&mut beyond);
    response.expect_problem(503, "too_many_connections");
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(response.header("connection"), Some("close"));
    assert!(is_closed(&mut beyond));
    drop(held);
    eventually("no connection is counted any more", || {
        (bridge.metric("butlr_bridge_connections") == 0.0).then_some(())
    });
    bridge.send(valid_event("event_2")).expect(200);
    assert_eq!(bridge.records(ROOM).len(), 1);
}

fn far_too_many_connections_are_closed_unanswered() {
    let bridge = BridgeSetup::embedded()
        .set("http.max_connections", 1)
        .start();
    let all: Vec<_> = (0..300).map(|_| bridge.connect()).collect();
    let closed = |mut stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        let gone = match stream.read(&mut [0]) {
            Ok(n) => n == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        };
        stream.set_nonblocking(false).unwrap();
        gone
    };
    eventually("most connections above the limit are closed", || {
        let open = all.iter().filter(|s| !closed(s)).count();
        (open <= 1 + 256).then_some(())
    });
    drop(all);
    eventually("no connection is counted any more", || {
        (bridge.metric("butlr_bridge_connections") == 0.0).then_some(())
    });
    bridge.send(valid_event("event_1")).expect(200);
}

fn a_body_that_drips_is_cut_off_with_408() {
    let bridge = BridgeSetup::embedded()
        .set("http.body_timeout", "1s")
        .start();
    let mut stream = bridge.connect();
    let start = Instant::now();
    write_head(&mut stream, &[("content-length", "1000")]);
    let dripping = drip(&stream, b" ", PATIENCE);
    let response = bridge.read_response(&mut stream);
    response.expect_problem(408, "body_timeout");
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(took < Duration::from_secs(1) + SLACK, "{took:?}");
    assert_eq!(response.header("connection"), Some("close"));
    assert!(is_closed(&mut stream));
    dripping.join().unwrap();
    assert!(start.elapsed() < Duration::from_secs(2) + SLACK);
    assert_eq!(bridge.metric("butlr_bridge_in_flight_bytes"), 0.0);
}

fn headers_that_drip_on_a_kept_connection_are_cut_off() {
    let bridge = BridgeSetup::embedded()
        .set("http.header_timeout", "500ms")
        .set("http.keep_alive", "500ms")
        .start();
    let mut stream = bridge.connect();
    write_request(&mut stream, &[], &valid_event("event_1"));
    let response = bridge.read_response(&mut stream);
    response.expect(200);

    let start = Instant::now();
    let dripping = drip(&stream, b"P", PATIENCE);
    assert!(is_closed(&mut stream));
    // keep_alive + header_timeout, and the second between two checks.
    assert!(start.elapsed() < Duration::from_secs(2) + SLACK);
    dripping.join().unwrap();
    eventually("the connection is no longer counted", || {
        (bridge.metric("butlr_bridge_connections") == 0.0).then_some(())
    });
}

fn headers_that_drip_are_cut_off() {
    let bridge = BridgeSetup::embedded()
        .set("http.header_timeout", "500ms")
        .start();
    let mut stream = bridge.connect();
    let start = Instant::now();
    stream.write_all(b"POST /v1/events HTTP/1.1\r\n").unwrap();
    let dripping = drip(&stream, b"x", PATIENCE);
    if let Some(response) = read_response(&mut stream) {
        response.expect(408);
    }
    assert!(is_closed(&mut stream));
    assert!(start.elapsed() < Duration::from_millis(1500) + SLACK);
    dripping.join().unwrap();
    eventually("the connection is no longer counted", || {
        (bridge.metric("butlr_bridge_connections") == 0.0).then_some(())
    });
}

fn an_idle_connection_is_closed() {
    let bridge = BridgeSetup::embedded()
        .set("http.keep_alive", "500ms")
        .start();
    let mut stream = bridge.connect();
    let body = valid_event("event_1");
    write_request(&mut stream, &[], &body);
    let response = bridge.read_response(&mut stream);
    response.expect(200);
    let start = Instant::now();
    assert!(is_closed(&mut stream));
    assert!(start.elapsed() < Duration::from_millis(1500) + SLACK);
}

fn a_body_announced_too_large_is_413_unread() {
    let bridge = BridgeSetup::embedded()
        .set("http.max_body_bytes", "256KiB")
        .start();
    let mut stream = bridge.connect();
    write_head(&mut stream, &[("content-length", "262145")]);
    let response = bridge.read_response(&mut stream);
    response.expect_problem(413, "body_too_large");
    assert!(response.text().contains("262144"), "{}", response.text());
}

fn a_chunked_body_that_grows_too_large_is_413() {
    let bridge = BridgeSetup::embedded()
        .set("http.max_body_bytes", "256KiB")
        .start();
    let mut stream = bridge.connect();
    let chunked = [("transfer-encoding", "chunked")];
    write_head(&mut stream, &chunked);
    let mut sending = stream.try_clone().unwrap();
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    let send = thread::spawn(move || {
        // Endless, but the bridge reads it only for a moment after its response, so that the client
        // can read that.
        let end = Instant::now() + Duration::from_secs(1) + 2 * SLACK;
        while Instant::now() < end {
            if sending.write_all(chunk.as_bytes()).is_err() {
                return true;
            }
        }
        false
    });
    let response = bridge.read_response(&mut stream);
    response.expect_problem(413, "body_too_large");
    drop(stream);
    assert!(send.join().unwrap(), "the endless body is never cut off");
    assert_eq!(bridge.metric("butlr_bridge_in_flight_bytes"), 0.0);
}

fn the_rest_of_a_refused_body_is_not_waited_for() {
    let bridge = BridgeSetup::embedded()
        .set("http.body_timeout", "1s")
        .start();
    for framing in [
        ("content-length", "1000000"),
        ("transfer-encoding", "chunked"),
    ] {
        let mut stream = bridge.connect();
        let start = Instant::now();
        let headers = [framing, ("content-type", "text/plain")];
        write_head(&mut stream, &headers);
        let dripping = drip(&stream, b"1\r\n \r\n", PATIENCE / 2);
        let response = bridge.read_response(&mut stream);
        response.expect_problem(415, "unsupported_media_type");
        assert!(is_closed(&mut stream));
        assert!(
            start.elapsed() < Duration::from_secs(2) + SLACK,
            "{framing:?}"
        );
        dripping.join().unwrap();
    }
}

fn headers_that_are_too_large_are_refused() {
    let bridge = BridgeSetup::embedded().start();
    let mut stream = bridge.connect();
    let mut sending = stream.try_clone().unwrap();
    sending.write_all(b"POST /v1/events HTTP/1.1\r\n").unwrap();
    let line = format!("x-{}: {}\r\n", "a".repeat(40), "b".repeat(4000));
    let send =
        thread::spawn(move || (0..10_000).find(|_| sending.write_all(line.as_bytes()).is_err()));
    if let Some(response) = read_response(&mut stream) {
        assert!(matches!(response.status, 400 | 431), "{}", response.status);
    }
    assert!(is_closed(&mut stream));
    assert!(
        send.join().unwrap().is_some(),
        "40 MB of headers were accepted"
    );
}

fn events_in_flight_are_limited_and_recover() {
    let bridge = BridgeSetup::embedded()
        .set("http.max_in_flight_events", 3)
        .set("http.max_events", 3)
        .set("http.answer_within", "10s")
        .start();
    bridge.send(valid_event("event_0")).expect(200);
    let held_for = Duration::from_secs(3);
    bridge.slow_down(held_for);
    thread::scope(|scope| {
        let began = Instant::now();
        let held: Vec<_> = (0..3)
            .map(|i| {
                scope.spawn({
                    let bridge = &bridge;
                    move || bridge.send(valid_event(&format!("held_{i}")))
                })
            })
            .collect();
        wait_for_in_flight(&bridge, 3.0);
        let start = Instant::now();
        let response = bridge.send(valid_event("event_beyond"));
        let took = start.elapsed();
        assert!(
            began.elapsed() < held_for,
            "this machine is too busy for the test"
        );
        expect_overload(&response, "too_many_events_in_flight", took, held_for);
        for response in held {
            response.join().unwrap().expect(200);
        }
    });
    bridge.slow_down(Duration::ZERO);
    bridge.send(valid_event("event_after")).expect(200);
    assert_eq!(bridge.metric("butlr_bridge_in_flight_events"), 0.0);
    assert_eq!(bridge.records(ROOM).len(), 5);
}

fn an_array_that_does_not_fit_in_flight_is_503_as_a_whole() {
    let bridge = BridgeSetup::embedded()
        .set("http.max_in_flight_events", 3)
        .set("http.max_events", 3)
        .set("http.answer_within", "10s")
        .start();
    bridge.send(valid_event("event_0")).expect(200);
    bridge.slow_down(Duration::from_secs(2));
    let array = format!("[{},{}]", valid_event("a_1"), valid_event("a_2"));
    thread::scope(|scope| {
        let held: Vec<_> = (0..2)
            .map(|i| {
                scope.spawn({
                    let bridge = &bridge;
                    move || bridge.send(valid_event(&format!("held_{i}")))
                })
            })
            .collect();
        wait_for_in_flight(&bridge, 2.0);
        let response = bridge.send(&array);
        let results = response.expect(503).json()["results"].clone();
        assert_eq!(response.header("retry-after"), Some("1"));
        for (result, id) in results.as_array().unwrap().iter().zip(["a_1", "a_2"]) {
            assert_eq!(result["code"], "too_many_events_in_flight");
            assert_eq!(result["id"], id);
        }
        for response in held {
            response.join().unwrap().expect(200);
        }
    });
    bridge.slow_down(Duration::ZERO);
    bridge.send(&array).expect(200);
}

/// Builds an event of this size.
fn padded_event(id: &str, bytes: usize) -> String {
    let small = valid_event(id);
    let padding = "x".repeat(bytes - small.len());
    small.replace("\"data\":4", &format!("\"data\":4,\"p\":\"{padding}\""))
}

fn bytes_in_flight_are_limited_and_recover() {
    let bridge = BridgeSetup::embedded()
        .set("http.max_in_flight_bytes", "8KiB")
        .set("http.max_body_bytes", "8KiB")
        .set("http.max_event_bytes", "8KiB")
        .set("http.answer_within", "10s")
        .start();
    bridge.send(valid_event("event_0")).expect(200);
    let held_for = Duration::from_secs(3);
    bridge.slow_down(held_for);
    thread::scope(|scope| {
        let began = Instant::now();
        let held = scope.spawn(|| bridge.send(padded_event("event_held", 5000)));
        wait_for_in_flight(&bridge, 1.0);
        let start = Instant::now();
        let response = bridge.send(padded_event("event_beyond", 5000));
        let took = start.elapsed();
        assert!(
            began.elapsed() < held_for,
            "this machine is too busy for the test"
        );
        expect_overload(&response, "too_many_bytes_in_flight", took, held_for);
        held.join().unwrap().expect(200);
    });
    bridge.slow_down(Duration::ZERO);
    bridge.send(padded_event("event_after", 5000)).expect(200);
    assert_eq!(bridge.metric("butlr_bridge_in_flight_bytes"), 0.0);
    assert_eq!(bridge.records(ROOM).len(), 3);
}

fn bodies_that_are_still_coming_count_as_held() {
    let bridge = BridgeSetup::embedded()
        .set("http.max_in_flight_bytes", "8KiB")
        .set("http.max_body_bytes", "8KiB")
        .set("http.max_event_bytes", "8KiB")
        .start();
    let mut coming = bridge.connect();
    write_head(&mut coming, &[("content-length", "8000")]);
    coming.write_all(&[b' '; 6000]).unwrap();
    eventually("the bytes are held", || {
        (bridge.metric("butlr_bridge_in_flight_bytes") == 6000.0).then_some(())
    });
    bridge
        .send(padded_event("event_1", 5000))
        .expect_problem(503, "too_many_bytes_in_flight");
    drop(coming);
    eventually("the bytes are released", || {
        (bridge.metric("butlr_bridge_in_flight_bytes") == 0.0).then_some(())
    });
    bridge.send(padded_event("event_2", 5000)).expect(200);
}

/// Sends events of all types at once, and arrays. Each response must be `kafka_unconfirmed`, and in
/// time.
#[track_caller]
fn assert_unconfirmed_in_time(bridge: &TestBridge) {
    let bound = bridge.config.http.answer_within + SLACK;
    thread::scope(|scope| {
        let senders: Vec<_> = EventType::ALL
            .iter()
            .map(|&event_type| {
                scope.spawn(move || {
                    let one = minimal_event(event_type, "event_1", unique_ms(), "space_1");
                    for _ in 0..2 {
                        let start = Instant::now();
                        let response = bridge.send(&one);
                        assert!(start.elapsed() < bound, "{:?}", start.elapsed());
                        response.expect_problem(503, "kafka_unconfirmed");
                        assert_eq!(response.header("retry-after"), Some("1"));
                    }
                    let start = Instant::now();
                    let response = bridge.send(format!("[{}]", vec![one; 100].join(",")));
                    assert!(start.elapsed() < bound, "{:?}", start.elapsed());
                    let results = response.expect(503).json()["results"].clone();
                    let results = results.as_array().unwrap().clone();
                    assert_eq!(results.len(), 100);
                    assert!(results.iter().all(|r| r["code"] == "kafka_unconfirmed"));
                })
            })
            .collect();
        senders.into_iter().for_each(|s| s.join().unwrap());
    });
}

fn every_answer_comes_in_time_while_kafka_is_down() {
    let bridge = BridgeSetup::embedded()
        .set("http.answer_within", "1s")
        .start();
    bridge.send(valid_event("event_0")).expect(200);
    bridge
        .kafka()
        .with_cluster(|cluster| cluster.broker_down(1))
        .unwrap();
    assert_unconfirmed_in_time(&bridge);
    bridge
        .kafka()
        .with_cluster(|cluster| cluster.broker_up(1))
        .unwrap();
    eventually("events are stored again", || {
        (bridge.send(valid_event("event_again")).status == 200).then_some(())
    });
}

fn every_answer_comes_in_time_while_kafka_is_slow() {
    let bridge = BridgeSetup::embedded()
        .set("http.answer_within", "1s")
        .start();
    bridge.send(valid_event("event_0")).expect(200);
    bridge.slow_down(Duration::from_secs(10));
    assert_unconfirmed_in_time(&bridge);
    bridge.slow_down(Duration::ZERO);
    eventually("events are stored again", || {
        (bridge.send(valid_event("event_again")).status == 200).then_some(())
    });
}

/// Sends arrays of 100 kB over many connections while Kafka is away, first to the disk and then to
/// a full spool. A full spool accepts nothing, so the load is easily more than ten times as much as
/// is accepted.
fn memory_stays_flat_under_far_more_than_disk_and_kafka_take() {
    const SENDERS: usize = 32;
    const ITEMS: usize = 100;
    const MIB: u64 = 1 << 20;
    let _alone = lock_heavy();
    let folder = tempfile::tempdir().expect("a directory");
    let mut process = BridgeProcess::serve(&[
        "kafka.bootstrap_servers=127.0.0.1:1",
        "kafka.confirm_within=200ms",
        "quarantine.keep=false",
        "spool.max_bytes=48MiB",
        "spool.segment_bytes=4MiB",
        "spool.min_free_bytes=0",
        &format!("spool.dir={}", folder.path().display()),
    ]);
    let (ingest, admin) = (process.ingest(), process.admin());
    let ledger = || {
        let status = HttpRequest::new("GET", &format!("http://{admin}/status")).send(&agent());
        status.expect(200).json()["ledger"].clone()
    };
    let count = |outcome: &str| ledger()[outcome].as_u64().expect("a number");
    let (stop, numbers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let latest = Instant::now() + Duration::from_secs(60);
    let (url, filler) = (format!("http://{ingest}/v1/events"), "x".repeat(800));
    let send = || {
        let agent = agent();
        while !stop.load(Ordering::Relaxed) && Instant::now() < latest {
            let items = (0..ITEMS).map(|_| {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                let event =
                    minimal_event(EventType::Traffic, &format!("event_{number}"), 0, "room_1");
                event.replacen('{', &format!("{{\"filler\":\"{filler}\","), 1)
            });
            let body = format!("[{}]", items.collect::<Vec<_>>().join(","));
            HttpRequest::new("POST", &url).body(body).send(&agent);
        }
    };
    let [before, after] = thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(send);
        }
        eventually("the spool is full", || (count("refused") > 0).then_some(()));
        let measured = [2, 4].map(|seconds| {
            thread::sleep(Duration::from_secs(seconds));
            (process.peak_memory(), count("received"), count("spooled"))
        });
        stop.store(true, Ordering::Relaxed);
        measured
    });
    let (offered, taken) = (after.1 - before.1, after.2 - before.2);
    assert!(
        offered > 10 * taken.max(100),
        "{offered} offered, {taken} accepted"
    );
    let [before, after] = [before.0 / MIB, after.0 / MIB];
    println!("{offered} offered, {taken} accepted; {before} MiB, then {after} MiB");
    assert!(after < before + 8, "{before} MiB, then {after} MiB");
    assert!(after < 160, "{after} MiB");
    let ledger = ledger();
    let sum = |outcomes: &[&str]| {
        outcomes
            .iter()
            .map(|o| ledger[o].as_u64().expect("a number"))
            .sum::<u64>()
    };
    assert_eq!(sum(&["received"]), sum(&["spooled", "refused"]), "{ledger}");
    process.signal("TERM");
    assert!(process.wait().success());
}
