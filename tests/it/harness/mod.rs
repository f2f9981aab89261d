//! What every test stands on: a bridge with its Kafka, a client, and a ledger that is checked when the bridge ends.

mod answer;
mod bridge;
mod events;
mod frames;
mod ledger;
mod process;
mod proxy;
mod records;
mod redis;
mod trial;

pub use answer::{HttpAnswer, HttpRequest, agent, read_answer, write_head};
pub use bridge::{BridgeSetup, KafkaBackend, TestBridge};
pub use events::{clock_ms, minimal_event, sample, spellings, unique_ms};
pub use ledger::sum_samples;
pub use process::{BridgeProcess, binary, without_colours};
pub use proxy::{FaultyProxy, NetworkCondition};
pub use records::{TestRecord, TopicTail, list_topics, read_records};
pub use redis::{RedisServer, missing_requirements as missing_redis_requirements};
pub(crate) use trial::trials;
pub use trial::{init_log, print_skipped, trial};

use std::time::{Duration, Instant};

/// Longer than anything that works takes, also on a machine that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `look` finds something; fails the test when it does not within [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A TOML value as it would be written in the file, for tables and arrays.
#[track_caller]
pub fn toml(text: &str) -> toml::Value {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}
