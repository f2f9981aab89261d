//! The thread that lets the city live and renders what is to be sent, in chunks: what crosses between threads costs the
//! same for one event as for a hundred.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::control::{Limits, Made, Stop};
use super::pace::{Moment, Pace, Pacer, after};
use crate::city::Truth;
use crate::hash;
use crate::message::{Delivery, Kind};
use crate::oracle::{Forecast, Verdict};
use crate::payload::Renderer;
use crate::stream::Stream;
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

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
    /// What it is when all before it is stored; `None` for an invalid one.
    pub expected: Option<Verdict>,
    /// Its id.
    pub id: Ksuid,
    /// The JSON.
    pub body: Bytes,
    /// Hash of the JSON, and of its `data`: 0 unless they are asked for.
    pub value: u64,
    /// See `value`.
    pub data: u64,
    /// Whether it is of the rest that goes out after the end.
    pub after_end: bool,
}

impl Outgoing {
    /// A body is a part of its chunk's: what waits for long takes its own along.
    pub(super) fn detach(&mut self) {
        self.body = Bytes::copy_from_slice(&self.body);
    }
}

/// Events that go out one after the other, each with its moment.
pub(super) type Chunk = Vec<(Outgoing, Moment)>;

const CHUNK: usize = 128;

/// Chunks that wait to be taken: the generator is never far ahead.
const CHUNKS: usize = 4;

/// How soon a stop is noticed.
const NAP: Duration = Duration::from_millis(20);

pub(super) struct Generator {
    stream: Stream,
    renderer: Renderer,
    forecast: Forecast,
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
    /// When the last tick was computed: from when to when.
    stalled: (Instant, Instant),
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
    /// The run begins with the return: what takes long is done by then.
    pub(super) fn new(
        mut stream: Stream,
        pace: Pace,
        limits: Limits,
        stop: Stop,
        hashed: bool,
    ) -> (Self, mpsc::Receiver<Chunk>, Arc<Made>) {
        let (to, chunks) = mpsc::channel(CHUNKS);
        let progress = Arc::new(Made::default());
        let start_ms = stream.now_ms();
        progress.simulated_ms.store(start_ms, Ordering::Relaxed);
        let renderer = Renderer::new(Arc::clone(stream.plan()));
        stream.compute();
        let pacer = Pacer::begin(pace, start_ms);
        let begun = pacer.begun();
        let generator = Self {
            renderer,
            forecast: Forecast::new(stream.span_ms()),
            stream,
            now: begun,
            until_ms: pacer.until_ms(begun, 2 * NAP),
            pacer,
            limits,
            stop,
            progress: Arc::clone(&progress),
            hashed,
            to,
            stalled: (begun, begun),
            made: 0,
            bodies: Vec::new(),
            chunk: Vec::with_capacity(CHUNK),
        };
        (generator, chunks, progress)
    }

    pub(super) fn begun(&self) -> Instant {
        self.pacer.begun()
    }

    /// Generates until a limit or the stop, then the rest. Returns how the city stood at the end.
    pub(super) fn run(mut self) -> Truth {
        let _ = self.generate();
        self.stream.truth()
    }

    fn generate(&mut self) -> Result<(), Unwanted> {
        let mut kept = None;
        while !self.is_over() {
            let Some(delivery) = self.stream.next_known() else {
                if self.stream.now_ms() < self.until_ms {
                    self.compute()?;
                } else {
                    // Nothing is due for a while.
                    self.flush()?;
                    std::thread::sleep(NAP);
                    self.look();
                }
                continue;
            };
            let moment = self.pacer.next(delivery.due_ms);
            if let Moment::At(at) = moment
                && !self.wait_until(at, delivery.due_ms)?
            {
                kept = Some(delivery);
                break;
            }
            self.push(&delivery, self.without_stall(moment), false)?;
        }
        self.flush()?;
        self.end(kept)
    }

