//! The command line: `butlr-bridge serve | dev | simulate | verify | check-config | topics`.

use std::process::ExitCode;

use butlr_bridge::commands::{self, BridgeCommand};
use clap::Parser;

/// The door between Butlr's webhooks and Kafka: a 2xx is a promise.
#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct CommandLine {
    #[command(subcommand)]
    command: BridgeCommand,
}

fn main() -> ExitCode {
    // clap ends with 2 on bad usage, as every command does on bad configuration.
    commands::run(CommandLine::parse().command)
}
