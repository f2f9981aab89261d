//! Whether the judge would notice: evidence is tampered with, one thing at a time.

use std::time::Duration;

use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;
use butlr_simulate::journal::{AttemptCause, DeliveryAttempt, RecordedOutcome};

use super::bridge::ProcessEnd;
use super::broker::ChaosKafka;
use super::evidence::TrialEvidence;
use super::injection::AppliedFault;
use super::judge::judge;
use super::ledgers::ReportedSpoolLedger;
use super::refusals::LoggedRefusal;
use super::schedule::{FaultKind, FaultSchedule, ScheduledFault};
use super::trial_run::run_schedule;
use crate::real_kafka::lock_heavy;

/// What is done to the evidence, and the promise that must be found broken then.
type Tampering = (&'static str, &'static str, fn(&mut TrialEvidence));

/// So many are judged at a time.
const PARALLEL_JUDGES: usize = 8;

pub fn what_is_tampered_with_is_found() {
    let _alone = lock_heavy();
    let kafka = ChaosKafka::start();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let schedule = FaultSchedule {
        rate: 300.0,
        faults: vec![ScheduledFault {
            at: Duration::from_millis(500),
            lasts: Duration::from_millis(500),
            kind: FaultKind::NetworkRefuses,
        }],
        ..FaultSchedule::draw(1)
    };
    run_schedule(&schedule, &kafka, dir.path(), |evidence| {
        let honest = judge(evidence);
        assert!(
            honest.broken_promises.is_empty(),
            "{:?}",
            honest.broken_promises
        );
        // A judgement is mostly waiting.
        for some in TAMPERINGS.chunks(PARALLEL_JUDGES) {
            std::thread::scope(|scope| {
                for tampering in some {
                    scope.spawn(|| assert_detected(evidence, tampering));
                }
            });
        }
    });
}

fn assert_detected(evidence: &TrialEvidence, (what, promise, tamper): &Tampering) {
    let mut tampered = evidence.clone();
    tamper(&mut tampered);
    let broken = judge(&tampered).broken_promises;
    let found = broken.iter().any(|b| b.promise == *promise);
    assert!(found, "{what}: {broken:?}");
}

