//! The one thread that hands entries to librdkafka, each destination in order and by itself.
//!
//! - `mailbox`: what it hears from other threads;
//! - `course`: how far one destination is, and what to do next; `window`: how many records it may have in flight;
//! - `publish`: from an entry to its record;
//! - `recover`: after a start, which entries Kafka holds already;
//! - `progress`: what the log tells.

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

/// The longest sleep.
const MAX_SLEEP: Duration = Duration::from_secs(1);
/// Between two flushes of removals.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// How long what is in the spool may be told to duplicate detection before anything is handed over.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(300);
/// Destinations whose entries of before are looked for at a time.
const MAX_CONCURRENT_SEARCHES: usize = 3;

/// Who takes records: the producer; in tests, something that can be told to fail.
pub(super) trait RecordSink: Send + Sync {
    /// See [`RecordProducer::send_entry`].
    fn send_record(
        &self,
        record: ProducerRecord<'_>,
        permit: LanePermit,
        entry: Box<dyn DeliveryObserver>,
    ) -> Result<(), (RDKafkaErrorCode, Box<dyn DeliveryObserver>)>;

    /// See [`RecordProducer::request_replacement`].
    fn replace_producer(&self, silent: Duration);
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

    fn replace_producer(&self, silent: Duration) {
        self.request_replacement(silent);
    }
}

/// What handing over needs.
pub(super) struct DrainContext {
    pub(super) shared: Arc<SpoolShared>,
    pub(super) producer: Arc<dyn RecordSink>,
    pub(super) stamping: TimestampPolicy,
    started_at: Instant,
}

impl DrainContext {
    fn can_hand_over(&self, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.started_at);
        can_hand_over(self.shared.deduplicator.as_deref(), waited)
    }
}

/// Not before duplicate detection knows what is in the spool: what it was told of an entry after the end of that would stay. A
/// disk that does not let it be read is waited for only so long.
pub(super) fn can_hand_over(desk: Option<&Deduplicator>, waited: Duration) -> bool {
    desk.is_none_or(Deduplicator::is_spool_restored) || waited >= RESTORE_TIMEOUT
}

/// The drain's thread; ends when dropped, which blocks for a flush. Entries that librdkafka still has then stay on disk.
#[must_use = "dropped, it ends"]
pub struct DrainHandle {
    shared: Arc<SpoolShared>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DrainHandle {
    pub(super) fn start(
        shared: Arc<SpoolShared>,
        producer: Arc<dyn RecordSink>,
        stamping: TimestampPolicy,
        search: Arc<InDoubtSearch>,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let context = DrainContext {
            shared: Arc::clone(&shared),
            producer,
            stamping,
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

/// However the thread ends, nobody waits for it any more.
struct HaltGuard<'l>(&'l [DestinationBacklog; Destination::COUNT]);

impl Drop for HaltGuard<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(DestinationBacklog::stop);
        if std::thread::panicking() {
            tracing::error!(
                "the thread that drains the spool has ended by a bug; restart the bridge to have it drained"
            );
        }
    }
}

fn run(context: &DrainContext, search: &Arc<InDoubtSearch>, stop: &Arc<AtomicBool>) {
    let shared = &context.shared;
    let mut drains = Destination::all().map(|to| DestinationDrain::new(to, shared));
    let mut progress = DrainProgress::default();
    let mut flushed = Instant::now();
    let mut patience = Duration::ZERO;
    let mut reported_losses = 0;
    loop {
        let stopping = stop.load(Ordering::Acquire);
        let messages = shared
            .mailbox
            .take(if stopping { Duration::ZERO } else { patience });
        for word in messages {
            handle_message(context, &mut drains, word);
        }
        for course in &mut drains {
            course.remove_confirmed(context);
        }
        if stopping {
            break;
        }
        report_losses(shared, &mut reported_losses);
        start_searches(context, &mut drains, search, stop);
        let now = Instant::now();
        let halted = shared.ending.load(Ordering::Acquire);
        let sleeps = drains.each_mut().map(|course| match halted {
            true => course.halt(context),
            false => course.advance(context, now),
        });
        patience = sleeps.into_iter().min().unwrap_or(MAX_SLEEP).min(MAX_SLEEP);
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
        DrainMessage::SearchFinished { to, found } => {
            drains[to.index()].finish_search(context, found)
        }
    }
}

/// Who looks for duplicates is told of damage, so that what is sent again is not taken for a copy of what is lost. Not before
/// all that was there at the start is known: that may be told after it was lost.
fn report_losses(shared: &SpoolShared, reported: &mut u64) {
    let lost = shared.lost();
    if lost > *reported
        && let Some(desk) = &shared.deduplicator
        && desk.is_spool_restored()
    {
        *reported = lost;
        desk.invalidate_spooled();
    }
}

fn start_searches(
    context: &DrainContext,
    drains: &mut [DestinationDrain],
    search: &Arc<InDoubtSearch>,
    stop: &Arc<AtomicBool>,
) {
    let searching = drains.iter().filter(|c| c.is_searching()).count();
    let free = MAX_CONCURRENT_SEARCHES.saturating_sub(searching);
    for course in drains
        .iter_mut()
        .filter(|c| c.is_awaiting_search())
        .take(free)
    {
        course.start_search(context, search, stop);
    }
}

fn flush(shared: &SpoolShared) {
    if let Err(error) = shared.flush() {
        tracing::warn!(%error, "what was removed from the spool could not be written down yet");
    }
}
