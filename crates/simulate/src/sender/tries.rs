//! How often an event is tried, and when it is given up: decided purely.

use std::time::{Duration, Instant};

use super::answer::Answered;
use super::generate::Outgoing;
use crate::journal::Cause;
use crate::message::Kind;

/// The sender's patience.
#[derive(Clone, Debug)]
pub struct Timings {
    /// How long an answer may take before the try counts as failed.
    pub http_timeout: Duration,
    /// The pauses between one try and the next; there is one try more than pauses.
    pub pauses: Vec<Duration>,
    /// How long a delivery may take: no try is begun later. It counts from the moment at which the delivery was due and had
    /// its turn; where none was due at any moment (a closed loop), from its first try.
    pub window: Duration,
    /// For how long the answer to a try that timed out is still listened to.
    pub listen: Duration,
    /// A run in which no connection could be made for so long ends.
    pub give_up: Duration,
}

impl Default for Timings {
    /// As the sender documents it, up to three tries within ten seconds; the pauses are a guess.
    fn default() -> Self {
        Self {
            http_timeout: Duration::from_secs(5),
            pauses: vec![Duration::from_secs(1), Duration::from_secs(3)],
            window: Duration::from_secs(10),
            listen: Duration::from_secs(30),
            give_up: Duration::from_secs(10),
        }
    }
}

/// A delivery on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub outgoing: Outgoing,
    /// How many tries were begun.
    pub tries: u8,
    /// Why the next one is made.
    pub cause: Cause,
    /// From when its latency counts: from when it was due, else from its first try.
    since: Option<Instant>,
    /// From when its window counts. Waiting for one's turn is no fault of the server, so it does not count.
    window_since: Option<Instant>,
    /// Whether the last try was answered 4xx.
    refused: bool,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tried {
    Answered(Answered),
    /// No connection could be made: nothing was sent.
    Unconnected,
    /// The connection broke before the answer.
    Broken,
    /// There was no answer in time; one may still come.
    TimedOut,
}

/// How a delivery ended: each exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Answered 2xx.
    Accepted,
    /// Dropped; the last try was answered 4xx.
    Refused,
    /// Dropped; the last try was answered otherwise, or not at all, or it waited too long for a connection to be tried at all.
    Dropped,
    /// Dropped without a try, because the run had to end.
    Unsent,
}

impl End {
    /// Every end, in the order of the ledger.
    pub const ALL: [End; 4] = [End::Accepted, End::Refused, End::Dropped, End::Unsent];

    /// As the ledger writes it.
    pub const fn name(self) -> &'static str {
        match self {
            End::Accepted => "accepted",
            End::Refused => "refused",
            End::Dropped => "dropped",
            End::Unsent => "unsent",
        }
    }
}

/// What is to be done after a try.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    End(End),
    /// Another try at this moment.
    TryAt(Instant),
}

impl Job {
    /// `due`: when it should go out; `None`: whenever there is a connection for it.
    pub(super) fn new(outgoing: Outgoing, due: Option<Instant>) -> Self {
        let cause = match outgoing.kind {
            Kind::Redelivery | Kind::Overlapping => Cause::Redelivery,
            _ => Cause::Planned,
        };
        Self {
            outgoing,
            tries: 0,
            cause,
            since: due,
            window_since: due,
            refused: false,
        }
    }

    /// Which of so many targets the try under way goes to: events are spread over them, and each further try, and a copy,
    /// goes to the next one.
    pub(super) fn target(&self, targets: usize) -> usize {
        let [.., by] = *self.outgoing.id.as_bytes();
        let copy = matches!(self.outgoing.kind, Kind::Redelivery | Kind::Overlapping);
        (usize::from(by) + usize::from(copy) + usize::from(self.tries) - 1) % targets
    }

    /// What was before it with the same key is out of its way.
    pub(super) fn has_its_turn(&mut self, now: Instant) {
        self.window_since = self.window_since.map(|since| since.max(now));
    }

