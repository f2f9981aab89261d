//! The summary as text.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use super::{Summary, answer_name, kind_name};
use crate::journal::Answer;
use crate::ledger::KINDS;
use crate::oracle::Verdict;
use crate::sender::{End, Word};
use butlr_event::EventType;

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
