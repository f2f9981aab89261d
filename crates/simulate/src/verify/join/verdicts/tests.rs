use super::*;
use crate::city::GroundTruth;
use crate::journal::AttemptCause;
use crate::verify::report::{VerdictCounts, VerificationReport};
use crate::verify::samples::{NOW, SampleEvent, SampleRun};
use crate::verify::{DuplicatePolicy, Violation};
use butlr_event::EventType;

const ROOM: EventType = EventType::RoomOccupancy;

/// The event about one reading that was computed so many seconds after the first.
fn event(after_s: i64, data: &'static str) -> SampleEvent {
    let mut payload = [3; 16];
    payload[0] = data.as_bytes()[0];
    SampleEvent {
        id: Ksuid::new(NOW + 1_000 * after_s, payload),
        data,
        ..SampleEvent::new(1, ROOM, data)
    }
}

/// A world that expects everything to be recognised, and in which 4 was published.
fn sample_run() -> SampleRun {
    let mut world = SampleRun {
        duplicates: DuplicatePolicy::Expected,
        truth: GroundTruth {
            at_ms: NOW,
            spaces: Vec::new(),
        },
        ..SampleRun::empty()
    };
    world.publish(&event(0, "4"), AttemptCause::Planned);
    world
}

/// Publishes with these headers in addition.
fn publish(world: &mut SampleRun, sample: &SampleEvent, headers: &[(&str, &str)]) {
    world.publish(sample, AttemptCause::Planned);
    add_headers(world, headers);
}

/// Adds headers to the last record.
fn add_headers(world: &mut SampleRun, headers: &[(&str, &str)]) {
    let record = world.records.last_mut().unwrap();
    let headers = headers
        .iter()
        .map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec()));
    record.headers.extend(headers);
}

fn revise(world: &mut SampleRun, sample: &SampleEvent, superseded: &SampleEvent) {
    let superseded = format!("event_{}", superseded.id);
    let headers = [("ce_revision", "1"), ("ce_supersedes", &superseded)];
    publish(world, sample, &headers);
}

fn verdicts(report: &VerificationReport) -> VerdictCounts {
    report.verdicts[ROOM.index()]
}

#[track_caller]
fn only_violation(world: &SampleRun, property: Property) -> Violation {
    let report = world.verify();
    for each in Property::ALL {
        let expected = u64::from(each == property);
        assert_eq!(report.finding(each).violations, expected, "{report}");
    }
    report.finding(property).first[0].clone()
}

#[test]
fn answers_and_marks_by_the_rules_are_right() {
    let mut world = sample_run();
    world.add_attempt(
        &event(60, "4"),
        AttemptCause::Planned,
        RecordedOutcome::Repeat,
    );
    revise(&mut world, &event(120, "5"), &event(0, "4"));
    revise(&mut world, &event(180, "4"), &event(120, "5"));
    publish(&mut world, &event(100, "6"), &[("ce_stale", "true")]);
    world.add_attempt(
        &event(0, "4"),
        AttemptCause::Redelivery,
        RecordedOutcome::Redelivery,
    );
    world.add_attempt(
        &event(60, "4"),
        AttemptCause::Redelivery,
        RecordedOutcome::Redelivery,
    );
    let report = world.verify();
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
    let told = "told apart   1 first, 2 redelivery, 1 repeat, 2 revision, 1 stale\n";
    assert!(text.contains(told), "{text}");
}

#[test]
fn what_was_not_recognised_is_one_violation_where_it_is_expected() {
    type UnrecognisedChange<'a> = (&'a dyn Fn(&mut SampleRun), &'a str);
    let changes: [UnrecognisedChange<'_>; 4] = [
        (
            &|world| publish(world, &event(0, "4"), &[]),
            "is a redelivery by the rules, and was stored without a mark",
        ),
        (
            &|world| publish(world, &event(60, "4"), &[]),
            "is a repeat by the rules",
        ),
        (
            &|world| publish(world, &event(60, "5"), &[]),
            "is a revision by the rules",
        ),
        (
            &|world| publish(world, &event(-9, "5"), &[]),
            "is a stale by the rules",
        ),
    ];
    for (change, told) in changes {
        let mut world = sample_run();
        // Not beside the first, whose tries it would be one with.
        world.add_attempt(
            &event(300, "4"),
            AttemptCause::Planned,
            RecordedOutcome::Repeat,
        );
        change(&mut world);
        let violation = only_violation(&world, Property::Classification);
        assert!(violation.text.contains(told), "{}", violation.text);
        for duplicates in [DuplicatePolicy::Allowed, DuplicatePolicy::Detect] {
            world.duplicates = duplicates;
            let report = world.verify();
            let only_repeats = duplicates == DuplicatePolicy::Detect && told.contains("repeat");
            assert_eq!(report.is_proved(), !only_repeats, "{told}: {report}");
            assert_eq!(verdicts(&report).unrecognised, 1);
        }
    }
}

