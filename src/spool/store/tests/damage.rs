//! Files that were truncated, changed or lost: the store opens, reports the damage, keeps the
//! damaged file, and has every undamaged entry.

use super::{
    model::{DiskModel, ModelFault},
    *,
};
use crate::spool::store::{HandoverMark, MANIFEST_FILE, StoreError, disk::OsDisk};

const ENTRIES: u64 = 120;

/// A closed spool with one segment.
fn spool() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for turn in 0..4 {
        store
            .append(&batch(TRAFFIC, turn * 30..turn * 30 + 30))
            .unwrap();
    }
    (dir, "00000001.redb".to_owned())
}

/// Returns `true` if `read` are some of the entries, in order.
fn is_subsequence(read: &[Vec<u8>]) -> bool {
    let all = expected(0..ENTRIES);
    let mut all = all.iter();
    read.iter()
        .all(|value| all.any(|expected| expected == value))
}

/// The same on a disk in memory, for many cases without fsync.
fn modelled(closed: bool) -> (DiskModel, Vec<u8>) {
    let model = DiskModel::new();
    let (store, _) = open_on(&model.disk(), 256 << 10);
    for turn in 0..4 {
        store
            .append(&batch(TRAFFIC, turn * 30..turn * 30 + 30))
            .unwrap();
    }
    let killed = model.after_kill();
    drop(store);
    let model = if closed { model } else { killed };
    let whole = model.contents(Path::new(FILE)).unwrap();
    (model, whole)
}

const FILE: &str = "/spool/00000001.redb";

fn damaged(model: &DiskModel, bytes: &[u8]) -> DiskModel {
    let broken = model.after_kill();
    broken.damage(Path::new(FILE), Some(bytes.to_vec()));
    broken
}

#[test]
fn a_file_truncated_anywhere() {
    for closed in [true, false] {
        let (model, whole) = modelled(closed);
        for len in (0..whole.len()).step_by(3 * 4096).chain([1, 100, 5000]) {
            let broken = damaged(&model, &whole[..len]);
            let (store, found) = open_on(&broken.disk(), 256 << 10);
            assert_eq!(
                found.damaged.len(),
                1,
                "{len} of {} bytes: {found:?}",
                whole.len()
            );
            let moved_to = found.damaged[0].moved_to.as_ref().unwrap();
            assert_eq!(broken.contents(moved_to).unwrap(), whole[..len]);
            let read = values(&store, TRAFFIC);
            assert!(
                is_subsequence(&read) && store.present(TRAFFIC) == read.len() as u64,
                "{len}"
            );
            store.append(&batch(MOTION, 0..3)).unwrap();
            drop(store);
            let (store, found) = open_on(&broken.disk(), 256 << 10);
            assert!(found.damaged.is_empty(), "{len}: {found:?}");
            assert!(values(&store, TRAFFIC) == read && values(&store, MOTION) == expected(0..3));
        }
    }
}

#[test]
fn a_flipped_bit_in_each_page() {
    for closed in [true, false] {
        let (model, whole) = modelled(closed);
        let mut reported = 0;
        for at in (0..whole.len()).step_by(2 * 4096).map(|at| at + 17) {
            let mut bytes = whole.clone();
            bytes[at.min(whole.len() - 1)] ^= 0x10;
            let (store, found) = open_on(&damaged(&model, &bytes).disk(), 256 << 10);
            let read = values(&store, TRAFFIC);
            // A bit is in one entry at most.
            assert!(
                is_subsequence(&read) && read.len() as u64 >= ENTRIES - 1,
                "byte {at}: {} entries",
                read.len()
            );
            assert!(
                read.len() as u64 == ENTRIES || !found.damaged.is_empty(),
                "byte {at}: {found:?}"
            );
            assert!(store.verify().damaged.is_empty());
            reported += found.damaged.len();
        }
        assert!(reported > 3, "only {reported} were found");
    }
}

#[test]
fn a_missing_file_is_reported() {
    let (dir, name) = spool();
    fs::remove_file(dir.path().join(&name)).unwrap();
    let (store, found) = open(dir.path());
    assert_eq!(found.missing, [name]);
    assert_eq!(store.present(TRAFFIC), 0);
    drop(store);
    assert!(open(dir.path()).1.missing.is_empty());
}

#[test]
fn without_a_manifest_every_entry_may_have_been_handed_over() {
    for content in [
        None,
        Some(&b"{\"format\":1,\"checksum\":\"0\",\"body\":{}}"[..]),
        Some(b"\0\0\0"),
        Some(b""),
    ] {
        let (dir, _) = spool();
        let manifest = dir.path().join(MANIFEST_FILE);
        match content {
            Some(content) => fs::write(&manifest, content).unwrap(),
            None => fs::remove_file(&manifest).unwrap(),
        }
        let (store, found) = open(dir.path());
        assert_eq!(found.missing.len() + found.damaged.len(), 1, "{found:?}");
        assert_eq!(values(&store, TRAFFIC), expected(0..ENTRIES));
        assert_eq!(
            store.handover_mark(TRAFFIC),
            Some(HandoverMark {
                upto: u64::MAX,
                tails: vec![]
            })
        );
        let greatest = all(&store, TRAFFIC).last().unwrap().0;
        assert!(store.append(&batch(TRAFFIC, 0..1)).unwrap().start > greatest);
    }
}

