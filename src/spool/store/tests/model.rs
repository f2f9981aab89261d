//! A disk in memory that loses everything that was not fsynced: parts of files, and names in
//! directories. It can also stop or fail at any operation that changes something.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use redb::StorageBackend;

use crate::spool::store::disk::{BoxedBackend, DirectoryLock, StoreDisk};
use crate::sync::lock;

/// Unit in which a write reaches the disk, in any order.
const SECTOR: usize = 512;

/// A fault at an operation, given by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ModelFault {
    #[default]
    None,
    /// The process is killed before this operation.
    Stop(u64),
    /// `count` operations from this one on fail.
    Fail { at: u64, count: u64 },
    /// This read fails.
    FailRead(u64),
}

#[derive(Clone)]
pub(super) struct DiskModel(Arc<Mutex<DiskModelState>>);

#[derive(Clone, Debug, Default)]
struct DiskModelState {
    /// Free bytes that the disk reports.
    free: u64,
    files: BTreeMap<u64, FileContent>,
    /// Names as the process sees them.
    names: BTreeMap<PathBuf, u64>,
    /// Names that survive a power loss.
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names that are not durable yet, oldest first.
    renames: Vec<NameChange>,
    directories: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    operations: u64,
    reads: u64,
    fault: ModelFault,
    /// The operation at which the fault struck first.
    first_fault: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct FileContent {
    visible: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<FileChange>,
    /// Bad sectors: every read that touches them fails.
    bad: Range<usize>,
}

#[derive(Clone, Debug)]
enum FileChange {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// Gives `file` the name `to`, if any, and takes the name `from`.
#[derive(Clone, Debug)]
struct NameChange {
    file: u64,
    from: Option<PathBuf>,
    to: Option<PathBuf>,
}

impl FileChange {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(len) => bytes.resize(*len, 0),
            Self::Write(at, data) => {
                let end = at + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*at..end].copy_from_slice(data);
            }
        }
    }

    /// Splits the change into parts that survive a power loss independently.
    fn pieces(self) -> Vec<Self> {
        match self {
            Self::Write(at, data) => {
                let piece = |(n, piece): (usize, &[u8])| Self::Write(at + n * SECTOR, piece.into());
                data.chunks(SECTOR).enumerate().map(piece).collect()
            }
            length => vec![length],
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        if let Some(from) = &self.from
            && names.get(from) == Some(&self.file)
        {
            names.remove(from);
        }
        if let Some(to) = &self.to {
            names.insert(to.clone(), self.file);
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        let name = self.to.as_ref().or(self.from.as_ref());
        name.is_some_and(|name| name.parent() == Some(dir))
    }
}

impl FileContent {
    fn change(&mut self, change: FileChange) {
        change.apply(&mut self.visible);
        self.unsynced.push(change);
    }

    fn read(&self, range: Range<usize>) -> io::Result<&[u8]> {
        if range.start < self.bad.end && self.bad.start < range.end {
            return Err(io::Error::other("input/output error"));
        }
        let bytes = self.visible.get(range);
        bytes.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
    }
}

impl DiskModel {
    pub(super) fn new() -> Self {
        let model = Self(Arc::default());
        model.set_free_bytes(u64::MAX);
        model
    }

    pub(super) fn disk(&self) -> Arc<dyn StoreDisk> {
        Arc::new(self.clone())
    }

    pub(super) fn inject(&self, fault: ModelFault) {
        let mut inner = self.inner();
        inner.fault = fault;
        inner.first_fault = None;
    }

    /// Returns the number of operations that changed something, and that of reads.
    pub(super) fn operations(&self) -> (u64, u64) {
        let inner = self.inner();
        (inner.operations, inner.reads)
    }

    /// Returns the operation that the fault struck first.
    pub(super) fn first_fault(&self) -> Option<String> {
        self.inner().first_fault.clone()
    }

    /// Returns the disk as the next process finds it after a kill of this one.
    pub(super) fn after_kill(&self) -> Self {
        let mut inner = self.inner().clone();
        inner.locked.clear();
        inner.fault = ModelFault::None;
        (inner.operations, inner.reads) = (0, 0);
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Returns the disk as the next process finds it after a power loss. `dice(n)` is a number
    /// below `n`.
    pub(super) fn after_power_loss(&self, mut dice: impl FnMut(u64) -> u64) -> Self {
        let next = self.after_kill();
        {
            let mut inner = next.inner();
            for content in inner.files.values_mut() {
                // All pieces, half of them, almost none, or none.
                let odds = [16, 8, 1, 0][dice(4) as usize];
                for piece in std::mem::take(&mut content.unsynced)
                    .into_iter()
                    .flat_map(FileChange::pieces)
                {
                    if dice(16) < odds {
                        piece.apply(&mut content.durable);
                    }
                }
                content.visible = content.durable.clone();
            }
            let renames = std::mem::take(&mut inner.renames);
            let (in_order, first) = (dice(2) == 0, dice(renames.len() as u64 + 1) as usize);
            for (n, rename) in renames.iter().enumerate() {
                if if in_order { n < first } else { dice(2) == 0 } {
                    rename.apply(&mut inner.durable_names);
                }
            }
            inner.names = inner.durable_names.clone();
        }
        next
    }

    /// Names in `dir`, sorted.
    pub(super) fn names(&self, dir: &Path) -> Vec<String> {
        let inner = self.inner();
        let within = inner.names.keys().filter(|name| name.parent() == Some(dir));
        within
            .filter_map(|name| name.file_name()?.to_str().map(str::to_owned))
            .collect()
    }

    pub(super) fn contents(&self, file: &Path) -> Option<Vec<u8>> {
        let inner = self.inner();
        Some(inner.files[inner.names.get(file)?].visible.clone())
    }

    /// Changes a file durably, as another program would; `None` removes it.
    pub(super) fn damage(&self, file: &Path, bytes: Option<Vec<u8>>) {
        let mut inner = self.inner();
        match (inner.names.get(file).copied(), bytes) {
            (Some(id), Some(bytes)) => {
                inner.files.insert(
                    id,
                    FileContent {
                        visible: bytes.clone(),
                        durable: bytes,
                        unsynced: vec![],
                        bad: 0..0,
                    },
                );
            }
            _ => {
                inner.names.remove(file);
                inner.durable_names.remove(file);
            }
        }
    }

    /// Sets the free bytes that the disk reports.
    pub(super) fn set_free_bytes(&self, free: u64) {
        self.inner().free = free;
    }

    /// Makes a range of a file unreadable.
    pub(super) fn mark_bad_sectors(&self, file: &Path, bad: Range<usize>) {
        let mut inner = self.inner();
        let id = inner.id(file).unwrap();
        inner.content(id).bad = bad;
    }

    fn inner(&self) -> MutexGuard<'_, DiskModelState> {
        lock(&self.0)
    }
}

fn no_such_file() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn bad_disk() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

impl DiskModelState {
    /// Counts an operation that changes something; an error if the fault strikes it.
    fn operation(&mut self, what: &str, file: &dyn fmt::Debug) -> io::Result<()> {
        let number = self.operations;
        self.operations += 1;
        let strikes = match self.fault {
            ModelFault::Stop(at) => number >= at,
            ModelFault::Fail { at, count } => (at..at + count).contains(&number),
            ModelFault::None | ModelFault::FailRead(_) => false,
        };
        if strikes {
            self.first_fault
                .get_or_insert_with(|| format!("{what} {file:?}"));
            return Err(bad_disk());
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        matches!(self.fault, ModelFault::Stop(at) if self.operations > at)
    }

    fn count_read(&mut self, file: &dyn fmt::Debug) -> io::Result<()> {
        let number = self.reads;
        self.reads += 1;
        if self.fault == ModelFault::FailRead(number) {
            self.first_fault = Some(format!("read {file:?}"));
            return Err(io::Error::other("input/output error"));
        }
        Ok(())
    }

    fn id(&self, file: &Path) -> io::Result<u64> {
        self.names.get(file).copied().ok_or_else(no_such_file)
    }

    fn new_file(&mut self, name: &Path) -> io::Result<u64> {
        if self.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = self.files.last_key_value().map_or(0, |(id, _)| id + 1);
        self.files.insert(id, FileContent::default());
        self.rename(id, None, Some(name));
        Ok(id)
    }

    fn rename(&mut self, file: u64, from: Option<&Path>, to: Option<&Path>) {
        let rename = NameChange {
            file,
            from: from.map(Path::to_owned),
            to: to.map(Path::to_owned),
        };
        rename.apply(&mut self.names);
        self.renames.push(rename);
    }

    fn content(&mut self, id: u64) -> &mut FileContent {
        self.files.get_mut(&id).expect("files are never dropped")
    }

    fn write(&mut self, id: u64, at: usize, data: &[u8]) -> io::Result<()> {
        let stopped = self.is_stopped();
        let result = self.operation("write", &id);
        // A failed write may be partly done.
        let done = match (&result, stopped || self.is_stopped()) {
            (Ok(()), _) => data,
            (Err(_), true) => &[],
            (Err(_), false) => &data[..data.len() / 2],
        };
        if !done.is_empty() {
            self.content(id)
                .change(FileChange::Write(at, done.to_vec()));
        }
        result
    }

    fn sync(&mut self, id: u64) -> io::Result<()> {
        let result = self.operation("fsync", &id);
        match result {
            Ok(()) => self.content(id).sync(),
            Err(_) if self.is_stopped() => {}
            // Failed pages stay visible while the machine runs, and are never written.
            Err(_) => self.content(id).unsynced.clear(),
        }
        result
    }
}

impl StoreDisk for DiskModel {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if !self.inner().directories.contains(dir) {
            self.inner().operation("mkdir", &dir)?;
            self.inner().directories.insert(dir.to_owned());
        }
        Ok(())
    }

    fn lock(&self, file: &Path) -> io::Result<Option<DirectoryLock>> {
        let is_free = self.inner().locked.insert(file.to_owned());
        let held = ModelLock(self.clone(), file.to_owned());
        Ok(is_free.then(|| Box::new(held) as DirectoryLock))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        self.inner().count_read(&dir)?;
        let lengths = self.names(dir).into_iter().map(|name| {
            let len = self
                .contents(&dir.join(&name))
                .map_or(0, |bytes| bytes.len());
            (name, len as u64)
        });
        Ok(lengths.collect())
    }

    fn len(&self, file: &Path) -> io::Result<u64> {
        let inner = self.inner();
        Ok(inner.files[&inner.id(file)?].visible.len() as u64)
    }

    fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        let mut inner = self.inner();
        inner.count_read(&file)?;
        let content = &inner.files[&inner.id(file)?];
        Ok(content.read(0..content.visible.len())?.to_vec())
    }

    fn write(&self, file: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        inner.operation("make", &file)?;
        if let Ok(old) = inner.id(file) {
            inner.rename(old, Some(file), None);
        }
        let id = inner.new_file(file)?;
        inner.write(id, 0, bytes)?;
        inner.sync(id)
    }

    fn create(&self, file: &Path) -> io::Result<BoxedBackend> {
        let mut inner = self.inner();
        inner.operation("create", &file)?;
        let id = inner.new_file(file)?;
        Ok(Box::new(ModelFile(self.clone(), id)))
    }

    fn open(&self, file: &Path) -> io::Result<BoxedBackend> {
        let id = self.inner().id(file)?;
        Ok(Box::new(ModelFile(self.clone(), id)))
    }

    fn open_read_only(&self, file: &Path) -> io::Result<BoxedBackend> {
        self.open(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.operation("rename", &from)?;
        let id = inner.id(from)?;
        inner.rename(id, Some(from), Some(to));
        Ok(())
    }

    fn copy_durably(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.operation("link", &from)?;
        let id = inner.id(from)?;
        inner.rename(id, None, Some(to));
        inner.sync(id)
    }

    fn truncate(&self, file: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.operation("truncate", &file)?;
        let id = inner.id(file)?;
        let names = inner.names.values().filter(|named| **named == id).count();
        if names == 1 {
            inner.content(id).change(FileChange::Length(0));
        }
        Ok(())
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        let id = inner.id(file)?;
        inner.operation("remove", &file)?;
        inner.rename(id, Some(file), None);
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.inner().free)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.operation("fsync", &dir)?;
        let renames = std::mem::take(&mut inner.renames);
        let (durable, rest) = renames.into_iter().partition(|rename| rename.is_in(dir));
        inner.renames = rest;
        let durable: Vec<NameChange> = durable;
        durable
            .iter()
            .for_each(|rename| rename.apply(&mut inner.durable_names));
        Ok(())
    }
}

impl fmt::Debug for DiskModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskModel")
    }
}

struct ModelLock(DiskModel, PathBuf);

impl Drop for ModelLock {
    fn drop(&mut self) {
        self.0.inner().locked.remove(&self.1);
    }
}

/// An open file of the model, as a backend of redb.
#[derive(Debug)]
struct ModelFile(DiskModel, u64);

impl StorageBackend for ModelFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.inner().content(self.1).visible.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut inner = self.0.inner();
        inner.count_read(&self.1)?;
        let at = offset as usize;
        out.copy_from_slice(inner.content(self.1).read(at..at + out.len())?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.0.inner();
        inner.operation("set length", &self.1)?;
        inner
            .content(self.1)
            .change(FileChange::Length(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.inner().sync(self.1)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.inner().write(self.1, offset as usize, data)
    }
}
