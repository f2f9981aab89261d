//! Of what is not known which value is current, while what was stored before the start is still being read back: what ended
//! unknown, or was replaced by something that memory does not hold.

use std::collections::HashSet;

/// So many are told apart; some 9 MB at most, until the end. Records from just before the window are read in any case, two
/// minutes of them: 4,000 values a second.
const MOST: usize = 1 << 19;

/// Such (type, space, timestamp)s: what is restored of them was, or may have been, replaced since.
#[derive(Debug)]
pub(super) enum Doubts {
    These(HashSet<u64>),
    /// They are too many.
    All,
    /// Nothing is restored any more.
    Over,
}

impl Default for Doubts {
    fn default() -> Self {
        Doubts::These(HashSet::new())
    }
}

impl Doubts {
    pub fn add(&mut self, cell: u64) {
        if let Doubts::These(cells) = self {
            cells.insert(cell);
            if cells.len() > MOST {
                *self = Doubts::All;
            }
        }
    }

    pub fn has(&self, cell: u64) -> bool {
        match self {
            Doubts::These(cells) => cells.contains(&cell),
            Doubts::All => true,
            Doubts::Over => false,
        }
    }

    pub fn end(&mut self) {
        *self = Doubts::Over;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_are_all() {
        let mut doubts = Doubts::default();
        for cell in 0..=MOST as u64 {
            assert!(!doubts.has(u64::MAX));
            doubts.add(cell);
            assert!(doubts.has(cell));
        }
        assert!(doubts.has(u64::MAX));
        doubts.end();
        doubts.add(1);
        assert!(!doubts.has(1));
    }
}
