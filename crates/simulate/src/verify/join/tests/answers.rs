//! What answers say, against each other and against the headers.

use super::*;

#[test]
fn what_was_quarantined_must_not_be_there() {
    let sample = SampleEvent::new(500, OCCUPANCY, "4");
    let mut world = sample_run();
    world.add_attempt(&sample, AttemptCause::Planned, RecordedOutcome::Quarantined);
    world.add_attempt(
        &sample,
        AttemptCause::AfterFailure,
        RecordedOutcome::Refused,
    );
    assert!(world.verify().is_proved());
    world.add_record(&sample);
    assert!(
        only_violation(&world, Property::Sent)
            .text
            .contains("quarantined")
    );
}

#[test]
fn status_and_word_belong_together() {
    let mut world = sample_run();
    world.attempts[3].contradictory = true;
    only_violation(&world, Property::AnswerConsistency);
}

#[test]
fn a_repeat_of_before_the_run_is_counted_and_not_judged() {
    let mut world = sample_run();
    let sample = SampleEvent::new(500, OCCUPANCY, "4");
    world.add_attempt(&sample, AttemptCause::Planned, RecordedOutcome::Repeat);
    let report = world.verify();
    assert!(report.is_proved(), "{report}");
    assert_eq!(report.repeats_before_run, 1);
    assert_eq!(report.finding(Property::Stored).checked, 40);
}

#[test]
fn a_repeat_of_what_was_revised_since_is_one_violation() {
    let mut world = sample_run();
    let first = SampleEvent::new(500, OCCUPANCY, "4");
    let again = |n, data| SampleEvent {
        id: SampleEvent::new(n, OCCUPANCY, data).id,
        data,
        ..first.clone()
    };
    world.publish(&first, AttemptCause::Planned);
    world.publish(&again(501, "5"), AttemptCause::Planned);
    let back = again(502, "4");
    world.add_attempt(&back, AttemptCause::Planned, RecordedOutcome::Repeat);
    let violation = only_violation(&world, Property::Stored);
    assert_eq!(violation.id, Some(format!("event_{}", back.id)));
    world.attempts.last_mut().unwrap().data_hash =
        world.attempts[world.attempts.len() - 2].data_hash;
    assert!(world.verify().is_proved());
}

/// A world in which the record of one more event has a header that only answers can confirm.
fn tagged(
    event_type: EventType,
    name: &str,
    value: &str,
    answers: &[RecordedOutcome],
) -> SampleRun {
    let sample = SampleEvent::new(500, event_type, "4");
    let mut world = sample_run();
    answers
        .iter()
        .for_each(|a| world.add_attempt(&sample, AttemptCause::Planned, *a));
    world.add_record(&sample);
    let headers = &mut world.records.last_mut().unwrap().headers;
    headers.push((name.to_owned(), value.as_bytes().to_vec()));
    world
}

#[test]
fn what_waited_on_disk_was_answered_so() {
    let tagged = |answers: &[RecordedOutcome]| tagged(OCCUPANCY, "ce_spooled", "true", answers);
    only_violation(&tagged(&[RecordedOutcome::Published]), Property::Headers);
    assert!(tagged(&[RecordedOutcome::Spooled]).verify().is_proved());
    let unheard = [RecordedOutcome::Unknown, RecordedOutcome::Redelivery];
    assert!(tagged(&unheard).verify().is_proved());
}

#[test]
fn a_duplicate_was_sent_twice_or_can_be_equal_to_another() {
    let tagged = |event_type, kind: &str, answers: &[RecordedOutcome]| {
        tagged(event_type, "ce_duplicate", kind, answers)
    };
    let motion = EventType::PirMotion;
    let (once, twice) = (
        [RecordedOutcome::Published],
        [RecordedOutcome::Unknown, RecordedOutcome::Published],
    );
    for kind in ["redelivery", "repeat"] {
        only_violation(&tagged(motion, kind, &once), Property::Classification);
    }
    only_violation(&tagged(motion, "repeat", &twice), Property::Classification);
    assert!(tagged(motion, "redelivery", &twice).verify().is_proved());
    assert!(tagged(OCCUPANCY, "repeat", &once).verify().is_proved());
}

#[test]
fn records_from_before_the_run_are_left_out_where_nobody_knows_where_it_began() {
    let mut world = sample_run();
    let old = b"2027-01-15T06:00:00.000Z";
    for (n, value) in [(500, None), (501, Some(b"{".to_vec()))] {
        world.add_record(&SampleEvent::new(n, OCCUPANCY, "4"));
        let record = world.records.last_mut().unwrap();
        *record.header("ce_receivedat") = old.to_vec();
        record.value = value.or(record.value.take());
    }
    let violated = violations(&world.verify());
    assert_eq!(violated, [(Property::Sent, 2)]);
    world.skip_before_run = true;
    let report = world.verify();
    assert!(report.is_proved(), "{report}");
    assert_eq!(report.records_before_run, 2);
    // One that came during the run is nobody's still.
    world.add_record(&SampleEvent::new(502, OCCUPANCY, "4"));
    only_violation(&world, Property::Sent);
}

#[test]
fn answers_that_named_no_place_prove_none() {
    let mut world = sample_run();
    world
        .attempts
        .iter_mut()
        .for_each(|a| a.reported_position = None);
    let report = world.verify();
    assert!(report.is_proved(), "{report}");
    let why = report
        .finding(Property::ReportedPosition)
        .unchecked_reason
        .clone();
    assert_eq!(why.as_deref(), Some("no answer named them"));
    assert_eq!((report.published, report.reported_positions), (40, 0));
}

#[test]
fn where_nobody_went_anywhere_nothing_adds_up() {
    let mut world = SampleRun::empty();
    world.truth.spaces.push(("room_1".to_owned(), 0));
    world.publish(&SampleEvent::new(1, OCCUPANCY, "4"), AttemptCause::Planned);
    let report = world.verify();
    assert!(report.is_proved(), "{report}");
    assert!(
        report
            .finding(Property::Occupancy)
            .unchecked_reason
            .is_some()
    );
    world.truth.spaces[0].1 = 1;
    only_violation(&world, Property::Occupancy);
}

#[test]
fn what_was_spooled_may_be_there_by_another_try_after_a_restart() {
    let sample = SampleEvent::new(500, OCCUPANCY, "4");
    let told = |answers: &[RecordedOutcome], records: usize, allowed: bool| {
        let mut world = sample_run();
        if allowed {
            world.duplicates = DuplicatePolicy::Allowed;
        }
        for answer in answers {
            world.add_attempt(&sample, AttemptCause::AfterFailure, *answer);
        }
        (0..records).for_each(|_| world.add_record(&sample));
        let report = world.verify();
        (report.is_proved(), report.already_stored)
    };
    use RecordedOutcome::{Published, Spooled};
    assert_eq!(told(&[Published, Spooled], 1, true), (true, 1));
    assert_eq!(told(&[Spooled, Spooled, Spooled], 1, true), (true, 2));
    assert_eq!(told(&[Spooled, Spooled], 2, true), (true, 0));
    // It is nowhere; what was published is there less often; one try alone; a bridge that was not started again.
    assert_eq!(told(&[Published, Spooled], 0, true), (false, 0));
    assert_eq!(told(&[Published, Published, Spooled], 1, true), (false, 0));
    assert_eq!(told(&[Spooled], 0, true), (false, 0));
    assert_eq!(told(&[Published, Spooled], 1, false), (false, 0));
}
