//! `check-config`: prints all errors and warnings about a configuration.

use super::{CommandExit, ConfigArguments};
use crate::dedup::memory::MemoryStore;

#[derive(clap::Args, Debug)]
pub struct CheckConfigArguments {
    #[command(flatten)]
    config: ConfigArguments,
}

pub fn run(arguments: CheckConfigArguments) -> CommandExit {
    let config = match arguments.config.load_with_kafka() {
        Ok(config) => config,
        Err(exit) => return exit,
    };
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
    CommandExit::Success
}
