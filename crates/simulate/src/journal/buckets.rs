//! Fixed-size items in 128 files, partitioned by key, so that two sets that do not fit into memory
//! can be joined file by file.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::hash;

/// Number of files. With 50 million items each holds about 390,000.
pub const BUCKET_COUNT: usize = 128;
/// Write buffer per file, in bytes.
const BUFFER_BYTES: usize = 32 << 10;

/// An item with a fixed length on disk.
pub trait FixedSize: Sized {
    /// Length in bytes.
    const SIZE: usize;

    /// Key that selects the bucket, by its upper bits.
    fn key(&self) -> u64;

    /// Appends exactly [`SIZE`](Self::SIZE) bytes.
    fn encode(&self, out: &mut Vec<u8>);

    /// Decodes exactly [`SIZE`](Self::SIZE) bytes; `None` if they are not an item.
    fn decode(bytes: FieldReader<'_>) -> Option<Self>;
}

/// Reads bytes field by field.
pub struct FieldReader<'b>(&'b [u8]);

impl FieldReader<'_> {
    /// Takes the next `N` bytes.
    pub fn read_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }
}

/// Item count and checksum of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketChecksum {
    /// Number of items.
    pub items: u64,
    /// XXH3 of all bytes.
    pub xxh3: u64,
}

/// Writes items to their buckets.
pub struct BucketWriter<T> {
    files: Vec<BucketFile>,
    scratch: Vec<u8>,
    item_type: PhantomData<T>,
}

struct BucketFile {
    file: BufWriter<File>,
    items: u64,
    digest: Xxh3,
}

impl<T: FixedSize> BucketWriter<T> {
    /// Creates the files in an existing directory.
    pub fn create(dir: &Path) -> io::Result<Self> {
        let bucket = |n| {
            let file = File::create_new(bucket_path(dir, n))?;
            Ok(BucketFile {
                file: BufWriter::with_capacity(BUFFER_BYTES, file),
                items: 0,
                digest: Xxh3::new(),
            })
        };
        Ok(Self {
            files: (0..BUCKET_COUNT).map(bucket).collect::<io::Result<_>>()?,
            scratch: Vec::with_capacity(T::SIZE),
            item_type: PhantomData,
        })
    }

    /// Appends an item to its bucket.
    pub fn push(&mut self, item: &T) -> io::Result<()> {
        self.scratch.clear();
        item.encode(&mut self.scratch);
        debug_assert_eq!(self.scratch.len(), T::SIZE);
        let bucket = &mut self.files[bucket_index(item.key())];
        bucket.file.write_all(&self.scratch)?;
        bucket.digest.update(&self.scratch);
        bucket.items += 1;
        Ok(())
    }

    /// Flushes the buffers and returns the checksum of each bucket.
    pub fn close(self) -> io::Result<Vec<BucketChecksum>> {
        let close = |mut bucket: BucketFile| {
            bucket.file.flush()?;
            Ok(BucketChecksum {
                items: bucket.items,
                xxh3: bucket.digest.digest(),
            })
        };
        self.files.into_iter().map(close).collect()
    }
}

/// Reads the items of one bucket, in the order in which they were added.
///
/// # Errors
/// The file cannot be read, or differs from what was written (`InvalidData`).
pub fn read_bucket<T: FixedSize>(dir: &Path, n: usize, sum: BucketChecksum) -> io::Result<Vec<T>> {
    let path = bucket_path(dir, n);
    let explain = |text: String| format!("{}: {text}", path.display());
    let other = |e: io::Error| io::Error::new(e.kind(), explain(e.to_string()));
    let damaged = || {
        let text =
            explain("differs from what was written (truncated, damaged or replaced)".to_owned());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let mut file = File::open(&path).map_err(other)?;
    let length = file.metadata().map_err(other)?.len();
    if Some(length) != sum.items.checked_mul(T::SIZE as u64) {
        return Err(damaged());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(|_| damaged())?);
    file.read_to_end(&mut bytes).map_err(other)?;
    if hash::hash_bytes(&bytes) != sum.xxh3 {
        return Err(damaged());
    }
    let items = bytes.chunks_exact(T::SIZE);
    items
        .map(|item| T::decode(FieldReader(item)).ok_or_else(damaged))
        .collect()
}

/// Returns the index of the bucket that holds a key's items.
pub const fn bucket_index(key: u64) -> usize {
    (key >> (u64::BITS - BUCKET_COUNT.ilog2())) as usize
}

fn bucket_path(dir: &Path, n: usize) -> PathBuf {
    dir.join(format!("bucket-{n:03}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct TestItem(u64, u8);

    impl FixedSize for TestItem {
        const SIZE: usize = 9;

        fn key(&self) -> u64 {
            self.0
        }

        fn encode(&self, out: &mut Vec<u8>) {
            out.extend(self.0.to_le_bytes());
            out.push(self.1);
        }

        fn decode(mut bytes: FieldReader<'_>) -> Option<Self> {
            let key = u64::from_le_bytes(bytes.read_array()?);
            let [tag] = bytes.read_array()?;
            (tag < 10).then_some(Self(key, tag))
        }
    }

    fn spread(n: u64) -> u64 {
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn items_are_read_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut buckets = BucketWriter::create(dir.path()).unwrap();
        for n in 0..10_000 {
            buckets
                .push(&TestItem(spread(n % 5_000), (n % 7) as u8))
                .unwrap();
        }
        let sums = buckets.close().unwrap();
        assert_eq!(sums.len(), BUCKET_COUNT);
        assert_eq!(sums.iter().map(|s| s.items).sum::<u64>(), 10_000);
        for (n, sum) in sums.into_iter().enumerate() {
            let expected = (0..10_000)
                .map(|n| TestItem(spread(n % 5_000), (n % 7) as u8))
                .filter(|item| bucket_index(item.0) == n);
            let found: Vec<TestItem> = read_bucket(dir.path(), n, sum).unwrap();
            assert_eq!(found, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_damaged_bucket_is_reported_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut buckets = BucketWriter::create(dir.path()).unwrap();
        buckets.push(&TestItem(1, 1)).unwrap();
        buckets.push(&TestItem(2, 2)).unwrap();
        let sum = buckets.close().unwrap()[0];
        let file = dir.path().join("bucket-000");
        let whole = std::fs::read(&file).unwrap();
        let error = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            let error = read_bucket::<TestItem>(dir.path(), 0, sum).unwrap_err();
            assert!(error.to_string().contains("bucket-000"), "{error}");
            error.kind()
        };
        assert_eq!(error(&whole[..17]), io::ErrorKind::InvalidData);
        assert_eq!(error(&whole[..9]), io::ErrorKind::InvalidData);
        assert_eq!(error(&[]), io::ErrorKind::InvalidData);
        let mut other = whole.clone();
        other[3] ^= 1;
        assert_eq!(error(&other), io::ErrorKind::InvalidData);
        std::fs::remove_file(&file).unwrap();
        let error = read_bucket::<TestItem>(dir.path(), 0, sum).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
