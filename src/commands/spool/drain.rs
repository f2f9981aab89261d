//! `spool drain`: empties one spool into Kafka, with what `serve` drains with, but without listeners.

mod rate;

use std::io::{IsTerminal, Write, stderr};
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    EXIT_FAILED, SpoolArguments, SpoolCommandError, SpoolCommandOutcome, report_mistakes,
    require_spool, spool_dir,
};
use crate::commands::block_on;
use crate::config::Config;
use crate::core::{Core, CoreMode};
use crate::kafka::lane::TopicState;
use crate::spool::store::{OpenError, OpenReport, Options, SpoolStore};
use crate::spool::{EntryLedger, Spool};
use crate::telemetry;
use butlr_event::destination::Destination;
use rate::DrainRate;

const DRAIN_HELP: &str = "Hands over every entry in order, waits for Kafka to confirm it and removes it then, as the bridge itself does. Entries that a
crash left in doubt are looked for in Kafka first.

No bridge may run on the spool: scaling down is to stop the bridge, to drain its spool, and to delete its volume when this
command has ended with 0 and says that nothing is set aside. What it does not get done stays on disk, and it can be run again.";

#[derive(clap::Args, Debug)]
#[command(after_long_help = DRAIN_HELP)]
pub struct SpoolDrainArguments {
    #[command(flatten)]
    spool: SpoolArguments,
    /// Give up after so long, for example 10m; exit 1 then [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    within: Option<Duration>,
}

/// Between two looks at how far it is.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub fn run(arguments: &SpoolDrainArguments) -> Result<SpoolCommandOutcome, SpoolCommandError> {
    let began = Instant::now();
    let mut config = arguments.spool.load()?;
    config
        .require_bootstrap_servers()
        .map_err(|mistake| SpoolCommandError::AlreadyReported(report_mistakes(&[mistake])))?;
    let dir = spool_dir(&config)?;
    require_spool(&dir)?;
    if stderr().is_terminal() {
        // The bar tells the rest.
        config.log.level = config.log.level.min(tracing::Level::WARN);
    }
    telemetry::init(&config.log);
    let stop = stop_on_signal().map_err(|error| {
        SpoolCommandError::Failed(format!("signals cannot be listened to: {error}"))
    })?;
    let (store, found) = open_store(&config, &dir)?;
    log_damage(&found);
    let deadline = arguments.within.map(|within| began + within);
    let drain = SpoolDrainRun::start(&config, store)?;
    let why = drain.wait_until_empty(&stop, deadline);
    let end = drain.finish(&config);
    let summary = DrainSummary {
        dir: &dir,
        end,
        reason: why,
        within: arguments.within,
        found: &found,
        took: began.elapsed(),
    };
    // A closed standard output does not undo what was drained.
    let _ = std::io::stdout().write_all(summary.to_text().as_bytes());
    Ok(SpoolCommandOutcome::success_if(summary.is_complete()))
}

fn open_store(config: &Config, dir: &Path) -> Result<(SpoolStore, OpenReport), SpoolCommandError> {
    let options = Options {
        dir: dir.to_owned(),
        segment_bytes: config.spool.segment_bytes,
    };
    SpoolStore::open(options).map_err(|error| match error {
        OpenError::Locked { dir } => SpoolCommandError::Failed(format!(
            "a running bridge, or another drain, uses the spool {dir}, and a running bridge drains it by itself; stop the bridge first: scaling down = stop, drain, delete the volume"
        )),
        OpenError::Io { .. } => SpoolCommandError::Failed(error.to_string()),
        OpenError::Foreign { .. } => SpoolCommandError::Usage(error.to_string()),
    })
}

fn log_damage(found: &OpenReport) {
    for damaged in &found.damaged {
        tracing::error!(file = damaged.file, why = damaged.why, lost = damaged.lost, moved_to = ?damaged.moved_to,
            "a file of the spool is damaged: it was put aside, what is whole in it is drained");
    }
    for file in &found.missing {
        tracing::error!(
            file,
            "a file of the spool is missing: what it held is lost, unless it was drained"
        );
    }
}

/// Why draining ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DrainEndReason {
    Empty,
    DeadlineReached,
    Interrupted,
}

/// How long the replicas' store may take to hear of what was drained last.
const DEDUP_FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// What of a bridge drains.
struct SpoolDrainRun {
    spool: Arc<Spool>,
    core: Core,
}

/// How it ended.
struct DrainResult {
    ledger: EntryLedger,
    /// Entries set aside, of before too.
    dead_letters: Option<usize>,
    /// Entries that are left, and what keeps them from their topic where that is known.
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

