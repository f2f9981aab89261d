//! How many records of a destination the drain has in flight, and how long it pauses after a failure: pure.

use std::time::{Duration, Instant};

const MOST: usize = 1_000;
/// Fewer are never the reason for slow reports.
const FEWEST: usize = 32;
/// Reports within this are prompt.
const PROMPT: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Starts at one record, doubles while reports are prompt, halves when they are not: then live traffic suffers, too.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    /// Prompt reports since it last changed.
    prompt: usize,
    changed: Instant,
    /// The quickest report so far: a cluster far away is not slow because of us.
    quickest: Duration,
}

impl Window {
    pub fn new(now: Instant) -> Self {
        Self {
            size: 1,
            prompt: 0,
            changed: now,
            quickest: Duration::MAX,
        }
    }

    pub fn size(&self) -> usize {
        self.size
    }

    /// A report that takes longer is slow.
    pub fn prompt(&self) -> Duration {
        let twice = self.quickest.checked_mul(2).unwrap_or(PROMPT);
        PROMPT.max(twice.min(LONGEST_PAUSE))
    }

    /// A record was confirmed.
    pub fn confirmed(&mut self, took: Duration, now: Instant) {
        self.quickest = self.quickest.min(took);
        if took <= self.prompt() {
            self.prompt += 1;
            if self.prompt >= self.size && self.size < MOST {
                self.change((self.size * 2).min(MOST), now);
            }
        } else if self.size > FEWEST && now.duration_since(self.changed) > took {
            // Not for those that were handed over before the last change.
            self.change((self.size / 2).max(FEWEST), now);
        } else {
            self.prompt = 0;
        }
    }

    fn change(&mut self, size: usize, now: Instant) {
        self.size = size;
        self.prompt = 0;
        self.changed = now;
    }
}

/// Between two tries.
#[derive(Debug)]
pub(super) struct Pause {
    until: Option<Instant>,
    next: Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self {
            until: None,
            next: PAUSE,
        }
    }
}

impl Pause {
    /// It did not work: longer each time.
    pub fn begin(&mut self, now: Instant) {
        self.until = Some(now + self.next);
        self.next = (self.next * 2).min(LONGEST_PAUSE);
    }

    /// It worked.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// How much longer.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_window_grows_by_prompt_reports_and_shrinks_by_slow_ones() {
        let mut now = Instant::now();
        let mut window = Window::new(now);
        let mut sizes = vec![window.size()];
        for _ in 0..5_000 {
            now += MS;
            window.confirmed(5 * MS, now);
            sizes.push(window.size());
        }
        sizes.dedup();
        assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]);
        now += 400 * MS;
        for _ in 0..1_000 {
            window.confirmed(300 * MS, now);
        }
        assert_eq!(window.size(), 500, "one step for all that were in flight");
        for _ in 0..20 {
            now += 400 * MS;
            window.confirmed(300 * MS, now);
        }
        assert_eq!(window.size(), FEWEST);
    }

    #[test]
    fn a_cluster_far_away_is_not_slow() {
        let mut now = Instant::now();
        let mut window = Window::new(now);
        for _ in 0..5_000 {
            now += 400 * MS;
            window.confirmed(400 * MS, now);
        }
        assert_eq!(window.size(), MOST);
    }

    #[test]
    fn pauses_double_up_to_two_seconds() {
        let now = Instant::now();
        let mut pause = Pause::default();
        assert_eq!(pause.left(now), None);
        let lengths: Vec<_> = (0..7)
            .map(|_| {
                pause.begin(now);
                pause.left(now).unwrap().as_millis()
            })
            .collect();
        assert_eq!(lengths, [100, 200, 400, 800, 1_600, 2_000, 2_000]);
        assert_eq!(pause.left(now + LONGEST_PAUSE), None);
        pause.reset();
        pause.begin(now);
        assert_eq!(pause.left(now), Some(PAUSE));
    }
}
