//! The ledger: counts of deliveries, tries, responses and drops, and the latencies.
//!
//! Each delivery is counted once by type and kind and has one [`SendOutcome`]. Each try ends once:
//! with a response, without a connection, with a broken connection, or with a timeout.
//! [`RunLedger::is_balanced`] checks that the sums agree.
//!
//! The ledger also counts the verdicts that a bridge with duplicate detection should reach if every
//! delivery is stored ([`RunLedger::expected_count`]), and the outcomes that the responses report
//! ([`RunLedger::response_outcome_count`]). The two agree exactly if every response is known.
//! Otherwise only `verify` can decide: a try without a response may have been stored, which makes
//! the next try a redelivery.

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
use super::outcome::{ReportedOutcome, SendOutcome, ServerResponse};
use butlr_event::EventType;

/// Kind of the loop that drives a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoopKind {
    /// Events have send times, from which latencies count.
    Open,
    /// The next event is sent when a connection is free; latencies count from the first try.
    Closed,
}

/// The ledger of a run.
#[derive(Clone, Debug)]
pub struct RunLedger {
    started_at: Instant,
    ended_at: Option<Instant>,
    loop_kind: LoopKind,
    /// Simulated clock at the start and at the end.
    simulated_ms: (i64, i64),
    deliveries: [[u64; DeliveryKind::ALL.len()]; EventType::ALL.len()],
    /// Verdicts on valid deliveries if all of them are stored.
    expected: [[u64; OracleVerdict::ALL.len()]; EventType::ALL.len()],
    /// Final outcomes of the requests with valid events that reached a server, late responses
    /// included.
    response_outcomes: [[u64; RecordedOutcome::ALL.len()]; EventType::ALL.len()],
    /// Outcomes of valid deliveries.
    send_outcomes: [[u64; SendOutcome::ALL.len()]; EventType::ALL.len()],
    /// Outcomes of invalid items, which are meant to be refused.
    invalid_send_outcomes: [u64; SendOutcome::ALL.len()],
    tries: Vec<u64>,
    status_counts: BTreeMap<u16, u64>,
    reported_outcomes: [u64; ReportedOutcome::ALL.len()],
    connection_failures: u64,
    broken_connections: u64,
    timeouts: u64,
    late_responses: BTreeMap<u16, u64>,
    /// Invalid items that were answered with a 4xx, as expected.
    expected_refusals: u64,
    last_accepted_at: Option<Instant>,
    /// Latencies of accepted deliveries.
    latency: Histogram<u64>,
    /// Latencies since the last [`RunLedger::take_recent_p99`].
    recent_latency: Histogram<u64>,
    last_connection_error: Option<String>,
    fidelity: RunFidelity,
}

/// Histogram of latencies in µs with three significant digits.
fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are valid")
}

impl RunLedger {
    /// An empty ledger.
    pub(super) fn new(started_at: Instant, loop_kind: LoopKind, simulated_ms: i64) -> Self {
        Self {
            started_at,
            ended_at: None,
            loop_kind,
            simulated_ms: (simulated_ms, simulated_ms),
            deliveries: Default::default(),
            expected: Default::default(),
            response_outcomes: Default::default(),
            send_outcomes: Default::default(),
            invalid_send_outcomes: Default::default(),
            tries: Vec::new(),
            status_counts: BTreeMap::new(),
            reported_outcomes: Default::default(),
            connection_failures: 0,
            broken_connections: 0,
            timeouts: 0,
            late_responses: BTreeMap::new(),
            expected_refusals: 0,
            last_accepted_at: None,
            latency: new_histogram(),
            recent_latency: new_histogram(),
            last_connection_error: None,
            fidelity: RunFidelity::default(),
        }
    }

    pub(super) fn loop_kind(&self) -> LoopKind {
        self.loop_kind
    }

    /// Deviations of the run from its options.
    pub fn fidelity(&self) -> RunFidelity {
        self.fidelity
    }

