//! The sender against small real servers.

mod idle;
mod open_loop;
mod server;
mod turns;

use std::collections::HashSet;

use secrecy::SecretString;

use super::*;
use crate::city::{CityBehaviour, CityPlan, CitySimulation, CitySize};
use crate::journal::{ClosedJournal, RecordedOutcome, RunHeader as JournalRun};
use crate::message::DeliveryKind;
use crate::stream::SenderBehaviour;
use butlr_event::EventType;
use server::{PUBLISHED, REDELIVERY, ServerAction, TestServer};

/// A Tuesday; fixed, so that every run has the same deliveries.
const START_MS: i64 = 1_748_937_600_000;

/// The stream of a small city whose occupancy readings are computed five times.
fn small_stream(behaviour: SenderBehaviour) -> DeliveryStream {
    let size = CitySize {
        rooms: 4,
        sensors: None,
    };
    let plan = Arc::new(CityPlan::generate(7, size));
    let city_behaviour = CityBehaviour {
        types: EventType::ALL.map(|t| t != EventType::Detections),
        ..CityBehaviour::default()
    };
    let city = CitySimulation::new(plan, 7, START_MS, city_behaviour);
    DeliveryStream::new(city, 7, behaviour)
}

fn options(server: &TestServer, events: u64) -> Options {
    Options {
        connections: 8,
        pace: SendPace::Max,
        limits: RunLimits {
            events: Some(events),
            duration: None,
        },
        timings: SenderTimings {
            pauses: vec![Duration::from_millis(5), Duration::from_millis(10)],
            ..SenderTimings::default()
        },
        ..Options::new(SendTarget::parse(&server.url()).unwrap())
    }
}

fn run_with(options: Options, journal: Option<JournalWriter>) -> FinishedRun {
    let stream = small_stream(SenderBehaviour::default());
    let finished = run(
        options,
        stream,
        journal,
        ProgressOutput::Silent,
        StopSignal::new(),
    )
    .unwrap();
    let ledger = &finished.ledger;
    assert!(ledger.is_balanced(), "{ledger:?}");
    let ended: u64 = SendOutcome::ALL
        .into_iter()
        .map(|outcome| ledger.send_outcome_count(outcome))
        .sum();
    let kinds: u64 = DeliveryKind::ALL
        .into_iter()
        .map(|kind| ledger.kind_count(kind))
        .sum();
    assert_eq!(kinds, ended, "each delivery ends exactly once");
    finished
}

fn temporary_journal() -> (tempfile::TempDir, Option<JournalWriter>) {
    let dir = tempfile::tempdir().unwrap();
    let run = JournalRun {
        topics: "butlr.event.{type}.v1".to_owned(),
        starts: None,
    };
    let journal = JournalWriter::create(Some(dir.path()), run).unwrap();
    (dir, Some(journal))
}

fn close_journal(finished: FinishedRun) -> (ClosedJournal, RunLedger) {
    let journal = finished.journal.unwrap();
    (
        journal.finish(finished.truth, true).unwrap(),
        finished.ledger,
    )
}

#[test]
fn each_event_is_sent_once_to_a_server_that_accepts_it() {
    let server = TestServer::start(|_| ServerAction::Respond(200, PUBLISHED));
    let finished = run_with(options(&server, 400), None);
    let ledger = finished.ledger;
    assert!(ledger.fidelity().complete && finished.unreachable.is_none());
    assert!(ledger.deliveries() >= 400);
    assert_eq!(
        ledger.send_outcome_count(SendOutcome::Accepted),
        ledger.deliveries()
    );
    assert_eq!(
        ledger.reported_outcome_count(ReportedOutcome::Published),
        ledger.deliveries()
    );
    assert_eq!(ledger.tries(), ledger.deliveries());
    let seen = server.requests();
    assert_eq!(seen.len() as u64, ledger.deliveries());
    let ids: HashSet<_> = seen.iter().map(|seen| &seen.id).collect();
    let copies = ledger.kind_count(DeliveryKind::Redelivery);
    assert_eq!(ids.len() as u64 + copies, ledger.deliveries());
    assert!(ledger.kind_count(DeliveryKind::Repeat) > 0);
}

