//! The ledger as it is shown: text, or JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::{Course, KINDS, Ledger};
use crate::event::EventType;
use crate::simulate::journal::Answer;
use crate::simulate::message::Kind;
use crate::simulate::oracle::Verdict;
use crate::simulate::progress::moment;
use crate::simulate::sender::{End, Word};

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

impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} events in {:.1} s, {:.0} accepted a second; simulated {} to {}",
            self.events, self.elapsed_s, self.events_per_s, self.simulated_from, self.simulated_to
        )?;
        if self.course.after_end > 0 {
            let after_end = self.course.after_end;
            writeln!(
                f,
                "{after_end} of them after the end, to make the story whole"
            )?;
        }
        writeln!(f)?;
        self.write_types(f)?;
        writeln!(f)?;
        self.write_verdicts(f)?;
        writeln!(f)?;
        let tries: Vec<_> = self.tries.iter().map(u64::to_string).collect();
        line(f, "tries", &[("first, second, …", tries.join(", "))])?;
        line(f, "answers", &pairs(&self.answers))?;
        let words = Word::ALL.map(|word| (word.name(), self.words[word.name()]));
        line(f, "of 2xx", &words)?;
        let failures = [
            ("connections failed", self.connections_failed),
            ("broken", self.connections_broken),
            ("timed out", self.timed_out),
        ];
        line(f, "no answer", &failures)?;
        if !self.late_answers.is_empty() {
            line(f, "late answers", &pairs(&self.late_answers))?;
        }
        let latency = &self.latency_ms;
        let latency = [
            ("p50", latency.p50),
            ("p90", latency.p90),
            ("p99", latency.p99),
            ("p99.9", latency.p999),
            ("max", latency.max),
        ]
        .map(|(name, ms)| (name, ms.map_or("–".to_owned(), |ms| format!("{ms:.2} ms"))));
        line(f, "latency", &latency)?;
        let from = match self.latency_from {
            "due" => {
                "from the moment at which each event was due to its acceptance, all tries included"
            }
            _ => {
                "from the beginning of each event's first try to its acceptance, all tries included"
            }
        };
        write!(f, "{:14}{from}", "")?;
        self.course.write(f)
    }
}

impl Summary {
    fn write_types(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:22}", "")?;
        for kind in KINDS {
            write!(f, "{:>12}", kind_name(kind))?;
        }
        write!(f, "  |")?;
        for end in End::ALL {
            write!(f, "{:>10}", end.name())?;
        }
        writeln!(f)?;
        for event_type in EventType::ALL {
            let of_type = &self.types[event_type.name()];
            row(f, event_type.name(), &of_type.kinds, &of_type.ends)?;
        }
        let none = BTreeMap::new();
        row(f, "invalid ones", &none, &self.invalid)?;
        row(f, "all", &self.kinds, &self.ends)
    }
}

impl Summary {
    /// What valid events are expected to be, and what was heard of them.
    fn write_verdicts(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let row = |f: &mut Formatter<'_>, name: &str, expected: &[String], heard: &[String]| {
            write!(f, "{name:22}")?;
            expected.iter().try_for_each(|n| write!(f, "{n:>12}"))?;
            write!(f, "  |")?;
            heard.iter().try_for_each(|n| write!(f, "{n:>12}"))?;
            writeln!(f)
        };
        let (expected, heard) = (Verdict::ALL.map(Verdict::name), HEARD.map(answer_name));
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        row(f, "expected | heard", &names(&expected), &names(&heard))?;
        let counts = |counts: &BTreeMap<&'static str, u64>, of: &[&str]| {
            of.iter()
                .map(|name| counts[name].to_string())
                .collect::<Vec<_>>()
        };
        for event_type in EventType::ALL {
            let of_type = &self.types[event_type.name()];
            let told = (
                counts(&of_type.expected, &expected),
                counts(&of_type.heard, &heard),
            );
            row(f, event_type.name(), &told.0, &told.1)?;
        }
        let all = (
            counts(&self.expected, &expected),
            counts(&self.heard, &heard),
        );
        row(f, "all", &all.0, &all.1)
    }
}

/// Answers that a valid event may get, as the text shows them.
const HEARD: [Answer; 5] = [
    Answer::Published,
    Answer::Spooled,
    Answer::Redelivery,
    Answer::Repeat,
    Answer::Unknown,
];

fn row(
    f: &mut Formatter<'_>,
    name: &str,
    kinds: &BTreeMap<&'static str, u64>,
    ends: &BTreeMap<&'static str, u64>,
) -> fmt::Result {
    write!(f, "{name:22}")?;
    for kind in KINDS {
        match kinds.get(kind_name(kind)) {
            Some(n) => write!(f, "{n:>12}")?,
            None => write!(f, "{:>12}", "")?,
        }
    }
    write!(f, "  |")?;
    for end in End::ALL {
        write!(f, "{:>10}", ends.get(end.name()).copied().unwrap_or(0))?;
    }
    writeln!(f)
}