const TAMPERINGS: &[Tampering] = &[
    ("an answer 200 whose event is nowhere", "stored", |e| {
        let mut lost = find_published(e);
        lost.id = Ksuid::new(e.started_ms, [7; 16]);
        lost.reported_position = None;
        e.attempts.push(lost);
    }),
    ("an answer 202 whose event is nowhere", "stored", |e| {
        let mut lost = find_published(e);
        lost.id = Ksuid::new(e.started_ms, [8; 16]);
        lost.outcome = RecordedOutcome::Spooled;
        lost.reported_position = None;
        e.attempts.push(lost);
    }),
    ("a record that nobody sent", "sent", |e| {
        let id = find_published(e).id;
        e.attempts.retain(|a| a.id != id);
        let after = e.recovery.iter_mut();
        after.for_each(|second| second.attempts.retain(|a| a.id != id));
    }),
    ("a record of an event that was refused", "sent", |e| {
        attempts_of(e, find_published(e).id).for_each(|a| a.outcome = RecordedOutcome::Refused);
    }),
    ("a record with other bytes", "intact", |e| {
        attempts_of(e, find_published(e).id).for_each(|a| a.value_hash ^= 1);
    }),
    (
        "an event that is there less often than it was published",
        "counted",
        |e| {
            let again = find_published(e);
            e.attempts.push(DeliveryAttempt {
                reported_position: None,
                ..again
            });
        },
    ),
    (
        "an event in another place than it was answered",
        "named",
        |e| {
            let mut placed =
                attempts_of(e, find_published(e).id).filter(|a| a.reported_position.is_some());
            let at = placed.next().expect("one").reported_position.as_mut();
            at.expect("filtered").offset += 100_000;
        },
    ),
    (
        "a request that was not answered in time",
        "answered in time",
        |e| {
            e.answers.timeouts = 1;
        },
    ),
    (
        "an event that was refused to the end",
        "taken in the end",
        |e| e.answers.dropped = 1,
    ),
    ("an event that was never sent", "taken in the end", |e| {
        e.answers.unsent = 1
    }),
    ("a bridge that takes nothing any more", "works again", |e| {
        e.recovery[0].answers.accepted -= 1;
    }),
    (
        "a bridge that never goes back to Kafka",
        "works again",
        |e| {
            let after = e.recovery.last_mut().expect("a second");
            let attempts = after.attempts.iter_mut();
            attempts.for_each(|a| a.outcome = RecordedOutcome::Spooled);
        },
    ),
    (
        "a bridge that never goes back to Kafka for a type of which nothing comes later",
        "works again",
        |e| {
            let mut later = e.recovery[0].clone();
            let counts = |of| later.attempts.iter().filter(|a| a.event_type == of).count();
            let some = EventType::ALL.into_iter().find(|of| counts(*of) > 1);
            let of = some.expect("a type");
            let first = e.recovery[0].attempts.iter_mut();
            let of_type = first.filter(|a| a.event_type == of);
            of_type.for_each(|a| a.outcome = RecordedOutcome::Spooled);
            later.attempts.retain(|a| a.event_type != of);
            e.recovery.truncate(1);
            e.recovery.push(later);
        },
    ),
    ("a bridge that does not come to rest", "at rest", |e| {
        e.idle = Err("still busy".to_owned());
    }),
    ("an event received and of no outcome", "books", |e| {
        let books = e.processes[0].ledger.as_mut().expect("its last line");
        books.received += 1;
    }),
    ("fewer events received than were sent", "books", |e| {
        let books = e.ledger.as_mut().expect("of /status");
        books.received -= 10;
        *books.outcomes[0].as_mut().expect("published") -= 10;
    }),
    ("an entry of the spool that is gone", "books", |e| {
        let books = e.ledger.as_mut().expect("of /status");
        books
            .spool
            .get_or_insert_with(ReportedSpoolLedger::default)
            .spooled += 1;
    }),
    ("a process that tells nothing of its spool", "books", |e| {
        e.has_spool = true;
        e.processes[0].ledger.as_mut().expect("its last line").spool = None;
    }),
    (
        "an entry that the next process did not find",
        "books",
        |e| {
            let mut next = e.processes[0].clone();
            for (life, present) in [(&mut e.processes[0], 3), (&mut next, 0)] {
                let books = life.ledger.as_mut().expect("its last line");
                books.spool = Some(ReportedSpoolLedger {
                    recovered: 2,
                    spooled: 1,
                    drained: 3 - present,
                    present,
                    ..ReportedSpoolLedger::default()
                });
            }
            e.processes.push(next);
        },
    ),
    (
        "an answer 503 of which no log tells",
        "taken at once",
        |e| {
            e.has_spool = true;
            e.answers.status_503 = 1;
        },
    ),
    (
        "an answer 503 long after the disk was full",
        "taken at once",
        |e| {
            add_refusal(e, 5_001);
        },
    ),
    (
        "an answer 503 that no fault explains",
        "taken at once",
        |e| {
            add_refusal(e, 0);
            e.applied_faults[0].kind = FaultKind::KafkaPaused;
        },
    ),
    ("a quarantined event that is nowhere", "quarantined", |e| {
        let lost = e.quarantined.pop().expect("one in a hundred").value_hash;
        e.quarantined.retain(|q| q.value_hash != lost);
    }),
    ("a valid event that was quarantined", "quarantined", |e| {
        e.quarantined[0].is_valid = true;
    }),
    (
        "something quarantined that nobody sent",
        "quarantined",
        |e| {
            e.quarantined[0].value_hash = 7;
        },
    ),
    ("a process that left no books", "books", |e| {
        e.processes[0].ledger = None
    }),
    ("a process that crashed", "ends", |e| {
        e.processes[0].end = ProcessEnd::Unexpected("a panic".to_owned());
    }),
    ("a process that took too much memory", "memory", |e| {
        e.processes[0].peak_memory = 1 << 30
    }),
    (
        "a record of a deleted topic that nobody sent",
        "sent",
        |e| {
            let of = find_published(e).event_type;
            e.schedule.faults[0].kind = FaultKind::TopicDeleted(of);
            let mut records = e.records.iter_mut().filter(|r| r.event_type == of);
            records.next().expect("one").id.push('x');
        },
    ),
    (
        "a record of a deleted topic with other bytes",
        "intact",
        |e| {
            let of = find_published(e).event_type;
            e.schedule.faults[0].kind = FaultKind::TopicDeleted(of);
            let mut records = e.records.iter_mut().filter(|r| r.event_type == of);
            records.next().expect("one").value_hash ^= 1;
        },
    ),
    (
        "an event that is not in a topic made again",
        "stored",
        |e| {
            let mut lost = *e
                .recovery_attempts()
                .find(|a| a.outcome == RecordedOutcome::Published)
                .expect("one");
            e.schedule.faults[0].kind = FaultKind::TopicDeleted(lost.event_type);
            lost.id = Ksuid::new(e.started_ms, [9; 16]);
            e.recovery[0].attempts.push(lost);
        },
    ),
];

/// So long after the disk was full.
fn add_refusal(evidence: &mut TrialEvidence, after_ms: i64) {
    evidence.has_spool = true;
    evidence.schedule.small_spool = false;
    evidence.answers.status_503 = 1;
    let (began, ended) = (Duration::from_secs(1), Duration::from_secs(2));
    let kind = FaultKind::DiskFull;
    evidence.applied_faults = vec![AppliedFault { kind, began, ended }];
    let at_ms = evidence.load_began_ms + 2_000 + after_ms;
    let code = "spool_full".to_owned();
    evidence.processes[0].refusals = vec![LoggedRefusal { at_ms, code }];
}

/// One that was published at the first try, and is there once. If Kafka is slow to begin with, all the load may have gone by
/// the spool; not so what came once all was well.
fn find_published(evidence: &TrialEvidence) -> DeliveryAttempt {
    let by_id = evidence.attempts_by_id();
    let mut all = evidence.all_attempts().filter(|a| {
        let once = by_id[&format!("event_{}", a.id)].len() == 1;
        once && a.outcome == RecordedOutcome::Published
            && a.cause == AttemptCause::Planned
            && a.reported_position.is_some()
    });
    *all.next().expect("one of hundreds")
}

/// All tries of this event.
fn attempts_of(
    evidence: &mut TrialEvidence,
    id: Ksuid,
) -> impl Iterator<Item = &mut DeliveryAttempt> {
    let after = evidence.recovery.iter_mut().flat_map(|a| &mut a.attempts);
    let tries = evidence.attempts.iter_mut().chain(after);
    tries.filter(move |a| a.id == id)
}
