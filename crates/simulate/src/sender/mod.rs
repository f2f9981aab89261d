//! The sender: delivers a stream as Butlr's sender does, and keeps the ledger.
//!
//! ```text
//!  generator   a thread: renders the stream's deliveries in chunks      pace: send times
//!     │
//!  dispatcher  admits them to a bounded queue, in order per reading     queue
//!     │
//!  slot        one task per connection: takes a job and tries it        client, wire, tls, target
//!     │                                                                 deadline: response timeout
//!  tries       schedules the next try, or ends the job                  response: parsing of bodies
//!     │
//!  ledger      counts each delivery once and each try once
//! ```
//!
//! Everything but the generator runs on one thread.

mod client;
mod control;
mod deadline;
mod dispatcher;
mod generator;
mod pace;
mod print;
mod queue;
mod response;
mod slot;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod tries;
mod wire;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::MissedTickBehavior;

pub use super::limits::RunLimits;
pub use super::outcome::{ReportedOutcome, SendOutcome, ServerResponse};
pub use control::StopSignal;
pub use generator::OutgoingEvent;
pub use pace::SendPace;
pub use print::print_bodies;
pub use target::{SendTarget, SenderCredentials};
pub use tls::load_roots;
pub use tries::SenderTimings;

use super::city::GroundTruth;
use super::journal::JournalWriter;
use super::ledger::{RunFidelity, RunLedger};
use super::progress::{ProgressOutput, ProgressReporter, RunSnapshot};
use super::stream::DeliveryStream;
use control::GeneratorProgress;
use dispatcher::Dispatcher;
use generator::{BodyHashes, EventChunk, EventGenerator};

/// Options of a run.
#[derive(Clone)]
pub struct Options {
    /// Servers, at least one. Events are spread over them; a copy goes to another server than its
    /// original.
    pub targets: Vec<SendTarget>,
    /// Maximum number of concurrent requests, at least 1.
    pub connections: usize,
    /// Pace of the deliveries.
    pub pace: SendPace,
    /// Limits at which the run ends by itself.
    pub limits: RunLimits,
    /// Timeouts and retries.
    pub timings: SenderTimings,
}

impl Options {
    /// Real time, without an end, and with the documented timeouts.
    pub fn new(target: SendTarget) -> Self {
        Self {
            targets: vec![target],
            connections: 64,
            pace: SendPace::REAL_TIME,
            limits: RunLimits::default(),
            timings: SenderTimings::default(),
        }
    }
}

/// Result of a run.
pub struct FinishedRun {
    /// Ledger of the run.
    pub ledger: RunLedger,
    /// True positions when the last message was computed.
    pub truth: GroundTruth,
    /// Reason if no server could be reached at all.
    pub unreachable: Option<String>,
    /// Journal of all requests.
    pub journal: Option<JournalWriter>,
}

