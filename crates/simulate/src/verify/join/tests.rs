use super::super::report::Copies;
use super::super::samples::{Sample, World};
use super::*;
use crate::journal::Cause;
use crate::verify::Duplicates;

const OCCUPANCY: EventType = EventType::RoomOccupancy;

/// Forty events of two types, of which each was published once and named in its answer; TRAFFIC adds up to 7 × 20.
fn world() -> World {
    let mut world = World::empty();
    for n in 0..20 {
        world.publish(&Sample::new(n, OCCUPANCY, "4"), Cause::Planned);
        world.publish(&traffic(n), Cause::Planned);
    }
    for n in 0..7 {
        let there = (0..20).filter(|k| k % 7 == n).count() as u32 * 2;
        world.truth.spaces.push((traffic(n).room, there));
    }
    world
}

fn traffic(n: u64) -> Sample {
    Sample::new(
        1_000 + 7 * n + n % 7,
        EventType::Traffic,
        r#"{"in":3,"out":1}"#,
    )
    .in_room(n)
}

impl Sample {
    fn in_room(mut self, n: u64) -> Self {
        self.room = format!("room_ü{}", n % 7);
        self
    }
}

fn violations(report: &Report) -> Vec<(Property, u64)> {
    let violated = |p: &Property| (*p, report.finding(*p).violations);
    let all = Property::ALL.iter().map(violated);
    all.filter(|(_, n)| *n > 0).collect()
}

/// The only violation, in this property.
#[track_caller]
fn only(world: &World, property: Property) -> Violation {
    let report = world.verify();
    assert_eq!(violations(&report), [(property, 1)], "{report}");
    report.finding(property).first[0].clone()
}

/// Of an occupancy record and of a TRAFFIC record, of originals and of copies, the world with it changed.
fn changed(change: impl Fn(&mut World, usize)) -> impl Iterator<Item = (World, String)> {
    let cases = [(6, true), (6, false), (7, true), (7, false)];
    cases.into_iter().map(move |(n, originals)| {
        let mut world = world();
        world.originals = originals;
        let id = format!("event_{}", world.attempts[n].id);
        change(&mut world, n);
        (world, id)
    })
}

#[test]
fn a_whole_world_holds() {
    let mut world = world();
    world.duplicates = Duplicates::Expected;
    let report = world.verify();
    assert!(report.holds(), "{report}");
    for property in Property::ALL {
        let finding = report.finding(property);
        assert!(
            finding.unchecked.is_none() && finding.checked > 0,
            "{report}"
        );
    }
    assert_eq!(report.finding(Property::Stored).checked, 40);
    assert_eq!(report.copies, Copies::default());
}

#[test]
fn one_missing_is_one_violation() {
    for (world, id) in changed(|world, n| drop(world.records.remove(n))) {
        let violation = only(&world, Property::Stored);
        assert_eq!(violation.id, Some(id));
        assert!(violation.text.contains("published"), "{}", violation.text);
    }
}

#[test]
fn one_there_twice_is_one_violation() {
    for (world, id) in changed(|world, n| {
        let mut copy = world.records[n].clone();
        copy.position.offset = 1_000;
        world.records.push(copy);
    }) {
        let violation = only(&world, Property::Counted);
        assert_eq!(violation.id, Some(id));
        assert_eq!(violation.position.unwrap().offset, 1_000);
        assert!(violation.text.contains("twice"), "{}", violation.text);
        assert_eq!(world.verify().copies.unexplained(), 1);
    }
}

#[test]
fn one_changed_is_one_violation_whatever_was_changed() {
    type Change<'a> = &'a dyn Fn(&mut World, usize);
    let changes: [Change<'_>; 9] = [
        &|world, n| world.records[n].change("v1.0.0", "v1.0.1"),
        &|world, n| world.records[n].change("\"timestamp\":1", "\"timestamp\":2"),
        &|world, n| world.records[n].change("room_ü", "room_u"),
        &|world, n| world.records[n].change("\"id\":\"event_", "\"id\":\"event-"),
        &|world, n| {
            let id = world.attempts[n].id.to_string();
            let other = Sample::new(77, OCCUPANCY, "4").id.to_string();
            world.records[n].change(&id, &other);
        },
        &|world, n| world.records[n].change("\"metadata\":", "\"metadata\""),
        &|world, n| world.records[n].value = None,
        &|world, n| world.records[n].value = Some(Vec::new()),
        &|world, n| world.records[n].change("\"data\":", "\"data\": "),
    ];
    for change in changes {
        for (world, id) in changed(change) {
            let violation = only(&world, Property::Intact);
            assert_eq!(violation.id, Some(id));
            assert!(violation.position.is_some());
        }
    }
}

#[test]
fn one_put_elsewhere_is_one_violation() {
    for (world, id) in changed(|world, n| world.records[n].key = Some(b"x".to_vec())) {
        assert_eq!(only(&world, Property::Placed).id, Some(id));
    }
    let elsewhere = changed(|world, n| {
        let record = &mut world.records[n];
        record.position.partition = (record.position.partition + 1) % 6;
        world.attempts[n].at = Some((record.position.partition, record.position.offset));
    });
    for (world, id) in elsewhere {
        assert_eq!(only(&world, Property::Placed).id, Some(id));
    }
}

