//! The set of a segment's removed rows: one bit for each row, so that ten million entries take a
//! little more than a megabyte, in whatever order they are removed.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// Removed rows by their place in the segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RemovedRows {
    /// Number of leading words of which all rows are removed.
    full: usize,
    /// The words after these.
    words: Vec<u64>,
}

impl RemovedRows {
    /// Returns `true` if the row was not removed before.
    pub(super) fn insert(&mut self, index: u32) -> bool {
        let (word, bit) = (index as usize / 64, 1 << (index % 64));
        if word < self.full {
            return false;
        }
        let word = word - self.full;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        if word == 0 && self.words[0] == u64::MAX {
            let full = self
                .words
                .iter()
                .take_while(|word| **word == u64::MAX)
                .count();
            self.words.drain(..full);
            self.full += full;
        }
        new
    }

    pub(super) fn contains(&self, index: u32) -> bool {
        let (word, bit) = (index as usize / 64, 1 << (index % 64));
        word < self.full
            || self
                .words
                .get(word - self.full)
                .is_some_and(|word| word & bit != 0)
    }

    /// Returns the first row that is not removed.
    pub(super) fn first_live(&self) -> u32 {
        self.full as u32 * 64 + self.words.first().map_or(0, |word| word.trailing_ones())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.full == 0 && self.words.is_empty()
    }
}

/// Form of the set in the manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WrittenRemovedRows {
    full: usize,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    words: String,
}

impl From<&RemovedRows> for WrittenRemovedRows {
    fn from(removed: &RemovedRows) -> Self {
        let bytes: Vec<u8> = removed
            .words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        Self {
            full: removed.full,
            words: STANDARD.encode(bytes),
        }
    }
}

impl From<&WrittenRemovedRows> for RemovedRows {
    /// Words that cannot be read count as not removed: entries that come again are searched for in
    /// Kafka.
    fn from(written: &WrittenRemovedRows) -> Self {
        let bytes = STANDARD.decode(&written.words).unwrap_or_default();
        let words = bytes
            .as_chunks()
            .0
            .iter()
            .map(|word| u64::from_le_bytes(*word))
            .collect();
        Self {
            full: written.full,
            words,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set(indices in prop::collection::vec(0u32..1000, 0..2000)) {
            let (mut removed, mut model) = (RemovedRows::default(), BTreeSet::new());
            for index in indices {
                prop_assert_eq!(removed.insert(index), model.insert(index));
            }
            let again = RemovedRows::from(&WrittenRemovedRows::from(&removed));
            prop_assert_eq!(&again, &removed);
            for index in 0..1100 {
                prop_assert_eq!(again.contains(index), model.contains(&index));
            }
            prop_assert!((0..removed.first_live()).all(|index| model.contains(&index)));
            prop_assert!(!model.contains(&removed.first_live()));
        }
    }
}
