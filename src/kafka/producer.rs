//! The producer: records in, delivery reports out, and a fresh one when librdkafka calls it fatal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rdkafka::Message;
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
use super::lane::LanePermit;
use super::report::{
    DeliveryObserver, DeliveryReport, InFlightRecord, OffsetFilter, PendingDelivery, WakerQueue,
};
use crate::dedup::claim::Claim;
use crate::metrics::{LateReport, Metrics, TransmitTotals};
use crate::record::ProducerRecord;
use crate::rejection::Rejection;

/// Longest wait of one poll for delivery reports, and so how long a producer takes to end.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What librdkafka calls back into.
pub(super) struct ProducerCallbacks {
    metrics: Arc<Metrics>,
    contact: Arc<Contact>,
    fatal: AtomicBool,
    supervisor: Mutex<Option<Thread>>,
    offset_filter: OffsetFilter,
}

impl ProducerCallbacks {
    fn mark_fatal(&self) {
        self.fatal.store(true, Ordering::Release);
        self.wake_supervisor();
    }

    fn wake_supervisor(&self) {
        let supervisor = self.supervisor.lock();
        if let Some(thread) = &*supervisor.unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }
}

impl ClientContext for ProducerCallbacks {
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
        // A fatal error comes here under its own code: the supervisor asks librdkafka which it is. Lost connections are no
        // reason to ask, and there can be many.
        let passing = [
            AllBrokersDown,
            BrokerTransportFailure,
            Resolve,
            OperationTimedOut,
        ];
        if error
            .rdkafka_error_code()
            .is_none_or(|code| !passing.contains(&code))
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

impl ProducerContext for ProducerCallbacks {
    type DeliveryOpaque = Arc<InFlightRecord>;

