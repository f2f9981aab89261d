//! The spool: events that Kafka does not confirm in time wait on disk until it does.
//!
//! ```text
//!  route ─► Direct                     no backlog, Kafka confirms: the disk is not touched
//!        ├► Wait                       the rest of the backlog is being sent
//!        └► Spool ─► append ─► writer  one commit, one fsync for all waiting entries ─► 202
//!                                │
//!                              store   segments on disk
//!                                │
//!                              drain ─► librdkafka, in order ─► report: removed, sent again,
//!                                                               or moved to the dead letters
//! ```
//!
//! - `entry`, `store`: the format of entries, and their files;
//! - `backlog`: the entries of a destination that still have to be sent; decides the route;
//! - `writer`: the thread that appends entries;
//! - `drain`: the thread that sends them to Kafka; `in_doubt`: after a start, the search for those
//!   that Kafka holds already;
//! - `dedup_restore`: after a start, what duplicate detection learns from entries;
//! - `health`: the state of the disk; `ledger`: the outcome of every entry.
//!
//! Invariants:
//!
//! 1. **An entry is removed only after a delivery report that says "stored"**, or because its
//!    record was found in its topic. Nothing else deletes an entry; one that Kafka refuses for good
//!    becomes a dead letter, with the reason.
//! 2. When a request gets its 202, its claim is committed and its entry is durable.
//! 3. In ordered mode ([`DrainOrder::Ordered`]), a new event is handed to librdkafka only after
//!    every older entry of its destination. Exception: the disk hangs.
//! 4. An entry in doubt is not sent until librdkafka has reported on its earlier record, for at
//!    most five minutes.
//! 5. The ledger: recovered + spooled = drained + confirmed late + already stored + dead letters +
//!    lost (to damage) + present.

pub mod backlog;
pub mod dedup_restore;
pub mod drain;
pub mod entry;
pub mod health;
pub mod in_doubt;
pub mod ledger;
mod panics;
pub mod store;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
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

use crate::sync::lock;
use backlog::DestinationBacklog;
pub use backlog::{BacklogCleared, Route};
pub use drain::DrainHandle;
use drain::mailbox::Mailbox;
use health::DiskHealth;
pub use ledger::{EntryLedger, SpoolMetrics};
use store::{SpoolStore, StoreError};
use writer::SpoolWriter;

/// Dependencies of a [`Spool`].
pub struct SpoolParts {
    /// The open store. The caller reports what was found on opening it.
    pub store: SpoolStore,
    /// The section `[spool]`; its `dir` is the directory of `store`.
    pub settings: config::SpoolConfig,
    /// Learns of each entry that gets into Kafka, or never will.
    pub deduplicator: Option<Arc<Deduplicator>>,
    /// The topics' lanes, by [`Destination::index`].
    pub lanes: Arc<[Arc<TopicLane>; Destination::COUNT]>,
    /// Limit of a lane in records; the drain uses up to half of it.
    pub lane_events: usize,
    /// Limit of a lane in bytes; the drain uses up to half of it.
    pub lane_bytes: usize,
    /// The bridge's metrics.
    pub metrics: Arc<Metrics>,
}

/// An entry to be appended.
#[derive(Debug)]
pub struct NewEntry {
    /// Destination of its record.
    pub to: Destination,
    /// Result of [`entry::SpoolEntry::encode`].
    pub bytes: Vec<u8>,
}

/// Reason why an entry was not appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// The spool has no room for now.
    Full {
        /// The limit that was reached.
        why: String,
    },
    /// The disk fails for now.
    Unwritable {
        /// The disk's error.
        why: String,
    },
    /// The process ends.
    Ending,
}

/// State of a spool, for `/status`.
#[derive(Clone, Debug)]
pub struct SpoolState {
    /// Bytes on disk.
    pub bytes: u64,
    /// Limit of `bytes`.
    pub limit_bytes: u64,
    /// Approximate age of the oldest entry.
    pub oldest_age: Option<Duration>,
    /// Dead letters on disk, also from before the start.
    pub dead_letters: u64,
    /// The reason why nothing can be written, if there is one.
    pub poison_reason: Option<String>,
    /// The reason why there is no room, if there is one.
    pub full_reason: Option<String>,
    /// State for each destination, by [`Destination::index`].
    pub destinations: Vec<DestinationState>,
}

