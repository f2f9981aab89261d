use proptest::prelude::*;

use super::*;

const ROOM: EventType = EventType::RoomOccupancy;

fn id(second: i64, n: u8) -> Ksuid {
    Ksuid::new((Ksuid::EPOCH_SECONDS + second) * 1_000, [n; 16])
}

/// Returns attempts of the event computed in this second.
fn group(second: i64, data: u64, answered: &[ObservedOutcome]) -> AttemptGroup {
    AttemptGroup {
        id: id(second, 0),
        event_type: ROOM,
        data,
        answered: answered.to_vec(),
        has_unknown: false,
        unanswered: Some(Vec::new()),
    }
}

/// Returns a group with a further attempt of unknown outcome, and records with the marks `left`.
fn unanswered_group(
    second: i64,
    data: u64,
    answered: &[ObservedOutcome],
    left: &[RecordMark],
) -> AttemptGroup {
    AttemptGroup {
        has_unknown: true,
        unanswered: Some(left.to_vec()),
        ..group(second, data, answered)
    }
}

fn explain(groups: &[AttemptGroup]) -> Vec<Explanation> {
    let mut hypotheses = Hypotheses::new();
    groups
        .iter()
        .map(|group| hypotheses.observe(group))
        .collect()
}

const PLAIN: ObservedOutcome = ObservedOutcome::Stored(Some(RecordMark::Plain));
const STALE: ObservedOutcome = ObservedOutcome::Stored(Some(RecordMark::Stale));

fn revision(of: i64) -> ObservedOutcome {
    ObservedOutcome::Stored(Some(RecordMark::Revision(hash_event_id(id(of, 0)))))
}

use Explanation::{BeforeRun, Consistent, Contradicted, ForgotRepeat, Unrecognised};
use ObservedOutcome::{Redelivery, Repeat};
use OracleVerdict as V;

