//! The store in normal operation.

use super::*;
use crate::spool::store::{HandoverMark, MANIFEST_FILE, OpenError, StoreError};

#[test]
fn entries_come_back_in_order_and_by_destination() {
    let dir = tempfile::tempdir().unwrap();
    let (store, found) = open(dir.path());
    assert_eq!(
        (found.entries, found.segments),
        ([0; Destination::COUNT], 0)
    );
    let mixed: Vec<_> = (0..100)
        .map(|n| (if n % 3 == 0 { MOTION } else { TRAFFIC }, value(n)))
        .collect();
    let first = store.append(&mixed).unwrap();
    let second = store.append(&batch(TRAFFIC, 100..110)).unwrap();
    assert_eq!(
        (first.end - first.start, second.end - second.start),
        (100, 10)
    );
    assert!(second.start >= first.end);
    assert_eq!(
        values(&store, MOTION),
        expected((0..100).filter(|n| n % 3 == 0))
    );
    assert_eq!(
        values(&store, TRAFFIC),
        expected((0..110).filter(|n| n % 3 != 0 || *n >= 100))
    );
    assert_eq!(values(&store, Destination::Quarantine), expected([]));
    assert_eq!((store.present(MOTION), store.present(TRAFFIC)), (34, 76));
    assert_eq!(store.oldest_ms(), Some(1_700_000_000_000));

    let some = store
        .read(TRAFFIC, first.start + 2, limit(3, usize::MAX))
        .unwrap();
    assert_eq!(
        some.iter()
            .map(|(seq, _)| seq - first.start)
            .collect::<Vec<_>>(),
        [2, 4, 5]
    );
    assert_eq!(store.read(TRAFFIC, 0, limit(10, 1)).unwrap().len(), 1);
    assert_eq!(
        store.read(TRAFFIC, 0, limit(0, usize::MAX)).unwrap().len(),
        0
    );
    assert!(store.append(&[]).unwrap().is_empty());
}

#[test]
fn after_a_restart_entries_are_there_and_removed_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let seqs = store.append(&batch(TRAFFIC, 0..2000)).unwrap();
    let removed: Vec<u64> = seqs.clone().filter(|seq| seq % 7 == 0).collect();
    store.remove(TRAFFIC, &removed).unwrap();
    let kept = || expected((0..2000).filter(|n| !(seqs.start + n).is_multiple_of(7)));
    assert_eq!(values(&store, TRAFFIC), kept());
    store.flush().unwrap();
    drop(store);

    let (store, found) = open(dir.path());
    assert_eq!(values(&store, TRAFFIC), kept());
    assert_eq!(found.entries[TRAFFIC.index()], 2000 - removed.len() as u64);
    assert!(
        found.damaged.is_empty() && found.missing.is_empty(),
        "{found:?}"
    );
    assert!(store.append(&batch(TRAFFIC, 0..1)).unwrap().start >= seqs.end);
    store.remove(TRAFFIC, &removed).unwrap();
    assert_eq!(store.present(TRAFFIC), 2001 - removed.len() as u64);
}

#[test]
fn an_emptied_spool_is_small_and_its_sequence_numbers_are_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut greatest = 0;
    for _ in 0..3 {
        let (store, found) = open(dir.path());
        assert_eq!(found.entries, [0; Destination::COUNT]);
        for turn in 0..10 {
            let seqs = store
                .append(&batch(TRAFFIC, turn * 500..turn * 500 + 500))
                .unwrap();
            assert!(seqs.start > greatest, "{seqs:?} after {greatest}");
            greatest = seqs.end - 1;
        }
        assert!(store.segments().len() > 5, "{:?}", store.segments());
        assert!(store.bytes() > 4 << 20);
        let seqs: Vec<u64> = all(&store, TRAFFIC)
            .into_iter()
            .map(|(seq, _)| seq)
            .collect();
        store.remove(TRAFFIC, &seqs).unwrap();
        store.flush().unwrap();
        assert_eq!((store.present(TRAFFIC), store.oldest_ms()), (0, None));
        assert!(store.bytes() < 2 << 20, "{}", store.bytes());
        assert_eq!(all(&store, TRAFFIC), []);
    }
    assert!(files(dir.path()).len() < 6, "{:?}", files(dir.path()));
}

