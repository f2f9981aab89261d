use super::super::report::CopyCounts;
use super::super::samples::{SampleEvent, SampleRun};
use super::*;
use crate::journal::AttemptCause;
use crate::verify::DuplicatePolicy;

const OCCUPANCY: EventType = EventType::RoomOccupancy;

/// Creates a run of forty events of two types. Each was published once, at its reported position.
/// TRAFFIC adds up.
fn sample_run() -> SampleRun {
    let mut run = SampleRun::empty();
    for n in 0..20 {
        run.publish(&SampleEvent::new(n, OCCUPANCY, "4"), AttemptCause::Planned);
        run.publish(&traffic(n), AttemptCause::Planned);
    }
    for n in 0..7 {
        let people = (0..20).filter(|k| k % 7 == n).count() as u32 * 2;
        run.truth.spaces.push((traffic(n).room, people));
    }
    run
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

/// Returns the only violation of the run, which must be of this property.
#[track_caller]
fn only_violation(run: &SampleRun, property: Property) -> Violation {
    let report = run.verify();
    assert_eq!(violations(&report), [(property, 1)], "{report}");
    report.finding(property).first[0].clone()
}

/// Returns runs with one changed record: of occupancy and of TRAFFIC, in originals and in copies.
fn changed_runs(
    change: impl Fn(&mut SampleRun, usize),
) -> impl Iterator<Item = (SampleRun, String)> {
    use TopicSet::{Copies, Originals};
    let cases = [(6, Originals), (6, Copies), (7, Originals), (7, Copies)];
    cases.into_iter().map(move |(n, topics)| {
        let mut run = sample_run();
        run.topics = topics;
        let id = format!("event_{}", run.attempts[n].id);
        change(&mut run, n);
        (run, id)
    })
}

#[test]
fn an_intact_run_is_proved() {
    let mut run = sample_run();
    run.duplicates = DuplicatePolicy::Expected;
    let report = run.verify();
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
fn a_missing_record_is_one_violation() {
    for (run, id) in changed_runs(|run, n| drop(run.records.remove(n))) {
        let violation = only_violation(&run, Property::Stored);
        assert_eq!(violation.id, Some(id));
        assert!(violation.text.contains("published"), "{}", violation.text);
    }
}

#[test]
fn a_copied_record_is_one_violation() {
    for (run, id) in changed_runs(|run, n| {
        let mut copy = run.records[n].clone();
        copy.position.offset = 1_000;
        run.records.push(copy);
    }) {
        let violation = only_violation(&run, Property::RecordCount);
        assert_eq!(violation.id, Some(id));
        assert_eq!(violation.position.unwrap().offset, 1_000);
        assert!(violation.text.contains("twice"), "{}", violation.text);
        assert_eq!(run.verify().copies.unexplained(), 1);
    }
}

#[test]
fn a_changed_record_is_one_violation_whatever_was_changed() {
    type RunChange<'a> = &'a dyn Fn(&mut SampleRun, usize);
    let changes: [RunChange<'_>; 9] = [
        &|run, n| run.records[n].replace_in_value("v1.0.0", "v1.0.1"),
        &|run, n| run.records[n].replace_in_value("\"timestamp\":1", "\"timestamp\":2"),
        &|run, n| run.records[n].replace_in_value("room_ü", "room_u"),
        &|run, n| run.records[n].replace_in_value("\"id\":\"event_", "\"id\":\"event-"),
        &|run, n| {
            let id = run.attempts[n].id.to_string();
            let other = SampleEvent::new(77, OCCUPANCY, "4").id.to_string();
            run.records[n].replace_in_value(&id, &other);
        },
        &|run, n| run.records[n].replace_in_value("\"metadata\":", "\"metadata\""),
        &|run, n| run.records[n].value = None,
        &|run, n| run.records[n].value = Some(Vec::new()),
        &|run, n| run.records[n].replace_in_value("\"data\":", "\"data\": "),
    ];
    for change in changes {
        for (run, id) in changed_runs(change) {
            let violation = only_violation(&run, Property::Intact);
            assert_eq!(violation.id, Some(id));
            assert!(violation.position.is_some());
        }
    }
}

#[test]
fn a_misplaced_record_is_one_violation() {
    for (run, id) in changed_runs(|run, n| run.records[n].key = Some(b"x".to_vec())) {
        assert_eq!(only_violation(&run, Property::Placement).id, Some(id));
    }
    let elsewhere = changed_runs(|run, n| {
        let record = &mut run.records[n];
        record.position.partition = (record.position.partition + 1) % 6;
        run.attempts[n].reported_position = Some(ReportedPosition {
            partition: record.position.partition,
            offset: record.position.offset,
        });
    });
    for (run, id) in elsewhere {
        assert_eq!(only_violation(&run, Property::Placement).id, Some(id));
    }
}

#[test]
fn a_wrong_header_or_timestamp_is_one_violation() {
    for (run, id) in changed_runs(|run, n| *run.records[n].header("ce_time") = b"now".to_vec()) {
        let violation = only_violation(&run, Property::Headers);
        assert_eq!(violation.id, Some(id));
        assert!(violation.text.contains("ce_time"), "{}", violation.text);
    }
    for (run, _) in changed_runs(|run, n| run.records[n].timestamp_ms = Some(5)) {
        only_violation(&run, Property::Headers);
    }
}

#[test]
fn an_unknown_record_is_one_violation() {
    for sample in [SampleEvent::new(500, OCCUPANCY, "4"), traffic(500)] {
        let mut run = sample_run();
        run.add_record(&sample);
        let violation = only_violation(&run, Property::Sent);
        assert_eq!(violation.id, Some(format!("event_{}", sample.id)));
    }
    let mut run = sample_run();
    run.add_record(&SampleEvent::new(500, OCCUPANCY, "4"));
    run.records.last_mut().unwrap().value = None;
    *run.records.last_mut().unwrap().header("ce_id") = b"?".to_vec();
    only_violation(&run, Property::Sent);
}

#[test]
fn a_refused_event_has_no_record() {
    let sample = SampleEvent::new(500, OCCUPANCY, "4");
    let mut run = sample_run();
    run.add_attempt(&sample, AttemptCause::Planned, RecordedOutcome::Refused);
    assert!(run.verify().is_proved());
    run.add_record(&sample);
    only_violation(&run, Property::Sent);
    // An attempt of unknown outcome may have stored it.
    run.add_attempt(&sample, AttemptCause::Planned, RecordedOutcome::Unknown);
    assert!(run.verify().is_proved());
}

#[test]
fn records_are_at_the_reported_positions() {
    let mut run = sample_run();
    run.attempts[4].reported_position.as_mut().unwrap().offset = 999;
    let violation = only_violation(&run, Property::ReportedPosition);
    assert!(violation.text.contains("offset 999"), "{}", violation.text);
    run.topics = TopicSet::Copies;
    let report = run.verify();
    assert!(report.is_proved());
    assert!(
        report
            .finding(Property::ReportedPosition)
            .unchecked_reason
            .is_some()
    );
}

#[test]
fn an_unknown_outcome_allows_a_record_or_none() {
    let sample = SampleEvent::new(500, OCCUPANCY, "4");
    for (outcomes, least, most) in [
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
            let mut run = sample_run();
            for outcome in outcomes {
                run.add_attempt(&sample, AttemptCause::Planned, *outcome);
            }
            (0..found).for_each(|_| run.add_record(&sample));
            let report = run.verify();
            let expected = match found {
                n if (least..=most).contains(&n) => vec![],
                0 => vec![(Property::Stored, 1)],
                _ => vec![(Property::RecordCount, 1)],
            };
            assert_eq!(
                violations(&report),
                expected,
                "{outcomes:?}, {found}: {report}"
            );
        }
    }
}

#[test]
fn a_repeat_needs_a_record_with_the_same_value() {
    let first = SampleEvent::new(500, OCCUPANCY, "4");
    let repeat = SampleEvent {
        id: SampleEvent::new(501, OCCUPANCY, "4").id,
        ..first.clone()
    };
    let revision = SampleEvent {
        data: "5",
        ..repeat.clone()
    };
    let with = |sample: &SampleEvent, outcomes: &[RecordedOutcome]| {
        let mut run = sample_run();
        run.publish(&first, AttemptCause::Planned);
        for outcome in outcomes {
            run.add_attempt(sample, AttemptCause::Planned, *outcome);
        }
        violations(&run.verify())
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

    let mut run = sample_run();
    run.publish(&first, AttemptCause::Planned);
    run.add_attempt(&repeat, AttemptCause::Planned, RecordedOutcome::Repeat);
    run.records.pop();
    let violation = only_violation(&run, Property::Stored);
    assert_eq!(violation.id, Some(format!("event_{}", first.id)));
}

#[test]
fn copies_are_counted_by_cause() {
    use AttemptCause::{AfterFailure, AfterTimeout, Planned, Redelivery};
    use RecordedOutcome::{Published, Unknown};
    let copies = |attempts: &[(AttemptCause, RecordedOutcome)], found: u64| {
        let sample = SampleEvent::new(1, OCCUPANCY, "4");
        let attempts = attempts.iter().map(|(c, o)| sample.attempt(*c, *o, None));
        let mut copies = CopyCounts::default();
        count_causes(&attempts.collect::<Vec<_>>(), found, &mut copies);
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
    let late = [(AfterTimeout, Published), (Planned, Published)];
    assert_eq!(copies(&late, 2), [1, 0, 1, 0]);
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
fn traffic_is_added_up_over_distinct_ids() {
    let mut run = sample_run();
    run.publish(&traffic(3), AttemptCause::Redelivery);
    assert!(run.verify().is_proved(), "{}", run.verify());
    run.truth.spaces[2].1 += 1;
    let violation = only_violation(&run, Property::Occupancy);
    assert_eq!(violation.id, Some(run.truth.spaces[2].0.clone()));
    run.traffic_complete = false;
    let report = run.verify();
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
    let mut run = sample_run();
    run.records.remove(5);
    let report = run.verify();
    let reason = report.finding(Property::Occupancy).unchecked_reason.clone();
    assert!(reason.unwrap().contains("1 TRAFFIC"), "{report}");
}

mod responses;
