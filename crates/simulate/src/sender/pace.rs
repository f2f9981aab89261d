//! When each delivery is due. Nothing is sent that lies in the future: a simulated clock that has caught up with the
//! wall clock goes on with it.

use std::time::{Duration, Instant};

use butlr_event::clock::now_ms;

/// How fast the simulated clock runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SendPace {
    /// So many times as fast as real time: an open loop.
    Speed(f64),
    /// So many events a second, whatever the simulated clock says: an open loop.
    Rate(f64),
    /// As fast as answers come: a closed loop.
    Max,
}

impl SendPace {
    /// As it happens.
    pub const REAL_TIME: Self = Self::Speed(1.0);
}

/// The moments of the open loops lie on a grid, so that a thread that wakes each millisecond is on time.
const SEND_GRID: Duration = Duration::from_millis(1);

/// A delivery that is due now is known only once the simulated clock is a little further: by a slot of the stream's.
pub(super) const LOOKAHEAD_MS: i64 = 256;

/// For how long the rest is sent after the end: shorter than the sender waits for a success before it gives up.
const MAX_REST_DURATION: Duration = Duration::from_secs(10);

/// As many events a second are not too many for the rest, however few there were before.
const MIN_REST_RATE: f64 = 100.0;

/// Turns the simulated clock into moments.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    pace: SendPace,
    started_at: Instant,
    started_ms: i64,
    start_ms: i64,
    sent: u64,
    caught_up: bool,
    /// Since the end: from when on, how many a second, and how many so far.
    rest: Option<(Instant, f64, u64)>,
}

/// When a delivery may go out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum SendTime {
    /// Whenever there is a connection for it.
    Any,
    /// Not before; what happens later is late.
    At(Instant),
}

impl Pacer {
    /// A run begins now with its simulated clock at `start_ms`.
    pub(super) fn new(pace: SendPace, start_ms: i64) -> Self {
        Self {
            pace,
            started_at: Instant::now(),
            started_ms: now_ms(),
            start_ms,
            sent: 0,
            caught_up: false,
            rest: None,
        }
    }

    /// Whether it is an open loop.
    pub(super) fn is_paced(&self) -> bool {
        self.pace != SendPace::Max
    }

    pub(super) fn started_at(&self) -> Instant {
        self.started_at
    }

    /// Whether the simulated clock has caught up with the wall clock.
    pub(super) fn has_caught_up(&self) -> bool {
        self.caught_up
    }

    /// The moment of the next delivery, which is due at this simulated one.
    pub(super) fn schedule_next(&mut self, due_ms: i64) -> SendTime {
        let number = self.sent;
        self.sent += 1;
        let paced = match self.pace {
            SendPace::Speed(speed) => {
                let since_ms = due_ms.saturating_sub(self.start_ms).max(0) as f64 / speed;
                Some(round_up_to_grid(since_ms / 1000.0))
            }
            SendPace::Rate(rate) => Some(round_up_to_grid(number as f64 / rate)),
            SendPace::Max => None,
        };
        let happened = self.offset_of(due_ms);
        match paced {
            // In real time the two are the same but for the start's milliseconds.
            _ if self.pace == SendPace::REAL_TIME && self.start_ms >= self.started_ms => {}
            Some(paced) if happened > paced => self.caught_up = true,
            // Somebody's answers are slower than the clock: not yet caught up.
            None if happened > self.started_at.elapsed() => self.caught_up = true,
            _ => {}
        }
        match paced {
            Some(paced) => SendTime::At(saturating_after(self.started_at, paced.max(happened))),
            None if self.caught_up => SendTime::At(saturating_after(self.started_at, happened)),
            None => SendTime::Any,
        }
    }

    /// The run has ended: from `now` on only what is left goes out.
    pub(super) fn start_rest(&mut self, now: Instant) {
        let so_far = self.sent as f64 / (now - self.started_at).as_secs_f64().max(0.001);
        let rate = match self.pace {
            SendPace::Rate(rate) => rate,
            SendPace::Speed(_) | SendPace::Max => so_far.max(MIN_REST_RATE),
        };
        self.rest = Some((now, rate, 0));
    }

