//! The drain: one thread that sends spooled entries to Kafka, each destination in order and
//! independently of the others.
//!
//! - `mailbox`: messages from other threads;
//! - `destination_drain`: the drain of one destination; `window`: its limit of records in flight;
//! - `publish`: from an entry to its record;
//! - `search`: after a start, the search for entries that Kafka holds already;
//! - `progress`: log lines.

pub(super) mod mailbox;
pub(super) mod search;

mod destination_drain;
mod progress;
mod publish;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode;

use super::SpoolShared;
use super::backlog::DestinationBacklog;
use crate::dedup::deduplicator::Deduplicator;
use crate::delivery::{DeliveryObserver, RecordProducer};
use crate::kafka::lane::LanePermit;
use crate::record::{ProducerRecord, TimestampPolicy};
use butlr_event::destination::Destination;
use destination_drain::DestinationDrain;
use mailbox::DrainMessage;
use progress::DrainProgress;
use search::InDoubtSearch;

/// Longest sleep of the thread.
const MAX_SLEEP: Duration = Duration::from_secs(1);
/// Interval at which removals are made durable.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// Limit of the wait for duplicate detection to read the spool back.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(300);
/// Destinations whose topics are searched at a time.
const MAX_CONCURRENT_SEARCHES: usize = 3;

/// The producer; in tests, a fake that fails on demand.
pub(super) trait RecordSink: Send + Sync {
    /// See [`RecordProducer::send_entry`].
    fn send_record(
        &self,
        record: ProducerRecord<'_>,
        permit: LanePermit,
        entry: Box<dyn DeliveryObserver>,
    ) -> Result<(), (RDKafkaErrorCode, Box<dyn DeliveryObserver>)>;

    /// See [`RecordProducer::request_replacement`].
    fn replace_producer(&self, unreported_for: Duration);
}

impl RecordSink for RecordProducer {
    fn send_record(
        &self,
        record: ProducerRecord<'_>,
        permit: LanePermit,
        entry: Box<dyn DeliveryObserver>,
    ) -> Result<(), (RDKafkaErrorCode, Box<dyn DeliveryObserver>)> {
        self.send_entry(record, permit, entry)
    }

    fn replace_producer(&self, unreported_for: Duration) {
        self.request_replacement(unreported_for);
    }
}

/// Dependencies of all destinations' drains.
pub(super) struct DrainContext {
    pub(super) shared: Arc<SpoolShared>,
    pub(super) producer: Arc<dyn RecordSink>,
    pub(super) timestamp_policy: TimestampPolicy,
    started_at: Instant,
}

impl DrainContext {
    fn can_hand_over(&self, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.started_at);
        can_start_sending(self.shared.deduplicator.as_deref(), waited)
    }
}

/// Returns `true` once duplicate detection has read the spool back. Otherwise an entry drained
/// before it is read back would count as spooled for ever. A disk that cannot be read delays the
/// drain by [`RESTORE_TIMEOUT`] at most.
pub(super) fn can_start_sending(deduplicator: Option<&Deduplicator>, waited: Duration) -> bool {
    deduplicator.is_none_or(Deduplicator::is_spool_restored) || waited >= RESTORE_TIMEOUT
}

/// The running drain. Dropping it ends the thread and blocks for a flush; entries that librdkafka
/// still has then stay on disk.
#[must_use = "dropping the handle ends the drain"]
pub struct DrainHandle {
    shared: Arc<SpoolShared>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DrainHandle {
    pub(super) fn start(
        shared: Arc<SpoolShared>,
        producer: Arc<dyn RecordSink>,
        timestamp_policy: TimestampPolicy,
        search: Arc<InDoubtSearch>,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let context = DrainContext {
            shared: Arc::clone(&shared),
            producer,
            timestamp_policy,
            started_at: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name("spool-drain".into())
            .spawn({
                let stop = Arc::clone(&stop);
                move || {
                    let _halted = HaltGuard(&context.shared.backlogs);
                    run(&context, &search, &stop);
                }
            })
            .expect("the system can start a thread");
        Self {
            shared,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for DrainHandle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.shared.mailbox.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Releases everyone who waits for a backlog when the thread ends, also by a panic.
struct HaltGuard<'l>(&'l [DestinationBacklog; Destination::COUNT]);

impl Drop for HaltGuard<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(DestinationBacklog::stop);
        if std::thread::panicking() {
            tracing::error!(
                "the drain of the spool ended because of a bug; restart the bridge to drain the spool"
            );
        }
    }
}

fn run(context: &DrainContext, search: &Arc<InDoubtSearch>, stop: &Arc<AtomicBool>) {
    let shared = &context.shared;
    let mut drains = Destination::all().map(|to| DestinationDrain::new(to, shared));
    let mut progress = DrainProgress::default();
    let mut flushed = Instant::now();
    let mut sleep = Duration::ZERO;
    let mut reported_losses = 0;
    loop {
        let stopping = stop.load(Ordering::Acquire);
        let messages = shared
            .mailbox
            .take(if stopping { Duration::ZERO } else { sleep });
        for message in messages {
            handle_message(context, &mut drains, message);
        }
        for drain in &mut drains {
            drain.remove_confirmed(context);
        }
        if stopping {
            break;
        }
        report_losses(shared, &mut reported_losses);
        start_searches(context, &mut drains, search, stop);
        let now = Instant::now();
        let halted = shared.ending.load(Ordering::Acquire);
        let sleeps = drains.each_mut().map(|drain| {
            if halted {
                drain.halt(context)
            } else {
                drain.advance(context, now)
            }
        });
        sleep = sleeps.into_iter().min().unwrap_or(MAX_SLEEP).min(MAX_SLEEP);
        if flushed.elapsed() >= FLUSH_INTERVAL {
            flush(shared);
            flushed = Instant::now();
        }
        progress.log(shared, now);
    }
    flush(shared);
}

fn handle_message(context: &DrainContext, drains: &mut [DestinationDrain], message: DrainMessage) {
    match message {
        DrainMessage::Reported {
            to,
            seq,
            outcome,
            took,
        } => drains[to.index()].on_report(context, seq, outcome, took),
        DrainMessage::InDoubtResolved { to, seq, stored } => {
            drains[to.index()].resolve_in_doubt(context, seq, stored)
        }
        DrainMessage::SearchFinished { to, result } => {
            drains[to.index()].finish_search(context, result)
        }
    }
}

/// Reports entries lost to damage to duplicate detection, so that a resent event is not dropped.
/// Waits until the spool is restored, because a lost entry might be restored afterwards.
fn report_losses(shared: &SpoolShared, reported: &mut u64) {
    let lost = shared.lost();
    if lost > *reported
        && let Some(deduplicator) = &shared.deduplicator
        && deduplicator.is_spool_restored()
    {
        *reported = lost;
        deduplicator.invalidate_spooled();
    }
}

fn start_searches(
    context: &DrainContext,
    drains: &mut [DestinationDrain],
    search: &Arc<InDoubtSearch>,
    stop: &Arc<AtomicBool>,
) {
    let searching = drains.iter().filter(|drain| drain.is_searching()).count();
    let free = MAX_CONCURRENT_SEARCHES.saturating_sub(searching);
    let awaiting = drains.iter_mut().filter(|drain| drain.is_awaiting_search());
    for drain in awaiting.take(free) {
        drain.start_search(context, search, stop);
    }
}

fn flush(shared: &SpoolShared) {
    if let Err(error) = shared.flush() {
        tracing::warn!(%error, "could not record yet which entries are removed from the spool");
    }
}
