//! Text form of the summary.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use super::{RunSummary, outcome_name};
use crate::journal::RecordedOutcome;
use crate::message::DeliveryKind;
use crate::oracle::OracleVerdict;
use crate::outcome::{ReportedOutcome, SendOutcome};
use butlr_event::EventType;

impl Display for RunSummary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} events in {:.1} s, {:.0} accepted per second; simulated {} to {}",
            self.events, self.elapsed_s, self.events_per_s, self.simulated_from, self.simulated_to
        )?;
        if self.fidelity.after_end > 0 {
            let after_end = self.fidelity.after_end;
            writeln!(
                f,
                "{after_end} of them after the end, to complete the TRAFFIC totals"
            )?;
        }
        writeln!(f)?;
        self.write_types(f)?;
        writeln!(f)?;
        self.write_verdicts(f)?;
        writeln!(f)?;
        let tries: Vec<_> = self.tries.iter().map(u64::to_string).collect();
        write_line(f, "tries", &[("first, second, …", tries.join(", "))])?;
        write_line(f, "responses", &status_pairs(&self.statuses))?;
        let reported =
            ReportedOutcome::ALL.map(|outcome| (outcome.name(), self.reported[outcome.name()]));
        write_line(f, "2xx outcomes", &reported)?;
        let failures = [
            ("connections failed", self.connections_failed),
            ("broken", self.connections_broken),
            ("timed out", self.timed_out),
        ];
        write_line(f, "no response", &failures)?;
        if !self.late_responses.is_empty() {
            write_line(f, "late", &status_pairs(&self.late_responses))?;
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
            "due" => "from the due time of each event to its acceptance, including all tries",
            _ => "from the first try of each event to its acceptance, including all tries",
        };
        write!(f, "{:14}{from}", "")?;
        self.fidelity.write_deviations(f)
    }
}

impl RunSummary {
    fn write_types(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:22}", "")?;
        for kind in DeliveryKind::ALL {
            write!(f, "{:>12}", kind.name())?;
        }
        write!(f, "  |")?;
        for outcome in SendOutcome::ALL {
            write!(f, "{:>10}", outcome.name())?;
        }
        writeln!(f)?;
        for event_type in EventType::ALL {
            let summary = &self.types[event_type.name()];
            write_row(f, event_type.name(), &summary.kinds, &summary.outcomes)?;
        }
        let none = BTreeMap::new();
        write_row(f, "invalid items", &none, &self.invalid)?;
        write_row(f, "all", &self.kinds, &self.outcomes)
    }
}

impl RunSummary {
    /// Writes the expected verdicts on valid events and their final outcomes.
    fn write_verdicts(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let row = |f: &mut Formatter<'_>, name: &str, expected: &[String], answered: &[String]| {
            write!(f, "{name:22}")?;
            expected.iter().try_for_each(|n| write!(f, "{n:>12}"))?;
            write!(f, "  |")?;
            answered.iter().try_for_each(|n| write!(f, "{n:>12}"))?;
            writeln!(f)
        };
        let (expected, answered) = (
            OracleVerdict::ALL.map(OracleVerdict::name),
            SHOWN_OUTCOMES.map(outcome_name),
        );
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        row(
            f,
            "expected | answered",
            &names(&expected),
            &names(&answered),
        )?;
        let counts = |counts: &BTreeMap<&'static str, u64>, names: &[&str]| {
            names
                .iter()
                .map(|name| counts[name].to_string())
                .collect::<Vec<_>>()
        };
        for event_type in EventType::ALL {
            let summary = &self.types[event_type.name()];
            let type_counts = (
                counts(&summary.expected, &expected),
                counts(&summary.answered, &answered),
            );
            row(f, event_type.name(), &type_counts.0, &type_counts.1)?;
        }
        let total_counts = (
            counts(&self.expected, &expected),
            counts(&self.answered, &answered),
        );
        row(f, "all", &total_counts.0, &total_counts.1)
    }
}

/// Outcomes that a valid event may have, in column order.
const SHOWN_OUTCOMES: [RecordedOutcome; 5] = [
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
    outcomes: &BTreeMap<&'static str, u64>,
) -> fmt::Result {
    write!(f, "{name:22}")?;
    for kind in DeliveryKind::ALL {
        match kinds.get(kind.name()) {
            Some(n) => write!(f, "{n:>12}")?,
            None => write!(f, "{:>12}", "")?,
        }
    }
    write!(f, "  |")?;
    for outcome in SendOutcome::ALL {
        write!(
            f,
            "{:>10}",
            outcomes.get(outcome.name()).copied().unwrap_or(0)
        )?;
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
    for (index, (name, value)) in values.iter().enumerate() {
        let separator = if index == 0 { "" } else { "   " };
        write!(f, "{separator}{name} {value}")?;
    }
    if values.is_empty() {
        write!(f, "none")?;
    }
    writeln!(f)
}
