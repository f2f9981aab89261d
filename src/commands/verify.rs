//! `verify`: proves once more what a run of the simulator stored, from its journal.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::{FAILED, MISUSED};
use crate::simulate::journal::ClosedJournal;
use crate::simulate::verify::{Error, Kafka, Options, Report, Timestamps, verify};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The journal that `simulate --journal DIR` wrote
    #[arg(long, value_name = "DIR")]
    journal: PathBuf,
    #[command(flatten)]
    kafka: KafkaArguments,
    /// Read these topics, copies of the run's, from their beginning; {type} becomes the type, as in room-occupancy-1min
    #[arg(long, value_name = "TEMPLATE")]
    topics: Option<String>,
    /// Which time the bridge stamps records with (its kafka.timestamp)
    #[arg(long, value_enum, value_name = "WHICH", default_value = "event")]
    timestamps: Timestamps,
}

/// Where to read records back.
#[derive(clap::Args)]
struct KafkaArguments {
    /// The Kafka that has the topics
    #[arg(long, value_name = "HOST:PORT")]
    kafka: String,
    /// A property of librdkafka, for example security.protocol=SASL_SSL; may be given several times
    #[arg(long = "kafka-property", value_name = "NAME=VALUE", value_parser = property)]
    properties: Vec<(String, String)>,
}

/// Properties may hold secrets.
impl std::fmt::Debug for KafkaArguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaArguments")
            .field("kafka", &self.kafka)
            .finish_non_exhaustive()
    }
}

/// A property of librdkafka as it is given on the command line.
pub(super) fn property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("write it as name=value, for example security.protocol=SASL_SSL")?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

pub fn run(arguments: Arguments) -> ExitCode {
    let journal = match ClosedJournal::open(&arguments.journal) {
        Ok(journal) => journal,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(FAILED);
        }
    };
    let options = Options {
        kafka: Kafka {
            bootstrap_servers: arguments.kafka.kafka,
            properties: arguments.kafka.properties,
        },
        copies: arguments.topics,
        timestamps: arguments.timestamps,
    };
    prove(&journal, &options)
}

/// Verifies, prints the report and says how to end.
pub(super) fn prove(journal: &ClosedJournal, options: &Options) -> ExitCode {
    match shown(journal, options) {
        Ok(report) => {
            println!("{report}");
            match report.holds() {
                true => ExitCode::SUCCESS,
                false => ExitCode::from(FAILED),
            }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(match error.is_usage() {
                true => MISUSED,
                false => FAILED,
            })
        }
    }
}

/// Verifies; tells on a terminal how far it is.
fn shown(journal: &ClosedJournal, options: &Options) -> Result<Report, Error> {
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
