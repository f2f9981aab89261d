//! `simulate`: sends the events of a simulated city, as the vendor does, and verifies what was
//! stored.

mod city;
mod credentials;
mod output;
mod proof;
mod values;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use super::{CommandExit, signals};
use butlr_event::EventType;
use butlr_simulate::ledger::{RunLedger, RunSummary};
use butlr_simulate::message::DeliveryKind;
use butlr_simulate::progress::ProgressOutput;
use butlr_simulate::sender::{
    self, Options, RunLimits, SendOutcome, SendPace, SendTarget, SenderTimings, StopSignal,
};

#[derive(clap::Args, Debug)]
pub struct SimulateArguments {
    /// URL to post events to, for example http://127.0.0.1:8080/v1/events; {type} stands for the
    /// event type, for example room_occupancy. Can be repeated: events are spread over all URLs,
    /// and each retry or second copy goes to the next one
    #[arg(long, value_name = "URL", required_unless_present = "print")]
    url: Vec<String>,
    #[command(flatten)]
    city: city::CityArguments,
    #[command(flatten)]
    pace: PaceArguments,
    /// Stop after this time, for example 30s; then only the entries and exits that are still
    /// outstanding are sent (with --max: everything that waits)
    #[arg(long, value_name = "DURATION", value_parser = values::parse_run_time)]
    duration: Option<Duration>,
    /// Stop after this many events; the rest as with --duration
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    events: Option<u64>,
    /// Number of requests that may wait for their response at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = values::count_parser(65_536))]
    connections: usize,
    /// Time limit of a response; then the sender tries again, even if the first request is still in
    /// flight
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = values::parse_timeout)]
    http_timeout: Duration,
    #[command(flatten)]
    credentials: credentials::CredentialArguments,
    /// Trust the certificates in this PEM file instead of the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Also write the ledger to this file, as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Send nothing, but write the events to standard output, one per line
    #[arg(long, conflicts_with_all = ["url", "verify", "journal", "output"])]
    print: bool,
    #[command(flatten)]
    proof: proof::ProofArguments,
}

/// Speed of the run; real time by default.
#[derive(clap::Args, Clone, Debug)]
#[group(multiple = false)]
struct PaceArguments {
    /// Run the simulated clock this many times as fast as real time
    #[arg(long, value_name = "N", value_parser = values::parse_positive)]
    speed: Option<f64>,
    /// Send this many events per second, at whatever speed of the simulated clock that takes
    #[arg(long, value_name = "N", value_parser = values::parse_positive)]
    rate: Option<f64>,
    /// Send as fast as responses arrive
    #[arg(long)]
    max: bool,
}

impl PaceArguments {
    fn pace(&self) -> SendPace {
        match (self.speed, self.rate, self.max) {
            (Some(speed), ..) => SendPace::Speed(speed),
            (_, Some(rate), _) => SendPace::Rate(rate),
            (.., true) => SendPace::Max,
            _ => SendPace::REAL_TIME,
        }
    }
}

pub fn run(arguments: SimulateArguments) -> CommandExit {
    match simulate(&arguments) {
        Ok(exit) => exit,
        Err(SimulateError::Usage(error)) => CommandExit::Usage.print_error(error),
        Err(SimulateError::Run(error)) => CommandExit::Failed.print_error(error),
    }
}

/// Reason why the run failed.
enum SimulateError {
    /// The arguments are invalid.
    Usage(String),
    Run(String),
}

impl From<sender::Error> for SimulateError {
    fn from(error: sender::Error) -> Self {
        Self::Run(error.to_string())
    }
}

