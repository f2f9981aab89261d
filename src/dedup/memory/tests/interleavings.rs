//! Two contenders, in every order in which their steps can come.
//!
//! A claim, a commit and a release each happen while all that they look at and change is locked: none can see another half
//! done, and so any run of two threads is one of the orders tried here. A waiting contender's step is to claim again; it can
//! be taken when its turn has come, and a turn that never comes shows as an order in which nobody can go on.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::dedup::claim::Turn;

/// What becomes of a contender that may publish, or has to wait.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Its delivery succeeds.
    Stored,
    /// It is stored on disk.
    Spooled,
    /// Its delivery fails: it is certainly not stored.
    Fails,
    /// Nobody knows what became of its delivery.
    Unknown,
    /// As `Stored`; but when it has to wait, it is given up.
    GivesUp,
}

const FATES: [Fate; 5] = [
    Fate::Stored,
    Fate::Spooled,
    Fate::Fails,
    Fate::Unknown,
    Fate::GivesUp,
];

#[derive(Clone, Debug, PartialEq)]
enum End {
    Stored(Marks),
    Failed,
    Unknown,
    GaveUp,
    /// And whether of something that is on disk.
    Duplicate(Duplicate, bool),
}

enum State {
    Begins,
    Waits(Turn),
    Holds(Claim),
    Ended(End),
}

#[derive(Clone, Copy)]
struct Contender {
    event: Event,
    fate: Fate,
    by_hold: bool,
}

struct Run<'r> {
    memory: Arc<Memory>,
    contenders: &'r [Contender; 2],
    states: [State; 2],
    now: Instant,
}

impl<'r> Run<'r> {
    /// Where `before` is stored already.
    fn new(contenders: &'r [Contender; 2], before: &[Event]) -> Self {
        let now = Instant::now();
        let memory = Memory::new(&dropping(), now);
        for &event in before {
            publish(&memory, event, now).expect("they are new");
        }
        Self {
            memory,
            contenders,
            states: [State::Begins, State::Begins],
            now,
        }
    }

    fn can_step(&mut self, which: usize) -> bool {
        match &mut self.states[which] {
            State::Begins | State::Holds(_) => true,
            State::Ended(_) => false,
            State::Waits(_) if self.contenders[which].fate == Fate::GivesUp => true,
            State::Waits(turn) => {
                pin!(turn).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
            }
        }
    }

    fn step(&mut self, which: usize) {
        let contender = self.contenders[which];
        let state = std::mem::replace(&mut self.states[which], State::Begins);
        self.states[which] = match state {
            State::Waits(_) if contender.fate == Fate::GivesUp => State::Ended(End::GaveUp),
            State::Begins | State::Waits(_) => {
                let id = contender.event.id();
                let facts = contender.event.facts(&id);
                let next = match contender.by_hold {
                    true => claim_by_hold(&self.memory, &facts, self.now),
                    false => self.memory.claim(&facts, self.now),
                };
                match next {
                    Next::Publish(claim) => State::Holds(claim),
                    Next::Duplicate { kind, spooled } => {
                        State::Ended(End::Duplicate(kind, spooled))
                    }
                    Next::Wait(turn) => State::Waits(turn),
                }
            }
            State::Holds(claim) if contender.fate == Fate::Fails => {
                drop(claim);
                State::Ended(End::Failed)
            }
            State::Holds(claim) if contender.fate == Fate::Unknown => {
                claim.unknown();
                State::Ended(End::Unknown)
            }
            State::Holds(claim) => {
                let marks = claim.marks().clone();
                match contender.fate {
                    Fate::Spooled => claim.commit_spooled(self.now),
                    _ => claim.commit(&Receipt::for_test(), self.now),
                }
                State::Ended(End::Stored(marks))
            }
            State::Ended(_) => unreachable!("it cannot step"),
        };
    }

    fn ends(self) -> Option<[End; 2]> {
        match self.states {
            [State::Ended(one), State::Ended(other)] => Some([one, other]),
            _ => None,
        }
    }
}

/// The ends of all orders.
fn all(contenders: &[Contender; 2], before: &[Event]) -> Vec<[End; 2]> {
    let mut ends = Vec::new();
    let mut orders = vec![Vec::new()];
    while let Some(order) = orders.pop() {
        let mut run = Run::new(contenders, before);
        order.iter().for_each(|&which| run.step(which));
        let ways: Vec<usize> = (0..2).filter(|&which| run.can_step(which)).collect();
        for &which in &ways {
            orders.push(order.iter().copied().chain([which]).collect());
        }
        if ways.is_empty() {
            assert_eq!(run.memory.entries().open, 0);
            let end = run.ends();
            ends.push(end.unwrap_or_else(|| panic!("nobody can go on after {order:?}")));
        }
    }
    ends
}

/// One after the other; who gave up never came.
fn serially(
    contenders: &[Contender; 2],
    before: &[Event],
    order: [usize; 2],
    gave_up: [bool; 2],
) -> [End; 2] {
    let mut run = Run::new(contenders, before);
    for which in order {
        if gave_up[which] {
            run.states[which] = State::Ended(End::GaveUp);
        }
        while run.can_step(which) {
            run.step(which);
        }
    }
    run.ends().expect("nobody waits for anybody")
}

