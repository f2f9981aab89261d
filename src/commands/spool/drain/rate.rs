//! How fast it goes, and how long it will take.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What is older says nothing about now.
const WINDOW: Duration = Duration::from_secs(10);

/// What was done by when, of the last seconds.
#[derive(Default)]
pub struct DrainRate(VecDeque<(Instant, u64)>);

impl DrainRate {
    /// So much was done by `now`.
    pub fn record(&mut self, now: Instant, done: u64) {
        self.0.push_back((now, done));
        let is_old = |at: Instant| now.duration_since(at) > WINDOW;
        while self.0.front().is_some_and(|(at, _)| is_old(*at)) {
            self.0.pop_front();
        }
    }

    /// In a second; `None` before anything can be said.
    pub fn per_second(&self) -> Option<f64> {
        let ((began, before), (now, done)) = (self.0.front()?, self.0.back()?);
        let seconds = now.duration_since(*began).as_secs_f64();
        (seconds > 0.0).then(|| done.saturating_sub(*before) as f64 / seconds)
    }

    /// Rate and rest, in words.
    pub fn to_text(&self, left: u64) -> String {
        match self.per_second() {
            None => String::new(),
            Some(rate) if rate < 0.5 => "0/s".to_owned(),
            Some(rate) => {
                let seconds = (left as f64 / rate).ceil() as u64;
                let rest = humantime::format_duration(Duration::from_secs(seconds));
                format!("{rate:.0}/s  about {rest} left")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_seconds_count() {
        let began = Instant::now();
        let mut pace = DrainRate::default();
        assert_eq!(pace.to_text(5), "");
        pace.record(began, 0);
        assert_eq!(pace.per_second(), None, "one look is no rate");
        // A slow beginning, then 100 a second.
        for second in 1..=60 {
            pace.record(
                began + Duration::from_secs(second),
                second.saturating_sub(30) * 100,
            );
        }
        assert_eq!(pace.per_second(), Some(100.0));
        assert_eq!(pace.to_text(12_000), "100/s  about 2m left");
        for second in 61..=80 {
            pace.record(began + Duration::from_secs(second), 3_000);
        }
        assert_eq!(pace.to_text(12_000), "0/s", "and never is no time to name");
    }
}
