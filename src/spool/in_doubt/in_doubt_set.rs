//! Which suspects a record speaks for.

use xxhash_rust::xxh3::xxh3_64;

use super::InDoubtEntry;
use crate::kafka::tail::TailRecord;

/// The suspects, and which of them are found. One record speaks for all that it equals: its content is stored.
#[derive(Debug)]
pub struct InDoubtSet {
    /// By the hash of the value.
    entries: Vec<InDoubtEntry>,
    found: Vec<bool>,
    missing: usize,
}

impl InDoubtSet {
    /// None of them is found yet.
    pub fn new(mut suspects: Vec<InDoubtEntry>) -> Self {
        suspects.sort_unstable_by_key(|s| s.value_hash);
        Self {
            found: vec![false; suspects.len()],
            missing: suspects.len(),
            entries: suspects,
        }
    }

    /// All are found.
    pub fn is_empty(&self) -> bool {
        self.missing == 0
    }

    /// Marks those that `record` speaks for.
    pub fn observe(&mut self, record: &TailRecord<'_>) {
        let hash = xxh3_64(record.value);
        let first = self.entries.partition_point(|s| s.value_hash < hash);
        let rest = self.entries[first..].iter().zip(&mut self.found[first..]);
        for (suspect, found) in rest.take_while(|(s, _)| s.value_hash == hash) {
            let is_it = match suspect.id.as_deref() {
                Some(id) => record.id == Some(id),
                None => true,
            };
            if is_it && !*found {
                *found = true;
                self.missing -= 1;
            }
        }
    }

    /// The sequence numbers of those that are found, ascending.
    pub fn into_found(self) -> Vec<u64> {
        let both = self.entries.iter().zip(&self.found);
        let found = both.filter_map(|(suspect, found)| found.then_some(suspect.seq));
        let mut found: Vec<u64> = found.collect();
        found.sort_unstable();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn suspect(seq: u64, id: Option<&str>, value: &[u8]) -> InDoubtEntry {
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

    fn found(suspects: Vec<InDoubtEntry>, records: &[TailRecord<'_>]) -> Vec<u64> {
        let mut wanted = InDoubtSet::new(suspects);
        records.iter().for_each(|record| wanted.observe(record));
        wanted.into_found()
    }

    #[test]
    fn id_and_value_have_to_agree() {
        let suspects = || vec![suspect(5, Some("a"), b"one"), suspect(6, Some("b"), b"two")];
        assert_eq!(found(suspects(), &[record(Some("a"), b"one")]), [5]);
        for other in [
            record(Some("a"), b"two"),
            record(Some("b"), b"one"),
            record(Some("a~0badc0de"), b"one"),
            record(None, b"one"),
        ] {
            assert!(found(suspects(), &[other]).is_empty(), "{other:?}");
        }
    }

    #[test]
    fn a_quarantined_one_is_its_value() {
        let suspects = || vec![suspect(5, None, b"{"), suspect(6, None, b"")];
        assert_eq!(found(suspects(), &[record(None, b"{")]), [5]);
        assert_eq!(found(suspects(), &[record(Some("x"), b"{")]), [5]);
        assert_eq!(found(suspects(), &[record(None, b"")]), [6]);
    }

    #[test]
    fn equal_ones_are_stored_by_one_record_and_counted_once_each() {
        let same = |seq| suspect(seq, Some("a"), b"one");
        let mut wanted = InDoubtSet::new(vec![same(9), same(3), suspect(4, Some("b"), b"one")]);
        for _ in 0..3 {
            wanted.observe(&record(Some("a"), b"one"));
        }
        assert!(!wanted.is_empty());
        wanted.observe(&record(Some("b"), b"one"));
        assert!(wanted.is_empty());
        assert_eq!(wanted.into_found(), [3, 4, 9]);
    }

    proptest! {
        /// As comparing each with each has it.
        #[test]
        fn like_a_comparison_of_all(
            suspects in prop::collection::vec((prop::option::of("[ab]"), "[xy]{0,2}"), 0..20),
            records in prop::collection::vec((prop::option::of("[ab]"), "[xy]{0,2}"), 0..20),
        ) {
            let mut wanted = InDoubtSet::new(
                suspects
                    .iter()
                    .enumerate()
                    .map(|(seq, (id, value))| suspect(seq as u64, id.as_deref(), value.as_bytes()))
                    .collect(),
            );
            for (id, value) in &records {
                wanted.observe(&record(id.as_deref(), value.as_bytes()));
            }
            let is_stored = |(id, value): &(Option<String>, String)| {
                records.iter().any(|r| r.1 == *value && (id.is_none() || r.0 == *id))
            };
            let expected: Vec<u64> = (0..suspects.len() as u64)
                .filter(|seq| is_stored(&suspects[*seq as usize]))
                .collect();
            prop_assert_eq!(wanted.is_empty(), expected.len() == suspects.len());
            prop_assert_eq!(wanted.into_found(), expected);
        }
    }
}
