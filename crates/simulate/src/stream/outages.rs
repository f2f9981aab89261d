//! Outages, during which a building's messages are held back.

use std::ops::RangeInclusive;

use rand::RngExt;
use rand_pcg::Pcg64Mcg;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::behaviour::OutageSettings;

/// The outages of all buildings. Each building has its own, drawn from the seed and the building
/// alone.
#[derive(Debug)]
pub(super) struct OutageCalendar {
    lengths: OutageRanges,
    buildings: Vec<BuildingOutage>,
}

/// Ranges to draw from, in milliseconds.
#[derive(Clone, Debug)]
struct OutageRanges {
    /// Time from the end of an outage to the next one: up to twice the mean.
    gap: RangeInclusive<i64>,
    outage: RangeInclusive<i64>,
}

/// The current or next outage of a building.
#[derive(Debug)]
struct BuildingOutage {
    random: Pcg64Mcg,
    from_ms: i64,
    until_ms: i64,
}

impl OutageCalendar {
    /// A calendar from `start_ms` on.
    pub(super) fn new(
        buildings: usize,
        seed: u64,
        start_ms: i64,
        settings: OutageSettings,
    ) -> Self {
        // Capped, so that adding them to a timestamp does not overflow.
        let ms = |ms: u128| i64::try_from(ms).unwrap_or(i64::MAX).min(i64::MAX / 4);
        let (every, length) = (
            settings.every.as_millis(),
            settings.length.as_millis().max(1),
        );
        let lengths = OutageRanges {
            gap: 0..=ms(every.saturating_mul(2)),
            outage: ms(length.div_ceil(2))..=ms(length.saturating_mul(3) / 2),
        };
        let buildings = (0..buildings as u64)
            .map(|number| {
                let state = xxh3_128_with_seed(&number.to_le_bytes(), seed);
                let mut building = BuildingOutage {
                    random: Pcg64Mcg::new(state),
                    from_ms: start_ms,
                    until_ms: start_ms,
                };
                building.advance(&lengths);
                building
            })
            .collect();
        Self { lengths, buildings }
    }

    /// End of the outage that a building has at `now_ms`, if any. Times must not decrease per
    /// building.
    pub(super) fn outage_end(&mut self, building: u32, now_ms: i64) -> Option<i64> {
        let building = &mut self.buildings[building as usize];
        while building.until_ms <= now_ms {
            building.advance(&self.lengths);
        }
        (building.from_ms <= now_ms).then_some(building.until_ms)
    }
}

impl BuildingOutage {
    fn advance(&mut self, lengths: &OutageRanges) {
        let mut drawn = |range: &RangeInclusive<i64>| self.random.random_range(range.clone());
        let gap = drawn(&lengths.gap);
        let outage = drawn(&lengths.outage);
        self.from_ms = self.until_ms.saturating_add(gap);
        self.until_ms = self.from_ms.saturating_add(outage);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MINUTE: i64 = 60_000;
    const START: i64 = 1_700_000_000_000;

    /// The building's outages within a week, as (from, until).
    fn collect_week(outages: &mut OutageCalendar, building: u32) -> Vec<(i64, i64)> {
        let mut all: Vec<(i64, i64)> = Vec::new();
        for now in (START..START + 7 * 24 * 60 * MINUTE).step_by(500) {
            if let Some(until) = outages.outage_end(building, now) {
                assert!(until > now);
                if all.last().is_none_or(|last| last.1 != until) {
                    all.push((now, until));
                }
            }
        }
        all
    }

    fn outages(buildings: usize, seed: u64, every: Duration, length: Duration) -> OutageCalendar {
        OutageCalendar::new(buildings, seed, START, OutageSettings { every, length })
    }

    #[test]
    fn buildings_differ_and_keep_the_mean() {
        let begin = || OutageCalendar::new(8, 7, START, OutageSettings::default());
        let mut outages = begin();
        let all: Vec<_> = (0..8)
            .map(|building| collect_week(&mut outages, building))
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
        // Independent of the queries for other buildings.
        assert_eq!(collect_week(&mut begin(), 5), all[5]);
    }

    #[test]
    fn the_shortest_and_the_longest_mean() {
        let usual = OutageSettings::default().length;
        let mut always = outages(1, 1, Duration::ZERO, usual);
        assert!(collect_week(&mut always, 0).len() > 10_000);
        let mut never = outages(1, 1, Duration::MAX, Duration::MAX);
        assert_eq!(collect_week(&mut never, 0), []);
        let mut for_ever = outages(1, 1, Duration::ZERO, Duration::MAX);
        assert_eq!(collect_week(&mut for_ever, 0).len(), 1);
        // Must terminate.
        outages(1, 1, Duration::ZERO, Duration::ZERO).outage_end(0, START + MINUTE);
    }

    #[test]
    fn lengths_follow_the_settings() {
        let length = Duration::from_secs(1200);
        let all = collect_week(&mut outages(1, 3, Duration::from_secs(3600), length), 0);
        let lengths: Vec<_> = all.iter().map(|(from, until)| until - from).collect();
        assert!((90..160).contains(&all.len()), "{}", all.len());
        let range = 10 * MINUTE - 500..=30 * MINUTE;
        assert!(lengths.iter().all(|length| range.contains(length)));
        let mean = lengths.iter().sum::<i64>() / lengths.len() as i64;
        assert!((17 * MINUTE..23 * MINUTE).contains(&mean), "{mean}");
    }
}
