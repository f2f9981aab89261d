use super::super::report::CopyCounts;
use super::super::samples::{SampleEvent, SampleRun};
use super::*;
use crate::journal::AttemptCause;
use crate::verify::DuplicatePolicy;

const OCCUPANCY: EventType = EventType::RoomOccupancy;

/// Forty events of two types, of which each was published once and named in its answer; TRAFFIC adds up to 7 × 20.
fn sample_run() -> SampleRun {
    let mut world = SampleRun::empty();
    for n in 0..20 {
        world.publish(&SampleEvent::new(n, OCCUPANCY, "4"), AttemptCause::Planned);
        world.publish(&traffic(n), AttemptCause::Planned);
    }
    for n in 0..7 {
        let there = (0..20).filter(|k| k % 7 == n).count() as u32 * 2;
        world.truth.spaces.push((traffic(n).room, there));
    }
    world
}

fn traffic(n: u64) -> SampleEvent {
    SampleEvent::new(
        1_000 + 7 * n + n % 7,
        EventType::Traffic,
        r#"{"in":3,"out":1}"#,
    )
    .in_room(n)
}

impl SampleEvent {
    fn in_room(mut self, n: u64) -> Self {
        self.room = format!("room_ü{}", n % 7);
        self
    }
}

fn violations(report: &VerificationReport) -> Vec<(Property, u64)> {
    let violated = |p: &Property| (*p, report.finding(*p).violations);
    let all = Property::ALL.iter().map(violated);
    all.filter(|(_, n)| *n > 0).collect()
}

/// The only violation, in this property.
#[track_caller]
fn only_violation(world: &SampleRun, property: Property) -> Violation {
    let report = world.verify();
    assert_eq!(violations(&report), [(property, 1)], "{report}");
    report.finding(property).first[0].clone()
}

/// Of an occupancy record and of a TRAFFIC record, of originals and of copies, the world with it changed.
fn changed_runs(
    change: impl Fn(&mut SampleRun, usize),
) -> impl Iterator<Item = (SampleRun, String)> {
    let cases = [(6, true), (6, false), (7, true), (7, false)];
    cases.into_iter().map(move |(n, originals)| {
        let mut world = sample_run();
        world.originals = originals;
        let id = format!("event_{}", world.attempts[n].id);
        change(&mut world, n);
        (world, id)
    })
}

#[test]
fn a_whole_world_holds() {
    let mut world = sample_run();
    world.duplicates = DuplicatePolicy::Expected;
    let report = world.verify();
    assert!(report.is_proved(), "{report}");
    for property in Property::ALL {
        let finding = report.finding(property);
        assert!(
            finding.unchecked_reason.is_none() && finding.checked > 0,
            "{report}"
        );
    }
    assert_eq!(report.finding(Property::Stored).checked, 40);
    assert_eq!(report.copies, CopyCounts::default());
}

#[test]
fn one_missing_is_one_violation() {
    for (world, id) in changed_runs(|world, n| drop(world.records.remove(n))) {
        let violation = only_violation(&world, Property::Stored);
        assert_eq!(violation.id, Some(id));
        assert!(violation.text.contains("published"), "{}", violation.text);
    }
}

#[test]
fn one_there_twice_is_one_violation() {
    for (world, id) in changed_runs(|world, n| {
        let mut copy = world.records[n].clone();
        copy.position.offset = 1_000;
        world.records.push(copy);
    }) {
        let violation = only_violation(&world, Property::RecordCount);
        assert_eq!(violation.id, Some(id));
        assert_eq!(violation.position.unwrap().offset, 1_000);
        assert!(violation.text.contains("twice"), "{}", violation.text);
        assert_eq!(world.verify().copies.unexplained(), 1);
    }
}

#[test]
fn one_changed_is_one_violation_whatever_was_changed() {
    type RunChange<'a> = &'a dyn Fn(&mut SampleRun, usize);
    let changes: [RunChange<'_>; 9] = [
        &|world, n| world.records[n].replace_in_value("v1.0.0", "v1.0.1"),
        &|world, n| world.records[n].replace_in_value("\"timestamp\":1", "\"timestamp\":2"),
        &|world, n| world.records[n].replace_in_value("room_ü", "room_u"),
        &|world, n| world.records[n].replace_in_value("\"id\":\"event_", "\"id\":\"event-"),
        &|world, n| {
            let id = world.attempts[n].id.to_string();
            let other = SampleEvent::new(77, OCCUPANCY, "4").id.to_string();
            world.records[n].replace_in_value(&id, &other);
        },
        &|world, n| world.records[n].replace_in_value("\"metadata\":", "\"metadata\""),
        &|world, n| world.records[n].value = None,
        &|world, n| world.records[n].value = Some(Vec::new()),
        &|world, n| world.records[n].replace_in_value("\"data\":", "\"data\": "),
    ];
    for change in changes {
        for (world, id) in changed_runs(change) {
            let violation = only_violation(&world, Property::Intact);
            assert_eq!(violation.id, Some(id));
            assert!(violation.position.is_some());
        }
    }
}

