//! A spool with a Kafka that does as it is told; the ledger is checked when it ends.

use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::fake::FakeKafka;
use crate::config::{self, DrainOrder, TimestampMode};
use crate::dedup::deduplicator::Deduplicator;
use crate::delivery::DeliveryEnd;
use crate::kafka::lane::{LaneLimits, TopicLane};
use crate::kafka::report::DeliveryOutcome;
use crate::marks::Marks;
use crate::metrics::Metrics;
use crate::provenance::QuarantineDetails;
use crate::record::TimestampPolicy;
use crate::spool::drain::DrainHandle;
use crate::spool::drain::search::InDoubtSearch;
use crate::spool::entry::{EntryContent, SpoolEntry};
use crate::spool::in_doubt::{InDoubtEntry, SearchOutcome};
use crate::spool::store::{Options, SpoolStore};
use crate::spool::{AppendError, AppendFuture, NewEntry, Route, Spool, SpoolParts, lock, now_ms};
use butlr_event::EventType;
use butlr_event::destination::Destination;

pub const ROOM: Destination = Destination::Events(EventType::RoomOccupancy);
pub const TRAFFIC: Destination = Destination::Events(EventType::Traffic);

pub const STAMPING: TimestampPolicy = TimestampPolicy {
    mode: TimestampMode::Event,
    max_future: Duration::from_secs(60),
    max_past: Duration::from_secs(3 * 86_400),
};

pub struct SpoolHarness {
    pub dir: Arc<tempfile::TempDir>,
    pub spool: Arc<Spool>,
    pub kafka: Arc<FakeKafka>,
    pub lanes: Arc<[Arc<TopicLane>; Destination::COUNT]>,
    pub draining: Option<DrainHandle>,
    /// What the disk has left.
    pub free: Arc<AtomicU64>,
    /// What was looked for.
    pub searched: Arc<Mutex<Vec<InDoubtEntry>>>,
    settings: config::SpoolConfig,
}

pub fn settings(dir: &Path) -> config::SpoolConfig {
    config::SpoolConfig {
        dir: Some(dir.to_owned()),
        max_bytes: 1 << 30,
        min_free_bytes: 1 << 20,
        segment_bytes: 1 << 20,
        drain: DrainOrder::Ordered,
        recover_within: Duration::from_secs(5),
    }
}

/// Instead of free bytes: the disk does not answer.
pub const HANGS: u64 = u64::MAX;

pub fn lanes() -> Arc<[Arc<TopicLane>; Destination::COUNT]> {
    let limits = LaneLimits {
        events: 10_000,
        bytes: 100 << 20,
    };
    let lane = |to: Destination| TopicLane::new(to, topic(to), limits);
    Arc::new(Destination::all().map(lane))
}

pub fn topic(to: Destination) -> String {
    format!("topic-{}", to.name())
}

impl SpoolHarness {
    pub fn new() -> Self {
        Self::with_settings(|_| {})
    }

    pub fn with_settings(change: impl FnOnce(&mut config::SpoolConfig)) -> Self {
        Self::with_deduplicator(None, change)
    }

