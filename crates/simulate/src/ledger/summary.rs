//! The ledger as it is shown: text, or JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Course, KINDS, Ledger};
use crate::journal::Answer;
use crate::message::Kind;
use crate::oracle::Verdict;
use crate::progress::moment;
use crate::sender::{End, Word};
use butlr_event::EventType;

mod show;
#[cfg(test)]
mod tests;

/// What a run came to. Serializes as the file that `--output` writes; displays as text.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    elapsed_s: f64,
    simulated_from: String,
    simulated_to: String,
    /// Deliveries, each counted once.
    events: u64,
    /// Accepted ones, up to the last acceptance: time in which nothing more came of what waited does not count.
    events_per_s: f64,
    ends: BTreeMap<&'static str, u64>,
    types: BTreeMap<&'static str, OfType>,
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
    latency_ms: Latency,
    /// From when latencies count. `due`: from the moment at which each event was due, so that waiting counts. `begun`: from
    /// the beginning of its first try; so do in a paced run also those sent after its end.
    latency_from: &'static str,
    #[serde(flatten)]
    course: Course,
}

#[derive(Clone, Debug, Serialize)]
struct OfType {
    kinds: BTreeMap<&'static str, u64>,
    /// Without invalid ones.
    ends: BTreeMap<&'static str, u64>,
    expected: BTreeMap<&'static str, u64>,
    heard: BTreeMap<&'static str, u64>,
}

/// Without anything accepted there is none.
#[derive(Clone, Debug, Serialize)]
struct Latency {
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    #[serde(rename = "p99.9")]
    p999: Option<f64>,
    max: Option<f64>,
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::First => "first",
        Kind::Repeat => "repeat",
        Kind::Revision => "revision",
        Kind::Stale => "stale",
        Kind::Late => "late",
        Kind::Overlapping => "overlapping",
        Kind::Redelivery => "redelivery",
        Kind::Invalid => "invalid",
    }
}

const fn answer_name(answer: Answer) -> &'static str {
    match answer {
        Answer::Redelivery => "redelivery",
        Answer::Repeat => "repeat",
        answer => answer.name(),
    }
}

/// The same for each type, and the sum of all.
fn by_name<T: Copy, const N: usize>(
    all: [T; N],
    name: fn(T) -> &'static str,
    count: impl Fn(T) -> u64,
) -> BTreeMap<&'static str, u64> {
    all.into_iter()
        .map(|each| (name(each), count(each)))
        .collect()
}

impl From<&Ledger> for Summary {
    fn from(ledger: &Ledger) -> Self {
        let elapsed = match ledger.ended {
            Some(ended) => ended - ledger.begun,
            None => ledger.begun.elapsed(),
        };
        let accepted = ledger.ended(End::Accepted) as f64;
        let accepting = ledger.last_accepted.map_or(elapsed, |at| at - ledger.begun);
        let latency = |micros: u64| (!ledger.latency.is_empty()).then(|| micros as f64 / 1000.0);
        let quantile = |q| latency(ledger.latency.value_at_quantile(q));
        let ends = |ends: &[u64; End::ALL.len()]| {
            let ends = End::ALL.into_iter().zip(ends);
            ends.map(|(end, n)| (end.name(), *n)).collect()
        };
        let of_type = |t: EventType| {
            let kinds = KINDS.into_iter().zip(ledger.deliveries[t.index()]);
            let kinds = kinds.map(|(kind, n)| (kind_name(kind), n)).collect();
            let ends = ends(&ledger.ends[t.index()]);
            let expected = by_name(Verdict::ALL, Verdict::name, |v| ledger.expected(t, v));
            let heard = by_name(Answer::ALL, answer_name, |a| ledger.heard(t, a));
            let of_type = OfType {
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
            simulated_from: moment(ledger.simulated_ms.0),
            simulated_to: moment(ledger.simulated_ms.1),
            events: ledger.deliveries(),
            events_per_s: (accepted / accepting.as_secs_f64().max(0.001) * 10.0).round() / 10.0,
            ends: End::ALL.map(|end| (end.name(), ledger.ended(end))).into(),
            types: EventType::ALL.into_iter().map(of_type).collect(),
            kinds: KINDS
                .map(|kind| (kind_name(kind), ledger.of_kind(kind)))
                .into(),
            expected: by_name(Verdict::ALL, Verdict::name, |v| {
                sum(&|t| ledger.expected(t, v))
            }),
            heard: by_name(Answer::ALL, answer_name, |a| sum(&|t| ledger.heard(t, a))),
            invalid: ends(&ledger.invalid_ends),
            tries: ledger.tries.clone(),
            answers: ledger.answers.clone(),
            words: Word::ALL
                .map(|word| (word.name(), ledger.words(word)))
                .into(),
            connections_failed: ledger.unconnected,
            connections_broken: ledger.broken,
            timed_out: ledger.timed_out,
            late_answers: ledger.late_answers.clone(),
            latency_ms: Latency {
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                p999: quantile(0.999),
                max: latency(ledger.latency.max()),
            },
            latency_from: if ledger.paced { "due" } else { "begun" },
            course: ledger.course,
        }
    }
}
