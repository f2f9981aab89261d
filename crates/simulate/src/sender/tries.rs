//! Retry rules, as pure decisions.

use std::time::{Duration, Instant};

use super::generator::OutgoingEvent;
use crate::journal::AttemptCause;
use crate::outcome::{SendOutcome, ServerResponse};

/// Timeouts and retries of the sender.
#[derive(Clone, Debug)]
pub struct SenderTimings {
    /// Time after which a try without a response counts as failed.
    pub http_timeout: Duration,
    /// Pauses between tries; there is one more try than pauses.
    pub pauses: Vec<Duration>,
    /// Time after which no further try of a delivery starts. It counts from the moment at which the
    /// delivery was due and had its turn, or from its first try in a closed loop, where deliveries
    /// have no due time.
    pub window: Duration,
    /// Time for which the sender still waits for the response to a try that timed out.
    pub late_response_timeout: Duration,
    /// Time after which a run without any connection ends.
    pub unreachable_timeout: Duration,
}

impl Default for SenderTimings {
    /// Up to three tries within ten seconds, as Butlr documents; the pauses are a guess.
    fn default() -> Self {
        Self {
            http_timeout: Duration::from_secs(5),
            pauses: vec![Duration::from_secs(1), Duration::from_secs(3)],
            window: Duration::from_secs(10),
            late_response_timeout: Duration::from_secs(30),
            unreachable_timeout: Duration::from_secs(10),
        }
    }
}

/// A delivery that is being sent.
#[derive(Debug)]
pub(super) struct SendJob {
    pub outgoing: OutgoingEvent,
    /// Number of tries started.
    pub tries: u8,
    /// Cause of the next try.
    pub cause: AttemptCause,
    /// Start of the latency: the due time, else the first try.
    latency_since: Option<Instant>,
    /// Start of the window. It excludes the wait for earlier deliveries of the reading, which is
    /// not the server's fault.
    window_since: Option<Instant>,
    /// Set if the last try was answered with a 4xx.
    refused: bool,
}

/// Outcome of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TryOutcome {
    Responded(ServerResponse),
    /// No connection could be established; nothing was sent.
    Unconnected,
    /// The connection broke before the response.
    Broken,
    /// There was no response in time; one may still arrive.
    TimedOut,
}

/// Decision after a try.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TryDecision {
    Finish(SendOutcome),
    /// Another try at this moment.
    RetryAt(Instant),
}

impl SendJob {
    /// `due` is the send time; `None`: as soon as a connection is free.
    pub(super) fn new(outgoing: OutgoingEvent, due: Option<Instant>) -> Self {
        let cause = if outgoing.kind.is_copy() {
            AttemptCause::Redelivery
        } else {
            AttemptCause::Planned
        };
        Self {
            outgoing,
            tries: 0,
            cause,
            latency_since: due,
            window_since: due,
            refused: false,
        }
    }

    /// Index of the target for the current try. Events are spread over the targets; each further
    /// try goes to the next one, and so does a copy.
    pub(super) fn target_index(&self, targets: usize) -> usize {
        let [.., last_byte] = *self.outgoing.id.as_bytes();
        let copy = usize::from(self.outgoing.kind.is_copy());
        (usize::from(last_byte) + copy + usize::from(self.tries) - 1) % targets
    }

    /// Restarts the window, because the delivery had to wait for its turn.
    pub(super) fn restart_window(&mut self, now: Instant) {
        self.window_since = self.window_since.map(|since| since.max(now));
    }

    /// Starts a try.
    pub(super) fn begin_try(&mut self, now: Instant) {
        self.tries += 1;
        self.latency_since.get_or_insert(now);
        self.window_since.get_or_insert(now);
    }

