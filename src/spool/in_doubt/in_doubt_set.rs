//! The set of entries in doubt, matched against the records of a topic.

use xxhash_rust::xxh3::xxh3_64;

use super::InDoubtEntry;
use crate::kafka::tail::TailRecord;

/// Entries in doubt, each found or missing. One record matches all entries with its content.
#[derive(Debug)]
pub struct InDoubtSet {
    /// Sorted by the hash of the value.
    entries: Vec<InDoubtEntry>,
    found: Vec<bool>,
    missing: usize,
}

impl InDoubtSet {
    /// Returns a set of which no entry is found yet.
    pub fn new(mut entries: Vec<InDoubtEntry>) -> Self {
        entries.sort_unstable_by_key(|entry| entry.value_hash);
        Self {
            found: vec![false; entries.len()],
            missing: entries.len(),
            entries,
        }
    }

    /// Returns `true` if no entry is missing.
    pub fn is_empty(&self) -> bool {
        self.missing == 0
    }

    /// Marks the entries that `record` matches as found.
    pub fn observe(&mut self, record: &TailRecord<'_>) {
        let hash = xxh3_64(record.value);
        let first = self
            .entries
            .partition_point(|entry| entry.value_hash < hash);
        let rest = self.entries[first..].iter().zip(&mut self.found[first..]);
        for (entry, found) in rest.take_while(|(entry, _)| entry.value_hash == hash) {
            let is_match = entry.id.is_none() || record.id == entry.id.as_deref();
            if is_match && !*found {
                *found = true;
                self.missing -= 1;
            }
        }
    }

    /// Returns the sequence numbers of the found entries, ascending.
    pub fn into_found(self) -> Vec<u64> {
        let both = self.entries.iter().zip(&self.found);
        let found = both.filter_map(|(entry, found)| found.then_some(entry.seq));
        let mut found: Vec<u64> = found.collect();
        found.sort_unstable();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn in_doubt_entry(seq: u64, id: Option<&str>, value: &[u8]) -> InDoubtEntry {
        InDoubtEntry {
            seq,
            id: id.map(str::to_owned),
            value_hash: xxh3_64(value),
            received_ms: 0,
        }
    }

    fn record<'r>(id: Option<&'r str>, value: &'r [u8]) -> TailRecord<'r> {
        TailRecord {
            id,
            ..TailRecord::new(None, value)
        }
    }

    fn found(entries: Vec<InDoubtEntry>, records: &[TailRecord<'_>]) -> Vec<u64> {
        let mut set = InDoubtSet::new(entries);
        records.iter().for_each(|record| set.observe(record));
        set.into_found()
    }

    #[test]
    fn id_and_value_have_to_match() {
        let entries = || {
            vec![
                in_doubt_entry(5, Some("a"), b"one"),
                in_doubt_entry(6, Some("b"), b"two"),
            ]
        };
        assert_eq!(found(entries(), &[record(Some("a"), b"one")]), [5]);
        for other in [
            record(Some("a"), b"two"),
            record(Some("b"), b"one"),
            record(Some("a~0badc0de"), b"one"),
            record(None, b"one"),
        ] {
            assert!(found(entries(), &[other]).is_empty(), "{other:?}");
        }
    }

    #[test]
    fn a_rejected_item_is_found_by_its_value() {
        let entries = || vec![in_doubt_entry(5, None, b"{"), in_doubt_entry(6, None, b"")];
        assert_eq!(found(entries(), &[record(None, b"{")]), [5]);
        assert_eq!(found(entries(), &[record(Some("x"), b"{")]), [5]);
        assert_eq!(found(entries(), &[record(None, b"")]), [6]);
    }

    #[test]
    fn one_record_matches_all_equal_entries_and_each_counts_once() {
        let same = |seq| in_doubt_entry(seq, Some("a"), b"one");
        let other = in_doubt_entry(4, Some("b"), b"one");
        let mut set = InDoubtSet::new(vec![same(9), same(3), other]);
        for _ in 0..3 {
            set.observe(&record(Some("a"), b"one"));
        }
        assert!(!set.is_empty());
        set.observe(&record(Some("b"), b"one"));
        assert!(set.is_empty());
        assert_eq!(set.into_found(), [3, 4, 9]);
    }

    proptest! {
        /// The reference model compares each entry with each record.
        #[test]
        fn behaves_like_a_comparison_of_all_pairs(
            entries in prop::collection::vec((prop::option::of("[ab]"), "[xy]{0,2}"), 0..20),
            records in prop::collection::vec((prop::option::of("[ab]"), "[xy]{0,2}"), 0..20),
        ) {
            let numbered = entries.iter().zip(0..);
            let mut set = InDoubtSet::new(
                numbered
                    .map(|((id, value), seq)| in_doubt_entry(seq, id.as_deref(), value.as_bytes()))
                    .collect(),
            );
            for (id, value) in &records {
                set.observe(&record(id.as_deref(), value.as_bytes()));
            }
            let is_stored = |(id, value): &(Option<String>, String)| {
                records.iter().any(|r| r.1 == *value && (id.is_none() || r.0 == *id))
            };
            let expected: Vec<u64> = (0..entries.len() as u64)
                .filter(|seq| is_stored(&entries[*seq as usize]))
                .collect();
            prop_assert_eq!(set.is_empty(), expected.len() == entries.len());
            prop_assert_eq!(set.into_found(), expected);
        }
    }
}