#[test]
fn a_large_current_segment_is_replaced_once_it_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = SpoolStore::open(options(dir.path(), 1 << 30)).unwrap();
    let seqs = store.append(&batch(TRAFFIC, 0..5000)).unwrap();
    store
        .remove(TRAFFIC, &seqs.clone().collect::<Vec<_>>())
        .unwrap();
    assert!(store.bytes() > 4 << 20);
    store.flush().unwrap();
    assert!(store.bytes() < 1 << 20, "{}", store.bytes());
    assert!(store.append(&batch(TRAFFIC, 0..1)).unwrap().start >= seqs.end);
}

#[test]
fn only_one_process_can_open_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    assert!(matches!(
        SpoolStore::open(options(dir.path(), 1)),
        Err(OpenError::Locked { .. })
    ));
    drop(store);
    open(dir.path());
    let file = dir.path().join("lock");
    assert!(matches!(
        SpoolStore::open(options(&file, 1)),
        Err(OpenError::Io { .. })
    ));
}

#[test]
fn reading_only_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.append(&batch(TRAFFIC, 0..1000)).unwrap();
    let kill_9 = tempfile::tempdir().unwrap();
    copy(dir.path(), kill_9.path());
    let contents = || {
        files(kill_9.path())
            .iter()
            .map(|name| fs::read(kill_9.path().join(name)).unwrap())
            .collect::<Vec<_>>()
    };
    let before = (files(kill_9.path()), contents());
    let (copy, found) = SpoolStore::open_read_only(kill_9.path()).unwrap();
    assert_eq!(found.entries[TRAFFIC.index()], 1000);
    assert_eq!(values(&copy, TRAFFIC), expected(0..1000));
    assert!(matches!(
        copy.append(&batch(TRAFFIC, 0..1)),
        Err(StoreError::Unwritable { .. })
    ));
    assert!(matches!(copy.recover_writing(), Err(StoreError::ReadOnly)));
    copy.flush().unwrap();
    let verified = copy.verify();
    assert_eq!(
        (verified.entries[TRAFFIC.index()], verified.damaged.len()),
        (1000, 0)
    );
    drop(copy);
    assert_eq!((files(kill_9.path()), contents()), before);
}

#[test]
fn a_dead_letter_keeps_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let seqs = store.append(&batch(TRAFFIC, 0..10)).unwrap();
    assert!(store.dead_letters().unwrap().is_empty());
    store
        .move_to_dead_letters(TRAFFIC, seqs.start + 4, "MessageSizeTooLarge")
        .unwrap();
    store
        .move_to_dead_letters(TRAFFIC, seqs.start + 2, "InvalidRecord")
        .unwrap();
    assert!(matches!(
        store.move_to_dead_letters(TRAFFIC, seqs.start + 4, "again"),
        Err(StoreError::Missing(_))
    ));
    drop(store);
    for _ in 0..2 {
        let (store, _) = open(dir.path());
        assert_eq!(store.dead_letter_count(), 2);
        let dead_letters = store.dead_letters().unwrap();
        let described: Vec<_> = dead_letters
            .iter()
            .map(|entry| (entry.seq - seqs.start, &*entry.reason, &entry.value))
            .collect();
        assert_eq!(
            described,
            [
                (2, "InvalidRecord", &value(2)),
                (4, "MessageSizeTooLarge", &value(4))
            ]
        );
        assert!(
            dead_letters
                .iter()
                .all(|entry| entry.destination == TRAFFIC && entry.at_ms > 1_700_000_000_000)
        );
        assert_eq!(values(&store, TRAFFIC), expected([0, 1, 3, 5, 6, 7, 8, 9]));
        assert_eq!(store.present(TRAFFIC), 8);
    }
}

