//! Off the path of events: is Kafka there, are the topics there, is the producer still good.

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
use crate::metrics::Metrics;

/// Between two looks at the topics.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The longest wait for one answer of metadata.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// More than librdkafka reports between two looks.
const MAX_ERRORS_PER_ROUND: u32 = 100;
/// Records that are not confirmed for so long, while Kafka answers questions, are reason for a fresh producer.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two producers: a fatal error at each start (no permission for idempotent writes) must not spin.
const REPLACE_PAUSE: Duration = Duration::from_millis(500);

/// A client that only asks for metadata.
///
/// Not the producer's: what one of librdkafka's clients was asked about it looks after for good, and each of its rounds
/// over partitions would then go over those of all ten topics, also where events come for two of them.
type MetadataClient = BaseProducer<QuietContext, NoCustomPartitioner>;

/// The thread that looks after Kafka; ends when dropped.
pub struct KafkaWatch {
    signals: Arc<WatchSignals>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct WatchSignals {
    stop: AtomicBool,
    /// Missing topics are about to be created: no reason for an error.
    creating: AtomicBool,
}

/// Tells the watch that missing topics are being created; dropping it has the watch look at once.
pub struct TopicCreationGuard {
    signals: Arc<WatchSignals>,
    thread: Thread,
}

impl Drop for TopicCreationGuard {
    fn drop(&mut self) {
        self.signals.creating.store(false, Ordering::Release);
        self.thread.unpark();
    }
}

impl KafkaWatch {
    /// Starts looking, with a client made from `config`; `creating` says that missing topics are about to be created.
    ///
    /// # Errors
    /// What librdkafka refuses in the configuration.
    pub fn start(
        config: &ClientConfig,
        producer: Arc<Producer>,
        lanes: Vec<Arc<TopicLane>>,
        contact: Arc<Contact>,
        metrics: Arc<Metrics>,
        creating: bool,
    ) -> KafkaResult<Self> {
        let lookup = MetadataClient::from_config_and_context(config, QuietContext)?;
        let signals = Arc::new(WatchSignals::default());
        signals.creating.store(creating, Ordering::Release);
        let thread = std::thread::Builder::new()
            .name("kafka-watch".into())
            .spawn({
                let signals = Arc::clone(&signals);
                move || run(&lookup, &producer, &lanes, &contact, &metrics, &signals)
            })
            .expect("the system can start a thread");
        Ok(Self { signals, thread })
    }

