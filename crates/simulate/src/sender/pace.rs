//! When each delivery is due. Nothing is sent that lies in the future: a simulated clock that has caught up with the
//! wall clock goes on with it.

use std::time::{Duration, Instant};

use butlr_event::clock::now_ms;

/// How fast the simulated clock runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many times as fast as real time: an open loop.
    Speed(f64),
    /// So many events a second, whatever the simulated clock says: an open loop.
    Rate(f64),
    /// As fast as answers come: a closed loop.
    Max,
}

impl Pace {
    /// As it happens.
    pub const REAL_TIME: Self = Self::Speed(1.0);
}

/// The moments of the open loops lie on a grid, so that a thread that wakes each millisecond is on time.
const GRID: Duration = Duration::from_millis(1);

/// A delivery that is due now is known only once the simulated clock is a little further: by a slot of the stream's.
pub(super) const AHEAD_MS: i64 = 256;

/// For how long the rest is sent after the end: shorter than the sender waits for a success before it gives up.
const REST: Duration = Duration::from_secs(10);

/// As many events a second are not too many for the rest, however few there were before.
const FEW: f64 = 100.0;

/// Turns the simulated clock into moments.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    pace: Pace,
    begun: Instant,
    begun_ms: i64,
    start_ms: i64,
    sent: u64,
    caught_up: bool,
    /// Since the end: from when on, how many a second, and how many so far.
    rest: Option<(Instant, f64, u64)>,
}

/// When a delivery may go out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Moment {
    /// Whenever there is a connection for it.
    Any,
    /// Not before; what happens later is late.
    At(Instant),
}

impl Pacer {
    /// A run begins now with its simulated clock at `start_ms`.
    pub(super) fn begin(pace: Pace, start_ms: i64) -> Self {
        Self {
            pace,
            begun: Instant::now(),
            begun_ms: now_ms(),
            start_ms,
            sent: 0,
            caught_up: false,
            rest: None,
        }
    }

    /// Whether it is an open loop.
    pub(super) fn is_paced(&self) -> bool {
        self.pace != Pace::Max
    }

    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// Whether the simulated clock has caught up with the wall clock.
    pub(super) fn caught_up(&self) -> bool {
        self.caught_up
    }

    /// The moment of the next delivery, which is due at this simulated one.
    pub(super) fn next(&mut self, due_ms: i64) -> Moment {
        let number = self.sent;
        self.sent += 1;
        let paced = match self.pace {
            Pace::Speed(speed) => {
                let since_ms = due_ms.saturating_sub(self.start_ms).max(0) as f64 / speed;
                Some(on_grid(since_ms / 1000.0))
            }
            Pace::Rate(rate) => Some(on_grid(number as f64 / rate)),
            Pace::Max => None,
        };
        let happened = self.happened(due_ms);
        match paced {
            // In real time the two are the same but for the start's milliseconds.
            _ if self.pace == Pace::REAL_TIME && self.start_ms >= self.begun_ms => {}
            Some(paced) if happened > paced => self.caught_up = true,
            // Somebody's answers are slower than the clock: not yet caught up.
            None if happened > self.begun.elapsed() => self.caught_up = true,
            _ => {}
        }
        match paced {
            Some(paced) => Moment::At(after(self.begun, paced.max(happened))),
            None if self.caught_up => Moment::At(after(self.begun, happened)),
            None => Moment::Any,
        }
    }

    /// The run has ended: from `now` on only what is left goes out.
    pub(super) fn end(&mut self, now: Instant) {
        let so_far = self.sent as f64 / (now - self.begun).as_secs_f64().max(0.001);
        let rate = match self.pace {
            Pace::Rate(rate) => rate,
            Pace::Speed(_) | Pace::Max => so_far.max(FEW),
        };
        self.rest = Some((now, rate, 0));
    }

    /// After the end, the moment of the next delivery, whenever it was due: no faster than at the rate asked for, or than
    /// so far. `None` when that takes too long.
    pub(super) fn next_of_rest(&mut self) -> Option<Moment> {
        let (since, rate, sent) = self.rest.as_mut()?;
        if self.pace == Pace::Max {
            return Some(Moment::Any);
        }
        *sent += 1;
        let later = on_grid(*sent as f64 / *rate);
        (later <= REST).then(|| Moment::At(*since + later))
    }

    /// How far the simulated clock may run, so that nothing is missed that is due within `ahead`: never more than
    /// [`AHEAD_MS`] beyond the wall clock.
    pub(super) fn until_ms(&self, now: Instant, ahead: Duration) -> i64 {
        let elapsed = now.saturating_duration_since(self.begun);
        let wall = self.begun_ms.saturating_add(elapsed.as_millis() as i64);
        let simulated = match self.pace {
            Pace::Speed(speed) => {
                let run = elapsed.saturating_add(ahead).as_secs_f64() * speed * 1000.0;
                self.start_ms.saturating_add(run as i64)
            }
            Pace::Rate(_) | Pace::Max => i64::MAX,
        };
        simulated.min(wall).saturating_add(AHEAD_MS)
    }

    /// How far the simulated clock may run while a delivery waits that is due at `due_ms`: what is next is then known.
    pub(super) fn ahead_ms(&self, until_ms: i64, due_ms: i64) -> i64 {
        match self.pace {
            Pace::Speed(_) => until_ms,
            // That clock runs as events go out.
            Pace::Rate(_) | Pace::Max => until_ms.min(due_ms.saturating_add(AHEAD_MS)),
        }
    }

