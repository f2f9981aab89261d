//! Two contenders, in every order in which their steps can come.
//!
//! A claim, a commit and a release each happen while all that they look at and change is locked: none can see another half
//! done, and so any run of two threads is one of the orders tried here. A waiting contender's step is to claim again; it can
//! be taken when its turn has come, and a turn that never comes shows as an order in which nobody can go on.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::dedup::claim::ClaimWaiter;

/// What becomes of a contender that may publish, or has to wait.
#[derive(Clone, Copy, Debug, PartialEq)]
enum PlannedEnd {
    /// Its delivery succeeds.
    Stored,
    /// It is stored on disk.
    Spooled,
    /// Its delivery fails: it is certainly not stored.
    Failed,
    /// Nobody knows what became of its delivery.
    Unknown,
    /// As `Stored`; but when it has to wait, it is given up.
    GivesUp,
}

const PLANNED_ENDS: [PlannedEnd; 5] = [
    PlannedEnd::Stored,
    PlannedEnd::Spooled,
    PlannedEnd::Failed,
    PlannedEnd::Unknown,
    PlannedEnd::GivesUp,
];

#[derive(Clone, Debug, PartialEq)]
enum ContenderEnd {
    Stored(Marks),
    Failed,
    Unknown,
    GaveUp,
    /// And whether of something that is on disk.
    Duplicate(DuplicateKind, bool),
}

enum ContenderState {
    Ready,
    Waiting(ClaimWaiter),
    Claiming(Claim),
    Ended(ContenderEnd),
}

#[derive(Clone, Copy)]
struct Contender {
    event: ModelEvent,
    planned_end: PlannedEnd,
    by_reservation: bool,
}

struct InterleavingRun<'r> {
    memory: Arc<MemoryStore>,
    contenders: &'r [Contender; 2],
    states: [ContenderState; 2],
    now: Instant,
}

impl<'r> InterleavingRun<'r> {
    /// Where `before` is stored already.
    fn new(contenders: &'r [Contender; 2], before: &[ModelEvent]) -> Self {
        let now = Instant::now();
        let memory = MemoryStore::new(&drop_settings(), now);
        for &event in before {
            publish(&memory, event, now).expect("they are new");
        }
        Self {
            memory,
            contenders,
            states: [ContenderState::Ready, ContenderState::Ready],
            now,
        }
    }

    fn can_step(&mut self, which: usize) -> bool {
        match &mut self.states[which] {
            ContenderState::Ready | ContenderState::Claiming(_) => true,
            ContenderState::Ended(_) => false,
            ContenderState::Waiting(_)
                if self.contenders[which].planned_end == PlannedEnd::GivesUp =>
            {
                true
            }
            ContenderState::Waiting(turn) => {
                pin!(turn).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
            }
        }
    }

    fn step(&mut self, which: usize) {
        let contender = self.contenders[which];
        let state = std::mem::replace(&mut self.states[which], ContenderState::Ready);
        self.states[which] = match state {
            ContenderState::Waiting(_) if contender.planned_end == PlannedEnd::GivesUp => {
                ContenderState::Ended(ContenderEnd::GaveUp)
            }
            ContenderState::Ready | ContenderState::Waiting(_) => {
                let id = contender.event.id();
                let facts = contender.event.facts(&id);
                let next = match contender.by_reservation {
                    true => claim_by_reservation(&self.memory, &facts, self.now),
                    false => self.memory.claim(&facts, self.now),
                };
                match next {
                    MemoryDecision::Publish(claim) => ContenderState::Claiming(claim),
                    MemoryDecision::Duplicate { kind, spooled } => {
                        ContenderState::Ended(ContenderEnd::Duplicate(kind, spooled))
                    }
                    MemoryDecision::Wait(turn) => ContenderState::Waiting(turn),
                }
            }
            ContenderState::Claiming(claim) if contender.planned_end == PlannedEnd::Failed => {
                drop(claim);
                ContenderState::Ended(ContenderEnd::Failed)
            }
            ContenderState::Claiming(claim) if contender.planned_end == PlannedEnd::Unknown => {
                claim.release_in_doubt();
                ContenderState::Ended(ContenderEnd::Unknown)
            }
            ContenderState::Claiming(claim) => {
                let marks = claim.marks().clone();
                match contender.planned_end {
                    PlannedEnd::Spooled => claim.commit_spooled(self.now),
                    _ => claim.commit(&Receipt::for_test(), self.now),
                }
                ContenderState::Ended(ContenderEnd::Stored(marks))
            }
            ContenderState::Ended(_) => unreachable!("it cannot step"),
        };
    }

    fn ends(self) -> Option<[ContenderEnd; 2]> {
        match self.states {
            [ContenderState::Ended(one), ContenderState::Ended(other)] => Some([one, other]),
            _ => None,
        }
    }
}