    /// A try begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.tries += 1;
        self.since.get_or_insert(now);
        self.window_since.get_or_insert(now);
    }

    /// How long it has taken by now, all tries and what was between them included.
    pub(super) fn latency(&self, now: Instant) -> Duration {
        self.since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Whether it has waited for too long for another try to begin.
    pub(super) fn is_too_late(&self, now: Instant, timings: &Timings) -> bool {
        self.window_since
            .is_some_and(|since| now >= since + timings.window)
    }

    /// Its end when it is not tried any more.
    pub(super) fn drop_end(&self) -> End {
        match self.refused {
            true => End::Refused,
            false => End::Dropped,
        }
    }

    /// A try ended.
    pub(super) fn conclude(&mut self, tried: Tried, now: Instant, timings: &Timings) -> Next {
        self.refused = match tried {
            Tried::Answered(answered) if answered.is_success() => return Next::End(End::Accepted),
            Tried::Answered(answered) => (400..500).contains(&answered.status),
            _ => false,
        };
        self.cause = match tried {
            Tried::TimedOut => Cause::AfterTimeout,
            // Where the one before may have been stored, that is what explains a second record.
            _ if self.cause == Cause::AfterTimeout => Cause::AfterTimeout,
            _ => Cause::AfterFailure,
        };
        let Some(pause) = timings.pauses.get(usize::from(self.tries) - 1) else {
            return Next::End(self.drop_end());
        };
        let next = now + *pause;
        match self.is_too_late(next, timings) {
            true => Next::End(self.drop_end()),
            false => Next::TryAt(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sender::generate::tests::outgoing;

    fn answered(status: u16) -> Tried {
        Tried::Answered(Answered {
            status,
            word: None,
            at: None,
        })
    }

    #[test]
    fn three_tries_and_their_pauses() {
        let timings = Timings::default();
        let begun = Instant::now();
        let second = |s| begun + Duration::from_secs(s);
        let mut job = Job::new(outgoing(1, Kind::First), None);
        job.begin(begun);
        assert_eq!(
            job.conclude(answered(503), begun, &timings),
            Next::TryAt(second(1))
        );
        assert_eq!(job.cause, Cause::AfterFailure);
        job.begin(second(2));
        assert_eq!(
            job.conclude(Tried::Broken, second(2), &timings),
            Next::TryAt(second(5))
        );
        job.begin(second(5));
        assert_eq!(job.latency(second(6)), Duration::from_secs(6), "all tries");
        assert_eq!(
            job.conclude(answered(422), second(5), &timings),
            Next::End(End::Refused)
        );
    }

    #[test]
    fn copies_and_further_tries_go_to_the_next_target() {
        let timings = Timings::default();
        let now = Instant::now();
        let begun = |kind| {
            let mut job = Job::new(outgoing(1, kind), None);
            job.begin(now);
            job
        };
        let mut first = begun(Kind::First);
        assert_eq!(first.target(1), 0);
        let at = first.target(2);
        for kind in [Kind::Redelivery, Kind::Overlapping] {
            assert_eq!(begun(kind).target(2), 1 - at);
            assert_eq!(begun(kind).target(1), 0);
        }
        first.conclude(Tried::Broken, now, &timings);
        first.begin(now);
        assert_eq!(first.target(2), 1 - at);
    }

    #[test]
    fn the_last_answer_says_how_it_was_dropped() {
        let timings = Timings::default();
        let now = Instant::now();
        let mut job = Job::new(outgoing(1, Kind::First), None);
        assert_eq!(job.drop_end(), End::Dropped);
        job.begin(now);
        job.conclude(answered(422), now, &timings);
        assert_eq!(job.drop_end(), End::Refused);
        job.begin(now);
        job.conclude(Tried::Broken, now, &timings);
        assert_eq!(job.drop_end(), End::Dropped);
    }

    #[test]
    fn the_window_of_what_was_due_counts_without_a_try() {
        let timings = Timings::default();
        let due = Instant::now();
        let second = |s| due + Duration::from_secs(s);
        let mut job = Job::new(outgoing(1, Kind::First), Some(due));
        assert!(!job.is_too_late(second(9), &timings));
        assert!(job.is_too_late(second(10), &timings));
        job.has_its_turn(second(5));
        assert!(!job.is_too_late(second(14), &timings));
        assert!(job.is_too_late(second(15), &timings));
        job.begin(second(14));
        assert!(job.is_too_late(second(15), &timings));
        assert_eq!(job.latency(second(16)), Duration::from_secs(16));
        let mut whenever = Job::new(outgoing(1, Kind::First), None);
        whenever.has_its_turn(due);
        assert!(!whenever.is_too_late(second(1000), &timings));
    }

    #[test]
    fn no_try_begins_after_the_window() {
        let timings = Timings::default();
        let begun = Instant::now();
        let second = |s| begun + Duration::from_secs(s);
        let mut job = Job::new(outgoing(1, Kind::Redelivery), Some(begun));
        assert_eq!(job.cause, Cause::Redelivery);
        job.begin(begun);
        assert!(matches!(
            job.conclude(Tried::TimedOut, second(5), &timings),
            Next::TryAt(_)
        ));
        assert_eq!(job.cause, Cause::AfterTimeout);
        job.begin(second(6));
        assert!(!job.is_too_late(second(9), &timings));
        assert!(job.is_too_late(second(10), &timings));
        assert_eq!(
            job.conclude(Tried::TimedOut, second(11), &timings),
            Next::End(End::Dropped)
        );
    }

    #[test]
    fn a_2xx_is_the_end() {
        for (status, next) in [
            (200, Next::End(End::Accepted)),
            (202, Next::End(End::Accepted)),
        ] {
            let mut job = Job::new(outgoing(1, Kind::First), None);
            let now = Instant::now();
            job.begin(now);
            assert_eq!(
                job.conclude(answered(status), now, &Timings::default()),
                next
            );
        }
    }
}
