//! Test harness: a bridge with its Kafka, a client, and a ledger that is checked when the bridge
//! ends.

mod bridge;
mod events;
mod frames;
mod http;
mod ledger;
mod process;
mod proxy;
mod records;
mod redis;
mod trial;

pub use bridge::{BridgeSetup, KafkaBackend, TestBridge};
pub use events::{clock_ms, minimal_event, sample, spellings, unique_ms};
pub use http::{HttpRequest, HttpResponse, agent, read_response, write_head, write_request};
pub use ledger::{parse_samples, sum_samples};
pub use process::{BridgeProcess, binary, find_final_counters, without_colours};
pub use proxy::{FaultyProxy, NetworkCondition};
pub use records::{TestRecord, TopicTail, list_topics, read_records};
pub use redis::{RedisServer, missing_requirements as missing_redis_requirements};
pub(crate) use trial::trials;
pub use trial::{init_log, print_skipped, trial};

use std::time::{Duration, Instant};

/// Time limit for anything that is expected to happen, long enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Polls `look` until it returns a value; fails the test after [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Parses a table or an array as it would be written in the configuration file.
#[track_caller]
pub fn toml(text: &str) -> toml::Value {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}
