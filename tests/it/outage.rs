//! Outage of Kafka under load, with a separate broker.

use std::time::{Duration, Instant};

use butlr_event::EventType;

use crate::harness::{
    BridgeProcess, BridgeSetup, HttpRequest, KafkaBackend, TestBridge, TestRecord, agent,
    minimal_event, read_records, trials, unique_ms,
};
use crate::load::{
    BridgeLoad, LoadAttempt, assert_stored_through_timeouts, count_by_status, count_events,
};
use crate::real_kafka::{RealBroker, create_topics, lock_heavy, ten_topics, wait_within};

trials! {
    "outage" needs ["BUTLR_BRIDGE_TEST_KAFKA", "BUTLR_BRIDGE_TEST_JAVA_CP"]: [
        kafka_stopped_and_started_under_load_loses_nothing_accepted,
        kafka_paused_under_load_loses_nothing_accepted,
        serve_works_once_kafka_is_there,
    ],
}

/// Additional time on a busy machine.
const SLACK: Duration = Duration::from_secs(2);
/// Duration of the outage.
const OUTAGE: Duration = Duration::from_secs(6);

const TEMPLATE: &str = "outage.{type}";

fn create_all_topics(broker: &RealBroker) {
    create_topics(&broker.address(), &ten_topics(TEMPLATE), 3, &[]);
}

fn all_records(broker: &RealBroker) -> Vec<TestRecord> {
    let topics = ten_topics(TEMPLATE);
    let address = broker.address();
    topics
        .iter()
        .flat_map(|topic| read_records(&address, topic))
        .collect()
}

/// Runs a load, then `away`, then `back`, and checks what must hold during and after the outage.
fn run_through_outage(away: impl FnOnce(&RealBroker), back: impl FnOnce(&RealBroker)) {
    let _alone = lock_heavy();
    let broker = RealBroker::start();
    create_all_topics(&broker);
    let bridge = BridgeSetup::with_kafka(KafkaBackend::Address(broker.address()))
        .set("topics.template", TEMPLATE)
        .set("http.answer_within", "1s")
        .set("kafka.away_after", "2s")
        .start();
    let load = BridgeLoad::start(bridge.ingest, 32);
    wait_within(Duration::from_secs(20), "the load is running", || {
        load.accepted() >= 500
    });

    away(&broker);
    let outage_began = Instant::now();
    std::thread::sleep(OUTAGE - Duration::from_secs(1));
    bridge.get_admin("/readyz").expect(503);
    bridge.get_admin("/livez").expect(200);
    std::thread::sleep(OUTAGE.saturating_sub(outage_began.elapsed()));
    let accepted = load.accepted();
    back(&broker);

    wait_within(Duration::from_secs(20), "events are accepted again", || {
        load.accepted() > accepted + 100
    });
    bridge.get_admin("/readyz").expect(200);
    // The backlog of the senders is cleared first; only then are response times judged.
    std::thread::sleep(Duration::from_secs(3));
    let settled = Instant::now();
    std::thread::sleep(Duration::from_secs(3));
    let attempts = load.stop();
    bridge.count_events(count_events(&attempts));

    check_attempts(&bridge, &attempts, outage_began, settled);
    assert_stored_through_timeouts(&attempts, &all_records(&broker));
    bridge.finish();
}

fn check_attempts(
    bridge: &TestBridge,
    attempts: &[LoadAttempt],
    outage_began: Instant,
    settled: Instant,
) {
    let statuses = count_by_status(attempts);
    assert!(
        statuses
            .keys()
            .all(|status| matches!(status, Some(200 | 503))),
        "{statuses:?}"
    );
    let limit = bridge.config.http.answer_within + SLACK;
    let slowest = attempts.iter().map(|a| a.took).max().expect("a load");
    assert!(slowest < limit, "a response after {slowest:?}");
    let refused = |a: &&LoadAttempt| a.status == Some(503);
    let during = attempts
        .iter()
        .filter(|a| a.sent > outage_began && a.sent < outage_began + OUTAGE);
    assert!(
        during.filter(refused).count() >= 32,
        "no request failed in the outage: {statuses:?}"
    );
    let after: Vec<_> = attempts.iter().filter(|a| a.sent > settled).collect();
    let late = after.iter().filter(|a| a.status != Some(200)).count();
    assert_eq!(late, 0, "refused after the outage, of {}", after.len());
    assert!(after.len() >= 300, "{} events in 3 s", after.len());
}

fn kafka_stopped_and_started_under_load_loses_nothing_accepted() {
    run_through_outage(RealBroker::stop, RealBroker::restart);
}

fn kafka_paused_under_load_loses_nothing_accepted() {
    run_through_outage(RealBroker::pause, RealBroker::resume);
}

fn serve_works_once_kafka_is_there() {
    let _alone = lock_heavy();
    let broker = RealBroker::start();
    create_all_topics(&broker);
    broker.stop();

    let bootstrap = format!("kafka.bootstrap_servers={}", broker.address());
    let template = format!("topics.template={TEMPLATE}");
    let mut serve = BridgeProcess::serve(&[&bootstrap, &template, "http.answer_within=1s"]);
    let url = format!("http://{}/v1/events", serve.ingest());
    let ready = format!("http://{}/readyz", serve.admin());
    let send = |id: &str| {
        let body = minimal_event(EventType::Traffic, id, unique_ms(), "s");
        let sent = Instant::now();
        let response = HttpRequest::new("POST", &url).body(body).send(&agent());
        assert!(
            sent.elapsed() < Duration::from_secs(1) + SLACK,
            "{:?}",
            sent.elapsed()
        );
        response
    };
    for number in 0..3 {
        send(&format!("early{number}")).expect_problem(503, "kafka_unconfirmed");
    }
    let early = HttpRequest::new("GET", &ready).send(&agent());
    assert!(early.expect(503).text().contains("not been reached yet"));

    broker.restart();
    wait_within(Duration::from_secs(10), "the bridge is ready", || {
        HttpRequest::new("GET", &ready).send(&agent()).status == 200
    });
    wait_within(Duration::from_secs(5), "events are accepted", || {
        send("first").status == 200
    });
    for number in 0..20 {
        send(&format!("late{number}")).expect(200);
    }
    serve.signal("TERM");
    assert!(serve.wait().success(), "{}", serve.output());
    let records = read_records(&broker.address(), "outage.traffic");
    let stored = |id: &str| records.iter().any(|r| r.header("ce_id") == Some(id));
    assert!(stored("first"));
    assert!((0..20).all(|number| stored(&format!("late{number}"))));
}
