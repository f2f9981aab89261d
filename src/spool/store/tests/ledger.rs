//! The entries that a store must still have, recorded while it is used and compared with the store
//! after the next start.

use std::collections::{BTreeMap, BTreeSet};

use super::{model::DiskModel, *};
use crate::spool::store::{OpenError, StoreError, segment_name};

/// Small, so that segments are often sealed and retired.
pub(super) const SEGMENT_BYTES: u64 = 24 << 10;
pub(super) const DIR: &str = "/spool";

type RowKey = (usize, u64);

#[derive(Clone, Debug, Default)]
pub(super) struct StoreLedger {
    /// Acknowledged and still needed.
    pub owed: BTreeMap<RowKey, Vec<u8>>,
    /// Removed, or being removed.
    removed: BTreeSet<RowKey>,
    /// Greatest sequence number recorded as handed over, by destination.
    handed: [u64; Destination::COUNT],
    dead_letters: BTreeSet<RowKey>,
    /// Entries whose move to the dead letters failed: they are in one place or the other.
    in_either_place: BTreeSet<RowKey>,
    /// Greatest sequence number; new entries must have greater ones.
    greatest: u64,
    /// Number of values appended, all different.
    appended: u64,
}

pub(super) fn try_open(model: &DiskModel) -> Result<(SpoolStore, OpenReport), OpenError> {
    let opened = SpoolStore::open_on(model.disk(), options(Path::new(DIR), SEGMENT_BYTES), false);
    // Compacts every sparse segment.
    opened.map(|(store, report)| (store.with_compaction_above(0), report))
}

impl StoreLedger {
    pub(super) fn append(&mut self, store: &SpoolStore, count: u64) -> Result<(), StoreError> {
        let numbers = self.appended..self.appended + count;
        self.appended += count;
        let entries: Vec<_> = numbers
            .map(|n| (if n % 3 == 0 { MOTION } else { TRAFFIC }, value(n)))
            .collect();
        let seqs = store.append(&entries)?;
        assert!(
            count == 0 || seqs.start > self.greatest,
            "{seqs:?} after {}",
            self.greatest
        );
        self.greatest = self.greatest.max(seqs.end - 1);
        let rows = seqs.zip(entries);
        self.owed
            .extend(rows.map(|(seq, (to, value))| ((to.index(), seq), value)));
        Ok(())
    }

    fn oldest(&self, to: Destination, count: usize) -> Vec<u64> {
        let rows = self.owed.range((to.index(), 0)..(to.index() + 1, 0));
        rows.map(|((_, seq), _)| *seq).take(count).collect()
    }

    /// Records a hand-over and removes the entries, as the drain does.
    pub(super) fn drain(
        &mut self,
        store: &SpoolStore,
        to: Destination,
        count: usize,
    ) -> Result<(), StoreError> {
        let seqs = self.oldest(to, count);
        let Some(last) = seqs.last() else {
            return Ok(());
        };
        self.handed[to.index()] = self.handed[to.index()].max(*last);
        store.record_handover(to, *last, &[(0, *last as i64)])?;
        for seq in &seqs {
            self.owed.remove(&(to.index(), *seq));
            self.removed.insert((to.index(), *seq));
        }
        store.remove(to, &seqs)
    }

    pub(super) fn move_to_dead_letters(
        &mut self,
        store: &SpoolStore,
        to: Destination,
    ) -> Result<(), StoreError> {
        let Some(seq) = self.oldest(to, 1).pop() else {
            return Ok(());
        };
        let key = (to.index(), seq);
        self.in_either_place.insert(key);
        store.move_to_dead_letters(to, seq, "too large")?;
        self.in_either_place.remove(&key);
        self.owed.remove(&key);
        self.dead_letters.insert(key);
        Ok(())
    }

    /// Checks that every owed entry can be read.
    pub(super) fn check_owed(&self, store: &SpoolStore) {
        let read = rows(store);
        for (key, value) in &self.owed {
            if !self.in_either_place.contains(key) {
                assert!(read.get(key) == Some(value), "{key:?} is missing");
            }
        }
    }

