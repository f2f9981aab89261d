//! `--verify`: what is noted before the run, and proved after it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::SimulateError;
use crate::commands::kafka_properties::PropertyArguments;
use crate::commands::verify::{BridgeArguments, prove};
use butlr_simulate::city::GroundTruth;
use butlr_simulate::journal::{JournalWriter, RunHeader};
use butlr_simulate::verify::{Error, VerificationReport, VerifierKafka, fetch_start_offsets};

#[derive(clap::Args, Debug)]
pub struct ProofArguments {
    /// Read the topics back from this Kafka after the run and prove, record by record, that all is there and right. What
    /// is noted for it goes to the directory for temporary files (TMPDIR: 130 bytes an event), unless --journal says where;
    /// what a run leaves there that is ended by force can be removed (butlr-journal-*)
    #[arg(long, value_name = "HOST:PORT")]
    verify: Option<String>,
    /// What the bridge's topics are called
    #[arg(long, value_name = "TEMPLATE", default_value = "butlr.event.{type}.v1")]
    topics: String,
    #[command(flatten)]
    properties: PropertyArguments,
    #[command(flatten)]
    bridge: BridgeArguments,
    /// Keep what was sent and answered in this directory, for `butlr-bridge verify`
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
}

impl ProofArguments {
    /// The journal of the run, where one is wanted; to be called before the first request.
    pub fn start_journal(&self) -> Result<Option<JournalWriter>, SimulateError> {
        if self.verify.is_none() && self.journal.is_none() {
            return Ok(None);
        }
        let starts = self
            .kafka()?
            .map(|kafka| fetch_start_offsets(&kafka, &self.topics));
        let run = RunHeader {
            topics: self.topics.clone(),
            starts: starts.transpose()?,
        };
        JournalWriter::create(self.journal.as_deref(), run)
            .map(Some)
            .map_err(|e| SimulateError::Run(format!("the journal cannot be written: {e}")))
    }

    /// Ends the journal and proves what is to be proved; hands on the report, where there is one.
    pub fn finish(
        &self,
        journal: JournalWriter,
        truth: GroundTruth,
        traffic_complete: bool,
    ) -> Result<(ExitCode, Option<VerificationReport>), SimulateError> {
        let journal = journal
            .finish(truth, traffic_complete)
            .map_err(|e| SimulateError::Run(format!("the journal cannot be written: {e}")))?;
        match self.kafka()? {
            None => Ok((ExitCode::SUCCESS, None)),
            Some(kafka) => {
                let _ = writeln!(std::io::stdout());
                Ok(prove(&journal, &self.bridge.to_options(kafka, None)))
            }
        }
    }

    fn kafka(&self) -> Result<Option<VerifierKafka>, SimulateError> {
        let Some(bootstrap_servers) = &self.verify else {
            return Ok(None);
        };
        Ok(Some(VerifierKafka {
            bootstrap_servers: bootstrap_servers.clone(),
            properties: self.properties.read().map_err(SimulateError::Usage)?,
        }))
    }
}

impl From<Error> for SimulateError {
    fn from(error: Error) -> Self {
        match error.is_usage() {
            true => Self::Usage(error.to_string()),
            false => Self::Run(error.to_string()),
        }
    }
}
