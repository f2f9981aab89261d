//! Rate of a drain and the estimated time left.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Window over which the rate is measured.
const WINDOW: Duration = Duration::from_secs(10);

/// Progress samples of the last seconds.
#[derive(Default)]
pub struct DrainRate(VecDeque<(Instant, u64)>);

impl DrainRate {
    /// Adds a sample: `done` entries were drained by `now`.
    pub fn record(&mut self, now: Instant, done: u64) {
        self.0.push_back((now, done));
        while self
            .0
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > WINDOW)
        {
            self.0.pop_front();
        }
    }

    /// Returns the entries per second; `None` until there are two samples.
    pub fn per_second(&self) -> Option<f64> {
        let ((start, before), (now, done)) = (self.0.front()?, self.0.back()?);
        let seconds = now.duration_since(*start).as_secs_f64();
        (seconds > 0.0).then(|| done.saturating_sub(*before) as f64 / seconds)
    }

    /// Describes the rate and the time left for the remaining entries.
    pub fn to_text(&self, remaining: u64) -> String {
        match self.per_second() {
            None => String::new(),
            Some(rate) if rate < 0.5 => "0/s".to_owned(),
            Some(rate) => {
                let seconds = (remaining as f64 / rate).ceil() as u64;
                let time_left = humantime::format_duration(Duration::from_secs(seconds));
                format!("{rate:.0}/s  about {time_left} left")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_seconds_count() {
        let start = Instant::now();
        let mut rate = DrainRate::default();
        assert_eq!(rate.to_text(5), "");
        rate.record(start, 0);
        assert_eq!(rate.per_second(), None, "one sample gives no rate");
        // Nothing for 30 s, then 100 entries per second.
        for second in 1..=60 {
            rate.record(
                start + Duration::from_secs(second),
                second.saturating_sub(30) * 100,
            );
        }
        assert_eq!(rate.per_second(), Some(100.0));
        assert_eq!(rate.to_text(12_000), "100/s  about 2m left");
        for second in 61..=80 {
            rate.record(start + Duration::from_secs(second), 3_000);
        }
        assert_eq!(rate.to_text(12_000), "0/s", "no estimate at rate 0");
    }
}
