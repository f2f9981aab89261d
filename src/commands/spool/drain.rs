//! `spool drain`: publishes all entries of a spool to Kafka, with the same parts as `serve` but
//! without listeners.

mod rate;

use std::io::{IsTerminal, Write, stderr};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::{CommandExit, SpoolArguments, SpoolCommandError, require_spool, spool_dir};
use crate::commands::{block_on, progress_bar, signals};
use crate::config::Config;
use crate::core::{Core, CoreMode};
use crate::kafka::lane::TopicState;
use crate::spool::store::{OpenError, OpenReport, Options, SpoolStore};
use crate::spool::{EntryLedger, Spool};
use crate::telemetry;
use butlr_event::destination::Destination;
use rate::DrainRate;

const DRAIN_HELP: &str = "Hands every entry to Kafka in order and removes it once Kafka has confirmed it, as the bridge itself does. Entries that a crash left
in doubt are first searched for in Kafka.

No bridge may use the spool meanwhile. To scale down, stop the bridge, drain its spool, and delete its volume once this command has
exited with 0 and reports that nothing is set aside. Entries that are not drained stay on disk, and the command can be run again.";

#[derive(clap::Args, Debug)]
#[command(after_long_help = DRAIN_HELP)]
pub struct SpoolDrainArguments {
    #[command(flatten)]
    spool: SpoolArguments,
    /// Stop after this time, for example 10m, and exit with 1 [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    within: Option<Duration>,
}

/// Poll interval of the progress.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub fn run(arguments: &SpoolDrainArguments) -> Result<CommandExit, SpoolCommandError> {
    let started = Instant::now();
    let mut config = arguments.spool.load()?;
    config
        .require_bootstrap_servers()
        .map_err(|error| SpoolCommandError::from_config(&[error]))?;
    let dir = spool_dir(&config)?;
    require_spool(&dir)?;
    if stderr().is_terminal() {
        // The progress bar shows the rest.
        config.log.level = config.log.level.min(tracing::Level::WARN);
    }
    telemetry::init(&config.log);
    let stop = stop_on_signal().map_err(|error| {
        SpoolCommandError::Failed(format!("signals cannot be received: {error}"))
    })?;
    let (store, found) = open_store(&config, &dir)?;
    log_damage(&found);
    let deadline = arguments.within.map(|within| started + within);
    let drain = SpoolDrainRun::start(&config, store)?;
    let reason = drain.wait_until_empty(&stop, deadline);
    let end = drain.finish(&config);
    let summary = DrainSummary {
        dir: &dir,
        end,
        reason,
        within: arguments.within,
        found: &found,
        took: started.elapsed(),
    };
    // The drain counts even if standard output is closed.
    let _ = std::io::stdout().write_all(summary.to_text().as_bytes());
    Ok(CommandExit::success_if(summary.is_complete()))
}

fn open_store(config: &Config, dir: &Path) -> Result<(SpoolStore, OpenReport), SpoolCommandError> {
    let options = Options {
        dir: dir.to_owned(),
        segment_bytes: config.spool.segment_bytes,
    };
    SpoolStore::open(options).map_err(|error| match error {
        OpenError::Locked { dir } => SpoolCommandError::Failed(format!(
            "a bridge or another drain uses the spool {dir}; a running bridge drains it by itself. To scale down, stop the bridge first, then drain, then delete the volume"
        )),
        OpenError::Io { .. } => SpoolCommandError::Failed(error.to_string()),
        OpenError::Foreign { .. } => SpoolCommandError::Usage(error.to_string()),
    })
}

fn log_damage(found: &OpenReport) {
    for damaged in &found.damaged {
        tracing::error!(file = damaged.file, why = damaged.why, lost = damaged.lost, moved_to = ?damaged.moved_to,
            "a file of the spool is damaged; it was moved away, and its intact entries are drained");
    }
    for file in &found.missing {
        tracing::error!(
            file,
            "a file of the spool is missing; its entries are lost, unless they were drained"
        );
    }
}

/// Reason why the drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DrainEndReason {
    Empty,
    DeadlineReached,
    Interrupted,
}

