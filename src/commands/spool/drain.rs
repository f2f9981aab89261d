//! `spool drain`: empties one spool into Kafka, with what `serve` drains with, but without listeners.

mod pace;

use std::io::{IsTerminal, Write, stderr};
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use super::{FAILED, Failure, SpoolArguments, Verdict, dir_of, misused, require_spool};
use crate::commands::block_on;
use crate::config::{self, Config};
use crate::dedup::desk::Desk;
use crate::kafka::client;
use crate::kafka::lane::{Lane, TopicState};
use crate::kafka::producer::Producer;
use crate::kafka::{contact::Contact, watch::Watch};
use crate::metrics::Metrics;
use crate::record::TimestampPolicy;
use crate::spool::store::{Found, OpenError, Options, Store};
use crate::spool::{Draining, Life, Parts, Spool};
use crate::telemetry;
use butlr_event::destination::Destination;
use pace::Pace;

const ABOUT: &str = "Hands over every entry in order, waits for Kafka to confirm it and removes it then, as the bridge itself does. Entries that a
crash left in doubt are looked for in Kafka first.

No bridge may run on the spool: scaling down is to stop the bridge, to drain its spool, and to delete its volume when this
command has ended with 0 and says that nothing is set aside. What it does not get done stays on disk, and it can be run again.";

#[derive(clap::Args, Debug)]
#[command(after_long_help = ABOUT)]
pub struct Arguments {
    #[command(flatten)]
    spool: SpoolArguments,
    /// Give up after so long, for example 10m; exit 1 then [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    within: Option<Duration>,
}

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(100);

pub fn run(arguments: &Arguments) -> Result<Verdict, Failure> {
    let began = Instant::now();
    let mut config = arguments.spool.load()?;
    config
        .require_bootstrap_servers()
        .map_err(|mistake| Failure::Told(misused(&[mistake])))?;
    let dir = dir_of(&config)?;
    require_spool(&dir)?;
    if stderr().is_terminal() {
        // The bar tells the rest.
        config.log.level = config.log.level.min(tracing::Level::WARN);
    }
    telemetry::init(&config.log);
    let stop = stop_on_signal()
        .map_err(|error| Failure::Failed(format!("signals cannot be listened to: {error}")))?;
    let (store, found) = open(&config, &dir)?;
    tell(&found);
    let deadline = arguments.within.map(|within| began + within);
    let drain = Drain::start(&config, store)?;
    let why = drain.run(&stop, deadline);
    let end = drain.end(&config);
    let summary = Summary {
        dir: &dir,
        end,
        why,
        within: arguments.within,
        found: &found,
        took: began.elapsed(),
    };
    // A closed standard output does not undo what was drained.
    let _ = std::io::stdout().write_all(summary.text().as_bytes());
    Ok(Verdict::good_if(summary.is_good()))
}

fn open(config: &Config, dir: &Path) -> Result<(Store, Found), Failure> {
    let options = Options {
        dir: dir.to_owned(),
        segment_bytes: config.spool.segment_bytes,
    };
    Store::open(options).map_err(|error| match error {
        OpenError::Locked { dir } => Failure::Failed(format!(
            "a running bridge, or another drain, uses the spool {dir}, and a running bridge drains it by itself; stop the bridge first: scaling down = stop, drain, delete the volume"
        )),
        OpenError::Io { .. } => Failure::Failed(error.to_string()),
        OpenError::Foreign { .. } => Failure::Misused(error.to_string()),
    })
}