/// State of a spool for one destination.
#[derive(Clone, Debug)]
pub struct DestinationState {
    /// The destination.
    pub destination: Destination,
    /// Entries on disk.
    pub present: u64,
    /// Entries that still have to be sent, or sent again.
    pub backlog: u64,
    /// `true` while Kafka does not confirm records.
    pub circuit_open: bool,
    /// `true` until the topic has been searched for recovered entries.
    pub is_searching: bool,
}

/// A running spool; see the [module](self).
pub struct Spool {
    shared: Arc<SpoolShared>,
    writer: SpoolWriter,
}

/// State shared by requests, the writer and the drain.
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
    /// Entries whose earlier records librdkafka still has, with the time they were spooled.
    in_doubt: Mutex<HashMap<u64, Instant>>,
    /// Entries below this number may be drained: their claims are committed and in-doubt records
    /// registered.
    visible_end: AtomicU64,
    /// End of the entries found at the start.
    recovered_end: u64,
    /// Entries were removed since the last flush.
    unflushed: AtomicBool,
    ending: AtomicBool,
    throttle: LogThrottle,
}

impl Spool {
    /// Starts the writer. Nothing is drained before [`Spool::start_drain`].
    pub fn start(parts: SpoolParts) -> Arc<Self> {
        Self::start_with(parts, Box::new(store::free_bytes))
    }

    fn start_with(parts: SpoolParts, free_space: health::FreeSpaceProbe) -> Arc<Self> {
        let SpoolParts {
            store,
            settings,
            deduplicator,
            lanes,
            lane_events,
            lane_bytes,
            metrics,
        } = parts;
        let counts = SpoolMetrics::new(settings.max_bytes);
        let backlogs = Destination::all().map(|to| DestinationBacklog::new(store.present(to)));
        let recovered = backlogs.iter().map(DestinationBacklog::backlog).sum();
        counts.recovered.inc_by(recovered);
        if recovered > 0 {
            let each = Destination::all().map(|to| (to.name(), store.present(to)));
            let each: Vec<_> = each.into_iter().filter(|(_, n)| *n > 0).collect();
            tracing::info!(
                entries = recovered,
                ?each,
                "the spool holds entries of the previous run"
            );
        }
        let recovered_end = store.next_seq();
        let unwritable_reason = store.unwritable_reason();
        let shared = Arc::new(SpoolShared {
            health: DiskHealth::new(&settings, free_space),
            store,
            settings,
            deduplicator,
            lanes,
            lane_events,
            lane_bytes,
            metrics,
            backlogs,
            counts,
            mailbox: Arc::default(),
            in_doubt: Mutex::default(),
            visible_end: AtomicU64::new(recovered_end),
            recovered_end,
            unflushed: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            throttle: LogThrottle::default(),
        });
        if let Some(why) = unwritable_reason {
            shared.health.poison(why);
        }
        let writer = SpoolWriter::start(Arc::clone(&shared));
        Arc::new(Self { shared, writer })
    }

    /// Routes a new event. Two relaxed loads in normal operation.
    pub fn route(&self, to: Destination) -> Route {
        let backlog = &self.shared.backlogs[to.index()];
        let lane = &self.shared.lanes[to.index()];
        if backlog.backlog() == 0 && !lane.is_circuit_open() {
            return Route::Direct;
        }
        self.route_slow(to)
    }

    #[cold]
    fn route_slow(&self, to: Destination) -> Route {
        let backlog = &self.shared.backlogs[to.index()];
        if self.shared.health.is_hung() {
            // The drain hangs too, perhaps for ever: out of order is better than not at all.
            return Route::Direct;
        }
        // Before the backlog is read: every later change then wakes the waiting request.
        let cleared = backlog.subscribe();
        let waiting = backlog.backlog();
        if self.shared.lanes[to.index()].is_circuit_open() {
            // Without entries, only a new event can probe Kafka.
            let is_empty = waiting == 0 && self.shared.store.present(to) == 0;
            return if is_empty {
                Route::Direct
            } else {
                Route::Spool
            };
        }
        match self.shared.settings.drain {
            _ if waiting == 0 => Route::Direct,
            DrainOrder::Concurrent if backlog.is_exclusive() => Route::Wait(cleared),
            DrainOrder::Concurrent => Route::Direct,
            DrainOrder::Ordered if waiting <= backlog.wait_threshold() => Route::Wait(cleared),
            DrainOrder::Ordered => Route::Spool,
        }
    }

