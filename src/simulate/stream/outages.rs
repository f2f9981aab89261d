//! Times in which a building's messages pile up.

use std::time::Duration;

use rand::RngExt;
use rand_pcg::Pcg64Mcg;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// How long an outage lasts, in milliseconds.
const LENGTH_MS: std::ops::RangeInclusive<i64> = 20_000..=60_000;

/// The outages of each building: each has its own, decided by the seed and the building alone.
#[derive(Debug)]
pub(super) struct Outages {
    /// Twice the mean time from the end of an outage to the next one.
    longest_gap_ms: i64,
    buildings: Vec<Building>,
}

/// A building's outage: the one under way or the next.
#[derive(Debug)]
struct Building {
    random: Pcg64Mcg,
    from_ms: i64,
    until_ms: i64,
}

impl Outages {
    /// Outages with `mean` between two of one building, on average, from `start_ms` on.
    pub(super) fn new(buildings: usize, seed: u64, start_ms: i64, mean: Duration) -> Self {
        let longest_gap_ms = i64::try_from(mean.as_millis().saturating_mul(2)).unwrap_or(i64::MAX);
        // So that adding it to a moment of this or any near age does not overflow.
        let longest_gap_ms = longest_gap_ms.min(i64::MAX / 4);
        let buildings = (0..buildings as u64)
            .map(|number| {
                let state = xxh3_128_with_seed(&number.to_le_bytes(), seed);
                let mut building = Building {
                    random: Pcg64Mcg::new(state),
                    from_ms: start_ms,
                    until_ms: start_ms,
                };
                building.next(longest_gap_ms);
                building
            })
            .collect();
        Self {
            longest_gap_ms,
            buildings,
        }
    }

    /// The end of the outage that `building` has at `now_ms`, if it has one. `now_ms` never goes back.
    pub(super) fn end_at(&mut self, building: u32, now_ms: i64) -> Option<i64> {
        let building = &mut self.buildings[building as usize];
        while building.until_ms <= now_ms {
            building.next(self.longest_gap_ms);
        }
        (building.from_ms <= now_ms).then_some(building.until_ms)
    }
}

impl Building {
    fn next(&mut self, longest_gap_ms: i64) {
        self.from_ms = self.until_ms + self.random.random_range(0..=longest_gap_ms);
        self.until_ms = self.from_ms + self.random.random_range(LENGTH_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;
    const START: i64 = 1_700_000_000_000;

    /// The building's outages within a week, as (from, until).
    fn week(outages: &mut Outages, building: u32) -> Vec<(i64, i64)> {
        let mut all: Vec<(i64, i64)> = Vec::new();
        for now in (START..START + 7 * 24 * 60 * MINUTE).step_by(500) {
            if let Some(until) = outages.end_at(building, now) {
                assert!(until > now);
                if all.last().is_none_or(|last| last.1 != until) {
                    all.push((now, until));
                }
            }
        }
        all
    }

    #[test]
    fn each_building_has_its_own_and_the_mean_is_kept() {
        let begin = || Outages::new(8, 7, START, Duration::from_secs(3600));
        let mut outages = begin();
        let all: Vec<_> = (0..8)
            .map(|building| week(&mut outages, building))
            .collect();
        for (number, windows) in all.iter().enumerate() {
            for (from, until) in windows {
                assert!((19_000..=60_000).contains(&(until - from)));
            }
            assert!(all[..number].iter().all(|other| other[0] != windows[0]));
        }
        // 168 hours, an hour and 40 seconds each.
        let mean = all.iter().map(Vec::len).sum::<usize>() as f64 / 8.0;
        assert!((140.0..190.0).contains(&mean), "{mean}");
        // The same again, whatever else was asked for in between.
        assert_eq!(week(&mut begin(), 5), all[5]);
    }

    #[test]
    fn the_shortest_and_the_longest_mean() {
        let mut always = Outages::new(1, 1, START, Duration::ZERO);
        assert!(week(&mut always, 0).len() > 10_000);
        let mut never = Outages::new(1, 1, START, Duration::MAX);
        assert_eq!(week(&mut never, 0), []);
    }
}
