//! The report as text and as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::{
    MAX_LISTED_VIOLATIONS, Property, PropertyFinding, VerdictCounts, VerificationReport, Violation,
};
use crate::oracle::OracleVerdict;
use crate::verify::record_digest::RecordPosition;
use butlr_event::EventType;

impl VerificationReport {
    /// Returns the report as JSON.
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
        let counts = |verdicts: &VerdictCounts| {
            let by_verdict = OracleVerdict::ALL
                .map(|v| (v.name().to_owned(), verdicts.by_verdict[v as usize].into()));
            json!({
                "told": Value::Object(by_verdict.into_iter().collect()),
                "unknown": verdicts.unknown,
                "unjudged": verdicts.unjudged,
                "forgotten": verdicts.forgotten_repeats,
                "unrecognised": verdicts.unrecognised,
                "marked": verdicts.marked,
            })
        };
        let types =
            EventType::ALL.map(|t| (t.name().to_owned(), counts(&self.verdicts[t.index()])));
        json!({
            "all": counts(&self.all_verdicts()),
            "types": Value::Object(types.into_iter().collect()),
        })
    }

    fn topic(&self, position: RecordPosition) -> &str {
        &self.topics[position.topic.index()]
    }
}

impl PropertyFinding {
    fn status(&self) -> &'static str {
        if self.violations > 0 {
            "failed"
        } else if self.skip_reason().is_some() {
            "not checked"
        } else {
            "ok"
        }
    }

    /// Returns the reason why the property was not checked, if it was not.
    fn skip_reason(&self) -> Option<&str> {
        let no_checks = (self.checked == 0).then_some("there was nothing to check");
        self.unchecked_reason.as_deref().or(no_checks)
    }
}

impl fmt::Display for VerificationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "compared {} records with {} requests in {:.1} s",
            format_grouped(self.records),
            format_grouped(self.attempts),
            self.elapsed.as_secs_f64()
        )?;
        for property in Property::ALL {
            self.write_finding(f, property)?;
        }
        self.write_verdicts(f)?;
        self.write_exclusions(f)?;
        self.write_copies(f)?;
        match self.unproved_reason() {
            None => Ok(()),
            Some(reason) => write!(f, "\nFAILED       {reason}"),
        }
    }
}

impl VerificationReport {
    fn write_finding(&self, f: &mut fmt::Formatter<'_>, property: Property) -> fmt::Result {
        let finding = self.finding(property);
        let (claim, unit) = (property.claim(), property.unit());
        if finding.violations > 0 {
            let violations = format_grouped(finding.violations);
            write!(f, "FAILED       {claim}: {violations} violations")?;
            if finding.violations > MAX_LISTED_VIOLATIONS as u64 {
                write!(f, "; the first {MAX_LISTED_VIOLATIONS}")?;
            }
            writeln!(f, ":")?;
            for violation in &finding.first {
                self.write_violation(f, violation)?;
            }
            return Ok(());
        }
        if let Some(reason) = finding.skip_reason() {
            return writeln!(f, "not checked  {claim}: {reason}");
        }
        let checked = format_grouped(finding.checked);
        write!(f, "ok           {claim} ({checked} {unit}")?;
        if property == Property::ReportedPosition {
            let named = format_grouped(self.reported_positions);
            let published = format_grouped(self.published);
            write!(f, "; {named} of {published} published ones named one")?;
        }
        writeln!(f, ")")
    }

    fn write_verdicts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self
            .finding(Property::Classification)
            .skip_reason()
            .is_some()
        {
            return Ok(());
        }
        let all = self.all_verdicts();
        let counts = OracleVerdict::ALL.map(|v| {
            format!(
                "{} {}",
                format_grouped(all.by_verdict[v as usize]),
                v.name()
            )
        });
        writeln!(f, "classified   {}", counts.join(", "))?;
        for (count, note) in [
            (all.unknown, "had attempts of unknown outcome"),
            (all.unjudged, "cannot be judged, as too much is unknown"),
            (
                all.forgotten_repeats,
                "are redeliveries of repeats that were no longer known",
            ),
            (
                all.unrecognised,
                "were classified as if earlier events were unknown",
            ),
        ] {
            if count > 0 {
                writeln!(f, "             of these, {} {note}", format_grouped(count))?;
            }
        }
        Ok(())
    }

    fn write_exclusions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.repeats_before_run > 0 {
            let repeats = format_grouped(self.repeats_before_run);
            writeln!(
                f,
                "not checked  {repeats} repeats of readings from before the run"
            )?;
        }
        if self.already_stored > 0 {
            let stored = format_grouped(self.already_stored);
            writeln!(
                f,
                "spooled      {stored} attempts without a record of their own, as the topics already held the event"
            )?;
        }
        if self.records_before_run > 0 {
            let records = format_grouped(self.records_before_run);
            writeln!(f, "ignored      {records} records from before the run")?;
        }
        match &self.gave_up_reason {
            Some(reason) => writeln!(f, "gave up      {reason}"),
            None => Ok(()),
        }
    }

    fn write_copies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let copies = &self.copies;
        match copies.all {
            0 => return write!(f, "no event has more than one record"),
            1 => write!(f, "1 record is a copy: ")?,
            n => write!(f, "{} records are copies: ", format_grouped(n))?,
        }
        write!(
            f,
            "{} redelivered as planned, {} after a timeout, {} after a failure",
            format_grouped(copies.redelivery),
            format_grouped(copies.after_timeout),
            format_grouped(copies.after_failure)
        )?;
        match copies.unexplained() {
            0 => Ok(()),
            n => write!(f, ", {} for unknown reasons", format_grouped(n)),
        }
    }

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

/// Formats `1234567` as `1,234,567`.
fn format_grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
