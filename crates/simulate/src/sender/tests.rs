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
use crate::ledger::KINDS;
use crate::message::DeliveryKind;
use crate::stream::SenderBehaviour;
use butlr_event::EventType;
use server::{PUBLISHED, REDELIVERY, ServerAction, TestServer};

/// A Tuesday, so that the same deliveries come each time.
const START_MS: i64 = 1_748_937_600_000;

/// A small city, all of whose readings of occupancy are computed five times.
fn small_stream(behaviour: SenderBehaviour) -> DeliveryStream {
    let size = CitySize {
        rooms: 4,
        sensors: None,
    };
    let plan = Arc::new(CityPlan::generate(7, size));
    let habits = CityBehaviour {
        types: EventType::ALL.map(|t| t != EventType::Detections),
        ..CityBehaviour::default()
    };
    let life = CitySimulation::new(plan, 7, START_MS, habits);
    DeliveryStream::new(life, 7, behaviour)
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
        .map(|end| ledger.send_outcome_count(end))
        .sum();
    let kinds: u64 = KINDS.into_iter().map(|kind| ledger.kind_count(kind)).sum();
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
fn each_event_is_sent_once_to_a_server_that_takes_it() {
    let server = TestServer::start(|_| ServerAction::Answer(200, PUBLISHED));
    let finished = run_with(options(&server, 400), None);
    let ledger = finished.ledger;
    assert!(finished.complete && finished.unreachable.is_none());
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
fn a_refusal_of_the_moment_is_tried_again() {
    let server = TestServer::start(|before| match before {
        0 => ServerAction::Answer(503, r#"{"code":"overload"}"#),
        _ => ServerAction::Answer(200, PUBLISHED),
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
fn what_is_refused_three_times_is_dropped() {
    let server = TestServer::start(|_| ServerAction::Answer(422, "{}"));
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
        _ => ServerAction::Answer(202, r#"{"status":"spooled","id":"x"}"#),
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
fn a_connection_that_the_server_ends_costs_no_try() {
    let server = TestServer::start(|_| ServerAction::AnswerAndClose(200, PUBLISHED));
    let ledger = run_with(options(&server, 50), None).ledger;
    assert_eq!(ledger.tries(), ledger.deliveries());
    assert_eq!(
        ledger.send_outcome_count(SendOutcome::Accepted),
        ledger.deliveries()
    );
}

#[test]
fn a_late_answer_is_noted_and_changes_nothing() {
    let server = TestServer::start(|before| match before {
        0 => ServerAction::AnswerAfter(Duration::from_millis(400), 200, PUBLISHED),
        _ => ServerAction::Answer(200, REDELIVERY),
    });
    let mut options = options(&server, 5);
    options.timings.http_timeout = Duration::from_millis(300);
    let (_dir, journal) = temporary_journal();
    let (journal, ledger) = close_journal(run_with(options, journal));
    assert!(ledger.timeouts() > 0);
    assert!(ledger.late_answers() > 0);
    let listened = ledger.timeouts() - ledger.late_answers();
    let noted = [
        RecordedOutcome::Published,
        RecordedOutcome::Redelivery,
        RecordedOutcome::Unknown,
    ];
    let noted: u64 = noted.into_iter().map(|a| journal.outcome_count(a)).sum();
    assert_eq!(noted, ledger.tries(), "each request is noted once");
    assert_eq!(journal.outcome_count(RecordedOutcome::Unknown), listened);
}

#[test]
fn a_server_that_never_answers_does_not_hold_the_run() {
    let server = TestServer::start(|_| ServerAction::Hang);
    let mut options = options(&server, 100_000);
    options.limits.duration = Some(Duration::from_millis(300));
    options.timings.http_timeout = Duration::from_millis(100);
    options.timings.window = Duration::from_millis(400);
    let begun = Instant::now();
    let (_dir, journal) = temporary_journal();
    let finished = run_with(options, journal);
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(!finished.complete);
    assert!(finished.unreachable.is_none(), "it could be reached");
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
fn a_server_that_is_not_there_is_told() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = TestServer::start(|_| ServerAction::Hang);
    let mut options = options(&server, 100_000);
    let nowhere = format!("http://{}/", nobody.local_addr().unwrap());
    options.targets = vec![SendTarget::parse(&nowhere).unwrap()];
    drop(nobody);
    options.timings.unreachable_timeout = Duration::from_millis(200);
    let finished = run_with(options, None);
    let reason = finished.unreachable.unwrap();
    assert!(reason.contains("refused"), "{reason}");
    assert!(!finished.complete);
}

#[test]
fn a_stop_ends_the_run_and_sends_what_waits() {
    let server = TestServer::start(|_| ServerAction::Answer(200, PUBLISHED));
    let mut options = options(&server, 1);
    options.limits = RunLimits::default();
    options.pace = SendPace::Rate(500.0);
    let stop = StopSignal::new();
    let stopper = stop.clone();
    let finished = std::thread::scope(|scope| {
        scope.spawn(|| {
            let begun = Instant::now();
            while server.requests().len() <= 50 && begun.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(10));
            }
            stopper.stop();
        });
        let stream = small_stream(SenderBehaviour::default());
        run(options, stream, None, ProgressOutput::Silent, stop).unwrap()
    });
    assert!(finished.complete);
    assert_eq!(
        finished.ledger.send_outcome_count(SendOutcome::Accepted),
        finished.ledger.deliveries()
    );
    assert!(finished.ledger.deliveries() > 50);
}

#[test]
fn one_url_a_type_and_the_key_in_its_header() {
    let server = TestServer::start(|_| ServerAction::Answer(200, PUBLISHED));
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
fn https_to_who_is_trusted_only() {
    let (server, certificate) = TestServer::start_tls(|_| ServerAction::Answer(200, PUBLISHED));
    let mut trusting = options(&server, 20);
    let roots = load_roots(certificate.path()).unwrap();
    let target = trusting.targets.remove(0);
    trusting.targets.push(target.with_roots(roots));
    let ledger = run_with(trusting, None).ledger;
    assert_eq!(
        ledger.send_outcome_count(SendOutcome::Accepted),
        ledger.deliveries()
    );
    let mut wary = options(&server, 20);
    wary.timings.unreachable_timeout = Duration::from_millis(50);
    let reason = run_with(wary, None).unreachable.unwrap();
    assert!(reason.contains("certificate"), "{reason}");
}

#[test]
fn printing_ends_with_its_reader() {
    let limits = RunLimits {
        events: Some(100),
        duration: None,
    };
    let mut out = Vec::new();
    let printed = |out: &mut dyn std::io::Write| {
        let mut out = out;
        print_bodies(
            small_stream(SenderBehaviour::plain()),
            SendPace::Max,
            limits,
            StopSignal::new(),
            &mut out,
        )
    };
    printed(&mut out).unwrap();
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
    assert!(printed(&mut full).is_err());
}
