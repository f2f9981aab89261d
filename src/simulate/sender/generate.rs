//! The thread that lets the city live and renders what is to be sent, in chunks: what crosses between threads costs the
//! same for one event as for a hundred.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::pace::{Moment, Pacer};
use crate::event::EventType;
use crate::simulate::city::Truth;
use crate::simulate::hash;
use crate::simulate::ksuid::Ksuid;
use crate::simulate::message::{Delivery, Kind};
use crate::simulate::payload::Renderer;
use crate::simulate::stream::Stream;

/// An event ready to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// When it is due on the simulated clock, ms since 1970.
    pub due_ms: i64,
    /// Which (type, space, timestamp) it is about; such with the same key go out one after the other.
    pub key: u64,
    /// Its type; of an invalid one, the type of what it is a copy of.
    pub event_type: EventType,
    /// What the ledger counts it as.
    pub kind: Kind,
    /// Its id.
    pub id: Ksuid,
    /// The JSON.
    pub body: Bytes,
    /// Hash of the JSON, and of its `data`: 0 unless they are asked for.
    pub value: u64,
    /// See `value`.
    pub data: u64,
}

/// Events that go out one after the other, each with its moment.
pub(super) type Chunk = Vec<(Outgoing, Moment)>;

const CHUNK: usize = 128;

/// Chunks that wait to be taken: the generator is never far ahead.
const CHUNKS: usize = 4;

/// How soon a stop is noticed.
const NAP: Duration = Duration::from_millis(20);

/// When the generator stops by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// After so many deliveries, and what then waits.
    pub events: Option<u64>,
    /// After so long.
    pub duration: Option<Duration>,
}

/// What other threads may know of the generator.
#[derive(Debug, Default)]
pub(super) struct Made {
    simulated_ms: AtomicI64,
    caught_up: AtomicBool,
    all: AtomicBool,
}

impl Made {
    pub(super) fn simulated_ms(&self) -> i64 {
        self.simulated_ms.load(Ordering::Relaxed)
    }

    pub(super) fn caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Relaxed)
    }

    /// Whether nothing is computed any more.
    pub(super) fn is_all(&self) -> bool {
        self.all.load(Ordering::Relaxed)
    }
}

/// Ends a run as its duration would: nothing more is computed, what waits is still sent.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// One that nobody has used yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the run.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was used.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) struct Generator {
    stream: Stream,
    renderer: Renderer,
    pacer: Pacer,
    limits: Limits,
    stop: Stop,
    progress: Arc<Made>,
    /// Whether bodies are hashed, for the journal.
    hashed: bool,
    to: mpsc::Sender<Chunk>,
    /// The last look at the clock, and how far the simulated one may run.
    now: Instant,
    until_ms: i64,
    made: u64,
    bodies: Vec<u8>,
    chunk: Vec<Rendered>,
}

/// A delivery whose body stands in the chunk's buffer.
struct Rendered {
    outgoing: Outgoing,
    moment: Moment,
    end: usize,
}

/// The receiver is gone: nothing needs to be made any more.
struct Unwanted;

impl Generator {
    pub(super) fn new(
        stream: Stream,
        pacer: Pacer,
        limits: Limits,
        stop: Stop,
        hashed: bool,
    ) -> (Self, mpsc::Receiver<Chunk>, Arc<Made>) {
        let (to, chunks) = mpsc::channel(CHUNKS);
        let progress = Arc::new(Made::default());
        let simulated_ms = stream.now_ms();
        progress.simulated_ms.store(simulated_ms, Ordering::Relaxed);
        let generator = Self {
            renderer: Renderer::new(Arc::clone(stream.plan())),
            stream,
            now: pacer.begun(),
            until_ms: pacer.until_ms(pacer.begun(), 2 * NAP),
            pacer,
            limits,
            stop,
            progress: Arc::clone(&progress),
            hashed,
            to,
            made: 0,
            bodies: Vec::new(),
            chunk: Vec::with_capacity(CHUNK),
        };
        (generator, chunks, progress)
    }

    /// Generates until a limit or the stop, then what waits. Returns how the city stood at the end.
    pub(super) fn run(mut self) -> Truth {
        let _ = self.generate();
        self.stream.truth()
    }

