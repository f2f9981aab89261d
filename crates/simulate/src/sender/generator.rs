//! The thread that advances the city and renders its deliveries. It hands them over in chunks,
//! because a handover between threads costs the same for one event as for a hundred.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::control::{GeneratorProgress, StopSignal};
use super::pace::{Pacer, SendPace, SendTime, saturating_after};
use crate::city::GroundTruth;
use crate::hash;
use crate::limits::RunLimits;
use crate::message::{DeliveryKind, PlannedDelivery};
use crate::oracle::{Forecast, OracleVerdict};
use crate::payload::PayloadRenderer;
use crate::stream::DeliveryStream;
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

/// An event ready to be sent.
#[derive(Clone, Debug)]
pub struct OutgoingEvent {
    /// Due time on the simulated clock, ms since 1970.
    pub due_ms: i64,
    /// Key of its reading (type, space, timestamp). Deliveries with the same key are sent one after
    /// the other.
    pub reading_key: u64,
    /// Event type; for an invalid item, that of its original.
    pub event_type: EventType,
    /// Kind under which the ledger counts it.
    pub kind: DeliveryKind,
    /// Expected verdict if all earlier deliveries are stored; `None` for an invalid item.
    pub expected: Option<OracleVerdict>,
    /// Event id.
    pub id: Ksuid,
    /// JSON body.
    pub body: Bytes,
    /// Hash of the body; 0 with `BodyHashes::Skip`.
    pub body_hash: u64,
    /// Hash of the value of `data`; 0 with `BodyHashes::Skip`.
    pub data_hash: u64,
    /// Set for events that are sent after the end to complete the totals.
    pub after_end: bool,
}

impl OutgoingEvent {
    /// Copies the body out of its chunk's buffer, so that a long wait does not keep the whole
    /// buffer in memory.
    pub(super) fn detach(&mut self) {
        self.body = Bytes::copy_from_slice(&self.body);
    }
}

/// Consecutive events with their send times.
pub(super) type EventChunk = Vec<(OutgoingEvent, SendTime)>;

const CHUNK_LEN: usize = 128;

/// Maximum number of waiting chunks, so that the generator is never far ahead.
const MAX_CHUNKS: usize = 4;

/// Interval at which limits and the stop signal are checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Choice of hashing bodies, which only the journal needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyHashes {
    Compute,
    Skip,
}

pub(super) struct EventGenerator {
    stream: DeliveryStream,
    renderer: PayloadRenderer,
    forecast: Forecast,
    pacer: Pacer,
    limits: RunLimits,
    stop: StopSignal,
    progress: Arc<GeneratorProgress>,
    body_hashes: BodyHashes,
    chunk_sender: mpsc::Sender<EventChunk>,
    /// Last reading of the clock.
    now: Instant,
    /// Limit up to which the simulated clock may run.
    until_ms: i64,
    /// Start and end of the last computation of a tick.
    last_stall: (Instant, Instant),
    generated: u64,
    bodies: Vec<u8>,
    chunk: Vec<RenderedEvent>,
}

/// A delivery whose body is in the chunk's buffer, up to `end`.
struct RenderedEvent {
    outgoing: OutgoingEvent,
    send_time: SendTime,
    end: usize,
}

/// The receiver of the chunks is gone, so the generator ends.
struct ReceiverGone;

impl EventGenerator {
    /// Prepares the generator. The run starts when this returns; the slow preparations are done by
    /// then.
    pub(super) fn new(
        mut stream: DeliveryStream,
        pace: SendPace,
        limits: RunLimits,
        stop: StopSignal,
        body_hashes: BodyHashes,
    ) -> (Self, mpsc::Receiver<EventChunk>, Arc<GeneratorProgress>) {
        let (chunk_sender, chunks) = mpsc::channel(MAX_CHUNKS);
        let progress = Arc::new(GeneratorProgress::default());
        let start_ms = stream.now_ms();
        progress.set_simulated_ms(start_ms);
        let renderer = PayloadRenderer::new(Arc::clone(stream.plan()));
        stream.compute();
        let pacer = Pacer::new(pace, start_ms);
        let started_at = pacer.started_at();
        let generator = Self {
            renderer,
            forecast: Forecast::new(stream.max_reading_span_ms()),
            stream,
            now: started_at,
            until_ms: pacer.clock_limit_ms(started_at, 2 * POLL_INTERVAL),
            pacer,
            limits,
            stop,
            progress: Arc::clone(&progress),
            body_hashes,
            chunk_sender,
            last_stall: (started_at, started_at),
            generated: 0,
            bodies: Vec::new(),
            chunk: Vec::with_capacity(CHUNK_LEN),
        };
        (generator, chunks, progress)
    }

    pub(super) fn started_at(&self) -> Instant {
        self.pacer.started_at()
    }

    /// Generates events until a limit or the stop signal, then the rest. Returns the true positions
    /// at the end.
    pub(super) fn run(mut self) -> GroundTruth {
        let _ = self.generate();
        self.stream.truth()
    }

