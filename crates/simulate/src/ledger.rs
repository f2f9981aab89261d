//! What was sent, what was answered, what was dropped, and how long it took.
//!
//! Each delivery is counted once by type and kind, and ends once ([`End`]); each try ends once: with an answer, without a
//! connection, broken, or timed out. So the sums agree, which [`Ledger::is_balanced`] says.
//!
//! Beside that it tells what the deliveries are to a bridge that recognises duplicates, provided that all of them are
//! stored ([`Ledger::expected`]), and what was answered ([`Ledger::heard`]). The two agree exactly where every answer is
//! known. Where some are not, only `verify` can tell: an unheard try may have been stored, and then its next one is a
//! redelivery.

mod fidelity;
mod summary;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

pub use fidelity::RunFidelity;
pub use summary::RunSummary;

use super::journal::RecordedOutcome;
use super::message::DeliveryKind;
use super::oracle::OracleVerdict;
use super::sender::{ReportedOutcome, SendOutcome, ServerResponse};
use butlr_event::EventType;

/// Every kind, in the order of the ledger's columns.
pub const KINDS: [DeliveryKind; 8] = [
    DeliveryKind::First,
    DeliveryKind::Repeat,
    DeliveryKind::Revision,
    DeliveryKind::Stale,
    DeliveryKind::Late,
    DeliveryKind::Overlapping,
    DeliveryKind::Redelivery,
    DeliveryKind::Invalid,
];

/// The ledger of a run.
#[derive(Clone, Debug)]
pub struct RunLedger {
    started_at: Instant,
    ended_at: Option<Instant>,
    /// Whether latencies count from the moment at which each event was due; else from the beginning of its first try.
    paced: bool,
    simulated_ms: (i64, i64),
    deliveries: [[u64; KINDS.len()]; EventType::ALL.len()],
    /// Of valid ones: what they are when all is stored.
    expected: [[u64; OracleVerdict::ALL.len()]; EventType::ALL.len()],
    /// Requests that reached a server, by what their answer says in the end, late ones included; without invalid ones.
    answer_counts: [[u64; RecordedOutcome::ALL.len()]; EventType::ALL.len()],
    /// Of valid ones.
    send_outcomes: [[u64; SendOutcome::ALL.len()]; EventType::ALL.len()],
    /// Of invalid ones apart, because they are to be refused.
    invalid_send_outcomes: [u64; SendOutcome::ALL.len()],
    tries: Vec<u64>,
    status_counts: BTreeMap<u16, u64>,
    reported_outcomes: [u64; ReportedOutcome::ALL.len()],
    connection_failures: u64,
    broken_connections: u64,
    timeouts: u64,
    late_answers: BTreeMap<u16, u64>,
    /// 4xx that invalid ones were answered: as it should be.
    expected_refusals: u64,
    last_accepted_at: Option<Instant>,
    /// Of each accepted delivery, up to its acceptance.
    latency: Histogram<u64>,
    /// Since it was last taken ([`Ledger::take_recent`]).
    recent_latency: Histogram<u64>,
    last_connection_error: Option<String>,
    fidelity: RunFidelity,
}

/// Latencies are kept in µs, to three digits.
fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are in order")
}

impl RunLedger {
    /// An empty one.
    pub(super) fn new(begun: Instant, paced: bool, simulated_ms: i64) -> Self {
        Self {
            started_at: begun,
            ended_at: None,
            paced,
            simulated_ms: (simulated_ms, simulated_ms),
            deliveries: Default::default(),
            expected: Default::default(),
            answer_counts: Default::default(),
            send_outcomes: Default::default(),
            invalid_send_outcomes: Default::default(),
            tries: Vec::new(),
            status_counts: BTreeMap::new(),
            reported_outcomes: Default::default(),
            connection_failures: 0,
            broken_connections: 0,
            timeouts: 0,
            late_answers: BTreeMap::new(),
            expected_refusals: 0,
            last_accepted_at: None,
            latency: new_histogram(),
            recent_latency: new_histogram(),
            last_connection_error: None,
            fidelity: RunFidelity::default(),
        }
    }

    pub(super) fn is_paced(&self) -> bool {
        self.paced
    }

    /// How the run went.
    pub fn fidelity(&self) -> RunFidelity {
        self.fidelity
    }

    pub(super) fn set_fidelity(&mut self, course: RunFidelity) {
        self.fidelity = course;
    }

    /// The first try of a delivery began so long after it was due.
    pub(super) fn record_lateness(&mut self, waited: Duration) {
        if self.paced {
            self.fidelity.behind_s = (waited.as_secs_f64() * 1000.0).round() / 1000.0;
        }
    }

