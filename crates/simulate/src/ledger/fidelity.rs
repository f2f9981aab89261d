//! Fidelity of a run: deviations from its options.

use std::fmt::{self, Formatter};

use serde::Serialize;

/// Fidelity of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RunFidelity {
    /// Set unless the run was given up before its end.
    pub complete: bool,
    /// Set if the simulated clock caught up with the wall clock and continued in real time, so that
    /// the requested pace was not kept.
    pub caught_up: bool,
    /// Delay of the first try of the last event before the end, in seconds; 0 in a closed loop.
    pub behind_s: f64,
    /// Number of events generated after the end, so that TRAFFIC adds up to the true positions.
    pub after_end: u64,
    /// Number of events missing for that, because sending them would have taken too long.
    #[serde(rename = "untold")]
    pub omitted: u64,
}

impl Default for RunFidelity {
    fn default() -> Self {
        Self {
            complete: true,
            caught_up: false,
            behind_s: 0.0,
            after_end: 0,
            omitted: 0,
        }
    }
}

/// Delay up to which the pace counts as kept.
const BEHIND_TOLERANCE_S: f64 = 0.5;

impl RunFidelity {
    /// Returns `true` if all TRAFFIC was sent that the true positions at the end include.
    pub fn is_traffic_complete(&self) -> bool {
        self.complete && self.omitted == 0
    }

    /// Writes a line for each deviation.
    pub(super) fn write_deviations(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut write_line = |name: &str, text: String| write!(f, "\n{name:14}{text}");
        if !self.complete {
            write_line(
                "incomplete",
                "the run was given up before its end".to_owned(),
            )?;
        }
        if self.caught_up {
            let text =
                "the simulated clock caught up with the wall clock and continued in real time";
            write_line("pace not kept", text.to_owned())?;
        }
        if self.behind_s >= BEHIND_TOLERANCE_S {
            let text = format!("{:.1} s behind at the end", self.behind_s);
            write_line("pace not kept", text)?;
        }
        if self.omitted > 0 {
            let text = format!(
                "{} more events, so TRAFFIC does not add up to the true positions",
                self.omitted
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
    use crate::ledger::{LoopKind, RunLedger, RunSummary};

    #[test]
    fn a_run_without_deviations_has_no_lines() {
        let mut ledger = RunLedger::new(Instant::now(), LoopKind::Open, 0);
        ledger.record_lateness(Duration::from_millis(20));
        let text = RunSummary::from(&ledger).to_string();
        for part in ["incomplete", "not kept", "not sent", "after the end"] {
            assert!(!text.contains(part), "{text}");
        }
    }

    #[test]
    fn deviations_are_reported() {
        let mut ledger = RunLedger::new(Instant::now(), LoopKind::Open, 0);
        ledger.record_lateness(Duration::from_millis(12_345));
        ledger.set_fidelity(RunFidelity {
            complete: false,
            caught_up: true,
            after_end: 7,
            omitted: 3,
            ..ledger.fidelity()
        });
        let summary = RunSummary::from(&ledger);
        let text = summary.to_string();
        for part in [
            "7 of them after the end",
            "\nincomplete    the run was given up",
            "\npace not kept the simulated clock caught up",
            "\npace not kept 12.3 s behind",
            "\nnot sent      3 more events",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
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
