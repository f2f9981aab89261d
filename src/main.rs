//! Command line of butlr-bridge.

use std::process::ExitCode;

use butlr_bridge::commands::{self, BridgeCommand};
use clap::Parser;

/// Receives Butlr's webhooks and publishes their events to Kafka. A 2xx response means that the event
/// is in Kafka or on disk
#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct CommandLine {
    #[command(subcommand)]
    command: BridgeCommand,
}

fn main() -> ExitCode {
    // clap exits with 2 on bad usage, as every command does on a bad configuration.
    commands::run(CommandLine::parse().command)
}
