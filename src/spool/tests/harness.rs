//! A spool with a fake Kafka; the ledger is checked when it is dropped.

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
use crate::spool::{AppendError, AppendFuture, NewEntry, Route, Spool, SpoolParts, now_ms};
use crate::sync::lock;
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
    pub drain_handle: Option<DrainHandle>,
    /// Free bytes that the disk reports, or [`HANGS`].
    pub free: Arc<AtomicU64>,
    /// Entries that a topic was searched for.
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

/// Value of `free` for a disk that does not respond.
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

    /// Returns a harness with a deduplicator that learns of drained entries.
    pub fn with_deduplicator(
        deduplicator: Option<Arc<Deduplicator>>,
        change: impl FnOnce(&mut config::SpoolConfig),
    ) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let mut settings = settings(dir.path());
        change(&mut settings);
        Self::open(dir, settings, FakeKafka::start(), deduplicator)
    }

    fn open(
        dir: Arc<tempfile::TempDir>,
        settings: config::SpoolConfig,
        kafka: Arc<FakeKafka>,
        deduplicator: Option<Arc<Deduplicator>>,
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
            deduplicator,
            lanes: Arc::clone(&lanes),
            lane_events: 10_000,
            lane_bytes: 100 << 20,
            metrics: Arc::new(Metrics::new(&std::array::from_fn(|n| n.to_string()))),
        };
        let reported = Arc::clone(&free);
        let free_bytes = Box::new(move |_: &Path| {
            while reported.load(Ordering::Relaxed) == HANGS {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(reported.load(Ordering::Relaxed))
        });
        Self {
            dir,
            spool: Spool::start_with(parts, free_bytes),
            kafka,
            lanes,
            drain_handle: None,
            free,
            searched: Arc::default(),
            settings,
        }
    }

    /// Starts the drain. A search finds the entries whose value is in the log.
    pub fn drain(&mut self) {
        let (kafka, searched) = (Arc::clone(&self.kafka), Arc::clone(&self.searched));
        let search =
            move |_: &str, entries: Vec<InDoubtEntry>, _: &[(i32, i64)], _, _: &AtomicBool| {
                let log = kafka.log();
                let hashes = log
                    .iter()
                    .map(|(_, value)| xxhash_rust::xxh3::xxh3_64(value));
                let hashes: std::collections::HashSet<_> = hashes.collect();
                lock(&searched).extend(entries.iter().cloned());
                let stored = entries.iter().filter(|s| hashes.contains(&s.value_hash));
                SearchOutcome {
                    stored: stored.map(|s| s.seq).collect(),
                    ..SearchOutcome::default()
                }
            };
        let search: Arc<InDoubtSearch> = Arc::new(search);
        let kafka: Arc<FakeKafka> = Arc::clone(&self.kafka);
        let shared = Arc::clone(&self.spool.shared);
        self.drain_handle = Some(DrainHandle::start(shared, kafka, STAMPING, search));
    }

    /// Ends the process with its records in flight and starts another one.
    pub fn restart(self) -> Self {
        self.restart_with_deduplicator(None)
    }

    pub fn restart_with_deduplicator(mut self, deduplicator: Option<Arc<Deduplicator>>) -> Self {
        self.spool.shut_down();
        self.drain_handle = None;
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
        Self::open(dir, settings, kafka, deduplicator)
    }

    pub fn lane(&self, to: Destination) -> &Arc<TopicLane> {
        &self.lanes[to.index()]
    }

    pub fn append(&self, to: Destination, key: &str, number: usize) -> AppendFuture {
        let entry = new_entry(to, &value(to, key, number), false);
        self.spool.append(entry, None, None)
    }

    pub async fn append_all(&self, to: Destination, key: &str, numbers: std::ops::Range<usize>) {
        let appends: Vec<_> = numbers.map(|n| self.append(to, key, n)).collect();
        for append in appends {
            assert_eq!(append.await, Ok(()));
        }
    }

    /// Appends an entry received by a clock that is ahead.
    pub async fn append_ahead(&self, to: Destination, key: &str, number: usize, ahead: Duration) {
        let received_ms = now_ms() + ahead.as_millis() as i64;
        let entry = entry_received_at(received_ms, to, &value(to, key, number), false);
        assert_eq!(self.spool.append(entry, None, None).await, Ok(()));
    }

    /// Returns the numbers stored under a key, in order.
    pub fn stored(&self, key: &str) -> Vec<usize> {
        numbers(&self.kafka.log(), key)
    }

    pub async fn wait_until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !condition(self) {
            let ledger = self.spool.ledger();
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{what}: {ledger:?}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn wait_until_empty(&self) {
        self.wait_until("empty", |h| h.spool.ledger().present == 0)
            .await;
        self.wait_until("balanced", |h| h.spool.ledger().is_balanced())
            .await;
    }
}

/// Sends one event as the pipeline does. Returns `true` if it went directly.
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
            Route::Wait(cleared) if !waited => {
                waited = timeout(Duration::from_millis(300), cleared).await.is_err();
            }
            Route::Wait(_) | Route::Spool => {
                let entry = new_entry(to, &value, false);
                return spool.append(entry, None, None).await.map(|()| false);
            }
        }
    }
    let mut delivery = kafka.send(lane, key, &value);
    // Polled, because the wakers' queue is not under test here.
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
    let in_doubt_record = match delivery.end() {
        DeliveryEnd::Stored(_) => return Ok(true),
        DeliveryEnd::InDoubt(record, _) if !is_reported => Some(record),
        DeliveryEnd::InDoubt(..) | DeliveryEnd::Rejected(_) => None,
    };
    lane.open_circuit();
    let entry = new_entry(to, &value, in_doubt_record.is_some());
    spool
        .append(entry, None, in_doubt_record)
        .await
        .map(|()| false)
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
        self.drain_handle = None;
        if !std::thread::panicking() {
            let ledger = self.spool.ledger();
            assert!(ledger.is_balanced(), "{ledger:?}");
        }
    }
}