    /// With a desk that hears of what gets into Kafka.
    pub fn with_deduplicator(
        desk: Option<Arc<Deduplicator>>,
        change: impl FnOnce(&mut config::SpoolConfig),
    ) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let mut settings = settings(dir.path());
        change(&mut settings);
        Self::open(dir, settings, FakeKafka::start(), desk)
    }

    fn open(
        dir: Arc<tempfile::TempDir>,
        settings: config::SpoolConfig,
        kafka: Arc<FakeKafka>,
        desk: Option<Arc<Deduplicator>>,
    ) -> Self {
        let lanes = lanes();
        let free = Arc::new(AtomicU64::new(1 << 40));
        let options = Options {
            dir: dir.path().to_owned(),
            segment_bytes: settings.segment_bytes,
        };
        let (store, _) = SpoolStore::open(options).expect("it opens");
        let parts = SpoolParts {
            store,
            settings: settings.clone(),
            deduplicator: desk,
            lanes: Arc::clone(&lanes),
            lane_events: 10_000,
            lane_bytes: 100 << 20,
            metrics: Arc::new(Metrics::new(&std::array::from_fn(|n| n.to_string()))),
        };
        let left = Arc::clone(&free);
        let free_bytes = Box::new(move |_: &Path| {
            while left.load(Ordering::Relaxed) == HANGS {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(left.load(Ordering::Relaxed))
        });
        Self {
            dir,
            spool: Spool::start_with(parts, free_bytes),
            kafka,
            lanes,
            draining: None,
            free,
            searched: Arc::default(),
            settings,
        }
    }

    /// Starts the drain; those of before are found where their value is in the log.
    pub fn drain(&mut self) {
        let (kafka, looked_for) = (Arc::clone(&self.kafka), Arc::clone(&self.searched));
        let look =
            move |_: &str, suspects: Vec<InDoubtEntry>, _: &[(i32, i64)], _, _: &AtomicBool| {
                let log = kafka.log();
                let hashes = log
                    .iter()
                    .map(|(_, value)| xxhash_rust::xxh3::xxh3_64(value));
                let hashes: std::collections::HashSet<_> = hashes.collect();
                lock(&looked_for).extend(suspects.iter().cloned());
                let stored = suspects.iter().filter(|s| hashes.contains(&s.value_hash));
                SearchOutcome {
                    stored: stored.map(|s| s.seq).collect(),
                    ..SearchOutcome::default()
                }
            };
        let look: Arc<InDoubtSearch> = Arc::new(look);
        let kafka: Arc<FakeKafka> = Arc::clone(&self.kafka);
        let shared = Arc::clone(&self.spool.shared);
        self.draining = Some(DrainHandle::start(shared, kafka, STAMPING, look));
    }

    /// The process ends with what it has in flight, and another one begins.
    pub fn restart(self) -> Self {
        self.restart_with_deduplicator(None)
    }

    /// The same with a desk.
    pub fn restart_with_deduplicator(mut self, desk: Option<Arc<Deduplicator>>) -> Self {
        self.spool.shut_down();
        self.draining = None;
        self.kafka.forget();
        assert!(
            self.spool.ledger().is_balanced(),
            "{:?}",
            self.spool.ledger()
        );
        let (dir, kafka) = (Arc::clone(&self.dir), Arc::clone(&self.kafka));
        let settings = self.settings.clone();
        assert_eq!(Arc::strong_count(&self.spool), 1);
        drop(self);
        Self::open(dir, settings, kafka, desk)
    }

    pub fn lane(&self, to: Destination) -> &Arc<TopicLane> {
        &self.lanes[to.index()]
    }

    pub fn append(&self, to: Destination, key: &str, number: usize) -> AppendFuture {
        let entry = new_entry(to, &value(to, key, number), false);
        self.spool.append(entry, None, None)
    }

    pub async fn append_all(&self, to: Destination, key: &str, numbers: std::ops::Range<usize>) {
        let keeping: Vec<_> = numbers.map(|n| self.append(to, key, n)).collect();
        for keeping in keeping {
            assert_eq!(keeping.await, Ok(()));
        }
    }

    /// As if it had been received by a clock that is so much ahead.
    pub async fn append_ahead(&self, to: Destination, key: &str, number: usize, ahead: Duration) {
        let received_ms = now_ms() + ahead.as_millis() as i64;
        let entry = entry_received_at(received_ms, to, &value(to, key, number), false);
        assert_eq!(self.spool.append(entry, None, None).await, Ok(()));
    }

    /// The numbers of what is stored under a key, in order.
    pub fn stored(&self, key: &str) -> Vec<usize> {
        numbers(&self.kafka.log(), key)
    }

    pub async fn wait_until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            let life = self.spool.ledger();
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{what}: {life:?}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn wait_until_empty(&self) {
        self.wait_until("empty", |b| b.spool.ledger().present == 0)
            .await;
        self.wait_until("balanced", |b| b.spool.ledger().is_balanced())
            .await;
    }
}

