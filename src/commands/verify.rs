//! `verify`: verifies again what a run of the simulator stored, from its journal.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use super::CommandExit;
use super::kafka_properties::PropertyArguments;
use butlr_simulate::journal::ClosedJournal;
use butlr_simulate::verify::{
    DuplicatePolicy, Error, Options, TimestampBasis, VerificationReport, VerifierKafka, verify,
};

#[derive(clap::Args, Debug)]
pub struct VerifyArguments {
    /// Journal directory written by `simulate --journal DIR`; also used for temporary files
    #[arg(long, value_name = "DIR")]
    journal: PathBuf,
    /// Kafka broker that holds the topics
    #[arg(long, value_name = "HOST:PORT")]
    kafka: String,
    #[command(flatten)]
    properties: PropertyArguments,
    /// Read copies of the run's topics, from their beginning; {type} stands for the type, for
    /// example room-occupancy-1min
    #[arg(long, value_name = "TEMPLATE")]
    topics: Option<String>,
    #[command(flatten)]
    bridge: BridgeArguments,
}

/// Settings of the bridge that decide which records are correct.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct BridgeArguments {
    /// Timestamp of the records (kafka.timestamp of the bridge)
    #[arg(long, value_enum, value_name = "WHICH", default_value = "event")]
    pub timestamps: TimestampBasis,
    /// Events older than this are stamped with the time of publishing (kafka.max_past of the
    /// bridge)
    #[arg(long, value_name = "DURATION", default_value = "3d", value_parser = humantime::parse_duration)]
    pub max_past: Duration,
    /// Events further in the future than this are stamped with the time of publishing
    /// (kafka.max_future of the bridge)
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
    pub max_future: Duration,
    /// Require that the bridge recognises redeliveries, repeats, revisions and stale events
    /// (dedup.redelivery and dedup.repeat of the bridge); by default only the kinds that the bridge
    /// recognised at least once in the run are required
    #[arg(long, value_enum, value_name = "MODE", default_value = "detect")]
    pub duplicates: DuplicatePolicy,
    /// The bridge was restarted during the run, or several ran without Redis: with --duplicates
    /// expected, the bridge need not remember the ids of repeats, because no record contains them
    #[arg(long)]
    pub restarted: bool,
    /// Time after receipt at which the bridge must know that an event is stored: an older event
    /// received after that must be marked out of order (for one bridge, or several with Redis); by
    /// default this is not checked
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

pub fn run(arguments: VerifyArguments) -> CommandExit {
    let journal = match ClosedJournal::open(&arguments.journal) {
        Ok(journal) => journal,
        Err(error) => return CommandExit::Failed.print_error(error),
    };
    let properties = match arguments.properties.read() {
        Ok(properties) => properties,
        Err(error) => return CommandExit::Usage.print_error(error),
    };
    let kafka = VerifierKafka {
        bootstrap_servers: arguments.kafka,
        properties,
    };
    let options = arguments.bridge.to_options(kafka, arguments.topics);
    prove(&journal, &options).0
}

/// Verifies a run and prints the report. Returns the exit code and the report, if there is one.
pub(super) fn prove(
    journal: &ClosedJournal,
    options: &Options,
) -> (CommandExit, Option<VerificationReport>) {
    match verify_with_progress(journal, options) {
        Ok(report) => {
            // The report counts even if standard output is closed.
            let _ = writeln!(std::io::stdout(), "{report}");
            (CommandExit::success_if(report.is_proved()), Some(report))
        }
        Err(error) => {
            let exit = if error.is_usage() {
                CommandExit::Usage
            } else {
                CommandExit::Failed
            };
            (exit.print_error(error), None)
        }
    }
}

/// Verifies a run and shows the progress on a terminal.
fn verify_with_progress(
    journal: &ClosedJournal,
    options: &Options,
) -> Result<VerificationReport, Error> {
    let mut stderr = std::io::stderr();
    let terminal = stderr.is_terminal();
    let result = verify(journal, options, &mut |read, total| {
        if terminal {
            let _ = write!(stderr, "\r\x1b[Kreading records: {read} of {total}");
        }
    });
    if terminal {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    result
}
