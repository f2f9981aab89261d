//! Chance without a generator: choices that must not depend on the order in which they are asked for, nor on whether
//! others are asked for at all (a message's id, a sensor's clock, where a person sits) are hashes of what they are about.

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

/// What a choice is about, so that two of them about the same thing differ.
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

/// 64 even bits.
pub fn hash(seed: u64, topic: ChanceTopic, about: [u64; 3]) -> u64 {
    xxh3_64_with_seed(&topic_bytes(topic, about), seed)
}

/// 128 even bits, enough that two of them are never the same.
pub fn payload(seed: u64, topic: ChanceTopic, about: [u64; 3]) -> [u8; 16] {
    xxh3_128_with_seed(&topic_bytes(topic, about), seed).to_be_bytes()
}

/// Whether something that happens with this probability happens.
pub fn happens(hash: u64, probability: f64) -> bool {
    // 53 bits are what a double can tell apart.
    ((hash >> 11) as f64) < probability * (1_u64 << 53) as f64
}

/// A number below `limit` (which is small, so that the tiny preference for lower numbers does not matter).
pub fn number_below(hash: u64, limit: u64) -> u64 {
    ((u128::from(hash) * u128::from(limit)) >> 64) as u64
}

fn topic_bytes(topic: ChanceTopic, about: [u64; 3]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (place, word) in [topic as u64, about[0], about[1], about[2]]
        .iter()
        .enumerate()
    {
        bytes[place * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::{ChanceTopic, happens, hash, number_below};

    #[test]
    fn chances_are_what_they_say() {
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
