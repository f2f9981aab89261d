//! The file system behind a trait: tests use one that loses everything that was not fsynced.

use std::{
    any::Any,
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
};

use redb::{StorageBackend, backends::FileBackend};

/// A file, as redb reads and writes it.
pub(super) type BoxedBackend = Box<dyn StorageBackend>;
/// Lock of the spool's directory, released when dropped.
pub(super) type DirectoryLock = Box<dyn Any + Send + Sync>;

pub(super) trait StoreDisk: Debug + Send + Sync {
    /// Creates a directory and its parents, accessible to this user only.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Locks a file; `None` if another process has locked it.
    fn lock(&self, file: &Path) -> io::Result<Option<DirectoryLock>>;
    /// Lists the names and lengths of a directory's files.
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>>;
    fn len(&self, file: &Path) -> io::Result<u64>;
    fn read(&self, file: &Path) -> io::Result<Vec<u8>>;
    /// Writes a new file. Its content is durable on return, its name after [`StoreDisk::sync_dir`].
    fn write(&self, file: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Creates an empty file; an error if it exists.
    fn create(&self, file: &Path) -> io::Result<BoxedBackend>;
    fn open(&self, file: &Path) -> io::Result<BoxedBackend>;
    fn open_read_only(&self, file: &Path) -> io::Result<BoxedBackend>;
    /// Renames a file, replacing `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Copies or links a file. The content is durable on return.
    fn copy_durably(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Empties a file, unless it has another name too, as in `damaged/`.
    fn truncate(&self, file: &Path) -> io::Result<()>;
    fn remove(&self, file: &Path) -> io::Result<()>;
    /// Returns the free bytes of the directory's file system.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The operating system's file system.
#[derive(Debug)]
pub(super) struct OsDisk;

/// Returns the bytes of a directory's file system that users other than root can still write.
pub(in crate::spool) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

impl StoreDisk for OsDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let changed = changed_directories(dir);
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(dir)?;
        changed.iter().try_for_each(|dir| self.sync_dir(dir))
    }

    fn lock(&self, file: &Path) -> io::Result<Option<DirectoryLock>> {
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(file);
        let file = or_open_read_only(opened, file)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                files.push((name, metadata.len()));
            }
        }
        Ok(files)
    }

    fn len(&self, file: &Path) -> io::Result<u64> {
        Ok(fs::metadata(file)?.len())
    }

    fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        fs::read(file)
    }

    fn write(&self, file: &Path, bytes: &[u8]) -> io::Result<()> {
        // A new file, never one whose fsync has failed: the kernel drops pages that it could not
        // write.
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).open(file)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn create(&self, file: &Path) -> io::Result<BoxedBackend> {
        file_backend(
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(file)?,
        )
    }

    fn open(&self, file: &Path) -> io::Result<BoxedBackend> {
        file_backend(OpenOptions::new().read(true).write(true).open(file)?)
    }

    fn open_read_only(&self, file: &Path) -> io::Result<BoxedBackend> {
        file_backend(File::open(file)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn copy_durably(&self, from: &Path, to: &Path) -> io::Result<()> {
        if fs::hard_link(from, to).is_err() {
            fs::copy(from, to)?;
        }
        File::open(to)?.sync_all()
    }

    fn truncate(&self, file: &Path) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(file)?;
        #[cfg(unix)]
        if std::os::unix::fs::MetadataExt::nlink(&file.metadata()?) > 1 {
            return Ok(());
        }
        file.set_len(0)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        fs::remove_file(file)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        free_bytes(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// Unit in which a disk fails to read.
const SECTOR_BYTES: u64 = 4096;

/// Reads a file, with zeros for sectors that cannot be read; an error if none can.
pub(super) fn read_readable_sectors(file: &dyn StorageBackend) -> io::Result<Vec<u8>> {
    let len = file.len()?;
    let mut bytes = vec![0; len as usize];
    let (mut any, mut failed) = (false, Ok(()));
    for (sector, at) in bytes
        .chunks_mut(SECTOR_BYTES as usize)
        .zip((0..).step_by(SECTOR_BYTES as usize))
    {
        match file.read(at, sector) {
            Ok(()) => any = true,
            Err(error) => {
                sector.fill(0);
                failed = Err(error);
            }
        }
    }
    if any {
        Ok(bytes)
    } else {
        failed.map(|()| bytes)
    }
}

/// Returns the directories that get a new entry when `dir` is created with its parents.
fn changed_directories(dir: &Path) -> Vec<&Path> {
    let missing = dir.ancestors().take_while(|dir| !dir.is_dir());
    let parents = missing.filter_map(Path::parent);
    parents
        .map(|parent| {
            if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            }
        })
        .collect()
}

/// Opens a file on a read-only file system for reading: a spool on a disk that has become read-only
/// is still drained.
fn or_open_read_only(opened: io::Result<File>, file: &Path) -> io::Result<File> {
    match opened {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            File::open(file).map_err(|_| error)
        }
        opened => opened,
    }
}

fn file_backend(file: File) -> io::Result<BoxedBackend> {
    Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_read_from_the_file_system() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_bytes(dir.path()).unwrap() > 0);
        assert!(free_bytes(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn every_directory_with_a_new_entry_is_made_durable() {
        let there = tempfile::tempdir().unwrap();
        let there = there.path();
        let dir = there.join("a/b/c");
        let changed = [&there.join("a/b"), &there.join("a"), there];
        assert_eq!(changed_directories(&dir), changed);
        OsDisk.create_dir(&dir).unwrap();
        assert!(dir.is_dir());
        assert_eq!(changed_directories(&dir), Vec::<&Path>::new());
        assert_eq!(changed_directories(&there.join("d")), [there]);
        assert_eq!(
            changed_directories(Path::new("not-there/b")),
            [Path::new("not-there"), Path::new(".")]
        );
    }

    #[test]
    fn a_read_only_disk_can_be_locked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lock");
        let read_only = || Err(io::ErrorKind::ReadOnlyFilesystem.into());
        let missing = or_open_read_only(read_only(), &file).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::ReadOnlyFilesystem);
        let held = OsDisk.lock(&file).unwrap();
        let other = or_open_read_only(read_only(), &file).unwrap();
        assert!(other.try_lock().is_err());
        drop(held);
        other.try_lock().unwrap();
        assert!(OsDisk.lock(&file).unwrap().is_none());
    }
}
