// SPDX-License-Identifier: Apache-2.0

//! An artifact taken out of the store, verified.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::path::Path;

use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use sha2::{Digest as _, Sha256};
use slipway_proto::Digest;
use tokio::task::spawn_blocking;

use super::digesting::Digester;
use super::local::Directory;
use super::{ArtifactStore, StoreError, blob_path, corrupt_path};
use crate::source::{FileSource, Source as _, SourceReader};

const ACTION: &str = "read an artifact";

/// An artifact whose bytes were just seen to have its digest.
///
/// It is an open file without a name of its own: in a directory's store it stays readable even if
/// the blob is replaced, and a download disappears with the last use of it, however the process
/// ends.
#[derive(Debug)]
pub struct Fetched {
    /// The artifact's bytes.
    pub source: FileSource,
}

impl ArtifactStore {
    /// Takes an artifact out of the store: in place from a directory, by download into `scratch`
    /// from a cloud. `size` is what the artifact should have, and bounds the download; `moved` is
    /// called for each piece of it.
    ///
    /// A blob that turns out to be damaged is moved aside, so that its digest is missing from the
    /// store and the next upload of it is taken.
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
        let (source, actual) = match self.directory.clone() {
            Some(directory) => {
                let open = move || open_in_place(&directory, digest);
                spawn_blocking(open).await.map_err(StoreError::of_task)??
            }
            None => self.download(digest, size, scratch, moved).await?,
        };
        if actual == digest {
            return Ok(Fetched { source });
        }
        tracing::error!(%digest, %actual, "a stored artifact is damaged, moving it aside");
        let moved = self.objects.rename(&blob_path(digest), &corrupt_path(digest)).await;
        if let Err(error) = moved {
            tracing::warn!(%error, %digest, "cannot move a damaged artifact aside");
        }
        Err(StoreError::Corrupt { expected: digest, actual })
    }

    async fn download(
        &self,
        digest: Digest,
        size: u64,
        scratch: &Path,
        moved: &(dyn Fn() + Send + Sync),
    ) -> Result<(FileSource, Digest), StoreError> {
        let found = match self.objects.get(&blob_path(digest)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(StoreError::NotFound { digest });
            }
            Err(error) => return Err(StoreError::of_object(ACTION, error)),
        };
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
            // The digest cannot be right any more, and a disk need not be filled to learn which
            // one it is.
            if received > size {
                break;
            }
        }
        let (actual, file) = digester.finish().await?;
        let file = file.expect("the digester had a file");
        Ok((FileSource::new(file).map_err(failed)?, actual))
    }
}

fn open_in_place(
    directory: &Directory,
    digest: Digest,
) -> Result<(FileSource, Digest), StoreError> {
    let failed = |error| StoreError::of_io(ACTION, error);
    let opened = directory.open_blob(digest).map_err(failed)?;
    let source = opened.ok_or(StoreError::NotFound { digest })?;
    let actual = digest_of(&source).map_err(failed)?;
    Ok((source, actual))
}

fn digest_of(source: &FileSource) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut reader = SourceReader::new(source, 0, source.len());
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    let digest: [u8; 32] = hasher.finalize().into();
    Ok(Digest::from(digest))
}

/// Makes a file that is gone when it is closed.
fn nameless_file(scratch: &Path) -> io::Result<File> {
    fs::create_dir_all(scratch)?;
    let path = scratch.join(uuid::Uuid::now_v7().to_string());
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}
