//! What was sent, what was answered, what was dropped, and how long it took.
//!
//! Each delivery is counted once by type and kind, and ends once ([`End`]); each try ends once: with an answer, without a
//! connection, broken, or timed out. So the sums agree, which [`Ledger::is_balanced`] says.
//!
//! Beside that it tells what the deliveries are to a bridge that recognises duplicates, provided that all of them are
//! stored ([`Ledger::expected`]), and what was answered ([`Ledger::heard`]). The two agree exactly where every answer is
//! known. Where some are not, only `verify` can tell: an unheard try may have been stored, and then its next one is a
//! redelivery.

mod course;
mod summary;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

pub use course::Course;
pub use summary::Summary;

use super::journal::Answer;
use super::message::Kind;
use super::oracle::Verdict;
use super::sender::{Answered, End, Word};
use butlr_event::EventType;

/// Every kind, in the order of the ledger's columns.
pub const KINDS: [Kind; 8] = [
    Kind::First,
    Kind::Repeat,
    Kind::Revision,
    Kind::Stale,
    Kind::Late,
    Kind::Overlapping,
    Kind::Redelivery,
    Kind::Invalid,
];

/// The ledger of a run.
#[derive(Clone, Debug)]
pub struct Ledger {
    begun: Instant,
    ended: Option<Instant>,
    /// Whether latencies count from the moment at which each event was due; else from the beginning of its first try.
    paced: bool,
    simulated_ms: (i64, i64),
    deliveries: [[u64; KINDS.len()]; EventType::ALL.len()],
    /// Of valid ones: what they are when all is stored.
    expected: [[u64; Verdict::ALL.len()]; EventType::ALL.len()],
    /// Requests that reached a server, by what their answer says in the end, late ones included; without invalid ones.
    heard: [[u64; Answer::ALL.len()]; EventType::ALL.len()],
    /// Of valid ones.
    ends: [[u64; End::ALL.len()]; EventType::ALL.len()],
    /// Of invalid ones apart, because they are to be refused.
    invalid_ends: [u64; End::ALL.len()],
    tries: Vec<u64>,
    answers: BTreeMap<u16, u64>,
    words: [u64; Word::ALL.len()],
    unconnected: u64,
    broken: u64,
    timed_out: u64,
    late_answers: BTreeMap<u16, u64>,
    /// 4xx that invalid ones were answered: as it should be.
    expected_refusals: u64,
    last_accepted: Option<Instant>,
    /// Of each accepted delivery, up to its acceptance.
    latency: Histogram<u64>,
    /// Since it was last taken ([`Ledger::take_recent`]).
    recent: Histogram<u64>,
    last_connection_error: Option<String>,
    course: Course,
}

/// Latencies are kept in µs, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are in order")
}

impl Ledger {
    /// An empty one.
    pub(super) fn begin(begun: Instant, paced: bool, simulated_ms: i64) -> Self {
        Self {
            begun,
            ended: None,
            paced,
            simulated_ms: (simulated_ms, simulated_ms),
            deliveries: Default::default(),
            expected: Default::default(),
            heard: Default::default(),
            ends: Default::default(),
            invalid_ends: Default::default(),
            tries: Vec::new(),
            answers: BTreeMap::new(),
            words: Default::default(),
            unconnected: 0,
            broken: 0,
            timed_out: 0,
            late_answers: BTreeMap::new(),
            expected_refusals: 0,
            last_accepted: None,
            latency: histogram(),
            recent: histogram(),
            last_connection_error: None,
            course: Course::default(),
        }
    }

    pub(super) fn is_paced(&self) -> bool {
        self.paced
    }

    /// How the run went.
    pub fn course(&self) -> Course {
        self.course
    }

    pub(super) fn went(&mut self, course: Course) {
        self.course = course;
    }

    /// The first try of a delivery began so long after it was due.
    pub(super) fn begun_late(&mut self, waited: Duration) {
        if self.paced {
            self.course.behind_s = (waited.as_secs_f64() * 1000.0).round() / 1000.0;
        }
    }

    pub(super) fn end(&mut self, now: Instant, simulated_ms: i64) {
        self.ended = Some(now);
        self.simulated_ms.1 = simulated_ms;
    }