/// The ends of all orders.
fn run_all_orders(contenders: &[Contender; 2], before: &[ModelEvent]) -> Vec<[ContenderEnd; 2]> {
    let mut ends = Vec::new();
    let mut orders = vec![Vec::new()];
    while let Some(order) = orders.pop() {
        let mut run = InterleavingRun::new(contenders, before);
        order.iter().for_each(|&which| run.step(which));
        let ways: Vec<usize> = (0..2).filter(|&which| run.can_step(which)).collect();
        for &which in &ways {
            orders.push(order.iter().copied().chain([which]).collect());
        }
        if ways.is_empty() {
            assert_eq!(run.memory.entry_counts().undecided, 0);
            let end = run.ends();
            ends.push(end.unwrap_or_else(|| panic!("nobody can go on after {order:?}")));
        }
    }
    ends
}

/// One after the other; who gave up never came.
fn run_serially(
    contenders: &[Contender; 2],
    before: &[ModelEvent],
    order: [usize; 2],
    gave_up: [bool; 2],
) -> [ContenderEnd; 2] {
    let mut run = InterleavingRun::new(contenders, before);
    for which in order {
        if gave_up[which] {
            run.states[which] = ContenderState::Ended(ContenderEnd::GaveUp);
        }
        while run.can_step(which) {
            run.step(which);
        }
    }
    run.ends().expect("nobody waits for anybody")
}

fn event_pairs() -> [(ModelEvent, ModelEvent); 7] {
    let event = ModelEvent::occupancy;
    let other = |id, place| ModelEvent {
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
    for (one, other) in event_pairs() {
        for fates in PLANNED_ENDS
            .map(|fate| PLANNED_ENDS.map(|other| [fate, other]))
            .concat()
        {
            for by_hold in [[false, false], [true, false], [true, true]] {
                for before in [
                    vec![],
                    vec![ModelEvent::occupancy(2, 0, 0)],
                    vec![ModelEvent::occupancy(9, 0, 2)],
                ] {
                    let events = [one, other];
                    let contenders = [0, 1].map(|which| Contender {
                        event: events[which],
                        planned_end: fates[which],
                        by_reservation: by_hold[which],
                    });
                    for ends in run_all_orders(&contenders, &before) {
                        runs += 1;
                        let gave_up = [&ends[0], &ends[1]].map(|end| *end == ContenderEnd::GaveUp);
                        let serial = [[0, 1], [1, 0]]
                            .map(|order| run_serially(&contenders, &before, order, gave_up));
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
    let event = ModelEvent::occupancy;
    let contenders = [
        (event(4, 0, 2), PlannedEnd::Unknown),
        (event(6, 0, 1), PlannedEnd::Stored),
    ];
    for by_hold in [false, true] {
        let contenders = contenders.map(|(event, fate)| Contender {
            event,
            planned_end: fate,
            by_reservation: by_hold,
        });
        let all = run_all_orders(&contenders, &[event(0, 0, 1)]);
        let came_first = [
            ContenderEnd::Unknown,
            ContenderEnd::Duplicate(DuplicateKind::Repeat, false),
        ];
        for ends in &all {
            let ContenderEnd::Stored(marks) = &ends[1] else {
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
    let event = ModelEvent::occupancy(4, 0, 1);
    let ends = |fates: [PlannedEnd; 2]| {
        let contenders = fates.map(|fate| Contender {
            event,
            planned_end: fate,
            by_reservation: false,
        });
        run_all_orders(&contenders, &[])
    };
    let stored = ContenderEnd::Stored(Marks::default());
    let redelivery = ContenderEnd::Duplicate(DuplicateKind::Redelivery, false);
    for ends in ends([PlannedEnd::Stored, PlannedEnd::Stored]) {
        assert!(
            ends.contains(&stored) && ends.contains(&redelivery),
            "{ends:?}"
        );
    }
    // Of one on disk, as the answer says.
    let of_spooled = ContenderEnd::Duplicate(DuplicateKind::Redelivery, true);
    for ends in ends([PlannedEnd::Spooled, PlannedEnd::Spooled]) {
        assert!(
            ends.contains(&stored) && ends.contains(&of_spooled),
            "{ends:?}"
        );
    }
    // When the first fails, the second takes its place; when it comes second, it is a redelivery.
    for ends in ends([PlannedEnd::Failed, PlannedEnd::Stored]) {
        assert_eq!(ends[1], stored);
        assert!([ContenderEnd::Failed, redelivery.clone()].contains(&ends[0]));
    }
    // Also when nobody knows: it may be there twice, and it is there.
    for ends in ends([PlannedEnd::Unknown, PlannedEnd::Stored]) {
        assert_eq!(ends[1], stored);
        assert!([ContenderEnd::Unknown, redelivery.clone()].contains(&ends[0]));
    }
    for ends in ends([PlannedEnd::Failed, PlannedEnd::Failed]) {
        assert_eq!(ends, [ContenderEnd::Failed, ContenderEnd::Failed]);
    }
    let ways = [
        [stored.clone(), redelivery],
        [stored, ContenderEnd::Failed],
        [ContenderEnd::GaveUp, ContenderEnd::Failed],
    ];
    for ends in ends([PlannedEnd::GivesUp, PlannedEnd::Failed]) {
        assert!(ways.contains(&ends), "{ends:?}");
    }
}
