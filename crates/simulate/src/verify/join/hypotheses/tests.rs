use proptest::prelude::*;

use super::*;

const ROOM: EventType = EventType::RoomOccupancy;

fn id(second: i64, n: u8) -> Ksuid {
    Ksuid::new((Ksuid::EPOCH_SECONDS + second) * 1_000, [n; 16])
}

/// Tries of the event that was computed in this second.
fn group(second: i64, data: u64, heard: &[ObservedOutcome]) -> AttemptGroup {
    AttemptGroup {
        id: id(second, 0),
        event_type: ROOM,
        data,
        answered: heard.to_vec(),
        has_unknown: false,
        unanswered: Some(Vec::new()),
    }
}

/// The same with a try more, of which nobody heard; `left`: the marks of records that nobody named.
fn unanswered_group(
    second: i64,
    data: u64,
    heard: &[ObservedOutcome],
    left: &[RecordMark],
) -> AttemptGroup {
    AttemptGroup {
        has_unknown: true,
        unanswered: Some(left.to_vec()),
        ..group(second, data, heard)
    }
}

fn explain(groups: &[AttemptGroup]) -> Vec<Explanation> {
    let mut worlds = Hypotheses::new();
    groups.iter().map(|group| worlds.observe(group)).collect()
}

const PLAIN: ObservedOutcome = ObservedOutcome::Stored(Some(RecordMark::Plain));
const STALE: ObservedOutcome = ObservedOutcome::Stored(Some(RecordMark::Stale));

fn revision(of: i64) -> ObservedOutcome {
    ObservedOutcome::Stored(Some(RecordMark::Revision(hash_superseded_id(id(of, 0)))))
}

use Explanation::{BeforeRun, Consistent, Contradicted, ForgotRepeat, Unrecognised};
use ObservedOutcome::{Redelivery, Repeat};
use OracleVerdict as V;

#[test]
fn what_the_rules_say_is_right() {
    let groups = [
        group(10, 4, &[PLAIN]),
        group(70, 4, &[Repeat]),
        group(70, 4, &[Redelivery]),
        group(130, 5, &[revision(10)]),
        group(190, 4, &[revision(130), Redelivery]),
        group(10, 4, &[Redelivery, Redelivery]),
        group(5, 6, &[Redelivery, STALE]),
        group(250, 7, &[ObservedOutcome::Stored(None)]),
    ];
    let right = [
        V::First,
        V::Repeat,
        V::Redelivery,
        V::Revision,
        V::Revision,
        V::Redelivery,
        V::Stale,
        V::Revision,
    ];
    assert_eq!(explain(&groups), right.map(Consistent));
}

#[test]
fn what_is_taken_for_something_new_was_not_recognised() {
    let first = group(10, 4, &[PLAIN]);
    for (next, says) in [
        (group(10, 4, &[PLAIN]), V::Redelivery),
        (group(10, 4, &[Repeat]), V::Redelivery),
        (group(70, 4, &[PLAIN]), V::Repeat),
        (group(70, 4, &[PLAIN, Redelivery]), V::Repeat),
        (group(70, 4, &[Repeat, PLAIN]), V::Redelivery),
        (group(70, 4, &[PLAIN, PLAIN]), V::Repeat),
        (group(70, 5, &[revision(10), revision(10)]), V::Redelivery),
        (group(70, 5, &[revision(10), PLAIN]), V::Redelivery),
        (group(70, 5, &[PLAIN]), V::Revision),
        (group(5, 5, &[PLAIN]), V::Stale),
    ] {
        let fits = explain(&[first.clone(), next.clone()]);
        assert_eq!(fits, [Consistent(V::First), Unrecognised(says)], "{next:?}");
    }
    // What follows is judged by what the bridge then knows.
    let after = [
        first,
        group(70, 5, &[PLAIN]),
        group(130, 5, &[Repeat]),
        group(190, 6, &[revision(70)]),
        group(10, 4, &[Redelivery]),
    ];
    let [.., repeat, revised, again] = explain(&after)[..] else {
        unreachable!()
    };
    assert_eq!(
        [repeat, revised, again],
        [V::Repeat, V::Revision, V::Redelivery].map(Consistent)
    );
}

