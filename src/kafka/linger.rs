//! Whether records wait for company.
//!
//! A request with many records costs Kafka, librdkafka and the bridge much less for each of them than requests with few do.
//! But a sender that waits for its answer before it sends the next event is held up by the waiting, so no fixed `linger.ms` is
//! right at every load, and librdkafka's is fixed for the life of a producer. What overrides it is `flush`, for as long as it
//! runs. So the producer lingers for [`LINGER`], and a thread here flushes whenever that would hold senders up.
//! bench/README.md has the figures.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use prometheus::IntGauge;
use rdkafka::bindings::rd_kafka_flush;
use rdkafka::producer::{BaseProducer, NoCustomPartitioner, Producer as _, ProducerContext};

/// How long a record waits for others while records linger.
pub(super) const LINGER: Duration = Duration::from_millis(3);

/// Between two looks at the load.
const LOOK: Duration = Duration::from_millis(20);
/// What is seen counts for about so long: bursts are shorter.
const MEMORY: Duration = Duration::from_millis(200);
/// The least time from one change of mind to the next.
const HOLD: Duration = Duration::from_secs(1);
/// How long one flush goes on, and so the longest until a change of mind takes effect.
const FLUSH: Duration = Duration::from_millis(50);
/// How long the thread sleeps where there is nothing to send; it is woken sooner.
const IDLE: Duration = Duration::from_secs(1);

/// So many records must come within [`LINGER`], lest they wait for nobody.
const COMPANY: f64 = 32.0;
/// Records linger from when they would take up no more than this part of the senders, waiting in Kafka's hands or for them …
const BEGIN: f64 = 0.65;
/// … until more than this part of the senders is held up there.
const END: f64 = 0.8;

/// What a bridge's producers, each after the other, know of the load.
#[derive(Debug)]
pub(super) struct Senders {
    /// How many send: connections that had a request within the last second.
    count: AtomicUsize,
    /// Tells of the decision.
    lingering: IntGauge,
}

impl Senders {
    /// Nobody sends yet.
    pub fn new(lingering: IntGauge) -> Arc<Self> {
        Arc::new(Self {
            count: AtomicUsize::new(0),
            lingering,
        })
    }

    /// So many send now.
    pub fn set(&self, count: usize) {
        self.count.store(count, Ordering::Relaxed);
    }
}

/// What is seen of the load, on average over [`MEMORY`].
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    /// Records confirmed, a second.
    rate: f64,
    /// Records that librdkafka holds or a broker has yet to confirm.
    in_flight: f64,
    /// Who sends.
    senders: f64,
}

impl Load {
    /// Takes what was seen over the last `elapsed`.
    fn see(&mut self, elapsed: Duration, confirmed: u64, in_flight: u64, senders: usize) {
        let weight = elapsed.div_duration_f64(MEMORY).min(1.0);
        let rate = confirmed as f64 / elapsed.as_secs_f64();
        self.rate += (rate - self.rate) * weight;
        self.in_flight += (in_flight as f64 - self.in_flight) * weight;
        self.senders = senders as f64;
    }

    /// Whether records should linger, where they do so already or not.
    ///
    /// A sender with one request at a time has one event in flight at most: as long as senders are many more than what is in
    /// flight (Little's law: what comes a second, times how long it stays), it is not Kafka that they wait for.
    fn is_better_for_lingering(&self, lingering: bool) -> bool {
        let company = self.rate * LINGER.as_secs_f64();
        match lingering {
            false => company >= COMPANY && self.in_flight + company <= BEGIN * self.senders,
            true => company >= COMPANY / 2.0 && self.in_flight <= END * self.senders,
        }
    }
}