#[test]
fn a_503_is_retried() {
    let server = TestServer::start(|before| match before {
        0 => ServerAction::Respond(503, r#"{"code":"overload"}"#),
        _ => ServerAction::Respond(200, PUBLISHED),
    });
    let ledger = run_with(options(&server, 200), None).ledger;
    let copies = ledger.kind_count(DeliveryKind::Redelivery);
    let events = ledger.deliveries() - copies;
    assert_eq!(
        ledger.send_outcome_count(SendOutcome::Accepted),
        ledger.deliveries()
    );
    assert_eq!(ledger.status_count(503), events);
    assert_eq!(ledger.tries(), 2 * events + copies);
}

#[test]
fn an_event_refused_three_times_is_dropped() {
    let server = TestServer::start(|_| ServerAction::Respond(422, "{}"));
    let (_dir, journal) = temporary_journal();
    let (journal, ledger) = close_journal(run_with(options(&server, 50), journal));
    assert_eq!(
        ledger.send_outcome_count(SendOutcome::Refused),
        ledger.deliveries()
    );
    assert_eq!(ledger.tries(), 3 * ledger.deliveries());
    assert_eq!(ledger.status_count(422), ledger.tries());
    assert_eq!(
        journal.outcome_count(RecordedOutcome::Refused),
        ledger.tries()
    );
}

#[test]
fn a_broken_connection_is_a_failed_try() {
    let server = TestServer::start(|before| match before {
        0 => ServerAction::Close,
        _ => ServerAction::Respond(202, r#"{"status":"spooled","id":"x"}"#),
    });
    let (_dir, journal) = temporary_journal();
    let (journal, ledger) = close_journal(run_with(options(&server, 50), journal));
    assert_eq!(
        ledger.send_outcome_count(SendOutcome::Accepted),
        ledger.deliveries()
    );
    assert_eq!(
        ledger.reported_outcome_count(ReportedOutcome::Spooled),
        ledger.deliveries()
    );
    let broken = ledger.tries() - ledger.deliveries();
    assert_eq!(journal.outcome_count(RecordedOutcome::Unknown), broken);
    assert!(broken >= 50 - ledger.kind_count(DeliveryKind::Redelivery));
}

#[test]
fn a_connection_closed_by_the_server_costs_no_try() {
    let server = TestServer::start(|_| ServerAction::RespondAndClose(200, PUBLISHED));
    let ledger = run_with(options(&server, 50), None).ledger;
    assert_eq!(ledger.tries(), ledger.deliveries());
    assert_eq!(
        ledger.send_outcome_count(SendOutcome::Accepted),
        ledger.deliveries()
    );
}

#[test]
fn a_late_response_is_recorded_and_changes_nothing() {
    let server = TestServer::start(|before| match before {
        0 => ServerAction::RespondAfter(Duration::from_millis(400), 200, PUBLISHED),
        _ => ServerAction::Respond(200, REDELIVERY),
    });
    let mut options = options(&server, 5);
    options.timings.http_timeout = Duration::from_millis(300);
    let (_dir, journal) = temporary_journal();
    let (journal, ledger) = close_journal(run_with(options, journal));
    assert!(ledger.timeouts() > 0);
    assert!(ledger.late_responses() > 0);
    let without_response = ledger.timeouts() - ledger.late_responses();
    let outcomes = [
        RecordedOutcome::Published,
        RecordedOutcome::Redelivery,
        RecordedOutcome::Unknown,
    ];
    let recorded: u64 = outcomes.into_iter().map(|a| journal.outcome_count(a)).sum();
    assert_eq!(recorded, ledger.tries(), "each request is recorded once");
    assert_eq!(
        journal.outcome_count(RecordedOutcome::Unknown),
        without_response
    );
}

#[test]
fn a_server_that_never_responds_does_not_block_the_run() {
    let server = TestServer::start(|_| ServerAction::Hang);
    let mut options = options(&server, 100_000);
    options.limits.duration = Some(Duration::from_millis(300));
    options.timings.http_timeout = Duration::from_millis(100);
    options.timings.window = Duration::from_millis(400);
    let start = Instant::now();
    let (_dir, journal) = temporary_journal();
    let finished = run_with(options, journal);
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(!finished.ledger.fidelity().complete);
    assert!(finished.unreachable.is_none(), "the server was reachable");
    let (journal, ledger) = close_journal(finished);
    assert_eq!(ledger.send_outcome_count(SendOutcome::Accepted), 0);
    assert!(
        ledger.send_outcome_count(SendOutcome::Dropped) > 0
            && ledger.send_outcome_count(SendOutcome::Unsent) > 0
    );
    assert_eq!(
        journal.outcome_count(RecordedOutcome::Unknown),
        ledger.timeouts()
    );
}

#[test]
fn an_unreachable_server_is_reported() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = TestServer::start(|_| ServerAction::Hang);
    let mut options = options(&server, 100_000);
    let url = format!("http://{}/", unused.local_addr().unwrap());
    options.targets = vec![SendTarget::parse(&url).unwrap()];
    drop(unused);
    options.timings.unreachable_timeout = Duration::from_millis(200);
    let finished = run_with(options, None);
    let reason = finished.unreachable.unwrap();
    assert!(reason.contains("refused"), "{reason}");
    assert!(!finished.ledger.fidelity().complete);
}

#[test]
fn a_stop_ends_the_run_and_sends_waiting_events() {
    let server = TestServer::start(|_| ServerAction::Respond(200, PUBLISHED));
    let mut options = options(&server, 1);
    options.limits = RunLimits::default();
    options.pace = SendPace::Rate(500.0);
    let stop = StopSignal::new();
    let stopper = stop.clone();
    let finished = std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            while server.requests().len() <= 50 && start.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(10));
            }
            stopper.stop();
        });
        let stream = small_stream(SenderBehaviour::default());
        run(options, stream, None, ProgressOutput::Silent, stop).unwrap()
    });
    assert!(finished.ledger.fidelity().complete);
    assert_eq!(
        finished.ledger.send_outcome_count(SendOutcome::Accepted),
        finished.ledger.deliveries()
    );
    assert!(finished.ledger.deliveries() > 50);
}

