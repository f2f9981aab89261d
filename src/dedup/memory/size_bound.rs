//! How much memory the bounds mean.

use super::MemoryStore;
use super::shard::{NewestTimestamp, StoredId, StoredValue, shard_count};
use crate::config;
use crate::dedup::window::DedupWindow;

/// What is taken beside the entries: holes that the allocator leaves while they grow, the shards, claims under way. With 1,
/// 4 and 10 million ids, each time full, 4 to 6 MB were measured; this is that with room to spare.
const OVERHEAD_BYTES: u64 = 8 << 20;

/// One in so many bytes more, for the same reason.
const SPARE_DIVISOR: u64 = 20;

impl MemoryStore {
    /// The most memory that `settings` allow what is stored to take, in bytes: rings and tables as large as they get, as long as
    /// ids are KSUIDs (a current value's id that is none takes its length besides).
    pub fn max_bytes(settings: &config::DedupConfig) -> u64 {
        let ids = max_shard_bytes(settings.max_ids, DedupWindow::<StoredId>::max_bytes);
        let values = max_shard_bytes(settings.max_readings, DedupWindow::<StoredValue>::max_bytes);
        let sources = max_shard_bytes(
            settings.max_readings,
            DedupWindow::<NewestTimestamp>::max_bytes,
        );
        let entries = ids + values + sources;
        entries + entries / SPARE_DIVISOR + OVERHEAD_BYTES
    }
}

fn max_shard_bytes(most: usize, bytes: impl Fn(usize) -> usize) -> u64 {
    let shards = shard_count(most);
    shards as u64 * bytes(most.div_ceil(shards)) as u64
}