    pub(super) fn delivery(
        &mut self,
        event_type: EventType,
        kind: Kind,
        expected: Option<Verdict>,
    ) {
        self.deliveries[event_type.index()][kind_index(kind)] += 1;
        if let Some(verdict) = expected {
            self.expected[event_type.index()][verdict as usize] += 1;
        }
    }

    /// What is known in the end of a request that reached a server.
    pub(super) fn told(&mut self, event_type: EventType, kind: Kind, answer: Answer) {
        if kind != Kind::Invalid {
            self.heard[event_type.index()][answer as usize] += 1;
        }
    }

    pub(super) fn delivered(&mut self, event_type: EventType, kind: Kind, end: End) {
        let ends = match kind {
            Kind::Invalid => &mut self.invalid_ends,
            _ => &mut self.ends[event_type.index()],
        };
        ends[end as usize] += 1;
    }

    /// A try began: the first, second, … (from 1) of its delivery.
    pub(super) fn tried(&mut self, number: u8) {
        let place = usize::from(number).saturating_sub(1);
        if self.tries.len() <= place {
            self.tries.resize(place + 1, 0);
        }
        self.tries[place] += 1;
    }

    /// A try of a delivery of this kind was answered in time.
    pub(super) fn answered(&mut self, answered: &Answered, kind: Kind) {
        *self.answers.entry(answered.status).or_default() += 1;
        if let Some(word) = answered.word {
            self.words[word as usize] += 1;
        }
        if kind == Kind::Invalid && (400..500).contains(&answered.status) {
            self.expected_refusals += 1;
        }
    }

    /// A delivery was accepted so long after it was due, or after its first try began.
    pub(super) fn accepted(&mut self, latency: Duration, now: Instant) {
        self.last_accepted = Some(now);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency.saturating_record(micros);
        self.recent.saturating_record(micros);
    }

    pub(super) fn unconnected(&mut self, error: String) {
        self.unconnected += 1;
        self.last_connection_error = Some(error);
    }

    pub(super) fn broken(&mut self) {
        self.broken += 1;
    }

    pub(super) fn timed_out(&mut self) {
        self.timed_out += 1;
    }

    /// The answer to a try that had timed out. It changes nothing for the delivery.
    pub(super) fn answered_late(&mut self, answered: &Answered) {
        *self.late_answers.entry(answered.status).or_default() += 1;
    }

    /// p99 of what was accepted since the last call, where anything was.
    pub(super) fn take_recent(&mut self) -> Option<Duration> {
        let p99 = self.recent.value_at_quantile(0.99);
        let any = !self.recent.is_empty();
        self.recent.reset();
        any.then(|| Duration::from_micros(p99))
    }

    /// How many deliveries there were so far.
    pub fn deliveries(&self) -> u64 {
        self.deliveries.iter().flatten().sum()
    }

    /// How many deliveries ended so.
    pub fn ended(&self, end: End) -> u64 {
        let all = self.ends.iter().chain([&self.invalid_ends]);
        all.map(|ends| ends[end as usize]).sum()
    }

    /// How many valid deliveries of this type ended so.
    pub fn ended_of(&self, event_type: EventType, end: End) -> u64 {
        self.ends[event_type.index()][end as usize]
    }

    /// How many deliveries were of this kind.
    pub fn of_kind(&self, kind: Kind) -> u64 {
        self.deliveries
            .iter()
            .map(|kinds| kinds[kind_index(kind)])
            .sum()
    }

    /// How many valid deliveries of this type are this, when all that is before them is stored.
    pub fn expected(&self, event_type: EventType, verdict: Verdict) -> u64 {
        self.expected[event_type.index()][verdict as usize]
    }

    /// How many requests with valid events of this type were answered so in the end, in time or late.
    pub fn heard(&self, event_type: EventType, answer: Answer) -> u64 {
        self.heard[event_type.index()][answer as usize]
    }

    /// How many tries there were.
    pub fn tries(&self) -> u64 {
        self.tries.iter().sum()
    }

