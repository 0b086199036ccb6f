// SPDX-License-Identifier: Apache-2.0

//! Where artifacts and archived logs are kept: a directory, or a bucket of a cloud.
//!
//! ```text
//! blobs/sha256/<hex>                      the artifact's bytes, once for all projects
//! projects/<project>/artifacts/<hex>.json what the project uploaded and what was read from it
//! logs/<project>/<build>.log              the whole log of a build that has ended
//! uploads/<uuid>                          what is being received
//! corrupt/<hex>                           a blob that was found damaged, for an operator to see
//! verified/<hex>                          the digest of a blob's file; only in a directory
//! ```
//!
//! Projects share blobs, but a project sees only a blob that has a record of its own: knowing a
//! digest gives no right to the bytes. An object gets its final name only when it is complete,
//! verified and, in a directory, on the disk.

mod digesting;
mod error;
mod fetch;
mod local;
mod location;
mod log;
mod remote;
mod upload;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use slipway_proto::api::ArtifactView;
use slipway_proto::{Digest, ProjectName};
use tokio::sync::Semaphore;

pub use self::error::{ReceiveError, StoreError};
pub use self::fetch::{Fetched, Verification};
use self::local::Directory;
use self::location::Location;
pub use self::upload::Upload;

/// An upload that was not written to for this long was left by a process that died.
const STALE_UPLOAD_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// How many uploads are inspected at once. One takes milliseconds, so a higher number gains
/// nothing. An archive's list of entries may take some 50 MiB, and a hostile client may send many.
const MAX_INSPECTIONS: usize = 4;

/// Keeps artifacts and logs. Clones share one store.
#[derive(Clone, Debug)]
pub struct ArtifactStore {
    objects: Arc<dyn ObjectStore>,
    /// Set for a store in a directory, whose files are written and read directly.
    directory: Option<Directory>,
    inspections: Arc<Semaphore>,
}

impl ArtifactStore {
    /// Opens the store at a path, a `file://` URL or a cloud's URL. A directory that does not exist
    /// is made, and uploads left by dead processes are removed.
    ///
    /// # Errors
    ///
    /// When the URL is malformed, its scheme was not built in, or the directory cannot be made.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let store = match Location::parse(url)? {
            Location::Directory(path) => {
                let (directory, objects) = Directory::open(path).await?;
                Self { directory: Some(directory), ..Self::of_objects(Arc::new(objects)) }
            }
            Location::Cloud(url) => Self::of_objects(location::open_cloud(&url)?),
        };
        // A store that cannot be swept, perhaps because this process may only read it, is still
        // usable.
        if let Err(error) = store.sweep(SystemTime::now()).await {
            tracing::warn!(%error, "cannot remove stale uploads from the artifact store");
        }
        Ok(store)
    }

    /// Makes a store of any object store.
    #[must_use]
    pub fn of_objects(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects, directory: None, inspections: Arc::new(Semaphore::new(MAX_INSPECTIONS)) }
    }

    /// Begins to receive an artifact.
    ///
    /// # Errors
    ///
    /// When the store cannot be written to.
    pub async fn receive(&self) -> Result<Upload, StoreError> {
        Upload::begin(self.clone()).await
    }

    /// Returns the artifact that a project uploaded under a digest, if it did and the bytes are
    /// still there.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn record(
        &self,
        project: &ProjectName,
        digest: Digest,
    ) -> Result<Option<ArtifactView>, StoreError> {
        let failed = |error| StoreError::of_object("read the record of an artifact", error);
        let document = match self.objects.get(&record_path(project, digest)).await {
            Ok(found) => found.bytes().await.map_err(failed)?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        match self.objects.head(&blob_path(digest)).await {
            Ok(_) => {}
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(StoreError::of_object("look for an artifact", error)),
        }
        let view = serde_json::from_slice(&document)
            .map_err(|source| StoreError::BadRecord { digest, source })?;
        Ok(Some(view))
    }

    /// Removes uploads that nobody has written to for a day.
    async fn sweep(&self, now: SystemTime) -> Result<(), StoreError> {
        let failed = |error| StoreError::of_object("list stale uploads", error);
        let seconds = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
        };
        let oldest = seconds(now).saturating_sub(STALE_UPLOAD_AGE.as_secs());
        let mut uploads = self.objects.list(Some(&Path::from("uploads")));
        while let Some(upload) = uploads.try_next().await.map_err(failed)? {
            let written = u64::try_from(upload.last_modified.timestamp()).unwrap_or(0);
            if written < oldest {
                tracing::info!(upload = %upload.location, "removing a stale upload");
                match self.objects.delete(&upload.location).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        Ok(())
    }
}

fn blob_path(digest: Digest) -> Path {
    Path::from_iter(["blobs", "sha256", &digest.hex()])
}

fn record_path(project: &ProjectName, digest: Digest) -> Path {
    let file = format!("{}.json", digest.hex());
    Path::from_iter(["projects", project.as_str(), "artifacts", &file])
}

fn corrupt_path(digest: Digest) -> Path {
    Path::from_iter(["corrupt", &digest.hex()])
}

fn fresh_upload_path() -> Path {
    Path::from_iter(["uploads", &uuid::Uuid::now_v7().to_string()])
}

#[cfg(test)]
mod tests;
