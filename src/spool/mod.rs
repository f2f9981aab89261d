//! What Kafka does not confirm in time waits here, on disk, until it does.
//!
//! ```text
//!  route ─► Direct                        nothing waits, Kafka confirms: the disk is not touched
//!        ├► Wait                          the last of those that wait are just being handed over
//!        └► Spool ─► keep ─► writer       one commit, one fsync for all that came meanwhile ─► 202
//!                              │
//!                            store        segments on disk
//!                              │
//!                            drain ─► librdkafka, in order ─► report: removed, tried again, or set aside
//! ```
//!
//! - `entry`, `store`: what lies on disk, and how;
//! - `queue`: per destination what is shared by requests, writer and drain; decides the route;
//! - `writer`: the one thread that writes entries;
//! - `drain`: the one thread that hands them to librdkafka; `suspects`: which of them Kafka holds already, after a start;
//! - `health`: whether the disk takes more; `life`: what became of every entry.
//!
//! Invariants:
//!
//! 1. **An entry is removed only by a delivery report that says "stored"**, or because its record was found in its topic.
//!    Nothing else ever deletes one; what Kafka refuses for good is set aside with the reason.
//! 2. Who is answered 202 finds its claim decided and its entry durable.
//! 3. A newcomer that goes directly is handed to librdkafka after all entries of its destination that were there before it
//!    was routed ([`Drain::Ordered`]), as long as the disk answers.
//! 4. An entry in doubt is not handed over before librdkafka's final word on the record that it doubts, or five minutes.
//! 5. The ledger: recovered + spooled = drained + confirmed late + already stored + set aside + lost (to damage) + present.

pub mod drain;
pub mod entry;
pub mod health;
pub mod life;
pub mod queue;
pub mod restore;
pub mod store;
pub mod suspects;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use tokio::sync::oneshot;

use crate::config::{self, DrainOrder};
use crate::dedup::claim::Claim;
use crate::dedup::desk::Desk;
use crate::kafka::lane::Lane;
use crate::kafka::producer::Producer;
use crate::kafka::report::Slot;
use crate::metrics::Metrics;
use crate::record::TimestampPolicy;
use crate::telemetry::LogThrottle;
use butlr_event::clock::now_ms;
use butlr_event::destination::Destination;

pub use drain::Draining;
use drain::mailbox::Mailbox;
use health::Health;
pub use life::{Life, SpoolMetrics};
use queue::Line;
pub use queue::{Passage, Route};
use store::{Store, StoreError};
use writer::Writer;

/// What a spool is started with.
pub struct Parts {
    /// Opened by the caller, who tells what was found.
    pub store: Store,
    /// `[spool]`; its `dir` is where `store` lies.
    pub settings: config::SpoolConfig,
    /// Hears of each entry that got into Kafka.
    pub desk: Option<Arc<Desk>>,
    /// One lane a topic, in the order of [`Destination::index`].
    pub lanes: Arc<[Arc<Lane>; Destination::COUNT]>,
    /// How many records a lane takes; the drain uses up to half of them.
    pub lane_events: usize,
    /// How many bytes it takes.
    pub lane_bytes: usize,
    /// Of the whole bridge.
    pub metrics: Arc<Metrics>,
}

/// Something to be kept.
#[derive(Debug)]
pub struct NewEntry {
    /// Where it is to go.
    pub to: Destination,
    /// Made by [`entry::Entry::encode`].
    pub bytes: Vec<u8>,
}

/// Why something was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// There is no room; ends by itself when there is.
    Full {
        /// What the limit is.
        why: String,
    },
    /// The disk failed; ends when it works again.
    Unwritable {
        /// What it said.
        why: String,
    },
    /// The process ends.
    Ending,
}

/// How a spool is, for `/status`.
#[derive(Clone, Debug)]
pub struct State {
    /// Bytes on disk.
    pub bytes: u64,
    /// Their limit.
    pub limit_bytes: u64,
    /// Since when about the oldest entry waits.
    pub oldest_age: Option<Duration>,
    /// Entries that lie set aside, those from before the start included.
    pub set_aside: u64,
    /// Why nothing can be written, if so.
    pub poisoned: Option<String>,
    /// Why there is no room, if so.
    pub full: Option<String>,
    /// Those of each destination, in the order of [`Destination::index`].
    pub destinations: Vec<DestinationState>,
}

/// How it is for one destination.
#[derive(Clone, Debug)]
pub struct DestinationState {
    /// Which.
    pub destination: Destination,
    /// Entries on disk.
    pub present: u64,
    /// Those that were not handed to librdkafka, or are to be again.
    pub backlog: u64,
    /// Whether Kafka is not confirming records.
    pub circuit_open: bool,
    /// Whether those found at the start are being looked for in the topic, or wait for that.
    pub looking: bool,
}