#[test]
fn each_type_has_its_url_and_the_key_is_in_the_header() {
    let server = TestServer::start(|_| ServerAction::Respond(200, PUBLISHED));
    let mut options = options(&server, 60);
    let key = SenderCredentials::api_key("x-api-key", &SecretString::from("s3cret")).unwrap();
    let target = SendTarget::parse(&format!("{}/{{type}}", server.url())).unwrap();
    options.targets = vec![target.with_credentials(key)];
    run_with(options, None);
    for seen in server.requests() {
        let event_type = seen.reading.split('"').nth(1).unwrap();
        let line = format!(
            "POST /v1/events/{} HTTP/1.1",
            event_type.to_ascii_lowercase()
        );
        assert_eq!(seen.head.lines().next(), Some(&*line));
        assert!(seen.head.contains("x-api-key: s3cret"), "{}", seen.head);
        assert!(seen.head.contains("content-type: application/json"));
    }
}

#[test]
fn https_needs_a_trusted_certificate() {
    let (server, certificate) = TestServer::start_tls(|_| ServerAction::Respond(200, PUBLISHED));
    let mut trusting = options(&server, 20);
    let roots = load_roots(certificate.path()).unwrap();
    let target = trusting.targets.remove(0);
    trusting.targets.push(target.with_roots(roots));
    let ledger = run_with(trusting, None).ledger;
    assert_eq!(
        ledger.send_outcome_count(SendOutcome::Accepted),
        ledger.deliveries()
    );
    let mut distrusting = options(&server, 20);
    distrusting.timings.unreachable_timeout = Duration::from_millis(50);
    let reason = run_with(distrusting, None).unreachable.unwrap();
    assert!(reason.contains("certificate"), "{reason}");
}

#[test]
fn printing_ends_when_the_output_fails() {
    let limits = RunLimits {
        events: Some(100),
        duration: None,
    };
    let mut out = Vec::new();
    let print = |out: &mut dyn std::io::Write| {
        let mut out = out;
        print_bodies(
            small_stream(SenderBehaviour::plain()),
            SendPace::Max,
            limits,
            StopSignal::new(),
            &mut out,
        )
    };
    print(&mut out).unwrap();
    let lines: Vec<_> = out
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .collect();
    assert!(lines.len() >= 100);
    assert!(
        lines
            .iter()
            .all(|l| serde_json::from_slice::<serde_json::Value>(l).is_ok())
    );
    let mut full: &mut [u8] = &mut [0; 100];
    assert!(print(&mut full).is_err());
}
