//! The configuration: a TOML file, overridden by the environment, overridden by the command line.
//!
//! [`load`] reports all errors at once:
//!
//! 1. `sources` merges the layers into one `tree`. Its shape follows the table of `keys`.
//! 2. Each section is read by a module of its own, through `reader`.
//! 3. `validation` checks the rules between sections.
//!
//! No error, and no `Debug` output of a [`Config`], contains a secret.

mod admin;
mod auth;
mod dedup;
mod env_name;
mod error;
mod http;
mod kafka;
mod keys;
mod process;
mod properties;
mod reader;
pub(crate) mod secret;
mod sources;
mod spool;
mod suggestion;
mod topics;
mod tree;
mod units;
mod validation;
mod warnings;
mod written_value;

#[cfg(test)]
mod tests;

pub use admin::{AdminConfig, AdminCredentials};
pub use auth::{ApiKey, AuthConfig, BasicCredentials};
pub use dedup::{DedupConfig, DedupStore, DuplicateHandling, RedisConfig};
pub use error::{ConfigError, ValueOrigin};
pub use http::{HttpConfig, TlsFiles};
pub use kafka::{KafkaConfig, LINGER_PROPERTIES, RECORD_OVERHEAD, TimestampMode};
pub use process::{LogConfig, LogFormat, ShutdownConfig};
pub use properties::PropertyCheck;
pub use sources::ConfigSources;
pub use spool::{DrainOrder, QuarantineAnswer, QuarantineConfig, SpoolConfig};
pub use topics::{TopicSpec, TopicsConfig};

use error::ConfigErrors;
use reader::SectionReader;

/// The whole configuration, checked as far as possible without Kafka.
#[derive(Clone, Debug)]
pub struct Config {
    /// The ingest listener.
    pub http: HttpConfig,
    /// The admin listener.
    pub admin: AdminConfig,
    /// Connection to Kafka.
    pub kafka: KafkaConfig,
    /// The topics.
    pub topics: TopicsConfig,
    /// Credentials of senders.
    pub auth: AuthConfig,
    /// Duplicate detection.
    pub dedup: DedupConfig,
    /// Spool on disk for events that Kafka does not confirm in time.
    pub spool: SpoolConfig,
    /// Handling of rejected items.
    pub quarantine: QuarantineConfig,
    /// The log.
    pub log: LogConfig,
    /// Timing of the shutdown.
    pub shutdown: ShutdownConfig,
}

/// Reads the configuration and the files of its secrets. Without any source, the defaults apply.
///
/// Calls `property_check` once for each librdkafka property that the bridge itself accepts.
///
/// # Errors
/// All errors, in the order in which they were found; never an empty list.
pub fn load(
    sources: &ConfigSources,
    property_check: &PropertyCheck,
) -> Result<Config, Vec<ConfigError>> {
    let errors = ConfigErrors::default();
    let Some(tree) = sources.build_tree(&errors) else {
        return Err(errors.into_vec());
    };
    let root = SectionReader::root(&tree, &errors);
    let config = Config {
        http: http::read(&root.section("http")),
        admin: admin::read(&root.section("admin")),
        kafka: kafka::read(&root.section("kafka"), property_check),
        topics: topics::read(&root.section("topics")),
        auth: auth::read(&root.section("auth")),
        dedup: dedup::read(&root.section("dedup")),
        spool: spool::read(&root.section("spool")),
        quarantine: spool::read_quarantine(&root.section("quarantine")),
        log: process::read_log(&root.section("log")),
        shutdown: process::read_shutdown(&root.section("shutdown")),
    };
    validation::check(&config, &root);
    let errors = errors.into_vec();
    if errors.is_empty() {
        Ok(config)
    } else {
        Err(errors)
    }
}

impl Config {
    /// Returns the topics that records go to: one per event type, and the quarantine if it is kept.
    pub fn required_topics(&self) -> impl Iterator<Item = &TopicSpec> {
        let quarantine = self.quarantine.keep.then_some(&self.topics.quarantine);
        self.topics.per_type.iter().chain(quarantine)
    }

    /// Returns the brokers to connect to first, for commands that need Kafka.
    ///
    /// # Errors
    /// `kafka.bootstrap_servers` is not set.
    pub fn require_bootstrap_servers(&self) -> Result<&str, ConfigError> {
        self.kafka.bootstrap_servers.as_deref().ok_or_else(|| {
            ConfigError::new(
                "kafka.bootstrap_servers",
                "missing; list the brokers, as in \"kafka-1:9092,kafka-2:9092\"",
            )
        })
    }

    /// Returns a sentence for each setting that is legal but weak.
    pub fn warnings(&self) -> Vec<String> {
        warnings::collect_warnings(self)
    }
}