    /// Appends an entry. The claim is resolved before the future is ready, and even if the future
    /// is dropped. `in_doubt_record` is the earlier record of the same event, which librdkafka
    /// still has.
    pub fn append(
        &self,
        entry: NewEntry,
        claim: Option<Claim>,
        in_doubt_record: Option<Arc<InFlightRecord>>,
    ) -> AppendFuture {
        self.writer.append(entry, claim, in_doubt_record)
    }

    /// Starts the drain, which ends when the handle is dropped. `consumer` configures the search
    /// for entries that the topics hold already.
    pub fn start_drain(
        self: &Arc<Self>,
        producer: Arc<RecordProducer>,
        timestamp_policy: TimestampPolicy,
        consumer: ClientConfig,
    ) -> DrainHandle {
        let search: Arc<drain::search::InDoubtSearch> =
            Arc::new(move |topic, entries, floors, within, stop| {
                in_doubt::find_stored(consumer.clone(), topic, entries, floors, within, stop)
            });
        DrainHandle::start(Arc::clone(&self.shared), producer, timestamp_policy, search)
    }

    /// Returns the outcome of all entries that this process has had.
    pub fn ledger(&self) -> EntryLedger {
        let shared = &self.shared;
        shared.counts.ledger(shared.present(), shared.lost())
    }

    /// Returns the metrics; gauges are as of the last [`Spool::set_gauges`].
    pub fn metrics(&self) -> &SpoolMetrics {
        &self.shared.counts
    }

    /// Sets the gauges, before metrics are scraped.
    pub fn set_gauges(&self) {
        self.shared.counts.set_gauges(&self.state());
    }

    /// Returns the state for `/status`.
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

    /// Returns the store with the entries and dead letters on disk.
    pub fn store(&self) -> &SpoolStore {
        &self.shared.store
    }

    /// Returns `true` if an entry would be accepted now.
    pub fn is_writable(&self) -> bool {
        !self.shared.ending.load(Ordering::Relaxed) && self.shared.health.refusal().is_none()
    }

    /// Accepts and sends no more entries; writes those in the writer's queue. Delivery reports are
    /// still handled until the [`DrainHandle`] is dropped. Blocks for a commit or two.
    pub fn shut_down(&self) {
        self.shared.ending.store(true, Ordering::Release);
        self.writer.shut_down();
        self.shared
            .backlogs
            .iter()
            .for_each(DestinationBacklog::stop);
        self.shared.mailbox.wake();
        if let Err(error) = self.shared.flush() {
            tracing::error!(%error, "could not flush the spool at shutdown");
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
        Destination::all()
            .map(|to| self.store.present(to))
            .iter()
            .sum()
    }

    fn lost(&self) -> u64 {
        Destination::all()
            .map(|to| self.store.lost(to))
            .iter()
            .sum()
    }

    fn oldest_age(&self) -> Option<Duration> {
        let oldest = self.store.oldest_ms()?;
        let age = now_ms().saturating_sub(oldest);
        Some(Duration::from_millis(u64::try_from(age).unwrap_or(0)))
    }

    /// Makes removals durable and frees their disk space.
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
        // First: if the removal fails, the next flush tries again.
        self.unflushed.store(true, Ordering::Release);
        self.store.remove(to, seqs)
    }

    fn in_doubt(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        lock(&self.in_doubt)
    }
}

/// Ready when an entry is durable. Dropping it does not stop the append.
#[derive(Debug)]
#[must_use = "the entry is durable only when the future is ready"]
pub struct AppendFuture(oneshot::Receiver<Result<(), AppendError>>);

impl Future for AppendFuture {
    type Output = Result<(), AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|result| {
            result.unwrap_or_else(|_| {
                let why = "the spool's writer has ended".to_owned();
                Err(AppendError::Unwritable { why })
            })
        })
    }
}
