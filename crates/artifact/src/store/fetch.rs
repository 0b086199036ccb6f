// SPDX-License-Identifier: Apache-2.0

//! An artifact taken out of the store, and the check that its bytes are the right ones.
//!
//! A download is digested as it arrives. A file of a directory's store is there at once, and
//! digesting 46 MB of it takes 26 ms. It is therefore returned undigested, with a [`Verification`]
//! that the caller must wait for before anything made of it becomes visible. A file that was
//! digested before, usually while it was uploaded, and was not touched since, is not digested again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use futures::TryStreamExt as _;
use object_store::path::Path as ObjectPath;
use object_store::{GetResult, ObjectStoreExt as _};
use slipway_proto::Digest;
use tokio::task::spawn_blocking;

use super::digesting::Digester;
use super::local::Directory;
use super::{ArtifactStore, StoreError, blob_path, corrupt_path};
use crate::source::FileSource;

const ACTION: &str = "read an artifact";

/// An artifact out of the store.
///
/// It is an open file without a name of its own. In a directory's store it stays readable even if
/// the blob is replaced. A download disappears with its last use, however the process ends.
#[derive(Debug)]
pub struct Fetched {
    /// The artifact's bytes, if [`Verification::wait`] does not say otherwise.
    pub source: Arc<FileSource>,
    /// The check of its digest.
    pub verification: Verification,
}

/// The check that an artifact has its digest. Dropping it abandons the check.
#[derive(Debug)]
#[must_use = "bytes that were not verified may be anybody's"]
pub struct Verification(State);

#[derive(Debug)]
enum State {
    /// The bytes were digested as they were downloaded.
    Verified,
    /// The file was digested before. That holds as long as nobody touches it.
    Remembered(Blob),
    /// The file has to be digested.
    Needed(Blob),
}

/// A file in a store's directory.
#[derive(Debug)]
struct Blob {
    store: ArtifactStore,
    directory: Directory,
    digest: Digest,
    source: Arc<FileSource>,
}

/// Stops the digest when it is dropped, because nobody waits any more.
#[derive(Debug, Default)]
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

impl Verification {
    /// Returns whether the bytes still have to be digested.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        matches!(self.0, State::Needed(_))
    }

    /// Digests the artifact on a thread of its own, unless it is known to be right. The caller
    /// chooses the time, and may read the bytes before.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] for a damaged blob, which is moved aside, so that its digest is
    /// missing from the store and the next upload of it is taken; or that it cannot be read, or was
    /// written to while it was read.
    pub async fn wait(self) -> Result<(), StoreError> {
        match self.0 {
            State::Verified => Ok(()),
            State::Remembered(blob) if blob.is_untouched()? => Ok(()),
            State::Remembered(blob) | State::Needed(blob) => blob.verify().await,
        }
    }
}

impl Blob {
    fn is_untouched(&self) -> Result<bool, StoreError> {
        self.source.is_untouched().map_err(|error| StoreError::of_io(ACTION, error))
    }

    async fn verify(self) -> Result<(), StoreError> {
        let Self { store, directory, digest, source } = self;
        let failed = |error| StoreError::of_io(ACTION, error);
        let waiting = Waiting::default();
        let given_up = Arc::clone(&waiting.0);
        let digesting = spawn_blocking(move || {
            let actual = digest_of(&source, &given_up)?;
            let is_untouched = source.is_untouched()?;
            if actual == digest && is_untouched && source.is_settled() {
                directory.verified().remember(source.identity(), digest);
            }
            Ok((actual, is_untouched))
        });
        let (actual, is_untouched) =
            digesting.await.map_err(StoreError::of_task)?.map_err(failed)?;
        store.expect_digest(digest, actual).await?;
        if !is_untouched {
            // The bytes are right now. What was read before may have been anything.
            return Err(StoreError::unavailable(ACTION, "it was written to meanwhile"));
        }
        Ok(())
    }
}

