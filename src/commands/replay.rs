//! `replay`: publishes quarantined items that are valid events by now.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant, SystemTime};

use clap::builder::PossibleValuesParser;
use indicatif::ProgressBar;

use super::{CommandExit, ConfigArguments, progress_bar};
use crate::replay::{self, Options, ReplayProgress};
use crate::telemetry;
use butlr_event::{FieldErrorCode, UnreadableBodyCode};

const REPLAY_HELP: &str = "Reads the quarantine topic from its beginning and publishes the items that are valid events by now, through the bridge's own
pipeline: duplicates are detected, and the records carry the header ce_replayedfrom (topic/partition/offset). Items that are still
not valid stay as they are. An item received on the route of one event type must be valid for that type.

The command is safe to run again at any time, even after a run that was killed: the quarantine topic itself records what was
replayed, in records with the key butlr-replay and the header butlr-replayed (intent or done). This needs the Write permission on
that topic. A run that meets another one exits with 1.";

#[derive(clap::Args, Debug)]
#[command(after_long_help = REPLAY_HELP)]
pub struct ReplayArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Source of the items
    #[arg(long, value_enum)]
    from: ReplaySource,
    /// Only items received since then: a time (2026-03-01T00:00:00Z) or a duration ago (2h-ago)
    #[arg(long, value_name = "TIME|DURATION-ago", value_parser = parse_since)]
    since: Option<SystemTime>,
    /// Only items rejected with this code, for example unknown_type; can be repeated
    #[arg(long, value_name = "CODE", value_parser = PossibleValuesParser::new(rejection_codes()), hide_possible_values = true)]
    code: Vec<String>,
    /// Count what would be sent, but send nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum ReplaySource {
    /// The topic topics.quarantine
    Quarantine,
}

/// Returns the codes with which items are rejected. They are stable across releases.
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
        "write a time, such as 2026-03-01T00:00:00Z, or a duration, such as 2h-ago".to_owned()
    })
}

pub fn run(arguments: ReplayArguments) -> CommandExit {
    let ReplaySource::Quarantine = arguments.from;
    let mut config = match arguments.config.load_with_kafka() {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    if stderr().is_terminal() {
        // The progress bar shows the rest.
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
    // The run counts even if standard output is closed.
    let _ = writeln!(std::io::stdout(), "{summary}");
    match result {
        Ok(()) => CommandExit::success_if(summary.is_complete()),
        Err(error) => CommandExit::Failed.print_error(error),
    }
}

/// Progress bar on a terminal; otherwise a line of JSON now and then.
struct ReplayProgressReporter {
    bar: ProgressBar,
    is_terminal: bool,
    last: Instant,
}

/// Interval between updates of the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(200);
/// Interval between lines.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

impl ReplayProgressReporter {
    fn new() -> Self {
        let template = "{elapsed_precise} [{bar:24}] {pos} of {len} records  {msg}";
        Self {
            bar: progress_bar(0, template),
            is_terminal: stderr().is_terminal(),
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
            total,
            published,
        } = progress;
        if self.is_terminal {
            self.bar.set_length(total);
            self.bar.set_position(read);
            self.bar.set_message(format!("{published} published"));
        } else {
            let line = serde_json::json!({"read": read, "of": total, "published": published});
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
