//! Whether records wait for company.
//!
//! A request with many records costs Kafka, librdkafka and the bridge much less for each of them than requests with few do.
//! But a sender that waits for its answer before it sends the next event may be held up by the waiting, so no fixed
//! `linger.ms` is right at every load, and librdkafka's is fixed for the life of a producer. What overrides it is `flush`, for
//! as long as it runs. So the producer lingers for [`LINGER`], and a thread here flushes whenever records had better not wait.
//! bench/README.md has the figures.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use prometheus::IntGauge;
use rdkafka::bindings::rd_kafka_flush;
use rdkafka::producer::{BaseProducer, NoCustomPartitioner, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaRespErr;

/// How long a record waits for others while records linger.
pub(super) const LINGER: Duration = Duration::from_millis(3);

/// What is seen counts for about so long: bursts are shorter.
const MEMORY: Duration = Duration::from_millis(500);
/// The least time from one change of mind to the next.
const HOLD: Duration = Duration::from_secs(1);
/// The same after lingering held senders up.
const REST: Duration = Duration::from_secs(10);
/// Until when lingering must have shown that it holds nobody up, counted from its begin.
const TRIAL: Duration = Duration::from_secs(4);
/// How long one flush goes on where there is always something to send, and so the longest until records linger. Each flush has
/// librdkafka look for records that are timed out, each such look may cost an epoch of the producer's (`ends_the_producer`), and
/// by itself librdkafka looks once a second.
const FLUSH: Duration = Duration::from_secs(1);
/// How long the thread sleeps where there is nothing to send; it is woken sooner.
const IDLE: Duration = Duration::from_secs(10);

/// So many records must come within [`LINGER`], lest they wait for nobody.
const COMPANY: f64 = 20.0;
/// Records linger if what is in flight, and what would wait besides, is no more than this part of the senders …
const BEGIN: f64 = 0.65;
/// … until what is in flight is more than this part.
const END: f64 = 0.8;
/// Lingering may cost no more of the events than what is left of this.
const KEPT: f64 = 0.95;

/// What a bridge's producers, each after the other, know of those who send.
#[derive(Debug)]
pub(super) struct Senders {
    /// Connections that had a request within the last second.
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

/// What is seen of the load: averages over [`MEMORY`], and who sends.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    /// Records reported, a second.
    rate: f64,
    /// Records that were not reported yet. All of them: also those of the spool, and those whose request waits no more.
    in_flight: f64,
    /// Connections that had a request within the last second.
    senders: f64,
}

impl Load {
    /// Takes what was seen over the last `elapsed`.
    fn see(&mut self, elapsed: Duration, reported: u64, in_flight: u64, senders: usize) {
        let weight = elapsed.div_duration_f64(MEMORY).min(1.0);
        let rate = reported as f64 / elapsed.as_secs_f64();
        self.rate += (rate - self.rate) * weight;
        self.in_flight += (in_flight as f64 - self.in_flight) * weight;
        self.senders = senders as f64;
    }

    /// Records that come within [`LINGER`].
    fn company(&self) -> f64 {
        self.rate * LINGER.as_secs_f64()
    }

    /// Whether lingering is worth a trial.
    ///
    /// A connection has one request at a time. Where connections are many more than records in flight (also than would be, by
    /// Little's law), most wait for something else than Kafka: for the bridge's turn, which lingering brings nearer; or on the way
    /// to it, which a trial tells.
    fn is_promising(&self) -> bool {
        self.company() >= COMPANY && self.in_flight + self.company() <= BEGIN * self.senders
    }

    /// Whether lingering is what most connections wait for.
    fn is_held_up(&self) -> bool {
        self.in_flight > END * self.senders
    }
}

/// Decides whether a producer's records linger.
#[derive(Debug)]
pub(super) struct Judge {
    load: Load,
    seen: (Instant, u64),
    lingering: bool,
    /// Since when.
    since: Instant,
    /// Not to linger for at least so long.
    rest: Duration,
    /// Since when lingering would be worth a trial, and the sum of what was reported then.
    promising: Option<(Instant, u64)>,
    /// What was reported a second without lingering, while that is on trial.
    trial: Option<f64>,
}

impl Judge {
    /// Records do not linger.
    pub fn new(now: Instant) -> Self {
        Self {
            load: Load::default(),
            seen: (now, 0),
            lingering: false,
            since: now,
            rest: HOLD,
            promising: None,
            trial: None,
        }
    }

    /// Takes what is seen now (of `reported` the sum since the beginning); returns whether records should linger.
    fn look(&mut self, now: Instant, reported: u64, in_flight: u64, senders: usize) -> bool {
        let elapsed = now - self.seen.0;
        if elapsed.is_zero() {
            return self.lingering;
        }
        let load = &mut self.load;
        load.see(elapsed, reported - self.seen.1, in_flight, senders);
        self.seen = (now, reported);
        let age = now - self.since;
        if !self.lingering {
            if age < self.rest || !load.is_promising() {
                self.promising = None;
                return false;
            }
            let (begin, before) = *self.promising.get_or_insert((now, reported));
            // The average of the load lags behind where that has just begun; what is compared must not.
            if now - begin >= MEMORY {
                self.trial = Some((reported - before) as f64 / (now - begin).as_secs_f64());
                (self.lingering, self.since, self.promising) = (true, now, None);
            }
            return self.lingering;
        }
        // Sooner, what is seen may be from before.
        if age >= FLUSH + MEMORY {
            self.trial = self.trial.filter(|before| load.rate < KEPT * before);
        }
        let is_held_up = load.is_held_up() || self.trial.is_some() && age >= TRIAL;
        let is_alone = load.company() < COMPANY / 2.0;
        if age >= HOLD && (is_held_up || is_alone) {
            (self.lingering, self.since) = (false, now);
            self.rest = if is_held_up { REST } else { HOLD };
        }
        self.lingering
    }
}

/// The thread that flushes one producer.
pub(super) struct Expediter {
    signals: Arc<Signals>,
    senders: Arc<Senders>,
    thread: Thread,
    handle: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Signals {
    lingering: AtomicBool,
    /// The thread sleeps until there is something to send.
    idle: AtomicBool,
    stop: AtomicBool,
}

impl Expediter {
    /// Starts for a producer that lingers for [`LINGER`] by itself.
    pub fn start<C: ProducerContext + 'static>(
        producer: Arc<BaseProducer<C, NoCustomPartitioner>>,
        senders: Arc<Senders>,
    ) -> Arc<Self> {
        let signals = Arc::new(Signals::default());
        senders.lingering.set(0);
        let handle = std::thread::Builder::new()
            .name("expediter".into())
            .spawn({
                let signals = Arc::clone(&signals);
                move || run(&producer, &signals)
            })
            .expect("the system can start a thread");
        Arc::new(Self {
            signals,
            senders,
            thread: handle.thread().clone(),
            handle: Mutex::new(Some(handle)),
        })
    }

    /// A record was handed to the producer.
    pub fn queued(&self) {
        // Nearly always awake: reading a shared line is cheaper than writing it.
        let idle = &self.signals.idle;
        if idle.load(Ordering::Relaxed) && idle.swap(false, Ordering::Relaxed) {
            self.thread.unpark();
        }
    }

    /// Looks at the load and has records linger, or not. To be called regularly, and not whenever something was sent: what is in
    /// flight then is no fair sample.
    pub fn look(&self, judge: &mut Judge, reported: u64, in_flight: u64) {
        let senders = self.senders.count.load(Ordering::Relaxed);
        self.set(judge.look(Instant::now(), reported, in_flight, senders));
    }

    fn set(&self, lingering: bool) {
        if self.signals.lingering.swap(lingering, Ordering::Relaxed) != lingering {
            self.senders.lingering.set(lingering.into());
            self.thread.unpark();
        }
    }

    /// Ends the thread, which holds the producer. Takes up to [`FLUSH`] where records are in flight.
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

fn run<C: ProducerContext>(producer: &BaseProducer<C, NoCustomPartitioner>, signals: &Signals) {
    while !signals.stop.load(Ordering::Acquire) {
        if signals.lingering.load(Ordering::Relaxed) {
            std::thread::park_timeout(IDLE);
        } else if producer.in_flight_count() == 0 || flush(producer, FLUSH) {
            signals.idle.store(true, Ordering::Relaxed);
            // Either a record came just now, which lingers then, or something else than a record waits to be taken from
            // librdkafka, and the next flush would end at once, too.
            let pause = match producer.in_flight_count() {
                0 => IDLE,
                _ => LINGER,
            };
            std::thread::park_timeout(pause);
            signals.idle.store(false, Ordering::Relaxed);
        }
    }
}

/// Has librdkafka send what it holds at once, and whatever else comes, until no record is in flight: at most `within`.
/// Returns whether it came to that.
#[expect(
    unsafe_code,
    reason = "rdkafka's own flush calls librdkafka's with a timeout of 0, which is over before any of librdkafka's threads \
              looks. Lingering by the load takes a tenth to a fifth off the CPU time of an event at 256 \
              connections, and adds as much to their number (bench/README.md)"
)]
fn flush<C: ProducerContext>(
    producer: &BaseProducer<C, NoCustomPartitioner>,
    within: Duration,
) -> bool {
    let within = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the pointer is that of a producer that outlives the call, and librdkafka's functions may be called on any thread.
    // rdkafka takes delivery reports as events, with which this one serves no queue: it waits.
    let ended = unsafe { rd_kafka_flush(producer.client().native_ptr(), within) };
    ended == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
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
    fn lingering_is_tried_while_senders_are_many_more_than_records_in_flight() {
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
            assert_eq!(load.is_promising(), better, "{load:?}");
        }
        // With 64 connections nearly all of them wait for the 3 ms to end.
        assert!(load(14_700.0, 55.0, 64.0).is_held_up());
        assert!(!load(30_000.0, 110.0, 256.0).is_held_up());
        assert!(!load(29_000.0, 200.0, 1_024.0).is_held_up());
    }

    #[test]
    fn the_load_is_an_average_over_a_short_while() {
        let mut load = Load::default();
        for _ in 0..100 {
            load.see(MEMORY / 10, 1_000, 60, 256);
        }
        assert!((load.rate - 20_000.0).abs() < 1.0, "{load:?}");
        assert!((load.in_flight - 60.0).abs() < 0.1, "{load:?}");
        load.see(MEMORY / 10, 0, 0, 256);
        assert!((load.rate - 18_000.0).abs() < 1.0, "{load:?}");
        // After a pause only the present counts.
        load.see(2 * MEMORY, 10, 1, 1);
        assert_eq!((load.rate, load.in_flight, load.senders), (10.0, 1.0, 1.0));
    }

    /// A judge and its clock, in steps of 50 ms.
    struct Court {
        judge: Judge,
        now: Instant,
        reported: u64,
    }

    impl Court {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                judge: Judge::new(now),
                now,
                reported: 0,
            }
        }

        /// What the judge says in each step while the load is such.
        fn sees(&mut self, ms: u64, rate: u64, in_flight: u64, senders: usize) -> Vec<bool> {
            let steps = (0..ms / 50).map(|_| {
                self.now += Duration::from_millis(50);
                self.reported += rate / 20;
                self.judge.look(self.now, self.reported, in_flight, senders)
            });
            steps.collect()
        }

        /// Whether it says the same in the last step.
        fn ends(&mut self, ms: u64, rate: u64, in_flight: u64, senders: usize) -> bool {
            *self.sees(ms, rate, in_flight, senders).last().unwrap()
        }
    }

    #[test]
    fn lingering_that_costs_no_events_goes_on_until_there_is_no_company() {
        let mut court = Court::new();
        let first = court.sees(2_000, 26_000, 60, 256);
        let begin = first
            .iter()
            .position(|lingers| *lingers)
            .expect("it begins");
        assert!(begin >= 25, "not within the first second: {begin}");
        assert!(first[begin..].iter().all(|lingers| *lingers));
        assert!(court.sees(60_000, 26_000, 110, 256).iter().all(|l| *l));
        assert!(!court.ends(2_000, 1_000, 4, 256), "nobody to wait for");
        assert!(court.ends(3_000, 26_000, 60, 256), "and again");
    }

    #[test]
    fn lingering_that_costs_events_ends_for_a_while() {
        let mut court = Court::new();
        assert!(court.ends(2_500, 20_900, 37, 256));
        // Senders that are far away: what waits besides shows in what comes.
        assert!(!court.ends(5_000, 18_000, 67, 256));
        assert!(court.sees(7_000, 20_900, 37, 256).iter().all(|l| !*l));
        assert!(
            court.ends(5_000, 20_900, 37, 256),
            "a trial from time to time"
        );
        // A proxy has more connections than there are senders: nearly all are in flight.
        let mut court = Court::new();
        assert!(court.ends(2_500, 20_000, 35, 256));
        assert!(!court.ends(5_000, 14_700, 55, 256));
        // As many connections as are in flight need no trial.
        let mut court = Court::new();
        assert!(court.ends(2_500, 11_000, 3, 64));
        assert!(!court.ends(1_500, 14_700, 55, 64));
        assert!(court.sees(7_000, 11_000, 3, 64).iter().all(|l| !*l));
    }

    #[test]
    fn a_dip_in_the_load_while_lingering_is_on_trial_is_no_verdict() {
        let mut court = Court::new();
        assert!(court.ends(2_000, 26_000, 60, 256));
        assert!(court.ends(800, 18_000, 60, 256));
        assert!(court.ends(5_000, 26_000, 110, 256));
        assert!(court.ends(1_000, 18_000, 60, 256));
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
    fn what_is_queued_is_sent_at_once_unless_records_linger() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 3, 1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        config.set("linger.ms", "60000");
        let producer = BaseProducer::from_config_and_context(&config, Reports::default()).unwrap();
        let producer = Arc::new(producer);
        let gauge = IntGauge::new("lingering", "-").unwrap();
        let expediter = Expediter::start(Arc::clone(&producer), Senders::new(gauge.clone()));
        let reported = || producer.context().0.load(Ordering::Relaxed);
        let send = |records: u8| {
            for key in 0..records {
                let key = [key];
                let record = BaseRecord::to("t").key(&key).payload("v");
                producer.send(record).unwrap();
                expediter.queued();
            }
        };
        let are_all_reported_within = |sent, within: Duration| {
            let began = Instant::now();
            while reported() < sent && began.elapsed() < within {
                producer.poll(Duration::from_millis(1));
            }
            reported() == sent
        };
        // Sooner than the thread wakes by itself.
        let soon = IDLE * 3 / 4;
        // One at a time, with and without a pause in which the thread falls asleep; then some at once.
        let mut sent = 0;
        for (pause, records) in [(0, 1), (0, 1), (100, 1), (100, 50), (0, 50)] {
            std::thread::sleep(Duration::from_millis(pause));
            send(records);
            sent += u64::from(records);
            assert!(are_all_reported_within(sent, soon), "{sent}");
        }
        expediter.set(true);
        assert_eq!(gauge.get(), 1);
        std::thread::sleep(Duration::from_millis(100));
        send(5);
        assert!(!are_all_reported_within(
            sent + 5,
            Duration::from_millis(300)
        ));
        expediter.set(false);
        assert_eq!(gauge.get(), 0);
        assert!(are_all_reported_within(sent + 5, soon));
        expediter.end();
        assert_eq!(Arc::strong_count(&producer), 1, "the thread is gone");
    }
}