    /// How many deliveries were dropped, whatever for; without invalid ones that were refused, as they should be.
    pub fn dropped(&self) -> u64 {
        let refused = EventType::ALL.map(|t| self.ended_of(t, End::Refused));
        refused.into_iter().sum::<u64>() + self.ended(End::Dropped)
    }

    /// Tries that were not answered 2xx in time; without refusals of invalid ones.
    pub fn errors(&self) -> u64 {
        let not_2xx = self
            .answers
            .iter()
            .filter(|(s, _)| !(200..300).contains(*s));
        let not_2xx = not_2xx.map(|(_, n)| n).sum::<u64>() - self.expected_refusals;
        not_2xx + self.unconnected + self.broken + self.timed_out
    }

    /// How many answers there were with this status, in time.
    pub fn answers(&self, status: u16) -> u64 {
        self.answers.get(&status).copied().unwrap_or(0)
    }

    /// How many 2xx said this.
    pub fn words(&self, word: Word) -> u64 {
        self.words[word as usize]
    }

    /// Tries that had no answer in time.
    pub fn timeouts(&self) -> u64 {
        self.timed_out
    }

    /// Answers that came after their try had timed out.
    pub fn late_answers(&self) -> u64 {
        self.late_answers.values().sum()
    }

    /// Why the last connection that could not be made could not.
    pub fn last_connection_error(&self) -> Option<&str> {
        self.last_connection_error.as_deref()
    }

    /// Whether each delivery and each try has ended exactly once.
    pub fn is_balanced(&self) -> bool {
        let ended: u64 = End::ALL.into_iter().map(|end| self.ended(end)).sum();
        let answered: u64 = self.answers.values().sum();
        let tries = answered + self.unconnected + self.broken + self.timed_out;
        ended == self.deliveries() && tries == self.tries()
    }
}

fn kind_index(kind: Kind) -> usize {
    match kind {
        Kind::First => 0,
        Kind::Repeat => 1,
        Kind::Revision => 2,
        Kind::Stale => 3,
        Kind::Late => 4,
        Kind::Overlapping => 5,
        Kind::Redelivery => 6,
        Kind::Invalid => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_columns() {
        for (column, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind_index(kind), column);
        }
        for (column, end) in End::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, column);
        }
        for (column, word) in Word::ALL.into_iter().enumerate() {
            assert_eq!(word as usize, column);
        }
    }

    #[test]
    fn sums_agree_once_everything_has_ended() {
        let mut ledger = Ledger::begin(Instant::now(), false, 0);
        ledger.delivery(EventType::Traffic, Kind::First, Some(Verdict::First));
        ledger.tried(1);
        assert!(!ledger.is_balanced());
        let answered = Answered {
            status: 503,
            word: None,
            at: None,
        };
        ledger.answered(&answered, Kind::First);
        assert!(!ledger.is_balanced());
        ledger.delivered(EventType::Traffic, Kind::First, End::Dropped);
        assert!(ledger.is_balanced());
        assert_eq!(ledger.errors(), 1);
        assert_eq!(ledger.ended(End::Dropped), 1);
        assert_eq!(ledger.take_recent(), None, "nothing was accepted");
        ledger.accepted(Duration::from_millis(3), Instant::now());
        assert_eq!(ledger.take_recent().map(|p| p.as_millis()), Some(3));
        assert_eq!(ledger.take_recent(), None);
    }

    #[test]
    fn a_refusal_of_an_invalid_one_is_no_error() {
        let mut ledger = Ledger::begin(Instant::now(), false, 0);
        for (kind, status, end) in [
            (Kind::Invalid, 422, End::Refused),
            (Kind::Invalid, 503, End::Dropped),
            (Kind::First, 422, End::Refused),
        ] {
            let answered = Answered {
                status,
                word: None,
                at: None,
            };
            ledger.delivery(EventType::Traffic, kind, None);
            ledger.tried(1);
            ledger.answered(&answered, kind);
            ledger.delivered(EventType::Traffic, kind, end);
        }
        assert_eq!((ledger.errors(), ledger.dropped()), (2, 2));
        assert_eq!(ledger.answers(422), 2, "but an answer");
    }
}
