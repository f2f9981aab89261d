//! The bulkheads: each topic has a lane of its own, so that a dead topic fills its lane and nothing else.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::client::lane_bytes;
use crate::config::Config;
use crate::rejection::Rejection;
use butlr_event::destination::Destination;

/// How long a topic that may not be written to is left alone.
const DENIAL_PERIOD: Duration = Duration::from_secs(10);

/// What the metadata watch last saw of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TopicState {
    /// Not looked up yet: Kafka was not reached since the start. Events are tried.
    Unknown,
    /// It is there.
    Available,
    /// It does not exist.
    Missing,
    /// The bridge's user may not see it.
    Forbidden,
}

impl TopicState {
    /// As `/status` shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            TopicState::Unknown => "unknown",
            TopicState::Available => "available",
            TopicState::Missing => "missing",
            TopicState::Forbidden => "forbidden",
        }
    }
}

/// One topic's way into librdkafka, with a budget of its own.
///
/// Invariant: the sum of all lanes' budgets fits librdkafka's queue (`client.rs` sizes it so), which is shared by all
/// topics. A record keeps its permit until its delivery report, also when nobody waits for that any more.
#[derive(Debug)]
pub struct TopicLane {
    destination: Destination,
    topic: String,
    state: AtomicU8,
    circuit_open: AtomicBool,
    denied_at: Mutex<Option<Instant>>,
    events: AtomicUsize,
    bytes: AtomicUsize,
    max_events: usize,
    max_bytes: usize,
}

impl TopicLane {
    /// One for each destination, in the order of [`Destination::index`], as they are configured.
    pub fn all(config: &Config) -> Arc<[Arc<Self>; Destination::COUNT]> {
        Arc::new(Destination::all().map(|destination| {
            let topic = config.topics.for_destination(destination).name.clone();
            let events = config.kafka.max_in_flight_per_topic;
            Self::new(destination, topic, events, lane_bytes(&config.http))
        }))
    }

    /// An empty lane; limits in records and in bytes of their values.
    pub fn new(
        destination: Destination,
        topic: String,
        max_events: usize,
        max_bytes: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            destination,
            topic,
            state: AtomicU8::new(TopicState::Unknown as u8),
            circuit_open: AtomicBool::new(false),
            denied_at: Mutex::new(None),
            events: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            max_events,
            max_bytes,
        })
    }

    /// What goes here.
    pub fn destination(&self) -> Destination {
        self.destination
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// What the watch last saw.
    pub fn state(&self) -> TopicState {
        match self.state.load(Ordering::Relaxed) {
            s if s == TopicState::Available as u8 => TopicState::Available,
            s if s == TopicState::Missing as u8 => TopicState::Missing,
            s if s == TopicState::Forbidden as u8 => TopicState::Forbidden,
            _ => TopicState::Unknown,
        }
    }

    /// Takes what the watch saw; returns what was before.
    pub fn set_state(&self, state: TopicState) -> TopicState {
        let before = self.state();
        self.state.store(state as u8, Ordering::Relaxed);
        before
    }

    /// Kafka refused a record for want of permission to write, which metadata does not tell: the topic counts as forbidden
    /// for a while, then events are tried again.
    pub fn deny(&self) {
        *self
            .denied_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if self.set_state(TopicState::Forbidden) != TopicState::Forbidden {
            tracing::error!(
                topic = self.topic,
                "the topic is forbidden: its events are spooled, or answered 503 without a spool; grant the bridge's user Write"
            );
        }
    }

    /// Whether a record was refused so a short while ago.
    pub fn is_denied(&self) -> bool {
        let denied = self
            .denied_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        denied.is_some_and(|at| at.elapsed() < DENIAL_PERIOD)
    }

    /// Kafka did not confirm a record of this topic in time: until it confirms one, others are not made to wait for it.
    pub fn open_circuit(&self) {
        self.circuit_open.store(true, Ordering::Relaxed);
    }

    /// Whether that is so.
    pub fn is_circuit_open(&self) -> bool {
        self.circuit_open.load(Ordering::Relaxed)
    }

    /// Kafka confirmed a record.
    fn close_circuit(&self) {
        // Nearly always closed: reading a shared line is cheaper than writing it.
        if self.is_circuit_open() {
            self.circuit_open.store(false, Ordering::Relaxed);
        }
    }

    /// Records in flight.
    pub fn in_flight(&self) -> usize {
        self.events.load(Ordering::Relaxed)
    }

    /// A place for one record of `bytes` bytes, or why there is none: at once, without asking Kafka.
    ///
    /// # Errors
    /// [`Rejection::TopicMissing`], [`Rejection::TopicForbidden`], [`Rejection::TopicOverloaded`].
    pub fn acquire_permit(self: &Arc<Self>, bytes: usize) -> Result<LanePermit, Rejection> {
        match self.state() {
            TopicState::Missing => return Err(Rejection::TopicMissing),
            TopicState::Forbidden => return Err(Rejection::TopicForbidden),
            TopicState::Unknown | TopicState::Available => {}
        }
        let permit = LanePermit {
            lane: Arc::clone(self),
            bytes,
        };
        let events = self.events.fetch_add(1, Ordering::Relaxed);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // An empty lane takes a record of any size: the limit on one event's size is not this one.
        if events >= self.max_events || (before > 0 && before + bytes > self.max_bytes) {
            return Err(Rejection::TopicOverloaded);
        }
        Ok(permit)
    }
}

/// A record's place in its lane, given back when dropped.
#[derive(Debug)]
pub struct LanePermit {
    lane: Arc<TopicLane>,
    bytes: usize,
}

impl LanePermit {
    /// Kafka confirmed the record.
    pub(super) fn close_circuit(&self) {
        self.lane.close_circuit();
    }
}

impl Drop for LanePermit {
    fn drop(&mut self) {
        self.lane.events.fetch_sub(1, Ordering::Relaxed);
        self.lane.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_bounded_in_events_and_bytes_and_recovers() {
        let lane = TopicLane::new(Destination::Quarantine, "t".into(), 2, 100);
        let first = lane.acquire_permit(60).unwrap();
        assert_eq!(
            lane.acquire_permit(60).unwrap_err(),
            Rejection::TopicOverloaded
        );
        let second = lane.acquire_permit(40).unwrap();
        assert_eq!(
            lane.acquire_permit(0).unwrap_err(),
            Rejection::TopicOverloaded
        );
        drop(first);
        drop(second);
        assert_eq!(lane.in_flight(), 0);
        let large = lane.acquire_permit(1_000).unwrap();
        drop(large);
        lane.set_state(TopicState::Missing);
        assert_eq!(lane.acquire_permit(1).unwrap_err(), Rejection::TopicMissing);
        assert_eq!(lane.set_state(TopicState::Forbidden), TopicState::Missing);
        assert_eq!(
            lane.acquire_permit(1).unwrap_err(),
            Rejection::TopicForbidden
        );
        lane.set_state(TopicState::Available);
        assert!(lane.acquire_permit(1).is_ok());
    }
}