#[test]
fn one_put_elsewhere_is_one_violation() {
    for (world, id) in changed_runs(|world, n| world.records[n].key = Some(b"x".to_vec())) {
        assert_eq!(only_violation(&world, Property::Placement).id, Some(id));
    }
    let elsewhere = changed_runs(|world, n| {
        let record = &mut world.records[n];
        record.position.partition = (record.position.partition + 1) % 6;
        world.attempts[n].reported_position =
            Some((record.position.partition, record.position.offset));
    });
    for (world, id) in elsewhere {
        assert_eq!(only_violation(&world, Property::Placement).id, Some(id));
    }
}

#[test]
fn one_with_another_header_or_timestamp_is_one_violation() {
    for (world, id) in
        changed_runs(|world, n| *world.records[n].header("ce_time") = b"now".to_vec())
    {
        let violation = only_violation(&world, Property::Headers);
        assert_eq!(violation.id, Some(id));
        assert!(violation.text.contains("ce_time"), "{}", violation.text);
    }
    for (world, _) in changed_runs(|world, n| world.records[n].timestamp_ms = Some(5)) {
        only_violation(&world, Property::Headers);
    }
}

#[test]
fn one_that_was_not_sent_is_one_violation() {
    for sample in [SampleEvent::new(500, OCCUPANCY, "4"), traffic(500)] {
        let mut world = sample_run();
        world.add_record(&sample);
        let violation = only_violation(&world, Property::Sent);
        assert_eq!(violation.id, Some(format!("event_{}", sample.id)));
    }
    let mut world = sample_run();
    world.add_record(&SampleEvent::new(500, OCCUPANCY, "4"));
    world.records.last_mut().unwrap().value = None;
    *world.records.last_mut().unwrap().header("ce_id") = b"?".to_vec();
    only_violation(&world, Property::Sent);
}

#[test]
fn one_that_was_refused_must_not_be_there() {
    let sample = SampleEvent::new(500, OCCUPANCY, "4");
    let mut world = sample_run();
    world.add_attempt(&sample, AttemptCause::Planned, RecordedOutcome::Refused);
    assert!(world.verify().is_proved());
    world.add_record(&sample);
    only_violation(&world, Property::Sent);
    // A try that was not heard may have stored it.
    world.add_attempt(&sample, AttemptCause::Planned, RecordedOutcome::Unknown);
    assert!(world.verify().is_proved());
}

#[test]
fn offsets_are_those_of_the_answers() {
    let mut world = sample_run();
    world.attempts[4].reported_position = Some((world.records[4].position.partition, 999));
    let violation = only_violation(&world, Property::ReportedPosition);
    assert!(violation.text.contains("offset 999"), "{}", violation.text);
    world.originals = false;
    let report = world.verify();
    assert!(report.is_proved());
    assert!(
        report
            .finding(Property::ReportedPosition)
            .unchecked_reason
            .is_some()
    );
}

#[test]
fn without_a_known_answer_it_may_be_there_or_not() {
    let sample = SampleEvent::new(500, OCCUPANCY, "4");
    for (answers, least, most) in [
        (&[RecordedOutcome::Unknown][..], 0, 1),
        (&[RecordedOutcome::Unknown, RecordedOutcome::Unknown], 0, 2),
        (
            &[RecordedOutcome::Unknown, RecordedOutcome::Published],
            1,
            2,
        ),
        (
            &[RecordedOutcome::Unknown, RecordedOutcome::Redelivery],
            1,
            1,
        ),
        (&[RecordedOutcome::Spooled], 1, 1),
        (
            &[RecordedOutcome::Spooled, RecordedOutcome::Redelivery],
            1,
            1,
        ),
        (
            &[RecordedOutcome::Published, RecordedOutcome::Published],
            2,
            2,
        ),
    ] {
        for found in 0..4 {
            let mut world = sample_run();
            for answer in answers {
                world.add_attempt(&sample, AttemptCause::Planned, *answer);
            }
            (0..found).for_each(|_| world.add_record(&sample));
            let report = world.verify();
            let expected = match found {
                n if (least..=most).contains(&n) => vec![],
                0 => vec![(Property::Stored, 1)],
                _ => vec![(Property::RecordCount, 1)],
            };
            assert_eq!(
                violations(&report),
                expected,
                "{answers:?}, {found}: {report}"
            );
        }
    }
}

