//! The configuration: a TOML file, over it the environment, over that the command line.
//!
//! [`load`] finds every mistake at once. Its path: `sources` reads the layers into one `tree`, which knows from `keys`
//! what may stand where; each section is read from there by its own module; `validate` holds the rules between them.
//! Nothing that comes out of here, be it a mistake or the `Debug` of a [`Config`], contains a secret.

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
pub use keys::{KeyDoc, reference};
pub use process::{LogConfig, LogFormat, ShutdownConfig};
pub use properties::PropertyCheck;
pub use sources::ConfigSources;
pub use spool::{DrainOrder, QuarantineAnswer, QuarantineConfig, SpoolConfig};
pub use topics::{TopicSpec, TopicsConfig};

use error::ConfigErrors;
use reader::SectionReader;

/// Everything that can be configured, checked as far as that is possible without Kafka.
#[derive(Clone, Debug)]
pub struct Config {
    /// The ingest listener.
    pub http: HttpConfig,
    /// The admin listener.
    pub admin: AdminConfig,
    /// The brokers.
    pub kafka: KafkaConfig,
    /// The topics.
    pub topics: TopicsConfig,
    /// Who may send events.
    pub auth: AuthConfig,
    /// What becomes of events that came before.
    pub dedup: DedupConfig,
    /// Where events wait while Kafka does not confirm them.
    pub spool: SpoolConfig,
    /// What becomes of what is no valid event.
    pub quarantine: QuarantineConfig,
    /// The log.
    pub log: LogConfig,
    /// The end of the process.
    pub shutdown: ShutdownConfig,
}

/// Reads the configuration and the files of its secrets. Without any source, the defaults hold.
///
/// `property_check` is asked once for each librdkafka property that the bridge itself has nothing against.
///
/// # Errors
/// All mistakes, in the order in which they were found; never an empty list.
pub fn load(
    sources: &ConfigSources,
    property_check: &PropertyCheck,
) -> Result<Config, Vec<ConfigError>> {
    let mistakes = ConfigErrors::default();
    let Some(tree) = sources.build_tree(&mistakes) else {
        return Err(mistakes.into_vec());
    };
    let root = SectionReader::root(&tree, &mistakes);
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
    let mistakes = mistakes.into_vec();
    if mistakes.is_empty() {
        Ok(config)
    } else {
        Err(mistakes)
    }
}

impl Config {
    /// The topics that records go to: the ten of the types, and the quarantine where that is kept.
    pub fn required_topics(&self) -> impl Iterator<Item = &TopicSpec> {
        let quarantine = self.quarantine.keep.then_some(&self.topics.quarantine);
        self.topics.per_type.iter().chain(quarantine)
    }

    /// The brokers to start from, for what cannot do without.
    ///
    /// # Errors
    /// None are configured.
    pub fn require_bootstrap_servers(&self) -> Result<&str, ConfigError> {
        self.kafka.bootstrap_servers.as_deref().ok_or_else(|| {
            ConfigError::new(
                "kafka.bootstrap_servers",
                "missing; name the brokers to start from, as in \"kafka-1:9092,kafka-2:9092\"",
            )
        })
    }

    /// What is legal but weak, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        warnings::collect_warnings(self)
    }
}
