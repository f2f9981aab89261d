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

pub mod backlog;
pub mod drain;
pub mod entry;
pub mod health;
pub mod in_doubt;
pub mod ledger;
pub mod restore;
pub mod store;
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
use crate::dedup::deduplicator::Deduplicator;
use crate::delivery::{InFlightRecord, RecordProducer};
use crate::kafka::lane::TopicLane;
use crate::metrics::Metrics;
use crate::record::TimestampPolicy;
use crate::telemetry::LogThrottle;
use butlr_event::clock::now_ms;
use butlr_event::destination::Destination;

use backlog::DestinationBacklog;
pub use backlog::{BacklogCleared, Route};
pub use drain::DrainHandle;
use drain::mailbox::Mailbox;
use health::DiskHealth;
pub use ledger::{EntryLedger, SpoolMetrics};
use store::{SpoolStore, StoreError};
use writer::SpoolWriter;

/// What a spool is started with.
pub struct SpoolParts {
    /// Opened by the caller, who tells what was found.
    pub store: SpoolStore,
    /// `[spool]`; its `dir` is where `store` lies.
    pub settings: config::SpoolConfig,
    /// Hears of each entry that got into Kafka.
    pub deduplicator: Option<Arc<Deduplicator>>,
    /// One lane a topic, in the order of [`Destination::index`].
    pub lanes: Arc<[Arc<TopicLane>; Destination::COUNT]>,
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
pub enum AppendError {
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
pub struct SpoolState {
    /// Bytes on disk.
    pub bytes: u64,
    /// Their limit.
    pub limit_bytes: u64,
    /// Since when about the oldest entry waits.
    pub oldest_age: Option<Duration>,
    /// Entries that lie set aside, those from before the start included.
    pub dead_letters: u64,
    /// Why nothing can be written, if so.
    pub poison_reason: Option<String>,
    /// Why there is no room, if so.
    pub full_reason: Option<String>,
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
    pub is_searching: bool,
}

/// See the module.
pub struct Spool {
    shared: Arc<SpoolShared>,
    writer: SpoolWriter,
}

/// What writer, drain and requests share.
struct SpoolShared {
    store: SpoolStore,
    settings: config::SpoolConfig,
    deduplicator: Option<Arc<Deduplicator>>,
    lanes: Arc<[Arc<TopicLane>; Destination::COUNT]>,
    lane_events: usize,
    lane_bytes: usize,
    metrics: Arc<Metrics>,
    backlogs: [DestinationBacklog; Destination::COUNT],
    health: DiskHealth,
    counts: SpoolMetrics,
    mailbox: Arc<Mailbox>,
    /// Entries whose records are still in librdkafka's hands, from before they were spooled; and since when.
    in_doubt: Mutex<HashMap<u64, Instant>>,
    /// Entries below were published by the writer: their claims are decided and their doubts noted.
    visible_end: AtomicU64,
    /// Entries below were found at the start.
    recovered_end: u64,
    /// Something was removed since the last flush.
    unflushed: AtomicBool,
    ending: AtomicBool,
    throttle: LogThrottle,
}

impl Spool {
    /// Starts the writer. Nothing is drained before [`Spool::drain`].
    pub fn start(parts: SpoolParts) -> Arc<Self> {
        let free = health::free_bytes;
        Self::start_with(parts, Box::new(free))
    }

    fn start_with(parts: SpoolParts, free: health::FreeSpaceProbe) -> Arc<Self> {
        let SpoolParts {
            store,
            settings,
            deduplicator: desk,
            lanes,
            lane_events,
            lane_bytes,
            metrics,
        } = parts;
        let counts = SpoolMetrics::new(settings.max_bytes);
        let lines = Destination::all().map(|to| DestinationBacklog::new(store.present(to)));
        let recovered = lines.iter().map(DestinationBacklog::backlog).sum();
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
        let recovered_end = store.next_seq();
        let unwritable = store.unwritable_reason();
        let shared = Arc::new(SpoolShared {
            health: DiskHealth::new(&settings, free),
            store,
            settings,
            deduplicator: desk,
            lanes,
            lane_events,
            lane_bytes,
            metrics,
            backlogs: lines,
            counts,
            mailbox: Arc::default(),
            in_doubt: Mutex::default(),
            visible_end: AtomicU64::new(recovered_end),
            recovered_end,
            unflushed: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            throttle: LogThrottle::default(),
        });
        if let Some(why) = unwritable {
            shared.health.poison(why);
        }
        let writer = SpoolWriter::start(Arc::clone(&shared));
        Arc::new(Self { shared, writer })
    }

    /// Which way an event is to go. Two relaxed loads when all is well.
    pub fn route(&self, to: Destination) -> Route {
        let line = &self.shared.backlogs[to.index()];
        let lane = &self.shared.lanes[to.index()];
        if line.backlog() == 0 && !lane.is_circuit_open() {
            return Route::Direct;
        }
        self.route_slow(to)
    }

