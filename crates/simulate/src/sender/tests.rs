//! The sender against small real servers.

mod idle;
mod open_loop;
mod server;
mod turns;

use std::collections::HashSet;

use secrecy::SecretString;

use super::*;
use crate::city::{Habits, Life, Plan, Size};
use crate::journal::{Answer, ClosedJournal, Run as JournalRun};
use crate::ledger::KINDS;
use crate::message::Kind;
use crate::stream::Behaviour;
use butlr_event::EventType;
use server::{Act, PUBLISHED, REDELIVERY, Server};

/// A Tuesday, so that the same deliveries come each time.
const START_MS: i64 = 1_748_937_600_000;

/// A small city, all of whose readings of occupancy are computed five times.
fn stream(behaviour: Behaviour) -> Stream {
    let size = Size {
        rooms: 4,
        sensors: None,
    };
    let plan = Arc::new(Plan::grow(7, size));
    let habits = Habits {
        types: EventType::ALL.map(|t| t != EventType::Detections),
        ..Habits::default()
    };
    let life = Life::begin(plan, 7, START_MS, habits);
    Stream::new(life, 7, behaviour)
}

fn options(server: &Server, events: u64) -> Options {
    Options {
        connections: 8,
        pace: Pace::Max,
        limits: Limits {
            events: Some(events),
            duration: None,
        },
        timings: Timings {
            pauses: vec![Duration::from_millis(5), Duration::from_millis(10)],
            ..Timings::default()
        },
        ..Options::to(Target::parse(&server.url()).unwrap())
    }
}

fn run_with(options: Options, journal: Option<Journal>) -> Finished {
    let stream = stream(Behaviour::default());
    let finished = run(options, stream, journal, Progress::Silent, Stop::new()).unwrap();
    let ledger = &finished.ledger;
    assert!(ledger.is_balanced(), "{ledger:?}");
    let ended: u64 = End::ALL.into_iter().map(|end| ledger.ended(end)).sum();
    let kinds: u64 = KINDS.into_iter().map(|kind| ledger.of_kind(kind)).sum();
    assert_eq!(kinds, ended, "each delivery ends exactly once");
    finished
}

fn journal() -> (tempfile::TempDir, Option<Journal>) {
    let dir = tempfile::tempdir().unwrap();
    let run = JournalRun {
        topics: "butlr.event.{type}.v1".to_owned(),
        starts: None,
    };
    let journal = Journal::create(Some(dir.path()), run).unwrap();
    (dir, Some(journal))
}

fn closed(finished: Finished) -> (ClosedJournal, Ledger) {
    let journal = finished.journal.unwrap();
    (
        journal.finish(finished.truth, true).unwrap(),
        finished.ledger,
    )
}

#[test]
fn each_event_is_sent_once_to_a_server_that_takes_it() {
    let server = Server::start(|_| Act::Answer(200, PUBLISHED));
    let finished = run_with(options(&server, 400), None);
    let ledger = finished.ledger;
    assert!(finished.complete && finished.unreachable.is_none());
    assert!(ledger.deliveries() >= 400);
    assert_eq!(ledger.ended(End::Accepted), ledger.deliveries());
    assert_eq!(ledger.words(Word::Published), ledger.deliveries());
    assert_eq!(ledger.tries(), ledger.deliveries());
    let seen = server.seen();
    assert_eq!(seen.len() as u64, ledger.deliveries());
    let ids: HashSet<_> = seen.iter().map(|seen| &seen.id).collect();
    let copies = ledger.of_kind(Kind::Redelivery);
    assert_eq!(ids.len() as u64 + copies, ledger.deliveries());
    assert!(ledger.of_kind(Kind::Repeat) > 0);
}

