//! Power losses, kills and failing disks, at every operation.

use proptest::prelude::*;

use super::{
    ledger::{StoreLedger, damage_oldest, run_story, try_open},
    model::{DiskModel, ModelFault},
    *,
};

/// Returns a source of pseudo-random numbers; the same seed gives the same numbers.
fn dice(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) % below.max(1)
    }
}

/// Prints the operation at which a check failed.
fn with_context<T>(
    operation: impl std::fmt::Debug,
    model: &DiskModel,
    check: impl FnOnce() -> T,
) -> T {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
    result.unwrap_or_else(|panic| {
        eprintln!("failed at {operation:?}: {:?}", model.first_fault());
        std::panic::resume_unwind(panic)
    })
}

fn operations() -> u64 {
    let model = DiskModel::new();
    run_story(&model, &mut StoreLedger::default()).unwrap();
    model.operations().0
}

/// Tests every ninth operation, so that the tests take seconds; [`at_every_operation`] tests them
/// all.
const STEP: usize = 9;

/// Run it with `cargo test --release --lib spool::store -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn at_every_operation() {
    kills(1);
    power_losses(1);
    failures(1);
    interrupted_repairs(1);
    failed_reads(1);
}

#[test]
fn a_kill_between_two_operations() {
    kills(STEP);
}

#[test]
fn a_power_loss_between_two_operations() {
    power_losses(STEP);
}

#[test]
fn any_operation_fails() {
    failures(STEP);
}

#[test]
fn a_repair_is_interrupted_or_fails() {
    interrupted_repairs(STEP);
}

#[test]
fn a_read_fails_once() {
    failed_reads(STEP);
}

fn kills(step: usize) {
    for n in (0..operations()).step_by(step) {
        let model = DiskModel::new();
        let mut ledger = StoreLedger::default();
        model.inject(ModelFault::Stop(n));
        let _ = run_story(&model, &mut ledger);
        with_context(n, &model, || {
            let next = model.after_kill();
            let (store, found) = ledger.check_start(&next);
            assert_eq!(found.damaged, []);
            ledger.check_use(&next, store);
        });
    }
}

fn power_losses(step: usize) {
    for n in (1..operations()).step_by(step) {
        let model = DiskModel::new();
        let mut ledger = StoreLedger::default();
        model.inject(ModelFault::Stop(n));
        let _ = run_story(&model, &mut ledger);
        with_context(n, &model, || {
            let next = model.after_power_loss(dice(n));
            let (store, found) = ledger.check_start(&next);
            assert!(
                found.damaged.iter().all(|damaged| damaged.lost.is_none()),
                "{found:?}"
            );
            ledger.check_use(&next, store);
        });
    }
}

/// Continues after errors, as the bridge does.
fn use_in_spite_of_errors(model: &DiskModel, ledger: &mut StoreLedger) -> Option<SpoolStore> {
    let (store, _) = try_open(model).ok()?;
    for _ in 0..4 {
        let _ = store.recover_writing();
        let _ = ledger.append(&store, 9);
        let _ = ledger.drain(&store, TRAFFIC, 6);
        let _ = ledger.move_to_dead_letters(&store, MOTION);
        let _ = store.flush();
    }
    Some(store)
}

/// Tests a disk of which `count` operations fail from the `n`-th on. Returns `false` if there are
/// fewer operations.
fn check_failing_disk(n: u64, count: u64) -> bool {
    let model = DiskModel::new();
    let mut ledger = StoreLedger::default();
    model.inject(ModelFault::Fail { at: n, count });
    let store = use_in_spite_of_errors(&model, &mut ledger);
    let struck = model.first_fault().is_some();
    with_context((n, count), &model, || {
        if let Some(store) = store {
            model.inject(ModelFault::None);
            store.recover_writing().unwrap();
            ledger.append(&store, 5).unwrap();
            store.flush().unwrap();
            ledger.check_owed(&store);
        }
        let mut again = ledger.clone();
        let next = model.after_power_loss(dice(n));
        let (store, _) = again.check_start(&next);
        again.check_use(&next, store);
        let next = model.after_kill();
        let (store, _) = ledger.check_start(&next);
        // The entries may have been in the kernel's cache only: a power loss must not take them
        // now.
        drop(store);
        let next = next.after_power_loss(|_| 3);
        let (store, _) = ledger.check_start(&next);
        ledger.check_use(&next, store);
    });
    struck
}