    fn generate(&mut self) -> Result<(), ReceiverGone> {
        let mut held_back = None;
        while !self.is_over() {
            let Some(delivery) = self.stream.next_ready() else {
                if self.stream.now_ms() < self.until_ms {
                    self.compute()?;
                } else {
                    // Nothing is due yet.
                    self.flush()?;
                    std::thread::sleep(POLL_INTERVAL);
                    self.update_clock();
                }
                continue;
            };
            let send_time = self.pacer.schedule_next(delivery.due_ms);
            if let SendTime::At(at) = send_time
                && !self.wait_until(at, delivery.due_ms)?
            {
                held_back = Some(delivery);
                break;
            }
            self.push(&delivery, self.shift_past_stall(send_time), false)?;
        }
        self.flush()?;
        self.send_rest(held_back)
    }

    /// Sends the rest at the given pace. An open loop sends only the events that complete the
    /// totals.
    fn send_rest(&mut self, held_back: Option<PlannedDelivery>) -> Result<(), ReceiverGone> {
        // Computed events must not be sent before they have happened.
        self.sleep_until(self.pacer.instant_of(self.stream.now_ms()))?;
        self.stream.end();
        self.progress.set_ended();
        self.pacer.start_rest(Instant::now());
        let mut held_back = held_back;
        while let Some(delivery) = held_back.take().or_else(|| self.stream.next()) {
            if self.pacer.is_paced() && !is_needed_for_totals(&delivery) {
                continue;
            }
            let Some(send_time) = self.pacer.schedule_rest() else {
                self.progress.count_omitted();
                continue;
            };
            if let SendTime::At(at) = send_time {
                self.flush()?;
                self.sleep_until(at)?;
            }
            self.progress.count_after_end();
            // It must not be dropped, however long it waits for a connection.
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

    /// Waits for the send time of a delivery that is due at `due_ms`. Returns `false` if the run
    /// ends before.
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
            let remaining = at.saturating_duration_since(self.now);
            let ahead_ms = self.pacer.lookahead_limit_ms(self.until_ms, due_ms);
            if self.stream.now_ms() < ahead_ms && remaining > self.last_stall.1 - self.last_stall.0
            {
                self.compute()?;
            } else {
                std::thread::sleep(remaining.min(POLL_INTERVAL));
            }
        }
        Ok(self.end_at().is_none_or(|end| at < end))
    }

    /// Sleeps until a moment, or until the receiver is gone.
    fn sleep_until(&self, at: Instant) -> Result<(), ReceiverGone> {
        loop {
            if self.chunk_sender.is_closed() {
                return Err(ReceiverGone);
            }
            let remaining = at.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Ok(());
            }
            std::thread::sleep(remaining.min(POLL_INTERVAL));
        }
    }

    /// Advances the city by one tick. Deliveries that are already due are handed over first.
    fn compute(&mut self) -> Result<(), ReceiverGone> {
        if self.pacer.is_paced() {
            self.flush()?;
        }
        let started_at = Instant::now();
        self.stream.compute();
        self.update_clock();
        self.last_stall = (started_at, self.now);
        Ok(())
    }

    /// Postpones events that became due while a tick was computed: the server did not delay them.
    fn shift_past_stall(&self, send_time: SendTime) -> SendTime {
        let (from, until) = self.last_stall;
        match send_time {
            SendTime::At(at) if at > from && at < until => SendTime::At(until),
            send_time => send_time,
        }
    }

    fn push(
        &mut self,
        delivery: &PlannedDelivery,
        send_time: SendTime,
        after_end: bool,
    ) -> Result<(), ReceiverGone> {
        let begin = self.bodies.len();
        let data = self.renderer.render(delivery, &mut self.bodies);
        let message = &delivery.message;
        let (body_hash, data_hash) = if self.body_hashes == BodyHashes::Compute {
            (
                hash::hash_bytes(&self.bodies[begin..]),
                hash::hash_bytes(&self.bodies[data]),
            )
        } else {
            (0, 0)
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
            body_hash,
            data_hash,
            after_end,
        };
        let end = self.bodies.len();
        self.chunk.push(RenderedEvent {
            outgoing,
            send_time,
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

    /// Hands over the chunk, and waits until there is room for it.
    fn flush(&mut self) -> Result<(), ReceiverGone> {
        let Some(last) = self.chunk.last() else {
            return Ok(());
        };
        let simulated_ms = last.outgoing.due_ms;
        self.progress.set_simulated_ms(simulated_ms);
        self.progress.set_caught_up(self.pacer.has_caught_up());
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

/// Returns `true` if a delivery is needed for entries and exits to add up to the true positions.
fn is_needed_for_totals(delivery: &PlannedDelivery) -> bool {
    delivery.message.event_type == EventType::Traffic
        && delivery.kind != DeliveryKind::Invalid
        && !delivery.kind.is_copy()
}

#[cfg(test)]
pub(super) mod tests;