#[test]
fn a_mark_that_is_not_deserved_is_a_violation_whatever_is_expected() {
    type UndeservedChange<'a> = &'a dyn Fn(&mut SampleRun);
    let changes: [UndeservedChange<'_>; 3] = [
        &|world| revise(world, &event(60, "5"), &event(60, "5")),
        &|world| revise(world, &event(-9, "5"), &event(0, "4")),
        &|world| publish(world, &event(60, "5"), &[("ce_stale", "true")]),
    ];
    for (place, change) in changes.into_iter().enumerate() {
        let mut world = sample_run();
        change(&mut world);
        world.duplicates = DuplicatePolicy::Expected;
        only_violation(&world, Property::Classification);
        world.duplicates = DuplicatePolicy::Allowed;
        match place {
            // After a crash a bridge may be in doubt of what it replaces, or not know yet what it stored before.
            0 | 1 => {
                let report = world.verify();
                assert!(report.is_proved(), "{report}");
                assert_eq!(verdicts(&report).unrecognised, 1);
            }
            _ => drop(only_violation(&world, Property::Classification)),
        }
    }
    let mut world = sample_run();
    world.add_attempt(
        &event(60, "5"),
        AttemptCause::Planned,
        RecordedOutcome::Repeat,
    );
    world.duplicates = DuplicatePolicy::Allowed;
    let violation = only_violation(&world, Property::Stored);
    assert!(
        violation.text.contains("another one then"),
        "{}",
        violation.text
    );
}

#[test]
fn tags_are_as_good_as_answers() {
    let mut world = sample_run();
    world.add_attempt(
        &event(60, "4"),
        AttemptCause::Planned,
        RecordedOutcome::Repeat,
    );
    world.publish(&event(0, "4"), AttemptCause::Redelivery);
    add_headers(&mut world, &[("ce_duplicate", "redelivery")]);
    publish(&mut world, &event(120, "4"), &[("ce_duplicate", "repeat")]);
    let report = world.verify();
    assert!(report.is_proved(), "{report}");
    assert_eq!(verdicts(&report).by_verdict, [1, 1, 2, 0, 0]);
    let marked = verdicts(&report).marked;
    assert_eq!((marked.redelivery, marked.repeat), (1, 1));
    *world.records.last_mut().unwrap().header("ce_duplicate") = b"redelivery".to_vec();
    only_violation(&world, Property::Classification);
}

#[test]
fn a_bridge_that_shows_nothing_is_not_judged() {
    let mut world = sample_run();
    world.publish(&event(0, "4"), AttemptCause::Redelivery);
    world.publish(&event(60, "5"), AttemptCause::Planned);
    world.duplicates = DuplicatePolicy::Detect;
    let report = world.verify();
    assert!(report.is_proved(), "{report}");
    let why = report
        .finding(Property::Classification)
        .unchecked_reason
        .clone();
    assert_eq!(why.as_deref(), Some("no answer and no header tells of any"));
    assert!(!report.to_string().contains("told apart"));
    world.duplicates = DuplicatePolicy::Expected;
    assert_eq!(
        world.verify().finding(Property::Classification).violations,
        2
    );
}

#[test]
fn what_nobody_heard_of_explains_what_comes_after() {
    let mut world = sample_run();
    // Its record is there, so that it was stored.
    world.add_attempt(
        &event(60, "5"),
        AttemptCause::Planned,
        RecordedOutcome::Unknown,
    );
    world.add_record(&event(60, "5"));
    let first = format!("event_{}", event(0, "4").id);
    add_headers(
        &mut world,
        &[("ce_revision", "1"), ("ce_supersedes", &first)],
    );
    let unheard = world.clone();
    world.add_attempt(
        &event(60, "5"),
        AttemptCause::AfterFailure,
        RecordedOutcome::Redelivery,
    );
    world.add_attempt(
        &event(120, "5"),
        AttemptCause::Planned,
        RecordedOutcome::Repeat,
    );
    revise(&mut world, &event(180, "4"), &event(60, "5"));
    let report = world.verify();
    assert!(report.is_proved(), "{report}");
    assert_eq!(verdicts(&report).unknown, 1);
    assert_eq!(verdicts(&report).by_verdict, [1, 1, 1, 1, 0]);
    // Unheard of for good: what follows may still tell.
    let mut world = unheard;
    world.add_attempt(
        &event(120, "4"),
        AttemptCause::Planned,
        RecordedOutcome::Repeat,
    );
    assert!(world.verify().is_proved(), "stored later");
    world.add_attempt(
        &event(180, "5"),
        AttemptCause::Planned,
        RecordedOutcome::Repeat,
    );
    assert!(world.verify().is_proved());
    world.add_attempt(
        &event(240, "4"),
        AttemptCause::Planned,
        RecordedOutcome::Repeat,
    );
    only_violation(&world, Property::Stored);
}

