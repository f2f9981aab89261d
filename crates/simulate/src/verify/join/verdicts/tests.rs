use super::*;
use crate::city::Truth;
use crate::journal::Cause;
use crate::verify::report::{Report, Verdicts};
use crate::verify::samples::{NOW, Sample, World};
use crate::verify::{Duplicates, Violation};
use butlr_event::EventType;

const ROOM: EventType = EventType::RoomOccupancy;

/// The event about one reading that was computed so many seconds after the first.
fn event(after_s: i64, data: &'static str) -> Sample {
    let mut payload = [3; 16];
    payload[0] = data.as_bytes()[0];
    Sample {
        id: Ksuid::new(NOW + 1_000 * after_s, payload),
        data,
        ..Sample::new(1, ROOM, data)
    }
}

/// A world that expects everything to be recognised, and in which 4 was published.
fn world() -> World {
    let mut world = World {
        duplicates: Duplicates::Expected,
        truth: Truth {
            at_ms: NOW,
            spaces: Vec::new(),
        },
        ..World::empty()
    };
    world.publish(&event(0, "4"), Cause::Planned);
    world
}

/// Publishes with these headers in addition.
fn publish(world: &mut World, sample: &Sample, headers: &[(&str, &str)]) {
    world.publish(sample, Cause::Planned);
    mark(world, headers);
}

/// Adds headers to the last record.
fn mark(world: &mut World, headers: &[(&str, &str)]) {
    let record = world.records.last_mut().unwrap();
    let headers = headers
        .iter()
        .map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec()));
    record.headers.extend(headers);
}

fn revise(world: &mut World, sample: &Sample, superseded: &Sample) {
    let superseded = format!("event_{}", superseded.id);
    let headers = [("ce_revision", "1"), ("ce_supersedes", &superseded)];
    publish(world, sample, &headers);
}

fn verdicts(report: &Report) -> Verdicts {
    report.verdicts[ROOM.index()]
}

#[track_caller]
fn only(world: &World, property: Property) -> Violation {
    let report = world.verify();
    for each in Property::ALL {
        let expected = u64::from(each == property);
        assert_eq!(report.finding(each).violations, expected, "{report}");
    }
    report.finding(property).first[0].clone()
}

#[test]
fn answers_and_marks_by_the_rules_are_right() {
    let mut world = world();
    world.note(&event(60, "4"), Cause::Planned, Answer::Repeat);
    revise(&mut world, &event(120, "5"), &event(0, "4"));
    revise(&mut world, &event(180, "4"), &event(120, "5"));
    publish(&mut world, &event(100, "6"), &[("ce_stale", "true")]);
    world.note(&event(0, "4"), Cause::Redelivery, Answer::Redelivery);
    world.note(&event(60, "4"), Cause::Redelivery, Answer::Redelivery);
    let report = world.verify();
    assert!(report.holds(), "{report}");
    assert_eq!(report.finding(Property::Judged).checked, 7);
    let found = verdicts(&report);
    assert_eq!(found.told, [1, 2, 1, 2, 1]);
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
    type Change<'a> = (&'a dyn Fn(&mut World), &'a str);
    let changes: [Change<'_>; 4] = [
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
        let mut world = world();
        // Not beside the first, whose tries it would be one with.
        world.note(&event(300, "4"), Cause::Planned, Answer::Repeat);
        change(&mut world);
        let violation = only(&world, Property::Judged);
        assert!(violation.text.contains(told), "{}", violation.text);
        for duplicates in [Duplicates::Allowed, Duplicates::Detect] {
            world.duplicates = duplicates;
            let report = world.verify();
            let only_repeats = duplicates == Duplicates::Detect && told.contains("repeat");
            assert_eq!(report.holds(), !only_repeats, "{told}: {report}");
            assert_eq!(verdicts(&report).unrecognised, 1);
        }
    }
}