#[test]
fn outcomes_by_the_rules_are_consistent() {
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
fn a_duplicate_classified_as_new_is_unrecognised() {
    let first = group(10, 4, &[PLAIN]);
    for (next, expected) in [
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
        let explanations = explain(&[first.clone(), next.clone()]);
        assert_eq!(
            explanations,
            [Consistent(V::First), Unrecognised(expected)],
            "{next:?}"
        );
    }
    // Later events are judged by what the bridge then knows.
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
fn a_wrong_duplicate_or_revision_is_a_contradiction() {
    let first = group(10, 4, &[PLAIN]);
    for (next, expected) in [
        (group(70, 5, &[Repeat]), V::Revision),
        (group(70, 5, &[Redelivery]), V::Revision),
        (group(70, 5, &[STALE]), V::Revision),
        (group(70, 5, &[revision(9)]), V::Revision),
        (group(5, 5, &[revision(10)]), V::Stale),
        (group(70, 4, &[revision(10)]), V::Repeat),
    ] {
        let explanations = explain(&[first.clone(), next.clone()]);
        assert_eq!(
            explanations,
            [Consistent(V::First), Contradicted(expected)],
            "{next:?}"
        );
    }
    let mut motion = group(70, 4, &[Repeat]);
    motion.event_type = EventType::PirMotion;
    assert_eq!(
        explain(&[first, motion]),
        [Consistent(V::First), Contradicted(V::First)]
    );
}

#[test]
fn a_repeat_may_be_forgotten_because_it_has_no_record() {
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
fn a_repeat_from_before_the_run_determines_the_value() {
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
fn an_attempt_of_unknown_outcome_was_stored_or_not() {
    let lost = unanswered_group(10, 4, &[], &[RecordMark::Plain]);
    for (next, explanation) in [
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
        let explanations = explain(&[lost.clone(), next.clone()]);
        assert_eq!(explanations[1], explanation, "{next:?}");
    }
    // If it was stored later, it has the verdict of that time.
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
            .all(|explanation| matches!(explanation, Consistent(_)))
    );
    // A redelivery shows that the attempt of unknown outcome was stored.
    let both = unanswered_group(10, 4, &[Redelivery], &[RecordMark::Plain]);
    let then = explain(&[both, group(70, 4, &[PLAIN])]);
    assert_eq!(then, [Consistent(V::First), Unrecognised(V::Repeat)]);
}

#[test]
fn an_attempt_without_a_record_was_not_stored() {
    let nothing = unanswered_group(10, 4, &[], &[]);
    let next = |answered| explain(&[nothing.clone(), group(70, 4, &[answered])])[1];
    assert_eq!(next(PLAIN), Consistent(V::First));
    assert_eq!(next(Repeat), BeforeRun);
    // A repeat needs no record.
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

/// An event sent to a working bridge over a network that loses requests and responses.
#[derive(Clone, Debug)]
struct SimulatedSend {
    second: i64,
    data: u64,
    /// Per attempt: the request arrives, the response arrives.
    attempts: Vec<(bool, bool)>,
}

fn sends() -> impl Strategy<Value = Vec<SimulatedSend>> {
    let arrives =
        prop_oneof![4 => Just((true, true)), 1 => Just((true, false)), 1 => Just((false, false))];
    let send = (0..8_i64, 0..3_u64, prop::collection::vec(arrives, 1..3));
    let send = send.prop_map(|(second, data, attempts)| SimulatedSend {
        second,
        data,
        attempts,
    });
    prop::collection::vec(send, 1..14)
}

proptest! {
    /// A bridge that follows the rules is right, whatever responses are lost. A bridge that breaks
    /// them once is found out if no response is lost.
    #[test]
    fn a_bridge_that_follows_the_rules_is_right(sends in sends(), mistake in prop::option::of(0..14_usize)) {
        let mut reading = ReadingState::default();
        let mut groups: Vec<AttemptGroup> = Vec::new();
        let mut values: std::collections::HashMap<i64, u64> = Default::default();
        let mut mistaken = false;
        let lost = sends.iter().any(|s| s.attempts.iter().any(|(_, responds)| !responds));
        for (n, send) in sends.iter().enumerate() {
            // An id always has the same value.
            let data = *values.entry(send.second).or_insert(send.data);
            let id = id(send.second, 0);
            let mut next = group(send.second, data, &[]);
            let mut left = Vec::new();
            for (arrives, responds) in &send.attempts {
                next.has_unknown |= !responds;
                if !arrives {
                    continue;
                }
                let verdict = reading.classify(ROOM, id, data);
                let mark = match (&reading.current, verdict) {
                    (Some(current), V::Revision) => RecordMark::Revision(hash_event_id(current.id)),
                    (_, V::Stale) => RecordMark::Stale,
                    _ => RecordMark::Plain,
                };
                reading.apply(verdict, id, data);
                let mut outcome = match verdict {
                    V::Redelivery => Redelivery,
                    V::Repeat => Repeat,
                    _ => ObservedOutcome::Stored(Some(mark)),
                };
                if mistake == Some(n) && !mistaken && verdict != V::First {
                    mistaken = true;
                    outcome = PLAIN;
                }
                match (responds, outcome) {
                    (true, outcome) => next.answered.push(outcome),
                    (false, ObservedOutcome::Stored(Some(mark))) => left.push(mark),
                    _ => {}
                }
            }
            next.unanswered = Some(left);
            // Consecutive attempts of an event are one group.
            match groups.last_mut().filter(|last| last.id == next.id) {
                Some(last) => {
                    last.answered.extend(next.answered);
                    last.has_unknown |= next.has_unknown;
                    last.unanswered.as_mut().unwrap().extend(next.unanswered.unwrap());
                }
                None => groups.push(next),
            }
        }
        // Records without a known outcome belong to all groups of their id.
        let all = groups.clone();
        for group in &mut groups {
            let same = all.iter().filter(|other| other.id == group.id);
            group.unanswered = Some(same.flat_map(|other| other.unanswered.clone().unwrap()).collect());
        }
        let explanations = explain(&groups);
        let right = explanations.iter().all(|explanation| matches!(explanation, Consistent(_) | Explanation::Undetermined));
        if !mistaken {
            prop_assert!(right, "{explanations:?} of {groups:#?}");
            prop_assert!(lost || !explanations.contains(&Explanation::Undetermined));
        } else if !lost {
            prop_assert!(!right, "{groups:#?}");
        }
    }
}
