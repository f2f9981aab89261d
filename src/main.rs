//! The command line of butlr-bridge.

use std::process::ExitCode;

use butlr_bridge::commands::{self, BridgeCommand};
use clap::Parser;

/// Validates Butlr's webhook events and publishes each to its Kafka topic; a 2xx means it is stored
#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct CommandLine {
    #[command(subcommand)]
    command: BridgeCommand,
}

fn main() -> ExitCode {
    // clap exits with 2 on bad usage, as every command does on bad configuration.
    commands::run(CommandLine::parse().command)
}