    pub(super) fn finish(&mut self, now: Instant, simulated_ms: i64) {
        self.ended_at = Some(now);
        self.simulated_ms.1 = simulated_ms;
    }

    pub(super) fn record_delivery(
        &mut self,
        event_type: EventType,
        kind: DeliveryKind,
        expected: Option<OracleVerdict>,
    ) {
        self.deliveries[event_type.index()][kind_index(kind)] += 1;
        if let Some(verdict) = expected {
            self.expected[event_type.index()][verdict as usize] += 1;
        }
    }

    /// What is known in the end of a request that reached a server.
    pub(super) fn record_answer(
        &mut self,
        event_type: EventType,
        kind: DeliveryKind,
        answer: RecordedOutcome,
    ) {
        if kind != DeliveryKind::Invalid {
            self.answer_counts[event_type.index()][answer as usize] += 1;
        }
    }

    pub(super) fn record_send_outcome(
        &mut self,
        event_type: EventType,
        kind: DeliveryKind,
        end: SendOutcome,
    ) {
        let ends = match kind {
            DeliveryKind::Invalid => &mut self.invalid_send_outcomes,
            _ => &mut self.send_outcomes[event_type.index()],
        };
        ends[end as usize] += 1;
    }

    /// A try began: the first, second, … (from 1) of its delivery.
    pub(super) fn record_try(&mut self, number: u8) {
        let place = usize::from(number).saturating_sub(1);
        if self.tries.len() <= place {
            self.tries.resize(place + 1, 0);
        }
        self.tries[place] += 1;
    }

    /// A try of a delivery of this kind was answered in time.
    pub(super) fn record_response(&mut self, answered: &ServerResponse, kind: DeliveryKind) {
        *self.status_counts.entry(answered.status).or_default() += 1;
        if let Some(word) = answered.outcome {
            self.reported_outcomes[word as usize] += 1;
        }
        if kind == DeliveryKind::Invalid && (400..500).contains(&answered.status) {
            self.expected_refusals += 1;
        }
    }

    /// A delivery was accepted so long after it was due, or after its first try began.
    pub(super) fn record_acceptance(&mut self, latency: Duration, now: Instant) {
        self.last_accepted_at = Some(now);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency.saturating_record(micros);
        self.recent_latency.saturating_record(micros);
    }

    pub(super) fn record_connection_failure(&mut self, error: String) {
        self.connection_failures += 1;
        self.last_connection_error = Some(error);
    }

    pub(super) fn record_broken_connection(&mut self) {
        self.broken_connections += 1;
    }

    pub(super) fn record_timeout(&mut self) {
        self.timeouts += 1;
    }

    /// The answer to a try that had timed out. It changes nothing for the delivery.
    pub(super) fn record_late_response(&mut self, answered: &ServerResponse) {
        *self.late_answers.entry(answered.status).or_default() += 1;
    }

    /// p99 of what was accepted since the last call, where anything was.
    pub(super) fn take_recent_p99(&mut self) -> Option<Duration> {
        let p99 = self.recent_latency.value_at_quantile(0.99);
        let any = !self.recent_latency.is_empty();
        self.recent_latency.reset();
        any.then(|| Duration::from_micros(p99))
    }

    /// How many deliveries there were so far.
    pub fn deliveries(&self) -> u64 {
        self.deliveries.iter().flatten().sum()
    }

    /// How many deliveries ended so.
    pub fn send_outcome_count(&self, end: SendOutcome) -> u64 {
        let all = self
            .send_outcomes
            .iter()
            .chain([&self.invalid_send_outcomes]);
        all.map(|ends| ends[end as usize]).sum()
    }

    /// How many valid deliveries of this type ended so.
    pub fn send_outcome_count_of(&self, event_type: EventType, end: SendOutcome) -> u64 {
        self.send_outcomes[event_type.index()][end as usize]
    }

    /// How many deliveries were of this kind.
    pub fn kind_count(&self, kind: DeliveryKind) -> u64 {
        self.deliveries
            .iter()
            .map(|kinds| kinds[kind_index(kind)])
            .sum()
    }

    /// How many valid deliveries of this type are this, when all that is before them is stored.
    pub fn expected_count(&self, event_type: EventType, verdict: OracleVerdict) -> u64 {
        self.expected[event_type.index()][verdict as usize]
    }