    fn delivery(&self, result: &DeliveryResult<'_>, slot: Arc<InFlightRecord>) {
        let report = match result {
            Ok(message) => {
                self.contact.note_confirmation();
                match self
                    .offset_filter
                    .next_receipt(message.partition(), message.offset())
                {
                    Some(receipt) => DeliveryReport::Stored(receipt),
                    None => {
                        self.metrics.kafka.implicit_acks.inc();
                        DeliveryReport::ImplicitAck
                    }
                }
            }
            Err((error, _)) => {
                let code = error.rdkafka_error_code();
                if code.is_some_and(is_producer_fatal) {
                    self.mark_fatal();
                }
                DeliveryReport::Failed(code.unwrap_or(RDKafkaErrorCode::Unknown))
            }
        };
        if !slot.complete(report) {
            self.metrics.count_late_report(match report {
                DeliveryReport::Stored(_) => LateReport::Stored,
                DeliveryReport::ImplicitAck | DeliveryReport::Failed(_) => LateReport::Failed,
            });
        }
    }
}

/// One librdkafka producer with the thread that serves its delivery reports.
struct ProducerInstance {
    started_at: Instant,
    producer: Arc<BaseProducer<ProducerCallbacks, NoCustomPartitioner>>,
    reached: AtomicBool,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl ProducerInstance {
    fn start(config: &ClientConfig, callbacks: ProducerCallbacks) -> KafkaResult<Arc<Self>> {
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
            reached: AtomicBool::new(false),
            stop,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Waits until nothing is in flight, at most `within`, then gives up what is left. Blocks.
    fn close(&self, within: Duration) -> usize {
        let deadline = Instant::now() + within;
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let left = usize::try_from(self.producer.in_flight_count()).unwrap_or(0);
        if left > 0 {
            // Their reports come now, as unknown, through the thread that is still there.
            self.producer
                .purge(PurgeConfig::default().queue().inflight());
            let purged = Instant::now() + Duration::from_secs(1);
            while self.producer.in_flight_count() > 0 && Instant::now() < purged {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.lock();
        if let Some(thread) = thread.unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
        left
    }
}

/// A record that Kafka was not even handed.
#[derive(Debug)]
pub struct QueueError {
    /// Why.
    pub reason: Rejection,
    /// Its claim, given back.
    pub claim: Option<Claim>,
}

/// Publishes records to Kafka. There is one for the whole bridge: a shared producer makes fuller batches.
pub struct Producer {
    config: ClientConfig,
    metrics: Arc<Metrics>,
    contact: Arc<Contact>,
    current: ArcSwap<ProducerInstance>,
}

impl Producer {
    /// Starts librdkafka; does not wait for Kafka.
    ///
    /// # Errors
    /// What librdkafka refuses in the configuration.
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
    ) -> ProducerCallbacks {
        ProducerCallbacks {
            metrics: Arc::clone(metrics),
            contact: Arc::clone(contact),
            fatal: AtomicBool::new(false),
            supervisor: Mutex::new(supervisor),
            offset_filter: OffsetFilter::default(),
        }
    }

    /// Hands a record to librdkafka; never blocks. The [`Delivery`] ends with librdkafka's report, which also decides the
    /// record's claim: stored, certainly not stored, or unknown. `keeping`: see [`Slot::new`].
    ///
    /// # Errors
    /// What librdkafka refuses at once; nothing was queued then, and the claim comes back.
    pub fn send(
        &self,
        record: ProducerRecord<'_>,
        permit: LanePermit,
        claim: Option<Claim>,
        keeping: bool,
        wakeups: &Arc<WakerQueue>,
    ) -> Result<PendingDelivery, Box<QueueError>> {
        let slot = InFlightRecord::new(permit, claim, keeping, Arc::clone(wakeups));
        let delivery = PendingDelivery::new(Arc::clone(&slot));
        let bytes = record.value.len();
        match self.enqueue(record, slot) {
            Ok(()) => Ok(delivery),
            Err(code) => Err(Box::new(QueueError {
                reason: rejection_for_code(code, bytes),
                claim: delivery.take_claim(),
            })),
        }
    }

    /// Hands over the record of an entry of the spool, which hears of the report; never blocks.
    ///
    /// # Errors
    /// What librdkafka refuses at once; nothing was queued then, and the entry comes back.
    pub fn send_entry(
        &self,
        record: ProducerRecord<'_>,
        permit: LanePermit,
        entry: Box<dyn DeliveryObserver>,
    ) -> Result<(), (RDKafkaErrorCode, Box<dyn DeliveryObserver>)> {
        let slot = InFlightRecord::with_observer(permit, entry);
        let in_flight = Arc::clone(&slot);
        self.enqueue(record, slot).map_err(|code| {
            let entry = in_flight.take_observer();
            (
                code,
                entry.expect("it was not queued, so nobody else has it"),
            )
        })
    }

    fn enqueue(
        &self,
        record: ProducerRecord<'_>,
        slot: Arc<InFlightRecord>,
    ) -> Result<(), RDKafkaErrorCode> {
        let native = BaseRecord::with_opaque_to(record.topic, slot)
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
        })?;
        Ok(())
    }

    /// Lets the thread that calls [`Producer::replace_if_fatal`] be woken when that is due.
    pub(super) fn set_supervisor(&self, thread: Thread) {
        let running = self.current.load();
        let mut supervisor = running
            .producer
            .context()
            .supervisor
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *supervisor = Some(thread);
    }

    /// A producer that librdkafka calls fatal stays so: puts a fresh one in its place. What was pending in the old one
    /// counts as unknown. Returns whether that was due.
    pub(super) fn replace_if_fatal(&self) -> bool {
        let old = self.current.load_full();
        let cause = old.producer.client().fatal_error();
        if cause.is_none() && !old.producer.context().fatal.load(Ordering::Acquire) {
            return false;
        }
        match cause {
            Some(cause) => tracing::error!(?cause, "librdkafka calls the producer fatal"),
            None => tracing::error!("the producer will not deliver any more"),
        }
        self.replace(old);
        true
    }

    /// A record was not reported for `silent`: whoever watches is to put a fresh producer in place of the one that has it. One
    /// that began since does not.
    pub(crate) fn request_replacement(&self, silent: Duration) {
        let running = self.current.load();
        if running.started_at.elapsed() >= silent {
            running.producer.context().mark_fatal();
        }
    }

    /// A producer that delivers nothing although Kafka is there is replaced likewise.
    pub(super) fn replace_stuck(&self) {
        tracing::error!("Kafka answers, and librdkafka delivers nothing");
        self.replace(self.current.load_full());
    }

    fn replace(&self, old: Arc<ProducerInstance>) {
        let callbacks =
            Self::new_callbacks(&self.metrics, &self.contact, Some(std::thread::current()));
        match ProducerInstance::start(&self.config, callbacks) {
            Ok(fresh) => {
                self.current.store(fresh);
                self.metrics.kafka.producer_replacements.inc();
                tracing::warn!("a fresh producer takes over");
                std::thread::spawn(move || {
                    // Whoever is just handing it a record: what comes after the last poll would never be reported.
                    let latest = Instant::now() + Duration::from_secs(1);
                    while Arc::strong_count(&old) > 1 && Instant::now() < latest {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    old.close(Duration::ZERO)
                });
            }
            Err(error) => tracing::error!(%error, "no fresh producer could be made; trying again"),
        }
    }

    /// Whether the current producer has ever got through to Kafka; waits for that, at most `within`. So the first event does
    /// not pay for the first connection, its login and the cluster's metadata. Blocks.
    pub(super) fn await_connection(&self, within: Duration) -> bool {
        let running = self.current.load_full();
        // Asked once only: each answer is a string that the wrapper does not free.
        if !running.reached.load(Ordering::Relaxed) {
            let asked = Instant::now();
            let cluster = running.producer.client().fetch_cluster_id(within);
            // Some servers have no id to tell: that they tell so at once is an answer, too.
            let reached = cluster.is_some() || asked.elapsed() < within / 2;
            running.reached.store(reached, Ordering::Relaxed);
        }
        running.reached.load(Ordering::Relaxed)
    }

    /// Waits for all reports, at most `within`; returns how many records were given up. Blocks.
    pub fn close(&self, within: Duration) -> usize {
        self.current.load_full().close(within)
    }
}

/// Errors after which a producer never delivers again. librdkafka does not call the latter three fatal where there are no
/// transactions: it counts its epoch up at each permanent error, after 32,767 of them begins again at 0, and from then on
/// the broker refuses every record.
fn is_producer_fatal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::*;
    matches!(
        code,
        Fatal | InvalidProducerEpoch | InvalidProducerIdMapping | UnknownProducerId
    )
}

/// Above this an event that Kafka finds too large is so itself; below, it was in a batch that is.
const LARGE_EVENT_BYTES: usize = 64 * 1024;

/// What an error of Kafka means for the sender of an event of `bytes` bytes.
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
