//! Time and place at which an event was stored.

use crate::dedup::StorageLocation;
use crate::dedup::window::Tick;

/// A tick; the top bit is set while the event is on disk and not in Kafka yet. It takes no extra
/// byte per entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct StorageStamp(u32);

const SPOOLED_BIT: u32 = 1 << 31;

/// The last tick: 31 bits of tenths of a second are 6.8 years.
pub(super) const LAST_TICK: Tick = SPOOLED_BIT - 1;

impl StorageStamp {
    pub fn new(tick: Tick, storage: StorageLocation) -> Self {
        let flag = if storage.is_spooled() { SPOOLED_BIT } else { 0 };
        Self(tick.min(LAST_TICK) | flag)
    }

    pub fn tick(self) -> Tick {
        self.0 & LAST_TICK
    }

    pub fn storage(self) -> StorageLocation {
        if self.0 & SPOOLED_BIT == 0 {
            StorageLocation::Published
        } else {
            StorageLocation::Spooled
        }
    }

    /// Makes the entry older than every window.
    pub fn expire(&mut self) {
        self.0 = 0;
    }

    pub fn set_published(&mut self) {
        self.0 = self.tick();
    }
}

#[cfg(test)]
mod tests {
    use super::StorageLocation::{Published, Spooled};
    use super::*;

    #[test]
    fn the_flag_leaves_the_tick_alone() {
        for tick in [0, 1, LAST_TICK] {
            for storage in [Published, Spooled] {
                let mut stamp = StorageStamp::new(tick, storage);
                assert_eq!((stamp.tick(), stamp.storage()), (tick, storage));
                stamp.set_published();
                assert_eq!((stamp.tick(), stamp.storage()), (tick, Published));
            }
        }
        // Past the last tick the stamp stays there; age never sets the flag.
        let last = StorageStamp::new(Tick::MAX, Published);
        assert_eq!((last.tick(), last.storage()), (LAST_TICK, Published));
        assert_eq!(size_of::<StorageStamp>(), 4);
    }
}
