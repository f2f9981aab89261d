//! Whether a run went as it was asked to.

use std::fmt::{self, Formatter};

use serde::Serialize;

/// How a run went.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RunFidelity {
    /// Whether it came to its end; not where it was given up midway.
    pub complete: bool,
    /// Whether the simulated clock caught up with the wall clock, and so went on in real time: what was asked for was not
    /// kept.
    pub caught_up: bool,
    /// How long the last event before the end was due when its first try began, in seconds. 0 in a closed loop.
    pub behind_s: f64,
    /// Events that were made after the end, so that what was sent adds up to who is where.
    pub after_end: u64,
    /// Events that are missing for that, because they would have taken too long.
    pub untold: u64,
}

impl Default for RunFidelity {
    fn default() -> Self {
        Self {
            complete: true,
            caught_up: false,
            behind_s: 0.0,
            after_end: 0,
            untold: 0,
        }
    }
}

/// Whoever is less behind keeps the pace.
const BEHIND_TOLERANCE_S: f64 = 0.5;

impl RunFidelity {
    /// Lines about what did not go as asked.
    pub(super) fn write_deviations(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut write_line = |name: &str, text: String| write!(f, "\n{name:14}{text}");
        if !self.complete {
            write_line(
                "incomplete",
                "the run was given up before its end".to_owned(),
            )?;
        }
        if self.caught_up {
            let text = "the simulated clock caught up with the wall clock and went on in real time";
            write_line("pace not kept", text.to_owned())?;
        }
        if self.behind_s >= BEHIND_TOLERANCE_S {
            let text = format!("{:.1} s behind at the end", self.behind_s);
            write_line("pace not kept", text)?;
        }
        if self.untold > 0 {
            let text = format!(
                "{} events more: TRAFFIC does not add up to who is where",
                self.untold
            );
            write_line("not sent", text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::ledger::{RunLedger, RunSummary};

    #[test]
    fn what_went_as_asked_is_not_worth_a_line() {
        let mut ledger = RunLedger::new(Instant::now(), true, 0);
        ledger.record_lateness(Duration::from_millis(20));
        let text = RunSummary::from(&ledger).to_string();
        for part in ["incomplete", "not kept", "not sent", "after the end"] {
            assert!(!text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_went_wrong_is_told() {
        let mut ledger = RunLedger::new(Instant::now(), true, 0);
        ledger.record_lateness(Duration::from_millis(12_345));
        ledger.set_fidelity(RunFidelity {
            complete: false,
            caught_up: true,
            after_end: 7,
            untold: 3,
            ..ledger.fidelity()
        });
        let summary = RunSummary::from(&ledger);
        let text = summary.to_string();
        for part in [
            "7 of them after the end",
            "\nincomplete    the run was given up",
            "\npace not kept the simulated clock caught up",
            "\npace not kept 12.3 s behind",
            "\nnot sent      3 events more",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["complete"], false);
        assert_eq!(json["caught_up"], true);
        assert_eq!(json["behind_s"], 12.345);
        assert_eq!(
            (&json["after_end"], &json["untold"]),
            (&7.into(), &3.into())
        );
    }
}
