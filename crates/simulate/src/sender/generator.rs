//! The thread that lets the city live and renders what is to be sent, in chunks: what crosses between threads costs the
//! same for one event as for a hundred.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::control::{GeneratorProgress, RunLimits, StopSignal};
use super::pace::{Pacer, SendPace, SendTime, saturating_after};
use crate::city::GroundTruth;
use crate::hash;
use crate::message::{DeliveryKind, PlannedDelivery};
use crate::oracle::{Forecast, OracleVerdict};
use crate::payload::PayloadRenderer;
use crate::stream::DeliveryStream;
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// An event ready to be sent.
#[derive(Clone, Debug)]
pub struct OutgoingEvent {
    /// When it is due on the simulated clock, ms since 1970.
    pub due_ms: i64,
    /// Which (type, space, timestamp) it is about; such with the same key go out one after the other.
    pub reading_key: u64,
    /// Its type; of an invalid one, the type of what it is a copy of.
    pub event_type: EventType,
    /// What the ledger counts it as.
    pub kind: DeliveryKind,
    /// What it is when all before it is stored; `None` for an invalid one.
    pub expected: Option<OracleVerdict>,
    /// Its id.
    pub id: Ksuid,
    /// The JSON.
    pub body: Bytes,
    /// Hash of the JSON, and of its `data`: 0 unless they are asked for.
    pub body_hash: u64,
    /// See `value`.
    pub data_hash: u64,
    /// Whether it is of the rest that goes out after the end.
    pub after_end: bool,
}

impl OutgoingEvent {
    /// A body is a part of its chunk's: what waits for long takes its own along.
    pub(super) fn detach(&mut self) {
        self.body = Bytes::copy_from_slice(&self.body);
    }
}

/// Events that go out one after the other, each with its moment.
pub(super) type EventChunk = Vec<(OutgoingEvent, SendTime)>;

const CHUNK_LEN: usize = 128;

/// Chunks that wait to be taken: the generator is never far ahead.
const MAX_CHUNKS: usize = 4;

/// How soon a stop is noticed.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

pub(super) struct EventGenerator {
    stream: DeliveryStream,
    renderer: PayloadRenderer,
    forecast: Forecast,
    pacer: Pacer,
    limits: RunLimits,
    stop: StopSignal,
    progress: Arc<GeneratorProgress>,
    /// Whether bodies are hashed, for the journal.
    hashes_bodies: bool,
    chunk_sender: mpsc::Sender<EventChunk>,
    /// The last look at the clock, and how far the simulated one may run.
    now: Instant,
    until_ms: i64,
    /// When the last tick was computed: from when to when.
    last_stall: (Instant, Instant),
    generated: u64,
    bodies: Vec<u8>,
    chunk: Vec<RenderedEvent>,
}

/// A delivery whose body stands in the chunk's buffer.
struct RenderedEvent {
    outgoing: OutgoingEvent,
    send_time: SendTime,
    end: usize,
}

/// The receiver is gone: nothing needs to be made any more.
struct ReceiverGone;

impl EventGenerator {
    /// The run begins with the return: what takes long is done by then.
    pub(super) fn new(
        mut stream: DeliveryStream,
        pace: SendPace,
        limits: RunLimits,
        stop: StopSignal,
        hashed: bool,
    ) -> (Self, mpsc::Receiver<EventChunk>, Arc<GeneratorProgress>) {
        let (to, chunks) = mpsc::channel(MAX_CHUNKS);
        let progress = Arc::new(GeneratorProgress::default());
        let start_ms = stream.now_ms();
        progress.simulated_ms.store(start_ms, Ordering::Relaxed);
        let renderer = PayloadRenderer::new(Arc::clone(stream.plan()));
        stream.compute();
        let pacer = Pacer::new(pace, start_ms);
        let begun = pacer.started_at();
        let generator = Self {
            renderer,
            forecast: Forecast::new(stream.max_reading_span_ms()),
            stream,
            now: begun,
            until_ms: pacer.clock_limit_ms(begun, 2 * POLL_INTERVAL),
            pacer,
            limits,
            stop,
            progress: Arc::clone(&progress),
            hashes_bodies: hashed,
            chunk_sender: to,
            last_stall: (begun, begun),
            generated: 0,
            bodies: Vec::new(),
            chunk: Vec::with_capacity(CHUNK_LEN),
        };
        (generator, chunks, progress)
    }

