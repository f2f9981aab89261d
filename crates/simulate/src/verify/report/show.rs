//! The report as text, and for programs.

use std::fmt;

use serde_json::{Value, json};

use super::{Finding, Property, Report, TOLD, Verdicts, Violation};
use crate::oracle::Verdict;
use crate::verify::entry::Position;
use butlr_event::EventType;

impl Report {
    /// The same for programs.
    pub fn to_json(&self) -> Value {
        let violation = |v: &Violation| {
            let position = v.position.map(|p| {
                json!({
                    "topic": self.topic(p),
                    "partition": p.partition,
                    "offset": p.offset,
                })
            });
            json!({ "id": v.id, "record": position, "expected": v.text })
        };
        let properties = Property::ALL.map(|property| {
            let finding = self.finding(property);
            json!({
                "property": property.name(),
                "result": finding.word(),
                "checked": finding.checked,
                "violations": finding.violations,
                "first_violations": finding.first.iter().map(violation).collect::<Vec<_>>(),
                "not_checked_because": finding.why_not(),
            })
        });
        json!({
            "holds": self.holds(),
            "nothing_proved_because": self.nothing_proved(),
            "accepted": self.accepted,
            "published": self.published,
            "named": self.named,
            "repeats_of_readings_before_the_run": self.repeats_before,
            "spooled_and_already_stored": self.already_stored,
            "records_before_the_run": self.earlier,
            "long_older_than_what_was_known": self.long_older,
            "not_waited_longer": self.gave_up,
            "attempts": self.attempts,
            "records": self.records,
            "value_bytes": self.bytes,
            "seconds": self.took.as_secs_f64(),
            "copies": {
                "all": self.copies.all,
                "redelivery": self.copies.redelivery,
                "after_timeout": self.copies.after_timeout,
                "after_failure": self.copies.after_failure,
                "unexplained": self.copies.unexplained(),
            },
            "verdicts": self.verdicts_to_json(),
            "properties": properties,
        })
    }

    fn verdicts_to_json(&self) -> Value {
        let of = |verdicts: &Verdicts| {
            let told =
                Verdict::ALL.map(|v| (v.name().to_owned(), verdicts.told[v as usize].into()));
            json!({
                "told": Value::Object(told.into_iter().collect()),
                "unknown": verdicts.unknown,
                "unjudged": verdicts.unjudged,
                "forgotten": verdicts.forgotten,
                "unrecognised": verdicts.unrecognised,
                "marked": verdicts.marked,
            })
        };
        let types = EventType::ALL.map(|t| (t.name().to_owned(), of(&self.verdicts[t.index()])));
        json!({
            "all": of(&self.all_verdicts()),
            "types": Value::Object(types.into_iter().collect()),
        })
    }

    fn topic(&self, position: Position) -> &str {
        &self.topics[usize::from(position.topic)]
    }
}

impl Finding {
    fn word(&self) -> &'static str {
        match self {
            Finding {
                violations: 1.., ..
            } => "failed",
            _ if self.why_not().is_some() => "not checked",
            _ => "ok",
        }
    }

    /// Why it was not checked.
    fn why_not(&self) -> Option<&str> {
        let nothing = (self.checked == 0).then_some("there was nothing to check");
        self.unchecked.as_deref().or(nothing)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "read {} records back and compared them with {} answers, in {:.1} s",
            grouped(self.records),
            grouped(self.attempts),
            self.took.as_secs_f64()
        )?;
        for property in Property::ALL {
            let finding = self.finding(property);
            let (claim, counts) = (property.claim(), property.counts());
            match finding {
                Finding {
                    violations: violations @ 1..,
                    ..
                } => {
                    let shown = match *violations > TOLD as u64 {
                        true => format!("; the first {TOLD}:"),
                        false => ":".to_owned(),
                    };
                    let violations = grouped(*violations);
                    writeln!(f, "FAILED       {claim}: violated by {violations}{shown}")?;
                    for violation in &finding.first {
                        self.tell(f, violation)?;
                    }
                }
                _ => {
                    let checked = grouped(finding.checked);
                    match finding.why_not() {
                        Some(why) => writeln!(f, "not checked  {claim}: {why}")?,
                        None if property == Property::Named => {
                            let (named, published) = (grouped(self.named), grouped(self.published));
                            let of = format!("{named} of {published} published ones named them");
                            writeln!(f, "ok           {claim} ({checked} {counts}; {of})")?;
                        }
                        None => writeln!(f, "ok           {claim} ({checked} {counts})")?,
                    }
                }
            }
        }
        self.tell_verdicts(f)?;
        self.tell_aside(f)?;
        self.tell_copies(f)?;
        match self.nothing_proved() {
            None => Ok(()),
            Some(why) => write!(f, "\nFAILED       {why}"),
        }
    }
}

impl Report {
    fn tell_verdicts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.finding(Property::Judged).why_not().is_some() {
            return Ok(());
        }
        let all = self.all_verdicts();
        let told = Verdict::ALL.map(|v| format!("{} {}", grouped(all.told[v as usize]), v.name()));
        writeln!(f, "told apart   {}", told.join(", "))?;
        for (n, what) in [
            (all.unknown, "had tries without a known answer"),
            (all.unjudged, "rest on what is not known"),
            (
                all.forgotten,
                "are redeliveries of repeats, which were not known any more",
            ),
            (
                all.unrecognised,
                "were taken as if those before them were not known",
            ),
        ] {
            if n > 0 {
                writeln!(f, "             {} of all {what}", grouped(n))?;
            }
        }
        Ok(())
    }

    fn tell_aside(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.repeats_before > 0 {
            let repeats = grouped(self.repeats_before);
            writeln!(
                f,
                "not checked  {repeats} repeats rest on readings from before the run"
            )?;
        }
        if self.already_stored > 0 {
            let stored = grouped(self.already_stored);
            writeln!(
                f,
                "spooled      {stored} tries of events of which the topics held a record already"
            )?;
        }
        if self.earlier > 0 {
            let earlier = grouped(self.earlier);
            writeln!(
                f,
                "left out     {earlier} records that came before the run, and are none of it"
            )?;
        }
        match &self.gave_up {
            Some(why) => writeln!(f, "not waited   {why}"),
            None => Ok(()),
        }
    }

    fn tell_copies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let copies = &self.copies;
        match copies.all {
            0 => return write!(f, "no event is there more than once"),
            1 => write!(f, "1 record is a copy: ")?,
            n => write!(f, "{} records are copies: ", grouped(n))?,
        }
        write!(
            f,
            "{} sent again as planned, {} after a time-out, {} after a failure",
            grouped(copies.redelivery),
            grouped(copies.after_timeout),
            grouped(copies.after_failure)
        )?;
        match copies.unexplained() {
            0 => Ok(()),
            n => write!(f, ", {} for no reason that is known", grouped(n)),
        }
    }
}

impl Report {
    fn tell(&self, f: &mut fmt::Formatter<'_>, violation: &Violation) -> fmt::Result {
        f.write_str("               ")?;
        if let Some(id) = &violation.id {
            write!(f, "{id}  ")?;
        }
        if let Some(position) = violation.position {
            let topic = self.topic(position);
            write!(f, "{topic}[{}]@{}  ", position.partition, position.offset)?;
        }
        writeln!(f, "{}", violation.text)
    }
}

/// `1234567` as `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