    /// Latency until `now`, including all tries and pauses.
    pub(super) fn latency(&self, now: Instant) -> Duration {
        self.latency_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Returns `true` if the window is over, so no further try may start.
    pub(super) fn is_too_late(&self, now: Instant, timings: &SenderTimings) -> bool {
        self.window_since
            .is_some_and(|since| now >= since + timings.window)
    }

    /// Outcome if there is no further try.
    pub(super) fn drop_outcome(&self) -> SendOutcome {
        if self.refused {
            SendOutcome::Refused
        } else {
            SendOutcome::Dropped
        }
    }

    /// Decides what follows a try.
    pub(super) fn conclude_try(
        &mut self,
        outcome: TryOutcome,
        now: Instant,
        timings: &SenderTimings,
    ) -> TryDecision {
        self.refused = match outcome {
            TryOutcome::Responded(response) if response.is_success() => {
                return TryDecision::Finish(SendOutcome::Accepted);
            }
            TryOutcome::Responded(response) => (400..500).contains(&response.status),
            _ => false,
        };
        self.cause = match outcome {
            TryOutcome::TimedOut => AttemptCause::AfterTimeout,
            // If an earlier try may have been stored, that explains a second record.
            _ if self.cause == AttemptCause::AfterTimeout => AttemptCause::AfterTimeout,
            _ => AttemptCause::AfterFailure,
        };
        let Some(pause) = timings.pauses.get(usize::from(self.tries) - 1) else {
            return TryDecision::Finish(self.drop_outcome());
        };
        let next = now + *pause;
        if self.is_too_late(next, timings) {
            TryDecision::Finish(self.drop_outcome())
        } else {
            TryDecision::RetryAt(next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::DeliveryKind;
    use crate::sender::generator::tests::outgoing;

    fn responded(status: u16) -> TryOutcome {
        TryOutcome::Responded(ServerResponse {
            status,
            outcome: None,
            position: None,
        })
    }

    #[test]
    fn three_tries_and_their_pauses() {
        let timings = SenderTimings::default();
        let start = Instant::now();
        let second = |s| start + Duration::from_secs(s);
        let mut job = SendJob::new(outgoing(1, DeliveryKind::First), None);
        job.begin_try(start);
        assert_eq!(
            job.conclude_try(responded(503), start, &timings),
            TryDecision::RetryAt(second(1))
        );
        assert_eq!(job.cause, AttemptCause::AfterFailure);
        job.begin_try(second(2));
        assert_eq!(
            job.conclude_try(TryOutcome::Broken, second(2), &timings),
            TryDecision::RetryAt(second(5))
        );
        job.begin_try(second(5));
        assert_eq!(job.latency(second(6)), Duration::from_secs(6), "all tries");
        assert_eq!(
            job.conclude_try(responded(422), second(5), &timings),
            TryDecision::Finish(SendOutcome::Refused)
        );
    }

    #[test]
    fn copies_and_further_tries_go_to_the_next_target() {
        let timings = SenderTimings::default();
        let now = Instant::now();
        let started = |kind| {
            let mut job = SendJob::new(outgoing(1, kind), None);
            job.begin_try(now);
            job
        };
        let mut first = started(DeliveryKind::First);
        assert_eq!(first.target_index(1), 0);
        let at = first.target_index(2);
        for kind in [DeliveryKind::Redelivery, DeliveryKind::Overlapping] {
            assert_eq!(started(kind).target_index(2), 1 - at);
            assert_eq!(started(kind).target_index(1), 0);
        }
        first.conclude_try(TryOutcome::Broken, now, &timings);
        first.begin_try(now);
        assert_eq!(first.target_index(2), 1 - at);
    }

    #[test]
    fn the_last_response_decides_between_refused_and_dropped() {
        let timings = SenderTimings::default();
        let now = Instant::now();
        let mut job = SendJob::new(outgoing(1, DeliveryKind::First), None);
        assert_eq!(job.drop_outcome(), SendOutcome::Dropped);
        job.begin_try(now);
        job.conclude_try(responded(422), now, &timings);
        assert_eq!(job.drop_outcome(), SendOutcome::Refused);
        job.begin_try(now);
        job.conclude_try(TryOutcome::Broken, now, &timings);
        assert_eq!(job.drop_outcome(), SendOutcome::Dropped);
    }

    #[test]
    fn the_window_of_a_due_delivery_counts_without_a_try() {
        let timings = SenderTimings::default();
        let due = Instant::now();
        let second = |s| due + Duration::from_secs(s);
        let mut job = SendJob::new(outgoing(1, DeliveryKind::First), Some(due));
        assert!(!job.is_too_late(second(9), &timings));
        assert!(job.is_too_late(second(10), &timings));
        job.restart_window(second(5));
        assert!(!job.is_too_late(second(14), &timings));
        assert!(job.is_too_late(second(15), &timings));
        job.begin_try(second(14));
        assert!(job.is_too_late(second(15), &timings));
        assert_eq!(job.latency(second(16)), Duration::from_secs(16));
        let mut without_due = SendJob::new(outgoing(1, DeliveryKind::First), None);
        without_due.restart_window(due);
        assert!(!without_due.is_too_late(second(1000), &timings));
    }

    #[test]
    fn no_try_starts_after_the_window() {
        let timings = SenderTimings::default();
        let start = Instant::now();
        let second = |s| start + Duration::from_secs(s);
        let mut job = SendJob::new(outgoing(1, DeliveryKind::Redelivery), Some(start));
        assert_eq!(job.cause, AttemptCause::Redelivery);
        job.begin_try(start);
        assert!(matches!(
            job.conclude_try(TryOutcome::TimedOut, second(5), &timings),
            TryDecision::RetryAt(_)
        ));
        assert_eq!(job.cause, AttemptCause::AfterTimeout);
        job.begin_try(second(6));
        assert!(!job.is_too_late(second(9), &timings));
        assert!(job.is_too_late(second(10), &timings));
        assert_eq!(
            job.conclude_try(TryOutcome::TimedOut, second(11), &timings),
            TryDecision::Finish(SendOutcome::Dropped)
        );
    }

    #[test]
    fn a_2xx_is_the_end() {
        for (status, next) in [
            (200, TryDecision::Finish(SendOutcome::Accepted)),
            (202, TryDecision::Finish(SendOutcome::Accepted)),
        ] {
            let mut job = SendJob::new(outgoing(1, DeliveryKind::First), None);
            let now = Instant::now();
            job.begin_try(now);
            assert_eq!(
                job.conclude_try(responded(status), now, &SenderTimings::default()),
                next
            );
        }
    }
}