/// Longest wait until the store shared by replicas knows the last drained events.
const DEDUP_FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Parts of a bridge that drain.
struct SpoolDrainRun {
    spool: Arc<Spool>,
    core: Core,
}

/// Result of a drain.
struct DrainResult {
    ledger: EntryLedger,
    /// All entries set aside, including earlier ones; `None` if they cannot be read.
    dead_letters: Option<usize>,
    /// Remaining entries per destination, with the reason if it is known.
    remaining: Vec<(Destination, u64, Option<String>)>,
}

impl SpoolDrainRun {
    fn start(config: &Config, store: SpoolStore) -> Result<Self, SpoolCommandError> {
        let core = Core::start(config, CoreMode::SpoolDrain, Some(store))
            .map_err(SpoolCommandError::Usage)?;
        let spool = core.pipeline.spool.clone();
        let spool = spool.expect("the core was started with a store");
        Ok(Self { spool, core })
    }

    /// Waits until the spool is empty, the deadline has passed or a signal arrives.
    fn wait_until_empty(&self, stop: &AtomicBool, deadline: Option<Instant>) -> DrainEndReason {
        let mut bar = DrainProgressBar::start(self.spool.ledger().present);
        loop {
            let ledger = self.spool.ledger();
            if ledger.present == 0 {
                return DrainEndReason::Empty;
            }
            if stop.load(Ordering::Acquire) {
                return DrainEndReason::Interrupted;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return DrainEndReason::DeadlineReached;
            }
            bar.update(&ledger, self.describe_obstacle());
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Describes why the drain makes no progress, if there is a reason.
    fn describe_obstacle(&self) -> Option<String> {
        if self.core.pipeline.contact.age().is_none() {
            return Some("Kafka has not been reached yet".to_owned());
        }
        let waiting = self.spool.state().destinations.into_iter();
        let waiting: Vec<_> = waiting.filter(|status| status.present > 0).collect();
        let problem = waiting
            .iter()
            .find_map(|status| self.topic_problem(status.destination));
        let is_searching = waiting.iter().any(|status| status.is_searching);
        let searching = || "searching for entries that Kafka holds already".to_owned();
        problem.or_else(|| is_searching.then(searching))
    }

    fn topic_problem(&self, to: Destination) -> Option<String> {
        let lane = &self.core.pipeline.lanes[to.index()];
        let topic = lane.topic();
        match lane.state() {
            TopicState::Missing => Some(format!(
                "the topic {topic} is missing: create it with `butlr-bridge topics --apply`"
            )),
            TopicState::Forbidden => Some(format!(
                "the topic {topic} is forbidden: grant the bridge's user Describe and Write"
            )),
            TopicState::Unknown if self.core.pipeline.contact.age().is_none() => {
                Some("Kafka was not reached".to_owned())
            }
            TopicState::Unknown | TopicState::Available => None,
        }
    }

    /// Stops the handover, waits briefly for outstanding delivery reports and collects the result.
    fn finish(self, config: &Config) -> DrainResult {
        self.spool.shut_down();
        let pipeline = &self.core.pipeline;
        let unconfirmed = pipeline.producer.close(config.kafka.confirm_within);
        if unconfirmed > 0 {
            tracing::warn!(
                records = unconfirmed,
                "Kafka has not confirmed these records: their entries stay in the spool, and the next drain searches for them in Kafka"
            );
        }
        let reasons: Vec<_> = Destination::all().map(|to| self.topic_problem(to)).into();
        drop(self.core.drain);
        drop(self.core.watch);
        // Tells the replicas that share the store what reached Kafka.
        if let Some(deduplicator) = &pipeline.deduplicator {
            block_on(deduplicator.flush(DEDUP_FLUSH_TIMEOUT));
        }
        let store = self.spool.store();
        let remaining = Destination::all().into_iter().zip(reasons);
        let remaining = remaining.map(|(to, reason)| (to, store.present(to), reason));
        DrainResult {
            ledger: self.spool.ledger(),
            dead_letters: store.dead_letters().ok().map(|entries| entries.len()),
            remaining: remaining.filter(|(_, present, _)| *present > 0).collect(),
        }
    }
}

/// Report at the end of a drain.
struct DrainSummary<'s> {
    dir: &'s Path,
    end: DrainResult,
    reason: DrainEndReason,
    within: Option<Duration>,
    found: &'s OpenReport,
    took: Duration,
}

impl DrainSummary<'_> {
    fn is_complete(&self) -> bool {
        let is_sound = self.found.damaged.is_empty() && self.found.missing.is_empty();
        // Deleting the volume after this must not lose entries that were set aside.
        let is_empty = self.end.ledger.present == 0 && self.end.dead_letters == Some(0);
        is_empty && self.end.ledger.lost == 0 && is_sound
    }

