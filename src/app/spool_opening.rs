//! Opens the spool at the start and logs what is found in it.

use crate::app::Error;
use crate::config::Config;
use crate::spool::health;
use crate::spool::store::{self, OpenReport, SpoolStore};

/// Opens the spool, if one is configured. Damage does not prevent the start: it is logged, and the
/// damaged file is moved aside.
pub(super) fn open_spool(config: &Config) -> Result<Option<SpoolStore>, Error> {
    let Some(dir) = &config.spool.dir else {
        return Ok(None);
    };
    let options = store::Options {
        dir: dir.clone(),
        segment_bytes: config.spool.segment_bytes,
    };
    let (store, report) = SpoolStore::open(options)
        .map_err(|problem| Error::Configuration(format!("spool.dir: {problem}")))?;
    let store = store.with_compaction_above(config.spool.max_bytes / 2);
    log_open_report(&report);
    log_dead_letters(&store);
    if health::is_in_memory(dir) {
        tracing::warn!(
            dir = %dir.display(),
            "spool.dir is in memory (tmpfs): the spool survives a crash of this process but not of its machine; put it on a disk"
        );
    }
    Ok(Some(store))
}

fn log_open_report(report: &OpenReport) {
    for store::DamagedFile { file, why, .. } in &report.damaged {
        tracing::error!(%file, %why, "a spool file is damaged: it was moved aside, and its readable entries are drained");
    }
    for file in &report.missing {
        tracing::error!(%file, "a spool file is missing: its entries are lost unless they were drained before");
    }
    let entries: u64 = report.entries.iter().sum();
    if entries > 0 || !report.damaged.is_empty() {
        tracing::info!(
            entries,
            files = report.segments,
            bytes = report.bytes,
            took_s = report.took.as_secs_f64(),
            "spool opened"
        );
    }
}

/// Dead letters of earlier runs still need an operator, so each start mentions them.
fn log_dead_letters(store: &SpoolStore) {
    match store.dead_letters() {
        Ok(entries) if entries.is_empty() => {}
        Ok(entries) => tracing::warn!(
            entries = entries.len(),
            "the spool has dead letters, which Kafka refused for good; list them with `butlr-bridge spool list --set-aside`"
        ),
        Err(error) => tracing::warn!(%error, "the spool's dead letters cannot be read"),
    }
}