    /// Sends the rest, at the pace. In an open loop that is only what is needed for the story to be whole.
    fn end(&mut self, kept: Option<Delivery>) -> Result<(), Unwanted> {
        // What is computed must not go out before it has happened.
        self.sleep_until(self.pacer.happened_at(self.stream.now_ms()))?;
        self.stream.end();
        self.progress.all.store(true, Ordering::Relaxed);
        self.pacer.end(Instant::now());
        let mut kept = kept;
        while let Some(delivery) = kept.take().or_else(|| self.stream.next()) {
            if self.pacer.is_paced() && !is_needed(&delivery) {
                continue;
            }
            let Some(moment) = self.pacer.next_of_rest() else {
                self.progress.untold.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            if let Moment::At(at) = moment {
                self.flush()?;
                self.sleep_until(at)?;
            }
            self.progress.after_end.fetch_add(1, Ordering::Relaxed);
            // However long it waits for a connection now, it is not to be dropped for that.
            self.push(&delivery, Moment::Any, true)?;
        }
        self.flush()
    }

    fn is_over(&self) -> bool {
        self.stop.is_stopped()
            || self.to.is_closed()
            || self.limits.events.is_some_and(|events| self.made >= events)
            || self.end_at().is_some_and(|end| self.now >= end)
    }

    fn end_at(&self) -> Option<Instant> {
        let duration = self.limits.duration?;
        Some(after(self.pacer.begun(), duration))
    }

    /// Waits for the moment of a delivery that is due at `due_ms`. Returns whether it has come: not where the run is over
    /// before.
    fn wait_until(&mut self, at: Instant, due_ms: i64) -> Result<bool, Unwanted> {
        while at > self.now {
            self.look();
            if at <= self.now {
                break;
            }
            self.flush()?;
            if self.is_over() {
                return Ok(false);
            }
            let free = at.saturating_duration_since(self.now);
            let ahead_ms = self.pacer.ahead_ms(self.until_ms, due_ms);
            if self.stream.now_ms() < ahead_ms && free > self.stalled.1 - self.stalled.0 {
                self.compute()?;
            } else {
                std::thread::sleep(free.min(NAP));
            }
        }
        Ok(self.end_at().is_none_or(|end| at < end))
    }

    /// Naps until then, but not when nobody listens any more.
    fn sleep_until(&self, at: Instant) -> Result<(), Unwanted> {
        loop {
            if self.to.is_closed() {
                return Err(Unwanted);
            }
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(NAP));
        }
    }

    /// Lets the city live for a tick. What is due already does not wait for that.
    fn compute(&mut self) -> Result<(), Unwanted> {
        if self.pacer.is_paced() {
            self.flush()?;
        }
        let begun = Instant::now();
        self.stream.compute();
        self.look();
        self.stalled = (begun, self.now);
        Ok(())
    }

    /// What became due while a tick was computed was not held up by the server.
    fn without_stall(&self, moment: Moment) -> Moment {
        let (from, until) = self.stalled;
        match moment {
            Moment::At(at) if at > from && at < until => Moment::At(until),
            moment => moment,
        }
    }

    fn push(
        &mut self,
        delivery: &Delivery,
        moment: Moment,
        after_end: bool,
    ) -> Result<(), Unwanted> {
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
        let (due_ms, kind) = (delivery.due_ms, delivery.kind);
        let key = hash::reading_key(message.event_type, space_id, message.timestamp_ms);
        let outgoing = Outgoing {
            due_ms,
            key,
            event_type: message.event_type,
            kind,
            expected: self.forecast.next(due_ms, key, message, kind),
            id: message.id,
            body: Bytes::new(),
            value,
            data,
            after_end,
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

/// Whether it is needed for entries and exits to add up to who is where.
fn is_needed(delivery: &Delivery) -> bool {
    delivery.message.event_type == EventType::Traffic
        && !matches!(
            delivery.kind,
            Kind::Overlapping | Kind::Redelivery | Kind::Invalid
        )
}

#[cfg(test)]
pub(super) mod tests;