    /// After the end, the moment of the next delivery, whenever it was due: no faster than at the rate asked for, or than
    /// so far. `None` when that takes too long.
    pub(super) fn schedule_rest(&mut self) -> Option<SendTime> {
        let (since, rate, sent) = self.rest.as_mut()?;
        if self.pace == SendPace::Max {
            return Some(SendTime::Any);
        }
        *sent += 1;
        let later = round_up_to_grid(*sent as f64 / *rate);
        (later <= MAX_REST_DURATION).then(|| SendTime::At(*since + later))
    }

    /// How far the simulated clock may run, so that nothing is missed that is due within `ahead`: never more than
    /// [`AHEAD_MS`] beyond the wall clock.
    pub(super) fn clock_limit_ms(&self, now: Instant, ahead: Duration) -> i64 {
        let elapsed = now.saturating_duration_since(self.started_at);
        let wall = self.started_ms.saturating_add(elapsed.as_millis() as i64);
        let simulated = match self.pace {
            SendPace::Speed(speed) => {
                let run = elapsed.saturating_add(ahead).as_secs_f64() * speed * 1000.0;
                self.start_ms.saturating_add(run as i64)
            }
            SendPace::Rate(_) | SendPace::Max => i64::MAX,
        };
        simulated.min(wall).saturating_add(LOOKAHEAD_MS)
    }

    /// How far the simulated clock may run while a delivery waits that is due at `due_ms`: what is next is then known.
    pub(super) fn lookahead_limit_ms(&self, until_ms: i64, due_ms: i64) -> i64 {
        match self.pace {
            SendPace::Speed(_) => until_ms,
            // That clock runs as events go out.
            SendPace::Rate(_) | SendPace::Max => until_ms.min(due_ms.saturating_add(LOOKAHEAD_MS)),
        }
    }

    /// When the wall clock has passed this moment.
    pub(super) fn instant_of(&self, at_ms: i64) -> Instant {
        saturating_after(self.started_at, self.offset_of(at_ms))
    }

    /// From the beginning on; zero when it passed it before.
    fn offset_of(&self, at_ms: i64) -> Duration {
        let ahead = at_ms.saturating_sub(self.started_ms).max(0);
        Duration::from_millis(ahead as u64)
    }
}

/// What lies beyond all clocks is as good as never.
pub(super) fn saturating_after(begun: Instant, since: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(100 * 366 * 86_400);
    begun.checked_add(since).unwrap_or(begun + NEVER)
}