#[test]
fn what_is_taken_for_a_duplicate_or_a_revision_and_is_none_is_wrong() {
    let first = group(10, 4, &[PLAIN]);
    for (next, says) in [
        (group(70, 5, &[Repeat]), V::Revision),
        (group(70, 5, &[Redelivery]), V::Revision),
        (group(70, 5, &[STALE]), V::Revision),
        (group(70, 5, &[revision(9)]), V::Revision),
        (group(5, 5, &[revision(10)]), V::Stale),
        (group(70, 4, &[revision(10)]), V::Repeat),
    ] {
        let fits = explain(&[first.clone(), next.clone()]);
        assert_eq!(fits, [Consistent(V::First), Contradicted(says)], "{next:?}");
    }
    let mut motion = group(70, 4, &[Repeat]);
    motion.event_type = EventType::PirMotion;
    assert_eq!(
        explain(&[first, motion]),
        [Consistent(V::First), Contradicted(V::First)]
    );
}

#[test]
fn a_repeat_may_be_forgotten_because_no_record_tells_of_it() {
    let repeated = [
        group(10, 4, &[PLAIN]),
        group(70, 4, &[Repeat]),
        group(130, 5, &[revision(10)]),
    ];
    let with = |next: AttemptGroup| *explain(&[&repeated[..], &[next]].concat()).last().unwrap();
    assert_eq!(with(group(70, 4, &[Redelivery])), Consistent(V::Redelivery));
    assert_eq!(with(group(70, 4, &[STALE])), ForgotRepeat(V::Redelivery));
    assert_eq!(with(group(70, 4, &[PLAIN])), Unrecognised(V::Redelivery));
    assert_eq!(with(group(10, 4, &[STALE])), Unrecognised(V::Redelivery));
    let twice = [group(10, 4, &[PLAIN]), group(70, 4, &[Repeat, Repeat])];
    assert_eq!(explain(&twice)[1], ForgotRepeat(V::Repeat));
}

#[test]
fn what_rests_on_something_from_before_the_run_fixes_the_value() {
    let before = group(70, 4, &[Repeat]);
    let with = |next: AttemptGroup| explain(&[before.clone(), next]);
    assert_eq!(
        with(group(130, 4, &[Repeat])),
        [BeforeRun, Consistent(V::Repeat)]
    );
    assert_eq!(
        with(group(130, 5, &[Repeat])),
        [BeforeRun, Contradicted(V::Revision)]
    );
    assert_eq!(explain(&[group(70, 4, &[STALE])]), [BeforeRun]);
    assert_eq!(explain(&[group(70, 4, &[revision(3)])]), [BeforeRun]);
}

#[test]
fn an_unheard_try_was_stored_or_not() {
    let lost = unanswered_group(10, 4, &[], &[RecordMark::Plain]);
    for (next, fit) in [
        // It was stored …
        (group(70, 4, &[Repeat]), Consistent(V::Repeat)),
        (group(70, 5, &[revision(10)]), Consistent(V::Revision)),
        (group(5, 5, &[STALE]), Consistent(V::Stale)),
        (group(10, 4, &[Redelivery]), Consistent(V::Redelivery)),
        // … or not, or later.
        (group(70, 4, &[PLAIN]), Consistent(V::First)),
        (group(10, 4, &[PLAIN]), Consistent(V::First)),
        (group(70, 5, &[STALE]), BeforeRun),
    ] {
        let fits = explain(&[lost.clone(), next.clone()]);
        assert_eq!(fits[1], fit, "{next:?}");
    }
    // Later it is what is then said of it.
    let late = [
        lost.clone(),
        group(70, 5, &[PLAIN]),
        group(130, 5, &[Repeat]),
        group(10, 4, &[Redelivery]),
        group(190, 6, &[revision(70)]),
    ];
    assert!(
        explain(&late)
            .iter()
            .all(|fit| matches!(fit, Consistent(_)))
    );
    // Heard of is that the other try was stored.
    let both = unanswered_group(10, 4, &[Redelivery], &[RecordMark::Plain]);
    let then = explain(&[both, group(70, 4, &[PLAIN])]);
    assert_eq!(then, [Consistent(V::First), Unrecognised(V::Repeat)]);
}

