//! `check-config`: all mistakes at once, and what is weak.

use std::process::ExitCode;

use super::{ConfigArguments, misused};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
}

pub fn run(arguments: Arguments) -> ExitCode {
    let config = match arguments.config.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    if let Err(mistake) = config.require_kafka() {
        return misused(&[mistake]);
    }
    for warning in config.warnings() {
        eprintln!("warning: {warning}");
    }
    println!("the configuration is good");
    ExitCode::SUCCESS
}
