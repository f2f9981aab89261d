//! The city's time: ticks, minutes, days and hours.

/// One minute in milliseconds.
pub const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Hour of the day at which a simulation starts: late enough that everyone who comes that day is
/// due.
const FIRST_HOUR: i64 = 10;

/// Converts moments (ms since 1970) to the city's days and hours and back.
#[derive(Clone, Copy, Debug)]
pub struct CityClock {
    start_ms: i64,
    tick_ms: i64,
}

impl CityClock {
    /// A clock that starts at `start_ms` and advances in ticks of `tick_ms`, which divides a
    /// second.
    pub fn new(start_ms: i64, tick_ms: i64) -> Self {
        debug_assert!(1000 % tick_ms == 0 && tick_ms % 10 == 0);
        Self { start_ms, tick_ms }
    }

    /// The end of the tick that contains a moment. Ticks are aligned to whole seconds since 1970
    /// (or fractions of them), so a minute never ends within a tick; only the first tick may be
    /// shorter.
    pub fn tick_end(&self, at_ms: i64) -> i64 {
        (at_ms.div_euclid(self.tick_ms) + 1) * self.tick_ms
    }

    /// Moves a moment into the first nine tenths of its tick, the part in which people walk.
    pub fn walking_moment(&self, at_ms: i64) -> i64 {
        let offset_ms = at_ms.rem_euclid(self.tick_ms);
        at_ms - offset_ms + offset_ms * 9 / 10
    }

    /// The last tenth of the tick that ends at `end_ms`, in which doors report: its start and
    /// length.
    pub fn reporting_window(&self, end_ms: i64) -> (i64, i64) {
        let length = self.tick_ms / 10;
        (end_ms - length, length)
    }

    /// The day of a moment, counted from 0.
    pub fn day(&self, at_ms: i64) -> i64 {
        (at_ms - self.start_ms + FIRST_HOUR * HOUR_MS).div_euclid(DAY_MS)
    }

    /// The moment `minutes` after midnight of a day.
    pub fn moment_at(&self, day: i64, minutes: i64) -> i64 {
        self.start_ms - FIRST_HOUR * HOUR_MS + day * DAY_MS + minutes * MINUTE_MS
    }
}

#[cfg(test)]
mod tests {
    use super::{CityClock, HOUR_MS, MINUTE_MS};

    #[test]
    fn a_simulation_starts_at_ten_o_clock() {
        let start = 1_800_000_000_123;
        let clock = CityClock::new(start, 1000);
        assert_eq!((clock.day(start), clock.moment_at(0, 10 * 60)), (0, start));
        assert_eq!(clock.day(start + 14 * HOUR_MS - 1), 0);
        assert_eq!(clock.day(start + 14 * HOUR_MS), 1);
        assert_eq!(
            clock.moment_at(1, 8 * 60 + 30),
            start + 22 * HOUR_MS + 30 * MINUTE_MS
        );
    }

    #[test]
    fn people_walk_before_doors_report() {
        for tick_ms in [1000, 200, 10] {
            let clock = CityClock::new(5, tick_ms);
            for at_ms in 3_000..4_000 {
                let end = clock.tick_end(at_ms);
                assert!(at_ms < end && at_ms >= end - tick_ms);
                let (from, length) = clock.reporting_window(end);
                let walks = clock.walking_moment(at_ms);
                assert!(walks >= end - tick_ms && walks < from && from + length == end);
                assert!(walks >= clock.walking_moment(at_ms - 1));
            }
        }
    }
}
