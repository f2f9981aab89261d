//! `replay`: what was quarantined and is a valid event by now.

use std::io::{IsTerminal, Write, stderr};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::builder::PossibleValuesParser;
use indicatif::{ProgressBar, ProgressStyle};

use super::{ConfigArguments, EXIT_FAILED, report_mistakes};
use crate::replay::{self, Options, ReplayProgress};
use crate::telemetry;
use butlr_event::{FieldErrorCode, UnreadableBodyCode};

const REPLAY_HELP: &str = "Reads the quarantine topic from its beginning and sends what is a valid event by now through the bridge's own pipeline: duplicates are
looked for, and the records carry ce_replayedfrom (topic/partition/offset). What is still none stays as it is. A record that came
by the route of a type must be of that type now, too.

Safe to run again, at any time, also after a run that was killed: what was replayed is noted in the quarantine topic itself, in
records with the key butlr-replay and the header butlr-replayed (intent or done). The user needs Write there. A run that meets another one ends with 1.";

#[derive(clap::Args, Debug)]
#[command(after_long_help = REPLAY_HELP)]
pub struct ReplayArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Where from
    #[arg(long, value_enum)]
    from: ReplaySource,
    /// Only what was received since: a time (2026-03-01T00:00:00Z) or a duration ago (2h-ago)
    #[arg(long, value_name = "TIME|DURATION-ago", value_parser = parse_since)]
    since: Option<SystemTime>,
    /// Only what was refused with this code, for example unknown_type; may be given several times
    #[arg(long, value_name = "CODE", value_parser = PossibleValuesParser::new(rejection_codes()), hide_possible_values = true)]
    code: Vec<String>,
    /// Send nothing: count what would be sent
    #[arg(long)]
    dry_run: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum ReplaySource {
    /// topics.quarantine
    Quarantine,
}

/// What is no valid event is refused with one of these. They stay the same from release to release.
fn rejection_codes() -> impl Iterator<Item = &'static str> {
    let of_events = FieldErrorCode::ALL.map(FieldErrorCode::as_str);
    let of_bodies = UnreadableBodyCode::ALL.map(UnreadableBodyCode::as_str);
    of_events.into_iter().chain(of_bodies)
}

fn parse_since(text: &str) -> Result<SystemTime, String> {
    let time = match text.strip_suffix("-ago") {
        Some(duration) => humantime::parse_duration(duration)
            .ok()
            .and_then(|ago| SystemTime::now().checked_sub(ago)),
        None => humantime::parse_rfc3339_weak(text).ok(),
    };
    time.ok_or_else(|| {
        "write a time, as in 2026-03-01T00:00:00Z, or a duration, as in 2h-ago".to_owned()
    })
}

pub fn run(arguments: ReplayArguments) -> ExitCode {
    let ReplaySource::Quarantine = arguments.from;
    let mut config = match arguments.config.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    if let Err(mistake) = config.require_bootstrap_servers() {
        return report_mistakes(&[mistake]);
    }
    if stderr().is_terminal() {
        // The bar tells the rest.
        config.log.level = config.log.level.min(tracing::Level::WARN);
    }
    telemetry::init(&config.log);
    let options = Options {
        since: arguments.since,
        codes: arguments.code,
        dry_run: arguments.dry_run,
    };
    let mut reporter = ReplayProgressReporter::new();
    let (summary, result) =
        replay::run(&config, &options, &mut |progress| reporter.report(progress));
    reporter.bar.finish_and_clear();
    // A closed standard output does not undo the run.
    let _ = writeln!(std::io::stdout(), "{summary}");
    match result {
        Ok(()) if summary.is_complete() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(EXIT_FAILED),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// A bar on a terminal, else a line now and then.
struct ReplayProgressReporter {
    bar: ProgressBar,
    is_terminal: bool,
    last: Instant,
}

/// Between two updates.
const BAR_INTERVAL: Duration = Duration::from_millis(200);
/// Between two lines.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

impl ReplayProgressReporter {
    fn new() -> Self {
        let is_terminal = stderr().is_terminal();
        let bar = match is_terminal {
            true => ProgressBar::new(0),
            false => ProgressBar::hidden(),
        };
        let style = ProgressStyle::with_template(
            "{elapsed_precise} [{bar:24}] {pos} of {len} records  {msg}",
        );
        let style = style.expect("the template is a good one");
        bar.set_style(style.progress_chars("=> "));
        Self {
            bar,
            is_terminal,
            last: Instant::now(),
        }
    }

    fn report(&mut self, progress: ReplayProgress) {
        let pause = if self.is_terminal {
            BAR_INTERVAL
        } else {
            LINE_INTERVAL
        };
        if self.last.elapsed() < pause && progress.read < progress.total {
            return;
        }
        self.last = Instant::now();
        let ReplayProgress {
            read,
            total: of,
            published,
        } = progress;
        if self.is_terminal {
            self.bar.set_length(of);
            self.bar.set_position(read);
            self.bar.set_message(format!("{published} published"));
        } else {
            let line = serde_json::json!({"read": read, "of": of, "published": published});
            let _ = writeln!(stderr(), "{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_absolute_or_ago() {
        let ago = parse_since("2h-ago").unwrap().elapsed().unwrap();
        assert!((7_200..7_210).contains(&ago.as_secs()), "{ago:?}");
        let time = parse_since("2026-03-01T00:00:00Z").unwrap();
        assert_eq!(
            humantime::format_rfc3339(time).to_string(),
            "2026-03-01T00:00:00Z"
        );
        for bad in ["", "yesterday", "2h", "-ago", "99999999999999999999y-ago"] {
            assert!(parse_since(bad).is_err(), "{bad}");
        }
    }
}