#[test]
fn a_mark_that_is_not_deserved_is_a_violation_whatever_is_expected() {
    type Change<'a> = &'a dyn Fn(&mut World);
    let changes: [Change<'_>; 3] = [
        &|world| revise(world, &event(60, "5"), &event(60, "5")),
        &|world| revise(world, &event(-9, "5"), &event(0, "4")),
        &|world| publish(world, &event(60, "5"), &[("ce_stale", "true")]),
    ];
    for (place, change) in changes.into_iter().enumerate() {
        let mut world = world();
        change(&mut world);
        world.duplicates = Duplicates::Expected;
        only(&world, Property::Judged);
        world.duplicates = Duplicates::Allowed;
        match place {
            // After a crash a bridge may be in doubt of what it replaces, or not know yet what it stored before.
            0 | 1 => {
                let report = world.verify();
                assert!(report.holds(), "{report}");
                assert_eq!(verdicts(&report).unrecognised, 1);
            }
            _ => drop(only(&world, Property::Judged)),
        }
    }
    let mut world = world();
    world.note(&event(60, "5"), Cause::Planned, Answer::Repeat);
    world.duplicates = Duplicates::Allowed;
    let violation = only(&world, Property::Stored);
    assert!(
        violation.text.contains("another one then"),
        "{}",
        violation.text
    );
}

#[test]
fn tags_are_as_good_as_answers() {
    let mut world = world();
    world.note(&event(60, "4"), Cause::Planned, Answer::Repeat);
    world.publish(&event(0, "4"), Cause::Redelivery);
    mark(&mut world, &[("ce_duplicate", "redelivery")]);
    publish(&mut world, &event(120, "4"), &[("ce_duplicate", "repeat")]);
    let report = world.verify();
    assert!(report.holds(), "{report}");
    assert_eq!(verdicts(&report).told, [1, 1, 2, 0, 0]);
    let marked = verdicts(&report).marked;
    assert_eq!((marked.redelivery, marked.repeat), (1, 1));
    *world.records.last_mut().unwrap().header("ce_duplicate") = b"redelivery".to_vec();
    only(&world, Property::Judged);
}

#[test]
fn a_bridge_that_shows_nothing_is_not_judged() {
    let mut world = world();
    world.publish(&event(0, "4"), Cause::Redelivery);
    world.publish(&event(60, "5"), Cause::Planned);
    world.duplicates = Duplicates::Detect;
    let report = world.verify();
    assert!(report.holds(), "{report}");
    let why = report.finding(Property::Judged).unchecked.clone();
    assert_eq!(why.as_deref(), Some("no answer and no header tells of any"));
    assert!(!report.to_string().contains("told apart"));
    world.duplicates = Duplicates::Expected;
    assert_eq!(world.verify().finding(Property::Judged).violations, 2);
}

#[test]
fn what_nobody_heard_of_explains_what_comes_after() {
    let mut world = world();
    // Its record is there, so that it was stored.
    world.note(&event(60, "5"), Cause::Planned, Answer::Unknown);
    world.store(&event(60, "5"));
    let first = format!("event_{}", event(0, "4").id);
    mark(
        &mut world,
        &[("ce_revision", "1"), ("ce_supersedes", &first)],
    );
    let unheard = world.clone();
    world.note(&event(60, "5"), Cause::AfterFailure, Answer::Redelivery);
    world.note(&event(120, "5"), Cause::Planned, Answer::Repeat);
    revise(&mut world, &event(180, "4"), &event(60, "5"));
    let report = world.verify();
    assert!(report.holds(), "{report}");
    assert_eq!(verdicts(&report).unknown, 1);
    assert_eq!(verdicts(&report).told, [1, 1, 1, 1, 0]);
    // Unheard of for good: what follows may still tell.
    let mut world = unheard;
    world.note(&event(120, "4"), Cause::Planned, Answer::Repeat);
    assert!(world.verify().holds(), "stored later");
    world.note(&event(180, "5"), Cause::Planned, Answer::Repeat);
    assert!(world.verify().holds());
    world.note(&event(240, "4"), Cause::Planned, Answer::Repeat);
    only(&world, Property::Stored);
}

#[test]
fn answers_without_places_are_judged_as_far_as_it_goes() {
    let mut world = world();
    revise(&mut world, &event(60, "5"), &event(0, "4"));
    world.attempts.iter_mut().for_each(|a| a.at = None);
    assert!(world.verify().holds(), "{}", world.verify());
    world.originals = false;
    assert!(world.verify().holds(), "{}", world.verify());
    *world.records[1].header("ce_supersedes") = b"event_0".to_vec();
    only(&world, Property::Judged);
}