    #[cold]
    fn route_slow(&self, to: Destination) -> Route {
        let line = &self.shared.backlogs[to.index()];
        if self.shared.health.is_hung() {
            // Nothing is drained either, perhaps for ever: out of order is better than not at all.
            return Route::Direct;
        }
        // Before anything is looked at: whatever changes from now on wakes it.
        let cleared = line.subscribe();
        let backlog = line.backlog();
        if self.shared.lanes[to.index()].is_circuit_open() {
            // Where nothing waits, somebody has to try.
            let nothing = backlog == 0 && self.shared.store.present(to) == 0;
            return if nothing { Route::Direct } else { Route::Spool };
        }
        match self.shared.settings.drain {
            _ if backlog == 0 => Route::Direct,
            DrainOrder::Concurrent if line.is_exclusive() => Route::Wait(cleared),
            DrainOrder::Concurrent => Route::Direct,
            DrainOrder::Ordered if backlog <= line.wait_threshold() => Route::Wait(cleared),
            DrainOrder::Ordered => Route::Spool,
        }
    }

    /// Keeps an entry. Its claim is decided when the future ends, whether anybody waits for that or not; so is `doubt`, the
    /// slot of a record of the same event that librdkafka still has.
    pub fn append(
        &self,
        entry: NewEntry,
        claim: Option<Claim>,
        doubt: Option<Arc<InFlightRecord>>,
    ) -> AppendFuture {
        self.writer.append(entry, claim, doubt)
    }

    /// Starts the drain, which ends when the result is dropped. `consumer` reads topics.
    pub fn start_drain(
        self: &Arc<Self>,
        producer: Arc<RecordProducer>,
        stamping: TimestampPolicy,
        consumer: ClientConfig,
    ) -> DrainHandle {
        let search: Arc<drain::search::InDoubtSearch> =
            Arc::new(move |topic, suspects, since, within, stop| {
                in_doubt::find_stored(consumer.clone(), topic, suspects, since, within, stop)
            });
        DrainHandle::start(Arc::clone(&self.shared), producer, stamping, search)
    }

    /// What became of all entries, as far as this process knows them.
    pub fn ledger(&self) -> EntryLedger {
        let shared = &self.shared;
        shared.counts.ledger(shared.present(), shared.lost())
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
            shared.health.poison_reason().is_some(),
            shared.store.dead_letter_count(),
        );
    }

    /// For `/status`.
    pub fn state(&self) -> SpoolState {
        let shared = &self.shared;
        let destinations = Destination::all().map(|to| DestinationState {
            destination: to,
            present: shared.store.present(to),
            backlog: shared.backlogs[to.index()].backlog(),
            circuit_open: shared.lanes[to.index()].is_circuit_open(),
            is_searching: shared.backlogs[to.index()].is_search_pending(),
        });
        SpoolState {
            bytes: shared.store.bytes(),
            limit_bytes: shared.settings.max_bytes,
            oldest_age: shared.oldest_age(),
            dead_letters: shared.store.dead_letter_count(),
            poison_reason: shared.health.poison_reason(),
            full_reason: shared.health.full_reason(),
            destinations: destinations.into(),
        }
    }

    /// What lies in it.
    pub fn store(&self) -> &SpoolStore {
        &self.shared.store
    }

    /// Whether an entry would be kept now.
    pub fn is_writable(&self) -> bool {
        !self.shared.ending.load(Ordering::Relaxed) && self.shared.health.refusal().is_none()
    }

    /// Nothing more is kept or handed over; what the writer has got already is written. Reports of what librdkafka has are
    /// still heard as long as the [`Draining`] lives. Blocks for a commit or two.
    pub fn shut_down(&self) {
        self.shared.ending.store(true, Ordering::Release);
        self.writer.shut_down();
        self.shared
            .backlogs
            .iter()
            .for_each(DestinationBacklog::stop);
        self.shared.mailbox.wake();
        if let Err(error) = self.shared.flush() {
            tracing::error!(%error, "the spool could not be flushed at the end");
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl SpoolShared {
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
        if self.unflushed.swap(false, Ordering::AcqRel) || self.store.is_compaction_due() {
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

    fn in_doubt(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        lock(&self.in_doubt)
    }
}

/// The wait for an entry to be durable. Dropping it changes nothing.
#[derive(Debug)]
#[must_use = "whether it was kept is known when this ends"]
pub struct AppendFuture(AppendStatus);

#[derive(Debug)]
enum AppendStatus {
    Pending(oneshot::Receiver<Result<(), AppendError>>),
    Refused(AppendError),
}

impl AppendFuture {
    fn pending(answer: oneshot::Receiver<Result<(), AppendError>>) -> Self {
        Self(AppendStatus::Pending(answer))
    }

    fn refused(why: AppendError) -> Self {
        Self(AppendStatus::Refused(why))
    }
}

impl Future for AppendFuture {
    type Output = Result<(), AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            AppendStatus::Refused(why) => Poll::Ready(Err(why.clone())),
            AppendStatus::Pending(answer) => Pin::new(answer).poll(cx).map(|answer| {
                answer.unwrap_or_else(|_| {
                    Err(AppendError::Unwritable {
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
