//! Shutdown of the real binary by SIGTERM, idle and under load.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use butlr_bridge::kafka::embedded::EmbeddedKafka;
use butlr_event::EventType;

use crate::harness::{
    BridgeProcess, HttpRequest, agent, eventually, find_final_counters, minimal_event,
    read_records, read_response, sum_samples, trials, unique_ms, write_head, write_request,
};
use crate::load::{BridgeLoad, assert_stored, count_by_status};
use crate::real_kafka::{
    create_topics, delete_topics, free_address, kafka_address, lock_heavy, ten_topics, unique_name,
};

trials! {
    "shutdown": [
        sigterm_under_load_loses_nothing_that_was_accepted,
        it_is_not_ready_before_it_stops_listening,
        a_second_signal_ends_it_at_once,
        it_ends_in_time_while_kafka_is_away,
        what_is_in_flight_is_answered,
        idle_connections_do_not_hold_it_up,
        a_client_in_the_middle_of_a_body_does_not_hold_it_up,
    ],
}

/// Ten topics, in the real Kafka if there is one, otherwise in an embedded broker.
struct ShutdownKafka {
    address: String,
    template: String,
    embedded: Option<EmbeddedKafka>,
}

impl ShutdownKafka {
    fn start() -> Self {
        let template = unique_name("{type}");
        let real = std::env::var("BUTLR_BRIDGE_TEST_KAFKA").is_ok_and(|v| !v.is_empty());
        let names = ten_topics(&template);
        if real {
            create_topics(&kafka_address(), &names, 3, &[]);
            let address = kafka_address();
            return Self {
                address,
                template,
                embedded: None,
            };
        }
        let names: Vec<_> = names.into_iter().map(|name| (name, 3)).collect();
        let embedded = EmbeddedKafka::start(&names).expect("an embedded broker");
        let address = embedded.bootstrap_servers().to_owned();
        Self {
            address,
            template,
            embedded: Some(embedded),
        }
    }

    fn serve(&self, settings: &[&str]) -> BridgeProcess {
        let own = [
            format!("kafka.bootstrap_servers={}", self.address),
            format!("topics.template={}", self.template),
        ];
        let own = own.iter().map(String::as_str);
        let settings: Vec<_> = own.chain(settings.iter().copied()).collect();
        let process = BridgeProcess::serve(&settings);
        let ready = format!("http://{}/readyz", process.admin());
        eventually("the bridge is ready", || {
            let response = HttpRequest::new("GET", &ready).send(&agent());
            (response.status == 200).then_some(())
        });
        process
    }
}

impl Drop for ShutdownKafka {
    fn drop(&mut self) {
        if self.embedded.is_none() && !std::thread::panicking() {
            let names = ten_topics(&self.template);
            delete_topics(&self.address, &names);
        }
    }
}

/// Waits until the sum of a metric's series has this value.
#[track_caller]
fn wait_for_metric(process: &BridgeProcess, name: &str, value: f64) {
    let url = format!("http://{}/metrics", process.admin());
    eventually(name, || {
        let exposition = HttpRequest::new("GET", &url).send(&agent()).text();
        (sum_samples(&exposition, name, "") == value).then_some(())
    });
}

/// Parses the log line with the final counters.
#[track_caller]
fn final_counters(process: &BridgeProcess) -> serde_json::Value {
    let output = process.output();
    find_final_counters(&output).unwrap_or_else(|| panic!("no counters: {output}"))
}

fn sigterm_under_load_loses_nothing_that_was_accepted() {
    let _alone = lock_heavy();
    let kafka = ShutdownKafka::start();
    let timeout = Duration::from_secs(10);
    let mut serve = kafka.serve(&["log.format=json", "shutdown.timeout=10s"]);
    let load = BridgeLoad::start(serve.ingest(), 32);
    eventually("the load is running", || {
        (load.accepted() >= 500).then_some(())
    });
    let signalled = Instant::now();
    serve.signal("TERM");
    let ended = serve.wait();
    let took = signalled.elapsed();
    eventually("the load finds nobody listening", || {
        (load.unanswered() > 0).then_some(())
    });
    let attempts = load.stop();

    assert!(ended.success(), "{ended}: {}", serve.output());
    assert!(took < timeout, "{took:?}");
    let statuses = count_by_status(&attempts);
    assert!(
        statuses.contains_key(&None),
        "no request failed after the shutdown: {statuses:?}"
    );
    assert!(
        statuses.keys().all(|s| matches!(s, None | Some(200 | 503))),
        "{statuses:?}"
    );
    let records: Vec<_> = ten_topics(&kafka.template)
        .iter()
        .flat_map(|topic| read_records(&kafka.address, topic))
        .collect();
    assert_stored(&attempts, &records);

    let last = final_counters(&serve);
    assert_eq!(last["balanced"], true, "{last}");
    assert_eq!(last["records_given_up"], 0, "{last}");
    let published = last["published"].as_u64().expect("a number") as usize;
    // An event with a 503 may be stored all the same if its report came too late.
    assert!(
        published <= records.len(),
        "{} stored: {last}",
        records.len()
    );
    assert!(published >= statuses[&Some(200)], "{statuses:?}: {last}");
}

