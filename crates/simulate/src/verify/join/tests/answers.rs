//! What answers say, against each other and against the headers.

use super::*;

#[test]
fn what_was_quarantined_must_not_be_there() {
    let sample = Sample::new(500, OCCUPANCY, "4");
    let mut world = world();
    world.note(&sample, Cause::Planned, Answer::Quarantined);
    world.note(&sample, Cause::AfterFailure, Answer::Refused);
    assert!(world.verify().holds());
    world.store(&sample);
    assert!(only(&world, Property::Sent).text.contains("quarantined"));
}

#[test]
fn status_and_word_belong_together() {
    let mut world = world();
    world.attempts[3].contradictory = true;
    only(&world, Property::Answered);
}

#[test]
fn a_repeat_of_before_the_run_is_counted_and_not_judged() {
    let mut world = world();
    let sample = Sample::new(500, OCCUPANCY, "4");
    world.note(&sample, Cause::Planned, Answer::Repeat);
    let report = world.verify();
    assert!(report.holds(), "{report}");
    assert_eq!(report.repeats_before, 1);
    assert_eq!(report.finding(Property::Stored).checked, 40);
}

#[test]
fn a_repeat_of_what_was_revised_since_is_one_violation() {
    let mut world = world();
    let first = Sample::new(500, OCCUPANCY, "4");
    let again = |n, data| Sample {
        id: Sample::new(n, OCCUPANCY, data).id,
        data,
        ..first.clone()
    };
    world.publish(&first, Cause::Planned);
    world.publish(&again(501, "5"), Cause::Planned);
    let back = again(502, "4");
    world.note(&back, Cause::Planned, Answer::Repeat);
    let violation = only(&world, Property::Stored);
    assert_eq!(violation.id, Some(format!("event_{}", back.id)));
    world.attempts.last_mut().unwrap().data = world.attempts[world.attempts.len() - 2].data;
    assert!(world.verify().holds());
}

/// A world in which the record of one more event has a header that only answers can confirm.
fn tagged(event_type: EventType, name: &str, value: &str, answers: &[Answer]) -> World {
    let sample = Sample::new(500, event_type, "4");
    let mut world = world();
    answers
        .iter()
        .for_each(|a| world.note(&sample, Cause::Planned, *a));
    world.store(&sample);
    let headers = &mut world.records.last_mut().unwrap().headers;
    headers.push((name.to_owned(), value.as_bytes().to_vec()));
    world
}

#[test]
fn what_waited_on_disk_was_answered_so() {
    let tagged = |answers: &[Answer]| tagged(OCCUPANCY, "ce_spooled", "true", answers);
    only(&tagged(&[Answer::Published]), Property::Headed);
    assert!(tagged(&[Answer::Spooled]).verify().holds());
    let unheard = [Answer::Unknown, Answer::Redelivery];
    assert!(tagged(&unheard).verify().holds());
}

#[test]
fn a_duplicate_was_sent_twice_or_can_be_equal_to_another() {
    let tagged = |event_type, kind: &str, answers: &[Answer]| {
        tagged(event_type, "ce_duplicate", kind, answers)
    };
    let motion = EventType::PirMotion;
    let (once, twice) = ([Answer::Published], [Answer::Unknown, Answer::Published]);
    for kind in ["redelivery", "repeat"] {
        only(&tagged(motion, kind, &once), Property::Judged);
    }
    only(&tagged(motion, "repeat", &twice), Property::Judged);
    assert!(tagged(motion, "redelivery", &twice).verify().holds());
    assert!(tagged(OCCUPANCY, "repeat", &once).verify().holds());
}

#[test]
fn records_from_before_the_run_are_left_out_where_nobody_knows_where_it_began() {
    let mut world = world();
    let old = b"2027-01-15T06:00:00.000Z";
    for (n, value) in [(500, None), (501, Some(b"{".to_vec()))] {
        world.store(&Sample::new(n, OCCUPANCY, "4"));
        let record = world.records.last_mut().unwrap();
        *record.header("ce_receivedat") = old.to_vec();
        record.value = value.or(record.value.take());
    }
    let violated = violations(&world.verify());
    assert_eq!(violated, [(Property::Sent, 2)]);
    world.skip_earlier = true;
    let report = world.verify();
    assert!(report.holds(), "{report}");
    assert_eq!(report.earlier, 2);
    // One that came during the run is nobody's still.
    world.store(&Sample::new(502, OCCUPANCY, "4"));
    only(&world, Property::Sent);
}

#[test]
fn answers_that_named_no_place_prove_none() {
    let mut world = world();
    world.attempts.iter_mut().for_each(|a| a.at = None);
    let report = world.verify();
    assert!(report.holds(), "{report}");
    let why = report.finding(Property::Named).unchecked.clone();
    assert_eq!(why.as_deref(), Some("no answer named them"));
    assert_eq!((report.published, report.named), (40, 0));
}

#[test]
fn where_nobody_went_anywhere_nothing_adds_up() {
    let mut world = World::empty();
    world.truth.spaces.push(("room_1".to_owned(), 0));
    world.publish(&Sample::new(1, OCCUPANCY, "4"), Cause::Planned);
    let report = world.verify();
    assert!(report.holds(), "{report}");
    assert!(report.finding(Property::Occupancy).unchecked.is_some());
    world.truth.spaces[0].1 = 1;
    only(&world, Property::Occupancy);
}

#[test]
fn what_was_spooled_may_be_there_by_another_try_after_a_restart() {
    let sample = Sample::new(500, OCCUPANCY, "4");
    let told = |answers: &[Answer], records: usize, allowed: bool| {
        let mut world = world();
        if allowed {
            world.duplicates = Duplicates::Allowed;
        }
        for answer in answers {
            world.note(&sample, Cause::AfterFailure, *answer);
        }
        (0..records).for_each(|_| world.store(&sample));
        let report = world.verify();
        (report.holds(), report.already_stored)
    };
    use Answer::{Published, Spooled};
    assert_eq!(told(&[Published, Spooled], 1, true), (true, 1));
    assert_eq!(told(&[Spooled, Spooled, Spooled], 1, true), (true, 2));
    assert_eq!(told(&[Spooled, Spooled], 2, true), (true, 0));
    // It is nowhere; what was published is there less often; one try alone; a bridge that was not started again.
    assert_eq!(told(&[Published, Spooled], 0, true), (false, 0));
    assert_eq!(told(&[Published, Published, Spooled], 1, true), (false, 0));
    assert_eq!(told(&[Spooled], 0, true), (false, 0));
    assert_eq!(told(&[Published, Spooled], 1, false), (false, 0));
}
