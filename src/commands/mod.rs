//! The commands of the binary. Exit codes: 0 done, 1 failed, 2 bad usage or configuration.

mod check_config;
mod dev;
mod kafka_properties;
mod replay;
mod serve;
mod simulate;
mod spool;
mod topics;
mod verify;

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use secrecy::SecretString;

use crate::config::{self, Config, ConfigError, ConfigSources};
use crate::http::tls::Certificate;
use crate::kafka::client::{self, check_property};

/// What the binary can be asked to do.
#[derive(Subcommand)]
pub enum BridgeCommand {
    /// Run the bridge: webhooks in, Kafka out
    Serve(serve::ServeArguments),
    /// Run everything on this machine with nothing to install: an embedded broker, the bridge and a simulated building
    Dev(dev::DevArguments),
    /// Check a configuration: all mistakes at once; needs no Kafka
    CheckConfig(check_config::CheckConfigArguments),
    /// Send what a city of sensors would, as the vendor does; count what was answered and prove what was stored
    Simulate(Box<simulate::SimulateArguments>),
    /// Prove once more what an earlier `simulate --journal` stored
    Verify(verify::VerifyArguments),
    /// Look at what waits on disk, save it, or empty it into Kafka
    Spool(spool::SpoolCommandArguments),
    /// Send what was quarantined and is valid by now
    Replay(replay::ReplayArguments),
    /// Compare the topics that the bridge needs with what the broker has
    Topics(topics::TopicsArguments),
}

/// Runs a command to its end.
pub fn run(command: BridgeCommand) -> ExitCode {
    match command {
        BridgeCommand::Serve(arguments) => serve::run(arguments),
        BridgeCommand::Dev(arguments) => dev::run(arguments),
        BridgeCommand::Simulate(arguments) => simulate::run(*arguments),
        BridgeCommand::Verify(arguments) => verify::run(arguments),
        BridgeCommand::CheckConfig(arguments) => check_config::run(arguments),
        BridgeCommand::Spool(arguments) => spool::run(arguments),
        BridgeCommand::Replay(arguments) => replay::run(arguments),
        BridgeCommand::Topics(arguments) => topics::run(arguments),
    }
}

/// Something was asked for that cannot be.
const EXIT_FAILED: u8 = 1;
/// Bad usage or configuration.
const EXIT_MISUSED: u8 = 2;

/// Where a configuration comes from, besides the environment.
#[derive(clap::Args, Clone, Debug)]
struct ConfigArguments {
    /// The TOML file; without one, the environment (BUTLR_BRIDGE__SECTION__KEY) and the defaults hold
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key, over file and environment: --set http.bind=127.0.0.1:9000
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_key_value)]
    set: Vec<(String, String)>,
}

fn parse_key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("write it as section.key=value, for example http.bind=127.0.0.1:9000")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl ConfigArguments {
    /// Whether a configuration is named on the command line.
    fn is_given(&self) -> bool {
        self.config.is_some() || !self.set.is_empty()
    }

    fn sources(&self) -> ConfigSources {
        let mut sources = ConfigSources::from_process(self.config.clone());
        let flags = self.set.iter().cloned();
        sources
            .flags
            .extend(flags.map(|(key, value)| (key, toml::Value::String(value))));
        sources
    }

    /// Reads the configuration, or tells every mistake on standard error.
    fn load(&self) -> Result<Config, ExitCode> {
        load_config(&self.sources()).map_err(|mistakes| report_mistakes(&mistakes))
    }
}

/// Reads the configuration and checks what its parts alone do not tell: certificate against key, and librdkafka's
/// properties against each other.
fn load_config(sources: &ConfigSources) -> Result<Config, Vec<ConfigError>> {
    let config = config::load(sources, &check_property)?;
    let tls = config.http.tls.as_ref().map(Certificate::read);
    let tls = tls
        .and_then(Result::err)
        .map(|e| ConfigError::new("http.tls", e));
    let kafka = client::check_properties(&config).err();
    let kafka = kafka.map(|e| ConfigError::new("kafka.properties", e));
    let mistakes: Vec<_> = tls.into_iter().chain(kafka).collect();
    match mistakes.is_empty() {
        true => Ok(config),
        false => Err(mistakes),
    }
}

/// Takes an argument that may hold a secret as it is: clap would quote what it refuses.
fn parse_secret(text: &str) -> Result<SecretString, Infallible> {
    Ok(SecretString::from(text))
}

fn report_mistakes(mistakes: &[ConfigError]) -> ExitCode {
    for mistake in mistakes {
        eprintln!("{mistake}");
    }
    let s = if mistakes.len() == 1 { "" } else { "s" };
    eprintln!("{} mistake{s} in the configuration", mistakes.len());
    ExitCode::from(EXIT_MISUSED)
}

/// Runs a short command's future.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the system can start a runtime")
        .block_on(future)
}