/// See the module.
pub struct Spool {
    shared: Arc<Shared>,
    writer: Writer,
}

/// What writer, drain and requests share.
struct Shared {
    store: Store,
    settings: config::SpoolConfig,
    desk: Option<Arc<Desk>>,
    lanes: Arc<[Arc<Lane>; Destination::COUNT]>,
    lane_events: usize,
    lane_bytes: usize,
    metrics: Arc<Metrics>,
    lines: [Line; Destination::COUNT],
    health: Health,
    counts: SpoolMetrics,
    mailbox: Arc<Mailbox>,
    /// Entries whose records are still in librdkafka's hands, from before they were spooled; and since when.
    doubts: Mutex<HashMap<u64, Instant>>,
    /// Entries below were published by the writer: their claims are decided and their doubts noted.
    visible: AtomicU64,
    /// Entries below were found at the start.
    recovered_end: u64,
    /// Something was removed since the last flush.
    unflushed: AtomicBool,
    ending: AtomicBool,
    throttle: LogThrottle,
}

impl Spool {
    /// Starts the writer. Nothing is drained before [`Spool::drain`].
    pub fn start(parts: Parts) -> Arc<Self> {
        let free = health::free_bytes;
        Self::start_with(parts, Box::new(free))
    }

    fn start_with(parts: Parts, free: health::Free) -> Arc<Self> {
        let Parts {
            store,
            settings,
            desk,
            lanes,
            lane_events,
            lane_bytes,
            metrics,
        } = parts;
        let counts = SpoolMetrics::new(settings.max_bytes);
        let lines = Destination::all().map(|to| Line::new(store.present(to)));
        let recovered = lines.iter().map(Line::backlog).sum();
        counts.recovered.inc_by(recovered);
        if recovered > 0 {
            let each = Destination::all().map(|to| (to.name(), store.present(to)));
            let each: Vec<_> = each.into_iter().filter(|(_, n)| *n > 0).collect();
            tracing::info!(
                entries = recovered,
                ?each,
                "the spool holds entries of before"
            );
        }
        let recovered_end = store.end();
        let unwritable = store.unwritable();
        let shared = Arc::new(Shared {
            health: Health::new(&settings, free),
            store,
            settings,
            desk,
            lanes,
            lane_events,
            lane_bytes,
            metrics,
            lines,
            counts,
            mailbox: Arc::default(),
            doubts: Mutex::default(),
            visible: AtomicU64::new(recovered_end),
            recovered_end,
            unflushed: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            throttle: LogThrottle::default(),
        });
        if let Some(why) = unwritable {
            shared.health.poison(why);
        }
        let writer = Writer::start(Arc::clone(&shared));
        Arc::new(Self { shared, writer })
    }

    /// Which way an event is to go. Two relaxed loads when all is well.
    pub fn route(&self, to: Destination) -> Route {
        let line = &self.shared.lines[to.index()];
        let lane = &self.shared.lanes[to.index()];
        if line.backlog() == 0 && !lane.is_circuit_open() {
            return Route::Direct;
        }
        self.detour(to)
    }

    #[cold]
    fn detour(&self, to: Destination) -> Route {
        let line = &self.shared.lines[to.index()];
        if self.shared.health.hangs() {
            // Nothing is drained either, perhaps for ever: out of order is better than not at all.
            return Route::Direct;
        }
        // Before anything is looked at: whatever changes from now on wakes it.
        let passage = line.passage();
        let backlog = line.backlog();
        if self.shared.lanes[to.index()].is_circuit_open() {
            // Where nothing waits, somebody has to try.
            let nothing = backlog == 0 && self.shared.store.present(to) == 0;
            return if nothing { Route::Direct } else { Route::Spool };
        }
        match self.shared.settings.drain {
            _ if backlog == 0 => Route::Direct,
            DrainOrder::Concurrent if line.is_trying_alone() => Route::Wait(passage),
            DrainOrder::Concurrent => Route::Direct,
            DrainOrder::Ordered if backlog <= line.within_reach() => Route::Wait(passage),
            DrainOrder::Ordered => Route::Spool,
        }
    }

    /// Keeps an entry. Its claim is decided when the future ends, whether anybody waits for that or not; so is `doubt`, the
    /// slot of a record of the same event that librdkafka still has.
    pub fn keep(&self, entry: NewEntry, claim: Option<Claim>, doubt: Option<Arc<Slot>>) -> Keeping {
        self.writer.keep(entry, claim, doubt)
    }

