//! Of what is not known which value is current, while what was stored before the start is still being read back: what ended
//! unknown, or was replaced by something that memory does not hold.

use std::collections::HashSet;

/// So many are told apart; some 9 MB at most, until the end. Records from just before the window are read in any case, two
/// minutes of them: 4,000 values a second.
const MAX_KEYS: usize = 1 << 19;

/// Such (type, space, timestamp)s: what is restored of them was, or may have been, replaced since.
#[derive(Debug)]
pub(super) enum UncertainKeys {
    Keys(HashSet<u64>),
    /// They are too many.
    All,
    /// Nothing is restored any more.
    Closed,
}

impl Default for UncertainKeys {
    fn default() -> Self {
        UncertainKeys::Keys(HashSet::new())
    }
}

impl UncertainKeys {
    pub fn insert(&mut self, cell: u64) {
        if let UncertainKeys::Keys(cells) = self {
            cells.insert(cell);
            if cells.len() > MAX_KEYS {
                *self = UncertainKeys::All;
            }
        }
    }

    pub fn contains(&self, cell: u64) -> bool {
        match self {
            UncertainKeys::Keys(cells) => cells.contains(&cell),
            UncertainKeys::All => true,
            UncertainKeys::Closed => false,
        }
    }

    pub fn close(&mut self) {
        *self = UncertainKeys::Closed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_are_all() {
        let mut doubts = UncertainKeys::default();
        for cell in 0..=MAX_KEYS as u64 {
            assert!(!doubts.contains(u64::MAX));
            doubts.insert(cell);
            assert!(doubts.contains(cell));
        }
        assert!(doubts.contains(u64::MAX));
        doubts.close();
        doubts.insert(1);
        assert!(!doubts.contains(1));
    }
}
