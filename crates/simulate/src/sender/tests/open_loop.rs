//! When events are due at their moments, whether or not anybody takes them.

use super::*;

#[test]
fn a_server_that_hangs_does_not_hold_up_what_is_due() {
    let server = TestServer::start(|_| ServerAction::Hang);
    let mut options = options(&server, 3_000);
    options.connections = 2;
    options.pace = SendPace::Rate(3_000.0);
    options.timings.http_timeout = Duration::from_millis(50);
    options.timings.window = Duration::from_millis(100);
    let ledger = run_with(options, None).ledger;
    assert!(ledger.deliveries() >= 3_000, "all are taken when due");
    assert!(ledger.tries() < 1_500, "though few could be tried");
}

#[test]
fn a_closed_loop_drops_nothing_that_waits_for_a_connection() {
    let server =
        TestServer::start(|_| ServerAction::AnswerAfter(Duration::from_millis(2), 200, PUBLISHED));
    let mut options = options(&server, 100);
    options.connections = 1;
    options.timings.window = Duration::from_millis(10);
    let ledger = run_with(options, None).ledger;
    assert_eq!(
        ledger.send_outcome_count(SendOutcome::Accepted),
        ledger.deliveries()
    );
}

#[test]
fn latency_is_an_event_s_with_all_its_tries() {
    let server = TestServer::start(|before| match before {
        0 => ServerAction::Answer(503, ""),
        _ => ServerAction::Answer(200, PUBLISHED),
    });
    let mut options = options(&server, 20);
    options.timings.pauses = vec![Duration::from_millis(100)];
    let ledger = run_with(options, None).ledger;
    assert_eq!(
        ledger.send_outcome_count(SendOutcome::Accepted),
        ledger.deliveries()
    );
    let summary = serde_json::to_value(crate::ledger::RunSummary::from(&ledger)).unwrap();
    let p50 = summary["latency_ms"]["p50"].as_f64().unwrap();
    assert!(p50 >= 99.0, "the pause is in it: {p50} ms");
    assert_eq!(summary["latency_from"], "begun");
}

#[test]
fn a_pace_that_is_missed_is_told() {
    let server =
        TestServer::start(|_| ServerAction::AnswerAfter(Duration::from_millis(5), 200, PUBLISHED));
    let mut options = options(&server, 100);
    options.connections = 1;
    options.pace = SendPace::Rate(1_000.0);
    let course = run_with(options, None).ledger.fidelity();
    // Due within 100 ms, and answered in half a second at best.
    assert!(course.behind_s > 0.3, "{course:?}");
    assert!(course.complete && !course.caught_up, "{course:?}");
}