#[test]
fn a_try_that_left_no_record_was_not_stored() {
    let nothing = unanswered_group(10, 4, &[], &[]);
    let next = |heard| explain(&[nothing.clone(), group(70, 4, &[heard])])[1];
    assert_eq!(next(PLAIN), Consistent(V::First));
    assert_eq!(next(Repeat), BeforeRun);
    // One of a repeat needs no record.
    let repeat = [
        group(10, 4, &[PLAIN]),
        unanswered_group(70, 4, &[], &[]),
        group(70, 4, &[Redelivery]),
    ];
    assert_eq!(explain(&repeat)[2], Consistent(V::Redelivery));
    let repeat = [
        group(10, 4, &[PLAIN]),
        unanswered_group(70, 4, &[], &[]),
        group(70, 4, &[Repeat]),
    ];
    assert_eq!(explain(&repeat)[2], Consistent(V::Repeat));
}

/// A bridge that works, seen through a network that loses answers.
#[derive(Clone, Debug)]
struct SimulatedSend {
    second: i64,
    data: u64,
    /// Of each try: whether it reaches the bridge, and whether its answer comes back.
    tries: Vec<(bool, bool)>,
}

fn sends() -> impl Strategy<Value = Vec<SimulatedSend>> {
    let arrives =
        prop_oneof![4 => Just((true, true)), 1 => Just((true, false)), 1 => Just((false, false))];
    let send = (0..8_i64, 0..3_u64, prop::collection::vec(arrives, 1..3));
    let send = send.prop_map(|(second, data, tries)| SimulatedSend {
        second,
        data,
        tries,
    });
    prop::collection::vec(send, 1..14)
}

proptest! {
    /// Whatever answers are lost: of a bridge that follows the rules everything is right. Of one that once does not, and
    /// whose answers are all heard, not everything is.
    #[test]
    fn who_follows_the_rules_is_right(sends in sends(), mistake in prop::option::of(0..14_usize)) {
        let mut reading = ReadingState::default();
        let mut groups: Vec<AttemptGroup> = Vec::new();
        let mut values: std::collections::HashMap<i64, u64> = Default::default();
        let mut mistaken = false;
        let lost = sends.iter().any(|s| s.tries.iter().any(|(_, heard)| !heard));
        for (n, send) in sends.iter().enumerate() {
            // An id always comes with the same value.
            let data = *values.entry(send.second).or_insert(send.data);
            let id = id(send.second, 0);
            let mut next = group(send.second, data, &[]);
            let mut left = Vec::new();
            for (arrives, heard) in &send.tries {
                next.has_unknown |= !heard;
                if !arrives {
                    continue;
                }
                let verdict = reading.classify(ROOM, id, data);
                let mark = match (&reading.current, verdict) {
                    (Some(current), V::Revision) => RecordMark::Revision(hash_superseded_id(current.id)),
                    (_, V::Stale) => RecordMark::Stale,
                    _ => RecordMark::Plain,
                };
                reading.apply(verdict, id, data);
                let mut said = match verdict {
                    V::Redelivery => Redelivery,
                    V::Repeat => Repeat,
                    _ => ObservedOutcome::Stored(Some(mark)),
                };
                if mistake == Some(n) && !mistaken && verdict != V::First {
                    mistaken = true;
                    said = PLAIN;
                }
                match (heard, said) {
                    (true, said) => next.answered.push(said),
                    (false, ObservedOutcome::Stored(Some(mark))) => left.push(mark),
                    _ => {}
                }
            }
            next.unanswered = Some(left);
            // Tries that follow one another are one group.
            match groups.last_mut().filter(|last| last.id == next.id) {
                Some(last) => {
                    last.answered.extend(next.answered);
                    last.has_unknown |= next.has_unknown;
                    last.unanswered.as_mut().unwrap().extend(next.unanswered.unwrap());
                }
                None => groups.push(next),
            }
        }
        // What nobody heard of is known of an id in all of its groups.
        let all = groups.clone();
        for group in &mut groups {
            let same = all.iter().filter(|other| other.id == group.id);
            group.unanswered = Some(same.flat_map(|other| other.unanswered.clone().unwrap()).collect());
        }
        let fits = explain(&groups);
        let right = fits.iter().all(|fit| matches!(fit, Consistent(_) | Explanation::Undetermined));
        if !mistaken {
            prop_assert!(right, "{fits:?} of {groups:#?}");
            prop_assert!(lost || !fits.contains(&Explanation::Undetermined));
        } else if !lost {
            prop_assert!(!right, "{groups:#?}");
        }
    }
}
