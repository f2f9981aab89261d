//! The file of a segment: a redb database with a table for each destination. redb may panic on a
//! damaged file, so panics are caught. A file that has returned an error is not to be trusted any
//! more.

use std::{
    io,
    ops::{Bound, ControlFlow},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, TableError, backends::InMemoryBackend,
};

use super::{
    backends::{MeteredBackend, OverlayBackend},
    disk::BoxedBackend,
    frame::{frame, unframe},
};
use crate::spool::panics::catch_panics;
use butlr_event::destination::Destination;

const TABLES: [TableDefinition<u64, &[u8]>; Destination::COUNT] = [
    TableDefinition::new("0"),
    TableDefinition::new("1"),
    TableDefinition::new("2"),
    TableDefinition::new("3"),
    TableDefinition::new("4"),
    TableDefinition::new("5"),
    TableDefinition::new("6"),
    TableDefinition::new("7"),
    TableDefinition::new("8"),
    TableDefinition::new("9"),
    TableDefinition::new("10"),
];

/// Table of the row that proves that a new file can be written: the time at which it was begun.
const PROBE_TABLE: TableDefinition<(), i64> = TableDefinition::new("begun");

/// Cache of the file that is written.
const WRITE_CACHE: usize = 8 << 20;
/// Cache of a file that is only read; there may be one for each destination.
const READ_CACHE: usize = 2 << 20;

/// Error of a file, as text.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct FileError(pub(super) String);

/// A row whose frame or checksum does not match.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BrokenRow;

pub(super) struct SegmentFile {
    database: Database,
    written: Option<Arc<AtomicU64>>,
}

impl SegmentFile {
    /// Creates a database in a new, empty file.
    pub(super) fn create(backend: BoxedBackend) -> Result<Self, FileError> {
        let (backend, written) = MeteredBackend::new(backend);
        let database = open_database(WRITE_CACHE, backend)?;
        Ok(Self {
            database,
            written: Some(written),
        })
    }

    /// Opens an existing file for writing.
    pub(super) fn open(backend: BoxedBackend) -> Result<Self, FileError> {
        require_not_empty(&backend)?;
        Self::create(backend)
    }

    /// Opens a file for reading, without changing it.
    pub(super) fn read_only(backend: BoxedBackend) -> Result<Self, FileError> {
        require_not_empty(&backend)?;
        let overlay = OverlayBackend::new(backend).map_err(|error| FileError(error.to_string()))?;
        Ok(Self {
            database: open_database(READ_CACHE, overlay)?,
            written: None,
        })
    }

    /// Creates a database in memory.
    pub(super) fn in_memory() -> Result<Self, FileError> {
        Ok(Self {
            database: open_database(READ_CACHE, InMemoryBackend::new())?,
            written: None,
        })
    }

    /// Returns the offset up to which the file was written.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written
            .as_ref()
            .map_or(0, |written| written.load(Relaxed))
    }

    /// Returns the counter behind [`SegmentFile::written_bytes`]; `None` if the file is only read.
    pub(super) fn written_counter(&self) -> Option<Arc<AtomicU64>> {
        self.written.clone()
    }

    /// Appends rows in one commit, durable on return. Each must be the last of its destination;
    /// redb then fills pages instead of halving them.
    pub(super) fn append<'r>(
        &self,
        rows: impl Iterator<Item = (usize, u64, &'r [u8])> + Clone,
    ) -> Result<(), FileError> {
        call_redb(|| {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            let mut framed = Vec::new();
            for (to, table) in TABLES.iter().enumerate() {
                let mut own_rows = rows.clone().filter(|row| row.0 == to).peekable();
                if own_rows.peek().is_none() {
                    continue;
                }
                let mut table = transaction.open_table(*table)?;
                let mut end = table.upper_bound_mut(Bound::<u64>::Unbounded)?;
                for (_, seq, bytes) in own_rows {
                    frame(to, seq, bytes, &mut framed);
                    end.insert_before(seq, framed.as_slice())?;
                }
                end.close()?;
            }
            transaction.commit()?;
            Ok(())
        })
    }

    /// Inserts or replaces a row. Durable on return.
    pub(super) fn put(&self, to: usize, seq: u64, bytes: &[u8]) -> Result<(), FileError> {
        call_redb(|| {
            let transaction = self.database.begin_write()?;
            let mut framed = Vec::new();
            frame(to, seq, bytes, &mut framed);
            transaction
                .open_table(TABLES[to])?
                .insert(seq, framed.as_slice())?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Makes a commit without rows.
    pub(super) fn probe_write(&self, now_ms: i64) -> Result<(), FileError> {
        call_redb(|| {
            let transaction = self.database.begin_write()?;
            transaction.open_table(PROBE_TABLE)?.insert((), now_ms)?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Calls `each` for the rows of `to` from `from` on, ascending, until it breaks.
    pub(super) fn scan(
        &self,
        to: usize,
        from: u64,
        mut each: impl FnMut(u64, Result<&[u8], BrokenRow>) -> ControlFlow<()>,
    ) -> Result<(), FileError> {
        call_redb(|| {
            let table = match self.database.begin_read()?.open_table(TABLES[to]) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            for row in ReadableTable::range(&table, from..)? {
                let (seq, framed) = row?;
                let seq = seq.value();
                if each(seq, unframe(to, seq, framed.value()).ok_or(BrokenRow)).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Writes everything and closes the file.
    pub(super) fn close(self) -> Result<(), FileError> {
        call_redb(|| Ok(self.database.close()?))
    }
}

fn require_not_empty(backend: &BoxedBackend) -> Result<(), FileError> {
    match backend.len() {
        // redb would create a new database in it.
        Ok(0) => Err(FileError("the file is empty".to_owned())),
        Ok(_) => Ok(()),
        Err(error) => Err(FileError(error.to_string())),
    }
}

fn open_database(cache: usize, backend: impl StorageBackend) -> Result<Database, FileError> {
    call_redb(|| {
        Ok(Builder::new()
            .set_cache_size(cache)
            .create_with_backend(backend)?)
    })
}

/// Turns an error or a panic of redb into a [`FileError`].
fn call_redb<T>(call: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, FileError> {
    match catch_panics(call) {
        Ok(result) => result.map_err(|error| FileError(error.to_string())),
        Err(panic) => Err(FileError(format!("redb panicked: {panic}"))),
    }
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}