    /// How many requests with valid events of this type were answered so in the end, in time or late.
    pub fn answer_count(&self, event_type: EventType, answer: RecordedOutcome) -> u64 {
        self.answer_counts[event_type.index()][answer as usize]
    }

    /// How many tries there were.
    pub fn tries(&self) -> u64 {
        self.tries.iter().sum()
    }

    /// How many deliveries were dropped, whatever for; without invalid ones that were refused, as they should be.
    pub fn drop_count(&self) -> u64 {
        let refused = EventType::ALL.map(|t| self.send_outcome_count_of(t, SendOutcome::Refused));
        refused.into_iter().sum::<u64>() + self.send_outcome_count(SendOutcome::Dropped)
    }

    /// Tries that were not answered 2xx in time; without refusals of invalid ones.
    pub fn errors(&self) -> u64 {
        let not_2xx = self
            .status_counts
            .iter()
            .filter(|(s, _)| !(200..300).contains(*s));
        let not_2xx = not_2xx.map(|(_, n)| n).sum::<u64>() - self.expected_refusals;
        not_2xx + self.connection_failures + self.broken_connections + self.timeouts
    }

    /// How many answers there were with this status, in time.
    pub fn status_count(&self, status: u16) -> u64 {
        self.status_counts.get(&status).copied().unwrap_or(0)
    }

    /// How many 2xx said this.
    pub fn reported_outcome_count(&self, word: ReportedOutcome) -> u64 {
        self.reported_outcomes[word as usize]
    }

    /// Tries that had no answer in time.
    pub fn timeouts(&self) -> u64 {
        self.timeouts
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
        let ended: u64 = SendOutcome::ALL
            .into_iter()
            .map(|end| self.send_outcome_count(end))
            .sum();
        let answered: u64 = self.status_counts.values().sum();
        let tries = answered + self.connection_failures + self.broken_connections + self.timeouts;
        ended == self.deliveries() && tries == self.tries()
    }
}

fn kind_index(kind: DeliveryKind) -> usize {
    match kind {
        DeliveryKind::First => 0,
        DeliveryKind::Repeat => 1,
        DeliveryKind::Revision => 2,
        DeliveryKind::Stale => 3,
        DeliveryKind::Late => 4,
        DeliveryKind::Overlapping => 5,
        DeliveryKind::Redelivery => 6,
        DeliveryKind::Invalid => 7,
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
        for (column, end) in SendOutcome::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, column);
        }
        for (column, word) in ReportedOutcome::ALL.into_iter().enumerate() {
            assert_eq!(word as usize, column);
        }
    }

    #[test]
    fn sums_agree_once_everything_has_ended() {
        let mut ledger = RunLedger::new(Instant::now(), false, 0);
        ledger.record_delivery(
            EventType::Traffic,
            DeliveryKind::First,
            Some(OracleVerdict::First),
        );
        ledger.record_try(1);
        assert!(!ledger.is_balanced());
        let answered = ServerResponse {
            status: 503,
            outcome: None,
            position: None,
        };
        ledger.record_response(&answered, DeliveryKind::First);
        assert!(!ledger.is_balanced());
        ledger.record_send_outcome(
            EventType::Traffic,
            DeliveryKind::First,
            SendOutcome::Dropped,
        );
        assert!(ledger.is_balanced());
        assert_eq!(ledger.errors(), 1);
        assert_eq!(ledger.send_outcome_count(SendOutcome::Dropped), 1);
        assert_eq!(ledger.take_recent_p99(), None, "nothing was accepted");
        ledger.record_acceptance(Duration::from_millis(3), Instant::now());
        assert_eq!(ledger.take_recent_p99().map(|p| p.as_millis()), Some(3));
        assert_eq!(ledger.take_recent_p99(), None);
    }

    #[test]
    fn a_refusal_of_an_invalid_one_is_no_error() {
        let mut ledger = RunLedger::new(Instant::now(), false, 0);
        for (kind, status, end) in [
            (DeliveryKind::Invalid, 422, SendOutcome::Refused),
            (DeliveryKind::Invalid, 503, SendOutcome::Dropped),
            (DeliveryKind::First, 422, SendOutcome::Refused),
        ] {
            let answered = ServerResponse {
                status,
                outcome: None,
                position: None,
            };
            ledger.record_delivery(EventType::Traffic, kind, None);
            ledger.record_try(1);
            ledger.record_response(&answered, kind);
            ledger.record_send_outcome(EventType::Traffic, kind, end);
        }
        assert_eq!((ledger.errors(), ledger.drop_count()), (2, 2));
        assert_eq!(ledger.status_count(422), 2, "but an answer");
    }
}
