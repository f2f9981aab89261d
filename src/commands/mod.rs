//! Commands of the binary.

mod check_config;
mod dev;
mod exit;
mod kafka_properties;
mod replay;
mod serve;
mod signals;
mod simulate;
mod spool;
mod temporary_file;
mod topics;
mod verify;

use std::convert::Infallible;
use std::future::Future;
use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use secrecy::SecretString;

pub use exit::CommandExit;

use crate::config::{self, Config, ConfigError, ConfigSources};
use crate::http::tls::Certificate;
use crate::kafka::client::{self, check_property};

/// Commands of the command line.
#[derive(Subcommand)]
pub enum BridgeCommand {
    /// Run the bridge: receive webhooks, publish events to Kafka
    Serve(serve::ServeArguments),
    /// Run an embedded Kafka broker, the bridge and a simulated building in one process
    Dev(dev::DevArguments),
    /// Check a configuration and print all errors in it; needs no Kafka
    CheckConfig(check_config::CheckConfigArguments),
    /// Simulate a city of sensors and the vendor that sends its events; count the responses and
    /// verify what was stored
    Simulate(Box<simulate::SimulateArguments>),
    /// Verify again what an earlier `simulate --journal` run stored
    Verify(verify::VerifyArguments),
    /// Inspect, export or drain the spool on disk
    Spool(spool::SpoolCommandArguments),
    /// Publish quarantined items that are valid events by now
    Replay(replay::ReplayArguments),
    /// Compare the topics that the bridge needs with those of the broker
    Topics(topics::TopicsArguments),
}

/// Runs a command and returns the exit code of the process.
pub fn run(command: BridgeCommand) -> ExitCode {
    let exit = match command {
        BridgeCommand::Serve(arguments) => serve::run(arguments),
        BridgeCommand::Dev(arguments) => dev::run(arguments),
        BridgeCommand::Simulate(arguments) => simulate::run(*arguments),
        BridgeCommand::Verify(arguments) => verify::run(arguments),
        BridgeCommand::CheckConfig(arguments) => check_config::run(arguments),
        BridgeCommand::Spool(arguments) => spool::run(arguments),
        BridgeCommand::Replay(arguments) => replay::run(arguments),
        BridgeCommand::Topics(arguments) => topics::run(arguments),
    };
    exit.into()
}

/// Sources of the configuration besides the environment.
#[derive(clap::Args, Clone, Debug)]
struct ConfigArguments {
    /// TOML file to read; without one, environment variables (BUTLR_BRIDGE__SECTION__KEY) and
    /// defaults apply
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key, overriding file and environment, for example --set http.bind=127.0.0.1:9000
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
    /// Returns `true` if the command line names a configuration.
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

    /// Loads the configuration, or prints all errors in it to standard error.
    fn load(&self) -> Result<Config, CommandExit> {
        load_config(&self.sources()).map_err(|errors| print_config_errors(&errors))
    }

    /// Same as [`load`](Self::load), for commands that need Kafka.
    fn load_with_kafka(&self) -> Result<Config, CommandExit> {
        let config = self.load()?;
        match config.require_bootstrap_servers() {
            Ok(_) => Ok(config),
            Err(error) => Err(print_config_errors(&[error])),
        }
    }
}

/// Loads the configuration and checks what single keys cannot show: that the certificate matches
/// its key, and that librdkafka accepts its properties together.
fn load_config(sources: &ConfigSources) -> Result<Config, Vec<ConfigError>> {
    let config = config::load(sources, &check_property)?;
    let tls = config.http.tls.as_ref().map(Certificate::read);
    let tls = tls
        .and_then(Result::err)
        .map(|e| ConfigError::new("http.tls", e));
    let kafka = client::check_properties(&config).err();
    let kafka = kafka.map(|e| ConfigError::new("kafka.properties", e));
    let errors: Vec<_> = tls.into_iter().chain(kafka).collect();
    if errors.is_empty() {
        Ok(config)
    } else {
        Err(errors)
    }
}

/// Accepts an argument that may hold a secret without checking it: clap quotes arguments that it
/// rejects.
fn parse_secret(text: &str) -> Result<SecretString, Infallible> {
    Ok(SecretString::from(text))
}

fn print_config_errors(errors: &[ConfigError]) -> CommandExit {
    for error in errors {
        eprintln!("{error}");
    }
    let s = if errors.len() == 1 { "" } else { "s" };
    CommandExit::Usage.print_error(format!("{} error{s} in the configuration", errors.len()))
}

/// Creates a progress bar, hidden unless standard error is a terminal.
fn progress_bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    let bar = if stderr().is_terminal() {
        ProgressBar::new(length)
    } else {
        ProgressBar::hidden()
    };
    bar.with_style(style.progress_chars("=> "))
}

/// Runs the future of a short command.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the async runtime can be started")
        .block_on(future)
}
