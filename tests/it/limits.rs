//! Everything has a limit: connections, time, sizes, what is in flight. Over it the answer is an error, at once, and the
//! bridge is as good as new afterwards.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use butlr_event::EventType;

use crate::harness::{
    BridgeProcess, BridgeSetup, HttpAnswer, HttpRequest, PATIENCE, TestBridge, agent, eventually,
    minimal_event, read_answer, trials, unique_ms, write_head,
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

/// What a busy machine may add to a bound.
const SLACK: Duration = Duration::from_secs(3);

fn valid_event(id: &str) -> String {
    minimal_event(ROOM, id, unique_ms(), "room_1")
}

/// Whether the connection has ended; waits for that.
#[track_caller]
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[track_caller]
fn wait_for_in_flight(bridge: &TestBridge, events: f64) {
    eventually("events in flight", || {
        (bridge.metric("butlr_bridge_in_flight_events") == events).then_some(())
    });
}

/// The answer is a 503 that came at once and says when to come again.
#[track_caller]
fn expect_overload(answer: &HttpAnswer, code: &str, took: Duration, bound: Duration) {
    answer.expect_problem(503, code);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(took < bound, "{took:?}");
}

fn a_connection_beyond_the_limit_is_answered_503_and_closed() {
    let bridge = BridgeSetup::embedded()
        .set("http.max_connections", 2)
        .start();
    let held = [bridge.connect(), bridge.connect()];
    eventually("both are counted", || {
        (bridge.metric("butlr_bridge_connections") == 2.0).then_some(())
    });
    let mut beyond = bridge.connect();
    let body = valid_event("event_1");
    let length = body.len().to_string();
    write_head(
        &mut beyond,
        "POST /v1/events",
        &[("content-length", &length)],
    );
    beyond.write_all(body.as_bytes()).unwrap();
    let answer = read_answer(&mut beyond).expect("an answer");
    bridge.count_answer(&answer);
    answer.expect_problem(503, "too_many_connections");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(is_closed(&mut beyond));
    drop(held);
    eventually("there is room again", || {
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
    eventually("most of those beyond are closed", || {
        let open = all.iter().filter(|s| !closed(s)).count();
        (open <= 1 + 256).then_some(())
    });
    drop(all);
    eventually("there is room again", || {
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
    write_head(
        &mut stream,
        "POST /v1/events",
        &[("content-length", "1000")],
    );
    let mut dripping = stream.try_clone().unwrap();
    let drip = thread::spawn(move || {
        while start.elapsed() < PATIENCE && dripping.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    });
    let answer = read_answer(&mut stream).expect("an answer");
    bridge.count_answer(&answer);
    answer.expect_problem(408, "body_timeout");
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(took < Duration::from_secs(1) + SLACK, "{took:?}");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(is_closed(&mut stream));
    drip.join().unwrap();
    assert!(start.elapsed() < Duration::from_secs(2) + SLACK);
    assert_eq!(bridge.metric("butlr_bridge_in_flight_bytes"), 0.0);
}

fn headers_that_drip_on_a_kept_connection_are_cut_off() {
    let bridge = BridgeSetup::embedded()
        .set("http.header_timeout", "500ms")
        .set("http.keep_alive", "500ms")
        .start();
    let mut stream = bridge.connect();
    let body = valid_event("event_1");
    let length = body.len().to_string();
    let headers = [("content-length", length.as_str())];
    write_head(&mut stream, "POST /v1/events", &headers);
    stream.write_all(body.as_bytes()).unwrap();
    let answer = read_answer(&mut stream).expect("an answer");
    bridge.count_answer(&answer);
    answer.expect(200);

    let start = Instant::now();
    let mut dripping = stream.try_clone().unwrap();
    let drip = thread::spawn(move || {
        while start.elapsed() < PATIENCE && dripping.write_all(b"P").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    });
    assert!(is_closed(&mut stream));
    // keep_alive + header_timeout, and the second between two looks.
    assert!(start.elapsed() < Duration::from_secs(2) + SLACK);
    drip.join().unwrap();
    eventually("its place is given back", || {
        (bridge.metric("butlr_bridge_connections") == 0.0).then_some(())
    });
}

fn headers_that_drip_are_cut_off() {
    let bridge = BridgeSetup::embedded()
        .set("http.header_timeout", "500ms")
        .start();
    let mut stream = bridge.connect();
    let start = Instant::now();
    let mut dripping = stream.try_clone().unwrap();
    dripping.write_all(b"POST /v1/events HTTP/1.1\r\n").unwrap();
    let drip = thread::spawn(move || {
        while start.elapsed() < PATIENCE && dripping.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    });
    if let Some(answer) = read_answer(&mut stream) {
        answer.expect(408);
    }
    assert!(is_closed(&mut stream));
    assert!(start.elapsed() < Duration::from_millis(1500) + SLACK);
    drip.join().unwrap();
    eventually("its place is given back", || {
        (bridge.metric("butlr_bridge_connections") == 0.0).then_some(())
    });
}

fn an_idle_connection_is_closed() {
    let bridge = BridgeSetup::embedded()
        .set("http.keep_alive", "500ms")
        .start();
    let mut stream = bridge.connect();
    let body = valid_event("event_1");
    let length = body.len().to_string();
    write_head(
        &mut stream,
        "POST /v1/events",
        &[("content-length", &length)],
    );
    stream.write_all(body.as_bytes()).unwrap();
    let answer = read_answer(&mut stream).expect("an answer");
    bridge.count_answer(&answer);
    answer.expect(200);
    let start = Instant::now();
    assert!(is_closed(&mut stream));
    assert!(start.elapsed() < Duration::from_millis(1500) + SLACK);
}

fn a_body_announced_too_large_is_413_unread() {
    let bridge = BridgeSetup::embedded()
        .set("http.max_body_bytes", "256KiB")
        .start();
    let mut stream = bridge.connect();
    write_head(
        &mut stream,
        "POST /v1/events",
        &[("content-length", "262145")],
    );
    let answer = read_answer(&mut stream).expect("an answer");
    bridge.count_answer(&answer);
    answer.expect_problem(413, "body_too_large");
    assert!(answer.text().contains("262144"), "{}", answer.text());
}

fn a_chunked_body_that_grows_too_large_is_413() {
    let bridge = BridgeSetup::embedded()
        .set("http.max_body_bytes", "256KiB")
        .start();
    let mut stream = bridge.connect();
    let chunked = [("transfer-encoding", "chunked")];
    write_head(&mut stream, "POST /v1/events", &chunked);
    let mut sending = stream.try_clone().unwrap();
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    let send = thread::spawn(move || {
        // Without an end, as long as the bridge lets it: for a moment after its answer, so that the client can read that.
        let end = Instant::now() + Duration::from_secs(1) + 2 * SLACK;
        while Instant::now() < end {
            if sending.write_all(chunk.as_bytes()).is_err() {
                return true;
            }
        }
        false
    });
    let answer = read_answer(&mut stream).expect("an answer");
    bridge.count_answer(&answer);
    answer.expect_problem(413, "body_too_large");
    drop(stream);
    assert!(send.join().unwrap(), "the body is read without an end");
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
        write_head(&mut stream, "POST /v1/events", &headers);
        let mut dripping = stream.try_clone().unwrap();
        let drip = thread::spawn(move || {
            while start.elapsed() < PATIENCE / 2 && dripping.write_all(b"1\r\n \r\n").is_ok() {
                thread::sleep(Duration::from_millis(100));
            }
        });
        let answer = read_answer(&mut stream).expect("an answer");
        bridge.count_answer(&answer);
        answer.expect_problem(415, "unsupported_media_type");
        assert!(is_closed(&mut stream));
        assert!(
            start.elapsed() < Duration::from_secs(2) + SLACK,
            "{framing:?}"
        );
        drip.join().unwrap();
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
    if let Some(answer) = read_answer(&mut stream) {
        assert!(matches!(answer.status, 400 | 431), "{}", answer.status);
    }
    assert!(is_closed(&mut stream));
    assert!(
        send.join().unwrap().is_some(),
        "40 MB of headers were taken"
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
        let begun = Instant::now();
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
        let answer = bridge.send(valid_event("event_beyond"));
        let took = start.elapsed();
        assert!(
            begun.elapsed() < held_for,
            "this machine is too busy to tell"
        );
        expect_overload(&answer, "too_many_events_in_flight", took, held_for);
        for answer in held {
            answer.join().unwrap().expect(200);
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
        let answer = bridge.send(&array);
        let results = answer.expect(503).json()["results"].clone();
        assert_eq!(answer.header("retry-after"), Some("1"));
        for (result, id) in results.as_array().unwrap().iter().zip(["a_1", "a_2"]) {
            assert_eq!(result["code"], "too_many_events_in_flight");
            assert_eq!(result["id"], id);
        }
        for answer in held {
            answer.join().unwrap().expect(200);
        }
    });
    bridge.slow_down(Duration::ZERO);
    bridge.send(&array).expect(200);
}

/// An event of about this size.
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
        let begun = Instant::now();
        let held = scope.spawn(|| bridge.send(padded_event("event_held", 5000)));
        wait_for_in_flight(&bridge, 1.0);
        let start = Instant::now();
        let answer = bridge.send(padded_event("event_beyond", 5000));
        let took = start.elapsed();
        assert!(
            begun.elapsed() < held_for,
            "this machine is too busy to tell"
        );
        expect_overload(&answer, "too_many_bytes_in_flight", took, held_for);
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
    write_head(
        &mut coming,
        "POST /v1/events",
        &[("content-length", "8000")],
    );
    coming.write_all(&[b' '; 6000]).unwrap();
    eventually("they are held", || {
        (bridge.metric("butlr_bridge_in_flight_bytes") == 6000.0).then_some(())
    });
    bridge
        .send(padded_event("event_1", 5000))
        .expect_problem(503, "too_many_bytes_in_flight");
    drop(coming);
    eventually("they are given back", || {
        (bridge.metric("butlr_bridge_in_flight_bytes") == 0.0).then_some(())
    });
    bridge.send(padded_event("event_2", 5000)).expect(200);
}

/// Sends events of all types at once, and arrays; each answer is `kafka_unconfirmed`, and in time.
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
                        let answer = bridge.send(&one);
                        assert!(start.elapsed() < bound, "{:?}", start.elapsed());
                        answer.expect_problem(503, "kafka_unconfirmed");
                        assert_eq!(answer.header("retry-after"), Some("1"));
                    }
                    let start = Instant::now();
                    let answer = bridge.send(format!("[{}]", vec![one; 100].join(",")));
                    assert!(start.elapsed() < bound, "{:?}", start.elapsed());
                    let results = answer.expect(503).json()["results"].clone();
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

/// Arrays of 100 kB over many connections, while Kafka is away, first onto the disk and then against a spool that is full:
/// nothing at all is taken any more, so whatever comes is more than ten times that.
fn memory_stays_flat_under_far_more_than_disk_and_kafka_take() {
    const SENDERS: usize = 32;
    const ITEMS: usize = 100;
    const MIB: u64 = 1 << 20;
    let _alone = lock_heavy();
    let folder = tempfile::tempdir().expect("a folder");
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
        "{offered}, of those {taken} taken"
    );
    let [before, after] = [before.0 / MIB, after.0 / MIB];
    println!("{offered} offered, {taken} taken; {before} MiB, then {after} MiB");
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
