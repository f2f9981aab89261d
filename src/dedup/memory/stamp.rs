//! When something was stored, and where it is.

use crate::dedup::window::Tick;

/// A tick, and in its top bit whether what was stored then is on disk and not in Kafka yet: no byte more an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct StorageStamp(u32);

/// The bit that says so.
const SPOOLED_BIT: u32 = 1 << 31;

/// The last tick that there is: 31 bits of tenths of a second, 6.8 years.
pub(super) const LAST_TICK: Tick = SPOOLED_BIT - 1;

impl StorageStamp {
    pub fn new(tick: Tick, spooled: bool) -> Self {
        let flag = if spooled { SPOOLED_BIT } else { 0 };
        Self(tick.min(LAST_TICK) | flag)
    }

    pub fn tick(self) -> Tick {
        self.0 & LAST_TICK
    }

    pub fn is_spooled(self) -> bool {
        self.0 & SPOOLED_BIT != 0
    }

    /// As if it had been stored before all windows.
    pub fn expire(&mut self) {
        self.0 = 0;
    }

    /// It is in Kafka now.
    pub fn set_published(&mut self) {
        self.0 = self.tick();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_leaves_the_tick_alone() {
        for tick in [0, 1, LAST_TICK] {
            for spooled in [false, true] {
                let mut stamp = StorageStamp::new(tick, spooled);
                assert_eq!((stamp.tick(), stamp.is_spooled()), (tick, spooled));
                stamp.set_published();
                assert_eq!((stamp.tick(), stamp.is_spooled()), (tick, false));
            }
        }
        // After the last tick time stands still; nothing becomes spooled by growing old.
        let last = StorageStamp::new(Tick::MAX, false);
        assert_eq!((last.tick(), last.is_spooled()), (LAST_TICK, false));
        assert_eq!(size_of::<StorageStamp>(), 4);
    }
}
