//! Limit of a destination's records in flight, and its pause after a failure. Pure.

use std::time::{Duration, Instant};

const MAX_SIZE: usize = 1_000;
/// A window of this size is never the reason for slow reports.
const MIN_SHRUNK_SIZE: usize = 32;
/// Reports within this time always count as prompt.
const PROMPT_REPORT: Duration = Duration::from_millis(250);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Limit of records in flight: starts at one, doubles while reports are prompt, and halves when
/// they are slow, because live traffic then suffers too.
#[derive(Debug)]
pub(super) struct DrainWindow {
    size: usize,
    /// Prompt reports since the last resize, or since the last slow one.
    prompt_reports: usize,
    resized_at: Instant,
    /// The fastest report so far: a distant cluster is slow without the drain's doing.
    fastest: Duration,
}

impl DrainWindow {
    pub fn new(now: Instant) -> Self {
        Self {
            size: 1,
            prompt_reports: 0,
            resized_at: now,
            fastest: Duration::MAX,
        }
    }

    pub fn size(&self) -> usize {
        self.size
    }

    /// Time after which a report is slow.
    pub fn prompt_limit(&self) -> Duration {
        let twice = self.fastest.checked_mul(2).unwrap_or(PROMPT_REPORT);
        PROMPT_REPORT.max(twice.min(MAX_PAUSE))
    }

    pub fn record_confirmation(&mut self, took: Duration, now: Instant) {
        self.fastest = self.fastest.min(took);
        if took <= self.prompt_limit() {
            self.prompt_reports += 1;
            if self.prompt_reports >= self.size && self.size < MAX_SIZE {
                self.resize((self.size * 2).min(MAX_SIZE), now);
            }
        } else if self.size > MIN_SHRUNK_SIZE && now.duration_since(self.resized_at) > took {
            // Records sent before the last resize do not count.
            self.resize((self.size / 2).max(MIN_SHRUNK_SIZE), now);
        } else {
            self.prompt_reports = 0;
        }
    }

    fn resize(&mut self, size: usize, now: Instant) {
        self.size = size;
        self.prompt_reports = 0;
        self.resized_at = now;
    }
}

/// Pause between attempts, doubling with each failure.
#[derive(Debug)]
pub(super) struct DrainBackoff {
    until: Option<Instant>,
    next: Duration,
}

impl Default for DrainBackoff {
    fn default() -> Self {
        Self {
            until: None,
            next: FIRST_PAUSE,
        }
    }
}

impl DrainBackoff {
    pub fn start(&mut self, now: Instant) {
        self.until = Some(now + self.next);
        self.next = (self.next * 2).min(MAX_PAUSE);
    }

    pub fn reset(&mut self) {
        *self = Self::default();
    }

    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        let remaining = self.until?.saturating_duration_since(now);
        (!remaining.is_zero()).then_some(remaining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_window_grows_by_prompt_reports_and_shrinks_by_slow_ones() {
        let mut now = Instant::now();
        let mut window = DrainWindow::new(now);
        let mut sizes = vec![window.size()];
        for _ in 0..5_000 {
            now += MS;
            window.record_confirmation(5 * MS, now);
            sizes.push(window.size());
        }
        sizes.dedup();
        assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]);
        now += 400 * MS;
        for _ in 0..1_000 {
            window.record_confirmation(300 * MS, now);
        }
        assert_eq!(window.size(), 500, "one step for all records in flight");
        for _ in 0..20 {
            now += 400 * MS;
            window.record_confirmation(300 * MS, now);
        }
        assert_eq!(window.size(), MIN_SHRUNK_SIZE);
    }

    #[test]
    fn a_distant_cluster_is_not_slow() {
        let mut now = Instant::now();
        let mut window = DrainWindow::new(now);
        for _ in 0..5_000 {
            now += 400 * MS;
            window.record_confirmation(400 * MS, now);
        }
        assert_eq!(window.size(), MAX_SIZE);
    }

    #[test]
    fn pauses_double_up_to_two_seconds() {
        let now = Instant::now();
        let mut backoff = DrainBackoff::default();
        assert_eq!(backoff.remaining(now), None);
        let pauses: Vec<_> = (0..7)
            .map(|_| {
                backoff.start(now);
                backoff.remaining(now).unwrap().as_millis()
            })
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 2_000, 2_000]);
        assert_eq!(backoff.remaining(now + MAX_PAUSE), None);
        backoff.reset();
        backoff.start(now);
        assert_eq!(backoff.remaining(now), Some(FIRST_PAUSE));
    }
}
