//! How often an event is tried, and when it is given up: decided purely.

use std::time::{Duration, Instant};

use super::generator::OutgoingEvent;
use super::response::ServerResponse;
use crate::journal::AttemptCause;
use crate::message::DeliveryKind;

/// The sender's patience.
#[derive(Clone, Debug)]
pub struct SenderTimings {
    /// How long an answer may take before the try counts as failed.
    pub http_timeout: Duration,
    /// The pauses between one try and the next; there is one try more than pauses.
    pub pauses: Vec<Duration>,
    /// How long a delivery may take: no try is begun later. It counts from the moment at which the delivery was due and had
    /// its turn; where none was due at any moment (a closed loop), from its first try.
    pub window: Duration,
    /// For how long the answer to a try that timed out is still listened to.
    pub late_answer_timeout: Duration,
    /// A run in which no connection could be made for so long ends.
    pub unreachable_timeout: Duration,
}

impl Default for SenderTimings {
    /// As the sender documents it, up to three tries within ten seconds; the pauses are a guess.
    fn default() -> Self {
        Self {
            http_timeout: Duration::from_secs(5),
            pauses: vec![Duration::from_secs(1), Duration::from_secs(3)],
            window: Duration::from_secs(10),
            late_answer_timeout: Duration::from_secs(30),
            unreachable_timeout: Duration::from_secs(10),
        }
    }
}

/// A delivery on its way.
#[derive(Debug)]
pub(super) struct SendJob {
    pub outgoing: OutgoingEvent,
    /// How many tries were begun.
    pub tries: u8,
    /// Why the next one is made.
    pub cause: AttemptCause,
    /// From when its latency counts: from when it was due, else from its first try.
    latency_since: Option<Instant>,
    /// From when its window counts. Waiting for one's turn is no fault of the server, so it does not count.
    window_since: Option<Instant>,
    /// Whether the last try was answered 4xx.
    refused: bool,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TryOutcome {
    Answered(ServerResponse),
    /// No connection could be made: nothing was sent.
    Unconnected,
    /// The connection broke before the answer.
    Broken,
    /// There was no answer in time; one may still come.
    TimedOut,
}

/// How a delivery ended: each exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// Answered 2xx.
    Accepted,
    /// Dropped; the last try was answered 4xx.
    Refused,
    /// Dropped; the last try was answered otherwise, or not at all, or it waited too long for a connection to be tried at all.
    Dropped,
    /// Dropped without a try, because the run had to end.
    Unsent,
}

impl SendOutcome {
    /// Every end, in the order of the ledger.
    pub const ALL: [SendOutcome; 4] = [
        SendOutcome::Accepted,
        SendOutcome::Refused,
        SendOutcome::Dropped,
        SendOutcome::Unsent,
    ];

    /// As the ledger writes it.
    pub const fn name(self) -> &'static str {
        match self {
            SendOutcome::Accepted => "accepted",
            SendOutcome::Refused => "refused",
            SendOutcome::Dropped => "dropped",
            SendOutcome::Unsent => "unsent",
        }
    }
}

/// What is to be done after a try.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TryDecision {
    Finish(SendOutcome),
    /// Another try at this moment.
    RetryAt(Instant),
}