    fn to_text(&self) -> String {
        let Self { end, .. } = self;
        let EntryLedger {
            drained,
            already_stored,
            confirmed_late,
            dead_letters: set_aside,
            present,
            lost,
            ..
        } = end.ledger;
        let dir = self.dir.display();
        let mut text = match (present, self.reason) {
            (0, _) => format!("the spool {dir} is empty\n"),
            (left, DrainEndReason::DeadlineReached) => format!(
                "not empty within {}: {left} entries are left in {dir}, all of them on disk\n",
                humantime::format_duration(self.within.unwrap_or_default())
            ),
            (left, _) => format!(
                "stopped before the spool was empty: {left} entries are left in {dir}, all of them on disk\n"
            ),
        };
        for (to, left, reason) in &end.remaining {
            let reason = reason
                .as_deref()
                .map(|reason| format!(": {reason}"))
                .unwrap_or_default();
            text += &format!("  {:<20}  {left:>9}{reason}\n", to.name());
        }
        text += &format!(
            "drained {drained}, already stored {already_stored}, confirmed late {confirmed_late}, set aside {set_aside}, took {:.1} s\n",
            self.took.as_secs_f64()
        );
        let damaged = self.found.damaged.len() + self.found.missing.len();
        if damaged > 0 || lost > 0 {
            text += &format!(
                "DAMAGE was found: {damaged} files at the start, {lost} entries lost since; the damaged files are in {dir}/damaged\n"
            );
        }
        match end.dead_letters {
            Some(0) => {}
            Some(all) => {
                text += &format!(
                    "SET ASIDE: {all} entries that Kafka rejects permanently stay in {dir}: save them with `spool export --set-aside` before you delete the volume\n"
                );
            }
            None => {
                text +=
                    &format!("the entries set aside in {dir} cannot be read; see `spool verify`\n")
            }
        }
        text
    }
}

/// Progress bar, hidden unless standard error is a terminal.
struct DrainProgressBar {
    bar: ProgressBar,
    rate: DrainRate,
    initial_entries: u64,
}

impl DrainProgressBar {
    fn start(entries: u64) -> Self {
        let template = "{elapsed_precise} [{bar:24}] {pos} of {len}  {msg}";
        Self {
            bar: progress_bar(entries, template),
            rate: DrainRate::default(),
            initial_entries: entries,
        }
    }

    fn update(&mut self, ledger: &EntryLedger, obstacle: Option<String>) {
        let done = self.initial_entries.saturating_sub(ledger.present);
        self.rate.record(Instant::now(), done);
        self.bar.set_position(done);
        let set_aside = match ledger.dead_letters {
            0 => String::new(),
            n => format!("  {n} set aside"),
        };
        let obstacle = obstacle
            .map(|reason| format!("  {reason}"))
            .unwrap_or_default();
        self.bar.set_message(format!(
            "{}{set_aside}{obstacle}",
            self.rate.to_text(ledger.present)
        ));
    }
}

impl Drop for DrainProgressBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Returns a flag that is set at the first SIGTERM or SIGINT. The second ends the process at once,
/// which loses nothing but time.
fn stop_on_signal() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    signals::listen(move || {
        if stopped.swap(true, Ordering::AcqRel) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    Ok(stop)
}

#[cfg(test)]
mod tests;
