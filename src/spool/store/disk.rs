//! What the store asks of a file system. A trait, because the tests put one in its place that loses what was not fsynced.

use std::{
    any::Any,
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
};

use redb::{StorageBackend, backends::FileBackend};

use crate::spool::health::free_bytes;

/// A file as redb writes and reads it.
pub(super) type BoxedBackend = Box<dyn StorageBackend>;
/// Held as long as the directory is.
pub(super) type DirectoryLock = Box<dyn Any + Send + Sync>;

pub(super) trait StoreDisk: Debug + Send + Sync {
    /// With its parents; for nobody else's eyes.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// None when another process has it.
    fn lock(&self, file: &Path) -> io::Result<Option<DirectoryLock>>;
    /// Names and lengths of the files in it.
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>>;
    fn len(&self, file: &Path) -> io::Result<u64>;
    fn read(&self, file: &Path) -> io::Result<Vec<u8>>;
    /// Makes the file anew. Durable on return, its name after [`Disk::sync_dir`].
    fn write(&self, file: &Path, bytes: &[u8]) -> io::Result<()>;
    /// A new, empty file.
    fn create(&self, file: &Path) -> io::Result<BoxedBackend>;
    fn open(&self, file: &Path) -> io::Result<BoxedBackend>;
    fn open_read_only(&self, file: &Path) -> io::Result<BoxedBackend>;
    /// Replaces what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// `to` holds durably what `from` holds, which stays.
    fn copy_durably(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives up its space, keeps its name. Not where it has another one, too, as in `damaged/`.
    fn truncate(&self, file: &Path) -> io::Result<()>;
    fn remove(&self, file: &Path) -> io::Result<()>;
    /// Bytes that are left where the directory lies.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// From here on the names in it are durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The one of the operating system.
#[derive(Debug)]
pub(super) struct OsDisk;

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
        // A new file, never one whose fsync has failed before: the kernel forgets what it could not write.
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

/// Disks lose no less than a sector of this size.
const SECTOR_BYTES: u64 = 4096;

/// All of a file, with zeros where it can't be read. Errs where nothing of it can.
pub(super) fn read_readable_sectors(file: &dyn StorageBackend) -> io::Result<Vec<u8>> {
    let len = file.len()?;
    let mut bytes = vec![0; len as usize];
    let (mut any, mut failed) = (false, Ok(()));
    for (piece, at) in bytes
        .chunks_mut(SECTOR_BYTES as usize)
        .zip((0..).step_by(SECTOR_BYTES as usize))
    {
        match file.read(at, piece) {
            Ok(()) => any = true,
            Err(error) => {
                piece.fill(0);
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

/// The directories that get a new name when `dir` is made with its parents.
fn changed_directories(dir: &Path) -> Vec<&Path> {
    let missing = dir.ancestors().take_while(|dir| !dir.is_dir());
    let parents = missing.filter_map(Path::parent);
    parents
        .map(|parent| match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        })
        .collect()
}

/// What lies on a disk that has become read-only is drained all the same.
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
    fn every_directory_that_gets_a_new_one_is_made_durable() {
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
    fn a_lock_can_be_held_on_a_disk_that_is_read_only() {
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
