//! The Kafka watch: checks off the event path that Kafka is reachable, that the topics exist, and
//! that the producer still works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::error::KafkaResult;
use rdkafka::producer::{BaseProducer, NoCustomPartitioner, Producer as _};
use rdkafka::types::RDKafkaRespErr;

use super::contact::Contact;
use super::lane::{TopicLane, TopicState};
use super::producer::Producer;
use super::quiet_context::QuietContext;
use super::report::OutcomeReceiver;

/// Interval between two checks of all topics.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Longest wait for one metadata response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Errors to poll per round; more than librdkafka reports between two checks.
const MAX_ERRORS_PER_ROUND: u32 = 100;
/// Time without a confirmed record, while Kafka responds to requests, after which the producer is
/// replaced.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two replacements: a producer with a fatal error at each start (no permission for
/// idempotent writes) must not cause a busy loop.
const REPLACE_PAUSE: Duration = Duration::from_millis(500);

/// Client that only requests metadata.
///
/// It is not the producer's client: a librdkafka client keeps refreshing every topic it was ever
/// asked about, and each of its rounds over partitions would cover all ten topics even if events
/// arrive for two of them.
type MetadataClient = BaseProducer<QuietContext, NoCustomPartitioner>;

/// Treatment of topics that are missing when the watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingTopics {
    /// They are about to be created.
    Create,
    /// They are reported as errors.
    Report,
}

/// Thread that watches Kafka; ends when dropped.
pub struct KafkaWatch {
    signals: Arc<WatchSignals>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct WatchSignals {
    stop: AtomicBool,
    /// Missing topics are about to be created, so they are no reason for an error.
    is_creating: AtomicBool,
}

/// Marks the time during which missing topics are created. Dropping it starts a check at once.
pub struct TopicCreationGuard {
    signals: Arc<WatchSignals>,
    thread: Thread,
}

impl Drop for TopicCreationGuard {
    fn drop(&mut self) {
        self.signals.is_creating.store(false, Ordering::Release);
        self.thread.unpark();
    }
}

impl KafkaWatch {
    /// Starts the watch over `producer` and the topics of `lanes`, with a client built from
    /// `config`.
    ///
    /// # Errors
    /// librdkafka's objection to the configuration.
    pub fn start<R: OutcomeReceiver>(
        config: &ClientConfig,
        producer: Arc<Producer<R>>,
        lanes: Vec<Arc<TopicLane>>,
        missing_topics: MissingTopics,
    ) -> KafkaResult<Self> {
        let client = MetadataClient::from_config_and_context(config, QuietContext)?;
        let signals = Arc::new(WatchSignals::default());
        let is_creating = missing_topics == MissingTopics::Create;
        signals.is_creating.store(is_creating, Ordering::Release);
        let lanes = lanes.into_iter().map(|lane| WatchedLane {
            lane,
            seemed_missing: false,
        });
        let watch_loop = WatchLoop {
            client,
            producer,
            lanes: lanes.collect(),
            signals: Arc::clone(&signals),
            is_up: None,
            replaced_at: None,
            stall_detector: StallDetector::default(),
        };
        let thread = std::thread::Builder::new()
            .name("kafka-watch".into())
            .spawn(move || watch_loop.run())
            .expect("the system can start a thread");
        Ok(Self { signals, thread })
    }

    /// Guard to hold while missing topics are created.
    pub fn start_topic_creation(&self) -> TopicCreationGuard {
        TopicCreationGuard {
            signals: Arc::clone(&self.signals),
            thread: self.thread.thread().clone(),
        }
    }
}

impl Drop for KafkaWatch {
    fn drop(&mut self) {
        // A check that waits for a response ends by itself; the process need not wait for it.
        self.signals.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }
}

/// State of the watch's thread.
struct WatchLoop<R: OutcomeReceiver> {
    client: MetadataClient,
    producer: Arc<Producer<R>>,
    lanes: Vec<WatchedLane>,
    signals: Arc<WatchSignals>,
    /// Result of the last check; `None` before the first.
    is_up: Option<bool>,
    replaced_at: Option<Instant>,
    stall_detector: StallDetector,
}

struct WatchedLane {
    lane: Arc<TopicLane>,
    /// The last response said that this available topic is missing. A second one has to confirm it.
    seemed_missing: bool,
}

impl<R: OutcomeReceiver> WatchLoop<R> {
    fn run(mut self) {
        self.producer.set_supervisor(std::thread::current());
        while !self.is_stopping() {
            self.replace_after_fatal_error();
            let is_up = self.producer.await_connection(RESPONSE_TIMEOUT) && self.check_topics();
            self.report_state(is_up);
            let expects_reports = is_up && self.has_due_records();
            if self
                .stall_detector
                .detect_stall(expects_reports, &self.producer.contact)
            {
                self.producer.replace_stuck();
            }
            // Errors wait until they are polled, one per call. The producer reports the same ones.
            (0..MAX_ERRORS_PER_ROUND).for_each(|_| self.client.poll(Duration::ZERO));
            let is_settled = is_up && !self.lanes.iter().any(|watched| watched.seemed_missing);
            std::thread::park_timeout(if is_settled {
                CHECK_INTERVAL
            } else {
                CHECK_INTERVAL / 4
            });
        }
    }

