//! The producer: queues records, receives delivery reports, and is replaced after a fatal error.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{
    BaseProducer, BaseRecord, NoCustomPartitioner, Producer as _, ProducerContext, PurgeConfig,
};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaErrorCode;

use super::contact::Contact;
use super::report::{DeliveryOutcome, OffsetFilter, OutcomeReceiver};
use crate::metrics::{LateReport, Metrics, TransmitTotals};
use crate::record::ProducerRecord;
use crate::rejection::Rejection;
use crate::sync::lock;

/// Longest wait of one poll for delivery reports. Bounds the time a producer takes to end.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Time for the outcomes of purged records to arrive.
const PURGE_TIMEOUT: Duration = Duration::from_secs(1);
/// Poll interval while the producer's queue empties.
const CLOSE_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// librdkafka's callbacks into the bridge. `R` travels with each record.
pub(super) struct ProducerCallbacks<R> {
    metrics: Arc<Metrics>,
    contact: Arc<Contact>,
    is_fatal: AtomicBool,
    supervisor: Mutex<Option<Thread>>,
    offset_filter: OffsetFilter,
    receiver: PhantomData<fn(R)>,
}

impl<R> ProducerCallbacks<R> {
    fn mark_fatal(&self) {
        self.is_fatal.store(true, Ordering::Release);
        self.wake_supervisor();
    }

    fn wake_supervisor(&self) {
        if let Some(thread) = &*lock(&self.supervisor) {
            thread.unpark();
        }
    }
}

impl<R: OutcomeReceiver> ClientContext for ProducerCallbacks<R> {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel::*;
        match level {
            Emerg | Alert | Critical | Error => {
                tracing::warn!(target: "librdkafka", facility, "{message}")
            }
            Warning | Notice => tracing::info!(target: "librdkafka", facility, "{message}"),
            Info | Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        use RDKafkaErrorCode::*;
        tracing::debug!(%error, reason, "librdkafka reports an error");
        // A fatal error arrives here under its own code, so the supervisor asks librdkafka whether
        // there is one. Lost connections, of which there can be many, are no reason to ask.
        let transient = [
            AllBrokersDown,
            BrokerTransportFailure,
            Resolve,
            OperationTimedOut,
        ];
        if error
            .rdkafka_error_code()
            .is_none_or(|code| !transient.contains(&code))
        {
            self.wake_supervisor();
        }
    }

    fn stats(&self, statistics: Statistics) {
        let kafka = &self.metrics.kafka;
        let brokers = || statistics.brokers.values();
        let up = brokers().filter(|b| b.nodeid >= 0 && b.state == "UP");
        kafka.brokers_up.set(up.count() as i64);
        kafka.queue_messages.set(statistics.msg_cnt as i64);
        kafka.queue_bytes.set(statistics.msg_size as i64);
        kafka
            .requests_in_flight
            .set(brokers().map(|b| b.waitresp_cnt).sum());
        kafka.update_transmit_totals(TransmitTotals {
            errors: brokers().map(|b| b.txerrs + b.req_timeouts).sum(),
            retries: brokers().map(|b| b.txretries).sum(),
        });
        let round_trips = || brokers().filter_map(|b| b.rtt.as_ref());
        let seconds = |micros: Option<i64>| micros.unwrap_or(0) as f64 / 1e6;
        let set = |quantile, value| {
            let gauge = kafka.round_trip.with_label_values(&[quantile]);
            gauge.set(seconds(value));
        };
        set("0.5", round_trips().map(|w| w.p50).max());
        set("0.99", round_trips().map(|w| w.p99).max());
    }
}

impl<R: OutcomeReceiver> ProducerContext for ProducerCallbacks<R> {
    type DeliveryOpaque = Arc<R>;

    fn delivery(&self, report: &DeliveryResult<'_>, receiver: Arc<R>) {
        let outcome = DeliveryOutcome::from_report(report, &self.offset_filter);
        if report.is_ok() {
            self.contact.note_confirmation();
            if !outcome.is_stored() {
                self.metrics.kafka.implicit_acks.inc();
            }
        }
        if outcome.error_code().is_some_and(is_producer_fatal) {
            self.mark_fatal();
        }
        if !receiver.complete(outcome) {
            self.metrics.count_late_report(match outcome {
                DeliveryOutcome::Stored(_) => LateReport::Stored,
                DeliveryOutcome::Rejected(_) | DeliveryOutcome::Unknown(_) => LateReport::Failed,
            });
        }
    }
}

