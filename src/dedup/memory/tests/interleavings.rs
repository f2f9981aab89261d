//! Two contenders, in every possible order of their steps.
//!
//! A claim, a commit and a release each hold the locks for everything that they read and change, so
//! none sees another half done, and every run of two threads is one of the orders tried here. The
//! step of a waiting contender is to claim again, once its waiter is woken. A waiter that is never
//! woken shows as an order in which no contender can go on.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;

/// Planned end of a contender that may publish, or has to wait.
#[derive(Clone, Copy, Debug, PartialEq)]
enum PlannedEnd {
    /// The delivery succeeds.
    Stored,
    /// The event is spooled.
    Spooled,
    /// The delivery fails: the event is certainly not stored.
    Failed,
    /// The delivery ends in doubt.
    Unknown,
    /// Like `Stored`, but the contender gives up if it has to wait.
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
    Duplicate(DuplicateKind, StorageLocation),
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
    /// Starts with the events `before` stored.
    fn new(contenders: &'r [Contender; 2], before: &[ModelEvent]) -> Self {
        let now = Instant::now();
        let memory = MemoryStore::new(&drop_settings(), now);
        for &event in before {
            publish(&memory, event, now).expect("the events are new");
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
            ContenderState::Waiting(waiter) => {
                pin!(waiter).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
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
                let next = if contender.by_reservation {
                    claim_by_reservation(&self.memory, &facts, self.now)
                } else {
                    self.memory.claim(&facts, self.now)
                };
                match next {
                    Ok(Decision::Publish(claim)) => ContenderState::Claiming(claim),
                    Ok(Decision::Duplicate { kind, storage }) => {
                        ContenderState::Ended(ContenderEnd::Duplicate(kind, storage))
                    }
                    Err(waiter) => ContenderState::Waiting(waiter),
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

/// Runs all orders and returns their ends.
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
            ends.push(end.unwrap_or_else(|| panic!("no contender can go on after {order:?}")));
        }
    }
    ends
}

/// Runs the contenders one after the other, without those that gave up.
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
    run.ends().expect("no contender waits")
}

fn event_pairs() -> [(ModelEvent, ModelEvent); 7] {
    let event = ModelEvent::occupancy;
    let other = |id, place| ModelEvent {
        is_occupancy: false,
        ..event(id, place, 0)
    };
    [
        // The same event, occupancy or not.
        (event(4, 0, 1), event(4, 0, 1)),
        (other(4, 0), other(4, 0)),
        // Two readings under one id.
        (event(4, 0, 1), event(4, 1, 1)),
        (event(4, 0, 1), event(4, 0, 2)),
        // A repeat.
        (event(4, 0, 1), event(5, 0, 1)),
        // A revision or a stale event, depending on the order.
        (event(4, 0, 1), event(8, 0, 2)),
        // Nothing in common.
        (event(4, 0, 1), event(8, 2, 2)),
    ]
}

/// Each run ends like one of the two serial runs.
#[test]
fn every_order_ends_like_a_serial_one() {
    let mut runs = 0;
    for (one, other) in event_pairs() {
        for planned_ends in PLANNED_ENDS
            .map(|planned_end| PLANNED_ENDS.map(|other| [planned_end, other]))
            .concat()
        {
            for by_reservation in [[false, false], [true, false], [true, true]] {
                for before in [
                    vec![],
                    vec![ModelEvent::occupancy(2, 0, 0)],
                    vec![ModelEvent::occupancy(9, 0, 2)],
                ] {
                    let events = [one, other];
                    let contenders = [0, 1].map(|which| Contender {
                        event: events[which],
                        planned_end: planned_ends[which],
                        by_reservation: by_reservation[which],
                    });
                    for ends in run_all_orders(&contenders, &before) {
                        runs += 1;
                        let gave_up = [&ends[0], &ends[1]].map(|end| *end == ContenderEnd::GaveUp);
                        let serial = [[0, 1], [1, 0]]
                            .map(|order| run_serially(&contenders, &before, order, gave_up));
                        assert!(
                            serial.contains(&ends),
                            "{events:?} {planned_ends:?} {before:?}: {ends:?}, not {serial:?}"
                        );
                    }
                }
            }
        }
    }
    assert!(runs > 2_000, "{runs}");
}

/// An event that reverts to a value which a revision in doubt may have replaced is published, in
/// whatever order they come.
#[test]
fn a_value_that_may_have_been_replaced_is_published_again() {
    let event = ModelEvent::occupancy;
    let contenders = [
        (event(4, 0, 2), PlannedEnd::Unknown),
        (event(6, 0, 1), PlannedEnd::Stored),
    ];
    for by_reservation in [false, true] {
        let contenders = contenders.map(|(event, planned_end)| Contender {
            event,
            planned_end,
            by_reservation,
        });
        let all = run_all_orders(&contenders, &[event(0, 0, 1)]);
        let came_first = [
            ContenderEnd::Unknown,
            ContenderEnd::Duplicate(DuplicateKind::Repeat, StorageLocation::Published),
        ];
        for ends in &all {
            let ContenderEnd::Stored(marks) = &ends[1] else {
                // It came before the revision was claimed.
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
    let ends = |planned_ends: [PlannedEnd; 2]| {
        let contenders = planned_ends.map(|planned_end| Contender {
            event,
            planned_end,
            by_reservation: false,
        });
        run_all_orders(&contenders, &[])
    };
    let stored = ContenderEnd::Stored(Marks::default());
    let redelivery = ContenderEnd::Duplicate(DuplicateKind::Redelivery, StorageLocation::Published);
    for ends in ends([PlannedEnd::Stored, PlannedEnd::Stored]) {
        assert!(
            ends.contains(&stored) && ends.contains(&redelivery),
            "{ends:?}"
        );
    }
    // The redelivery reports that the event is spooled.
    let of_spooled = ContenderEnd::Duplicate(DuplicateKind::Redelivery, StorageLocation::Spooled);
    for ends in ends([PlannedEnd::Spooled, PlannedEnd::Spooled]) {
        assert!(
            ends.contains(&stored) && ends.contains(&of_spooled),
            "{ends:?}"
        );
    }
    // If the first fails, the second takes over; if it comes second, it is a redelivery.
    for ends in ends([PlannedEnd::Failed, PlannedEnd::Stored]) {
        assert_eq!(ends[1], stored);
        assert!([ContenderEnd::Failed, redelivery.clone()].contains(&ends[0]));
    }
    // The same if it ends in doubt: the event may be stored twice, but it is stored.
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