    /// Opens the store that the next process finds, checks it, and continues the ledger with it.
    pub(super) fn check_start(&mut self, model: &DiskModel) -> (SpoolStore, OpenReport) {
        let (store, report) = try_open(model).expect("opens in spite of damage and loss");
        assert_eq!(report.missing, Vec::<String>::new());
        assert_eq!(store.unwritable_reason(), None);
        self.check_owed(&store);
        let dead_letters: BTreeSet<RowKey> = store
            .dead_letters()
            .unwrap()
            .iter()
            .map(|entry| (entry.destination.index(), entry.seq))
            .collect();
        let read = rows(&store);
        assert!(
            self.dead_letters.is_subset(&dead_letters),
            "{:?} of {:?} are dead letters",
            dead_letters,
            self.dead_letters
        );
        for key in &self.in_either_place {
            let is_dead_letter = dead_letters.contains(key);
            assert!(read.contains_key(key) != is_dead_letter, "{key:?}");
        }
        self.check_returned(&store, &read, &dead_letters);
        self.dead_letters = dead_letters;
        self.in_either_place.clear();
        self.removed.clear();
        let present = Destination::all().map(|to| store.present(to));
        let mut counts = [0; Destination::COUNT];
        read.keys().for_each(|(to, _)| counts[*to] += 1);
        assert_eq!((present, report.entries), (counts, counts));
        self.greatest = read.keys().map(|key| key.1).fold(self.greatest, u64::max);
        self.owed = read;
        (store, report)
    }

    /// Checks that a removed entry comes again only if it is covered by a hand-over mark.
    fn check_returned(
        &self,
        store: &SpoolStore,
        read: &BTreeMap<RowKey, Vec<u8>>,
        dead_letters: &BTreeSet<RowKey>,
    ) {
        let known: BTreeSet<Vec<u8>> = (0..self.appended).map(value).collect();
        for (key, bytes) in read {
            assert!(!dead_letters.contains(key), "{key:?} is in two places");
            assert!(known.contains(bytes), "{key:?} was never appended");
            let to = Destination::from_index(key.0).unwrap();
            let is_in_doubt = store.handover_mark(to).is_some_and(|mark| {
                key.1 <= mark.upto
                    && mark
                        .tails
                        .iter()
                        .all(|tail| tail.1 <= key.1.max(self.handed[key.0]) as i64)
            });
            assert!(
                is_in_doubt || !self.removed.contains(key),
                "{key:?} came again without a hand-over mark"
            );
        }
    }

    /// Checks that the store can be used after a fault, and that a restart finds it unchanged.
    pub(super) fn check_use(&mut self, model: &DiskModel, store: SpoolStore) {
        self.append(&store, 20).unwrap();
        self.drain(&store, TRAFFIC, 5).unwrap();
        store.flush().unwrap();
        self.check_owed(&store);
        assert_eq!(store.verify().damaged, vec![]);
        drop(store);
        let owed = self.owed.clone();
        let (_, report) = self.check_start(model);
        let is_unchanged = report.damaged.is_empty() && self.owed == owed;
        assert!(is_unchanged, "{report:?}");
    }
}

fn rows(store: &SpoolStore) -> BTreeMap<RowKey, Vec<u8>> {
    let of = |to: Destination| {
        all(store, to)
            .into_iter()
            .map(move |(seq, bytes)| ((to.index(), seq), bytes))
    };
    Destination::all().into_iter().flat_map(of).collect()
}

/// Uses a spool of some segments in every way. Stops at the first error.
pub(super) fn run_story(model: &DiskModel, ledger: &mut StoreLedger) -> Result<(), StoreError> {
    let Ok((store, _)) = try_open(model) else {
        return Ok(());
    };
    ledger.append(&store, 12)?;
    ledger.append(&store, 12)?;
    ledger.append(&store, 30)?;
    ledger.drain(&store, TRAFFIC, 7)?;
    store.flush()?;
    ledger.drain(&store, TRAFFIC, 4)?;
    ledger.move_to_dead_letters(&store, MOTION)?;
    ledger.append(&store, 5)?;
    ledger.move_to_dead_letters(&store, TRAFFIC)?;
    // Removes the first segments.
    ledger.drain(&store, MOTION, 9)?;
    ledger.drain(&store, TRAFFIC, 20)?;
    store.flush()?;
    ledger.append(&store, 40)?;
    drop(store);
    let Ok((store, _)) = try_open(model) else {
        return Ok(());
    };
    ledger.append(&store, 3)?;
    ledger.drain(&store, TRAFFIC, 100)?;
    ledger.drain(&store, MOTION, 100)?;
    store.flush()?;
    ledger.append(&store, 3)
}

/// Damages the oldest segment while it is closed; the entry that is hit is no longer owed.
pub(super) fn damage_oldest(model: &DiskModel, ledger: &mut StoreLedger) {
    let (key, _) = ledger.owed.first_key_value().expect("something is owed");
    let key = *key;
    let file = Path::new(DIR).join(segment_name(crate::spool::store::state::segment_of(key.1)));
    let value = ledger.owed.remove(&key).unwrap();
    let mut bytes = model.contents(&file).unwrap();
    let mut hits = 0;
    for at in memchr::memmem::find_iter(&bytes.clone(), &value) {
        bytes[at + 100] ^= 4;
        hits += 1;
    }
    assert!(hits > 0);
    model.damage(&file, Some(bytes));
}
