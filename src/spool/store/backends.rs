//! What lies between redb and a file.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use redb::StorageBackend;

use super::disk::Backend;

/// Knows how far the file was written: redb doubles its length long before it needs that.
#[derive(Debug)]
pub(super) struct Measured {
    inner: Backend,
    written: Arc<AtomicU64>,
}

impl Measured {
    pub(super) fn new(inner: Backend) -> (Self, Arc<AtomicU64>) {
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

impl StorageBackend for Measured {
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

const PAGE: u64 = 4096;

/// Lets redb repair and mark a file as it likes, in memory: the file itself is only read. So a file of an earlier process is
/// never changed by being opened, whatever state it is in.
#[derive(Debug)]
pub(super) struct Overlay {
    below: Backend,
    above: Mutex<Above>,
}

#[derive(Debug)]
struct Above {
    /// The file's bytes are seen up to here.
    shown: u64,
    len: u64,
    pages: HashMap<u64, Box<[u8; PAGE as usize]>>,
}

impl Overlay {
    pub(super) fn new(below: Backend) -> io::Result<Self> {
        let len = below.len()?;
        Ok(Self {
            below,
            above: Mutex::new(Above {
                shown: len,
                len,
                pages: HashMap::new(),
            }),
        })
    }

    fn read_page(&self, above: &Above, page: u64, out: &mut [u8; PAGE as usize]) -> io::Result<()> {
        if let Some(written) = above.pages.get(&page) {
            out.copy_from_slice(&written[..]);
            return Ok(());
        }
        out.fill(0);
        let begin = page * PAGE;
        let len = above.shown.saturating_sub(begin).min(PAGE) as usize;
        if len > 0 {
            self.below.read(begin, &mut out[..len])
        } else {
            Ok(())
        }
    }
}

/// The pieces of pages that `offset` and `len` cover: page, place in it, place in the piece's owner.
fn pieces(
    offset: u64,
    len: usize,
) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let end = offset + len as u64;
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let page = at / PAGE;
            let until = end.min((page + 1) * PAGE);
            let inside = (at % PAGE) as usize..(until - page * PAGE) as usize;
            let outside = (at - offset) as usize..(until - offset) as usize;
            at = until;
            (page, inside, outside)
        })
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self
            .above
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let above = self.above.lock().unwrap_or_else(PoisonError::into_inner);
        if offset.saturating_add(out.len() as u64) > above.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if above.pages.is_empty() && offset + out.len() as u64 <= above.shown {
            return self.below.read(offset, out);
        }
        let mut whole = [0; PAGE as usize];
        for (page, inside, outside) in pieces(offset, out.len()) {
            self.read_page(&above, page, &mut whole)?;
            out[outside].copy_from_slice(&whole[inside]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut above = self.above.lock().unwrap_or_else(PoisonError::into_inner);
        if len < above.len {
            above.shown = above.shown.min(len);
            above.pages.retain(|page, _| page * PAGE < len);
            if let Some(page) = above.pages.get_mut(&(len / PAGE)) {
                page[(len % PAGE) as usize..].fill(0);
            }
        }
        above.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut above = self.above.lock().unwrap_or_else(PoisonError::into_inner);
        for (page, inside, outside) in pieces(offset, data.len()) {
            let mut whole = Box::new([0; PAGE as usize]);
            self.read_page(&above, page, &mut whole)?;
            whole[inside].copy_from_slice(&data[outside]);
            above.pages.insert(page, whole);
        }
        above.len = above.len.max(offset + data.len() as u64);
        Ok(())
    }
}
