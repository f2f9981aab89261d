//! The summary as text.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use super::{RunSummary, answer_name, kind_name};
use crate::journal::RecordedOutcome;
use crate::ledger::KINDS;
use crate::oracle::OracleVerdict;
use crate::sender::{ReportedOutcome, SendOutcome};
use butlr_event::EventType;

impl Display for RunSummary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} events in {:.1} s, {:.0} accepted a second; simulated {} to {}",
            self.events, self.elapsed_s, self.events_per_s, self.simulated_from, self.simulated_to
        )?;
        if self.fidelity.after_end > 0 {
            let after_end = self.fidelity.after_end;
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
        write_line(f, "tries", &[("first, second, …", tries.join(", "))])?;
        write_line(f, "answers", &status_pairs(&self.answers))?;
        let words = ReportedOutcome::ALL.map(|word| (word.name(), self.words[word.name()]));
        write_line(f, "of 2xx", &words)?;
        let failures = [
            ("connections failed", self.connections_failed),
            ("broken", self.connections_broken),
            ("timed out", self.timed_out),
        ];
        write_line(f, "no answer", &failures)?;
        if !self.late_answers.is_empty() {
            write_line(f, "late answers", &status_pairs(&self.late_answers))?;
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
        write_line(f, "latency", &latency)?;
        let from = match self.latency_from {
            "due" => {
                "from the moment at which each event was due to its acceptance, all tries included"
            }
            _ => {
                "from the beginning of each event's first try to its acceptance, all tries included"
            }
        };
        write!(f, "{:14}{from}", "")?;
        self.fidelity.write_deviations(f)
    }
}

impl RunSummary {
    fn write_types(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:22}", "")?;
        for kind in KINDS {
            write!(f, "{:>12}", kind_name(kind))?;
        }
        write!(f, "  |")?;
        for end in SendOutcome::ALL {
            write!(f, "{:>10}", end.name())?;
        }
        writeln!(f)?;
        for event_type in EventType::ALL {
            let of_type = &self.types[event_type.name()];
            write_row(f, event_type.name(), &of_type.kinds, &of_type.ends)?;
        }
        let none = BTreeMap::new();
        write_row(f, "invalid ones", &none, &self.invalid)?;
        write_row(f, "all", &self.kinds, &self.ends)
    }
}

impl RunSummary {
    /// What valid events are expected to be, and what was heard of them.
    fn write_verdicts(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let row = |f: &mut Formatter<'_>, name: &str, expected: &[String], heard: &[String]| {
            write!(f, "{name:22}")?;
            expected.iter().try_for_each(|n| write!(f, "{n:>12}"))?;
            write!(f, "  |")?;
            heard.iter().try_for_each(|n| write!(f, "{n:>12}"))?;
            writeln!(f)
        };
        let (expected, heard) = (
            OracleVerdict::ALL.map(OracleVerdict::name),
            SHOWN_ANSWERS.map(answer_name),
        );
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        row(f, "expected | heard", &names(&expected), &names(&heard))?;
        let counts = |counts: &BTreeMap<&'static str, u64>, of: &[&str]| {
            of.iter()
                .map(|name| counts[name].to_string())
                .collect::<Vec<_>>()
        };
        for event_type in EventType::ALL {
            let of_type = &self.types[event_type.name()];
            let type_counts = (
                counts(&of_type.expected, &expected),
                counts(&of_type.heard, &heard),
            );
            row(f, event_type.name(), &type_counts.0, &type_counts.1)?;
        }
        let total_counts = (
            counts(&self.expected, &expected),
            counts(&self.heard, &heard),
        );
        row(f, "all", &total_counts.0, &total_counts.1)
    }
}

/// Answers that a valid event may get, as the text shows them.
const SHOWN_ANSWERS: [RecordedOutcome; 5] = [
    RecordedOutcome::Published,
    RecordedOutcome::Spooled,
    RecordedOutcome::Redelivery,
    RecordedOutcome::Repeat,
    RecordedOutcome::Unknown,
];

fn write_row(
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
    for end in SendOutcome::ALL {
        write!(f, "{:>10}", ends.get(end.name()).copied().unwrap_or(0))?;
    }
    writeln!(f)
}

fn status_pairs(counts: &BTreeMap<u16, u64>) -> Vec<(String, u64)> {
    counts
        .iter()
        .map(|(status, n)| (status.to_string(), *n))
        .collect()
}

fn write_line<N: Display, V: Display>(
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
