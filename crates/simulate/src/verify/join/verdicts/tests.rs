use super::*;
use crate::city::GroundTruth;
use crate::journal::AttemptCause;
use crate::verify::report::{VerdictCounts, VerificationReport};
use crate::verify::samples::{NOW, SampleEvent, SampleRun};
use crate::verify::{DuplicatePolicy, Violation};
use butlr_event::EventType;

const ROOM: EventType = EventType::RoomOccupancy;

/// Returns an event about the same reading, computed `after_s` seconds after the first.
fn event(after_s: i64, data: &'static str) -> SampleEvent {
    let mut payload = [3; 16];
    payload[0] = data.as_bytes()[0];
    SampleEvent {
        id: Ksuid::new(NOW + 1_000 * after_s, payload),
        data,
        ..SampleEvent::new(1, ROOM, data)
    }
}

/// Returns a run in which everything must be recognised, and the value 4 was published.
fn sample_run() -> SampleRun {
    let mut run = SampleRun {
        duplicates: DuplicatePolicy::Expected,
        truth: GroundTruth {
            at_ms: NOW,
            spaces: Vec::new(),
        },
        ..SampleRun::empty()
    };
    run.publish(&event(0, "4"), AttemptCause::Planned);
    run
}

/// Publishes an event with these additional headers.
fn publish(run: &mut SampleRun, sample: &SampleEvent, headers: &[(&str, &str)]) {
    run.publish(sample, AttemptCause::Planned);
    add_headers(run, headers);
}

/// Adds headers to the last record.
fn add_headers(run: &mut SampleRun, headers: &[(&str, &str)]) {
    let record = run.records.last_mut().unwrap();
    let headers = headers
        .iter()
        .map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec()));
    record.headers.extend(headers);
}

fn revise(run: &mut SampleRun, sample: &SampleEvent, superseded: &SampleEvent) {
    let superseded = format!("event_{}", superseded.id);
    let headers = [("ce_revision", "1"), ("ce_supersedes", &superseded)];
    publish(run, sample, &headers);
}

fn verdicts(report: &VerificationReport) -> VerdictCounts {
    report.verdicts[ROOM.index()]
}

#[track_caller]
fn only_violation(run: &SampleRun, property: Property) -> Violation {
    let report = run.verify();
    for each in Property::ALL {
        let expected = u64::from(each == property);
        assert_eq!(report.finding(each).violations, expected, "{report}");
    }
    report.finding(property).first[0].clone()
}

#[test]
fn responses_and_marks_by_the_rules_are_right() {
    let mut run = sample_run();
    run.add_attempt(
        &event(60, "4"),
        AttemptCause::Planned,
        RecordedOutcome::Repeat,
    );
    revise(&mut run, &event(120, "5"), &event(0, "4"));
    revise(&mut run, &event(180, "4"), &event(120, "5"));
    publish(&mut run, &event(100, "6"), &[("ce_stale", "true")]);
    run.add_attempt(
        &event(0, "4"),
        AttemptCause::Redelivery,
        RecordedOutcome::Redelivery,
    );
    run.add_attempt(
        &event(60, "4"),
        AttemptCause::Redelivery,
        RecordedOutcome::Redelivery,
    );
    let report = run.verify();
    assert!(report.is_proved(), "{report}");
    assert_eq!(report.finding(Property::Classification).checked, 7);
    let found = verdicts(&report);
    assert_eq!(found.by_verdict, [1, 2, 1, 2, 1]);
    assert_eq!((found.marked.revision, found.marked.stale), (2, 1));
    assert_eq!(report.all_verdicts(), found);
    let json = report.to_json();
    assert_eq!(
        json["verdicts"]["types"]["ROOM_OCCUPANCY"]["told"]["revision"],
        2
    );
    assert_eq!(json["verdicts"]["all"]["marked"]["stale"], 1);
    let text = report.to_string();
    let line = "classified   1 first, 2 redelivery, 1 repeat, 2 revision, 1 stale\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn an_unrecognised_event_is_one_violation_if_recognition_is_expected() {
    type UnrecognisedChange<'a> = (&'a dyn Fn(&mut SampleRun), &'a str);
    let changes: [UnrecognisedChange<'_>; 4] = [
        (
            &|run| publish(run, &event(0, "4"), &[]),
            "expected verdict redelivery, but it was stored without a mark",
        ),
        (
            &|run| publish(run, &event(60, "4"), &[]),
            "expected verdict repeat",
        ),
        (
            &|run| publish(run, &event(60, "5"), &[]),
            "expected verdict revision",
        ),
        (
            &|run| publish(run, &event(-9, "5"), &[]),
            "expected verdict stale",
        ),
    ];
    for (change, expected) in changes {
        let mut run = sample_run();
        // Separates the attempts from those of the first event, as they would be one group.
        run.add_attempt(
            &event(300, "4"),
            AttemptCause::Planned,
            RecordedOutcome::Repeat,
        );
        change(&mut run);
        let violation = only_violation(&run, Property::Classification);
        assert!(violation.text.contains(expected), "{}", violation.text);
        for duplicates in [DuplicatePolicy::Allowed, DuplicatePolicy::Detect] {
            run.duplicates = duplicates;
            let report = run.verify();
            let only_repeats = duplicates == DuplicatePolicy::Detect && expected.contains("repeat");
            assert_eq!(report.is_proved(), !only_repeats, "{expected}: {report}");
            assert_eq!(verdicts(&report).unrecognised, 1);
        }
    }
}

