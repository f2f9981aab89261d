//! `verify`: proves once more what a run of the simulator stored, from its journal.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::kafka_properties::PropertyArguments;
use super::{EXIT_FAILED, EXIT_MISUSED};
use butlr_simulate::journal::ClosedJournal;
use butlr_simulate::verify::{
    DuplicatePolicy, Error, Options, TimestampBasis, VerificationReport, VerifierKafka, verify,
};

#[derive(clap::Args, Debug)]
pub struct VerifyArguments {
    /// The journal that `simulate --journal DIR` wrote; what is read back is kept there, too, until it is compared
    #[arg(long, value_name = "DIR")]
    journal: PathBuf,
    /// The Kafka that has the topics
    #[arg(long, value_name = "HOST:PORT")]
    kafka: String,
    #[command(flatten)]
    properties: PropertyArguments,
    /// Read these topics, copies of the run's, from their beginning; {type} becomes the type, as in room-occupancy-1min
    #[arg(long, value_name = "TEMPLATE")]
    topics: Option<String>,
    #[command(flatten)]
    bridge: BridgeArguments,
}

/// What the bridge's configuration says.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct BridgeArguments {
    /// Which time the bridge stamps records with (its kafka.timestamp)
    #[arg(long, value_enum, value_name = "WHICH", default_value = "event")]
    pub timestamps: TimestampBasis,
    /// An event further back than this is stamped with the time of publishing (the bridge's kafka.max_past)
    #[arg(long, value_name = "DURATION", default_value = "3d", value_parser = humantime::parse_duration)]
    pub max_past: Duration,
    /// An event further ahead than this is stamped with the time of publishing (the bridge's kafka.max_future)
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
    pub max_future: Duration,
    /// Whether the bridge must recognise redeliveries, repeats, revisions and stale events (its dedup.redelivery and
    /// dedup.repeat); unless told, those kinds are judged of which the run shows that it recognises them
    #[arg(long, value_enum, value_name = "WHETHER", default_value = "detect")]
    pub duplicates: DuplicatePolicy,
    /// The bridge was started again during the run, or was one of several without Redis: with --duplicates expected it need
    /// not know the ids of repeats then, of which no record tells
    #[arg(long)]
    pub restarted: bool,
    /// So long after an event was received, the bridge must know that it is stored: what is older and is received then must
    /// be marked as out of order (for a single bridge, or several with Redis); unless told, that is not asked for
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub known_after: Option<Duration>,
}

impl BridgeArguments {
    pub(super) fn to_options(self, kafka: VerifierKafka, copies: Option<String>) -> Options {
        Options {
            kafka,
            copy_topics: copies,
            timestamps: self.timestamps,
            max_past: self.max_past,
            max_future: self.max_future,
            duplicates: self.duplicates,
            restarted: self.restarted,
            known_after: self.known_after,
            clock_setback: Duration::ZERO,
            concurrent_drain: false,
        }
    }
}

pub fn run(arguments: VerifyArguments) -> ExitCode {
    let journal = match ClosedJournal::open(&arguments.journal) {
        Ok(journal) => journal,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let properties = match arguments.properties.read() {
        Ok(properties) => properties,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(EXIT_MISUSED);
        }
    };
    let kafka = VerifierKafka {
        bootstrap_servers: arguments.kafka,
        properties,
    };
    let options = arguments.bridge.to_options(kafka, arguments.topics);
    prove(&journal, &options).0
}

/// Verifies, prints the report, says how to end and hands on the report, where there is one.
pub(super) fn prove(
    journal: &ClosedJournal,
    options: &Options,
) -> (ExitCode, Option<VerificationReport>) {
    match verify_with_progress(journal, options) {
        Ok(report) => {
            // A closed standard output does not undo the proof.
            let _ = writeln!(std::io::stdout(), "{report}");
            let code = match report.is_proved() {
                true => ExitCode::SUCCESS,
                false => ExitCode::from(EXIT_FAILED),
            };
            (code, Some(report))
        }
        Err(error) => {
            eprintln!("{error}");
            let code = ExitCode::from(match error.is_usage() {
                true => EXIT_MISUSED,
                false => EXIT_FAILED,
            });
            (code, None)
        }
    }
}

/// Verifies; tells on a terminal how far it is.
fn verify_with_progress(
    journal: &ClosedJournal,
    options: &Options,
) -> Result<VerificationReport, Error> {
    let mut stderr = std::io::stderr();
    let terminal = stderr.is_terminal();
    let result = verify(journal, options, &mut |read, of| {
        if terminal {
            let _ = write!(stderr, "\r\x1b[Kreading records: {read} of {of}");
        }
    });
    if terminal {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    result
}