fn pairs(counts: &BTreeMap<u16, u64>) -> Vec<(String, u64)> {
    counts
        .iter()
        .map(|(status, n)| (status.to_string(), *n))
        .collect()
}

fn line<N: Display, V: Display>(
    f: &mut Formatter<'_>,
    name: &str,
    values: &[(N, V)],
) -> fmt::Result {
    write!(f, "{name:14}")?;
    for (place, (name, value)) in values.iter().enumerate() {
        let between = if place == 0 { "" } else { "   " };
        write!(f, "{between}{name} {value}")?;
    }
    match values.is_empty() {
        true => writeln!(f, "none"),
        false => writeln!(f),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::simulate::sender::Answered;

    fn ledger() -> Ledger {
        let begun = Instant::now();
        let mut ledger = Ledger::begin(begun, true, 1_700_000_000_000);
        for kind in [Kind::First, Kind::Redelivery, Kind::Invalid] {
            let expected = match kind {
                Kind::First => Some(Verdict::First),
                Kind::Redelivery => Some(Verdict::Redelivery),
                _ => None,
            };
            ledger.delivery(EventType::Traffic, kind, expected);
            let answer = match kind {
                Kind::Invalid => Answer::Refused,
                _ => Answer::Published,
            };
            ledger.told(EventType::Traffic, kind, answer);
            ledger.tried(1);
            let (status, end) = match kind {
                Kind::Invalid => (422, End::Refused),
                _ => (200, End::Accepted),
            };
            let word = (status == 200).then_some(Word::Published);
            let answered = Answered {
                status,
                word,
                at: None,
            };
            ledger.answered(&answered, kind);
            if end == End::Accepted {
                ledger.accepted(Duration::from_micros(1500), begun + Duration::from_secs(1));
            }
            ledger.delivered(EventType::Traffic, kind, end);
        }
        ledger.end(begun + Duration::from_secs(2), 1_700_000_060_000);
        ledger
    }

    #[test]
    fn the_text_says_all_there_is() {
        let text = Summary::from(&ledger()).to_string();
        for part in [
            "3 events in 2.0 s, 2 accepted a second; simulated 2023-11-14T22:13:20Z to 2023-11-14T22:14:20Z",
            "answers       200 2   422 1",
            "of 2xx        published 2   spooled 0",
            "p99 1.50 ms",
            "from the moment at which each event was due to its acceptance, all tries included",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let table: Vec<_> = text.lines().filter(|l| l.contains('|')).collect();
        assert_eq!(table.len(), 1 + 10 + 2 + 1 + 10 + 1);
        for table in table.chunk_by(|_, line| !line.starts_with("expected")) {
            let bars: Vec<_> = table.iter().map(|l| l.rfind('|')).collect();
            assert!(bars.iter().all(|b| *b == bars[0]), "aligned:\n{text}");
        }
    }

    #[test]
    fn the_json_has_the_same_sums() {
        let json = serde_json::to_value(Summary::from(&ledger())).unwrap();
        assert_eq!(json["events"], 3);
        assert_eq!(json["ends"]["accepted"], 2);
        assert_eq!(json["types"]["TRAFFIC"]["kinds"]["invalid"], 1);
        assert_eq!(json["types"]["TRAFFIC"]["ends"]["refused"], 0);
        assert_eq!(json["invalid"]["refused"], 1);
        assert_eq!(json["types"]["TRAFFIC"]["expected"]["redelivery"], 1);
        assert_eq!(json["types"]["TRAFFIC"]["heard"]["published"], 2);
        assert_eq!(json["expected"]["first"], 1);
        assert_eq!(json["heard"]["refused"], 0, "without invalid ones");
        assert_eq!(json["answers"]["422"], 1);
        assert_eq!(json["latency_ms"]["p99.9"], 1.5);
        assert_eq!(json["events_per_s"], 2.0, "up to the last acceptance");
    }

    #[test]
    fn without_acceptance_there_is_no_latency() {
        let ledger = Ledger::begin(Instant::now(), false, 0);
        let summary = Summary::from(&ledger);
        let json = serde_json::to_value(&summary).unwrap();
        for name in ["p50", "p90", "p99", "p99.9", "max"] {
            assert_eq!(json["latency_ms"][name], serde_json::Value::Null, "{name}");
        }
        let text = summary.to_string();
        assert!(text.contains("p50 –   p90 –"), "{text}");
        assert!(text.contains("from the beginning of each event's first try to"));
    }
}
