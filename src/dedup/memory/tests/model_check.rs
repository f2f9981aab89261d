//! Compares the memory with the model on random steps.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::model::{self, MemoryModel};
use super::*;
use crate::dedup::claim::ClaimWaiter;

#[derive(Clone, Debug)]
enum MemoryStep {
    Claim(ModelEvent, bool),
    Commit(prop::sample::Index),
    Spool(prop::sample::Index),
    Drained(prop::sample::Index),
    Drop(prop::sample::Index),
    Unknown(prop::sample::Index),
    /// In tenths of a second.
    Wait(u64),
}

fn events() -> impl Strategy<Value = ModelEvent> {
    (0..8_u8, 0..4_u8, 0..3_u8, any::<bool>(), 0..8_u8).prop_map(|(id, place, value, other, n)| {
        ModelEvent {
            id,
            place,
            value,
            is_occupancy: !other || n < 4,
            plausible_time: n != 0,
        }
    })
}

fn steps() -> impl Strategy<Value = Vec<MemoryStep>> {
    let any = any::<prop::sample::Index>;
    let step = prop_oneof![
        8 => (events(), proptest::bool::ANY).prop_map(|(event, by_reservation)| MemoryStep::Claim(event, by_reservation)),
        6 => any().prop_map(MemoryStep::Commit),
        4 => any().prop_map(MemoryStep::Spool),
        3 => any().prop_map(MemoryStep::Drained),
        2 => any().prop_map(MemoryStep::Drop),
        2 => any().prop_map(MemoryStep::Unknown),
        1 => (0..100_u64).prop_map(MemoryStep::Wait),
    ];
    prop::collection::vec(step, 0..120)
}

fn handlings() -> impl Strategy<Value = DuplicateHandling> {
    prop::sample::select(vec![
        DuplicateHandling::Drop,
        DuplicateHandling::Tag,
        DuplicateHandling::Off,
    ])
}

fn is_ready(waiter: &mut ClaimWaiter) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    pin!(waiter).poll(&mut context) == Poll::Ready(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Verdicts, waits and sizes are those of the model, in whatever order events are claimed,
    /// stored, lost and forgotten.
    #[test]
    fn behaves_like_the_model(steps in steps(), redelivery in handlings(), repeat in handlings()) {
        let settings = settings(redelivery, repeat);
        let start = Instant::now();
        let memory = MemoryStore::new(&settings, start);
        let mut model = MemoryModel::new(settings);
        let mut open: Vec<(ModelEvent, Claim, model::ModelClaim)> = Vec::new();
        let mut spooled: Vec<(ModelEvent, Marks)> = Vec::new();
        let mut waiters = Vec::new();
        let mut elapsed = Duration::ZERO;
        for step in steps {
            let now = start + elapsed;
            match step {
                MemoryStep::Wait(tenths) => elapsed += Duration::from_millis(100 * tenths),
                MemoryStep::Claim(event, by_reservation) => {
                    let id = event.id();
                    let facts = event.facts(&id);
                    let next = if by_reservation {
                        claim_by_reservation(&memory, &facts, now)
                    } else {
                        memory.claim(&facts, now)
                    };
                    match (next, model.claim(event, elapsed)) {
                        (Ok(Decision::Publish(claim)), model::ModelDecision::Publish(marks, claimed)) => {
                            prop_assert_eq!(claim.marks(), &marks);
                            open.push((event, claim, claimed));
                        }
                        (Ok(Decision::Duplicate { kind, storage }), model::ModelDecision::Duplicate(expected, is_spooled)) => {
                            prop_assert_eq!((kind, storage.is_spooled()), (expected, is_spooled));
                        }
                        (Err(waiter), model::ModelDecision::Wait(serial)) => waiters.push((waiter, serial)),
                        (next, model::ModelDecision::Publish(marks, _)) => {
                            prop_assert!(false, "{next:?}, expected to publish with {marks:?}");
                        }
                        (next, model::ModelDecision::Duplicate(kind, _)) => {
                            prop_assert!(false, "{next:?}, expected a {}", kind.as_str());
                        }
                        (next, model::ModelDecision::Wait(_)) => prop_assert!(false, "{next:?}, expected to wait"),
                    }
                }
                MemoryStep::Commit(which) if !open.is_empty() => {
                    let (_, claim, claimed) = open.swap_remove(which.index(open.len()));
                    claim.commit(&Receipt::for_test(), now);
                    model.commit(claimed, false, elapsed);
                }
                MemoryStep::Spool(which) if !open.is_empty() => {
                    let (event, claim, claimed) = open.swap_remove(which.index(open.len()));
                    spooled.push((event, claim.marks().clone()));
                    claim.commit_spooled(now);
                    model.commit(claimed, true, elapsed);
                }
                // In any order.
                MemoryStep::Drained(which) if !spooled.is_empty() => {
                    let (event, marks) = spooled.swap_remove(which.index(spooled.len()));
                    let id = event.id();
                    let successor = memory.mark_drained(&event.facts(&id), &marks);
                    prop_assert_eq!(successor, model.mark_drained(event, &marks, elapsed));
                }
                MemoryStep::Drop(which) if !open.is_empty() => {
                    let (_, claim, claimed) = open.swap_remove(which.index(open.len()));
                    drop(claim);
                    model.release(claimed);
                }
                MemoryStep::Unknown(which) if !open.is_empty() => {
                    let (_, claim, claimed) = open.swap_remove(which.index(open.len()));
                    claim.release_in_doubt();
                    model.release_in_doubt(claimed);
                }
                MemoryStep::Commit(_) | MemoryStep::Spool(_) | MemoryStep::Drained(_) => {}
                MemoryStep::Drop(_) | MemoryStep::Unknown(_) => {}
            }
            for (waiter, serial) in &mut waiters {
                prop_assert_eq!(is_ready(waiter), !model.is_open(*serial));
            }
            memory.sweep(start + elapsed);
            let EntryCounts { ids, readings, sources, undecided } = memory.entry_counts();
            prop_assert_eq!([undecided, ids, readings, sources], model.entries(elapsed));
            prop_assert_eq!(memory.evictions(), 0);
        }
    }
}
