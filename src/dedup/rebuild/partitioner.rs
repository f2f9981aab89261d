//! The partitioner of the bridge's producer: librdkafka's `murmur2_random`, which is also the
//! default of Java clients.

/// Returns the partition of `key` in a topic of `partitions`, or `None` if there are none.
pub fn partition_of(key: &[u8], partitions: usize) -> Option<i32> {
    let positive = murmur2(key) & 0x7fff_ffff;
    let partition = (positive as usize).checked_rem(partitions)?;
    i32::try_from(partition).ok()
}

const M: u32 = 0x5bd1_e995;

fn murmur2(key: &[u8]) -> u32 {
    let mut words = key.chunks_exact(4);
    let mut hash = 0x9747_b28c ^ key.len() as u32;
    for word in &mut words {
        let word = [word[0], word[1], word[2], word[3]];
        let scrambled = xor_shift_right(u32::from_le_bytes(word).wrapping_mul(M), 24);
        hash = hash.wrapping_mul(M) ^ scrambled.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let rest = rest.iter().rev();
        hash ^= rest.fold(0, |all, byte| all << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    xor_shift_right(xor_shift_right(hash, 13).wrapping_mul(M), 15)
}

fn xor_shift_right(bits: u32, by: u32) -> u32 {
    bits ^ bits >> by
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cases from Kafka's own tests.
    #[test]
    fn hashes_like_the_java_client() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn the_sign_bit_is_ignored() {
        assert_eq!(partition_of(b"abc", 10), Some(7));
        let foobar = (-790_332_482_i32 & 0x7fff_ffff) % 10;
        assert_eq!(partition_of(b"foobar", 10), Some(foobar));
        assert_eq!(partition_of(b"abc", 1), Some(0));
        assert_eq!(partition_of(b"abc", 0), None);
    }
}