    /// Held while missing topics are created.
    pub fn start_topic_creation(&self) -> TopicCreationGuard {
        TopicCreationGuard {
            signals: Arc::clone(&self.signals),
            thread: self.thread.thread().clone(),
        }
    }
}

impl Drop for KafkaWatch {
    fn drop(&mut self) {
        // A look that is waiting for an answer ends by itself; the process need not wait for it.
        self.signals.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }
}

fn run(
    lookup: &MetadataClient,
    producer: &Producer,
    lanes: &[Arc<TopicLane>],
    contact: &Contact,
    metrics: &Metrics,
    signals: &WatchSignals,
) {
    producer.set_supervisor(std::thread::current());
    let mut reached = None;
    let mut doubts = vec![false; lanes.len()];
    let mut replaced: Option<Instant> = None;
    let mut standstill = StallDetector::default();
    while !signals.stop.load(Ordering::Acquire) {
        if replaced.is_none_or(|at| at.elapsed() >= REPLACE_PAUSE) && producer.replace_if_fatal() {
            replaced = Some(Instant::now());
        }
        let up = producer.await_connection(ANSWER_TIMEOUT)
            && check_topics(lookup, lanes, contact, metrics, signals, &mut doubts);
        metrics.kafka.up.set(up.into());
        if standstill.detect_stall(up && has_due_records(lanes), contact) {
            producer.replace_stuck();
        }
        if reached != Some(up) {
            match up {
                true => tracing::info!("Kafka is reached"),
                false => tracing::warn!("Kafka is not reached; trying again"),
            }
            reached = Some(up);
        }
        // Errors wait for someone to take them, one a call; the producer reports the same ones.
        (0..MAX_ERRORS_PER_ROUND).for_each(|_| lookup.poll(Duration::ZERO));
        let calm = up && !doubts.contains(&true);
        std::thread::park_timeout(if calm {
            CHECK_INTERVAL
        } else {
            CHECK_INTERVAL / 4
        });
    }
}

/// Whether a topic that is there has records to confirm.
fn has_due_records(lanes: &[Arc<TopicLane>]) -> bool {
    let mut lanes = lanes.iter();
    lanes.any(|lane| lane.state() == TopicState::Available && lane.in_flight() > 0)
}

/// Since when Kafka answers questions and confirms no record, though there are some to confirm.
///
/// A librdkafka was seen that delivered nothing any more after its broker had been away while the partitions' leaders
/// changed; its own timeouts did not end that.
#[derive(Debug, Default)]
struct StallDetector(Option<(Instant, u64)>);

impl StallDetector {
    /// Takes what was seen just now.
    fn detect_stall(&mut self, due: bool, contact: &Contact) -> bool {
        let confirmed = contact.last_confirmed();
        match self.0 {
            _ if !due => self.0 = None,
            Some((since, before)) if before == confirmed => {
                if since.elapsed() >= STALL_TIMEOUT {
                    self.0 = None;
                    return true;
                }
            }
            _ => self.0 = Some((Instant::now(), confirmed)),
        }
        false
    }
}

/// One look at all topics, each asked for by name: a listing of all would leave out what is forbidden.
fn check_topics(
    lookup: &MetadataClient,
    lanes: &[Arc<TopicLane>],
    contact: &Contact,
    metrics: &Metrics,
    signals: &WatchSignals,
    unconfirmed_missing: &mut [bool],
) -> bool {
    for (lane, doubt) in lanes.iter().zip(unconfirmed_missing) {
        if signals.stop.load(Ordering::Acquire) {
            return true;
        }
        let answer = lookup
            .client()
            .fetch_metadata(Some(lane.topic()), ANSWER_TIMEOUT);
        let state = match &answer {
            Err(_) => return contact.age().is_some_and(|age| age < ANSWER_TIMEOUT),
            Ok(metadata) => metadata
                .topics()
                .first()
                .map_or(TopicState::Missing, |topic| {
                    classify_topic(topic.error(), topic.partitions().len())
                }),
        };
        contact.note_contact();
        // Any broker answers, and one that has just started may not know yet what there is: only its second word counts.
        let missing = state == TopicState::Missing && lane.state() == TopicState::Available;
        *doubt = missing && !*doubt;
        if *doubt {
            continue;
        }
        let state = match state {
            TopicState::Available if lane.is_denied() => TopicState::Forbidden,
            seen => seen,
        };
        update_topic_state(lane, state, metrics, signals);
    }
    true
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
        // Anything else (a leader that is being elected) passes; librdkafka waits for it.
        _ => TopicState::Available,
    }
}

fn update_topic_state(
    lane: &TopicLane,
    state: TopicState,
    metrics: &Metrics,
    signals: &WatchSignals,
) {
    let topic = lane.topic();
    let gauge = metrics.kafka.topic_available.with_label_values(&[topic]);
    gauge.set((state == TopicState::Available).into());
    if lane.set_state(state) == state {
        return;
    }
    match state {
        TopicState::Available => tracing::info!(topic, "the topic is available"),
        TopicState::Missing if signals.creating.load(Ordering::Acquire) => {
            tracing::info!(topic, "the topic is missing and will be created")
        }
        TopicState::Missing => tracing::error!(
            topic,
            "the topic is missing: its events are spooled, or answered 503 without a spool; create it with `butlr-bridge topics --apply`"
        ),
        TopicState::Forbidden => tracing::error!(
            topic,
            "the topic is forbidden: its events are spooled, or answered 503 without a spool; grant the bridge's user Describe and Write"
        ),
        TopicState::Unknown => {}
    }
}