    /// Waits until nothing is left, or it is to end.
    fn wait_until_empty(&self, stop: &AtomicBool, deadline: Option<Instant>) -> DrainEndReason {
        let mut bar = DrainProgressBar::start(self.spool.ledger().present);
        loop {
            let life = self.spool.ledger();
            if life.present == 0 {
                return DrainEndReason::Empty;
            }
            if stop.load(Ordering::Acquire) {
                return DrainEndReason::Interrupted;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return DrainEndReason::DeadlineReached;
            }
            bar.update(&life, self.describe_trouble());
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// What keeps it from going on, or why it has not begun.
    fn describe_trouble(&self) -> Option<String> {
        if self.core.pipeline.contact.age().is_none() {
            return Some("Kafka is not reached yet".to_owned());
        }
        let waiting = self.spool.state().destinations.into_iter();
        let waiting: Vec<_> = waiting.filter(|of| of.present > 0).collect();
        let in_vain = waiting
            .iter()
            .find_map(|of| self.topic_problem(of.destination));
        let looking = waiting.iter().any(|of| of.is_searching);
        in_vain
            .or_else(|| looking.then(|| "looking for entries that Kafka holds already".to_owned()))
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

    /// In this order: nothing more is handed over, the reports of what was are waited for a little, and heard.
    fn finish(self, config: &Config) -> DrainResult {
        self.spool.shut_down();
        let pipeline = &self.core.pipeline;
        let left_there = pipeline.producer.close(config.kafka.confirm_within);
        if left_there > 0 {
            tracing::warn!(
                records = left_there,
                "Kafka had not confirmed them: their entries stay, and are looked for in Kafka by whoever drains next"
            );
        }
        let why: Vec<_> = Destination::all().map(|to| self.topic_problem(to)).into();
        drop(self.core.drain);
        drop(self.core.watch);
        // Tells the replicas that share the store what reached Kafka.
        if let Some(deduplicator) = &pipeline.deduplicator {
            block_on(deduplicator.flush(DEDUP_FLUSH_TIMEOUT));
        }
        let store = self.spool.store();
        let left = Destination::all().into_iter().zip(why);
        let left = left.map(|(to, why)| (to, store.present(to), why));
        DrainResult {
            ledger: self.spool.ledger(),
            dead_letters: store.dead_letters().ok().map(|entries| entries.len()),
            remaining: left.filter(|(_, present, _)| *present > 0).collect(),
        }
    }
}

/// What is told at the end.
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
        let sound = self.found.damaged.is_empty() && self.found.missing.is_empty();
        // Whoever deletes the volume after this is not to lose what was set aside.
        let nothing_is_left = self.end.ledger.present == 0 && self.end.dead_letters == Some(0);
        nothing_is_left && self.end.ledger.lost == 0 && sound
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
                "ended before it was empty: {left} entries are left in {dir}, all of them on disk\n"
            ),
        };
        for (to, left, why) in &end.remaining {
            let why = why
                .as_deref()
                .map(|why| format!(": {why}"))
                .unwrap_or_default();
            text += &format!("  {:<20}  {left:>9}{why}\n", to.name());
        }
        text += &format!(
            "drained {drained}, already stored {already_stored}, confirmed late {confirmed_late}, set aside {set_aside}, took {:.1} s\n",
            self.took.as_secs_f64()
        );
        let damaged = self.found.damaged.len() + self.found.missing.len();
        if damaged > 0 || lost > 0 {
            text += &format!(
                "DAMAGE was found: {damaged} files at the start, {lost} entries lost since; what was damaged lies in {dir}/damaged\n"
            );
        }
        match end.dead_letters {
            Some(0) => {}
            Some(all) => {
                text += &format!(
                    "SET ASIDE: {all} entries that Kafka refuses for good stay in {dir}: save them (`spool export --set-aside`) before the volume is deleted\n"
                );
            }
            None => {
                text += &format!(
                    "what was set aside in {dir} cannot be read; `spool verify` says more\n"
                )
            }
        }
        text
    }
}

/// On a terminal; elsewhere the log tells.
struct DrainProgressBar {
    bar: ProgressBar,
    pace: DrainRate,
    initial_entries: u64,
}

impl DrainProgressBar {
    fn start(entries: u64) -> Self {
        let bar = match stderr().is_terminal() {
            true => ProgressBar::new(entries),
            false => ProgressBar::hidden(),
        };
        let style =
            ProgressStyle::with_template("{elapsed_precise} [{bar:24}] {pos} of {len}  {msg}");
        let style = style.expect("the template is a good one");
        bar.set_style(style.progress_chars("=> "));
        Self {
            bar,
            pace: DrainRate::default(),
            initial_entries: entries,
        }
    }

    fn update(&mut self, life: &EntryLedger, trouble: Option<String>) {
        let done = self.initial_entries.saturating_sub(life.present);
        self.pace.record(Instant::now(), done);
        self.bar.set_position(done);
        let aside = match life.dead_letters {
            0 => String::new(),
            n => format!("  {n} set aside"),
        };
        let trouble = trouble.map(|why| format!("  {why}")).unwrap_or_default();
        self.bar.set_message(format!(
            "{}{aside}{trouble}",
            self.pace.to_text(life.present)
        ));
    }
}

impl Drop for DrainProgressBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Set at the first SIGTERM or SIGINT; the second ends the process at once, which loses nothing but time.
fn stop_on_signal() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        )
    };
    let stopped = Arc::clone(&stop);
    let listen = async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stopped.swap(true, Ordering::AcqRel) {
                process::exit(EXIT_FAILED.into());
            }
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(listen))?;
    Ok(stop)
}

#[cfg(test)]
mod tests;