fn simulate(arguments: &SimulateArguments) -> Result<CommandExit, SimulateError> {
    let pace = arguments.pace.pace();
    let limits = RunLimits {
        events: arguments.events,
        duration: arguments.duration,
    };
    let targets = arguments.targets().map_err(SimulateError::Usage)?;
    let output = arguments
        .output
        .as_deref()
        .map(output::LedgerOutput::prepare);
    let output = output.transpose().map_err(SimulateError::Usage)?;
    let start_ms = arguments.city.start_ms(pace, limits.duration);
    let seed = arguments.city.seed();
    let stream = arguments.city.stream(seed, start_ms);
    let stop = StopSignal::new();
    let progress = ProgressOutput::from_stderr();
    stop_on_signal(stop.clone(), progress)
        .map_err(|e| SimulateError::Run(format!("signals cannot be received: {e}")))?;
    if targets.is_empty() {
        let mut out = std::io::stdout().lock();
        return match sender::print_bodies(stream, pace, limits, stop, &mut out) {
            // The reader has closed the pipe.
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(SimulateError::Run(format!("standard output: {e}")))
            }
            _ => Ok(CommandExit::Success),
        };
    }
    // Late responses are awaited on extra connections, and the journal keeps files open.
    let files = (4 + targets.len() as u64) * arguments.connections as u64 + 512;
    let _ = rlimit::increase_nofile_limit(files);
    let urls: Vec<_> = targets
        .iter()
        .map(|target| target.url().to_owned())
        .collect();
    let options = Options {
        targets,
        connections: arguments.connections,
        pace,
        limits,
        timings: SenderTimings {
            http_timeout: arguments.http_timeout,
            ..SenderTimings::default()
        },
    };
    let journal = arguments.proof.start_journal()?;
    let finished = sender::run(options, stream, journal, progress, stop.clone())?;
    // The verification can be repeated, so from here on the first Ctrl-C exits at once.
    stop.stop();
    let ledger = finished.ledger;
    let summary = RunSummary::from(&ledger);
    // The run counts even if standard output is closed.
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{summary}");
    let start =
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(start_ms as u64));
    let _ = writeln!(
        stdout,
        "to send the same events again: --seed {seed} --start {start}"
    );
    // The run is verified even if the ledger cannot be written.
    let write = |proof| output.as_ref().map_or(Ok(()), |o| o.write(&summary, proof));
    let mut written = write(None);
    let (proved, report) = match finished.journal {
        None => (CommandExit::Success, None),
        Some(journal) => {
            let traffic_complete = arguments.city.has_type(EventType::Traffic)
                && ledger.fidelity().is_traffic_complete()
                && is_fully_accepted(&ledger, EventType::Traffic);
            arguments
                .proof
                .finish(journal, finished.truth, traffic_complete)?
        }
    };
    if let Some(report) = report {
        written = written.and(write(Some(report.to_json())));
    }
    written.map_err(SimulateError::Run)?;
    if let Some(reason) = finished.unreachable {
        let urls = urls.join(", ");
        let error = format!("nothing could be sent: {urls} cannot be reached: {reason}");
        return Err(SimulateError::Run(error));
    }
    if !ledger.fidelity().complete {
        let error =
            "the run was aborted before all events were sent, because none was accepted any more";
        return Err(SimulateError::Run(error.to_owned()));
    }
    if has_none_accepted(&ledger) {
        let error = "no event was accepted: see the responses above";
        return Err(SimulateError::Run(error.to_owned()));
    }
    Ok(proved)
}

/// Stops the run at the first SIGTERM or SIGINT as its duration would; the second ends the process.
fn stop_on_signal(stop: StopSignal, progress: ProgressOutput) -> std::io::Result<()> {
    signals::listen(move || {
        if stop.is_stopped() {
            return ControlFlow::Break(());
        }
        stop.stop();
        // Standard error may be closed by now.
        let _ = progress
            .note("stopping: outstanding entries and exits are still sent; press Ctrl-C again to exit at once");
        ControlFlow::Continue(())
    })
}

impl SimulateArguments {
    /// Returns the targets; none with `--print`.
    fn targets(&self) -> Result<Vec<SendTarget>, String> {
        let credentials = self.credentials.read()?;
        let roots = self.ca_file.as_deref().map(sender::load_roots);
        let roots = roots.transpose().map_err(|e| format!("--ca-file: {e}"))?;
        let target = |url: &String| {
            let mut target = SendTarget::parse(url).map_err(|e| format!("--url: {e}"))?;
            if let Some(credentials) = &credentials {
                target = target.with_credentials(credentials.clone());
            }
            if let Some(roots) = &roots {
                target = target.with_roots(roots.clone());
            }
            Ok(target)
        };
        self.url.iter().map(target).collect()
    }
}

/// Returns `true` if every valid event of this type was accepted.
fn is_fully_accepted(ledger: &RunLedger, event_type: EventType) -> bool {
    SendOutcome::ALL.iter().all(|outcome| {
        *outcome == SendOutcome::Accepted || ledger.send_outcome_count_of(event_type, *outcome) == 0
    })
}

/// Returns `true` if valid events were sent and none was accepted.
fn has_none_accepted(ledger: &RunLedger) -> bool {
    let valid = ledger.deliveries() - ledger.kind_count(DeliveryKind::Invalid);
    valid > 0 && ledger.send_outcome_count(SendOutcome::Accepted) == 0
}