#[test]
fn a_wrong_mark_is_always_a_violation() {
    type UndeservedChange<'a> = &'a dyn Fn(&mut SampleRun);
    let changes: [UndeservedChange<'_>; 3] = [
        &|run| revise(run, &event(60, "5"), &event(60, "5")),
        &|run| revise(run, &event(-9, "5"), &event(0, "4")),
        &|run| publish(run, &event(60, "5"), &[("ce_stale", "true")]),
    ];
    for (case, change) in changes.into_iter().enumerate() {
        let mut run = sample_run();
        change(&mut run);
        run.duplicates = DuplicatePolicy::Expected;
        only_violation(&run, Property::Classification);
        run.duplicates = DuplicatePolicy::Allowed;
        match case {
            // After a crash a bridge may be in doubt about the current value, or not know it yet.
            0 | 1 => {
                let report = run.verify();
                assert!(report.is_proved(), "{report}");
                assert_eq!(verdicts(&report).unrecognised, 1);
            }
            _ => drop(only_violation(&run, Property::Classification)),
        }
    }
    let mut run = sample_run();
    run.add_attempt(
        &event(60, "5"),
        AttemptCause::Planned,
        RecordedOutcome::Repeat,
    );
    run.duplicates = DuplicatePolicy::Allowed;
    let violation = only_violation(&run, Property::Stored);
    assert!(
        violation.text.contains("a different value then"),
        "{}",
        violation.text
    );
}

#[test]
fn marks_count_as_responses() {
    let mut run = sample_run();
    run.add_attempt(
        &event(60, "4"),
        AttemptCause::Planned,
        RecordedOutcome::Repeat,
    );
    run.publish(&event(0, "4"), AttemptCause::Redelivery);
    add_headers(&mut run, &[("ce_duplicate", "redelivery")]);
    publish(&mut run, &event(120, "4"), &[("ce_duplicate", "repeat")]);
    let report = run.verify();
    assert!(report.is_proved(), "{report}");
    assert_eq!(verdicts(&report).by_verdict, [1, 1, 2, 0, 0]);
    let marked = verdicts(&report).marked;
    assert_eq!((marked.redelivery, marked.repeat), (1, 1));
    *run.records.last_mut().unwrap().header("ce_duplicate") = b"redelivery".to_vec();
    only_violation(&run, Property::Classification);
}

#[test]
fn a_bridge_that_recognises_nothing_is_not_judged() {
    let mut run = sample_run();
    run.publish(&event(0, "4"), AttemptCause::Redelivery);
    run.publish(&event(60, "5"), AttemptCause::Planned);
    run.duplicates = DuplicatePolicy::Detect;
    let report = run.verify();
    assert!(report.is_proved(), "{report}");
    let reason = report
        .finding(Property::Classification)
        .unchecked_reason
        .clone();
    assert_eq!(
        reason.as_deref(),
        Some("no response and no header shows any")
    );
    assert!(!report.to_string().contains("classified"));
    run.duplicates = DuplicatePolicy::Expected;
    assert_eq!(run.verify().finding(Property::Classification).violations, 2);
}

#[test]
fn an_unknown_outcome_explains_later_ones() {
    let mut run = sample_run();
    // It has a record, so it was stored.
    run.add_attempt(
        &event(60, "5"),
        AttemptCause::Planned,
        RecordedOutcome::Unknown,
    );
    run.add_record(&event(60, "5"));
    let first = format!("event_{}", event(0, "4").id);
    add_headers(&mut run, &[("ce_revision", "1"), ("ce_supersedes", &first)]);
    let unknown = run.clone();
    run.add_attempt(
        &event(60, "5"),
        AttemptCause::AfterFailure,
        RecordedOutcome::Redelivery,
    );
    run.add_attempt(
        &event(120, "5"),
        AttemptCause::Planned,
        RecordedOutcome::Repeat,
    );
    revise(&mut run, &event(180, "4"), &event(60, "5"));
    let report = run.verify();
    assert!(report.is_proved(), "{report}");
    assert_eq!(verdicts(&report).unknown, 1);
    assert_eq!(verdicts(&report).by_verdict, [1, 1, 1, 1, 0]);
    // If its outcome remains unknown, later ones may still show it.
    let mut run = unknown;
    run.add_attempt(
        &event(120, "4"),
        AttemptCause::Planned,
        RecordedOutcome::Repeat,
    );
    assert!(run.verify().is_proved(), "stored later");
    run.add_attempt(
        &event(180, "5"),
        AttemptCause::Planned,
        RecordedOutcome::Repeat,
    );
    assert!(run.verify().is_proved());
    run.add_attempt(
        &event(240, "4"),
        AttemptCause::Planned,
        RecordedOutcome::Repeat,
    );
    only_violation(&run, Property::Stored);
}

