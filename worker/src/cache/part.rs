// SPDX-License-Identifier: Apache-2.0

//! The file that a download is written to, locked by the process that writes it.
//!
//! Its name states the blob and its origin, so all processes of a node that want the same blob meet
//! at it. The system releases the lock (`flock(2)`) when a process dies. Only the holder renames or
//! removes the file, so a process that gets the lock checks that its file still has the name.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use tempfile::{NamedTempFile, TempPath};

/// The suffix of these files.
pub(super) const SUFFIX: &str = ".part";

/// An empty file that only this process writes. Removed when dropped, unless it gets its final
/// name.
#[derive(Debug)]
pub(super) struct Part {
    file: NamedTempFile,
    /// The same file opened again, for readers: the lock ends with the one above.
    pub(super) readable: Arc<File>,
}

/// The writer of a name.
#[derive(Debug)]
pub(super) enum Taken {
    /// This process, from now on.
    Ours(Part),
    /// Another process.
    Others(Followable),
}

/// A file that another process writes.
#[derive(Debug)]
pub(super) struct Followable {
    pub(super) file: Arc<File>,
}

impl Part {
    /// Takes the file of a name, which is made if it is missing, unless another process has it. On
    /// a file system without locks, each process has a file of its own.
    pub(super) fn take(path: &Path) -> io::Result<Taken> {
        if let Some(directory) = path.parent() {
            // Somebody may have deleted it.
            std::fs::create_dir_all(directory)?;
        }
        loop {
            let file =
                File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            match file.try_lock() {
                // A process died while writing it. Its followers still read what there is.
                Ok(()) if is_at(&file, path)? && file.metadata()?.len() > 0 => {
                    std::fs::remove_file(path)?;
                }
                Ok(()) if is_at(&file, path)? => {
                    let path = TempPath::try_from_path(path)?;
                    return Ok(Taken::Ours(Self::of(NamedTempFile::from_parts(file, path))?));
                }
                // The previous holder has just renamed or removed it.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Ok(Taken::Others(Followable { file: Arc::new(file) }));
                }
                Err(TryLockError::Error(_)) => return Self::alone(path).map(Taken::Ours),
            }
        }
    }

    /// Makes a file of this process's own next to a name.
    pub(super) fn alone(path: &Path) -> io::Result<Self> {
        let directory = path.parent().unwrap_or(path);
        let file = tempfile::Builder::new().suffix(SUFFIX).tempfile_in(directory)?;
        // Prevents eviction. Not available everywhere.
        let _no_locks = file.as_file().try_lock();
        Self::of(file)
    }

    fn of(file: NamedTempFile) -> io::Result<Self> {
        let readable = Arc::new(file.reopen()?);
        Ok(Self { file, readable })
    }

    /// Gives the file its name, replacing any other.
    pub(super) fn persist(self, path: &Path) -> io::Result<File> {
        Ok(self.file.persist(path)?)
    }

    /// Returns whether a process has the file of a name.
    pub(super) fn is_being_written(path: &Path) -> bool {
        let lock = File::open(path).map(|file| file.try_lock());
        matches!(lock, Ok(Err(TryLockError::WouldBlock)))
    }
}

impl io::Write for Part {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Followable {
    /// Returns how many bytes there are so far; `None` once nobody writes any more.
    pub(super) fn written(&self) -> io::Result<Option<u64>> {
        match self.file.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(Some(self.file.metadata()?.len())),
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => self.file.unlock().map(|()| None),
        }
    }
}

/// Returns whether a name is that of an open file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (open, named) = (file.metadata()?, std::fs::metadata(path));
    match named {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