#[test]
fn a_repeat_needs_its_equal() {
    let first = SampleEvent::new(500, OCCUPANCY, "4");
    let repeat = SampleEvent {
        id: SampleEvent::new(501, OCCUPANCY, "4").id,
        ..first.clone()
    };
    let revision = SampleEvent {
        data: "5",
        ..repeat.clone()
    };
    let with = |sample: &SampleEvent, answers: &[RecordedOutcome]| {
        let mut world = sample_run();
        world.publish(&first, AttemptCause::Planned);
        for answer in answers {
            world.add_attempt(sample, AttemptCause::Planned, *answer);
        }
        violations(&world.verify())
    };
    let missing = [(Property::Stored, 1)];
    assert_eq!(with(&repeat, &[RecordedOutcome::Repeat]), []);
    assert_eq!(
        with(
            &repeat,
            &[RecordedOutcome::Repeat, RecordedOutcome::Redelivery]
        ),
        []
    );
    assert_eq!(
        with(
            &repeat,
            &[RecordedOutcome::Unknown, RecordedOutcome::Redelivery]
        ),
        []
    );
    assert_eq!(with(&repeat, &[RecordedOutcome::Redelivery]), missing);
    assert_eq!(with(&revision, &[RecordedOutcome::Repeat]), missing);
    assert_eq!(with(&revision, &[RecordedOutcome::Unknown]), []);

    let mut world = sample_run();
    world.publish(&first, AttemptCause::Planned);
    world.add_attempt(&repeat, AttemptCause::Planned, RecordedOutcome::Repeat);
    world.records.pop();
    let violation = only_violation(&world, Property::Stored);
    assert_eq!(violation.id, Some(format!("event_{}", first.id)));
}

#[test]
fn copies_have_their_causes() {
    use AttemptCause::{AfterFailure, AfterTimeout, Planned, Redelivery};
    use RecordedOutcome::{Published, Unknown};
    let copies = |tries: &[(AttemptCause, RecordedOutcome)], found: u64| {
        let sample = SampleEvent::new(1, OCCUPANCY, "4");
        let tries = tries.iter().map(|(c, a)| sample.attempt(*c, *a, None));
        let mut copies = CopyCounts::default();
        count_causes(&tries.collect::<Vec<_>>(), found, &mut copies);
        let CopyCounts {
            all,
            redelivery,
            after_timeout,
            after_failure,
        } = copies;
        [all, redelivery, after_timeout, after_failure]
    };
    assert_eq!(copies(&[(Planned, Published)], 1), [0, 0, 0, 0]);
    assert_eq!(copies(&[(Planned, Published)], 2), [1, 0, 0, 0]);
    let twice = [(Planned, Published), (Redelivery, Published)];
    assert_eq!(copies(&twice, 2), [1, 1, 0, 0]);
    let slow = [(Planned, Unknown), (AfterTimeout, Published)];
    assert_eq!(copies(&slow, 1), [0, 0, 0, 0]);
    assert_eq!(copies(&slow, 2), [1, 0, 1, 0]);
    let heard_late = [(AfterTimeout, Published), (Planned, Published)];
    assert_eq!(copies(&heard_late, 2), [1, 0, 1, 0]);
    let failing = [
        (Planned, Unknown),
        (AfterFailure, Unknown),
        (AfterFailure, Published),
        (Redelivery, Published),
    ];
    assert_eq!(copies(&failing, 2), [1, 1, 0, 0]);
    assert_eq!(copies(&failing, 3), [2, 1, 0, 1]);
    assert_eq!(copies(&failing, 4), [3, 1, 0, 2]);
    assert_eq!(copies(&failing, 5), [4, 1, 0, 2]);
}

#[test]
fn traffic_adds_up_over_distinct_ids() {
    let mut world = sample_run();
    world.publish(&traffic(3), AttemptCause::Redelivery);
    assert!(world.verify().is_proved(), "{}", world.verify());
    world.truth.spaces[2].1 += 1;
    let violation = only_violation(&world, Property::Occupancy);
    assert_eq!(violation.id, Some(world.truth.spaces[2].0.clone()));
    world.traffic_complete = false;
    let report = world.verify();
    assert!(report.is_proved());
    assert!(
        report
            .finding(Property::Occupancy)
            .unchecked_reason
            .is_some()
    );
}

#[test]
fn traffic_is_not_added_up_when_some_of_it_is_missing() {
    let mut world = sample_run();
    world.records.remove(5);
    let report = world.verify();
    let why = report.finding(Property::Occupancy).unchecked_reason.clone();
    assert!(why.unwrap().contains("1 TRAFFIC"), "{report}");
}

mod answers;