fn round_up_to_grid(seconds: f64) -> Duration {
    let since = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    let slots = since.as_nanos().div_ceil(SEND_GRID.as_nanos());
    u32::try_from(slots).map_or(since, |slots| SEND_GRID * slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn since(pacer: &Pacer, moment: SendTime) -> Option<Duration> {
        match moment {
            SendTime::Any => None,
            SendTime::At(at) => Some(at - pacer.started_at),
        }
    }

    fn next(pacer: &mut Pacer, due_ms: i64) -> Option<Duration> {
        let moment = pacer.schedule_next(due_ms);
        since(pacer, moment)
    }

    fn pacer(pace: SendPace, start_before_ms: i64) -> (Pacer, i64) {
        let mut pacer = Pacer::new(pace, 0);
        pacer.start_ms = pacer.started_ms - start_before_ms;
        let start_ms = pacer.start_ms;
        (pacer, start_ms)
    }

    #[test]
    fn real_time_and_faster() {
        let (mut real, start) = pacer(SendPace::REAL_TIME, 0);
        assert_eq!(
            next(&mut real, start + 1500),
            Some(Duration::from_millis(1500))
        );
        assert!(!real.has_caught_up());
        let (mut fast, start) = pacer(SendPace::Speed(60.0), HOUR_MS);
        assert_eq!(
            next(&mut fast, start + 60_000),
            Some(Duration::from_secs(1))
        );
        assert_eq!(
            next(&mut fast, start + 61),
            Some(Duration::from_millis(2)),
            "on the grid, and never early"
        );
        assert!(!fast.has_caught_up());
    }

    #[test]
    fn nothing_is_sent_that_lies_in_the_future() {
        for pace in [SendPace::Speed(60.0), SendPace::Rate(1000.0), SendPace::Max] {
            let (mut pacer, start) = pacer(pace, HOUR_MS);
            let soon = next(&mut pacer, start + 1);
            assert!(soon.is_none_or(|soon| soon <= Duration::from_millis(1)));
            assert!(!pacer.has_caught_up());
            let future = start + 2 * HOUR_MS;
            assert_eq!(
                next(&mut pacer, future),
                Some(Duration::from_secs(3600)),
                "{pace:?}"
            );
            assert!(pacer.has_caught_up(), "{pace:?}");
            assert!(next(&mut pacer, future + 1).is_some(), "on in real time");
        }
    }

    #[test]
    fn the_simulated_clock_stays_near_the_wall_clock() {
        let second = Duration::from_secs(1);
        for pace in [SendPace::REAL_TIME, SendPace::Max, SendPace::Rate(5.0)] {
            let (pacer, start) = pacer(pace, 0);
            let until = pacer.clock_limit_ms(pacer.started_at + second, second);
            assert_eq!(until, start + 1000 + LOOKAHEAD_MS, "{pace:?}");
        }
        let (fast, start) = pacer(SendPace::Speed(60.0), HOUR_MS);
        let until = fast.clock_limit_ms(fast.started_at + second, second);
        assert_eq!(until, start + 120_000 + LOOKAHEAD_MS);
        let late = fast.clock_limit_ms(fast.started_at + 100 * second, second);
        assert_eq!(late, fast.started_ms + 100_000 + LOOKAHEAD_MS);
    }

    #[test]
    fn the_rest_goes_out_at_the_rate_and_not_for_ever() {
        for (pace, sent, each) in [
            (SendPace::Rate(20.0), 60, 50),
            (SendPace::REAL_TIME, 3, 10),
            (SendPace::REAL_TIME, 600, 5),
        ] {
            let (mut pacer, start) = pacer(pace, HOUR_MS);
            for _ in 0..sent {
                pacer.schedule_next(start);
            }
            let ended = pacer.started_at + Duration::from_secs(3);
            pacer.start_rest(ended);
            for number in 1..=10_000 / each {
                let at = ended + Duration::from_millis(each * number);
                assert_eq!(pacer.schedule_rest(), Some(SendTime::At(at)), "{pace:?}");
            }
            assert_eq!(pacer.schedule_rest(), None);
        }
        let (mut max, _) = pacer(SendPace::Max, HOUR_MS);
        max.start_rest(max.started_at);
        assert!((0..10_000).all(|_| max.schedule_rest() == Some(SendTime::Any)));
    }

    #[test]
    fn no_pace_and_no_moment_is_too_far_off() {
        for pace in [0.0, -1.0, f64::MIN_POSITIVE, f64::INFINITY, f64::NAN] {
            for pace in [SendPace::Speed(pace), SendPace::Rate(pace)] {
                let (mut pacer, start) = pacer(pace, 0);
                for due_ms in [start, start + 5, i64::MAX, i64::MIN] {
                    pacer.schedule_next(due_ms);
                    pacer.clock_limit_ms(
                        saturating_after(pacer.started_at, Duration::MAX),
                        Duration::MAX,
                    );
                }
                pacer.start_rest(pacer.started_at);
                pacer.schedule_rest();
            }
        }
    }

    #[test]
    fn a_rate_counts_events() {
        let (mut pacer, start) = pacer(SendPace::Rate(1000.0), HOUR_MS);
        for number in 0..5 {
            assert_eq!(next(&mut pacer, start), Some(Duration::from_millis(number)));
        }
    }
}