#[test]
fn a_refusal_of_the_moment_is_tried_again() {
    let server = Server::start(|before| match before {
        0 => Act::Answer(503, r#"{"code":"overload"}"#),
        _ => Act::Answer(200, PUBLISHED),
    });
    let ledger = run_with(options(&server, 200), None).ledger;
    let copies = ledger.of_kind(Kind::Redelivery);
    let events = ledger.deliveries() - copies;
    assert_eq!(ledger.ended(End::Accepted), ledger.deliveries());
    assert_eq!(ledger.answers(503), events);
    assert_eq!(ledger.tries(), 2 * events + copies);
}

#[test]
fn what_is_refused_three_times_is_dropped() {
    let server = Server::start(|_| Act::Answer(422, "{}"));
    let (_dir, journal) = journal();
    let (journal, ledger) = closed(run_with(options(&server, 50), journal));
    assert_eq!(ledger.ended(End::Refused), ledger.deliveries());
    assert_eq!(ledger.tries(), 3 * ledger.deliveries());
    assert_eq!(ledger.answers(422), ledger.tries());
    assert_eq!(journal.answered(Answer::Refused), ledger.tries());
}

#[test]
fn a_broken_connection_is_a_failed_try() {
    let server = Server::start(|before| match before {
        0 => Act::Close,
        _ => Act::Answer(202, r#"{"status":"spooled","id":"x"}"#),
    });
    let (_dir, journal) = journal();
    let (journal, ledger) = closed(run_with(options(&server, 50), journal));
    assert_eq!(ledger.ended(End::Accepted), ledger.deliveries());
    assert_eq!(ledger.words(Word::Spooled), ledger.deliveries());
    let broken = ledger.tries() - ledger.deliveries();
    assert_eq!(journal.answered(Answer::Unknown), broken);
    assert!(broken >= 50 - ledger.of_kind(Kind::Redelivery));
}

#[test]
fn a_connection_that_the_server_ends_costs_no_try() {
    let server = Server::start(|_| Act::AnswerAndClose(200, PUBLISHED));
    let ledger = run_with(options(&server, 50), None).ledger;
    assert_eq!(ledger.tries(), ledger.deliveries());
    assert_eq!(ledger.ended(End::Accepted), ledger.deliveries());
}

#[test]
fn a_late_answer_is_noted_and_changes_nothing() {
    let server = Server::start(|before| match before {
        0 => Act::AnswerAfter(Duration::from_millis(400), 200, PUBLISHED),
        _ => Act::Answer(200, REDELIVERY),
    });
    let mut options = options(&server, 5);
    options.timings.http_timeout = Duration::from_millis(300);
    let (_dir, journal) = journal();
    let (journal, ledger) = closed(run_with(options, journal));
    assert!(ledger.timeouts() > 0);
    assert!(ledger.late_answers() > 0);
    let listened = ledger.timeouts() - ledger.late_answers();
    let noted = [Answer::Published, Answer::Redelivery, Answer::Unknown];
    let noted: u64 = noted.into_iter().map(|a| journal.answered(a)).sum();
    assert_eq!(noted, ledger.tries(), "each request is noted once");
    assert_eq!(journal.answered(Answer::Unknown), listened);
}

#[test]
fn a_server_that_never_answers_does_not_hold_the_run() {
    let server = Server::start(|_| Act::Never);
    let mut options = options(&server, 100_000);
    options.limits.duration = Some(Duration::from_millis(300));
    options.timings.http_timeout = Duration::from_millis(100);
    options.timings.window = Duration::from_millis(400);
    let begun = Instant::now();
    let (_dir, journal) = journal();
    let finished = run_with(options, journal);
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(!finished.complete);
    assert!(finished.unreachable.is_none(), "it could be reached");
    let (journal, ledger) = closed(finished);
    assert_eq!(ledger.ended(End::Accepted), 0);
    assert!(ledger.ended(End::Dropped) > 0 && ledger.ended(End::Unsent) > 0);
    assert_eq!(journal.answered(Answer::Unknown), ledger.timeouts());
}

#[test]
fn a_server_that_is_not_there_is_told() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::start(|_| Act::Never);
    let mut options = options(&server, 100_000);
    let nowhere = format!("http://{}/", nobody.local_addr().unwrap());
    options.targets = vec![Target::parse(&nowhere).unwrap()];
    drop(nobody);
    options.timings.give_up = Duration::from_millis(200);
    let finished = run_with(options, None);
    let reason = finished.unreachable.unwrap();
    assert!(reason.contains("refused"), "{reason}");
    assert!(!finished.complete);
}

#[test]
fn a_stop_ends_the_run_and_sends_what_waits() {
    let server = Server::start(|_| Act::Answer(200, PUBLISHED));
    let mut options = options(&server, 1);
    options.limits = Limits::default();
    options.pace = Pace::Rate(500.0);
    let stop = Stop::new();
    let stopper = stop.clone();
    let finished = std::thread::scope(|scope| {
        scope.spawn(|| {
            let begun = Instant::now();
            while server.seen().len() <= 50 && begun.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(10));
            }
            stopper.stop();
        });
        let stream = stream(Behaviour::default());
        run(options, stream, None, Progress::Silent, stop).unwrap()
    });
    assert!(finished.complete);
    assert_eq!(
        finished.ledger.ended(End::Accepted),
        finished.ledger.deliveries()
    );
    assert!(finished.ledger.deliveries() > 50);
}

#[test]
fn one_url_a_type_and_the_key_in_its_header() {
    let server = Server::start(|_| Act::Answer(200, PUBLISHED));
    let mut options = options(&server, 60);
    let key = Credentials::api_key("x-api-key", &SecretString::from("s3cret")).unwrap();
    let target = Target::parse(&format!("{}/{{type}}", server.url())).unwrap();
    options.targets = vec![target.with_credentials(key)];
    run_with(options, None);
    for seen in server.seen() {
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
    let (server, certificate) = Server::start_tls(|_| Act::Answer(200, PUBLISHED));
    let mut trusting = options(&server, 20);
    let roots = roots_of(certificate.path()).unwrap();
    let target = trusting.targets.remove(0);
    trusting.targets.push(target.with_roots(roots));
    let ledger = run_with(trusting, None).ledger;
    assert_eq!(ledger.ended(End::Accepted), ledger.deliveries());
    let mut wary = options(&server, 20);
    wary.timings.give_up = Duration::from_millis(50);
    let reason = run_with(wary, None).unreachable.unwrap();
    assert!(reason.contains("certificate"), "{reason}");
}

#[test]
fn printing_ends_with_its_reader() {
    let limits = Limits {
        events: Some(100),
        duration: None,
    };
    let mut out = Vec::new();
    let printed = |out: &mut dyn std::io::Write| {
        let mut out = out;
        print(
            stream(Behaviour::plain()),
            Pace::Max,
            limits,
            Stop::new(),
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
