//! redb backends that wrap a file.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use redb::StorageBackend;

use super::disk::BoxedBackend;
use crate::sync::lock;

/// Measures the offset up to which a file is written: redb doubles a file's length long before it
/// needs that.
#[derive(Debug)]
pub(super) struct MeteredBackend {
    inner: BoxedBackend,
    written: Arc<AtomicU64>,
}

impl MeteredBackend {
    pub(super) fn new(inner: BoxedBackend) -> (Self, Arc<AtomicU64>) {
        let written = Arc::new(AtomicU64::new(0));
        (
            Self {
                inner,
                written: Arc::clone(&written),
            },
            written,
        )
    }
}

impl StorageBackend for MeteredBackend {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.written.fetch_min(len, Relaxed);
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.written.fetch_max(offset + data.len() as u64, Relaxed);
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}

const PAGE_BYTES: u64 = 4096;

/// Keeps redb's writes in memory, so that opening a file of an earlier process never changes it,
/// not even by a repair.
#[derive(Debug)]
pub(super) struct OverlayBackend {
    file: BoxedBackend,
    overlay: Mutex<OverlayPages>,
}

#[derive(Debug)]
struct OverlayPages {
    /// Offset up to which the file's own bytes are visible.
    visible_len: u64,
    len: u64,
    pages: HashMap<u64, Box<[u8; PAGE_BYTES as usize]>>,
}

impl OverlayBackend {
    pub(super) fn new(file: BoxedBackend) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Self {
            file,
            overlay: Mutex::new(OverlayPages {
                visible_len: len,
                len,
                pages: HashMap::new(),
            }),
        })
    }

    fn read_page(
        &self,
        overlay: &OverlayPages,
        page: u64,
        out: &mut [u8; PAGE_BYTES as usize],
    ) -> io::Result<()> {
        if let Some(written) = overlay.pages.get(&page) {
            out.copy_from_slice(&written[..]);
            return Ok(());
        }
        out.fill(0);
        let begin = page * PAGE_BYTES;
        let len = overlay.visible_len.saturating_sub(begin).min(PAGE_BYTES) as usize;
        if len > 0 {
            self.file.read(begin, &mut out[..len])
        } else {
            Ok(())
        }
    }
}

/// Splits a range of bytes by pages: number of the page, range in the page, range in the whole.
fn page_ranges(
    offset: u64,
    len: usize,
) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let end = offset + len as u64;
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let page = at / PAGE_BYTES;
            let until = end.min((page + 1) * PAGE_BYTES);
            let inside = (at % PAGE_BYTES) as usize..(until - page * PAGE_BYTES) as usize;
            let outside = (at - offset) as usize..(until - offset) as usize;
            at = until;
            (page, inside, outside)
        })
    })
}

impl StorageBackend for OverlayBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.overlay).len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let overlay = lock(&self.overlay);
        if offset.saturating_add(out.len() as u64) > overlay.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if overlay.pages.is_empty() && offset + out.len() as u64 <= overlay.visible_len {
            return self.file.read(offset, out);
        }
        let mut whole = [0; PAGE_BYTES as usize];
        for (page, inside, outside) in page_ranges(offset, out.len()) {
            self.read_page(&overlay, page, &mut whole)?;
            out[outside].copy_from_slice(&whole[inside]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut overlay = lock(&self.overlay);
        if len < overlay.len {
            overlay.visible_len = overlay.visible_len.min(len);
            overlay.pages.retain(|page, _| page * PAGE_BYTES < len);
            if let Some(page) = overlay.pages.get_mut(&(len / PAGE_BYTES)) {
                page[(len % PAGE_BYTES) as usize..].fill(0);
            }
        }
        overlay.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut overlay = lock(&self.overlay);
        for (page, inside, outside) in page_ranges(offset, data.len()) {
            let mut whole = Box::new([0; PAGE_BYTES as usize]);
            self.read_page(&overlay, page, &mut whole)?;
            whole[inside].copy_from_slice(&data[outside]);
            overlay.pages.insert(page, whole);
        }
        overlay.len = overlay.len.max(offset + data.len() as u64);
        Ok(())
    }
}