#[test]
fn one_with_another_header_or_timestamp_is_one_violation() {
    for (world, id) in changed(|world, n| *world.records[n].header("ce_time") = b"now".to_vec()) {
        let violation = only(&world, Property::Headed);
        assert_eq!(violation.id, Some(id));
        assert!(violation.text.contains("ce_time"), "{}", violation.text);
    }
    for (world, _) in changed(|world, n| world.records[n].timestamp_ms = Some(5)) {
        only(&world, Property::Headed);
    }
}

#[test]
fn one_that_was_not_sent_is_one_violation() {
    for sample in [Sample::new(500, OCCUPANCY, "4"), traffic(500)] {
        let mut world = world();
        world.store(&sample);
        let violation = only(&world, Property::Sent);
        assert_eq!(violation.id, Some(format!("event_{}", sample.id)));
    }
    let mut world = world();
    world.store(&Sample::new(500, OCCUPANCY, "4"));
    world.records.last_mut().unwrap().value = None;
    *world.records.last_mut().unwrap().header("ce_id") = b"?".to_vec();
    only(&world, Property::Sent);
}

#[test]
fn one_that_was_refused_must_not_be_there() {
    let sample = Sample::new(500, OCCUPANCY, "4");
    let mut world = world();
    world.note(&sample, Cause::Planned, Answer::Refused);
    assert!(world.verify().holds());
    world.store(&sample);
    only(&world, Property::Sent);
    // A try that was not heard may have stored it.
    world.note(&sample, Cause::Planned, Answer::Unknown);
    assert!(world.verify().holds());
}

#[test]
fn offsets_are_those_of_the_answers() {
    let mut world = world();
    world.attempts[4].at = Some((world.records[4].position.partition, 999));
    let violation = only(&world, Property::Named);
    assert!(violation.text.contains("offset 999"), "{}", violation.text);
    world.originals = false;
    let report = world.verify();
    assert!(report.holds());
    assert!(report.finding(Property::Named).unchecked.is_some());
}

#[test]
fn without_a_known_answer_it_may_be_there_or_not() {
    let sample = Sample::new(500, OCCUPANCY, "4");
    for (answers, least, most) in [
        (&[Answer::Unknown][..], 0, 1),
        (&[Answer::Unknown, Answer::Unknown], 0, 2),
        (&[Answer::Unknown, Answer::Published], 1, 2),
        (&[Answer::Unknown, Answer::Redelivery], 1, 1),
        (&[Answer::Spooled], 1, 1),
        (&[Answer::Spooled, Answer::Redelivery], 1, 1),
        (&[Answer::Published, Answer::Published], 2, 2),
    ] {
        for found in 0..4 {
            let mut world = world();
            for answer in answers {
                world.note(&sample, Cause::Planned, *answer);
            }
            (0..found).for_each(|_| world.store(&sample));
            let report = world.verify();
            let expected = match found {
                n if (least..=most).contains(&n) => vec![],
                0 => vec![(Property::Stored, 1)],
                _ => vec![(Property::Counted, 1)],
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
    let first = Sample::new(500, OCCUPANCY, "4");
    let repeat = Sample {
        id: Sample::new(501, OCCUPANCY, "4").id,
        ..first.clone()
    };
    let revision = Sample {
        data: "5",
        ..repeat.clone()
    };
    let with = |sample: &Sample, answers: &[Answer]| {
        let mut world = world();
        world.publish(&first, Cause::Planned);
        for answer in answers {
            world.note(sample, Cause::Planned, *answer);
        }
        violations(&world.verify())
    };
    let missing = [(Property::Stored, 1)];
    assert_eq!(with(&repeat, &[Answer::Repeat]), []);
    assert_eq!(with(&repeat, &[Answer::Repeat, Answer::Redelivery]), []);
    assert_eq!(with(&repeat, &[Answer::Unknown, Answer::Redelivery]), []);
    assert_eq!(with(&repeat, &[Answer::Redelivery]), missing);
    assert_eq!(with(&revision, &[Answer::Repeat]), missing);
    assert_eq!(with(&revision, &[Answer::Unknown]), []);

    let mut world = world();
    world.publish(&first, Cause::Planned);
    world.note(&repeat, Cause::Planned, Answer::Repeat);
    world.records.pop();
    let violation = only(&world, Property::Stored);
    assert_eq!(violation.id, Some(format!("event_{}", first.id)));
}

#[test]
fn copies_have_their_causes() {
    use Answer::{Published, Unknown};
    use Cause::{AfterFailure, AfterTimeout, Planned, Redelivery};
    let copies = |tries: &[(Cause, Answer)], found: u64| {
        let sample = Sample::new(1, OCCUPANCY, "4");
        let tries = tries.iter().map(|(c, a)| sample.answered(*c, *a, None));
        let mut copies = Copies::default();
        explain(&tries.collect::<Vec<_>>(), found, &mut copies);
        let Copies {
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
    let mut world = world();
    world.publish(&traffic(3), Cause::Redelivery);
    assert!(world.verify().holds(), "{}", world.verify());
    world.truth.spaces[2].1 += 1;
    let violation = only(&world, Property::Occupancy);
    assert_eq!(violation.id, Some(world.truth.spaces[2].0.clone()));
    world.traffic_complete = false;
    let report = world.verify();
    assert!(report.holds());
    assert!(report.finding(Property::Occupancy).unchecked.is_some());
}

#[test]
fn traffic_is_not_added_up_when_some_of_it_is_missing() {
    let mut world = world();
    world.records.remove(5);
    let report = world.verify();
    let why = report.finding(Property::Occupancy).unchecked.clone();
    assert!(why.unwrap().contains("1 TRAFFIC"), "{report}");
}

mod answers;
