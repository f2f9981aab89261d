//! The ledger as it is shown: text, or JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{KINDS, RunFidelity, RunLedger};
use crate::journal::RecordedOutcome;
use crate::message::DeliveryKind;
use crate::oracle::OracleVerdict;
use crate::progress::format_timestamp;
use crate::sender::{ReportedOutcome, SendOutcome};
use butlr_event::EventType;

#[cfg(test)]
mod tests;
mod text;

/// What a run came to. Serializes as the file that `--output` writes; displays as text.
#[derive(Clone, Debug, Serialize)]
pub struct RunSummary {
    elapsed_s: f64,
    simulated_from: String,
    simulated_to: String,
    /// Deliveries, each counted once.
    events: u64,
    /// Accepted ones, up to the last acceptance: time in which nothing more came of what waited does not count.
    events_per_s: f64,
    ends: BTreeMap<&'static str, u64>,
    types: BTreeMap<&'static str, TypeSummary>,
    kinds: BTreeMap<&'static str, u64>,
    /// What valid deliveries are when all of them are stored.
    expected: BTreeMap<&'static str, u64>,
    /// Requests with valid events that reached a server, by what their answer says in the end.
    heard: BTreeMap<&'static str, u64>,
    /// Those of kind invalid, by how they ended.
    invalid: BTreeMap<&'static str, u64>,
    /// First tries, second ones, ….
    tries: Vec<u64>,
    answers: BTreeMap<u16, u64>,
    words: BTreeMap<&'static str, u64>,
    connections_failed: u64,
    connections_broken: u64,
    timed_out: u64,
    late_answers: BTreeMap<u16, u64>,
    /// Of accepted events, up to their acceptance, all tries included. Dropped ones are not in it.
    latency_ms: LatencySummary,
    /// From when latencies count. `due`: from the moment at which each event was due, so that waiting counts. `begun`: from
    /// the beginning of its first try; so do in a paced run also those sent after its end.
    latency_from: &'static str,
    #[serde(flatten)]
    fidelity: RunFidelity,
}

#[derive(Clone, Debug, Serialize)]
struct TypeSummary {
    kinds: BTreeMap<&'static str, u64>,
    /// Without invalid ones.
    ends: BTreeMap<&'static str, u64>,
    expected: BTreeMap<&'static str, u64>,
    heard: BTreeMap<&'static str, u64>,
}

/// Without anything accepted there is none.
#[derive(Clone, Debug, Serialize)]
struct LatencySummary {
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    #[serde(rename = "p99.9")]
    p999: Option<f64>,
    max: Option<f64>,
}

const fn kind_name(kind: DeliveryKind) -> &'static str {
    match kind {
        DeliveryKind::First => "first",
        DeliveryKind::Repeat => "repeat",
        DeliveryKind::Revision => "revision",
        DeliveryKind::Stale => "stale",
        DeliveryKind::Late => "late",
        DeliveryKind::Overlapping => "overlapping",
        DeliveryKind::Redelivery => "redelivery",
        DeliveryKind::Invalid => "invalid",
    }
}

const fn answer_name(answer: RecordedOutcome) -> &'static str {
    match answer {
        RecordedOutcome::Redelivery => "redelivery",
        RecordedOutcome::Repeat => "repeat",
        answer => answer.name(),
    }
}

/// The same for each type, and the sum of all.
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
        let accepting = ledger
            .last_accepted_at
            .map_or(elapsed, |at| at - ledger.started_at);
        let latency = |micros: u64| (!ledger.latency.is_empty()).then(|| micros as f64 / 1000.0);
        let quantile = |q| latency(ledger.latency.value_at_quantile(q));
        let ends = |ends: &[u64; SendOutcome::ALL.len()]| {
            let ends = SendOutcome::ALL.into_iter().zip(ends);
            ends.map(|(end, n)| (end.name(), *n)).collect()
        };
        let of_type = |t: EventType| {
            let kinds = KINDS.into_iter().zip(ledger.deliveries[t.index()]);
            let kinds = kinds.map(|(kind, n)| (kind_name(kind), n)).collect();
            let ends = ends(&ledger.send_outcomes[t.index()]);
            let expected = counts_by_name(OracleVerdict::ALL, OracleVerdict::name, |v| {
                ledger.expected_count(t, v)
            });
            let heard = counts_by_name(RecordedOutcome::ALL, answer_name, |a| {
                ledger.answer_count(t, a)
            });
            let of_type = TypeSummary {
                kinds,
                ends,
                expected,
                heard,
            };
            (t.name(), of_type)
        };
        let sum = |count: &dyn Fn(EventType) -> u64| EventType::ALL.into_iter().map(count).sum();
        Self {
            elapsed_s: (elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
            simulated_from: format_timestamp(ledger.simulated_ms.0),
            simulated_to: format_timestamp(ledger.simulated_ms.1),
            events: ledger.deliveries(),
            events_per_s: (accepted / accepting.as_secs_f64().max(0.001) * 10.0).round() / 10.0,
            ends: SendOutcome::ALL
                .map(|end| (end.name(), ledger.send_outcome_count(end)))
                .into(),
            types: EventType::ALL.into_iter().map(of_type).collect(),
            kinds: KINDS
                .map(|kind| (kind_name(kind), ledger.kind_count(kind)))
                .into(),
            expected: counts_by_name(OracleVerdict::ALL, OracleVerdict::name, |v| {
                sum(&|t| ledger.expected_count(t, v))
            }),
            heard: counts_by_name(RecordedOutcome::ALL, answer_name, |a| {
                sum(&|t| ledger.answer_count(t, a))
            }),
            invalid: ends(&ledger.invalid_send_outcomes),
            tries: ledger.tries.clone(),
            answers: ledger.status_counts.clone(),
            words: ReportedOutcome::ALL
                .map(|word| (word.name(), ledger.reported_outcome_count(word)))
                .into(),
            connections_failed: ledger.connection_failures,
            connections_broken: ledger.broken_connections,
            timed_out: ledger.timeouts,
            late_answers: ledger.late_answers.clone(),
            latency_ms: LatencySummary {
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                p999: quantile(0.999),
                max: latency(ledger.latency.max()),
            },
            latency_from: if ledger.paced { "due" } else { "begun" },
            fidelity: ledger.fidelity,
        }
    }
}