impl ArtifactStore {
    /// Takes an artifact out of the store: in place from a directory, by download into `scratch`
    /// from a cloud. `size` is what the artifact should have, and bounds the download; `moved` is
    /// called for each piece of it.
    ///
    /// A download has been verified. A file in a directory may be read at once, and is verified by
    /// [`Verification::wait`].
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], [`StoreError::Corrupt`], or that the store cannot be read.
    pub async fn fetch(
        &self,
        digest: Digest,
        size: u64,
        scratch: &Path,
        moved: &(dyn Fn() + Send + Sync),
    ) -> Result<Fetched, StoreError> {
        if let Some(directory) = self.directory.clone() {
            return self.open_in_place(directory, digest).await;
        }
        let (source, actual) = self.download(digest, size, scratch, moved).await?;
        self.expect_digest(digest, actual).await?;
        Ok(Fetched { source: Arc::new(source), verification: Verification(State::Verified) })
    }

    /// Moves a blob aside if its digest is not the one in its name.
    async fn expect_digest(&self, expected: Digest, actual: Digest) -> Result<(), StoreError> {
        if actual == expected {
            return Ok(());
        }
        tracing::error!(digest = %expected, %actual, "a stored artifact is damaged, moving it \
            aside");
        let moved = self.objects.rename(&blob_path(expected), &corrupt_path(expected)).await;
        if let Err(error) = moved {
            tracing::warn!(%error, digest = %expected, "cannot move a damaged artifact aside");
        }
        Err(StoreError::Corrupt { expected, actual })
    }

    async fn open_in_place(
        &self,
        directory: Directory,
        digest: Digest,
    ) -> Result<Fetched, StoreError> {
        let mut opened = open_at(&directory, blob_path(digest), digest).await?;
        if opened.is_none()
            && let Some(path) = self.find_aside(digest).await?
        {
            opened = open_at(&directory, path, digest).await?;
        }
        if opened.is_none() {
            // What was aside may have been brought back between the two looks.
            opened = open_at(&directory, blob_path(digest), digest).await?;
        }
        let (source, is_known) = opened.ok_or(StoreError::NotFound { digest })?;
        let (store, file) = (self.clone(), Arc::clone(&source));
        let blob = Blob { store, directory, digest, source: file };
        let state = if is_known { State::Remembered(blob) } else { State::Needed(blob) };
        Ok(Fetched { source, verification: Verification(state) })
    }

    async fn open_object(&self, path: &ObjectPath) -> Result<Option<GetResult>, StoreError> {
        match self.objects.get(path).await {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(StoreError::of_object(ACTION, error)),
        }
    }

    async fn download(
        &self,
        digest: Digest,
        size: u64,
        scratch: &Path,
        moved: &(dyn Fn() + Send + Sync),
    ) -> Result<(FileSource, Digest), StoreError> {
        let mut found = self.open_object(&blob_path(digest)).await?;
        if found.is_none()
            && let Some(path) = self.find_aside(digest).await?
        {
            found = self.open_object(&path).await?;
        }
        if found.is_none() {
            found = self.open_object(&blob_path(digest)).await?;
        }
        let found = found.ok_or(StoreError::NotFound { digest })?;
        let scratch = scratch.to_owned();
        let file = spawn_blocking(move || nameless_file(&scratch)).await;
        let file = file.map_err(StoreError::of_task)?;
        let failed = |error| StoreError::of_io("write to the scratch directory", error);
        let mut digester = Digester::new(Some(file.map_err(failed)?));
        let mut stream = found.into_stream();
        let mut received = 0;
        loop {
            let piece = stream.try_next().await;
            let Some(piece) = piece.map_err(|error| StoreError::of_object(ACTION, error))? else {
                break;
            };
            received += piece.len() as u64;
            moved();
            digester.write(&piece).await?;
            // The digest can no longer be right, and there is no need to fill the disk to compute
            // it.
            if received > size {
                break;
            }
        }
        let (actual, file) = digester.finish().await?;
        let file = file.expect("the digester had a file");
        Ok((FileSource::new(file).map_err(failed)?, actual))
    }
}

/// Opens a file of a store's directory, if it is there, and says whether its digest is known.
async fn open_at(
    directory: &Directory,
    path: ObjectPath,
    digest: Digest,
) -> Result<Option<(Arc<FileSource>, bool)>, StoreError> {
    let directory = directory.clone();
    let opening = spawn_blocking(move || -> io::Result<_> {
        let Some(source) = directory.open_file(&path)? else { return Ok(None) };
        let is_known = directory.verified().digest(source.identity()) == Some(digest);
        Ok(Some((Arc::new(source), is_known)))
    });
    let opened = opening.await.map_err(StoreError::of_task)?;
    opened.map_err(|error| StoreError::of_io(ACTION, error))
}

/// Digests a file. Stops when nobody waits for the result any more.
fn digest_of(source: &FileSource, stop: &AtomicBool) -> io::Result<Digest> {
    let goes_on = || match stop.load(Relaxed) {
        true => Err(io::Error::other("nobody waits for it any more")),
        false => Ok(()),
    };
    crate::source::digest(source, &goes_on)
}

/// Makes a file that disappears when it is closed.
fn nameless_file(scratch: &Path) -> io::Result<File> {
    fs::create_dir_all(scratch)?;
    let path = scratch.join(uuid::Uuid::now_v7().to_string());
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}
