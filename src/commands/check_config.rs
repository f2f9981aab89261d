//! `check-config`: all mistakes at once, and what is weak.

use std::process::ExitCode;

use super::ConfigArguments;
use crate::http::tls::Certificate;

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
    if let Some(Err(problem)) = config.http.tls.as_ref().map(Certificate::read) {
        eprintln!("{problem}\n1 mistake in the configuration");
        return ExitCode::from(super::MISUSED);
    }
    for warning in config.warnings() {
        eprintln!("warning: {warning}");
    }
    println!("the configuration is good");
    ExitCode::SUCCESS
}
