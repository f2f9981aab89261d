//! Tests of the judge: evidence is falsified in one respect at a time, and the judge must notice.

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

/// Name of the change, the promise that must be found broken, and the change.
type Tampering = (&'static str, &'static str, fn(&mut TrialEvidence));

/// Number of parallel judgements.
const PARALLEL_JUDGES: usize = 8;

pub fn what_is_tampered_with_is_found() {
    let _alone = lock_heavy();
    let kafka = ChaosKafka::start();
    let dir = tempfile::tempdir().expect("a temporary directory");
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
        // A judgement mostly waits.
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
    ("a 200 whose event is not stored", "stored", |e| {
        let mut lost = find_published(e);
        lost.id = Ksuid::new(e.started_ms, [7; 16]);
        lost.reported_position = None;
        e.attempts.push(lost);
    }),
    ("a 202 whose event is not stored", "stored", |e| {
        let mut lost = find_published(e);
        lost.id = Ksuid::new(e.started_ms, [8; 16]);
        lost.outcome = RecordedOutcome::Spooled;
        lost.reported_position = None;
        e.attempts.push(lost);
    }),
    ("a record that was never sent", "sent", |e| {
        let id = find_published(e).id;
        e.attempts.retain(|a| a.id != id);
        let after = e.recovery.iter_mut();
        after.for_each(|second| second.attempts.retain(|a| a.id != id));
    }),
    ("a record of a refused event", "sent", |e| {
        attempts_of(e, find_published(e).id).for_each(|a| a.outcome = RecordedOutcome::Refused);
    }),
    ("a record with other bytes", "intact", |e| {
        attempts_of(e, find_published(e).id).for_each(|a| a.value_hash ^= 1);
    }),
    (
        "an event with fewer records than it was published",
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
        "an event at another offset than the response said",
        "named",
        |e| {
            let mut placed =
                attempts_of(e, find_published(e).id).filter(|a| a.reported_position.is_some());
            let at = placed.next().expect("one").reported_position.as_mut();
            at.expect("filtered").offset += 100_000;
        },
    ),
    (
        "a request without a response in time",
        "response in time",
        |e| {
            e.responses.timeouts = 1;
        },
    ),
    (
        "an event that was never accepted",
        "accepted in the end",
        |e| e.responses.dropped = 1,
    ),
    ("an event that was never sent", "accepted in the end", |e| {
        e.responses.unsent = 1
    }),
    ("a bridge that accepts no more events", "works again", |e| {
        e.recovery[0].responses.accepted -= 1;
    }),
    ("a bridge that never returns to Kafka", "works again", |e| {
        let after = e.recovery.last_mut().expect("a second");
        let attempts = after.attempts.iter_mut();
        attempts.for_each(|a| a.outcome = RecordedOutcome::Spooled);
    }),
    (
        "a bridge that never returns to Kafka for a type without later events",
        "works again",
        |e| {
            let mut later = e.recovery[0].clone();
            let counts = |event_type| {
                later
                    .attempts
                    .iter()
                    .filter(|a| a.event_type == event_type)
                    .count()
            };
            let some = EventType::ALL
                .into_iter()
                .find(|event_type| counts(*event_type) > 1);
            let event_type = some.expect("a type");
            let first = e.recovery[0].attempts.iter_mut();
            let of_type = first.filter(|a| a.event_type == event_type);
            of_type.for_each(|a| a.outcome = RecordedOutcome::Spooled);
            later.attempts.retain(|a| a.event_type != event_type);
            e.recovery.truncate(1);
            e.recovery.push(later);
        },
    ),
    ("a bridge that does not become idle", "idle", |e| {
        e.idle = Err("still busy".to_owned());
    }),
    ("a received event without an outcome", "ledgers", |e| {
        let ledger = e.processes[0].ledger.as_mut().expect("the last log line");
        ledger.received += 1;
    }),
    ("fewer events received than were sent", "ledgers", |e| {
        let ledger = e.ledger.as_mut().expect("a ledger in /status");
        ledger.received -= 10;
        *ledger.outcomes[0].as_mut().expect("published") -= 10;
    }),
    ("a missing spool entry", "ledgers", |e| {
        let ledger = e.ledger.as_mut().expect("a ledger in /status");
        ledger
            .spool
            .get_or_insert_with(ReportedSpoolLedger::default)
            .spooled += 1;
    }),
    ("a process that reports no spool ledger", "ledgers", |e| {
        e.has_spool = true;
        e.processes[0]
            .ledger
            .as_mut()
            .expect("the last log line")
            .spool = None;
    }),
    (
        "a spool entry that the next process did not find",
        "ledgers",
        |e| {
            let mut next = e.processes[0].clone();
            for (process, present) in [(&mut e.processes[0], 3), (&mut next, 0)] {
                let ledger = process.ledger.as_mut().expect("the last log line");
                ledger.spool = Some(ReportedSpoolLedger {
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
    ("a 503 that is not in the log", "accepted at once", |e| {
        e.has_spool = true;
        e.responses.status_503 = 1;
    }),
    (
        "a 503 long after the disk was full",
        "accepted at once",
        |e| {
            add_refusal(e, 5_001);
        },
    ),
    ("a 503 that no fault explains", "accepted at once", |e| {
        add_refusal(e, 0);
        e.applied_faults[0].kind = FaultKind::KafkaPaused;
    }),
    (
        "a quarantined item that is not stored",
        "quarantined",
        |e| {
            let lost = e.quarantined.pop().expect("one in a hundred").value_hash;
            e.quarantined.retain(|q| q.value_hash != lost);
        },
    ),
    ("a valid event that was quarantined", "quarantined", |e| {
        e.quarantined[0].is_valid = true;
    }),
    (
        "a quarantined item that was never sent",
        "quarantined",
        |e| {
            e.quarantined[0].value_hash = 7;
        },
    ),
    ("a process without a ledger", "ledgers", |e| {
        e.processes[0].ledger = None
    }),
    ("a process that crashed", "ends", |e| {
        e.processes[0].end = ProcessEnd::Unexpected("a panic".to_owned());
    }),
    ("a process that used too much memory", "memory", |e| {
        e.processes[0].peak_memory = 1 << 30
    }),
    (
        "a record in a deleted topic that was never sent",
        "sent",
        |e| {
            let event_type = find_published(e).event_type;
            e.schedule.faults[0].kind = FaultKind::TopicDeleted(event_type);
            let mut records = e.records.iter_mut().filter(|r| r.event_type == event_type);
            records.next().expect("one").id.push('x');
        },
    ),
    (
        "a record in a deleted topic with other bytes",
        "intact",
        |e| {
            let event_type = find_published(e).event_type;
            e.schedule.faults[0].kind = FaultKind::TopicDeleted(event_type);
            let mut records = e.records.iter_mut().filter(|r| r.event_type == event_type);
            records.next().expect("one").value_hash ^= 1;
        },
    ),
    ("an event missing from a recreated topic", "stored", |e| {
        let mut lost = *e
            .recovery_attempts()
            .find(|a| a.outcome == RecordedOutcome::Published)
            .expect("one");
        e.schedule.faults[0].kind = FaultKind::TopicDeleted(lost.event_type);
        lost.id = Ksuid::new(e.started_ms, [9; 16]);
        e.recovery[0].attempts.push(lost);
    }),
];

/// Adds a refusal this long after the disk was full.
fn add_refusal(evidence: &mut TrialEvidence, after_ms: i64) {
    evidence.has_spool = true;
    evidence.schedule.small_spool = false;
    evidence.responses.status_503 = 1;
    let (began, ended) = (Duration::from_secs(1), Duration::from_secs(2));
    let kind = FaultKind::DiskFull;
    evidence.applied_faults = vec![AppliedFault { kind, began, ended }];
    let at_ms = evidence.load_began_ms + 2_000 + after_ms;
    let code = "spool_full".to_owned();
    evidence.processes[0].refusals = vec![LoggedRefusal { at_ms, code }];
}

/// Finds an event that was published at the first attempt and is stored once. If Kafka was slow at
/// first, all of the load may have gone through the spool, but not the recovery load.
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

/// Returns all attempts of this event.
fn attempts_of(
    evidence: &mut TrialEvidence,
    id: Ksuid,
) -> impl Iterator<Item = &mut DeliveryAttempt> {
    let after = evidence.recovery.iter_mut().flat_map(|a| &mut a.attempts);
    let tries = evidence.attempts.iter_mut().chain(after);
    tries.filter(move |a| a.id == id)
}