    pub(super) fn started_at(&self) -> Instant {
        self.pacer.started_at()
    }

    /// Generates until a limit or the stop, then the rest. Returns how the city stood at the end.
    pub(super) fn run(mut self) -> GroundTruth {
        let _ = self.generate();
        self.stream.truth()
    }

    fn generate(&mut self) -> Result<(), ReceiverGone> {
        let mut kept = None;
        while !self.is_over() {
            let Some(delivery) = self.stream.next_ready() else {
                if self.stream.now_ms() < self.until_ms {
                    self.compute()?;
                } else {
                    // Nothing is due for a while.
                    self.flush()?;
                    std::thread::sleep(POLL_INTERVAL);
                    self.update_clock();
                }
                continue;
            };
            let moment = self.pacer.schedule_next(delivery.due_ms);
            if let SendTime::At(at) = moment
                && !self.wait_until(at, delivery.due_ms)?
            {
                kept = Some(delivery);
                break;
            }
            self.push(&delivery, self.shift_past_stall(moment), false)?;
        }
        self.flush()?;
        self.send_rest(kept)
    }

    /// Sends the rest, at the pace. In an open loop that is only what is needed for the story to be whole.
    fn send_rest(&mut self, kept: Option<PlannedDelivery>) -> Result<(), ReceiverGone> {
        // What is computed must not go out before it has happened.
        self.sleep_until(self.pacer.instant_of(self.stream.now_ms()))?;
        self.stream.end();
        self.progress.complete.store(true, Ordering::Relaxed);
        self.pacer.start_rest(Instant::now());
        let mut kept = kept;
        while let Some(delivery) = kept.take().or_else(|| self.stream.next()) {
            if self.pacer.is_paced() && !is_needed_for_totals(&delivery) {
                continue;
            }
            let Some(moment) = self.pacer.schedule_rest() else {
                self.progress.omitted.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            if let SendTime::At(at) = moment {
                self.flush()?;
                self.sleep_until(at)?;
            }
            self.progress.after_end.fetch_add(1, Ordering::Relaxed);
            // However long it waits for a connection now, it is not to be dropped for that.
            self.push(&delivery, SendTime::Any, true)?;
        }
        self.flush()
    }

    fn is_over(&self) -> bool {
        self.stop.is_stopped()
            || self.chunk_sender.is_closed()
            || self
                .limits
                .events
                .is_some_and(|events| self.generated >= events)
            || self.end_at().is_some_and(|end| self.now >= end)
    }

    fn end_at(&self) -> Option<Instant> {
        let duration = self.limits.duration?;
        Some(saturating_after(self.pacer.started_at(), duration))
    }

    /// Waits for the moment of a delivery that is due at `due_ms`. Returns whether it has come: not where the run is over
    /// before.
    fn wait_until(&mut self, at: Instant, due_ms: i64) -> Result<bool, ReceiverGone> {
        while at > self.now {
            self.update_clock();
            if at <= self.now {
                break;
            }
            self.flush()?;
            if self.is_over() {
                return Ok(false);
            }
            let free = at.saturating_duration_since(self.now);
            let ahead_ms = self.pacer.lookahead_limit_ms(self.until_ms, due_ms);
            if self.stream.now_ms() < ahead_ms && free > self.last_stall.1 - self.last_stall.0 {
                self.compute()?;
            } else {
                std::thread::sleep(free.min(POLL_INTERVAL));
            }
        }
        Ok(self.end_at().is_none_or(|end| at < end))
    }

    /// Naps until then, but not when nobody listens any more.
    fn sleep_until(&self, at: Instant) -> Result<(), ReceiverGone> {
        loop {
            if self.chunk_sender.is_closed() {
                return Err(ReceiverGone);
            }
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(POLL_INTERVAL));
        }
    }

