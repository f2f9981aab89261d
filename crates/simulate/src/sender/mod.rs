//! The sender: delivers a stream as Butlr's does, and keeps the ledger.
//!
//! ```text
//!  generate   a thread: the stream's deliveries, rendered, in chunks    pace: when each is due
//!     │
//!  dispatch   the queue: one after the other for each reading, bounded  queue
//!     │
//!  slot       one task a connection: takes a job, tries it              client, wire, tls, target
//!     │                                                                 deadline: no answer in time
//!  tries      again after a pause, or its end                           answer: what was said
//!     │
//!  ledger     each delivery once, each try once
//! ```
//!
//! Everything but `generate` is one thread.

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

pub use control::{RunLimits, StopSignal};
pub use generator::OutgoingEvent;
pub use pace::SendPace;
pub use print::print_bodies;
pub use response::{ReportedOutcome, ServerResponse};
pub use target::{SendTarget, SenderCredentials};
pub use tls::load_roots;
pub use tries::{SendOutcome, SenderTimings};

use super::city::GroundTruth;
use super::journal::JournalWriter;
use super::ledger::{RunFidelity, RunLedger};
use super::progress::{ProgressOutput, ProgressReporter, RunSnapshot};
use super::stream::DeliveryStream;
use control::GeneratorProgress;
use dispatcher::Dispatcher;
use generator::{EventChunk, EventGenerator};

/// How to send.
#[derive(Clone)]
pub struct Options {
    /// Where to: events are spread over them, and a copy goes to another one than its original. At least one.
    pub targets: Vec<SendTarget>,
    /// How many requests may be under way at a time, at least 1.
    pub connections: usize,
    /// How fast.
    pub pace: SendPace,
    /// When the run ends by itself.
    pub limits: RunLimits,
    /// The sender's patience.
    pub timings: SenderTimings,
}

impl Options {
    /// In real time and without an end, as the documentation says.
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

/// A run that ended.
pub struct FinishedRun {
    /// What was sent and answered.
    pub ledger: RunLedger,
    /// How the city stood when the last message was computed.
    pub truth: GroundTruth,
    /// Whether it came to its end; not where it was given up midway.
    pub complete: bool,
    /// Whether all that was sent which `truth` is made of; not where it was given up, or too slow for that.
    pub traffic_complete: bool,
    /// Why nothing could be sent at all, where that is so.
    pub unreachable: Option<String>,
    /// The journal with every request in it.
    pub journal: Option<JournalWriter>,
}

/// Why a run could not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system gives no thread or no event loop.
    #[error("the sender cannot start: {0}")]
    Start(#[source] io::Error),
    /// The journal cannot be written: what is not noted cannot be proved.
    #[error("the journal cannot be written: {0}")]
    Journal(#[source] io::Error),
}

/// Sends a stream until a limit or `stop` ends it, then the rest; blocks until all has been answered or given up. After
/// the end that takes no longer than a delivery may (15 s), unless answers still come.
///
/// The rest is what is computed already and not sent. In a closed loop all of that goes out; in an open one only crossings
/// that were not told yet, so that TRAFFIC adds up to who is where: no faster than the rate that was asked for (or than so
/// far, or 100 a second), and for 10 s at most.
///
/// # Errors
/// See [`Error`]. A server that cannot be reached is none: see [`Finished::unreachable`].
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
    let paced = options.pace != SendPace::Max;
    let start_ms = stream.now_ms();
    let (generator, chunks, generator_progress) = EventGenerator::new(
        stream,
        options.pace,
        limits,
        stop.clone(),
        journal.is_some(),
    );
    let begun = generator.started_at();
    let ledger = RunLedger::new(begun, paced, start_ms);
    let generator = std::thread::Builder::new()
        .name("simulated-city".to_owned())
        .spawn(move || generator.run())
        .map_err(Error::Start)?;
    let dispatch = Dispatcher::new(
        options.targets,
        options.timings,
        options.connections.max(1),
        ledger,
        journal,
    );
    let dispatch = Rc::new(dispatch);
    let reporter = ProgressReporter::new(progress, limits);
    let run = SenderRun {
        dispatch: Rc::clone(&dispatch),
        generator_progress: Arc::clone(&generator_progress),
        started_at: begun,
        duration: limits.duration,
        stop,
    };
    LocalSet::new().block_on(&runtime, run.drive(chunks, reporter));
    // With the tasks goes the last of what they share.
    // A name that is still being looked up keeps nobody waiting.
    runtime.shutdown_background();
    let truth = match generator.join() {
        Ok(truth) => truth,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    let Ok(dispatch) = Rc::try_unwrap(dispatch) else {
        unreachable!("all tasks have ended");
    };
    let mut parts = dispatch.into_parts();
    parts
        .ledger
        .finish(Instant::now(), generator_progress.simulated_ms());
    let untold = generator_progress.omitted();
    parts.ledger.set_fidelity(RunFidelity {
        complete: !parts.given_up,
        caught_up: generator_progress.has_caught_up(),
        after_end: generator_progress
            .after_end()
            .min(parts.ledger.deliveries()),
        untold,
        ..parts.ledger.fidelity()
    });
    match parts.journal_error {
        Some(error) => Err(Error::Journal(error)),
        None => Ok(FinishedRun {
            unreachable: match parts.unreachable {
                true => parts.ledger.last_connection_error().map(str::to_owned),
                false => None,
            },
            complete: !parts.given_up,
            traffic_complete: !parts.given_up && untold == 0,
            ledger: parts.ledger,
            truth,
            journal: parts.journal,
        }),
    }
}

struct SenderRun {
    dispatch: Rc<Dispatcher>,
    generator_progress: Arc<GeneratorProgress>,
    started_at: Instant,
    duration: Option<Duration>,
    stop: StopSignal,
}

impl SenderRun {
    async fn drive(self, chunks: mpsc::Receiver<EventChunk>, reporter: ProgressReporter) {
        let mut slots = JoinSet::new();
        for slot in 0..self.dispatch.deadlines.len() {
            slots.spawn_local(slot::run_slot(Rc::clone(&self.dispatch), slot));
        }
        let sent = async {
            self.dispatch.admit(chunks).await;
            while let Some(ended) = slots.join_next().await {
                if let Err(panic) = ended {
                    std::panic::resume_unwind(panic.into_panic());
                }
            }
            // Who has not answered in time gets as much time once more, at most.
            self.dispatch.await_late_answers().await;
        };
        tokio::select! {
            () = sent => {}
            () = self.tick() => {}
            () = self.report(reporter) => {}
        }
    }

    async fn tick(&self) {
        let timings = &self.dispatch.timings;
        let shortest = timings.pauses.iter().copied().min();
        let shortest = shortest.unwrap_or(Duration::MAX).min(timings.http_timeout) / 20;
        let between = shortest.clamp(Duration::from_millis(1), Duration::from_millis(20));
        let mut ticks = tokio::time::interval(between);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let over = self.stop.is_stopped()
                || self.generator_progress.is_complete()
                || self
                    .duration
                    .is_some_and(|d| now >= pace::saturating_after(self.started_at, d));
            self.dispatch.tick(now, self.started_at, over);
        }
    }

    async fn report(&self, mut reporter: ProgressReporter) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.tick().await;
        loop {
            seconds.tick().await;
            let snapshot = {
                let mut ledger = self.dispatch.ledger.borrow_mut();
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
