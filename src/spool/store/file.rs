//! One segment's file: a redb database with a table for each destination. redb may panic on a damaged file, so every call is
//! guarded; and an error from here means that the file is not to be trusted any more.

use std::{
    io,
    ops::{Bound, ControlFlow},
    panic::{AssertUnwindSafe, catch_unwind},
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

/// What proves that the file can be written: when it was begun.
const PROBE_TABLE: TableDefinition<(), i64> = TableDefinition::new("begun");

/// What a file that is written to keeps in memory.
const WRITE_CACHE: usize = 8 << 20;
/// What one that is read keeps, of which there may be as many as destinations.
const READ_CACHE: usize = 2 << 20;

/// What went wrong with a file, in words.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct FileError(pub(super) String);

/// A row of which the file has lost something.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BrokenRow;

pub(super) struct SegmentFile {
    database: Database,
    written: Option<Arc<AtomicU64>>,
}

impl SegmentFile {
    /// In a new, empty file.
    pub(super) fn create(backend: BoxedBackend) -> Result<Self, FileError> {
        let (backend, written) = MeteredBackend::new(backend);
        let database = open_database(WRITE_CACHE, backend)?;
        Ok(Self {
            database,
            written: Some(written),
        })
    }

    /// To write on in a file that is there.
    pub(super) fn open(backend: BoxedBackend) -> Result<Self, FileError> {
        require_not_empty(&backend)?;
        let (backend, written) = MeteredBackend::new(backend);
        let database = open_database(WRITE_CACHE, backend)?;
        Ok(Self {
            database,
            written: Some(written),
        })
    }

    /// To read only: the file is not touched.
    pub(super) fn read_only(backend: BoxedBackend) -> Result<Self, FileError> {
        require_not_empty(&backend)?;
        let overlay = OverlayBackend::new(backend).map_err(|error| FileError(error.to_string()))?;
        Ok(Self {
            database: open_database(READ_CACHE, overlay)?,
            written: None,
        })
    }

    /// In no file at all.
    pub(super) fn in_memory() -> Result<Self, FileError> {
        Ok(Self {
            database: open_database(READ_CACHE, InMemoryBackend::new())?,
            written: None,
        })
    }

    /// How far the file was written.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written
            .as_ref()
            .map_or(0, |written| written.load(Relaxed))
    }

    /// Counts on while the file is written.
    pub(super) fn written_counter(&self) -> Option<Arc<AtomicU64>> {
        self.written.clone()
    }

    /// All of them in one commit, durable on return. Each is the greatest of its destination; so pages are filled, not halved.
    pub(super) fn append<'r>(
        &self,
        rows: impl Iterator<Item = (usize, u64, &'r [u8])> + Clone,
    ) -> Result<(), FileError> {
        catch_panics(|| {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            let mut framed = Vec::new();
            for (to, table) in TABLES.iter().enumerate() {
                let mut of_this = rows.clone().filter(|row| row.0 == to).peekable();
                if of_this.peek().is_none() {
                    continue;
                }
                let mut table = transaction.open_table(*table)?;
                let mut end = table.upper_bound_mut(Bound::<u64>::Unbounded)?;
                for (_, seq, bytes) in of_this {
                    frame(to, seq, bytes, &mut framed);
                    end.insert_before(seq, framed.as_slice())?;
                }
                end.close()?;
            }
            transaction.commit()?;
            Ok(())
        })
    }

    /// One row, anywhere, also in the place of one that is there. Durable on return.
    pub(super) fn put(&self, to: usize, seq: u64, bytes: &[u8]) -> Result<(), FileError> {
        catch_panics(|| {
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

    /// A commit without rows.
    pub(super) fn probe_write(&self, now_ms: i64) -> Result<(), FileError> {
        catch_panics(|| {
            let transaction = self.database.begin_write()?;
            transaction.open_table(PROBE_TABLE)?.insert((), now_ms)?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// The rows of `to` from `from` on, ascending, until `each` has enough.
    pub(super) fn scan(
        &self,
        to: usize,
        from: u64,
        mut each: impl FnMut(u64, Result<&[u8], BrokenRow>) -> ControlFlow<()>,
    ) -> Result<(), FileError> {
        catch_panics(|| {
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

    /// Writes what is left to be written, and lets go of the file.
    pub(super) fn close(self) -> Result<(), FileError> {
        catch_panics(|| Ok(self.database.close()?))
    }
}

fn require_not_empty(backend: &BoxedBackend) -> Result<(), FileError> {
    match backend.len() {
        // redb would make a new database of it.
        Ok(0) => Err(FileError("the file is empty".to_owned())),
        Ok(_) => Ok(()),
        Err(error) => Err(FileError(error.to_string())),
    }
}

fn open_database(cache: usize, backend: impl StorageBackend) -> Result<Database, FileError> {
    catch_panics(|| {
        Ok(Builder::new()
            .set_cache_size(cache)
            .create_with_backend(backend)?)
    })
}

/// An error of the database, or its panic, as a [`FileError`].
fn catch_panics<T>(call: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, FileError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| FileError(error.to_string())),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("without a word");
            Err(FileError(format!("redb panicked: {text}")))
        }
    }
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}