fn tell(found: &Found) {
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
enum Why {
    Empty,
    Late,
    Signal,
}

/// How long the replicas' store may take to hear of what was drained last.
const FLUSH: Duration = Duration::from_secs(5);

/// What of a bridge drains.
struct Drain {
    spool: Arc<Spool>,
    draining: Draining,
    producer: Arc<Producer>,
    lanes: Arc<[Arc<Lane>; Destination::COUNT]>,
    contact: Arc<Contact>,
    watch: Watch,
    /// Replicas that share what is stored hear of what gets into Kafka.
    desk: Option<Arc<Desk>>,
}

/// How it ended.
struct End {
    life: Life,
    /// Entries set aside, of before too.
    set_aside: Option<usize>,
    /// Entries that are left, and what keeps them from their topic where that is known.
    left: Vec<(Destination, u64, Option<String>)>,
}

impl Drain {
    fn start(config: &Config, store: Store) -> Result<Self, Failure> {
        let refused = |error| Failure::Misused(format!("kafka.properties: {error}"));
        let bootstrap = config.require_bootstrap_servers();
        let bootstrap = bootstrap.map_err(|mistake| Failure::Told(misused(&[mistake])))?;
        let metrics = Arc::new(Metrics::new(&config.topics.names()));
        let desk = match &config.dedup.store {
            config::DedupStore::Memory => None,
            config::DedupStore::Redis(_) => Desk::open(config, &metrics).map_err(Failure::Misused)?,
        };
        let desk = desk.map(Arc::new);
        let contact = Arc::new(Contact::default());
        let producer = Producer::start(
            client::producer(config, bootstrap),
            Arc::clone(&metrics),
            Arc::clone(&contact),
        );
        let producer = Arc::new(producer.map_err(refused)?);
        let (events, bytes) = (
            config.kafka.max_in_flight_per_topic,
            client::lane_bytes(&config.http),
        );
        let lanes = Lane::all(config);
        // A topic for which nothing waits may be missing.
        let wanted = lanes
            .iter()
            .filter(|lane| store.present(lane.destination()) > 0);
        let consumer = client::base(&config.kafka, bootstrap);
        let watch = Watch::start(
            &consumer,
            Arc::clone(&producer),
            wanted.cloned().collect(),
            Arc::clone(&contact),
            Arc::clone(&metrics),
            false,
        )
        .map_err(refused)?;
        let spool = Spool::start(Parts {
            store,
            settings: config.spool.clone(),
            desk: desk.clone(),
            lanes: Arc::clone(&lanes),
            lane_events: events,
            lane_bytes: bytes,
            metrics,
        });
        let stamping = TimestampPolicy::from_config(&config.kafka);
        let draining = spool.drain(Arc::clone(&producer), stamping, consumer);
        Ok(Self {
            spool,
            draining,
            producer,
            lanes,
            contact,
            desk,
            watch,
        })
    }

    /// Waits until nothing is left, or it is to end.
    fn run(&self, stop: &AtomicBool, deadline: Option<Instant>) -> Why {
        let mut bar = Bar::begin(self.spool.life().present);
        loop {
            let life = self.spool.life();
            if life.present == 0 {
                return Why::Empty;
            }
            if stop.load(Ordering::Acquire) {
                return Why::Signal;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Why::Late;
            }
            bar.tell(&life, self.trouble());
            std::thread::sleep(LOOK);
        }
    }

    /// What keeps it from going on, or why it has not begun.
    fn trouble(&self) -> Option<String> {
        if self.contact.age().is_none() {
            return Some("Kafka is not reached yet".to_owned());
        }
        let waiting = self.spool.state().destinations.into_iter();
        let waiting: Vec<_> = waiting.filter(|of| of.present > 0).collect();
        let in_vain = waiting.iter().find_map(|of| self.in_vain(of.destination));
        let looking = waiting.iter().any(|of| of.looking);
        in_vain
            .or_else(|| looking.then(|| "looking for entries that Kafka holds already".to_owned()))
    }

    fn in_vain(&self, to: Destination) -> Option<String> {
        let lane = &self.lanes[to.index()];
        let topic = lane.topic();
        match lane.state() {
            TopicState::Missing => Some(format!(
                "the topic {topic} is missing: create it with `butlr-bridge topics --apply`"
            )),
            TopicState::Forbidden => Some(format!(
                "the topic {topic} is forbidden: grant the bridge's user Describe and Write"
            )),
            TopicState::Unknown if self.contact.age().is_none() => {
                Some("Kafka was not reached".to_owned())
            }
            TopicState::Unknown | TopicState::Available => None,
        }
    }

    /// In this order: nothing more is handed over, the reports of what was are waited for a little, and heard.
    fn end(self, config: &Config) -> End {
        self.spool.end();
        let left_there = self.producer.end(config.kafka.confirm_within);
        if left_there > 0 {
            tracing::warn!(
                records = left_there,
                "Kafka had not confirmed them: their entries stay, and are looked for in Kafka by whoever drains next"
            );
        }
        let why: Vec<_> = Destination::all().map(|to| self.in_vain(to)).into();
        drop(self.draining);
        drop(self.watch);
        if let Some(desk) = &self.desk {
            block_on(desk.flush(FLUSH));
        }
        let store = self.spool.store();
        let left = Destination::all().into_iter().zip(why);
        let left = left.map(|(to, why)| (to, store.present(to), why));
        End {
            life: self.spool.life(),
            set_aside: store.set_aside_entries().ok().map(|entries| entries.len()),
            left: left.filter(|(_, present, _)| *present > 0).collect(),
        }
    }
}

/// What is told at the end.
struct Summary<'s> {
    dir: &'s Path,
    end: End,
    why: Why,
    within: Option<Duration>,
    found: &'s Found,
    took: Duration,
}

impl Summary<'_> {
    fn is_good(&self) -> bool {
        let sound = self.found.damaged.is_empty() && self.found.missing.is_empty();
        // Whoever deletes the volume after this is not to lose what was set aside.
        let nothing_is_left = self.end.life.present == 0 && self.end.set_aside == Some(0);
        nothing_is_left && self.end.life.lost == 0 && sound
    }

    fn text(&self) -> String {
        let Self { end, .. } = self;
        let Life {
            drained,
            already_stored,
            confirmed_late,
            set_aside,
            present,
            lost,
            ..
        } = end.life;
        let dir = self.dir.display();
        let mut text = match (present, self.why) {
            (0, _) => format!("the spool {dir} is empty\n"),
            (left, Why::Late) => format!(
                "not empty within {}: {left} entries are left in {dir}, all of them on disk\n",
                humantime::format_duration(self.within.unwrap_or_default())
            ),
            (left, _) => format!(
                "ended before it was empty: {left} entries are left in {dir}, all of them on disk\n"
            ),
        };
        for (to, left, why) in &end.left {
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
        match end.set_aside {
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
struct Bar {
    bar: ProgressBar,
    pace: Pace,
    began_with: u64,
}

impl Bar {
    fn begin(entries: u64) -> Self {
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
            pace: Pace::default(),
            began_with: entries,
        }
    }

    fn tell(&mut self, life: &Life, trouble: Option<String>) {
        let done = self.began_with.saturating_sub(life.present);
        self.pace.note(Instant::now(), done);
        self.bar.set_position(done);
        let aside = match life.set_aside {
            0 => String::new(),
            n => format!("  {n} set aside"),
        };
        let trouble = trouble.map(|why| format!("  {why}")).unwrap_or_default();
        self.bar
            .set_message(format!("{}{aside}{trouble}", self.pace.text(life.present)));
    }
}

impl Drop for Bar {
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
                process::exit(FAILED.into());
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
