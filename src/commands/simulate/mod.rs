//! `simulate`: a city's worth of sensors, sent as the sender does, and proof of what arrived.

mod city;
mod credentials;
mod output;
mod proof;
mod signals;
mod values;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use super::{EXIT_FAILED, EXIT_MISUSED};
use butlr_event::EventType;
use butlr_simulate::ledger::{RunLedger, RunSummary};
use butlr_simulate::message::DeliveryKind;
use butlr_simulate::progress::ProgressOutput;
use butlr_simulate::sender::{
    self, Options, RunLimits, SendOutcome, SendPace, SendTarget, SenderTimings, StopSignal,
};

#[derive(clap::Args, Debug)]
pub struct SimulateArguments {
    /// Where to post events, for example http://127.0.0.1:8080/v1/events; {type} in it becomes the type's name, as in
    /// room_occupancy. Given several times, events are spread over all; copies and further tries go to the next one
    #[arg(long, value_name = "URL", required_unless_present = "print")]
    url: Vec<String>,
    #[command(flatten)]
    city: city::CityArguments,
    #[command(flatten)]
    pace: PaceArguments,
    /// Stop after so long, for example 30s; then only the entries and exits that are not told yet are sent (with --max: all that waits)
    #[arg(long, value_name = "DURATION", value_parser = values::parse_run_time)]
    duration: Option<Duration>,
    /// Stop after so many events; then as with --duration
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    events: Option<u64>,
    /// How many requests may wait for their answer in time at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = values::count_parser(65_536))]
    connections: usize,
    /// How long an answer may take; then the sender tries again, while the first may still be in flight
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = values::parse_timeout)]
    http_timeout: Duration,
    #[command(flatten)]
    credentials: credentials::CredentialArguments,
    /// Trust the certificates in this PEM file instead of the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Write the ledger as JSON, too
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Send nothing: write what would be sent to standard output, one event a line
    #[arg(long, conflicts_with_all = ["url", "verify", "journal", "output"])]
    print: bool,
    #[command(flatten)]
    proof: proof::ProofArguments,
}

/// How fast; in real time unless told.
#[derive(clap::Args, Clone, Debug)]
#[group(multiple = false)]
struct PaceArguments {
    /// The simulated clock runs so many times as fast as real time
    #[arg(long, value_name = "N", value_parser = values::parse_positive)]
    speed: Option<f64>,
    /// So many events a second, however fast the simulated clock has to run for that
    #[arg(long, value_name = "N", value_parser = values::parse_positive)]
    rate: Option<f64>,
    /// As fast as answers come
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

pub fn run(arguments: SimulateArguments) -> ExitCode {
    match simulate(&arguments) {
        Ok(code) => code,
        Err(SimulateError::Usage(problem)) => {
            eprintln!("{problem}");
            ExitCode::from(EXIT_MISUSED)
        }
        Err(SimulateError::Run(problem)) => {
            eprintln!("{problem}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Why there is nothing to show.
enum SimulateError {
    /// Other arguments would help.
    Usage(String),
    Run(String),
}

impl From<sender::Error> for SimulateError {
    fn from(error: sender::Error) -> Self {
        Self::Run(error.to_string())
    }
}

fn simulate(arguments: &SimulateArguments) -> Result<ExitCode, SimulateError> {
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
    signals::stop_on_signal(stop.clone(), progress)
        .map_err(|e| SimulateError::Run(format!("no signals can be received: {e}")))?;
    if targets.is_empty() {
        let mut out = std::io::stdout().lock();
        return match sender::print_bodies(stream, pace, limits, stop, &mut out) {
            // Whoever reads has seen enough.
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(SimulateError::Run(format!("standard output: {e}")))
            }
            _ => Ok(ExitCode::SUCCESS),
        };
    }
    // Listening to late answers takes connections of its own; the journal's files are open all the time.
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
    let sent = stop.clone();
    let finished = sender::run(options, stream, journal, progress, stop)?;
    // What is proved from here on can be proved again: the next Ctrl-C ends it at once.
    sent.stop();
    let ledger = finished.ledger;
    let summary = RunSummary::from(&ledger);
    // A closed standard output does not undo the run.
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{summary}");
    let start =
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(start_ms as u64));
    let _ = writeln!(
        stdout,
        "the same events again: --seed {seed} --start {start}"
    );
    // What cannot be written does not keep the proof from being made.
    let write = |proof| output.as_ref().map_or(Ok(()), |o| o.write(&summary, proof));
    let mut written = write(None);
    let (proved, report) = match finished.journal {
        None => (ExitCode::SUCCESS, None),
        Some(journal) => {
            let whole = arguments.city.has_type(EventType::Traffic)
                && ledger.fidelity().is_traffic_complete()
                && is_fully_accepted(&ledger, EventType::Traffic);
            arguments.proof.finish(journal, finished.truth, whole)?
        }
    };
    if let Some(report) = report {
        written = written.and(write(Some(report.to_json())));
    }
    written.map_err(SimulateError::Run)?;
    if let Some(reason) = finished.unreachable {
        let urls = urls.join(", ");
        let problem = format!("nothing could be sent: {urls} cannot be reached: {reason}");
        return Err(SimulateError::Run(problem));
    }
    if !ledger.fidelity().complete {
        let problem = "the run was given up before all was sent: nothing was accepted any more";
        return Err(SimulateError::Run(problem.to_owned()));
    }
    if let Some(problem) = describe_none_accepted(&ledger) {
        return Err(SimulateError::Run(problem));
    }
    Ok(proved)
}

impl SimulateArguments {
    /// None where nothing is to be sent.
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

/// Whether every valid event of this type was taken.
fn is_fully_accepted(ledger: &RunLedger, event_type: EventType) -> bool {
    SendOutcome::ALL.iter().all(|end| {
        *end == SendOutcome::Accepted || ledger.send_outcome_count_of(event_type, *end) == 0
    })
}

/// What there is to say when there were events to accept and none was.
fn describe_none_accepted(ledger: &RunLedger) -> Option<String> {
    let valid = ledger.deliveries() - ledger.kind_count(DeliveryKind::Invalid);
    (valid > 0 && ledger.send_outcome_count(SendOutcome::Accepted) == 0)
        .then(|| "nothing was accepted: see the answers above".to_owned())
}