    /// When the wall clock has passed this moment.
    pub(super) fn happened_at(&self, at_ms: i64) -> Instant {
        after(self.begun, self.happened(at_ms))
    }

    /// From the beginning on; zero when it passed it before.
    fn happened(&self, at_ms: i64) -> Duration {
        let ahead = at_ms.saturating_sub(self.begun_ms).max(0);
        Duration::from_millis(ahead as u64)
    }
}

/// What lies beyond all clocks is as good as never.
pub(super) fn after(begun: Instant, since: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(100 * 366 * 86_400);
    begun.checked_add(since).unwrap_or(begun + NEVER)
}

fn on_grid(seconds: f64) -> Duration {
    let since = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    let slots = since.as_nanos().div_ceil(GRID.as_nanos());
    u32::try_from(slots).map_or(since, |slots| GRID * slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn since(pacer: &Pacer, moment: Moment) -> Option<Duration> {
        match moment {
            Moment::Any => None,
            Moment::At(at) => Some(at - pacer.begun),
        }
    }

    fn next(pacer: &mut Pacer, due_ms: i64) -> Option<Duration> {
        let moment = pacer.next(due_ms);
        since(pacer, moment)
    }

    fn pacer(pace: Pace, start_before_ms: i64) -> (Pacer, i64) {
        let mut pacer = Pacer::begin(pace, 0);
        pacer.start_ms = pacer.begun_ms - start_before_ms;
        let start_ms = pacer.start_ms;
        (pacer, start_ms)
    }

    #[test]
    fn real_time_and_faster() {
        let (mut real, start) = pacer(Pace::REAL_TIME, 0);
        assert_eq!(
            next(&mut real, start + 1500),
            Some(Duration::from_millis(1500))
        );
        assert!(!real.caught_up());
        let (mut fast, start) = pacer(Pace::Speed(60.0), HOUR_MS);
        assert_eq!(
            next(&mut fast, start + 60_000),
            Some(Duration::from_secs(1))
        );
        assert_eq!(
            next(&mut fast, start + 61),
            Some(Duration::from_millis(2)),
            "on the grid, and never early"
        );
        assert!(!fast.caught_up());
    }

    #[test]
    fn nothing_is_sent_that_lies_in_the_future() {
        for pace in [Pace::Speed(60.0), Pace::Rate(1000.0), Pace::Max] {
            let (mut pacer, start) = pacer(pace, HOUR_MS);
            let soon = next(&mut pacer, start + 1);
            assert!(soon.is_none_or(|soon| soon <= Duration::from_millis(1)));
            assert!(!pacer.caught_up());
            let future = start + 2 * HOUR_MS;
            assert_eq!(
                next(&mut pacer, future),
                Some(Duration::from_secs(3600)),
                "{pace:?}"
            );
            assert!(pacer.caught_up(), "{pace:?}");
            assert!(next(&mut pacer, future + 1).is_some(), "on in real time");
        }
    }

    #[test]
    fn the_simulated_clock_stays_near_the_wall_clock() {
        let second = Duration::from_secs(1);
        for pace in [Pace::REAL_TIME, Pace::Max, Pace::Rate(5.0)] {
            let (pacer, start) = pacer(pace, 0);
            let until = pacer.until_ms(pacer.begun + second, second);
            assert_eq!(until, start + 1000 + AHEAD_MS, "{pace:?}");
        }
        let (fast, start) = pacer(Pace::Speed(60.0), HOUR_MS);
        let until = fast.until_ms(fast.begun + second, second);
        assert_eq!(until, start + 120_000 + AHEAD_MS);
        let late = fast.until_ms(fast.begun + 100 * second, second);
        assert_eq!(late, fast.begun_ms + 100_000 + AHEAD_MS);
    }

    #[test]
    fn the_rest_goes_out_at_the_rate_and_not_for_ever() {
        for (pace, sent, each) in [
            (Pace::Rate(20.0), 60, 50),
            (Pace::REAL_TIME, 3, 10),
            (Pace::REAL_TIME, 600, 5),
        ] {
            let (mut pacer, start) = pacer(pace, HOUR_MS);
            for _ in 0..sent {
                pacer.next(start);
            }
            let ended = pacer.begun + Duration::from_secs(3);
            pacer.end(ended);
            for number in 1..=10_000 / each {
                let at = ended + Duration::from_millis(each * number);
                assert_eq!(pacer.next_of_rest(), Some(Moment::At(at)), "{pace:?}");
            }
            assert_eq!(pacer.next_of_rest(), None);
        }
        let (mut max, _) = pacer(Pace::Max, HOUR_MS);
        max.end(max.begun);
        assert!((0..10_000).all(|_| max.next_of_rest() == Some(Moment::Any)));
    }

    #[test]
    fn no_pace_and_no_moment_is_too_far_off() {
        for pace in [0.0, -1.0, f64::MIN_POSITIVE, f64::INFINITY, f64::NAN] {
            for pace in [Pace::Speed(pace), Pace::Rate(pace)] {
                let (mut pacer, start) = pacer(pace, 0);
                for due_ms in [start, start + 5, i64::MAX, i64::MIN] {
                    pacer.next(due_ms);
                    pacer.until_ms(after(pacer.begun, Duration::MAX), Duration::MAX);
                }
                pacer.end(pacer.begun);
                pacer.next_of_rest();
            }
        }
    }

    #[test]
    fn a_rate_counts_events() {
        let (mut pacer, start) = pacer(Pace::Rate(1000.0), HOUR_MS);
        for number in 0..5 {
            assert_eq!(next(&mut pacer, start), Some(Duration::from_millis(number)));
        }
    }
}