/// One librdkafka producer with the thread that polls its delivery reports.
struct ProducerInstance<R: OutcomeReceiver> {
    started_at: Instant,
    producer: Arc<BaseProducer<ProducerCallbacks<R>, NoCustomPartitioner>>,
    is_connected: AtomicBool,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<R: OutcomeReceiver> ProducerInstance<R> {
    fn start(config: &ClientConfig, callbacks: ProducerCallbacks<R>) -> KafkaResult<Arc<Self>> {
        let producer = Arc::new(BaseProducer::from_config_and_context(config, callbacks)?);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new()
            .name("delivery-reports".into())
            .spawn({
                let (producer, stop) = (Arc::clone(&producer), Arc::clone(&stop));
                move || {
                    while !stop.load(Ordering::Acquire) {
                        producer.poll(POLL_INTERVAL);
                    }
                }
            })
            .expect("the system can start a thread");
        Ok(Arc::new(Self {
            started_at: Instant::now(),
            producer,
            is_connected: AtomicBool::new(false),
            stop,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Waits at most `timeout` until nothing is in flight, then purges the remaining records and
    /// returns their number. Blocks.
    fn close(&self, timeout: Duration) -> usize {
        let remaining = self.wait_until_empty(timeout);
        if remaining > 0 {
            // Their outcomes are unknown and arrive now, on the polling thread.
            self.producer
                .purge(PurgeConfig::default().queue().inflight());
            self.wait_until_empty(PURGE_TIMEOUT);
        }
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
        remaining
    }

    /// Waits at most `timeout` until nothing is in flight. Returns the number of remaining records.
    fn wait_until_empty(&self, timeout: Duration) -> usize {
        let deadline = Instant::now() + timeout;
        loop {
            let remaining = usize::try_from(self.producer.in_flight_count()).unwrap_or(0);
            if remaining == 0 || Instant::now() >= deadline {
                return remaining;
            }
            std::thread::sleep(CLOSE_POLL_INTERVAL);
        }
    }
}

/// Producer of the whole bridge, shared because that makes fuller batches. `R` travels with each
/// record and receives the outcome of its delivery.
pub struct Producer<R: OutcomeReceiver> {
    config: ClientConfig,
    pub(super) metrics: Arc<Metrics>,
    pub(super) contact: Arc<Contact>,
    current: ArcSwap<ProducerInstance<R>>,
}

impl<R: OutcomeReceiver> Producer<R> {
    /// Starts librdkafka; does not wait for Kafka.
    ///
    /// # Errors
    /// librdkafka's objection to the configuration.
    pub fn start(
        config: ClientConfig,
        metrics: Arc<Metrics>,
        contact: Arc<Contact>,
    ) -> KafkaResult<Self> {
        let callbacks = Self::new_callbacks(&metrics, &contact, None);
        let running = ProducerInstance::start(&config, callbacks)?;
        Ok(Self {
            config,
            metrics,
            contact,
            current: ArcSwap::new(running),
        })
    }

    fn new_callbacks(
        metrics: &Arc<Metrics>,
        contact: &Arc<Contact>,
        supervisor: Option<Thread>,
    ) -> ProducerCallbacks<R> {
        ProducerCallbacks {
            metrics: Arc::clone(metrics),
            contact: Arc::clone(contact),
            is_fatal: AtomicBool::new(false),
            supervisor: Mutex::new(supervisor),
            offset_filter: OffsetFilter::default(),
            receiver: PhantomData,
        }
    }

    /// Queues a record for delivery; never blocks.
    ///
    /// # Errors
    /// librdkafka's code if it refuses the record at once. Nothing is queued then.
    pub(crate) fn enqueue(
        &self,
        record: ProducerRecord<'_>,
        receiver: Arc<R>,
    ) -> Result<(), RDKafkaErrorCode> {
        let native = BaseRecord::with_opaque_to(record.topic, receiver)
            .key(&*record.key)
            .payload(record.value)
            .timestamp(record.timestamp_ms)
            .headers(record.headers);
        let running = self.current.load();
        running.producer.send(native).map_err(|(error, _)| {
            let code = error.rdkafka_error_code();
            if code.is_some_and(is_producer_fatal) {
                running.producer.context().mark_fatal();
            }
            code.unwrap_or(RDKafkaErrorCode::Unknown)
        })
    }

    /// Sets the thread to unpark when [`Producer::replace_if_fatal`] is due.
    pub(super) fn set_supervisor(&self, thread: Thread) {
        let running = self.current.load();
        *lock(&running.producer.context().supervisor) = Some(thread);
    }

    /// Replaces the producer after a fatal error, from which it never recovers. The outcome of its
    /// pending records is unknown. Returns `true` if there was such an error.
    pub(super) fn replace_if_fatal(&self) -> bool {
        let old = self.current.load_full();
        let cause = old.producer.client().fatal_error();
        if cause.is_none() && !old.producer.context().is_fatal.load(Ordering::Acquire) {
            return false;
        }
        match cause {
            Some(cause) => tracing::error!(?cause, "fatal error of the Kafka producer"),
            None => tracing::error!("the Kafka producer can no longer deliver"),
        }
        self.replace(old);
        true
    }

    /// Requests a replacement of the producer, which has not reported a record for
    /// `unreported_for`. A producer that started later than that is kept.
    pub(crate) fn request_replacement(&self, unreported_for: Duration) {
        let running = self.current.load();
        if running.started_at.elapsed() >= unreported_for {
            running.producer.context().mark_fatal();
        }
    }

    /// Replaces a producer that delivers nothing although Kafka is reachable.
    pub(super) fn replace_stuck(&self) {
        tracing::error!("Kafka responds, but the producer delivers nothing");
        self.replace(self.current.load_full());
    }

    fn replace(&self, old: Arc<ProducerInstance<R>>) {
        let callbacks =
            Self::new_callbacks(&self.metrics, &self.contact, Some(std::thread::current()));
        match ProducerInstance::start(&self.config, callbacks) {
            Ok(fresh) => {
                self.current.store(fresh);
                self.metrics.kafka.producer_replacements.inc();
                tracing::warn!("a new Kafka producer takes over");
                std::thread::spawn(move || {
                    // Wait for threads that are still queuing a record: after the last poll it
                    // would never be reported.
                    let deadline = Instant::now() + Duration::from_secs(1);
                    while Arc::strong_count(&old) > 1 && Instant::now() < deadline {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    old.close(Duration::ZERO)
                });
            }
            Err(error) => {
                tracing::error!(%error, "cannot start a new Kafka producer; retrying")
            }
        }
    }

    /// Returns `true` if the current producer has ever reached Kafka; waits at most `timeout` for
    /// that. This way the first event does not pay for the first connection, its login and the
    /// cluster's metadata. Blocks.
    pub(super) fn await_connection(&self, timeout: Duration) -> bool {
        let running = self.current.load_full();
        // Asked only until it succeeds: each response is a string that the wrapper does not free.
        if !running.is_connected.load(Ordering::Relaxed) {
            let asked_at = Instant::now();
            let cluster_id = running.producer.client().fetch_cluster_id(timeout);
            // Some servers have no cluster id; a quick response without one counts, too.
            let is_connected = cluster_id.is_some() || asked_at.elapsed() < timeout / 2;
            running.is_connected.store(is_connected, Ordering::Relaxed);
        }
        running.is_connected.load(Ordering::Relaxed)
    }

    /// Waits at most `timeout` for all outcomes; returns the number of records given up. Blocks.
    pub fn close(&self, timeout: Duration) -> usize {
        self.current.load_full().close(timeout)
    }
}

/// Returns `true` for an error after which a producer never delivers again.
///
/// Without transactions librdkafka does not treat the last three as fatal. It increments its epoch
/// at each permanent error, wraps to 0 after 32,767 of them, and from then on the broker refuses
/// every record.
fn is_producer_fatal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::*;
    matches!(
        code,
        Fatal | InvalidProducerEpoch | InvalidProducerIdMapping | UnknownProducerId
    )
}

/// Size above which an event that Kafka calls too large is itself too large. A smaller one was part
/// of a batch that was too large.
const LARGE_EVENT_BYTES: usize = 64 * 1024;

/// Rejection of an event of `bytes` bytes whose delivery failed with `code`.
pub fn rejection_for_code(code: RDKafkaErrorCode, bytes: usize) -> Rejection {
    use RDKafkaErrorCode::*;
    match code {
        MessageSizeTooLarge | InvalidMessageSize if bytes > LARGE_EVENT_BYTES => {
            Rejection::EventTooLarge { bytes }
        }
        QueueFull => Rejection::TopicOverloaded,
        UnknownTopic | UnknownTopicOrPartition | UnknownPartition | InvalidTopic => {
            Rejection::TopicMissing
        }
        TopicAuthorizationFailed => Rejection::TopicForbidden,
        MessageTimedOut
        | RequestTimedOut
        | OperationTimedOut
        | BrokerTransportFailure
        | AllBrokersDown
        | PurgeQueue
        | PurgeInflight => Rejection::KafkaUnconfirmed,
        other => Rejection::KafkaRefused(other),
    }
}
