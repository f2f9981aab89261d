//! Responses compared with each other and with the headers.

use super::*;

#[test]
fn a_quarantined_item_has_no_record() {
    let sample = SampleEvent::new(500, OCCUPANCY, "4");
    let mut run = sample_run();
    run.add_attempt(&sample, AttemptCause::Planned, RecordedOutcome::Quarantined);
    run.add_attempt(
        &sample,
        AttemptCause::AfterFailure,
        RecordedOutcome::Refused,
    );
    assert!(run.verify().is_proved());
    run.add_record(&sample);
    assert!(
        only_violation(&run, Property::Sent)
            .text
            .contains("quarantined")
    );
}

#[test]
fn status_code_and_status_field_agree() {
    let mut run = sample_run();
    run.attempts[3].contradictory = true;
    only_violation(&run, Property::ResponseConsistency);
}

#[test]
fn a_repeat_from_before_the_run_is_counted_but_not_judged() {
    let mut run = sample_run();
    let sample = SampleEvent::new(500, OCCUPANCY, "4");
    run.add_attempt(&sample, AttemptCause::Planned, RecordedOutcome::Repeat);
    let report = run.verify();
    assert!(report.is_proved(), "{report}");
    assert_eq!(report.repeats_before_run, 1);
    assert_eq!(report.finding(Property::Stored).checked, 40);
}

#[test]
fn a_repeat_of_a_superseded_value_is_one_violation() {
    let mut run = sample_run();
    let first = SampleEvent::new(500, OCCUPANCY, "4");
    let again = |n, data| SampleEvent {
        id: SampleEvent::new(n, OCCUPANCY, data).id,
        data,
        ..first.clone()
    };
    run.publish(&first, AttemptCause::Planned);
    run.publish(&again(501, "5"), AttemptCause::Planned);
    let back = again(502, "4");
    run.add_attempt(&back, AttemptCause::Planned, RecordedOutcome::Repeat);
    let violation = only_violation(&run, Property::Stored);
    assert_eq!(violation.id, Some(format!("event_{}", back.id)));
    run.attempts.last_mut().unwrap().data_hash = run.attempts[run.attempts.len() - 2].data_hash;
    assert!(run.verify().is_proved());
}

/// Returns a run with one more event, whose record has a mark that only responses can confirm.
fn marked_run(
    event_type: EventType,
    name: &str,
    value: &str,
    outcomes: &[RecordedOutcome],
) -> SampleRun {
    let sample = SampleEvent::new(500, event_type, "4");
    let mut run = sample_run();
    for outcome in outcomes {
        run.add_attempt(&sample, AttemptCause::Planned, *outcome);
    }
    run.add_record(&sample);
    let headers = &mut run.records.last_mut().unwrap().headers;
    headers.push((name.to_owned(), value.as_bytes().to_vec()));
    run
}

#[test]
fn a_spooled_record_was_answered_spooled() {
    let spooled =
        |outcomes: &[RecordedOutcome]| marked_run(OCCUPANCY, "ce_spooled", "true", outcomes);
    only_violation(&spooled(&[RecordedOutcome::Published]), Property::Headers);
    assert!(spooled(&[RecordedOutcome::Spooled]).verify().is_proved());
    let unknown = [RecordedOutcome::Unknown, RecordedOutcome::Redelivery];
    assert!(spooled(&unknown).verify().is_proved());
}

#[test]
fn a_duplicate_was_sent_twice_or_has_an_equal_value() {
    let duplicate = |event_type, kind: &str, outcomes: &[RecordedOutcome]| {
        marked_run(event_type, "ce_duplicate", kind, outcomes)
    };
    let motion = EventType::PirMotion;
    let (once, twice) = (
        [RecordedOutcome::Published],
        [RecordedOutcome::Unknown, RecordedOutcome::Published],
    );
    for kind in ["redelivery", "repeat"] {
        only_violation(&duplicate(motion, kind, &once), Property::Classification);
    }
    only_violation(
        &duplicate(motion, "repeat", &twice),
        Property::Classification,
    );
    assert!(duplicate(motion, "redelivery", &twice).verify().is_proved());
    assert!(duplicate(OCCUPANCY, "repeat", &once).verify().is_proved());
}

#[test]
fn records_from_before_the_run_are_ignored_if_its_start_offsets_are_unknown() {
    let mut run = sample_run();
    let old = b"2027-01-15T06:00:00.000Z";
    for (n, value) in [(500, None), (501, Some(b"{".to_vec()))] {
        run.add_record(&SampleEvent::new(n, OCCUPANCY, "4"));
        let record = run.records.last_mut().unwrap();
        *record.header("ce_receivedat") = old.to_vec();
        record.value = value.or(record.value.take());
    }
    let violated = violations(&run.verify());
    assert_eq!(violated, [(Property::Sent, 2)]);
    run.skip_before_run = true;
    let report = run.verify();
    assert!(report.is_proved(), "{report}");
    assert_eq!(report.records_before_run, 2);
    // An unknown record from the time of the run is still a violation.
    run.add_record(&SampleEvent::new(502, OCCUPANCY, "4"));
    only_violation(&run, Property::Sent);
}

#[test]
fn responses_without_positions_prove_none() {
    let mut run = sample_run();
    run.attempts
        .iter_mut()
        .for_each(|a| a.reported_position = None);
    let report = run.verify();
    assert!(report.is_proved(), "{report}");
    let reason = report
        .finding(Property::ReportedPosition)
        .unchecked_reason
        .clone();
    assert_eq!(reason.as_deref(), Some("no response named any"));
    assert_eq!((report.published, report.reported_positions), (40, 0));
}

#[test]
fn traffic_is_not_added_up_if_nobody_moved() {
    let mut run = SampleRun::empty();
    run.truth.spaces.push(("room_1".to_owned(), 0));
    run.publish(&SampleEvent::new(1, OCCUPANCY, "4"), AttemptCause::Planned);
    let report = run.verify();
    assert!(report.is_proved(), "{report}");
    assert!(
        report
            .finding(Property::Occupancy)
            .unchecked_reason
            .is_some()
    );
    run.truth.spaces[0].1 = 1;
    only_violation(&run, Property::Occupancy);
}

#[test]
fn after_a_restart_a_spooled_event_may_be_stored_by_another_attempt() {
    let sample = SampleEvent::new(500, OCCUPANCY, "4");
    let result = |outcomes: &[RecordedOutcome], records: usize, allowed: bool| {
        let mut run = sample_run();
        if allowed {
            run.duplicates = DuplicatePolicy::Allowed;
        }
        for outcome in outcomes {
            run.add_attempt(&sample, AttemptCause::AfterFailure, *outcome);
        }
        (0..records).for_each(|_| run.add_record(&sample));
        let report = run.verify();
        (report.is_proved(), report.already_stored)
    };
    use RecordedOutcome::{Published, Spooled};
    assert_eq!(result(&[Published, Spooled], 1, true), (true, 1));
    assert_eq!(result(&[Spooled, Spooled, Spooled], 1, true), (true, 2));
    assert_eq!(result(&[Spooled, Spooled], 2, true), (true, 0));
    // No record at all; fewer records than published attempts; a single attempt; no restart.
    assert_eq!(result(&[Published, Spooled], 0, true), (false, 0));
    assert_eq!(
        result(&[Published, Published, Spooled], 1, true),
        (false, 0)
    );
    assert_eq!(result(&[Spooled], 0, true), (false, 0));
    assert_eq!(result(&[Published, Spooled], 1, false), (false, 0));
}
