//! How much memory the bounds mean.

use super::Memory;
use super::shard::{Id, Source, Value, shards};
use crate::config;
use crate::dedup::window::Window;

/// What is taken beside the entries: holes that the allocator leaves while they grow, the shards, claims under way. With 1,
/// 4 and 10 million ids, each time full, 4 to 6 MB were measured; this is that with room to spare.
const BESIDE: u64 = 8 << 20;

/// One in so many bytes more, for the same reason.
const SPARE: u64 = 20;

impl Memory {
    /// The most memory that `settings` allow what is stored to take, in bytes: rings and tables as large as they get, as long as
    /// ids are KSUIDs (a current value's id that is none takes its length besides).
    pub fn bytes_bound(settings: &config::DedupConfig) -> u64 {
        let ids = in_shards(settings.max_ids, Window::<Id>::most_bytes);
        let values = in_shards(settings.max_readings, Window::<Value>::most_bytes);
        let sources = in_shards(settings.max_readings, Window::<Source>::most_bytes);
        let entries = ids + values + sources;
        entries + entries / SPARE + BESIDE
    }
}

fn in_shards(most: usize, bytes: impl Fn(usize) -> usize) -> u64 {
    let shards = shards(most);
    shards as u64 * bytes(most.div_ceil(shards)) as u64
}
