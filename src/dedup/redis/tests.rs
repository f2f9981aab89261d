//! Against a real Redis; skipped, and said so, where there is none.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use secrecy::SecretString;
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::config::{DedupConfig, DedupStore, DuplicateHandling};
use crate::dedup::claim::{MemoryDecision, ReservationOutcome};
use crate::dedup::memory::MemoryStore;
use crate::kafka::report::Receipt;
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

/// A Redis with these arguments; `None` where there is none, and that may be.
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
    // Not by `eprintln`, which nobody sees of a test that passes.
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

/// What a worker needs that is never connected.
pub(super) fn offline_context() -> RedisContext {
    let terms = RedisProtocol::new(&drop_settings(), "test", &fresh_topics());
    RedisContext::new(terms, 1, IntCounter::new("errors", "errors").unwrap())
}

/// The end of an occupancy that was stored without Redis.
pub(super) fn end_without_redis(token: protocol::ClaimToken) -> Box<protocol::ClaimEnd> {
    let current = CurrentReading {
        reading: 1,
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
        is_granted: false,
        is_resent: false,
    })
}

/// Longer than any answer of a working Redis takes on a busy machine.
const GENEROUS_TIMEOUT: Duration = Duration::from_secs(1);

/// A bridge's part in this.
struct Replica {
    memory: Arc<MemoryStore>,
    shared: Arc<RedisStore>,
    errors: IntCounter,
}

impl Replica {
    fn new(settings: &DedupConfig, url: &str, topics: &TestTopics, timeout: Duration) -> Self {
        let redis = config::RedisConfig {
            url: SecretString::from(url),
            timeout,
            prefix: "butlr-bridge".to_owned(),
        };
        let errors = IntCounter::new("errors", "errors").unwrap();
        let shared = RedisStore::start(settings, &redis, topics, errors.clone()).unwrap();
        Self {
            memory: MemoryStore::new(settings, Instant::now()),
            shared,
            errors,
        }
    }

    /// So many that have begun their epochs.
    fn start_many<const N: usize>(
        settings: &DedupConfig,
        url: &str,
        topics: &TestTopics,
    ) -> [Self; N] {
        let all = std::array::from_fn(|_| Self::new(settings, url, topics, GENEROUS_TIMEOUT));
        for replica in &all {
            runtime().block_on(replica.shared.flush(GENEROUS_TIMEOUT * 10));
        }
        all
    }

    async fn claim(&self, facts: &EventFacts<'_>, limit: Duration) -> RedisDecision {
        let deadline = Instant::now() + limit;
        loop {
            match self.memory.reserve(facts, Instant::now()) {
                ReservationOutcome::Reserved(hold) => {
                    return self.shared.decide(facts, hold, deadline).await;
                }
                ReservationOutcome::Redelivery { spooled } => {
                    let kind = DuplicateKind::Redelivery;
                    return RedisDecision::Duplicate { kind, spooled };
                }
                ReservationOutcome::Wait(turn) => turn.await,
            }
        }
    }

    async fn verdict(&self, facts: &EventFacts<'_>) -> (DedupVerdict, Option<Claim>) {
        match self.claim(facts, Duration::from_secs(20)).await {
            RedisDecision::Publish(claim) => {
                (DedupVerdict::Publish(claim.marks().clone()), Some(claim))
            }
            RedisDecision::Duplicate { kind, .. } => (DedupVerdict::Duplicate(kind), None),
            RedisDecision::TimedOut => panic!("nothing is undecided for so long"),
        }
    }
}

fn commit(claim: Claim) {
    claim.commit(&Receipt::for_test(), Instant::now());
}

/// What `replica` had spooled with `marks` is in Kafka.
fn mark_drained(replica: &Replica, facts: &EventFacts<'_>, marks: &Marks) {
    let follows = replica.memory.mark_drained(facts, marks);
    replica.shared.mark_drained(facts, marks, follows);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// An id made in a second.
fn ksuid(second: u32, number: u8) -> String {
    let mut bytes = [number; 20];
    bytes[..4].copy_from_slice(&second.to_be_bytes());
    format!("event_{}", Ksuid::from_bytes(bytes))
}

/// Facts as those of a real event, but written down.
fn facts(id: &str, cell: Option<u64>, value: u64, timestamp_ms: i64) -> EventFacts<'_> {
    let reading = format!("{cell:?} {value} {timestamp_ms}");
    let source = cell.unwrap_or(99) % 2;
    EventFacts {
        id,
        id_hash: xxh3_64(id.as_bytes()),
        reading: xxh3_64(reading.as_bytes()),
        occupancy_key: cell.map(|cell| xxh3_64(format!("{cell} {timestamp_ms}").as_bytes())),
        source_key: xxh3_64(&source.to_le_bytes()),
        timestamp_ms,
        has_plausible_time: timestamp_ms < 4,
    }
}