    fn generate(&mut self) -> Result<(), Unwanted> {
        while !self.is_over() {
            let Some(delivery) = self.stream.next_until(self.until_ms) else {
                // Nothing is due for a while.
                self.flush()?;
                std::thread::sleep(NAP);
                self.look();
                continue;
            };
            let moment = self.pacer.next(delivery.due_ms);
            if let Moment::At(at) = moment {
                self.wait_until(at)?;
            }
            self.push(&delivery, moment)?;
        }
        // What is computed up to now must not go out before it has happened.
        self.flush()?;
        let happened = self.pacer.begun() + self.pacer.happened(self.stream.now_ms());
        std::thread::sleep(happened.saturating_duration_since(Instant::now()));
        self.stream.end();
        self.progress.all.store(true, Ordering::Relaxed);
        while let Some(delivery) = self.stream.next() {
            self.push(&delivery, Moment::Any)?;
        }
        self.flush()
    }

    fn is_over(&self) -> bool {
        let over = |limit: Option<Duration>| {
            limit.is_some_and(|limit| self.now >= self.pacer.begun() + limit)
        };
        self.stop.is_stopped()
            || self.to.is_closed()
            || self.limits.events.is_some_and(|events| self.made >= events)
            || over(self.limits.duration)
    }

    /// Waits for a moment, or until the run is over.
    fn wait_until(&mut self, at: Instant) -> Result<(), Unwanted> {
        while at > self.now {
            self.look();
            if at <= self.now {
                break;
            }
            self.flush()?;
            if self.is_over() {
                break;
            }
            std::thread::sleep((at - self.now).min(NAP));
        }
        Ok(())
    }

    fn push(&mut self, delivery: &Delivery, moment: Moment) -> Result<(), Unwanted> {
        let begin = self.bodies.len();
        let data = self.renderer.render(delivery, &mut self.bodies);
        let message = &delivery.message;
        let (value, data) = match self.hashed {
            true => (
                hash::bytes(&self.bodies[begin..]),
                hash::bytes(&self.bodies[data]),
            ),
            false => (0, 0),
        };
        let space_id = self.renderer.space_id(message);
        let outgoing = Outgoing {
            due_ms: delivery.due_ms,
            key: hash::reading_key(message.event_type, space_id, message.timestamp_ms),
            event_type: message.event_type,
            kind: delivery.kind,
            id: message.id,
            body: Bytes::new(),
            value,
            data,
        };
        let end = self.bodies.len();
        self.chunk.push(Rendered {
            outgoing,
            moment,
            end,
        });
        self.made += 1;
        if self.chunk.len() < CHUNK {
            return Ok(());
        }
        self.flush()?;
        self.look();
        Ok(())
    }

    fn look(&mut self) {
        self.now = Instant::now();
        self.until_ms = self.pacer.until_ms(self.now, 2 * NAP);
    }

    /// Hands over what there is, and waits until there is room for it.
    fn flush(&mut self) -> Result<(), Unwanted> {
        let Some(last) = self.chunk.last() else {
            return Ok(());
        };
        let simulated_ms = last.outgoing.due_ms;
        self.progress
            .simulated_ms
            .store(simulated_ms, Ordering::Relaxed);
        let caught_up = self.pacer.caught_up();
        self.progress.caught_up.store(caught_up, Ordering::Relaxed);
        let capacity = self.bodies.len() + self.bodies.len() / 8;
        let bodies = std::mem::replace(&mut self.bodies, Vec::with_capacity(capacity));
        let bodies = Bytes::from(bodies);
        let mut begin = 0;
        let chunk = self.chunk.drain(..).map(|rendered| {
            let mut outgoing = rendered.outgoing;
            outgoing.body = bodies.slice(begin..rendered.end);
            begin = rendered.end;
            (outgoing, rendered.moment)
        });
        self.to.blocking_send(chunk.collect()).map_err(|_| Unwanted)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An event that is about `key`.
    pub(in crate::simulate::sender) fn outgoing(key: u64, kind: Kind) -> Outgoing {
        Outgoing {
            due_ms: 0,
            key,
            event_type: EventType::Traffic,
            kind,
            id: Ksuid::new(1_700_000_000_000, [7; 16]),
            body: Bytes::from_static(b"{}"),
            value: 1,
            data: 2,
        }
    }
}
