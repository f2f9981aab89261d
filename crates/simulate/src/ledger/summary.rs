//! Summary of a ledger, as text or JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{LoopKind, RunFidelity, RunLedger};
use crate::journal::RecordedOutcome;
use crate::message::DeliveryKind;
use crate::oracle::OracleVerdict;
use crate::outcome::{ReportedOutcome, SendOutcome};
use crate::progress::format_timestamp;
use butlr_event::EventType;

#[cfg(test)]
mod tests;
mod text;

/// Summary of a run. Serializes as the file that `--output` writes; displays as text.
#[derive(Clone, Debug, Serialize)]
pub struct RunSummary {
    elapsed_s: f64,
    simulated_from: String,
    simulated_to: String,
    /// Number of deliveries.
    events: u64,
    /// Accepted deliveries per second up to the last acceptance; fruitless waiting after it does
    /// not count.
    events_per_s: f64,
    #[serde(rename = "ends")]
    outcomes: BTreeMap<&'static str, u64>,
    types: BTreeMap<&'static str, TypeSummary>,
    kinds: BTreeMap<&'static str, u64>,
    /// Verdicts on valid deliveries if all of them are stored.
    expected: BTreeMap<&'static str, u64>,
    /// Final outcomes of the requests with valid events that reached a server.
    #[serde(rename = "heard")]
    answered: BTreeMap<&'static str, u64>,
    /// Outcomes of invalid items.
    invalid: BTreeMap<&'static str, u64>,
    /// Number of first tries, second tries, ….
    tries: Vec<u64>,
    #[serde(rename = "answers")]
    statuses: BTreeMap<u16, u64>,
    #[serde(rename = "words")]
    reported: BTreeMap<&'static str, u64>,
    connections_failed: u64,
    connections_broken: u64,
    timed_out: u64,
    #[serde(rename = "late_answers")]
    late_responses: BTreeMap<u16, u64>,
    /// Latencies of accepted events including all tries, but not of dropped ones.
    latency_ms: LatencySummary,
    /// Start of the latencies. `due`: the due time of each event, so that waiting counts. `begun`:
    /// its first try; this also applies to events sent after the end of an open loop.
    latency_from: &'static str,
    #[serde(flatten)]
    fidelity: RunFidelity,
}

#[derive(Clone, Debug, Serialize)]
struct TypeSummary {
    kinds: BTreeMap<&'static str, u64>,
    /// Without invalid items.
    #[serde(rename = "ends")]
    outcomes: BTreeMap<&'static str, u64>,
    expected: BTreeMap<&'static str, u64>,
    #[serde(rename = "heard")]
    answered: BTreeMap<&'static str, u64>,
}

/// Latency quantiles; `None` if nothing was accepted.
#[derive(Clone, Debug, Serialize)]
struct LatencySummary {
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    #[serde(rename = "p99.9")]
    p999: Option<f64>,
    max: Option<f64>,
}

/// Column name of an outcome.
const fn outcome_name(outcome: RecordedOutcome) -> &'static str {
    match outcome {
        RecordedOutcome::Redelivery => "redelivery",
        RecordedOutcome::Repeat => "repeat",
        outcome => outcome.name(),
    }
}

/// Counts by the name of each value.
fn counts_by_name<T: Copy, const N: usize>(
    all: [T; N],
    name: fn(T) -> &'static str,
    count: impl Fn(T) -> u64,
) -> BTreeMap<&'static str, u64> {
    all.into_iter()
        .map(|each| (name(each), count(each)))
        .collect()
}

impl From<&RunLedger> for RunSummary {
    fn from(ledger: &RunLedger) -> Self {
        let elapsed = match ledger.ended_at {
            Some(ended) => ended - ledger.started_at,
            None => ledger.started_at.elapsed(),
        };
        let accepted = ledger.send_outcome_count(SendOutcome::Accepted) as f64;
        let accepting_time = ledger
            .last_accepted_at
            .map_or(elapsed, |at| at - ledger.started_at);
        let latency = |micros: u64| (!ledger.latency.is_empty()).then(|| micros as f64 / 1000.0);
        let quantile = |q| latency(ledger.latency.value_at_quantile(q));
        let outcomes = |counts: &[u64; SendOutcome::ALL.len()]| {
            counts_by_name(SendOutcome::ALL, SendOutcome::name, |outcome| {
                counts[outcome as usize]
            })
        };
        let summarize_type = |t: EventType| {
            let kinds = counts_by_name(DeliveryKind::ALL, DeliveryKind::name, |kind| {
                ledger.deliveries[t.index()][kind as usize]
            });
            let outcomes = outcomes(&ledger.send_outcomes[t.index()]);
            let expected = counts_by_name(OracleVerdict::ALL, OracleVerdict::name, |v| {
                ledger.expected_count(t, v)
            });
            let answered = counts_by_name(RecordedOutcome::ALL, outcome_name, |a| {
                ledger.response_outcome_count(t, a)
            });
            let summary = TypeSummary {
                kinds,
                outcomes,
                expected,
                answered,
            };
            (t.name(), summary)
        };
        let sum = |count: &dyn Fn(EventType) -> u64| EventType::ALL.into_iter().map(count).sum();
        Self {
            elapsed_s: (elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
            simulated_from: format_timestamp(ledger.simulated_ms.0),
            simulated_to: format_timestamp(ledger.simulated_ms.1),
            events: ledger.deliveries(),
            events_per_s: (accepted / accepting_time.as_secs_f64().max(0.001) * 10.0).round()
                / 10.0,
            outcomes: counts_by_name(SendOutcome::ALL, SendOutcome::name, |outcome| {
                ledger.send_outcome_count(outcome)
            }),
            types: EventType::ALL.into_iter().map(summarize_type).collect(),
            kinds: counts_by_name(DeliveryKind::ALL, DeliveryKind::name, |kind| {
                ledger.kind_count(kind)
            }),
            expected: counts_by_name(OracleVerdict::ALL, OracleVerdict::name, |v| {
                sum(&|t| ledger.expected_count(t, v))
            }),
            answered: counts_by_name(RecordedOutcome::ALL, outcome_name, |a| {
                sum(&|t| ledger.response_outcome_count(t, a))
            }),
            invalid: outcomes(&ledger.invalid_send_outcomes),
            tries: ledger.tries.clone(),
            statuses: ledger.status_counts.clone(),
            reported: counts_by_name(ReportedOutcome::ALL, ReportedOutcome::name, |outcome| {
                ledger.reported_outcome_count(outcome)
            }),
            connections_failed: ledger.connection_failures,
            connections_broken: ledger.broken_connections,
            timed_out: ledger.timeouts,
            late_responses: ledger.late_responses.clone(),
            latency_ms: LatencySummary {
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                p999: quantile(0.999),
                max: latency(ledger.latency.max()),
            },
            latency_from: match ledger.loop_kind {
                LoopKind::Open => "due",
                LoopKind::Closed => "begun",
            },
            fidelity: ledger.fidelity,
        }
    }
}