impl SendJob {
    /// `due`: when it should go out; `None`: whenever there is a connection for it.
    pub(super) fn new(outgoing: OutgoingEvent, due: Option<Instant>) -> Self {
        let cause = match outgoing.kind {
            DeliveryKind::Redelivery | DeliveryKind::Overlapping => AttemptCause::Redelivery,
            _ => AttemptCause::Planned,
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

    /// Which of so many targets the try under way goes to: events are spread over them, and each further try, and a copy,
    /// goes to the next one.
    pub(super) fn target_index(&self, targets: usize) -> usize {
        let [.., by] = *self.outgoing.id.as_bytes();
        let copy = matches!(
            self.outgoing.kind,
            DeliveryKind::Redelivery | DeliveryKind::Overlapping
        );
        (usize::from(by) + usize::from(copy) + usize::from(self.tries) - 1) % targets
    }

    /// What was before it with the same key is out of its way.
    pub(super) fn restart_window(&mut self, now: Instant) {
        self.window_since = self.window_since.map(|since| since.max(now));
    }

    /// A try begins.
    pub(super) fn begin_try(&mut self, now: Instant) {
        self.tries += 1;
        self.latency_since.get_or_insert(now);
        self.window_since.get_or_insert(now);
    }

    /// How long it has taken by now, all tries and what was between them included.
    pub(super) fn latency(&self, now: Instant) -> Duration {
        self.latency_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Whether it has waited for too long for another try to begin.
    pub(super) fn is_too_late(&self, now: Instant, timings: &SenderTimings) -> bool {
        self.window_since
            .is_some_and(|since| now >= since + timings.window)
    }

    /// Its end when it is not tried any more.
    pub(super) fn drop_outcome(&self) -> SendOutcome {
        match self.refused {
            true => SendOutcome::Refused,
            false => SendOutcome::Dropped,
        }
    }

    /// A try ended.
    pub(super) fn conclude_try(
        &mut self,
        tried: TryOutcome,
        now: Instant,
        timings: &SenderTimings,
    ) -> TryDecision {
        self.refused = match tried {
            TryOutcome::Answered(answered) if answered.is_success() => {
                return TryDecision::Finish(SendOutcome::Accepted);
            }
            TryOutcome::Answered(answered) => (400..500).contains(&answered.status),
            _ => false,
        };
        self.cause = match tried {
            TryOutcome::TimedOut => AttemptCause::AfterTimeout,
            // Where the one before may have been stored, that is what explains a second record.
            _ if self.cause == AttemptCause::AfterTimeout => AttemptCause::AfterTimeout,
            _ => AttemptCause::AfterFailure,
        };
        let Some(pause) = timings.pauses.get(usize::from(self.tries) - 1) else {
            return TryDecision::Finish(self.drop_outcome());
        };
        let next = now + *pause;
        match self.is_too_late(next, timings) {
            true => TryDecision::Finish(self.drop_outcome()),
            false => TryDecision::RetryAt(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sender::generator::tests::outgoing;

    fn answered(status: u16) -> TryOutcome {
        TryOutcome::Answered(ServerResponse {
            status,
            outcome: None,
            position: None,
        })
    }

    #[test]
    fn three_tries_and_their_pauses() {
        let timings = SenderTimings::default();
        let begun = Instant::now();
        let second = |s| begun + Duration::from_secs(s);
        let mut job = SendJob::new(outgoing(1, DeliveryKind::First), None);
        job.begin_try(begun);
        assert_eq!(
            job.conclude_try(answered(503), begun, &timings),
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
            job.conclude_try(answered(422), second(5), &timings),
            TryDecision::Finish(SendOutcome::Refused)
        );
    }

    #[test]
    fn copies_and_further_tries_go_to_the_next_target() {
        let timings = SenderTimings::default();
        let now = Instant::now();
        let begun = |kind| {
            let mut job = SendJob::new(outgoing(1, kind), None);
            job.begin_try(now);
            job
        };
        let mut first = begun(DeliveryKind::First);
        assert_eq!(first.target_index(1), 0);
        let at = first.target_index(2);
        for kind in [DeliveryKind::Redelivery, DeliveryKind::Overlapping] {
            assert_eq!(begun(kind).target_index(2), 1 - at);
            assert_eq!(begun(kind).target_index(1), 0);
        }
        first.conclude_try(TryOutcome::Broken, now, &timings);
        first.begin_try(now);
        assert_eq!(first.target_index(2), 1 - at);
    }

    #[test]
    fn the_last_answer_says_how_it_was_dropped() {
        let timings = SenderTimings::default();
        let now = Instant::now();
        let mut job = SendJob::new(outgoing(1, DeliveryKind::First), None);
        assert_eq!(job.drop_outcome(), SendOutcome::Dropped);
        job.begin_try(now);
        job.conclude_try(answered(422), now, &timings);
        assert_eq!(job.drop_outcome(), SendOutcome::Refused);
        job.begin_try(now);
        job.conclude_try(TryOutcome::Broken, now, &timings);
        assert_eq!(job.drop_outcome(), SendOutcome::Dropped);
    }

    #[test]
    fn the_window_of_what_was_due_counts_without_a_try() {
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
        let mut whenever = SendJob::new(outgoing(1, DeliveryKind::First), None);
        whenever.restart_window(due);
        assert!(!whenever.is_too_late(second(1000), &timings));
    }

    #[test]
    fn no_try_begins_after_the_window() {
        let timings = SenderTimings::default();
        let begun = Instant::now();
        let second = |s| begun + Duration::from_secs(s);
        let mut job = SendJob::new(outgoing(1, DeliveryKind::Redelivery), Some(begun));
        assert_eq!(job.cause, AttemptCause::Redelivery);
        job.begin_try(begun);
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
                job.conclude_try(answered(status), now, &SenderTimings::default()),
                next
            );
        }
    }
}
