//! Shutdown in order: readiness, new connections, requests in flight, spool, librdkafka's queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::rt::time::sleep;
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::RunningBridge;
use crate::config::Config;
use crate::metrics::{EventOutcome, EventTotals};
use crate::pipeline::Pipeline;
use crate::spool::{DrainHandle, Spool};

/// Extra time beyond `shutdown.timeout` for the purge of librdkafka's queue and the spool's last
/// commit.
const SHUTDOWN_MARGIN: Duration = Duration::from_secs(3);
/// Shortest time for a step, even if the deadline has passed.
const MIN_STEP_TIME: Duration = Duration::from_millis(100);

/// The final count, once everything has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownSummary {
    /// Events received, by outcome.
    pub ledger: EventTotals,
    /// Records that librdkafka still held at the deadline. No 2xx depends on them.
    pub given_up: usize,
}

impl RunningBridge {
    /// Drains the bridge within `shutdown.timeout` and ends it.
    pub(super) async fn shut_down(
        self,
        config: &Config,
        ingest_handle: ServerHandle,
    ) -> ShutdownSummary {
        let deadline = Instant::now() + config.shutdown.timeout;
        self.ingest.connections.start_draining();
        drop(self.rebuild);
        tracing::info!("shutting down");
        sleep(config.shutdown.drain_delay).await;
        let stopped = timeout_at(deadline.into(), ingest_handle.stop(true));
        if stopped.await.is_err() {
            tracing::warn!("connections were still open at the end of shutdown.timeout");
            drop(ingest_handle.stop(false));
        }
        drop(self.watch);
        let pipeline = &self.ingest.pipeline;
        let mut timeout = time_left(deadline);
        if pipeline.spool.is_some() {
            // The spool has everything that librdkafka still holds.
            timeout = timeout.min(config.kafka.confirm_within);
        }
        let closed = close_publishing(pipeline, self.drain, timeout);
        let given_up = match timeout_at((deadline + SHUTDOWN_MARGIN).into(), closed).await {
            Ok(given_up) => given_up.unwrap_or(0),
            Err(_) => {
                tracing::error!(
                    "the spool's disk does not respond; exiting without it. Events that are not on disk by now were answered 503 or got no response"
                );
                0
            }
        };
        if let Some(deduplicator) = &pipeline.deduplicator {
            deduplicator.flush(time_left(deadline)).await;
        }
        let summary = ShutdownSummary {
            ledger: pipeline.metrics.totals(),
            given_up,
        };
        log_summary(&summary, pipeline.spool.as_deref());
        summary
    }
}

fn time_left(deadline: Instant) -> Duration {
    deadline
        .saturating_duration_since(Instant::now())
        .max(MIN_STEP_TIME)
}

/// Ends spool, producer and drain; the receiver gets the number of records given up.
///
/// Runs on a plain thread, because the runtime would wait for its own tasks forever, and a disk
/// that hangs must not keep the process alive.
fn close_publishing(
    pipeline: &Pipeline,
    drain: Option<DrainHandle>,
    timeout: Duration,
) -> oneshot::Receiver<usize> {
    let spool: Option<Arc<Spool>> = pipeline.spool.clone();
    let producer = Arc::clone(&pipeline.producer);
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("shutdown".into())
        .spawn(move || {
            if let Some(spool) = &spool {
                spool.shut_down();
            }
            let given_up = producer.close(timeout);
            // Last, because the final delivery reports still decide entries.
            drop(drain);
            let _ = sender.send(given_up);
        })
        .expect("the system can start a thread");
    receiver
}

fn log_summary(summary: &ShutdownSummary, spool: Option<&Spool>) {
    let ShutdownSummary { ledger, given_up } = summary;
    let entries = spool.map(Spool::ledger);
    let entries = entries.as_ref();
    tracing::info!(
        received = ledger.received,
        published = ledger.count(EventOutcome::Published),
        duplicate = ledger.count(EventOutcome::Duplicate),
        spooled = ledger.count(EventOutcome::Spooled),
        quarantined = ledger.count(EventOutcome::Quarantined),
        refused = ledger.count(EventOutcome::Refused),
        records_given_up = given_up,
        spool_recovered = entries.map(|entries| entries.recovered),
        spool_spooled = entries.map(|entries| entries.spooled),
        spool_drained = entries.map(|entries| entries.drained),
        spool_confirmed_late = entries.map(|entries| entries.confirmed_late),
        spool_already_stored = entries.map(|entries| entries.already_stored),
        spool_set_aside = entries.map(|entries| entries.dead_letters),
        spool_lost = entries.map(|entries| entries.lost),
        spool_present = entries.map(|entries| entries.present),
        balanced = ledger.is_balanced(),
        "ended"
    );
}
