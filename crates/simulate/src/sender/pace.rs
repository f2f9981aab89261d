//! Send time of each delivery. No event from the future is sent: once the simulated clock has
//! caught up with the wall clock, it continues in real time.

use std::time::{Duration, Instant};

use crate::ledger::LoopKind;
use butlr_event::clock::now_ms;

/// Pace of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SendPace {
    /// Multiple of real time: an open loop.
    Speed(f64),
    /// Events per second, regardless of the simulated clock: an open loop.
    Rate(f64),
    /// As fast as the responses arrive: a closed loop.
    Max,
}

impl SendPace {
    /// Real time.
    pub const REAL_TIME: Self = Self::Speed(1.0);

    pub(super) fn loop_kind(self) -> LoopKind {
        match self {
            Self::Speed(_) | Self::Rate(_) => LoopKind::Open,
            Self::Max => LoopKind::Closed,
        }
    }
}

/// Grid for the send times of open loops, so that a thread that wakes every millisecond is on time.
const SEND_GRID: Duration = Duration::from_millis(1);

/// Lead of the simulated clock: a delivery that is due now is known only once the clock has passed
/// its slot of the stream's agenda.
pub(super) const LOOKAHEAD_MS: i64 = 256;

/// Maximum time for the rest after the end: shorter than the time without success after which the
/// sender gives up.
const MAX_REST_DURATION: Duration = Duration::from_secs(10);

/// Minimum rate for the rest in events per second, however low the rate was before.
const MIN_REST_RATE: f64 = 100.0;

/// Converts the simulated clock to send times.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    pace: SendPace,
    started_at: Instant,
    /// Wall clock at the start of the run.
    started_ms: i64,
    /// Simulated clock at the start of the run.
    start_ms: i64,
    sent: u64,
    caught_up: bool,
    /// Set after the end.
    rest: Option<RestPace>,
}

/// Pace of the rest after the end.
#[derive(Clone, Debug)]
struct RestPace {
    since: Instant,
    events_per_s: f64,
    sent: u64,
}

/// Time at which a delivery may be sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum SendTime {
    /// As soon as a connection is free.
    Any,
    /// At this moment; anything later counts as latency.
    At(Instant),
}

impl Pacer {
    /// A run that starts now with the simulated clock at `start_ms`.
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

    /// Returns `true` for an open loop.
    pub(super) fn is_paced(&self) -> bool {
        self.pace.loop_kind() == LoopKind::Open
    }

    pub(super) fn started_at(&self) -> Instant {
        self.started_at
    }

    /// Returns `true` if the simulated clock has caught up with the wall clock.
    pub(super) fn has_caught_up(&self) -> bool {
        self.caught_up
    }

    /// The send time of the next delivery, which is due at `due_ms` on the simulated clock.
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
            // In real time the two clocks differ only by the milliseconds of the start.
            _ if self.pace == SendPace::REAL_TIME && self.start_ms >= self.started_ms => {}
            Some(paced) if happened > paced => self.caught_up = true,
            // While responses are slower than the clock, it has not caught up.
            None if happened > self.started_at.elapsed() => self.caught_up = true,
            _ => {}
        }
        match paced {
            Some(paced) => SendTime::At(saturating_after(self.started_at, paced.max(happened))),
            None if self.caught_up => SendTime::At(saturating_after(self.started_at, happened)),
            None => SendTime::Any,
        }
    }

    /// Ends the run: from `now` on only the rest is sent.
    pub(super) fn start_rest(&mut self, now: Instant) {
        let rate_so_far = self.sent as f64 / (now - self.started_at).as_secs_f64().max(0.001);
        let events_per_s = match self.pace {
            SendPace::Rate(rate) => rate,
            SendPace::Speed(_) | SendPace::Max => rate_so_far.max(MIN_REST_RATE),
        };
        self.rest = Some(RestPace {
            since: now,
            events_per_s,
            sent: 0,
        });
    }

    /// The send time of the next delivery after the end, regardless of its due time: no faster than
    /// at the requested rate or the rate so far. `None` if that takes too long.
    pub(super) fn schedule_rest(&mut self) -> Option<SendTime> {
        let rest = self.rest.as_mut()?;
        if self.pace == SendPace::Max {
            return Some(SendTime::Any);
        }
        rest.sent += 1;
        let delay = round_up_to_grid(rest.sent as f64 / rest.events_per_s);
        (delay <= MAX_REST_DURATION).then(|| SendTime::At(rest.since + delay))
    }

    /// Limit up to which the simulated clock may run, so that everything due within `ahead` is
    /// known: at most [`LOOKAHEAD_MS`] beyond the wall clock.
    pub(super) fn clock_limit_ms(&self, now: Instant, ahead: Duration) -> i64 {
        let elapsed = now.saturating_duration_since(self.started_at);
        let wall_ms = self.started_ms.saturating_add(elapsed.as_millis() as i64);
        let simulated_ms = match self.pace {
            SendPace::Speed(speed) => {
                let run_ms = elapsed.saturating_add(ahead).as_secs_f64() * speed * 1000.0;
                self.start_ms.saturating_add(run_ms as i64)
            }
            SendPace::Rate(_) | SendPace::Max => i64::MAX,
        };
        simulated_ms.min(wall_ms).saturating_add(LOOKAHEAD_MS)
    }

    /// Limit up to which the simulated clock may run while a delivery due at `due_ms` waits, so
    /// that the next one is known.
    pub(super) fn lookahead_limit_ms(&self, until_ms: i64, due_ms: i64) -> i64 {
        match self.pace {
            SendPace::Speed(_) => until_ms,
            // Here the clock advances as events are sent.
            SendPace::Rate(_) | SendPace::Max => until_ms.min(due_ms.saturating_add(LOOKAHEAD_MS)),
        }
    }

    /// The instant at which the wall clock passes `at_ms`.
    pub(super) fn instant_of(&self, at_ms: i64) -> Instant {
        saturating_after(self.started_at, self.offset_of(at_ms))
    }

    /// Time from the start of the run until the wall clock passes `at_ms`; zero if it passed
    /// before.
    fn offset_of(&self, at_ms: i64) -> Duration {
        let offset_ms = at_ms.saturating_sub(self.started_ms).max(0);
        Duration::from_millis(offset_ms as u64)
    }
}

/// `start + delay`, capped at a moment that is as good as never.
pub(super) fn saturating_after(start: Instant, delay: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(100 * 366 * 86_400);
    start.checked_add(delay).unwrap_or(start + NEVER)
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

    fn offset(pacer: &Pacer, send_time: SendTime) -> Option<Duration> {
        match send_time {
            SendTime::Any => None,
            SendTime::At(at) => Some(at - pacer.started_at),
        }
    }

    fn next(pacer: &mut Pacer, due_ms: i64) -> Option<Duration> {
        let send_time = pacer.schedule_next(due_ms);
        offset(pacer, send_time)
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
            "on the grid and never early"
        );
        assert!(!fast.has_caught_up());
    }

    #[test]
    fn no_event_from_the_future_is_sent() {
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
            assert!(
                next(&mut pacer, future + 1).is_some(),
                "continues in real time"
            );
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
    fn the_rest_is_sent_at_the_rate_and_for_a_limited_time() {
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
    fn extreme_paces_and_times_do_not_overflow() {
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
