//! Against a real Redis; skipped, and said so, where there is none.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use secrecy::SecretString;
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::config::{DedupConfig, DuplicateHandling, DedupStore};
use crate::dedup::claim::{Held, Next};
use crate::dedup::memory::Memory;
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
fn redis(arguments: &[&str]) -> Option<RedisServer> {
    if server::needs().is_empty() {
        return Some(RedisServer::start(arguments));
    }
    let required = std::env::var("BUTLR_BRIDGE_TEST_REQUIRE_ALL").is_ok_and(|v| v == "1");
    assert!(!required, "needs {}", server::needs().join(", "));
    let thread = thread::current();
    let name = thread.name().unwrap_or_default();
    // Not by `eprintln`, which nobody sees of a test that passes.
    let needs = server::needs().join(", ");
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

fn default() -> DedupConfig {
    settings(DuplicateHandling::Drop, DuplicateHandling::Drop)
}

type Topics = [String; 10];

fn fresh_topics() -> Topics {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::array::from_fn(|index| format!("test{number}.{index}"))
}

/// What a worker needs that is never connected.
pub(super) fn line() -> Line {
    let terms = Terms::new(&default(), "test", &fresh_topics());
    Line::new(terms, 1, IntCounter::new("errors", "errors").unwrap())
}

/// The end of an occupancy that was stored without Redis.
pub(super) fn unheld(token: wire::Token) -> Box<wire::Ending> {
    let current = Current {
        reading: 1,
        id: EventId::new("a"),
        revision: 0,
    };
    Box::new(wire::Ending {
        subject: Subject::new(token, &facts("a", Some(1), 1, 1)),
        change: Change {
            conflict: false,
            current: Some(current),
        },
        stored: wire::Stored::Published,
        at: Instant::now(),
        granted: false,
        again: false,
    })
}

/// Longer than any answer of a working Redis takes on a busy machine.
const PATIENT: Duration = Duration::from_secs(1);

/// A bridge's part in this.
struct Replica {
    memory: Arc<Memory>,
    shared: Arc<Shared>,
    errors: IntCounter,
}

impl Replica {
    fn new(settings: &DedupConfig, url: &str, topics: &Topics, timeout: Duration) -> Self {
        let redis = config::RedisConfig {
            url: SecretString::from(url),
            timeout,
            prefix: "butlr-bridge".to_owned(),
        };
        let errors = IntCounter::new("errors", "errors").unwrap();
        let shared = Shared::start(settings, &redis, topics, errors.clone()).unwrap();
        Self {
            memory: Memory::new(settings, Instant::now()),
            shared,
            errors,
        }
    }

    /// So many that have begun their epochs.
    fn several<const N: usize>(settings: &DedupConfig, url: &str, topics: &Topics) -> [Self; N] {
        let all = std::array::from_fn(|_| Self::new(settings, url, topics, PATIENT));
        for replica in &all {
            runtime().block_on(replica.shared.flush(PATIENT * 10));
        }
        all
    }

    async fn claim(&self, facts: &Facts<'_>, limit: Duration) -> Decided {
        let deadline = Instant::now() + limit;
        loop {
            match self.memory.hold(facts, Instant::now()) {
                Held::Hold(hold) => return self.shared.decide(facts, hold, deadline).await,
                Held::Redelivery { spooled } => {
                    let kind = Duplicate::Redelivery;
                    return Decided::Duplicate { kind, spooled };
                }
                Held::Wait(turn) => turn.await,
            }
        }
    }

    async fn verdict(&self, facts: &Facts<'_>) -> (Verdict, Option<Claim>) {
        match self.claim(facts, Duration::from_secs(20)).await {
            Decided::Publish(claim) => (Verdict::Publish(claim.marks().clone()), Some(claim)),
            Decided::Duplicate { kind, .. } => (Verdict::Duplicate(kind), None),
            Decided::TimedOut => panic!("nothing is undecided for so long"),
        }
    }
}

fn commit(claim: Claim) {
    claim.commit(&Receipt::for_test(), Instant::now());
}

/// What `replica` had spooled with `marks` is in Kafka.
fn drain(replica: &Replica, facts: &Facts<'_>, marks: &Marks) {
    let follows = replica.memory.drained(facts, marks);
    replica.shared.drained(facts, marks, follows);
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
fn facts(id: &str, cell: Option<u64>, value: u64, timestamp_ms: i64) -> Facts<'_> {
    let reading = format!("{cell:?} {value} {timestamp_ms}");
    let source = cell.unwrap_or(99) % 2;
    Facts {
        id,
        id_key: xxh3_64(id.as_bytes()),
        reading: xxh3_64(reading.as_bytes()),
        cell: cell.map(|cell| xxh3_64(format!("{cell} {timestamp_ms}").as_bytes())),
        source: xxh3_64(&source.to_le_bytes()),
        timestamp_ms,
        plausible_time: timestamp_ms < 4,
    }
}