/// The thread that flushes one producer.
pub(super) struct Expediter {
    signals: Arc<Signals>,
    thread: Thread,
    handle: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Signals {
    /// The thread sleeps until there is something to send.
    idle: AtomicBool,
    stop: AtomicBool,
}

impl Expediter {
    /// Starts for a producer that lingers for [`LINGER`]; `confirmed` tells how many of its records were reported.
    pub fn start<C: ProducerContext + 'static>(
        producer: Arc<BaseProducer<C, NoCustomPartitioner>>,
        confirmed: fn(&C) -> u64,
        senders: Arc<Senders>,
    ) -> Self {
        let signals = Arc::new(Signals::default());
        let handle = std::thread::Builder::new()
            .name("expediter".into())
            .spawn({
                let signals = Arc::clone(&signals);
                move || run(&producer, confirmed, &senders, &signals)
            })
            .expect("the system can start a thread");
        Self {
            signals,
            thread: handle.thread().clone(),
            handle: Mutex::new(Some(handle)),
        }
    }

    /// A record was handed to the producer. One that this misses, because the thread is just going to sleep, lingers.
    pub fn queued(&self) {
        // Nearly always awake: reading a shared line is cheaper than writing it.
        let idle = &self.signals.idle;
        if idle.load(Ordering::Relaxed) && idle.swap(false, Ordering::Relaxed) {
            self.thread.unpark();
        }
    }

    /// Ends the thread, which holds the producer.
    pub fn end(&self) {
        self.signals.stop.store(true, Ordering::Release);
        self.thread.unpark();
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = handle.take() {
            let _ = handle.join();
        }
    }
}

impl Drop for Expediter {
    fn drop(&mut self) {
        self.end();
    }
}

fn run<C: ProducerContext>(
    producer: &BaseProducer<C, NoCustomPartitioner>,
    confirmed: fn(&C) -> u64,
    senders: &Senders,
    signals: &Signals,
) {
    let in_flight = || u64::try_from(producer.in_flight_count()).unwrap_or(0);
    let mut load = Load::default();
    let mut looked = (Instant::now(), 0);
    let mut lingering = false;
    let mut since = looked.0;
    senders.lingering.set(0);
    while !signals.stop.load(Ordering::Acquire) {
        let now = Instant::now();
        if now - looked.0 >= LOOK {
            let total = confirmed(producer.context());
            let count = senders.count.load(Ordering::Relaxed);
            load.see(now - looked.0, total - looked.1, in_flight(), count);
            looked = (now, total);
            if now - since >= HOLD && lingering != load.is_better_for_lingering(lingering) {
                (lingering, since) = (!lingering, now);
                senders.lingering.set(lingering.into());
            }
        }
        if lingering {
            std::thread::park_timeout(LOOK);
        } else if in_flight() > 0 {
            flush(producer, FLUSH);
        } else {
            signals.idle.store(true, Ordering::Relaxed);
            if in_flight() == 0 {
                std::thread::park_timeout(IDLE);
            }
            signals.idle.store(false, Ordering::Relaxed);
        }
    }
}

