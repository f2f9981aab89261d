//! `check-config`: all mistakes at once, and what is weak.

use std::process::ExitCode;

use super::{ConfigArguments, report_mistakes};
use crate::dedup::memory::MemoryStore;

#[derive(clap::Args, Debug)]
pub struct CheckConfigArguments {
    #[command(flatten)]
    config: ConfigArguments,
}

pub fn run(arguments: CheckConfigArguments) -> ExitCode {
    let config = match arguments.config.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    if let Err(mistake) = config.require_bootstrap_servers() {
        return report_mistakes(&[mistake]);
    }
    for warning in config.warnings() {
        eprintln!("warning: {warning}");
    }
    if config.dedup.is_enabled() {
        let bytes = MemoryStore::max_bytes(&config.dedup);
        println!(
            "dedup: at most {} MiB of memory for {} ids and {} readings (dedup.max_ids, dedup.max_readings)",
            bytes.div_ceil(1 << 20),
            config.dedup.max_ids,
            config.dedup.max_readings
        );
    }
    println!("the configuration is good");
    ExitCode::SUCCESS
}