fn it_is_not_ready_before_it_stops_listening() {
    let kafka = ShutdownKafka::start();
    let mut serve = kafka.serve(&["shutdown.drain_delay=2s"]);
    let (ingest, admin) = (serve.ingest(), serve.admin());
    serve.signal("TERM");
    eventually("/readyz returns 503", || {
        let response = HttpRequest::new("GET", &format!("http://{admin}/readyz")).send(&agent());
        (response.status == 503).then(|| assert!(response.text().contains("shutting down")))
    });
    // A load balancer that has not noticed yet still sends.
    let body = minimal_event(EventType::Traffic, "late", unique_ms(), "s");
    let response = HttpRequest::new("POST", &format!("http://{ingest}/v1/events"))
        .body(body)
        .send(&agent());
    response.expect(200);
    assert_eq!(
        response.header("connection"),
        Some("close"),
        "the client must reconnect elsewhere"
    );
    assert!(serve.wait().success(), "{}", serve.output());
    let topic = kafka.template.replace("{type}", "traffic");
    assert_eq!(read_records(&kafka.address, &topic).len(), 1);
}

fn a_second_signal_ends_it_at_once() {
    let kafka = ShutdownKafka::start();
    let mut serve = kafka.serve(&["shutdown.drain_delay=50s", "shutdown.timeout=60s"]);
    serve.signal("TERM");
    serve.wait_for("the shutdown has begun", |o| {
        o.contains("shutting down").then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    assert!(serve.is_running());
    let signalled = Instant::now();
    serve.signal("TERM");
    let ended = serve.wait();
    assert!(
        signalled.elapsed() < Duration::from_secs(3),
        "{:?}",
        signalled.elapsed()
    );
    assert_eq!(ended.code(), Some(1), "{ended}");
}

fn it_ends_in_time_while_kafka_is_away() {
    let bootstrap = format!("kafka.bootstrap_servers={}", free_address());
    let mut serve = BridgeProcess::serve(&[
        &bootstrap,
        "shutdown.timeout=3s",
        "http.answer_within=2s",
        "log.format=json",
    ]);
    let ingest = serve.ingest();
    let url = format!("http://{ingest}/v1/events");
    let sender = std::thread::spawn(move || {
        let body = minimal_event(EventType::Traffic, "e", unique_ms(), "s");
        HttpRequest::new("POST", &url).body(body).send(&agent())
    });
    wait_for_metric(&serve, "butlr_bridge_received_total", 1.0);
    let signalled = Instant::now();
    serve.signal("TERM");
    let ended = serve.wait();
    let took = signalled.elapsed();
    assert!(ended.success(), "{ended}: {}", serve.output());
    assert!(took < Duration::from_secs(3 + 2), "{took:?}");
    sender.join().expect("a sender").expect(503);
    let last = final_counters(&serve);
    assert_eq!(last["balanced"], true, "{last}");
    assert_eq!(last["refused"], 1, "{last}");
}

fn what_is_in_flight_is_answered() {
    let names: Vec<_> = ten_topics("t.{type}")
        .into_iter()
        .map(|name| (name, 3))
        .collect();
    let slow = EmbeddedKafka::start(&names).expect("an embedded broker");
    slow.with_cluster(|cluster| cluster.broker_round_trip_time(1, Duration::from_millis(700)))
        .expect("a slow broker");
    let kafka = ShutdownKafka {
        address: slow.bootstrap_servers().to_owned(),
        template: "t.{type}".to_owned(),
        embedded: Some(slow),
    };
    let mut serve = kafka.serve(&["http.answer_within=10s"]);
    let url = format!("http://{}/v1/events", serve.ingest());
    let senders: Vec<_> = (0..20)
        .map(|n| {
            let url = url.clone();
            std::thread::spawn(move || {
                let body = minimal_event(EventType::Traffic, &format!("e{n}"), unique_ms(), "s");
                HttpRequest::new("POST", &url)
                    .body(body)
                    .send(&agent())
                    .status
            })
        })
        .collect();
    wait_for_metric(&serve, "butlr_bridge_received_total", 20.0);
    serve.signal("TERM");
    for sender in senders {
        assert_eq!(sender.join().expect("a sender"), 200, "{}", serve.output());
    }
    assert!(serve.wait().success(), "{}", serve.output());
    assert_eq!(read_records(&kafka.address, "t.traffic").len(), 20);
}

fn idle_connections_do_not_hold_it_up() {
    let kafka = ShutdownKafka::start();
    let mut serve = kafka.serve(&["shutdown.timeout=15s"]);
    let idle: Vec<_> = (0..8)
        .map(|n| {
            let mut stream = TcpStream::connect(serve.ingest()).expect("a connection");
            let body = minimal_event(EventType::Traffic, &format!("e{n}"), unique_ms(), "s");
            write_request(&mut stream, &[], &body);
            let response = read_response(&mut stream).expect("a response");
            assert_eq!(
                response.expect(200).header("connection"),
                None,
                "the connection stays open"
            );
            stream
        })
        .collect();
    let signalled = Instant::now();
    serve.signal("TERM");
    assert!(serve.wait().success(), "{}", serve.output());
    assert!(
        signalled.elapsed() < Duration::from_secs(5),
        "{:?}",
        signalled.elapsed()
    );
    drop(idle);
}

fn a_client_in_the_middle_of_a_body_does_not_hold_it_up() {
    let kafka = ShutdownKafka::start();
    let mut serve = kafka.serve(&[
        "shutdown.timeout=2s",
        "http.body_timeout=60s",
        "log.format=json",
    ]);
    let mut stream = TcpStream::connect(serve.ingest()).expect("a connection");
    write_head(&mut stream, &[("content-length", "100")]);
    stream.write_all(b"{\"id\":").expect("sent");
    wait_for_metric(&serve, "butlr_bridge_in_flight_bytes", 6.0);
    let signalled = Instant::now();
    serve.signal("TERM");
    assert!(serve.wait().success(), "{}", serve.output());
    assert!(
        signalled.elapsed() < Duration::from_secs(2 + 3),
        "{:?}",
        signalled.elapsed()
    );
    let last = final_counters(&serve);
    assert_eq!(last["balanced"], true, "{last}");
    assert_eq!(last["received"], 0, "{last}");
}