#[test]
fn responses_without_positions_are_judged_as_far_as_possible() {
    let mut run = sample_run();
    revise(&mut run, &event(60, "5"), &event(0, "4"));
    run.attempts
        .iter_mut()
        .for_each(|a| a.reported_position = None);
    assert!(run.verify().is_proved(), "{}", run.verify());
    run.topics = TopicSet::Copies;
    assert!(run.verify().is_proved(), "{}", run.verify());
    *run.records[1].header("ce_supersedes") = b"event_0".to_vec();
    only_violation(&run, Property::Classification);
}

#[test]
fn a_redelivery_of_a_repeat_may_be_forgotten_in_a_restart() {
    let mut run = sample_run();
    run.add_attempt(
        &event(60, "4"),
        AttemptCause::Planned,
        RecordedOutcome::Repeat,
    );
    revise(&mut run, &event(120, "5"), &event(0, "4"));
    publish(&mut run, &event(60, "4"), &[("ce_stale", "true")]);
    let report = run.verify();
    assert!(report.is_proved(), "{report}");
    assert_eq!(verdicts(&report).forgotten_repeats, 1);
    assert!(
        report
            .to_string()
            .contains("of these, 1 are redeliveries of repeats")
    );
    // But not by a bridge that was never restarted.
    run.restarted = false;
    let violation = only_violation(&run, Property::Classification);
    assert_eq!(violation.id, Some(format!("event_{}", event(60, "4").id)));
    run.duplicates = DuplicatePolicy::Allowed;
    assert!(run.verify().is_proved(), "{}", run.verify());
}

#[test]
fn a_stale_event_may_be_stored_as_a_revision_in_a_restart() {
    let mut run = sample_run();
    revise(&mut run, &event(120, "5"), &event(0, "4"));
    revise(&mut run, &event(60, "6"), &event(0, "4"));
    let violation = only_violation(&run, Property::Classification);
    let text = "expected verdict stale, but it was stored as a revision";
    assert!(violation.text.contains(text), "{}", violation.text);
    run.duplicates = DuplicatePolicy::Allowed;
    assert!(run.verify().is_proved(), "{}", run.verify());
    assert_eq!(verdicts(&run.verify()).unrecognised, 1);
    // But not by a bridge that was never restarted.
    run.restarted = false;
    only_violation(&run, Property::Classification);
}

/// It is unknown which of two records with the same marks belongs to a response, and irrelevant.
#[test]
fn a_marked_repeat_with_two_records_does_not_become_current() {
    let mut run = SampleRun {
        duplicates: DuplicatePolicy::Allowed,
        restarted: false,
        ..sample_run()
    };
    let repeat = event(120, "4");
    run.add_attempt(&repeat, AttemptCause::Planned, RecordedOutcome::Unknown);
    run.add_attempt(
        &repeat,
        AttemptCause::AfterFailure,
        RecordedOutcome::Spooled,
    );
    for _ in 0..2 {
        run.add_record(&repeat);
        add_headers(
            &mut run,
            &[("ce_duplicate", "repeat"), ("ce_spooled", "true")],
        );
    }
    revise(&mut run, &event(60, "5"), &event(0, "4"));
    assert!(run.verify().is_proved(), "{}", run.verify());
    assert_eq!(verdicts(&run.verify()).unrecognised, 0);
    // If their marks differ, it can have been either.
    let other = &mut run.records[1].headers;
    other.retain(|(name, _)| name != "ce_duplicate");
    only_violation(&run, Property::Classification);
}

/// A spooled event is drained after the event that overtook it, and so stored last.
#[test]
fn an_overtaken_spooled_value_may_count_as_current_after_a_restart() {
    let mut run = SampleRun {
        duplicates: DuplicatePolicy::Allowed,
        concurrent_drain: true,
        ..SampleRun::empty()
    };
    run.add_attempt(
        &event(0, "4"),
        AttemptCause::Planned,
        RecordedOutcome::Spooled,
    );
    revise(&mut run, &event(60, "5"), &event(0, "4"));
    let again = event(120, "4");
    run.publish(&again, AttemptCause::Planned);
    add_headers(&mut run, &[("ce_duplicate", "repeat")]);
    run.add_record(&event(0, "4"));
    add_headers(&mut run, &[("ce_spooled", "true")]);
    assert!(run.verify().is_proved(), "{}", run.verify());
    assert_eq!(verdicts(&run.verify()).unrecognised, 1);
    // Drained in order, nothing overtakes it; and a bridge that was never restarted knows what did.
    for change in [
        (|run: &mut SampleRun| run.concurrent_drain = false) as fn(&mut SampleRun),
        |run| run.restarted = false,
    ] {
        let mut run = run.clone();
        change(&mut run);
        let violation = only_violation(&run, Property::Classification);
        assert!(violation.text.contains("expected verdict revision"));
    }
    // Nor may a value that was not spooled.
    run.attempts[0].outcome = RecordedOutcome::Published;
    run.records.last_mut().unwrap().headers.pop();
    only_violation(&run, Property::Classification);
}