#[test]
fn a_redelivery_of_a_repeat_may_be_forgotten_in_a_restart() {
    let mut world = world();
    world.note(&event(60, "4"), Cause::Planned, Answer::Repeat);
    revise(&mut world, &event(120, "5"), &event(0, "4"));
    publish(&mut world, &event(60, "4"), &[("ce_stale", "true")]);
    let report = world.verify();
    assert!(report.holds(), "{report}");
    assert_eq!(verdicts(&report).forgotten, 1);
    assert!(
        report
            .to_string()
            .contains("1 of all are redeliveries of repeats")
    );
    // But not by a bridge that was never started again.
    world.restarted = false;
    let violation = only(&world, Property::Judged);
    assert_eq!(violation.id, Some(format!("event_{}", event(60, "4").id)));
    world.duplicates = Duplicates::Allowed;
    assert!(world.verify().holds(), "{}", world.verify());
}

#[test]
fn a_stale_one_may_be_stored_as_a_revision_in_a_restart() {
    let mut world = world();
    revise(&mut world, &event(120, "5"), &event(0, "4"));
    revise(&mut world, &event(60, "6"), &event(0, "4"));
    let violation = only(&world, Property::Judged);
    let told = "is a stale by the rules, and was stored as a revision";
    assert!(violation.text.contains(told), "{}", violation.text);
    world.duplicates = Duplicates::Allowed;
    assert!(world.verify().holds(), "{}", world.verify());
    assert_eq!(verdicts(&world.verify()).unrecognised, 1);
    // But not by a bridge that was never started again.
    world.restarted = false;
    only(&world, Property::Judged);
}

/// Which of two equal records an answer means, is not known, and need not be.
#[test]
fn a_repeat_that_is_tagged_and_there_twice_does_not_become_current() {
    let mut world = World {
        duplicates: Duplicates::Allowed,
        restarted: false,
        ..world()
    };
    let repeat = event(120, "4");
    world.note(&repeat, Cause::Planned, Answer::Unknown);
    world.note(&repeat, Cause::AfterFailure, Answer::Spooled);
    for _ in 0..2 {
        world.store(&repeat);
        mark(
            &mut world,
            &[("ce_duplicate", "repeat"), ("ce_spooled", "true")],
        );
    }
    revise(&mut world, &event(60, "5"), &event(0, "4"));
    assert!(world.verify().holds(), "{}", world.verify());
    assert_eq!(verdicts(&world.verify()).unrecognised, 0);
    // Where they differ it may have been either.
    let other = &mut world.records[1].headers;
    other.retain(|(name, _)| name != "ce_duplicate");
    only(&world, Property::Judged);
}

/// It is drained behind what passed it, and so stored last.
#[test]
fn what_waited_and_was_overtaken_may_count_as_current_after_a_restart() {
    let mut world = World {
        duplicates: Duplicates::Allowed,
        overtaken: true,
        ..World::empty()
    };
    world.note(&event(0, "4"), Cause::Planned, Answer::Spooled);
    revise(&mut world, &event(60, "5"), &event(0, "4"));
    let again = event(120, "4");
    world.publish(&again, Cause::Planned);
    mark(&mut world, &[("ce_duplicate", "repeat")]);
    world.store(&event(0, "4"));
    mark(&mut world, &[("ce_spooled", "true")]);
    assert!(world.verify().holds(), "{}", world.verify());
    assert_eq!(verdicts(&world.verify()).unrecognised, 1);
    // In order nothing passes it; and a bridge that was never started again knows what did.
    for change in [
        (|world: &mut World| world.overtaken = false) as fn(&mut World),
        |world| world.restarted = false,
    ] {
        let mut world = world.clone();
        change(&mut world);
        let violation = only(&world, Property::Judged);
        assert!(violation.text.contains("is a revision by the rules"));
    }
    // Nor may what did not wait.
    world.attempts[0].answer = Answer::Published;
    world.records.last_mut().unwrap().headers.pop();
    only(&world, Property::Judged);
}
