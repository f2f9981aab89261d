//! Keys whose restored value is not relied on while the window is being read back.

use std::collections::HashSet;

use crate::dedup::keys::OccupancyKey;

/// Limit for single keys, at most about 9 MB until restoring ends. Records from just before the
/// window are always read, two minutes of them, so this is reached at 4,000 values a second.
const MAX_KEYS: usize = 1 << 19;

/// (Type, space, timestamp)s for which a restored value was, or may have been, replaced since: by
/// an event that ended in doubt, or by one that the memory does not hold.
#[derive(Debug)]
pub(super) enum UncertainKeys {
    Keys(HashSet<OccupancyKey>),
    /// There are too many to list.
    All,
    /// Restoring has ended.
    Closed,
}

impl Default for UncertainKeys {
    fn default() -> Self {
        UncertainKeys::Keys(HashSet::new())
    }
}

impl UncertainKeys {
    pub fn insert(&mut self, key: OccupancyKey) {
        if let UncertainKeys::Keys(keys) = self {
            keys.insert(key);
            if keys.len() > MAX_KEYS {
                *self = UncertainKeys::All;
            }
        }
    }

    pub fn contains(&self, key: OccupancyKey) -> bool {
        match self {
            UncertainKeys::Keys(keys) => keys.contains(&key),
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
    fn beyond_the_limit_all_keys_are_uncertain() {
        let other = OccupancyKey(u64::MAX);
        let mut uncertain = UncertainKeys::default();
        for key in (0..=MAX_KEYS as u64).map(OccupancyKey) {
            assert!(!uncertain.contains(other));
            uncertain.insert(key);
            assert!(uncertain.contains(key));
        }
        assert!(uncertain.contains(other));
        uncertain.close();
        uncertain.insert(OccupancyKey(1));
        assert!(!uncertain.contains(OccupancyKey(1)));
    }
}