    /// Starts the drain, which ends when the result is dropped. `consumer` reads topics.
    pub fn drain(
        self: &Arc<Self>,
        producer: Arc<Producer>,
        stamping: TimestampPolicy,
        consumer: ClientConfig,
    ) -> Draining {
        let look: Arc<drain::recover::Look> =
            Arc::new(move |topic, suspects, since, within, stop| {
                suspects::stored(consumer.clone(), topic, suspects, since, within, stop)
            });
        Draining::start(Arc::clone(&self.shared), producer, stamping, look)
    }

    /// What became of all entries, as far as this process knows them.
    pub fn life(&self) -> Life {
        let shared = &self.shared;
        shared.counts.life(shared.present(), shared.lost())
    }

    /// For exporting; the gauges are as of [`Spool::set_gauges`].
    pub fn metrics(&self) -> &SpoolMetrics {
        &self.shared.counts
    }

    /// Before metrics are scraped.
    pub fn set_gauges(&self) {
        let shared = &self.shared;
        shared.counts.set_gauges(
            shared.present(),
            shared.store.bytes(),
            shared.oldest_age(),
            shared.health.poisoned().is_some(),
            shared.store.set_aside_count(),
        );
    }

    /// For `/status`.
    pub fn state(&self) -> State {
        let shared = &self.shared;
        let destinations = Destination::all().map(|to| DestinationState {
            destination: to,
            present: shared.store.present(to),
            backlog: shared.lines[to.index()].backlog(),
            circuit_open: shared.lanes[to.index()].is_circuit_open(),
            looking: shared.lines[to.index()].is_looking(),
        });
        State {
            bytes: shared.store.bytes(),
            limit_bytes: shared.settings.max_bytes,
            oldest_age: shared.oldest_age(),
            set_aside: shared.store.set_aside_count(),
            poisoned: shared.health.poisoned(),
            full: shared.health.full(),
            destinations: destinations.into(),
        }
    }

    /// What lies in it.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Whether an entry would be kept now.
    pub fn is_writable(&self) -> bool {
        !self.shared.ending.load(Ordering::Relaxed) && self.shared.health.refusal().is_none()
    }

    /// Nothing more is kept or handed over; what the writer has got already is written. Reports of what librdkafka has are
    /// still heard as long as the [`Draining`] lives. Blocks for a commit or two.
    pub fn end(&self) {
        self.shared.ending.store(true, Ordering::Release);
        self.writer.end();
        self.shared.lines.iter().for_each(Line::stop);
        self.shared.mailbox.rouse();
        if let Err(error) = self.shared.flush() {
            tracing::error!(%error, "the spool could not be flushed at the end");
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn present(&self) -> u64 {
        let each = Destination::all().map(|to| self.store.present(to));
        each.iter().sum()
    }

    fn lost(&self) -> u64 {
        let each = Destination::all().map(|to| self.store.lost(to));
        each.iter().sum()
    }

    fn oldest_age(&self) -> Option<Duration> {
        let oldest = self.store.oldest_ms()?;
        let age = now_ms().saturating_sub(oldest);
        Some(Duration::from_millis(u64::try_from(age).unwrap_or(0)))
    }

    /// Makes removals durable, and gives back their space.
    fn flush(&self) -> Result<(), StoreError> {
        if self.unflushed.swap(false, Ordering::AcqRel) || self.store.is_wasteful() {
            let flushed = self.store.flush();
            if flushed.is_err() {
                self.unflushed.store(true, Ordering::Release);
            }
            return flushed;
        }
        Ok(())
    }

    fn remove(&self, to: Destination, seqs: &[u64]) -> Result<(), StoreError> {
        // First: what fails here is tried again by the next flush.
        self.unflushed.store(true, Ordering::Release);
        self.store.remove(to, seqs)
    }

    fn doubts(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        lock(&self.doubts)
    }
}

/// The wait for an entry to be durable. Dropping it changes nothing.
#[derive(Debug)]
#[must_use = "whether it was kept is known when this ends"]
pub struct Keeping(Kept);

#[derive(Debug)]
enum Kept {
    Waiting(oneshot::Receiver<Result<(), NotKept>>),
    Not(NotKept),
}

impl Keeping {
    fn waiting(answer: oneshot::Receiver<Result<(), NotKept>>) -> Self {
        Self(Kept::Waiting(answer))
    }

    fn not(why: NotKept) -> Self {
        Self(Kept::Not(why))
    }
}

impl Future for Keeping {
    type Output = Result<(), NotKept>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Kept::Not(why) => Poll::Ready(Err(why.clone())),
            Kept::Waiting(answer) => Pin::new(answer).poll(cx).map(|answer| {
                answer.unwrap_or_else(|_| {
                    Err(NotKept::Unwritable {
                        why: "the thread that writes has ended".to_owned(),
                    })
                })
            }),
        }
    }
}

/// A panic while one of these short locks is held leaves nothing half-done behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
