//! Compaction: space is freed while a few entries stay.

use super::{
    model::{DiskModel, ModelFault},
    *,
};
use crate::spool::store::StoreError;

/// One in this many entries stays.
const STAY: u64 = 10;

/// A store with some segments from which all entries of MOTION were removed.
fn sparse(model: &DiskModel, segments: u64, each: u64) -> (SpoolStore, Vec<(u64, Vec<u8>)>) {
    let (store, _) = open_on(&model.disk(), 100 << 10);
    for turn in 0..segments {
        let to = |n| if n % STAY == 0 { TRAFFIC } else { MOTION };
        let entries: Vec<_> = (turn * each..turn * each + each)
            .map(|n| (to(n), value(n)))
            .collect();
        store.append(&entries).unwrap();
    }
    remove(&store, MOTION);
    let stay = all(&store, TRAFFIC);
    (store, stay)
}

fn remove(store: &SpoolStore, to: Destination) {
    let seqs: Vec<u64> = all(store, to).into_iter().map(|(seq, _)| seq).collect();
    store.remove(to, &seqs).unwrap();
}

#[test]
fn a_few_entries_do_not_keep_whole_segments() {
    let model = DiskModel::new();
    let (store, stay) = sparse(&model, 6, 500);
    store.flush().unwrap();
    let before = store.bytes();
    let store = store.with_compaction_above(before / 2);
    let mut flushes = 0;
    while store.is_compaction_due() {
        let used = store.bytes();
        store.flush().unwrap();
        assert!(store.bytes() < used);
        flushes += 1;
    }
    assert!(store.bytes() <= before / 2, "{} of {before}", store.bytes());
    assert!(flushes > 2, "{flushes}");
    assert!(all(&store, TRAFFIC) == stay);
    assert_eq!(
        (store.present(TRAFFIC), store.lost(TRAFFIC)),
        (stay.len() as u64, 0)
    );
    assert_eq!(store.verify().damaged, []);
    drop(store);
    let (store, found) = open_on(&model.disk(), 100 << 10);
    assert!(
        found.damaged.is_empty() && found.missing.is_empty() && found.unfinished == 0,
        "{found:?}"
    );
    assert!(all(&store, TRAFFIC) == stay && store.present(MOTION) == 0);
    // The bytes include the new segment.
    assert!(found.bytes < before * 2 / 3, "{} of {before}", found.bytes);
    remove(&store, TRAFFIC);
    store.flush().unwrap();
    assert!(store.segments().iter().all(|segment| segment.is_writing));
}

#[test]
fn an_interrupted_or_failed_compaction_loses_nothing() {
    let count = {
        let model = DiskModel::new();
        let store = sparse(&model, 3, 100).0.with_compaction_above(0);
        let before = model.operations().0;
        store.flush().unwrap();
        model.operations().0 - before
    };
    assert!(count > 10, "{count}");
    for n in 0..count {
        for stop in [true, false] {
            let model = DiskModel::new();
            let (store, stay) = sparse(&model, 3, 100);
            let store = store.with_compaction_above(0);
            let at = model.operations().0 + n;
            model.inject(if stop {
                ModelFault::Stop(at)
            } else {
                ModelFault::Fail { at, count: 1 }
            });
            let _ = store.flush();
            assert!(model.first_fault().is_some());
            if !stop {
                model.inject(ModelFault::None);
                assert!(all(&store, TRAFFIC) == stay, "{n}");
                assert_eq!((store.lost(TRAFFIC), store.damaged()), (0, vec![]));
            }
            for next in [model.after_kill(), model.after_power_loss(|_| 0)] {
                let (store, found) = open_on(&next.disk(), 100 << 10);
                assert!(found.damaged.is_empty(), "{n}, {stop}: {found:?}");
                assert!(all(&store, TRAFFIC) == stay, "{n}, {stop}");
                let names = next.names(Path::new("/spool"));
                assert!(names.iter().all(|name| !name.ends_with(".new")));
            }
        }
    }
}

#[test]
fn a_failing_or_full_disk_is_not_compacted() {
    let model = DiskModel::new();
    let (store, _) = sparse(&model, 3, 100);
    let store = store.with_compaction_above(0);
    model.set_free_bytes(1000);
    assert!(!store.is_compaction_due());
    model.set_free_bytes(1 << 30);
    assert!(store.is_compaction_due());
    let at = model.operations().0;
    model.inject(ModelFault::Fail { at, count: 9 });
    let written = store.append(&batch(TRAFFIC, 0..1));
    assert!(matches!(written, Err(StoreError::Write { .. })));
    assert!(!store.is_compaction_due());
    model.inject(ModelFault::None);
    store.recover_writing().unwrap();
    assert!(store.is_compaction_due());
}