/// Has librdkafka send what it holds at once, and whatever else comes, until nothing is in flight: at most `within`.
#[expect(
    unsafe_code,
    reason = "rdkafka's own flush calls librdkafka's with a timeout of 0, which is over before any of librdkafka's threads \
              looks. Lingering by the load takes a fifth off the CPU time of an event at 256 connections, \
              and adds as much to their number (bench/README.md)"
)]
fn flush<C: ProducerContext>(producer: &BaseProducer<C, NoCustomPartitioner>, within: Duration) {
    let within = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the pointer is that of a producer that outlives the call, and librdkafka's functions may be called on any thread.
    // rdkafka takes delivery reports as events, with which this one serves no queue: it waits.
    unsafe { rd_kafka_flush(producer.client().native_ptr(), within) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::client::ClientContext;
    use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseRecord, DeliveryResult};

    fn load(rate: f64, in_flight: f64, senders: f64) -> Load {
        Load {
            rate,
            in_flight,
            senders,
        }
    }

    #[test]
    fn records_linger_while_senders_are_many_more_than_records_in_flight() {
        // As measured (events/s, records in flight, connections), and whether lingering was the better.
        let seen = [
            (2_000.0, 1.0, 1.0, false),
            (5_500.0, 7.0, 8.0, false),
            (20_000.0, 35.0, 64.0, false),
            (26_000.0, 60.0, 256.0, true),
            (25_000.0, 170.0, 1_024.0, true),
            // Many senders with little to say would wait for nobody.
            (500.0, 1.0, 1_024.0, false),
            // Arrays, and a Kafka that is slow: all that is there is in flight already.
            (40_000.0, 2_000.0, 64.0, false),
            (12_000.0, 250.0, 256.0, false),
            (0.0, 0.0, 0.0, false),
        ];
        for (rate, in_flight, senders, better) in seen {
            let load = load(rate, in_flight, senders);
            assert_eq!(load.is_better_for_lingering(false), better, "{load:?}");
        }
    }

    #[test]
    fn lingering_ends_when_it_is_what_senders_wait_for() {
        let seen = [
            // With 64 connections it is: nearly all of them wait for the 3 ms to end.
            (14_700.0, 55.0, 64.0, false),
            (30_000.0, 110.0, 256.0, true),
            (29_000.0, 200.0, 1_024.0, true),
            (3_000.0, 12.0, 1_024.0, false),
            (0.0, 0.0, 1_024.0, false),
        ];
        for (rate, in_flight, senders, better) in seen {
            let load = load(rate, in_flight, senders);
            assert_eq!(load.is_better_for_lingering(true), better, "{load:?}");
        }
    }

    #[test]
    fn the_load_is_an_average_over_a_short_while() {
        let mut load = Load::default();
        for _ in 0..100 {
            load.see(LOOK, 400, 60, 256);
        }
        assert!((load.rate - 20_000.0).abs() < 1.0, "{load:?}");
        assert!((load.in_flight - 60.0).abs() < 0.1, "{load:?}");
        load.see(LOOK, 0, 0, 256);
        assert!((load.rate - 18_000.0).abs() < 1.0, "{load:?}");
        // After a sleep only the present counts.
        load.see(IDLE, 10, 1, 1);
        assert_eq!((load.rate, load.in_flight, load.senders), (10.0, 1.0, 1.0));
    }

    /// Counts reports.
    #[derive(Default)]
    struct Reports(std::sync::atomic::AtomicU64);

    impl ClientContext for Reports {}

    impl ProducerContext for Reports {
        type DeliveryOpaque = ();

        fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
            assert!(result.is_ok());
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_is_queued_is_sent_long_before_the_linger_is_over() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 3, 1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        config.set("linger.ms", "60000");
        let producer = BaseProducer::from_config_and_context(&config, Reports::default()).unwrap();
        let producer = Arc::new(producer);
        let gauge = IntGauge::new("lingering", "-").unwrap();
        let reported = |reports: &Reports| reports.0.load(Ordering::Relaxed);
        let expediter =
            Expediter::start(Arc::clone(&producer), reported, Senders::new(gauge.clone()));
        // One at a time, with and without a pause in which the thread falls asleep; then some at once.
        let mut sent = 0;
        for (pause, records) in [(0, 1), (0, 1), (100, 1), (100, 50), (0, 50)] {
            std::thread::sleep(Duration::from_millis(pause));
            for key in 0..records {
                let key = [key];
                let record = BaseRecord::to("t").key(&key).payload("v");
                producer.send(record).unwrap();
                expediter.queued();
                sent += 1;
            }
            let began = Instant::now();
            while reported(producer.context()) < sent {
                assert!(began.elapsed() < Duration::from_secs(30), "{sent}");
                producer.poll(Duration::from_millis(1));
            }
        }
        assert_eq!(gauge.get(), 0);
        expediter.end();
        assert_eq!(Arc::strong_count(&producer), 1, "the thread is gone");
    }
}