fn pairs() -> [(Event, Event); 7] {
    let event = Event::occupancy;
    let other = |id, place| Event {
        is_occupancy: false,
        ..event(id, place, 0)
    };
    [
        // The same event; of both kinds.
        (event(4, 0, 1), event(4, 0, 1)),
        (other(4, 0), other(4, 0)),
        // One id, two readings.
        (event(4, 0, 1), event(4, 1, 1)),
        (event(4, 0, 1), event(4, 0, 2)),
        // A repeat.
        (event(4, 0, 1), event(5, 0, 1)),
        // A revision or a stale one, as the order has it.
        (event(4, 0, 1), event(8, 0, 2)),
        // Nothing in common.
        (event(4, 0, 1), event(8, 2, 2)),
    ]
}

/// What comes out is what comes out of one of the two orders in which one comes after the other.
#[test]
fn as_if_one_after_the_other() {
    let mut runs = 0;
    for (one, other) in pairs() {
        for fates in FATES.map(|fate| FATES.map(|other| [fate, other])).concat() {
            for by_hold in [[false, false], [true, false], [true, true]] {
                for before in [
                    vec![],
                    vec![Event::occupancy(2, 0, 0)],
                    vec![Event::occupancy(9, 0, 2)],
                ] {
                    let events = [one, other];
                    let contenders = [0, 1].map(|which| Contender {
                        event: events[which],
                        fate: fates[which],
                        by_hold: by_hold[which],
                    });
                    for ends in all(&contenders, &before) {
                        runs += 1;
                        let gave_up = [&ends[0], &ends[1]].map(|end| *end == End::GaveUp);
                        let serial = [[0, 1], [1, 0]]
                            .map(|order| serially(&contenders, &before, order, gave_up));
                        assert!(
                            serial.contains(&ends),
                            "{events:?} {fates:?} {before:?}: {ends:?}, not {serial:?}"
                        );
                    }
                }
            }
        }
    }
    assert!(runs > 2_000, "{runs}");
}

/// What goes back to a value that a revision of unknown fate may have replaced is published, in whatever order they come.
#[test]
fn what_may_have_been_replaced_is_published_again() {
    let event = Event::occupancy;
    let contenders = [
        (event(4, 0, 2), Fate::Unknown),
        (event(6, 0, 1), Fate::Stored),
    ];
    for by_hold in [false, true] {
        let contenders = contenders.map(|(event, fate)| Contender {
            event,
            fate,
            by_hold,
        });
        let all = all(&contenders, &[event(0, 0, 1)]);
        let came_first = [End::Unknown, End::Duplicate(Duplicate::Repeat, false)];
        for ends in &all {
            let End::Stored(marks) = &ends[1] else {
                // Before the revision was claimed.
                assert_eq!(*ends, came_first);
                continue;
            };
            let revision = marks.revision.as_ref().expect("a revision");
            assert_eq!(revision.supersedes.to_string(), event(0, 0, 1).id());
        }
        assert!(all.contains(&came_first) && all.iter().any(|ends| *ends != came_first));
    }
}

#[test]
fn of_two_copies_one_is_stored() {
    let event = Event::occupancy(4, 0, 1);
    let ends = |fates: [Fate; 2]| {
        let contenders = fates.map(|fate| Contender {
            event,
            fate,
            by_hold: false,
        });
        all(&contenders, &[])
    };
    let stored = End::Stored(Marks::default());
    let redelivery = End::Duplicate(Duplicate::Redelivery, false);
    for ends in ends([Fate::Stored, Fate::Stored]) {
        assert!(
            ends.contains(&stored) && ends.contains(&redelivery),
            "{ends:?}"
        );
    }
    // Of one on disk, as the answer says.
    let of_spooled = End::Duplicate(Duplicate::Redelivery, true);
    for ends in ends([Fate::Spooled, Fate::Spooled]) {
        assert!(
            ends.contains(&stored) && ends.contains(&of_spooled),
            "{ends:?}"
        );
    }
    // When the first fails, the second takes its place; when it comes second, it is a redelivery.
    for ends in ends([Fate::Fails, Fate::Stored]) {
        assert_eq!(ends[1], stored);
        assert!([End::Failed, redelivery.clone()].contains(&ends[0]));
    }
    // Also when nobody knows: it may be there twice, and it is there.
    for ends in ends([Fate::Unknown, Fate::Stored]) {
        assert_eq!(ends[1], stored);
        assert!([End::Unknown, redelivery.clone()].contains(&ends[0]));
    }
    for ends in ends([Fate::Fails, Fate::Fails]) {
        assert_eq!(ends, [End::Failed, End::Failed]);
    }
    let ways = [
        [stored.clone(), redelivery],
        [stored, End::Failed],
        [End::GaveUp, End::Failed],
    ];
    for ends in ends([Fate::GivesUp, Fate::Fails]) {
        assert!(ways.contains(&ends), "{ends:?}");
    }
}
