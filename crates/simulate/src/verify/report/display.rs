//! The report as text, and for programs.

use std::fmt;

use serde_json::{Value, json};

use super::{
    MAX_LISTED_VIOLATIONS, Property, PropertyFinding, VerdictCounts, VerificationReport, Violation,
};
use crate::oracle::OracleVerdict;
use crate::verify::record_digest::RecordPosition;
use butlr_event::EventType;

impl VerificationReport {
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
                "result": finding.status(),
                "checked": finding.checked,
                "violations": finding.violations,
                "first_violations": finding.first.iter().map(violation).collect::<Vec<_>>(),
                "not_checked_because": finding.skip_reason(),
            })
        });
        json!({
            "holds": self.is_proved(),
            "nothing_proved_because": self.unproved_reason(),
            "accepted": self.accepted,
            "published": self.published,
            "named": self.reported_positions,
            "repeats_of_readings_before_the_run": self.repeats_before_run,
            "spooled_and_already_stored": self.already_stored,
            "records_before_the_run": self.records_before_run,
            "long_older_than_what_was_known": self.required_marks,
            "not_waited_longer": self.gave_up_reason,
            "attempts": self.attempts,
            "records": self.records,
            "value_bytes": self.bytes,
            "seconds": self.elapsed.as_secs_f64(),
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
        let of = |verdicts: &VerdictCounts| {
            let told = OracleVerdict::ALL
                .map(|v| (v.name().to_owned(), verdicts.by_verdict[v as usize].into()));
            json!({
                "told": Value::Object(told.into_iter().collect()),
                "unknown": verdicts.unknown,
                "unjudged": verdicts.unjudged,
                "forgotten": verdicts.forgotten_repeats,
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

    fn topic(&self, position: RecordPosition) -> &str {
        &self.topics[usize::from(position.topic)]
    }
}

impl PropertyFinding {
    fn status(&self) -> &'static str {
        match self {
            PropertyFinding {
                violations: 1.., ..
            } => "failed",
            _ if self.skip_reason().is_some() => "not checked",
            _ => "ok",
        }
    }

    /// Why it was not checked.
    fn skip_reason(&self) -> Option<&str> {
        let nothing = (self.checked == 0).then_some("there was nothing to check");
        self.unchecked_reason.as_deref().or(nothing)
    }
}

impl fmt::Display for VerificationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "read {} records back and compared them with {} answers, in {:.1} s",
            format_grouped(self.records),
            format_grouped(self.attempts),
            self.elapsed.as_secs_f64()
        )?;
        for property in Property::ALL {
            let finding = self.finding(property);
            let (claim, counts) = (property.claim(), property.unit());
            match finding {
                PropertyFinding {
                    violations: violations @ 1..,
                    ..
                } => {
                    let shown = match *violations > MAX_LISTED_VIOLATIONS as u64 {
                        true => format!("; the first {MAX_LISTED_VIOLATIONS}:"),
                        false => ":".to_owned(),
                    };
                    let violations = format_grouped(*violations);
                    writeln!(f, "FAILED       {claim}: violated by {violations}{shown}")?;
                    for violation in &finding.first {
                        self.write_violation(f, violation)?;
                    }
                }
                _ => {
                    let checked = format_grouped(finding.checked);
                    match finding.skip_reason() {
                        Some(why) => writeln!(f, "not checked  {claim}: {why}")?,
                        None if property == Property::ReportedPosition => {
                            let (named, published) = (
                                format_grouped(self.reported_positions),
                                format_grouped(self.published),
                            );
                            let of = format!("{named} of {published} published ones named them");
                            writeln!(f, "ok           {claim} ({checked} {counts}; {of})")?;
                        }
                        None => writeln!(f, "ok           {claim} ({checked} {counts})")?,
                    }
                }
            }
        }
        self.write_verdicts(f)?;
        self.write_exclusions(f)?;
        self.write_copies(f)?;
        match self.unproved_reason() {
            None => Ok(()),
            Some(why) => write!(f, "\nFAILED       {why}"),
        }
    }
}

impl VerificationReport {
    fn write_verdicts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self
            .finding(Property::Classification)
            .skip_reason()
            .is_some()
        {
            return Ok(());
        }
        let all = self.all_verdicts();
        let told = OracleVerdict::ALL.map(|v| {
            format!(
                "{} {}",
                format_grouped(all.by_verdict[v as usize]),
                v.name()
            )
        });
        writeln!(f, "told apart   {}", told.join(", "))?;
        for (n, what) in [
            (all.unknown, "had tries without a known answer"),
            (all.unjudged, "rest on what is not known"),
            (
                all.forgotten_repeats,
                "are redeliveries of repeats, which were not known any more",
            ),
            (
                all.unrecognised,
                "were taken as if those before them were not known",
            ),
        ] {
            if n > 0 {
                writeln!(f, "             {} of all {what}", format_grouped(n))?;
            }
        }
        Ok(())
    }

    fn write_exclusions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.repeats_before_run > 0 {
            let repeats = format_grouped(self.repeats_before_run);
            writeln!(
                f,
                "not checked  {repeats} repeats rest on readings from before the run"
            )?;
        }
        if self.already_stored > 0 {
            let stored = format_grouped(self.already_stored);
            writeln!(
                f,
                "spooled      {stored} tries of events of which the topics held a record already"
            )?;
        }
        if self.records_before_run > 0 {
            let earlier = format_grouped(self.records_before_run);
            writeln!(
                f,
                "left out     {earlier} records that came before the run, and are none of it"
            )?;
        }
        match &self.gave_up_reason {
            Some(why) => writeln!(f, "not waited   {why}"),
            None => Ok(()),
        }
    }

    fn write_copies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let copies = &self.copies;
        match copies.all {
            0 => return write!(f, "no event is there more than once"),
            1 => write!(f, "1 record is a copy: ")?,
            n => write!(f, "{} records are copies: ", format_grouped(n))?,
        }
        write!(
            f,
            "{} sent again as planned, {} after a time-out, {} after a failure",
            format_grouped(copies.redelivery),
            format_grouped(copies.after_timeout),
            format_grouped(copies.after_failure)
        )?;
        match copies.unexplained() {
            0 => Ok(()),
            n => write!(f, ", {} for no reason that is known", format_grouped(n)),
        }
    }
}

impl VerificationReport {
    fn write_violation(&self, f: &mut fmt::Formatter<'_>, violation: &Violation) -> fmt::Result {
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
fn format_grouped(n: u64) -> String {
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
