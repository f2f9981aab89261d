//! Randomness without a generator.
//!
//! Some choices must not depend on the order of the draws, nor on which other choices are drawn at
//! all: a message's id, a sensor's clock error, a person's seat. They are hashes of their subject.

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

/// Topic of a choice: two choices with the same subject but different topics are independent.
#[derive(Clone, Copy)]
#[repr(u64)]
pub enum ChanceTopic {
    Ids = 1,
    Hardware,
    CustomId,
    Clock,
    Computation,
    Miscount,
    Door,
    MotionEnd,
    Seat,
    Stroll,
}

/// 64 uniformly distributed bits.
pub fn hash(seed: u64, topic: ChanceTopic, subject: [u64; 3]) -> u64 {
    xxh3_64_with_seed(&topic_bytes(topic, subject), seed)
}

/// 128 uniformly distributed bits: enough to rule out collisions.
pub fn payload(seed: u64, topic: ChanceTopic, subject: [u64; 3]) -> [u8; 16] {
    xxh3_128_with_seed(&topic_bytes(topic, subject), seed).to_be_bytes()
}

/// Returns `true` with the given probability.
pub fn happens(hash: u64, probability: f64) -> bool {
    // A double has 53 bits of precision.
    ((hash >> 11) as f64) < probability * (1_u64 << 53) as f64
}

/// A number below `limit`. Limits are small, so the slight bias towards lower numbers does not
/// matter.
pub fn number_below(hash: u64, limit: u64) -> u64 {
    ((u128::from(hash) * u128::from(limit)) >> 64) as u64
}

fn topic_bytes(topic: ChanceTopic, subject: [u64; 3]) -> [u8; 32] {
    let mut bytes = [0; 32];
    let parts = [topic as u64, subject[0], subject[1], subject[2]];
    for (chunk, part) in bytes.chunks_exact_mut(8).zip(parts) {
        chunk.copy_from_slice(&part.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::{ChanceTopic, happens, hash, number_below};

    #[test]
    fn probabilities_and_limits_hold() {
        let hashes = || (0..20_000).map(|n| hash(7, ChanceTopic::Miscount, [n, 0, 0]));
        let happened = hashes().filter(|&hash| happens(hash, 0.03)).count();
        assert!((500..700).contains(&happened), "{happened}");
        assert!(hashes().all(|hash| happens(hash, 1.0) && !happens(hash, 0.0)));
        let mut seen = [0; 5];
        for hash in hashes() {
            seen[number_below(hash, 5) as usize] += 1;
        }
        assert!(
            seen.iter().all(|times| (3_700..4_300).contains(times)),
            "{seen:?}"
        );
    }

    #[test]
    fn topics_and_seeds_differ() {
        let one = hash(7, ChanceTopic::Miscount, [1, 2, 3]);
        assert_ne!(one, hash(8, ChanceTopic::Miscount, [1, 2, 3]));
        assert_ne!(one, hash(7, ChanceTopic::Door, [1, 2, 3]));
        assert_ne!(one, hash(7, ChanceTopic::Miscount, [2, 1, 3]));
    }
}
