// SPDX-License-Identifier: Apache-2.0

//! A store in a directory: the parts that the object store's own local backend lacks.
//!
//! Records and logs go through that backend, with its `fsync`. Blobs do not: they are written
//! while they arrive, must be inspected before they get their name, and are opened in place to be
//! read by position.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::local::LocalFileSystem;
use slipway_proto::Digest;
use tokio::task::spawn_blocking;

use super::{StoreError, blob_path, fresh_upload_path};
use crate::file_identity::FileIdentity;
use crate::source::FileSource;
use crate::verified_files::{Scope, VerifiedFiles};

/// A blob's time of modification is set back by this much before it gets its name. No later write
/// leaves such a time, even with a coarse file system clock.
const MODIFIED_BEFORE_PLACED: Duration = Duration::from_secs(60);

/// The directory of a store.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    root: PathBuf,
    verified: Arc<VerifiedFiles>,
}

/// A file that is removed unless it gets its final name.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    placed: bool,
}

impl Partial {
    fn rename(&mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.placed {
            // If it cannot be removed now, the sweep will.
            fs::remove_file(&self.path).ok();
        }
    }
}

impl Directory {
    /// Opens the directory, and makes it durably if it is missing.
    pub(super) async fn open(root: PathBuf) -> Result<(Self, LocalFileSystem), StoreError> {
        let open = move || -> Result<_, StoreError> {
            let failed = |error| StoreError::of_io("make the store's directory", error);
            for path in [root.join("uploads"), root.join("blobs/sha256")] {
                fs::create_dir_all(path).map_err(failed)?;
            }
            for path in [root.join("blobs"), root.clone()] {
                sync_directory(&path).map_err(failed)?;
            }
            let objects = LocalFileSystem::new_with_prefix(&root)
                .map_err(|error| StoreError::of_object("open the store's directory", error))?;
            let root = fs::canonicalize(root).map_err(failed)?;
            // The parent is not ours and perhaps not readable. Then syncing it is up to its owner.
            root.parent().map(sync_directory).transpose().ok();
            let verified = VerifiedFiles::in_directory(root.join("verified"), Scope::FileSystem);
            Ok((Self { root, verified: Arc::new(verified) }, objects.with_fsync(true)))
        };
        spawn_blocking(open).await.map_err(StoreError::of_task)?
    }

    fn path_of(&self, path: &object_store::path::Path) -> PathBuf {
        self.root.join(path.as_ref())
    }

    /// Returns the directory of what is being received, which is on the store's disk.
    pub(super) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    /// Makes the file of an upload.
    pub(super) async fn create_upload(&self) -> Result<(File, Partial), StoreError> {
        let path = self.path_of(&fresh_upload_path());
        let create = move || {
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            Ok((file, Partial { path, placed: false }))
        };
        let created = spawn_blocking(create).await.map_err(StoreError::of_task)?;
        created.map_err(|error| StoreError::of_io("begin an upload", error))
    }

    /// Gives an upload its final name. It was digested as it was written, which is remembered. When
    /// this returns, the blob survives a power cut.
    pub(super) async fn place(
        &self,
        file: File,
        mut partial: Partial,
        digest: Digest,
    ) -> Result<(), StoreError> {
        let blob = self.path_of(&blob_path(digest));
        let verified = Arc::clone(&self.verified);
        let place = move || {
            let length = file.metadata()?.len();
            if fs::metadata(&blob).is_ok_and(|known| known.len() == length) {
                drop(partial);
            } else {
                file.set_times(
                    FileTimes::new().set_modified(SystemTime::now() - MODIFIED_BEFORE_PLACED),
                )?;
                file.sync_all()?;
                partial.rename(&blob)?;
                verified.remember(FileIdentity::of(&file)?, digest);
            }
            // Also for a blob that was already there: the process that is placing it may not have
            // come this far.
            sync_directory(blob.parent().expect("a blob is in a directory"))
        };
        let placed = spawn_blocking(place).await.map_err(StoreError::of_task)?;
        placed.map_err(|error| StoreError::of_io("keep an artifact", error))
    }

    /// Sets the time of a file to now. It is not synced: a time that a power cut loses does no
    /// harm.
    pub(super) async fn touch(&self, path: &object_store::path::Path) -> Result<(), StoreError> {
        let path = self.path_of(path);
        let touch = move || match OpenOptions::new().write(true).open(path) {
            Ok(file) => file.set_modified(SystemTime::now()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        let touched = spawn_blocking(touch).await.map_err(StoreError::of_task)?;
        touched.map_err(|error| StoreError::of_io("note the use of an artifact", error))
    }

    /// Returns the blobs that were digested.
    pub(super) fn verified(&self) -> &VerifiedFiles {
        &self.verified
    }

    /// Opens a file of the store, if there is one.
    pub(super) fn open_file(
        &self,
        path: &object_store::path::Path,
    ) -> io::Result<Option<FileSource>> {
        match FileSource::open(&self.path_of(path)) {
            Ok(source) => Ok(Some(source)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
