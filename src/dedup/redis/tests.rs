//! Tests against a real Redis. Without one they are skipped, and report that.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use secrecy::SecretString;
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::config::{DedupConfig, DedupStore, DuplicateHandling};
use crate::dedup::claim::{Claim, ReservationOutcome};
use crate::dedup::keys::{IdHash, OccupancyKey, ReadingHash, SourceKey};
use crate::dedup::memory::MemoryStore;
use crate::kafka::report::Receipt;
use butlr_event::EventType;
use butlr_event::ksuid::Ksuid;

#[path = "../../../tests/it/harness/redis.rs"]
#[allow(dead_code, reason = "the integration tests use the rest")]
mod server;

mod agreement;
mod cost;
mod leases;
mod outages;
mod spooled;
mod trust;

use server::RedisServer;

/// Starts a Redis with these arguments. Returns `None` if there is none and the test may be
/// skipped.
fn start_redis(arguments: &[&str]) -> Option<RedisServer> {
    if server::missing_requirements().is_empty() {
        return Some(RedisServer::start(arguments));
    }
    let required = std::env::var("BUTLR_BRIDGE_TEST_REQUIRE_ALL").is_ok_and(|v| v == "1");
    assert!(
        !required,
        "needs {}",
        server::missing_requirements().join(", ")
    );
    let thread = thread::current();
    let name = thread.name().unwrap_or_default();
    // Not `eprintln`, whose output is hidden for a test that passes.
    let needs = server::missing_requirements().join(", ");
    let _ = writeln!(std::io::stderr(), "NOT RUN: {name}: needs {needs}");
    None
}

fn settings(redelivery: DuplicateHandling, repeat: DuplicateHandling) -> DedupConfig {
    DedupConfig {
        store: DedupStore::Memory,
        redelivery,
        repeat,
        id_window: Duration::from_secs(900),
        reading_window: Duration::from_secs(900),
        max_ids: 100_000,
        max_readings: 100_000,
        rebuild_within: Duration::ZERO,
    }
}

fn drop_settings() -> DedupConfig {
    settings(DuplicateHandling::Drop, DuplicateHandling::Drop)
}

type TestTopics = [String; 10];

fn fresh_topics() -> TestTopics {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::array::from_fn(|index| format!("test{number}.{index}"))
}

/// The context of a worker that never connects.
pub(super) fn offline_context() -> RedisContext {
    let protocol = RedisProtocol::new(&drop_settings(), "test", &fresh_topics());
    RedisContext::new(protocol, 1, IntCounter::new("errors", "errors").unwrap())
}

/// The end of an occupancy that was stored without Redis.
pub(super) fn end_without_redis(token: protocol::ClaimToken) -> Box<protocol::ClaimEnd> {
    let current = CurrentReading {
        reading: ReadingHash(1),
        id: EventId::new("a"),
        revision: 0,
    };
    Box::new(protocol::ClaimEnd {
        subject: ClaimSubject::new(token, &facts("a", Some(1), 1, 1)),
        change: ClaimChange {
            is_conflict: false,
            current: Some(current),
        },
        state: protocol::ClaimEndState::Published,
        ended_at: Instant::now(),
        grant: ClaimGrant::Ungranted,
        is_resent: false,
    })
}

/// Longer than a working Redis takes to answer on a busy machine.
const GENEROUS_TIMEOUT: Duration = Duration::from_secs(1);

/// The deduplication of one bridge.
struct Replica {
    memory: Arc<MemoryStore>,
    redis: Arc<RedisStore>,
    errors: IntCounter,
}

impl Replica {
    fn new(settings: &DedupConfig, url: &str, topics: &TestTopics, timeout: Duration) -> Self {
        let redis_config = config::RedisConfig {
            url: SecretString::from(url),
            timeout,
            prefix: "butlr-bridge".to_owned(),
        };
        let errors = IntCounter::new("errors", "errors").unwrap();
        let redis = RedisStore::start(settings, &redis_config, topics, errors.clone()).unwrap();
        Self {
            memory: MemoryStore::new(settings, Instant::now()),
            redis,
            errors,
        }
    }

    /// Starts `N` replicas and waits until they have begun their epochs.
    fn start_many<const N: usize>(
        settings: &DedupConfig,
        url: &str,
        topics: &TestTopics,
    ) -> [Self; N] {
        let all = std::array::from_fn(|_| Self::new(settings, url, topics, GENEROUS_TIMEOUT));
        for replica in &all {
            runtime().block_on(replica.redis.flush(GENEROUS_TIMEOUT * 10));
        }
        all
    }

    async fn claim(&self, facts: &EventFacts<'_>, limit: Duration) -> Option<Decision> {
        let deadline = Instant::now() + limit;
        loop {
            match self.memory.reserve(facts, Instant::now()) {
                ReservationOutcome::Reserved(reservation) => {
                    return self.redis.decide(facts, reservation, deadline).await;
                }
                ReservationOutcome::Redelivery { storage } => {
                    let kind = DuplicateKind::Redelivery;
                    return Some(Decision::Duplicate { kind, storage });
                }
                ReservationOutcome::Wait(waiter) => waiter.await,
            }
        }
    }

    async fn verdict(&self, facts: &EventFacts<'_>) -> (DedupVerdict, Option<Claim>) {
        match self.claim(facts, Duration::from_secs(20)).await {
            Some(Decision::Publish(claim)) => {
                (DedupVerdict::Publish(claim.marks().clone()), Some(claim))
            }
            Some(Decision::Duplicate { kind, .. }) => (DedupVerdict::Duplicate(kind), None),
            None => panic!("no claim is undecided for so long"),
        }
    }
}

fn commit(claim: Claim) {
    claim.commit(&Receipt::for_test(), Instant::now());
}

/// Moves an event that `replica` spooled with `marks` into Kafka.
fn mark_drained(replica: &Replica, facts: &EventFacts<'_>, marks: &Marks) {
    let successor = replica.memory.mark_drained(facts, marks);
    replica.redis.mark_drained(facts, marks, successor);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// An id created in this second.
fn ksuid(second: u32, number: u8) -> String {
    let mut bytes = [number; 20];
    bytes[..4].copy_from_slice(&second.to_be_bytes());
    format!("event_{}", Ksuid::from_bytes(bytes))
}

/// Facts like those of a real event, from small numbers.
fn facts(id: &str, occupancy: Option<u64>, value: u64, timestamp_ms: i64) -> EventFacts<'_> {
    let reading = format!("{occupancy:?} {value} {timestamp_ms}");
    let source = occupancy.unwrap_or(99) % 2;
    EventFacts {
        id,
        event_type: Some(EventType::RoomOccupancy),
        id_hash: IdHash(xxh3_64(id.as_bytes())),
        reading: ReadingHash(xxh3_64(reading.as_bytes())),
        occupancy_key: occupancy.map(|occupancy| {
            OccupancyKey(xxh3_64(format!("{occupancy} {timestamp_ms}").as_bytes()))
        }),
        source_key: SourceKey(xxh3_64(&source.to_le_bytes())),
        timestamp_ms,
        has_plausible_time: timestamp_ms < 4,
    }
}