    fn is_stopping(&self) -> bool {
        self.signals.stop.load(Ordering::Acquire)
    }

    fn replace_after_fatal_error(&mut self) {
        let is_due = self
            .replaced_at
            .is_none_or(|at| at.elapsed() >= REPLACE_PAUSE);
        if is_due && self.producer.replace_if_fatal() {
            self.replaced_at = Some(Instant::now());
        }
    }

    fn report_state(&mut self, is_up: bool) {
        self.producer.metrics.kafka.up.set(is_up.into());
        if self.is_up.replace(is_up) == Some(is_up) {
            return;
        }
        if is_up {
            tracing::info!("Kafka is reachable");
        } else {
            tracing::warn!("Kafka is not reachable; retrying");
        }
    }

    /// Returns `true` if an available topic has records to confirm.
    fn has_due_records(&self) -> bool {
        let mut lanes = self.lanes.iter().map(|watched| &watched.lane);
        lanes.any(|lane| lane.state() == TopicState::Available && lane.in_flight() > 0)
    }

    /// Checks all topics, each requested by name because a listing of all topics leaves out the
    /// forbidden ones. Returns `true` if Kafka responds.
    fn check_topics(&mut self) -> bool {
        for index in 0..self.lanes.len() {
            if self.is_stopping() {
                return true;
            }
            let WatchedLane {
                lane,
                seemed_missing,
            } = &mut self.lanes[index];
            let metadata = self
                .client
                .client()
                .fetch_metadata(Some(lane.topic()), RESPONSE_TIMEOUT);
            let contact = &self.producer.contact;
            let Ok(metadata) = metadata else {
                return contact.age().is_some_and(|age| age < RESPONSE_TIMEOUT);
            };
            contact.note_contact();
            let state = match metadata.topics().first() {
                Some(topic) => classify_topic(topic.error(), topic.partitions().len()),
                None => TopicState::Missing,
            };
            // Any broker may respond, and one that has just started may not know the topics yet.
            let seems_missing =
                state == TopicState::Missing && lane.state() == TopicState::Available;
            *seemed_missing = seems_missing && !*seemed_missing;
            if *seemed_missing {
                continue;
            }
            let state = if state == TopicState::Available && lane.is_write_refused_recently() {
                TopicState::Forbidden
            } else {
                state
            };
            self.update_topic_state(index, state);
        }
        true
    }

    fn update_topic_state(&self, index: usize, state: TopicState) {
        let lane = &self.lanes[index].lane;
        let topic = lane.topic();
        let available = &self.producer.metrics.kafka.topic_available;
        let gauge = available.with_label_values(&[topic]);
        gauge.set((state == TopicState::Available).into());
        if lane.set_state(state) == state {
            return;
        }
        match state {
            TopicState::Available => tracing::info!(topic, "the topic is available"),
            TopicState::Missing if self.signals.is_creating.load(Ordering::Acquire) => {
                tracing::info!(topic, "the topic is missing and will be created")
            }
            TopicState::Missing => tracing::error!(
                topic,
                "the topic is missing: its events are spooled, or get a 503 if there is no spool; create it with `butlr-bridge topics --apply`"
            ),
            TopicState::Forbidden => tracing::error!(
                topic,
                "the topic is forbidden: its events are spooled, or get a 503 if there is no spool; grant the bridge's user Describe and Write"
            ),
            TopicState::Unknown => {}
        }
    }
}

/// Detector of a producer that confirms no record although Kafka responds to requests.
///
/// librdkafka has been seen to deliver nothing any more after its broker was away while the leaders
/// of partitions changed; its own timeouts did not end that.
#[derive(Debug, Default)]
struct StallDetector {
    /// Time since which nothing was confirmed, with the stamp of the last confirmation before.
    unconfirmed_since: Option<(Instant, u64)>,
}

impl StallDetector {
    /// Returns `true` if reports have been due for [`STALL_TIMEOUT`] and none arrived.
    fn detect_stall(&mut self, expects_reports: bool, contact: &Contact) -> bool {
        let last_confirmed = contact.last_confirmed();
        match self.unconfirmed_since {
            _ if !expects_reports => self.unconfirmed_since = None,
            Some((since, before)) if before == last_confirmed => {
                if since.elapsed() >= STALL_TIMEOUT {
                    self.unconfirmed_since = None;
                    return true;
                }
            }
            _ => self.unconfirmed_since = Some((Instant::now(), last_confirmed)),
        }
        false
    }
}

/// Classifies a topic by its metadata.
pub fn classify_topic(error: Option<RDKafkaRespErr>, partitions: usize) -> TopicState {
    use RDKafkaRespErr::*;
    match error {
        Some(RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) => TopicState::Forbidden,
        Some(
            RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
            | RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
            | RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION,
        ) => TopicState::Missing,
        None if partitions == 0 => TopicState::Missing,
        // Other errors (a leader election, say) are transient; librdkafka waits for their end.
        _ => TopicState::Available,
    }
}