    /// Lets the city live for a tick. What is due already does not wait for that.
    fn compute(&mut self) -> Result<(), ReceiverGone> {
        if self.pacer.is_paced() {
            self.flush()?;
        }
        let begun = Instant::now();
        self.stream.compute();
        self.update_clock();
        self.last_stall = (begun, self.now);
        Ok(())
    }

    /// What became due while a tick was computed was not held up by the server.
    fn shift_past_stall(&self, moment: SendTime) -> SendTime {
        let (from, until) = self.last_stall;
        match moment {
            SendTime::At(at) if at > from && at < until => SendTime::At(until),
            moment => moment,
        }
    }

    fn push(
        &mut self,
        delivery: &PlannedDelivery,
        moment: SendTime,
        after_end: bool,
    ) -> Result<(), ReceiverGone> {
        let begin = self.bodies.len();
        let data = self.renderer.render(delivery, &mut self.bodies);
        let message = &delivery.message;
        let (value, data) = match self.hashes_bodies {
            true => (
                hash::hash_bytes(&self.bodies[begin..]),
                hash::hash_bytes(&self.bodies[data]),
            ),
            false => (0, 0),
        };
        let space_id = self.renderer.space_id(message);
        let (due_ms, kind) = (delivery.due_ms, delivery.kind);
        let key = hash::reading_key(message.event_type, space_id, message.timestamp_ms);
        let outgoing = OutgoingEvent {
            due_ms,
            reading_key: key,
            event_type: message.event_type,
            kind,
            expected: self.forecast.predict(due_ms, key, message, kind),
            id: message.id,
            body: Bytes::new(),
            body_hash: value,
            data_hash: data,
            after_end,
        };
        let end = self.bodies.len();
        self.chunk.push(RenderedEvent {
            outgoing,
            send_time: moment,
            end,
        });
        self.generated += 1;
        if self.chunk.len() < CHUNK_LEN {
            return Ok(());
        }
        self.flush()?;
        self.update_clock();
        Ok(())
    }

    fn update_clock(&mut self) {
        self.now = Instant::now();
        self.until_ms = self.pacer.clock_limit_ms(self.now, 2 * POLL_INTERVAL);
    }

    /// Hands over what there is, and waits until there is room for it.
    fn flush(&mut self) -> Result<(), ReceiverGone> {
        let Some(last) = self.chunk.last() else {
            return Ok(());
        };
        let simulated_ms = last.outgoing.due_ms;
        self.progress
            .simulated_ms
            .store(simulated_ms, Ordering::Relaxed);
        let caught_up = self.pacer.has_caught_up();
        self.progress.caught_up.store(caught_up, Ordering::Relaxed);
        let capacity = self.bodies.len() + self.bodies.len() / 8;
        let bodies = std::mem::replace(&mut self.bodies, Vec::with_capacity(capacity));
        let bodies = Bytes::from(bodies);
        let mut begin = 0;
        let chunk = self.chunk.drain(..).map(|rendered| {
            let mut outgoing = rendered.outgoing;
            outgoing.body = bodies.slice(begin..rendered.end);
            begin = rendered.end;
            (outgoing, rendered.send_time)
        });
        self.chunk_sender
            .blocking_send(chunk.collect())
            .map_err(|_| ReceiverGone)
    }
}

/// Whether it is needed for entries and exits to add up to who is where.
fn is_needed_for_totals(delivery: &PlannedDelivery) -> bool {
    delivery.message.event_type == EventType::Traffic
        && !matches!(
            delivery.kind,
            DeliveryKind::Overlapping | DeliveryKind::Redelivery | DeliveryKind::Invalid
        )
}

#[cfg(test)]
pub(super) mod tests;
