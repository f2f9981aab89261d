//! Frames of rows: a magic number that distinguishes a row from anything else in the file, and a
//! checksum, so that a row is either complete or absent. [`salvage`] finds rows in a damaged file
//! without redb.

use std::collections::{BTreeMap, BTreeSet};

use memchr::memmem;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use butlr_event::destination::Destination;

/// Not valid UTF-8, so that no text contains it.
const MAGIC: [u8; 8] = *b"\xffbutlr\xfe\x01";
const HEADER_LEN: usize = MAGIC.len() + 1 + 8 + 4 + 8;

/// Frames a row: magic, destination, sequence number, length, checksum of these and the bytes,
/// bytes.
pub(super) fn frame(to: usize, seq: u64, bytes: &[u8], into: &mut Vec<u8>) {
    into.clear();
    into.reserve(HEADER_LEN + bytes.len());
    into.extend_from_slice(&MAGIC);
    into.push(to as u8);
    into.extend_from_slice(&seq.to_le_bytes());
    into.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    into.extend_from_slice(&checksum(to, seq, bytes).to_le_bytes());
    into.extend_from_slice(bytes);
}

/// Returns the bytes of the row `seq` of `to`; `None` if `framed` is not exactly that row.
pub(super) fn unframe(to: usize, seq: u64, framed: &[u8]) -> Option<&[u8]> {
    let row = FramedRow::parse(framed)?;
    (row.to == to && row.seq == seq && HEADER_LEN + row.bytes.len() == framed.len())
        .then_some(row.bytes)
}

struct FramedRow<'f> {
    to: usize,
    seq: u64,
    bytes: &'f [u8],
}

impl<'f> FramedRow<'f> {
    /// Parses the complete row that `file` begins with.
    fn parse(file: &'f [u8]) -> Option<Self> {
        let rest = file.strip_prefix(&MAGIC)?;
        let (to, rest) = rest.split_first()?;
        let (seq, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (sum, rest) = rest.split_first_chunk()?;
        let (to, seq) = (usize::from(*to), u64::from_le_bytes(*seq));
        let bytes = rest.get(..u32::from_le_bytes(*len) as usize)?;
        let whole = to < Destination::COUNT && u64::from_le_bytes(*sum) == checksum(to, seq, bytes);
        whole.then_some(FramedRow { to, seq, bytes })
    }
}

/// Covers destination and sequence number by the seed, so that a row in the place of another one is
/// recognised as wrong; XXH3 itself covers the length.
fn checksum(to: usize, seq: u64, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, seq ^ (to as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Finds all complete rows in `file`, wherever they are. Rows never change, so old copies that redb
/// left behind equal the newest. The inside of a complete row is skipped: a sender may have sent
/// anything.
pub(super) fn salvage(file: &[u8], belongs: impl Fn(u64) -> bool) -> SalvagedRows<'_> {
    let magic = memmem::Finder::new(&MAGIC);
    let mut whole = BTreeMap::new();
    let mut torn = BTreeSet::new();
    let mut at = 0;
    while let Some(next) = magic.find(&file[at..]) {
        at += next;
        at += match FramedRow::parse(&file[at..]) {
            Some(row) => {
                if belongs(row.seq) {
                    whole.insert((row.to, row.seq), row.bytes);
                }
                HEADER_LEN + row.bytes.len()
            }
            None => {
                torn.insert(file[at..].get(9..17).map(<[u8]>::to_vec));
                1
            }
        };
    }
    let seqs: BTreeSet<Vec<u8>> = whole
        .keys()
        .map(|row| row.1.to_le_bytes().to_vec())
        .collect();
    torn.retain(|seq| seq.as_ref().is_none_or(|seq| !seqs.contains(seq)));
    SalvagedRows {
        whole,
        torn: torn.len(),
    }
}

/// Result of [`salvage`].
pub(super) struct SalvagedRows<'f> {
    pub whole: BTreeMap<(usize, u64), &'f [u8]>,
    /// Number of rows of which there is no complete copy, by the sequence numbers in their frames.
    pub torn: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(to: usize, seq: u64, bytes: &[u8]) -> Vec<u8> {
        let mut framed = Vec::new();
        frame(to, seq, bytes, &mut framed);
        framed
    }

    #[test]
    fn a_row_is_complete_or_absent() {
        let whole = framed(3, 77, b"value");
        assert_eq!(unframe(3, 77, &whole), Some(&b"value"[..]));
        assert_eq!(unframe(4, 77, &whole), None);
        assert_eq!(unframe(3, 78, &whole), None);
        for bit in 0..whole.len() * 8 {
            let mut broken = whole.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unframe(3, 77, &broken), None, "bit {bit}");
            let found = salvage(&broken, |_| true);
            assert!(found.whole.is_empty(), "bit {bit}");
            assert_eq!(found.torn, usize::from(bit >= MAGIC.len() * 8), "bit {bit}");
        }
        assert_eq!(unframe(3, 77, &whole[..whole.len() - 1]), None);
    }

    #[test]
    fn rows_are_found_anywhere_but_inside_other_rows() {
        let hostile = framed(1, 9, b"sent by somebody");
        let mut file = vec![0x55; 4096];
        file.extend(framed(2, 5, &hostile));
        file.extend([0xff; 30]);
        file.extend(framed(0, 6, b"second"));
        file.extend(framed(0, 6, b"second"));
        file.extend(framed(0, 1 << 40, b"of another segment"));
        file.extend(&framed(0, 7, b"torn")[..20]);
        let found = salvage(&file, |seq| seq < 100);
        let expected = BTreeMap::from([((0, 6), &b"second"[..]), ((2, 5), &hostile[..])]);
        assert_eq!((found.whole, found.torn), (expected, 1));
    }
}