/// Error that ends a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The thread or the event loop cannot be created.
    #[error("the sender cannot start: {0}")]
    Start(#[source] io::Error),
    /// The journal cannot be written. Deliveries that are not recorded cannot be verified.
    #[error("the journal cannot be written: {0}")]
    Journal(#[source] io::Error),
}

/// Sends a stream until a limit or `stop` ends it, then the rest. Blocks until all deliveries are
/// answered or given up: after the end, no longer than a delivery may take (15 s), unless responses
/// still arrive.
///
/// The rest is everything that is computed but not yet sent. A closed loop sends all of it. An
/// open loop sends only those that TRAFFIC needs to add up to the true positions, for at most 10 s,
/// and no faster than the requested rate (or than the rate so far, or 100 per second).
///
/// # Errors
/// See [`Error`]. An unreachable server is not an error: see [`FinishedRun::unreachable`].
pub fn run(
    options: Options,
    stream: DeliveryStream,
    journal: Option<JournalWriter>,
    progress: ProgressOutput,
    stop: StopSignal,
) -> Result<FinishedRun, Error> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Start)?;
    let limits = options.limits;
    let start_ms = stream.now_ms();
    let body_hashes = if journal.is_some() {
        BodyHashes::Compute
    } else {
        BodyHashes::Skip
    };
    let loop_kind = options.pace.loop_kind();
    let (generator, chunks, generator_progress) =
        EventGenerator::new(stream, options.pace, limits, stop.clone(), body_hashes);
    let started_at = generator.started_at();
    let ledger = RunLedger::new(started_at, loop_kind, start_ms);
    let generator = std::thread::Builder::new()
        .name("simulated-city".to_owned())
        .spawn(move || generator.run())
        .map_err(Error::Start)?;
    let dispatcher = Dispatcher::new(
        options.targets,
        options.timings,
        options.connections.max(1),
        ledger,
        journal,
    );
    let dispatcher = Rc::new(dispatcher);
    let reporter = ProgressReporter::new(progress, limits);
    let run = SenderRun {
        dispatcher: Rc::clone(&dispatcher),
        generator_progress: Arc::clone(&generator_progress),
        started_at,
        duration: limits.duration,
        stop,
    };
    LocalSet::new().block_on(&runtime, run.drive(chunks, reporter));
    // Do not wait for a name lookup that is still in progress.
    runtime.shutdown_background();
    let truth = match generator.join() {
        Ok(truth) => truth,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    let Ok(dispatcher) = Rc::try_unwrap(dispatcher) else {
        unreachable!("all tasks have ended");
    };
    let mut parts = dispatcher.into_parts();
    parts
        .ledger
        .finish(Instant::now(), generator_progress.simulated_ms());
    parts.ledger.set_fidelity(RunFidelity {
        complete: !parts.given_up,
        caught_up: generator_progress.has_caught_up(),
        after_end: generator_progress
            .after_end()
            .min(parts.ledger.deliveries()),
        omitted: generator_progress.omitted(),
        ..parts.ledger.fidelity()
    });
    match parts.journal_error {
        Some(error) => Err(Error::Journal(error)),
        None => Ok(FinishedRun {
            unreachable: (parts.ledger.last_connection_error())
                .filter(|_| parts.unreachable)
                .map(str::to_owned),
            ledger: parts.ledger,
            truth,
            journal: parts.journal,
        }),
    }
}

struct SenderRun {
    dispatcher: Rc<Dispatcher>,
    generator_progress: Arc<GeneratorProgress>,
    started_at: Instant,
    duration: Option<Duration>,
    stop: StopSignal,
}

impl SenderRun {
    async fn drive(self, chunks: mpsc::Receiver<EventChunk>, reporter: ProgressReporter) {
        let mut slots = JoinSet::new();
        for slot in 0..self.dispatcher.deadlines.len() {
            slots.spawn_local(slot::run_slot(Rc::clone(&self.dispatcher), slot));
        }
        let send = async {
            self.dispatcher.admit(chunks).await;
            while let Some(ended) = slots.join_next().await {
                if let Err(panic) = ended {
                    std::panic::resume_unwind(panic.into_panic());
                }
            }
            // A timed-out request gets at most the same time again for a late response.
            self.dispatcher.await_late_responses().await;
        };
        tokio::select! {
            () = send => {}
            () = self.tick() => {}
            () = self.report(reporter) => {}
        }
    }

    async fn tick(&self) {
        let timings = &self.dispatcher.timings;
        let shortest = timings.pauses.iter().copied().min();
        let shortest = shortest.unwrap_or(Duration::MAX).min(timings.http_timeout) / 20;
        let period = shortest.clamp(Duration::from_millis(1), Duration::from_millis(20));
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let is_over = self.stop.is_stopped()
                || self.generator_progress.has_ended()
                || self
                    .duration
                    .is_some_and(|d| now >= pace::saturating_after(self.started_at, d));
            if is_over {
                self.dispatcher.begin_draining(now);
            }
            self.dispatcher.tick(now, self.started_at);
        }
    }

    async fn report(&self, mut reporter: ProgressReporter) {
        let mut interval = tokio::time::interval(Duration::from_secs(1));
        interval.tick().await;
        loop {
            interval.tick().await;
            let snapshot = {
                let mut ledger = self.dispatcher.ledger.borrow_mut();
                RunSnapshot {
                    elapsed: self.started_at.elapsed(),
                    simulated_ms: self.generator_progress.simulated_ms(),
                    deliveries: ledger.deliveries(),
                    accepted: ledger.send_outcome_count(SendOutcome::Accepted),
                    dropped: ledger.drop_count(),
                    errors: ledger.errors(),
                    p99: ledger.take_recent_p99(),
                }
            };
            reporter.update(&snapshot, self.generator_progress.has_caught_up());
        }
    }
}
