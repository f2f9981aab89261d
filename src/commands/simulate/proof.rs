//! `--verify`: what is noted before the run, and proved after it.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Failure;
use crate::commands::verify::{property, prove};
use crate::simulate::city::Truth;
use crate::simulate::journal::{Journal, Run};
use crate::simulate::verify::{Error, Kafka, Options, Timestamps, start_offsets};

#[derive(clap::Args)]
pub struct ProofArguments {
    /// Read the topics back from this Kafka after the run and prove, record by record, that all is there and right
    #[arg(long, value_name = "HOST:PORT")]
    verify: Option<String>,
    /// What the bridge's topics are called
    #[arg(long, value_name = "TEMPLATE", default_value = "butlr.event.{type}.v1")]
    topics: String,
    /// A property of librdkafka, for example security.protocol=SASL_SSL; may be given several times
    #[arg(long = "kafka-property", value_name = "NAME=VALUE", value_parser = property, requires = "verify")]
    properties: Vec<(String, String)>,
    /// Which time the bridge stamps records with (its kafka.timestamp)
    #[arg(long, value_enum, value_name = "WHICH", default_value = "event")]
    timestamps: Timestamps,
    /// Keep what was sent and answered in this directory, for `butlr-bridge verify`
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
}

/// Properties may hold secrets.
impl std::fmt::Debug for ProofArguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProofArguments")
            .field("verify", &self.verify)
            .field("journal", &self.journal)
            .finish_non_exhaustive()
    }
}

impl ProofArguments {
    /// The journal of the run, where one is wanted; to be called before the first request.
    pub fn begin(&self) -> Result<Option<Journal>, Failure> {
        if self.verify.is_none() && self.journal.is_none() {
            return Ok(None);
        }
        let starts = self
            .kafka()
            .map(|kafka| start_offsets(&kafka, &self.topics));
        let run = Run {
            topics: self.topics.clone(),
            starts: starts.transpose()?,
        };
        Journal::create(self.journal.as_deref(), run)
            .map(Some)
            .map_err(|e| Failure::Run(format!("the journal cannot be written: {e}")))
    }

    /// Ends the journal and proves what is to be proved.
    pub fn end(
        &self,
        journal: Journal,
        truth: Truth,
        traffic_complete: bool,
    ) -> Result<ExitCode, Failure> {
        let journal = journal
            .finish(truth, traffic_complete)
            .map_err(|e| Failure::Run(format!("the journal cannot be written: {e}")))?;
        match self.kafka() {
            None => Ok(ExitCode::SUCCESS),
            Some(kafka) => {
                let options = Options {
                    kafka,
                    copies: None,
                    timestamps: self.timestamps,
                };
                println!();
                Ok(prove(&journal, &options))
            }
        }
    }

    fn kafka(&self) -> Option<Kafka> {
        self.verify.as_ref().map(|bootstrap_servers| Kafka {
            bootstrap_servers: bootstrap_servers.clone(),
            properties: self.properties.clone(),
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.is_usage() {
            true => Self::Usage(error.to_string()),
            false => Self::Run(error.to_string()),
        }
    }
}