#[test]
fn the_hand_over_mark_has_the_oldest_tails_that_matter() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let seqs = store.append(&batch(TRAFFIC, 0..2000)).unwrap();
    let seqs = seqs.start..store.append(&batch(TRAFFIC, 2000..2001)).unwrap().end;
    let all: Vec<u64> = all(&store, TRAFFIC)
        .into_iter()
        .map(|(seq, _)| seq)
        .collect();
    store
        .record_handover(TRAFFIC, all[10], &[(0, 100), (1, 200)])
        .unwrap();
    store
        .record_handover(TRAFFIC, all[1999], &[(0, 150), (1, 250)])
        .unwrap();
    assert_eq!(store.handover_mark(TRAFFIC), None);
    drop(store);
    let (store, _) = open(dir.path());
    assert_eq!(
        store.handover_mark(TRAFFIC),
        Some(HandoverMark {
            upto: all[1999],
            tails: vec![(0, 100), (1, 200)]
        })
    );
    assert_eq!(store.handover_mark(MOTION), None);
    store.remove(TRAFFIC, &all[..2000]).unwrap();
    store
        .record_handover(TRAFFIC, seqs.end - 1, &[(0, 9000), (1, 9000)])
        .unwrap();
    drop(store);
    let (store, _) = open(dir.path());
    assert_eq!(
        store.handover_mark(TRAFFIC),
        Some(HandoverMark {
            upto: seqs.end - 1,
            tails: vec![(0, 9000), (1, 9000)]
        })
    );
    store.remove(TRAFFIC, &[seqs.end - 1]).unwrap();
    store.flush().unwrap();
    drop(store);
    assert_eq!(open(dir.path()).0.handover_mark(TRAFFIC), None);
}

#[test]
fn reading_and_removing_work_during_appends() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..200 {
                store
                    .append(&batch(TRAFFIC, turn * 20..turn * 20 + 20))
                    .unwrap();
            }
        });
        let mut next = 0;
        let mut read = Vec::new();
        while read.len() < 4000 {
            let some = store.read(TRAFFIC, next, limit(100, usize::MAX)).unwrap();
            let seqs: Vec<u64> = some.iter().map(|(seq, _)| *seq).collect();
            store.remove(TRAFFIC, &seqs).unwrap();
            store.flush().unwrap();
            next = seqs.last().map_or(next, |last| last + 1);
            read.extend(some.into_iter().map(|(_, value)| value));
        }
        assert!(read == expected(0..4000));
    });
    assert_eq!(store.present(TRAFFIC), 0);
}

#[test]
fn foreign_files_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.append(&batch(TRAFFIC, 0..3)).unwrap();
    drop(store);
    let foreign = [
        "draft.new",
        "7.redb.new",
        "+0000007.redb.new",
        "00000007.new",
        "data.redb",
        "+0000009.redb",
    ];
    let unfinished = [
        "manifest.json.new",
        "set-aside.redb.new",
        "00000007.redb.new",
    ];
    for name in foreign.iter().chain(&unfinished) {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    let (store, found) = open(dir.path());
    assert!(found.damaged.is_empty() && found.missing.is_empty());
    assert_eq!(values(&store, TRAFFIC), expected(0..3));
    let names = files(dir.path());
    let exists = |name: &&str| names.iter().any(|n| n == name);
    assert!(foreign.iter().all(exists));
    assert!(!unfinished.iter().any(exists));
}

#[test]
fn a_directory_with_the_manifest_of_another_program_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = dir.path().join(MANIFEST_FILE);
    for content in [r#"{"name":"an app","icons":[]}"#, "", "\0\0"] {
        fs::write(&manifest, content).unwrap();
        fs::write(dir.path().join("index.new"), "x").unwrap();
        let opened = SpoolStore::open(options(dir.path(), 1 << 20));
        let Err(error @ OpenError::Foreign { .. }) = opened else {
            panic!("{opened:?}");
        };
        assert!(error.to_string().contains("a directory of its own"));
        assert!(matches!(
            SpoolStore::open_read_only(dir.path()),
            Err(OpenError::Foreign { .. })
        ));
        assert_eq!(fs::read_to_string(&manifest).unwrap(), content);
        assert_eq!(files(dir.path()), ["index.new", MANIFEST_FILE]);
    }
    // A damaged manifest of a spool, and the files that a spool leaves beside one.
    let ours = r#"{"format":1,"checksum":"0","body":{}}"#;
    fs::write(&manifest, ours).unwrap();
    assert_eq!(open(dir.path()).1.damaged.len(), 1);
    for left in ["00000001.redb", "00000001.retired", "damaged"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MANIFEST_FILE), "").unwrap();
        match left {
            "damaged" => fs::create_dir(dir.path().join(left)).unwrap(),
            _ => fs::write(dir.path().join(left), "").unwrap(),
        }
        assert!(!open(dir.path()).1.damaged.is_empty(), "{left}");
    }
}
