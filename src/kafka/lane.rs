//! Topic lanes: each topic has its own in-flight limit, so that a dead topic fills only its own
//! lane.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::client::lane_bytes;
use crate::config::Config;
use crate::rejection::Rejection;
use crate::sync::lock;
use butlr_event::destination::Destination;

/// Time for which a topic counts as forbidden after Kafka refused a write.
const FORBIDDEN_PERIOD: Duration = Duration::from_secs(10);

/// State of a topic, as the watch last saw it in the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TopicState {
    /// Not looked up yet, because Kafka was not reached since the start. Events are sent.
    Unknown,
    /// The topic exists.
    Available,
    /// The topic does not exist.
    Missing,
    /// The bridge's user may not see the topic or write to it.
    Forbidden,
}

impl TopicState {
    /// Name of the state in `/status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            TopicState::Unknown => "unknown",
            TopicState::Available => "available",
            TopicState::Missing => "missing",
            TopicState::Forbidden => "forbidden",
        }
    }
}

/// Limits of a topic lane.
#[derive(Clone, Copy, Debug)]
pub struct LaneLimits {
    /// Records in flight.
    pub events: usize,
    /// Bytes of their values.
    pub bytes: usize,
}

/// Topic lane: one topic's way into librdkafka, with its own limits.
///
/// Invariant: the limits of all lanes together fit librdkafka's queue, which all topics share and
/// which `client.rs` sizes accordingly. A record holds its permit until its delivery report, even
/// if nobody waits for the report any more.
#[derive(Debug)]
pub struct TopicLane {
    destination: Destination,
    topic: String,
    state: AtomicU8,
    circuit_open: AtomicBool,
    write_refused_at: Mutex<Option<Instant>>,
    events: AtomicUsize,
    bytes: AtomicUsize,
    limits: LaneLimits,
}

impl TopicLane {
    /// Creates the configured lanes, in the order of [`Destination::index`].
    pub fn all(config: &Config) -> Arc<[Arc<Self>; Destination::COUNT]> {
        let limits = LaneLimits {
            events: config.kafka.max_in_flight_per_topic,
            bytes: lane_bytes(&config.http),
        };
        Arc::new(Destination::all().map(|destination| {
            let topic = config.topics.for_destination(destination).name.clone();
            Self::new(destination, topic, limits)
        }))
    }

    /// Creates an empty lane.
    pub fn new(destination: Destination, topic: String, limits: LaneLimits) -> Arc<Self> {
        Arc::new(Self {
            destination,
            topic,
            state: AtomicU8::new(TopicState::Unknown as u8),
            circuit_open: AtomicBool::new(false),
            write_refused_at: Mutex::new(None),
            events: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            limits,
        })
    }

    /// Destination whose records take this lane.
    pub fn destination(&self) -> Destination {
        self.destination
    }

    /// Name of the topic in Kafka, as configured.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// State that the watch last saw, or forbidden since a refused write.
    pub fn state(&self) -> TopicState {
        match self.state.load(Ordering::Relaxed) {
            s if s == TopicState::Available as u8 => TopicState::Available,
            s if s == TopicState::Missing as u8 => TopicState::Missing,
            s if s == TopicState::Forbidden as u8 => TopicState::Forbidden,
            _ => TopicState::Unknown,
        }
    }

    /// Sets the state; returns the previous one.
    pub fn set_state(&self, state: TopicState) -> TopicState {
        let previous = self.state();
        self.state.store(state as u8, Ordering::Relaxed);
        previous
    }

    /// Marks the topic as forbidden for a while because Kafka refused a write, which metadata does
    /// not show. Events are tried again after that.
    pub fn mark_forbidden(&self) {
        *lock(&self.write_refused_at) = Some(Instant::now());
        if self.set_state(TopicState::Forbidden) != TopicState::Forbidden {
            tracing::error!(
                topic = self.topic,
                "the topic is forbidden: its events are spooled, or get a 503 if there is no spool; grant the bridge's user Write"
            );
        }
    }

    /// Returns `true` if Kafka refused a write a short while ago.
    pub fn is_write_refused_recently(&self) -> bool {
        lock(&self.write_refused_at).is_some_and(|at| at.elapsed() < FORBIDDEN_PERIOD)
    }

    /// Opens the circuit because Kafka did not confirm a record in time. Until it confirms one,
    /// other events go straight to the spool.
    pub fn open_circuit(&self) {
        self.circuit_open.store(true, Ordering::Relaxed);
    }

    /// Returns `true` if Kafka has confirmed nothing since it failed to confirm a record.
    pub fn is_circuit_open(&self) -> bool {
        self.circuit_open.load(Ordering::Relaxed)
    }

    fn close_circuit(&self) {
        // Nearly always closed, and reading a shared cache line is cheaper than writing it.
        if self.is_circuit_open() {
            self.circuit_open.store(false, Ordering::Relaxed);
        }
    }

    /// Records that were handed to Kafka and have no delivery report yet.
    pub fn in_flight(&self) -> usize {
        self.events.load(Ordering::Relaxed)
    }

    /// Acquires a permit for one record of `bytes` bytes; does not wait and does not ask Kafka.
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
        let LaneLimits {
            events: max_events,
            bytes: max_bytes,
        } = self.limits;
        // An empty lane accepts a record of any size: the size of one event is limited elsewhere.
        if events >= max_events || (before > 0 && before + bytes > max_bytes) {
            return Err(Rejection::TopicOverloaded);
        }
        Ok(permit)
    }
}

/// Permit for one record in flight; dropping it releases the record's share of the lane.
#[derive(Debug)]
pub struct LanePermit {
    lane: Arc<TopicLane>,
    bytes: usize,
}

impl LanePermit {
    /// Closes the lane's circuit because Kafka confirmed the record.
    pub(crate) fn close_circuit(&self) {
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
        let limits = LaneLimits {
            events: 2,
            bytes: 100,
        };
        let lane = TopicLane::new(Destination::Quarantine, "t".into(), limits);
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
