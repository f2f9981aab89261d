//! What a store owes to those who use it, whatever happens: kept while it is used, held against what is found at the next start.

use std::collections::{BTreeMap, BTreeSet};

use super::{model::DiskModel, *};
use crate::spool::store::{OpenError, StoreError, segment_name};

/// Small, so that segments are sealed and retired all the time.
pub(super) const SEGMENT_BYTES: u64 = 24 << 10;
pub(super) const DIR: &str = "/spool";

type RowKey = (usize, u64);

#[derive(Clone, Debug, Default)]
pub(super) struct StoreLedger {
    /// Acknowledged and needed.
    pub owed: BTreeMap<RowKey, Vec<u8>>,
    /// Removed, or in the middle of it.
    removed: BTreeSet<RowKey>,
    /// By destination: how far they were handed over, or were to be.
    handed: [u64; Destination::COUNT],
    set_aside: BTreeSet<RowKey>,
    /// Setting these aside failed: they are in one place or the other.
    either: BTreeSet<RowKey>,
    /// No new entry may have this number or a smaller one.
    greatest: u64,
    /// Different values were appended.
    appended: u64,
}

pub(super) fn try_open(model: &DiskModel) -> Result<(SpoolStore, OpenReport), OpenError> {
    let opened = SpoolStore::open_on(model.disk(), options(Path::new(DIR), SEGMENT_BYTES), false);
    // Whatever can be written anew is.
    opened.map(|(store, found)| (store.with_compaction_above(0), found))
}

impl StoreLedger {
    pub(super) fn append(&mut self, store: &SpoolStore, many: u64) -> Result<(), StoreError> {
        let numbers = self.appended..self.appended + many;
        self.appended += many;
        let entries: Vec<_> = numbers
            .map(|n| (if n % 3 == 0 { MOTION } else { TRAFFIC }, value(n)))
            .collect();
        let seqs = store.append(&entries)?;
        assert!(
            many == 0 || seqs.start > self.greatest,
            "{seqs:?} after {}",
            self.greatest
        );
        self.greatest = self.greatest.max(seqs.end - 1);
        let rows = seqs.zip(entries);
        self.owed
            .extend(rows.map(|(seq, (to, value))| ((to.index(), seq), value)));
        Ok(())
    }

    fn oldest(&self, to: Destination, many: usize) -> Vec<u64> {
        let of_this = self.owed.range((to.index(), 0)..(to.index() + 1, 0));
        of_this.map(|((_, seq), _)| *seq).take(many).collect()
    }

    /// As the drain does it: handed over, then removed.
    pub(super) fn drain(
        &mut self,
        store: &SpoolStore,
        to: Destination,
        many: usize,
    ) -> Result<(), StoreError> {
        let seqs = self.oldest(to, many);
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

    pub(super) fn set_aside(
        &mut self,
        store: &SpoolStore,
        to: Destination,
    ) -> Result<(), StoreError> {
        let Some(seq) = self.oldest(to, 1).pop() else {
            return Ok(());
        };
        let key = (to.index(), seq);
        self.either.insert(key);
        store.move_to_dead_letters(to, seq, "too large")?;
        self.either.remove(&key);
        self.owed.remove(&key);
        self.set_aside.insert(key);
        Ok(())
    }

    /// All that is owed can be read now.
    pub(super) fn check_owed(&self, store: &SpoolStore) {
        let read = rows(store);
        for (key, value) in &self.owed {
            if !self.either.contains(key) {
                assert!(read.get(key) == Some(value), "{key:?} is not there");
            }
        }
    }

    /// Opens what the next process finds, and lets the ledger go on with it.
    pub(super) fn check_start(&mut self, model: &DiskModel) -> (SpoolStore, OpenReport) {
        let (store, found) = try_open(model).expect("damage and loss are no reason not to open");
        assert_eq!(found.missing, Vec::<String>::new());
        assert_eq!(store.unwritable_reason(), None);
        self.check_owed(&store);
        let aside: BTreeSet<RowKey> = store
            .dead_letters()
            .unwrap()
            .iter()
            .map(|entry| (entry.destination.index(), entry.seq))
            .collect();
        let read = rows(&store);
        assert!(
            self.set_aside.iter().all(|key| aside.contains(key)),
            "{:?} of {:?} set aside",
            aside,
            self.set_aside
        );
        for key in &self.either {
            assert!(read.contains_key(key) != aside.contains(key), "{key:?}");
        }
        self.check_what_came_again(&store, &read, &aside);
        self.set_aside = aside;
        self.either.clear();
        self.removed.clear();
        let present = Destination::all().map(|to| store.present(to));
        let mut counts = [0; Destination::COUNT];
        read.keys().for_each(|(to, _)| counts[*to] += 1);
        assert_eq!((present, found.entries), (counts, counts));
        self.greatest = read.keys().map(|key| key.1).fold(self.greatest, u64::max);
        self.owed = read;
        (store, found)
    }

    fn check_what_came_again(
        &self,
        store: &SpoolStore,
        read: &BTreeMap<RowKey, Vec<u8>>,
        aside: &BTreeSet<RowKey>,
    ) {
        let known: BTreeSet<Vec<u8>> = (0..self.appended).map(value).collect();
        for (key, bytes) in read {
            assert!(!aside.contains(key), "{key:?} is in two places");
            assert!(known.contains(bytes), "{key:?} was never appended");
            let to = Destination::from_index(key.0).unwrap();
            let suspect = store.handover_mark(to).is_some_and(|handed| {
                key.1 <= handed.upto
                    && handed
                        .tails
                        .iter()
                        .all(|tail| tail.1 <= key.1.max(self.handed[key.0]) as i64)
            });
            assert!(
                suspect || !self.removed.contains(key),
                "{key:?} came again, and nobody knows that it was handed over"
            );
        }
    }

    /// After all troubles: it can be used, and stays what it is.
    pub(super) fn check_use(&mut self, model: &DiskModel, store: SpoolStore) {
        self.append(&store, 20).unwrap();
        self.drain(&store, TRAFFIC, 5).unwrap();
        store.flush().unwrap();
        self.check_owed(&store);
        let verified = store.verify().unwrap();
        assert_eq!(verified.damaged, vec![]);
        drop(store);
        let owed = self.owed.clone();
        let (_, found) = self.check_start(model);
        assert!(found.damaged.is_empty() && self.owed == owed, "{found:?}");
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

/// A spool of some segments, through everything that happens to one. Stops at the first error.
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
    ledger.set_aside(&store, MOTION)?;
    ledger.append(&store, 5)?;
    ledger.set_aside(&store, TRAFFIC)?;
    // The first segments go.
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

/// Damages the oldest segment while nobody has it open; the entry that is hit is owed no more.
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
