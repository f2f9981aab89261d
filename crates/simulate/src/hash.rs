//! Hashes that identify sent events: XXH3 with 64 bits, which guards against accidental collisions
//! but not against adversaries.

use std::hash::Hasher;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use butlr_event::EventType;

/// Key of a reading (type, space, timestamp). Two readings with the same key by chance only share a
/// queue.
pub fn reading_key(event_type: EventType, space_id: &str, timestamp_ms: i64) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&[event_type.index() as u8]);
    hash.update(&timestamp_ms.to_le_bytes());
    hash.update(space_id.as_bytes());
    hash.digest()
}

/// Hash of an event or of a part of it.
pub fn hash_bytes(value: &[u8]) -> u64 {
    xxh3_64(value)
}

/// Hasher for maps whose keys are already hashes.
#[derive(Default)]
pub struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}