#[test]
fn later_damage_is_found_by_reading() {
    let (dir, name) = spool();
    let mut bytes = fs::read(dir.path().join(&name)).unwrap();
    let (store, _) = open(dir.path());
    let at = bytes
        .windows(7)
        .rposition(|window| window == b"xxxxxxx")
        .unwrap();
    bytes[at] ^= 1;
    fs::write(dir.path().join(&name), &bytes).unwrap();
    store.readers.lock().unwrap().clear();
    let read = values(&store, TRAFFIC);
    assert!(is_subsequence(&read));
    assert_eq!(
        (
            read.len() as u64,
            store.present(TRAFFIC),
            store.lost(TRAFFIC)
        ),
        (ENTRIES - 1, ENTRIES - 1, 1)
    );
    assert_eq!(
        (store.damaged().len(), files(&dir.path().join("damaged"))),
        (1, vec![name])
    );
}

#[test]
fn a_bad_sector_takes_the_entries_in_it_and_no_others() {
    for (closed, later) in [(true, true), (true, false), (false, false)] {
        let (model, whole) = modelled(closed);
        for at in (0..whole.len()).step_by(6 * 4096) {
            let model = model.after_kill();
            let mut opened = later.then(|| open_on(&model.disk(), 256 << 10));
            model.mark_bad_sectors(Path::new(FILE), at..at + 512);
            let (store, _) = opened
                .take()
                .unwrap_or_else(|| open_on(&model.disk(), 256 << 10));
            store.readers.lock().unwrap().clear();
            let read = values(&store, TRAFFIC);
            assert!(
                is_subsequence(&read) && read.len() as u64 >= ENTRIES - 8,
                "byte {at}: {} entries",
                read.len()
            );
            assert_eq!(store.present(TRAFFIC), read.len() as u64);
            if later {
                assert_eq!(store.lost(TRAFFIC), ENTRIES - read.len() as u64);
            }
            store.append(&batch(MOTION, 0..3)).unwrap();
            drop(store);
            let (store, found) = open_on(&model.disk(), 256 << 10);
            assert!(found.damaged.is_empty() || later, "byte {at}: {found:?}");
            assert_eq!(values(&store, TRAFFIC), read);
        }
    }
}

#[test]
fn an_unreadable_file_is_skipped_until_it_can_be_read() {
    let (model, whole) = modelled(true);
    let (store, _) = open_on(&model.disk(), 256 << 10);
    store.append(&batch(TRAFFIC, 200..203)).unwrap();
    model.mark_bad_sectors(Path::new(FILE), 0..whole.len());
    store.readers.lock().unwrap().clear();
    let operations = model.operations().0;
    model.inject(ModelFault::Fail {
        at: operations,
        count: 100,
    });
    let read = store.read(TRAFFIC, 0, limit(1, usize::MAX));
    assert!(matches!(read, Err(StoreError::Read { .. })), "{read:?}");
    assert_eq!(
        store.present(TRAFFIC),
        ENTRIES + 3,
        "the disk may come back"
    );
    model.inject(ModelFault::None);
    assert!(values(&store, TRAFFIC) == expected(200..203));
    assert_eq!((store.present(TRAFFIC), store.lost(TRAFFIC)), (3, ENTRIES));
    assert_eq!(store.damaged()[0].lost, Some(ENTRIES));
    store.flush().unwrap();
    drop(store);
    let (store, found) = open_on(&model.disk(), 256 << 10);
    assert_eq!((found.damaged.len(), store.present(TRAFFIC)), (1, 3));
    drop(store);
    model.mark_bad_sectors(Path::new(FILE), 0..0);
    let (store, found) = open_on(&model.disk(), 256 << 10);
    assert!(found.damaged.is_empty(), "{found:?}");
    assert!(values(&store, TRAFFIC) == expected((0..ENTRIES).chain(200..203)));
}

/// A repair writes the manifest, which must then list all segments.
#[test]
fn a_repair_does_not_lose_the_state_of_later_segments() {
    let (model, whole) = modelled(true);
    let (store, _) = open_on(&model.disk(), 256 << 10);
    let seqs: Vec<u64> = store.append(&batch(MOTION, 0..9)).unwrap().collect();
    store.record_handover(MOTION, seqs[8], &[(0, 7)]).unwrap();
    store.remove(MOTION, &seqs[..4]).unwrap();
    drop(store);
    model.damage(Path::new(FILE), Some(whole[..whole.len() / 2].to_vec()));
    for _ in 0..2 {
        let (store, _) = open_on(&model.disk(), 256 << 10);
        let mark = store.handover_mark(MOTION).unwrap();
        assert_eq!((mark.upto, mark.tails), (seqs[8], vec![(0, 7)]));
        assert!(values(&store, MOTION) == expected(4..9));
    }
}