/// Sends one event as the pipeline does. Returns whether it went directly.
pub async fn send(
    spool: &Spool,
    kafka: &FakeKafka,
    lane: &Arc<TopicLane>,
    key: &str,
    number: usize,
) -> Result<bool, AppendError> {
    let to = lane.destination();
    let value = value(to, key, number);
    let mut waited = false;
    loop {
        match spool.route(to) {
            Route::Direct => break,
            Route::Wait(passage) if !waited => {
                waited = timeout(Duration::from_millis(300), passage).await.is_err();
            }
            Route::Wait(_) | Route::Spool => {
                let entry = new_entry(to, &value, false);
                return spool.append(entry, None, None).await.map(|()| false);
            }
        }
    }
    let mut delivery = kafka.send(lane, key, &value);
    // The slot wakes through a worker's queue, which is not what is tested here.
    let begun = Instant::now();
    let mut is_reported = false;
    while begun.elapsed() < Duration::from_millis(50) {
        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut delivery).poll(cx)));
        match polled.await {
            Poll::Ready(DeliveryOutcome::Stored(_)) => return Ok(true),
            Poll::Ready(DeliveryOutcome::Rejected(_) | DeliveryOutcome::Unknown(_)) => {
                is_reported = true;
                break;
            }
            Poll::Pending => {}
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let doubt = match delivery.end() {
        DeliveryEnd::Stored(_) => return Ok(true),
        DeliveryEnd::InDoubt(record, _) if !is_reported => Some(record),
        DeliveryEnd::InDoubt(..) | DeliveryEnd::Rejected(_) => None,
    };
    lane.open_circuit();
    let entry = new_entry(to, &value, doubt.is_some());
    spool.append(entry, None, doubt).await.map(|()| false)
}

pub fn new_entry(to: Destination, value: &[u8], in_doubt: bool) -> NewEntry {
    entry_received_at(now_ms(), to, value, in_doubt)
}

fn entry_received_at(received_ms: i64, to: Destination, value: &[u8], in_doubt: bool) -> NewEntry {
    let content = match to {
        Destination::Quarantine => EntryContent::Quarantined(QuarantineDetails::default()),
        Destination::Events(_) => EntryContent::Event {
            marks: Marks::default(),
            replayed_from: None,
        },
    };
    let entry = SpoolEntry {
        received_ms,
        in_doubt,
        content,
        value: value.into(),
    };
    NewEntry {
        to,
        bytes: entry.encode(),
    }
}

pub fn value(to: Destination, key: &str, number: usize) -> Vec<u8> {
    let (name, data) = match to {
        TRAFFIC => ("TRAFFIC", r#"{"in":1,"out":0}"#),
        _ => ("ROOM_OCCUPANCY", "4"),
    };
    format!(
        r#"{{"id":"{key}-{number}","type":"{name}","timestamp":1800000000000,"version":"v1.0.0","metadata":{{"room_id":"{key}","sensor_id":"s"}},"data":{data}}}"#
    )
    .into_bytes()
}

fn numbers(log: &[(String, Vec<u8>)], key: &str) -> Vec<usize> {
    let id = format!("{{\"id\":\"{key}-");
    let number = |value: &[u8]| {
        let text = std::str::from_utf8(value).ok()?;
        let (number, _) = text.strip_prefix(&id)?.split_once('"')?;
        number.parse().ok()
    };
    log.iter().filter_map(|(_, value)| number(value)).collect()
}

impl Drop for SpoolHarness {
    fn drop(&mut self) {
        self.draining = None;
        if !std::thread::panicking() {
            let life = self.spool.ledger();
            assert!(life.is_balanced(), "{life:?}");
        }
    }
}
