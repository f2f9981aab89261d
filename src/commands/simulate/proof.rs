//! `--verify`: the journal of a run, and the verification after it.

use std::io::Write;
use std::path::PathBuf;

use super::SimulateError;
use crate::commands::CommandExit;
use crate::commands::kafka_properties::PropertyArguments;
use crate::commands::verify::{BridgeArguments, prove};
use butlr_simulate::city::GroundTruth;
use butlr_simulate::journal::{JournalWriter, RunHeader};
use butlr_simulate::verify::{Error, VerificationReport, VerifierKafka, fetch_start_offsets};

#[derive(clap::Args, Debug)]
pub struct ProofArguments {
    /// Read the topics back from this Kafka after the run and verify, record by record, that every
    /// event is stored correctly. The journal for this needs 130 bytes per event in the directory
    /// for temporary files (TMPDIR), or in --journal. A run that is killed may leave
    /// butlr-journal-* there, which can be deleted
    #[arg(long, value_name = "HOST:PORT")]
    verify: Option<String>,
    /// Name template of the bridge's topics
    #[arg(long, value_name = "TEMPLATE", default_value = "butlr.event.{type}.v1")]
    topics: String,
    #[command(flatten)]
    properties: PropertyArguments,
    #[command(flatten)]
    bridge: BridgeArguments,
    /// Keep the journal of requests and responses in this directory, for `butlr-bridge verify`
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
}

impl ProofArguments {
    /// Creates the journal of the run if one is needed. Call it before the first request.
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

    /// Closes the journal and verifies the run if asked. Returns the report, if there is one.
    pub fn finish(
        &self,
        journal: JournalWriter,
        truth: GroundTruth,
        traffic_complete: bool,
    ) -> Result<(CommandExit, Option<VerificationReport>), SimulateError> {
        let journal = journal
            .finish(truth, traffic_complete)
            .map_err(|e| SimulateError::Run(format!("the journal cannot be written: {e}")))?;
        match self.kafka()? {
            None => Ok((CommandExit::Success, None)),
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
        if error.is_usage() {
            Self::Usage(error.to_string())
        } else {
            Self::Run(error.to_string())
        }
    }
}