/// redb would silently go back to the commit before.
#[test]
fn damage_to_the_last_commit_of_a_killed_process_is_reported() {
    let model = DiskModel::new();
    let (store, _) = open_on(&model.disk(), 256 << 10);
    store.append(&batch(TRAFFIC, 0..20)).unwrap();
    store.append(&batch(TRAFFIC, 20..25)).unwrap();
    let killed = model.after_kill();
    drop(store);
    let file = Path::new("/spool/00000001.redb");
    let whole = killed.contents(file).unwrap();
    for number in 20..25 {
        let mut bytes = whole.clone();
        for at in memchr::memmem::find_iter(&whole, &value(number)) {
            bytes[at + 300] ^= 1;
        }
        let model = killed.after_kill();
        model.damage(file, Some(bytes));
        let (store, found) = open_on(&model.disk(), 256 << 10);
        assert_eq!(found.damaged.len(), 1, "{found:?}");
        assert!(found.damaged[0].moved_to.is_some());
        let rest = expected((0..25).filter(|n| *n != number));
        assert!(values(&store, TRAFFIC) == rest, "{number}");
        assert_eq!(store.present(TRAFFIC), 24);
    }
    for at in (0..320).step_by(13) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        let model = killed.after_kill();
        model.damage(file, Some(bytes));
        let (store, _) = open_on(&model.disk(), 256 << 10);
        assert!(values(&store, TRAFFIC) == expected(0..25), "byte {at}");
    }
}

/// On a full disk such a file cannot be replaced.
#[test]
fn a_torn_last_commit_is_read_and_its_file_kept_whatever_fails() {
    let model = DiskModel::new();
    let (store, _) = open_on(&model.disk(), 256 << 10);
    store.append(&batch(TRAFFIC, 0..20)).unwrap();
    store.append(&batch(TRAFFIC, 20..25)).unwrap();
    let killed = model.after_kill();
    let mut torn = killed.contents(Path::new(FILE)).unwrap();
    for at in memchr::memmem::find_iter(&torn.clone(), &value(22)) {
        torn[at + 300] ^= 1;
    }
    let rest = || expected((0..25).filter(|n| *n != 22));
    let count = {
        let model = damaged(&killed, &torn);
        let _ = open_on(&model.disk(), 256 << 10);
        model.operations().0
    };
    let mut kept = 0;
    for at in 0..count {
        let model = damaged(&killed, &torn);
        model.inject(ModelFault::Fail { at, count: 1000 });
        let (store, found) = open_on(&model.disk(), 256 << 10);
        assert_eq!(found.damaged.len(), 1, "{at}: {found:?}");
        assert!(values(&store, TRAFFIC) == rest(), "{at}");
        assert_eq!((store.present(TRAFFIC), found.unfinished), (24, 4), "{at}");
        model.inject(ModelFault::None);
        store.recover_writing().unwrap();
        store.flush().unwrap();
        assert_eq!(store.verify().damaged, []);
        let again = open_on(&model.after_kill().disk(), 256 << 10).0;
        assert!(values(&again, TRAFFIC) == rest(), "{at}");
        let seqs: Vec<u64> = all(&store, TRAFFIC).iter().map(|(seq, _)| *seq).collect();
        store.remove(TRAFFIC, &seqs).unwrap();
        store.flush().unwrap();
        if let Some(moved_to) = &found.damaged[0].moved_to {
            assert!(model.contents(moved_to).unwrap() == torn, "{at}");
            kept += 1;
        }
    }
    assert!(kept > 3, "{kept}");
}

#[test]
fn a_file_with_another_name_keeps_its_contents() {
    let dir = tempfile::tempdir().unwrap();
    let (file, kept) = (dir.path().join("file"), dir.path().join("kept"));
    fs::write(&file, "whole").unwrap();
    OsDisk.copy_durably(&file, &kept).unwrap();
    OsDisk.truncate(&file).unwrap();
    assert_eq!(fs::read(&kept).unwrap(), b"whole");
    fs::remove_file(&kept).unwrap();
    OsDisk.truncate(&file).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"");
}

#[test]
fn dead_letters_survive_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let seqs = store.append(&batch(TRAFFIC, 0..10)).unwrap();
    seqs.for_each(|seq| {
        store
            .move_to_dead_letters(TRAFFIC, seq, "too large")
            .unwrap()
    });
    drop(store);
    let file = dir.path().join("set-aside.redb");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, [&[0; 4096], &bytes[4096..]].concat()).unwrap();
    let (store, found) = open(dir.path());
    assert_eq!(found.damaged.len(), 1);
    assert_eq!(store.dead_letters().unwrap().len(), 10);
    assert_eq!(store.present(TRAFFIC), 0);
}
