//! Files that were cut off, changed or lost while nobody looked: the store opens, tells it, keeps what was there, and has every entry
//! of which no byte is lost.

use super::*;
use crate::spool::store::{Handed, MANIFEST};

const ENTRIES: u64 = 120;

/// A spool with one segment, closed or as a `kill -9` leaves it.
fn spool(closed: bool) -> (tempfile::TempDir, String) {
    let (dir, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, _) = open(dir.path());
    for turn in 0..4 {
        store
            .append(&batch(TRAFFIC, turn * 30..turn * 30 + 30))
            .unwrap();
    }
    copy(dir.path(), killed.path());
    drop(store);
    let dir = if closed {
        // The next start reads it, and notes that it is whole.
        drop(open(dir.path()));
        dir
    } else {
        killed
    };
    (dir, "00000001.redb".to_owned())
}

/// What is there is some of what was, in order.
fn is_part(read: &[Vec<u8>]) -> bool {
    let all = expected(0..ENTRIES);
    let mut all = all.iter();
    read.iter().all(|value| all.any(|there| there == value))
}

#[test]
fn a_file_that_was_cut_off_anywhere() {
    for closed in [true, false] {
        let (dir, name) = spool(closed);
        let whole = fs::read(dir.path().join(&name)).unwrap();
        for len in (0..whole.len()).step_by(5 * 4096).chain([1, 100, 5000]) {
            let broken = tempfile::tempdir().unwrap();
            copy(dir.path(), broken.path());
            fs::write(broken.path().join(&name), &whole[..len]).unwrap();
            let (store, found) = open(broken.path());
            assert_eq!(
                found.damaged.len(),
                1,
                "{len} of {} bytes: {found:?}",
                whole.len()
            );
            assert_eq!(
                fs::read(found.damaged[0].moved_to.as_ref().unwrap()).unwrap(),
                whole[..len]
            );
            let read = values(&store, TRAFFIC);
            assert!(
                is_part(&read) && store.present(TRAFFIC) == read.len() as u64,
                "{len}"
            );
            store.append(&batch(MOTION, 0..3)).unwrap();
            drop(store);
            let (store, found) = open(broken.path());
            assert!(found.damaged.is_empty(), "{len}: {found:?}");
            assert_eq!(
                (values(&store, TRAFFIC), values(&store, MOTION)),
                (read, expected(0..3))
            );
        }
    }
}

#[test]
fn a_flipped_bit_in_each_page() {
    for closed in [true, false] {
        let (dir, name) = spool(closed);
        let whole = fs::read(dir.path().join(&name)).unwrap();
        let mut told = 0;
        for at in (0..whole.len()).step_by(3 * 4096).map(|at| at + 17) {
            let broken = tempfile::tempdir().unwrap();
            copy(dir.path(), broken.path());
            let mut bytes = whole.clone();
            bytes[at.min(whole.len() - 1)] ^= 0x10;
            fs::write(broken.path().join(&name), &bytes).unwrap();
            let (store, found) = open(broken.path());
            let read = values(&store, TRAFFIC);
            // A bit is in one entry, or in none.
            assert!(
                is_part(&read) && read.len() as u64 >= ENTRIES - 1,
                "byte {at}: {} entries",
                read.len()
            );
            assert!(
                read.len() as u64 == ENTRIES || !found.damaged.is_empty() || found.unfinished > 0,
                "byte {at}: {found:?}"
            );
            assert!(store.verify().unwrap().damaged.is_empty());
            told += found.damaged.len();
        }
        assert!(told > 3, "only {told} were found");
    }
}

#[test]
fn a_file_that_is_missing_is_told() {
    let (dir, name) = spool(true);
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
        let (dir, _) = spool(true);
        let manifest = dir.path().join(MANIFEST);
        match content {
            Some(content) => fs::write(&manifest, content).unwrap(),
            None => fs::remove_file(&manifest).unwrap(),
        }
        let (store, found) = open(dir.path());
        assert_eq!(found.missing.len() + found.damaged.len(), 1, "{found:?}");
        assert_eq!(values(&store, TRAFFIC), expected(0..ENTRIES));
        assert_eq!(
            store.handed(TRAFFIC),
            Some(Handed {
                upto: u64::MAX,
                tails: vec![]
            })
        );
        let greatest = all(&store, TRAFFIC).last().unwrap().0;
        assert!(store.append(&batch(TRAFFIC, 0..1)).unwrap().start > greatest);
    }
}

#[test]
fn damage_that_comes_later_is_found_when_it_is_read() {
    let (dir, name) = spool(true);
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
    assert!(is_part(&read));
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
fn what_was_set_aside_outlives_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let seqs = store.append(&batch(TRAFFIC, 0..10)).unwrap();
    seqs.for_each(|seq| store.set_aside(TRAFFIC, seq, "too large").unwrap());
    drop(store);
    let file = dir.path().join("set-aside.redb");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, [&[0; 4096], &bytes[4096..]].concat()).unwrap();
    let (store, found) = open(dir.path());
    assert_eq!(found.damaged.len(), 1);
    assert_eq!(store.set_aside_entries().unwrap().len(), 10);
    assert_eq!(store.present(TRAFFIC), 0);
}
