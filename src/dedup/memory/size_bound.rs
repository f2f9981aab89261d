//! Upper bound of the memory that the configured limits allow.

use super::MemoryStore;
use super::shard::{NewestTimestamp, StoredId, StoredValue, shard_count};
use crate::config;
use crate::dedup::window::DedupWindow;

/// Memory besides the entries: holes that the allocator leaves while they grow, the shards, and
/// open claims. With 1, 4 and 10 million ids, each time full, 4 to 6 MB were measured; this adds a
/// margin.
const OVERHEAD_BYTES: u64 = 8 << 20;

/// Divisor for a further margin of 5 %, for the same reason.
const SPARE_DIVISOR: u64 = 20;

impl MemoryStore {
    /// The most memory, in bytes, that the stored entries take under `settings`: rings and tables
    /// at their largest, as long as ids are KSUIDs. (For a current value, any other id takes its
    /// length in addition.)
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

fn max_shard_bytes(max_entries: usize, bytes: impl Fn(usize) -> usize) -> u64 {
    let shards = shard_count(max_entries);
    shards as u64 * bytes(max_entries.div_ceil(shards)) as u64
}
