//! Open loops: events are due at their send times, whatever the server does.

use super::*;

#[test]
fn a_hanging_server_does_not_delay_due_events() {
    let server = TestServer::start(|_| ServerAction::Hang);
    let mut options = options(&server, 3_000);
    options.connections = 2;
    options.pace = SendPace::Rate(3_000.0);
    options.timings.http_timeout = Duration::from_millis(50);
    options.timings.window = Duration::from_millis(100);
    let ledger = run_with(options, None).ledger;
    assert!(ledger.deliveries() >= 3_000, "all are admitted when due");
    assert!(ledger.tries() < 1_500, "only few could be tried");
}

#[test]
fn a_closed_loop_drops_nothing_while_it_waits_for_a_connection() {
    let server =
        TestServer::start(|_| ServerAction::RespondAfter(Duration::from_millis(2), 200, PUBLISHED));
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
fn latency_includes_all_tries() {
    let server = TestServer::start(|before| match before {
        0 => ServerAction::Respond(503, ""),
        _ => ServerAction::Respond(200, PUBLISHED),
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
    assert!(p50 >= 99.0, "the pause is included: {p50} ms");
    assert_eq!(summary["latency_from"], "begun");
}

#[test]
fn a_missed_pace_is_reported() {
    let server =
        TestServer::start(|_| ServerAction::RespondAfter(Duration::from_millis(5), 200, PUBLISHED));
    let mut options = options(&server, 100);
    options.connections = 1;
    options.pace = SendPace::Rate(1_000.0);
    let fidelity = run_with(options, None).ledger.fidelity();
    // All are due within 100 ms, but the responses take half a second at best.
    assert!(fidelity.behind_s > 0.3, "{fidelity:?}");
    assert!(fidelity.complete && !fidelity.caught_up, "{fidelity:?}");
}
