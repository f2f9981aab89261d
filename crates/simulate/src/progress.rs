//! Progress of a run on standard error: a progress bar on a terminal, otherwise one JSON line per
//! second.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::limits::RunLimits;

/// Form of the progress output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressOutput {
    /// No output.
    Silent,
    /// A progress bar for a terminal.
    Terminal,
    /// JSON lines for programs and logs.
    Lines,
}

impl ProgressOutput {
    /// Writes a note in the form of the progress output.
    ///
    /// # Errors
    /// Standard error is closed.
    pub fn note(self, text: &str) -> std::io::Result<()> {
        match self {
            Self::Silent => Ok(()),
            Self::Terminal => writeln!(stderr(), "{text}"),
            Self::Lines => writeln!(stderr(), "{}", serde_json::json!({ "note": text })),
        }
    }

    /// The form that suits standard error.
    pub fn from_stderr() -> Self {
        if stderr().is_terminal() {
            Self::Terminal
        } else {
            Self::Lines
        }
    }
}

/// State of a run at one moment.
#[derive(Clone, Debug)]
pub(super) struct RunSnapshot {
    pub elapsed: Duration,
    pub simulated_ms: i64,
    pub deliveries: u64,
    pub accepted: u64,
    pub dropped: u64,
    pub errors: u64,
    /// Since the previous snapshot.
    pub p99: Option<Duration>,
}

#[derive(Serialize)]
struct ProgressLine {
    elapsed_s: f64,
    simulated: String,
    events_per_s: u64,
    accepted: u64,
    errors: u64,
    dropped: u64,
    p99_ms: Option<f64>,
}

pub(super) struct ProgressReporter {
    progress: ProgressOutput,
    bar: ProgressBar,
    limits: RunLimits,
    /// Elapsed time and accepted deliveries of the previous snapshot.
    last: (Duration, u64),
    catch_up_noted: bool,
}

impl ProgressReporter {
    pub(super) fn new(progress: ProgressOutput, limits: RunLimits) -> Self {
        let bar = match (progress, limits.events, limits.duration) {
            (ProgressOutput::Silent | ProgressOutput::Lines, ..) => ProgressBar::hidden(),
            (_, Some(events), _) => ProgressBar::new(events),
            (_, None, Some(duration)) => ProgressBar::new(millis(duration)),
            (_, None, None) => ProgressBar::no_length(),
        };
        let template = match bar.length() {
            Some(_) => "{elapsed_precise} [{bar:24}] {msg}",
            None => "{elapsed_precise} {msg}",
        };
        let style = ProgressStyle::with_template(template).expect("the template is valid");
        bar.set_style(style.progress_chars("=> "));
        Self {
            progress,
            bar,
            limits,
            last: (Duration::ZERO, 0),
            catch_up_noted: false,
        }
    }

    /// Writes the state of the run, and once a note that the simulated clock has caught up with the
    /// wall clock.
    pub(super) fn update(&mut self, now: &RunSnapshot, caught_up: bool) {
        if caught_up && !std::mem::replace(&mut self.catch_up_noted, true) {
            self.note(
                "the simulated clock has caught up with the wall clock and continues in real time",
            );
        }
        let line = self.next_line(now);
        match self.progress {
            ProgressOutput::Silent => {}
            ProgressOutput::Lines => {
                let line = serde_json::to_string(&line).expect("a line can always be serialized");
                // The run continues if standard error is closed.
                let _ = writeln!(stderr(), "{line}");
            }
            ProgressOutput::Terminal => {
                let position = match self.limits.events {
                    Some(_) => now.deliveries,
                    None => millis(now.elapsed),
                };
                self.bar.set_position(position);
                let p99 = line.p99_ms.map_or("-".to_owned(), |ms| format!("{ms} ms"));
                self.bar.set_message(format!(
                    "{}  {} events/s  {} accepted  {} errors  {} dropped  p99 {p99}",
                    line.simulated, line.events_per_s, line.accepted, line.errors, line.dropped,
                ));
            }
        }
    }

    fn note(&self, text: &str) {
        if self.progress == ProgressOutput::Terminal {
            self.bar.println(text);
        } else {
            let _ = self.progress.note(text);
        }
    }

    fn next_line(&mut self, now: &RunSnapshot) -> ProgressLine {
        let (elapsed, accepted) = std::mem::replace(&mut self.last, (now.elapsed, now.accepted));
        let interval_s = now.elapsed.saturating_sub(elapsed).as_secs_f64();
        let events = now.accepted.saturating_sub(accepted) as f64;
        let micros = now.p99.map(|p99| p99.as_micros() as f64);
        ProgressLine {
            elapsed_s: (now.elapsed.as_secs_f64() * 10.0).round() / 10.0,
            simulated: format_timestamp(now.simulated_ms),
            events_per_s: if interval_s > 0.0 {
                (events / interval_s).round() as u64
            } else {
                0
            },
            accepted: now.accepted,
            errors: now.errors,
            dropped: now.dropped,
            p99_ms: micros.map(|micros| (micros / 10.0).round() / 100.0),
        }
    }
}

impl Drop for ProgressReporter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Formats a timestamp as RFC 3339 with seconds.
pub(super) fn format_timestamp(at_ms: i64) -> String {
    // The last timestamp with a four-digit year.
    const LAST_MS: i64 = 253_402_300_799_999;
    let since_epoch = Duration::from_millis(at_ms.clamp(0, LAST_MS) as u64);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since_epoch).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timestamp_can_be_formatted() {
        assert_eq!(format_timestamp(-1), "1970-01-01T00:00:00Z");
        assert_eq!(format_timestamp(i64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn a_line_covers_the_time_since_the_previous_one() {
        let mut reporter = ProgressReporter::new(ProgressOutput::Silent, RunLimits::default());
        let mut now = RunSnapshot {
            elapsed: Duration::from_millis(1000),
            simulated_ms: 1_700_000_000_000,
            deliveries: 130,
            accepted: 100,
            dropped: 0,
            errors: 1,
            p99: Some(Duration::from_micros(1_234)),
        };
        let line = serde_json::to_string(&reporter.next_line(&now)).unwrap();
        assert_eq!(
            line,
            r#"{"elapsed_s":1.0,"simulated":"2023-11-14T22:13:20Z","events_per_s":100,"accepted":100,"errors":1,"dropped":0,"p99_ms":1.23}"#
        );
        now.elapsed += Duration::from_secs(2);
        now.accepted += 100;
        now.p99 = None;
        let line = reporter.next_line(&now);
        assert_eq!((line.events_per_s, line.p99_ms), (50, None));
    }
}