#[test]
fn answers_without_places_are_judged_as_far_as_it_goes() {
    let mut world = sample_run();
    revise(&mut world, &event(60, "5"), &event(0, "4"));
    world
        .attempts
        .iter_mut()
        .for_each(|a| a.reported_position = None);
    assert!(world.verify().is_proved(), "{}", world.verify());
    world.originals = false;
    assert!(world.verify().is_proved(), "{}", world.verify());
    *world.records[1].header("ce_supersedes") = b"event_0".to_vec();
    only_violation(&world, Property::Classification);
}

#[test]
fn a_redelivery_of_a_repeat_may_be_forgotten_in_a_restart() {
    let mut world = sample_run();
    world.add_attempt(
        &event(60, "4"),
        AttemptCause::Planned,
        RecordedOutcome::Repeat,
    );
    revise(&mut world, &event(120, "5"), &event(0, "4"));
    publish(&mut world, &event(60, "4"), &[("ce_stale", "true")]);
    let report = world.verify();
    assert!(report.is_proved(), "{report}");
    assert_eq!(verdicts(&report).forgotten_repeats, 1);
    assert!(
        report
            .to_string()
            .contains("1 of all are redeliveries of repeats")
    );
    // But not by a bridge that was never started again.
    world.restarted = false;
    let violation = only_violation(&world, Property::Classification);
    assert_eq!(violation.id, Some(format!("event_{}", event(60, "4").id)));
    world.duplicates = DuplicatePolicy::Allowed;
    assert!(world.verify().is_proved(), "{}", world.verify());
}

#[test]
fn a_stale_one_may_be_stored_as_a_revision_in_a_restart() {
    let mut world = sample_run();
    revise(&mut world, &event(120, "5"), &event(0, "4"));
    revise(&mut world, &event(60, "6"), &event(0, "4"));
    let violation = only_violation(&world, Property::Classification);
    let told = "is a stale by the rules, and was stored as a revision";
    assert!(violation.text.contains(told), "{}", violation.text);
    world.duplicates = DuplicatePolicy::Allowed;
    assert!(world.verify().is_proved(), "{}", world.verify());
    assert_eq!(verdicts(&world.verify()).unrecognised, 1);
    // But not by a bridge that was never started again.
    world.restarted = false;
    only_violation(&world, Property::Classification);
}

/// Which of two equal records an answer means, is not known, and need not be.
#[test]
fn a_repeat_that_is_tagged_and_there_twice_does_not_become_current() {
    let mut world = SampleRun {
        duplicates: DuplicatePolicy::Allowed,
        restarted: false,
        ..sample_run()
    };
    let repeat = event(120, "4");
    world.add_attempt(&repeat, AttemptCause::Planned, RecordedOutcome::Unknown);
    world.add_attempt(
        &repeat,
        AttemptCause::AfterFailure,
        RecordedOutcome::Spooled,
    );
    for _ in 0..2 {
        world.add_record(&repeat);
        add_headers(
            &mut world,
            &[("ce_duplicate", "repeat"), ("ce_spooled", "true")],
        );
    }
    revise(&mut world, &event(60, "5"), &event(0, "4"));
    assert!(world.verify().is_proved(), "{}", world.verify());
    assert_eq!(verdicts(&world.verify()).unrecognised, 0);
    // Where they differ it may have been either.
    let other = &mut world.records[1].headers;
    other.retain(|(name, _)| name != "ce_duplicate");
    only_violation(&world, Property::Classification);
}

/// It is drained behind what passed it, and so stored last.
#[test]
fn what_waited_and_was_overtaken_may_count_as_current_after_a_restart() {
    let mut world = SampleRun {
        duplicates: DuplicatePolicy::Allowed,
        concurrent_drain: true,
        ..SampleRun::empty()
    };
    world.add_attempt(
        &event(0, "4"),
        AttemptCause::Planned,
        RecordedOutcome::Spooled,
    );
    revise(&mut world, &event(60, "5"), &event(0, "4"));
    let again = event(120, "4");
    world.publish(&again, AttemptCause::Planned);
    add_headers(&mut world, &[("ce_duplicate", "repeat")]);
    world.add_record(&event(0, "4"));
    add_headers(&mut world, &[("ce_spooled", "true")]);
    assert!(world.verify().is_proved(), "{}", world.verify());
    assert_eq!(verdicts(&world.verify()).unrecognised, 1);
    // In order nothing passes it; and a bridge that was never started again knows what did.
    for change in [
        (|world: &mut SampleRun| world.concurrent_drain = false) as fn(&mut SampleRun),
        |world| world.restarted = false,
    ] {
        let mut world = world.clone();
        change(&mut world);
        let violation = only_violation(&world, Property::Classification);
        assert!(violation.text.contains("is a revision by the rules"));
    }
    // Nor may what did not wait.
    world.attempts[0].outcome = RecordedOutcome::Published;
    world.records.last_mut().unwrap().headers.pop();
    only_violation(&world, Property::Classification);
}