    pub(super) fn set_fidelity(&mut self, fidelity: RunFidelity) {
        self.fidelity = fidelity;
    }

    /// Records the delay of the first try of a delivery after its due time.
    pub(super) fn record_lateness(&mut self, delay: Duration) {
        if self.loop_kind == LoopKind::Open {
            self.fidelity.behind_s = (delay.as_secs_f64() * 1000.0).round() / 1000.0;
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
        self.deliveries[event_type.index()][kind as usize] += 1;
        if let Some(verdict) = expected {
            self.expected[event_type.index()][verdict as usize] += 1;
        }
    }

    /// Records the final outcome of a request that reached a server.
    pub(super) fn record_response_outcome(
        &mut self,
        event_type: EventType,
        kind: DeliveryKind,
        outcome: RecordedOutcome,
    ) {
        if kind != DeliveryKind::Invalid {
            self.response_outcomes[event_type.index()][outcome as usize] += 1;
        }
    }

    pub(super) fn record_send_outcome(
        &mut self,
        event_type: EventType,
        kind: DeliveryKind,
        outcome: SendOutcome,
    ) {
        let counts = match kind {
            DeliveryKind::Invalid => &mut self.invalid_send_outcomes,
            _ => &mut self.send_outcomes[event_type.index()],
        };
        counts[outcome as usize] += 1;
    }

    /// Records the start of a try, numbered from 1.
    pub(super) fn record_try(&mut self, number: u8) {
        let index = usize::from(number).saturating_sub(1);
        if self.tries.len() <= index {
            self.tries.resize(index + 1, 0);
        }
        self.tries[index] += 1;
    }

    /// Records a response that arrived in time.
    pub(super) fn record_response(&mut self, response: &ServerResponse, kind: DeliveryKind) {
        *self.status_counts.entry(response.status).or_default() += 1;
        if let Some(outcome) = response.outcome {
            self.reported_outcomes[outcome as usize] += 1;
        }
        if kind == DeliveryKind::Invalid && (400..500).contains(&response.status) {
            self.expected_refusals += 1;
        }
    }

    /// Records the acceptance of a delivery.
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

    /// Records the response to a try that had timed out. It does not affect the delivery.
    pub(super) fn record_late_response(&mut self, response: &ServerResponse) {
        *self.late_responses.entry(response.status).or_default() += 1;
    }

    /// p99 of the latencies since the last call, if any.
    pub(super) fn take_recent_p99(&mut self) -> Option<Duration> {
        let p99 = self.recent_latency.value_at_quantile(0.99);
        let has_any = !self.recent_latency.is_empty();
        self.recent_latency.reset();
        has_any.then(|| Duration::from_micros(p99))
    }

    /// Number of deliveries so far.
    pub fn deliveries(&self) -> u64 {
        self.deliveries.iter().flatten().sum()
    }

    /// Number of deliveries with this outcome.
    pub fn send_outcome_count(&self, outcome: SendOutcome) -> u64 {
        let all = self
            .send_outcomes
            .iter()
            .chain([&self.invalid_send_outcomes]);
        all.map(|counts| counts[outcome as usize]).sum()
    }

    /// Number of valid deliveries of this type with this outcome.
    pub fn send_outcome_count_of(&self, event_type: EventType, outcome: SendOutcome) -> u64 {
        self.send_outcomes[event_type.index()][outcome as usize]
    }

    /// Number of deliveries of this kind.
    pub fn kind_count(&self, kind: DeliveryKind) -> u64 {
        self.deliveries
            .iter()
            .map(|kinds| kinds[kind as usize])
            .sum()
    }

    /// Expected number of valid deliveries of this type with this verdict, if every delivery is
    /// stored.
    pub fn expected_count(&self, event_type: EventType, verdict: OracleVerdict) -> u64 {
        self.expected[event_type.index()][verdict as usize]
    }

    /// Number of requests with valid events of this type that had this outcome, in time or late.
    pub fn response_outcome_count(&self, event_type: EventType, outcome: RecordedOutcome) -> u64 {
        self.response_outcomes[event_type.index()][outcome as usize]
    }

    /// Number of tries.
    pub fn tries(&self) -> u64 {
        self.tries.iter().sum()
    }

    /// Number of dropped deliveries, without invalid items that were refused as expected.
    pub fn drop_count(&self) -> u64 {
        let refused = EventType::ALL.map(|t| self.send_outcome_count_of(t, SendOutcome::Refused));
        refused.into_iter().sum::<u64>() + self.send_outcome_count(SendOutcome::Dropped)
    }

    /// Number of tries without a 2xx in time, without refusals of invalid items.
    pub fn errors(&self) -> u64 {
        let not_2xx = self
            .status_counts
            .iter()
            .filter(|(s, _)| !(200..300).contains(*s));
        let not_2xx = not_2xx.map(|(_, n)| n).sum::<u64>() - self.expected_refusals;
        not_2xx + self.connection_failures + self.broken_connections + self.timeouts
    }

    /// Number of responses with this status in time.
    pub fn status_count(&self, status: u16) -> u64 {
        self.status_counts.get(&status).copied().unwrap_or(0)
    }

    /// Number of 2xx responses that reported this outcome.
    pub fn reported_outcome_count(&self, outcome: ReportedOutcome) -> u64 {
        self.reported_outcomes[outcome as usize]
    }

    /// Number of tries without a response in time.
    pub fn timeouts(&self) -> u64 {
        self.timeouts
    }

    /// Number of responses that arrived after their try had timed out.
    pub fn late_responses(&self) -> u64 {
        self.late_responses.values().sum()
    }

    /// Error of the last failed connection.
    pub fn last_connection_error(&self) -> Option<&str> {
        self.last_connection_error.as_deref()
    }

    /// Returns `true` if each delivery and each try has ended exactly once.
    pub fn is_balanced(&self) -> bool {
        let ended: u64 = SendOutcome::ALL
            .into_iter()
            .map(|outcome| self.send_outcome_count(outcome))
            .sum();
        let responses: u64 = self.status_counts.values().sum();
        let tries = responses + self.connection_failures + self.broken_connections + self.timeouts;
        ended == self.deliveries() && tries == self.tries()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enum_values_are_columns() {
        for (column, kind) in DeliveryKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, column);
        }
        for (column, outcome) in SendOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, column);
        }
        for (column, outcome) in ReportedOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, column);
        }
    }

    #[test]
    fn sums_agree_once_everything_has_ended() {
        let mut ledger = RunLedger::new(Instant::now(), LoopKind::Closed, 0);
        ledger.record_delivery(
            EventType::Traffic,
            DeliveryKind::First,
            Some(OracleVerdict::First),
        );
        ledger.record_try(1);
        assert!(!ledger.is_balanced());
        let response = ServerResponse {
            status: 503,
            outcome: None,
            position: None,
        };
        ledger.record_response(&response, DeliveryKind::First);
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
    fn a_refusal_of_an_invalid_item_is_not_an_error() {
        let mut ledger = RunLedger::new(Instant::now(), LoopKind::Closed, 0);
        for (kind, status, outcome) in [
            (DeliveryKind::Invalid, 422, SendOutcome::Refused),
            (DeliveryKind::Invalid, 503, SendOutcome::Dropped),
            (DeliveryKind::First, 422, SendOutcome::Refused),
        ] {
            let response = ServerResponse {
                status,
                outcome: None,
                position: None,
            };
            ledger.record_delivery(EventType::Traffic, kind, None);
            ledger.record_try(1);
            ledger.record_response(&response, kind);
            ledger.record_send_outcome(EventType::Traffic, kind, outcome);
        }
        assert_eq!((ledger.errors(), ledger.drop_count()), (2, 2));
        assert_eq!(ledger.status_count(422), 2, "refusals are still responses");
    }
}