fn failures(step: usize) {
    let mut n = 0;
    while check_failing_disk(n, 1) {
        n += step as u64;
    }
    assert!(n > 100, "{n}");
}

#[test]
fn a_full_disk_that_is_emptied() {
    let mut n = 0;
    while check_failing_disk(n, 15) {
        n += 25;
    }
}

/// A closed spool with a flipped bit in one entry.
fn damaged() -> (DiskModel, StoreLedger) {
    let (model, mut ledger) = (DiskModel::new(), StoreLedger::default());
    let (store, _) = try_open(&model).unwrap();
    ledger.append(&store, 40).unwrap();
    ledger.append(&store, 40).unwrap();
    ledger.append(&store, 10).unwrap();
    store.flush().unwrap();
    drop(store);
    damage_oldest(&model, &mut ledger);
    (model, ledger)
}

fn interrupted_repairs(step: usize) {
    let (model, ledger) = damaged();
    let count = {
        let model = model.after_kill();
        drop(try_open(&model).unwrap());
        model.operations().0
    };
    for n in (0..count).step_by(step) {
        for fault in [ModelFault::Stop(n), ModelFault::Fail { at: n, count: 1 }] {
            let (model, mut ledger) = (model.after_kill(), ledger.clone());
            model.inject(fault);
            let opened = try_open(&model);
            with_context(fault, &model, || {
                if let Ok((store, found)) = opened {
                    let moved = found
                        .damaged
                        .iter()
                        .filter(|damaged| damaged.moved_to.is_some());
                    assert!(found.damaged.len() == 1 && moved.count() <= 1, "{found:?}");
                    ledger.check_owed(&store);
                }
                let next = model.after_power_loss(dice(n));
                let (store, _) = ledger.check_start(&next);
                let kept = next.names(Path::new("/spool/damaged"));
                assert!(!kept.is_empty(), "the damaged file is gone");
                ledger.check_use(&next, store);
            });
        }
    }
}

fn failed_reads(step: usize) {
    let (model, mut ledger) = (DiskModel::new(), StoreLedger::default());
    run_story(&model, &mut ledger).unwrap();
    let count = {
        let model = model.after_kill();
        let (store, _) = try_open(&model).unwrap();
        ledger.check_owed(&store);
        model.operations().1
    };
    for n in (0..count).step_by(step) {
        let (model, mut ledger) = (model.after_kill(), ledger.clone());
        model.inject(ModelFault::FailRead(n));
        let opened = try_open(&model);
        with_context(n, &model, || {
            if let Ok((store, _)) = opened {
                let _ = ledger.append(&store, 3);
                let _ = store.flush();
            }
            let next = model.after_kill();
            let (store, _) = ledger.check_start(&next);
            ledger.check_use(&next, store);
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 60, ..ProptestConfig::default() })]

    /// Runs one process after the other, each ended by a power loss.
    #[test]
    fn power_losses_in_a_row(runs in prop::collection::vec((0u64..150, any::<u64>(), prop::collection::vec((0u8..5, 1u64..40), 1..12)), 1..5)) {
        let (mut model, mut ledger) = (DiskModel::new(), StoreLedger::default());
        for (stop, seed, calls) in runs {
            model.inject(ModelFault::Stop(stop));
            if let Ok((store, _)) = try_open(&model) {
                for (call, many) in calls {
                    let to = if many % 2 == 0 { MOTION } else { TRAFFIC };
                    let _ = match call {
                        0 | 1 => ledger.append(&store, many),
                        2 => ledger.drain(&store, to, many as usize),
                        3 => ledger.move_to_dead_letters(&store, to),
                        _ => store.flush(),
                    };
                }
            }
            model = model.after_power_loss(dice(seed));
            let (store, found) = ledger.check_start(&model);
            prop_assert!(found.damaged.iter().all(|damaged| damaged.lost.is_none()), "{:?}", found);
            drop(store);
            model = model.after_kill();
        }
    }
}
