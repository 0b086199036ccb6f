// SPDX-License-Identifier: Apache-2.0

//! Where artifacts and archived logs are kept: a directory, or a bucket of a cloud.
//!
//! ```text
//! blobs/sha256/<hex>                      the artifact's bytes, once for all projects
//! projects/<project>/artifacts/<hex>.json what the project uploaded and what was read from it
//! logs/<project>/<build>.log              the whole log of a build that has ended
//! uploads/<uuid>                          what is being received
//! corrupt/<hex>                           a blob that was found damaged, for an operator to see
//! condemned/<hex>                         the mark of an artifact that is being removed
//! removed/<hex>.<collector>               its bytes, until the collector has looked again
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
mod removal;
mod upload;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _};
use slipway_proto::api::ArtifactView;
use slipway_proto::{Digest, ProjectName, Timestamp};
use tokio::sync::Semaphore;

pub use self::error::{ReceiveError, StoreError};
pub use self::fetch::{Fetched, Verification};
use self::local::Directory;
use self::location::Location;
pub use self::log::StoredLog;
pub use self::removal::{Aside, StoredArtifact};
pub use self::upload::Upload;

/// An upload that was not written to for this long was left by a process that died.
const STALE_UPLOAD_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a damaged blob is kept for an operator to see.
const CORRUPT_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A use of an artifact is noted unless one was noted within this time. Higher, and the collector
/// takes an artifact for older than it is; lower, and a client that asks for one artifact many
/// times costs a write each time.
const USE_NOTED_FOR: Duration = Duration::from_secs(10);

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

    /// Returns the artifact that a project uploaded under a digest, if it did, the bytes are still
    /// there, and nobody is removing them.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn record(
        &self,
        project: &ProjectName,
        digest: Digest,
    ) -> Result<Option<ArtifactView>, StoreError> {
        let (record, is_there, is_condemned) = tokio::try_join!(
            self.document(project, digest),
            self.has_blob(digest),
            self.is_condemned(digest)
        )?;
        Ok(record.map(|(view, _)| view).filter(|_| is_there && !is_condemned))
    }

    /// Does the same, and notes that the artifact was asked for: it counts as used now.
    ///
    /// # Errors
    ///
    /// When the store cannot be read or written to.
    pub async fn use_record(
        &self,
        project: &ProjectName,
        digest: Digest,
    ) -> Result<Option<ArtifactView>, StoreError> {
        let Some((view, used_at)) = self.document(project, digest).await? else { return Ok(None) };
        let age = Timestamp::now().duration_since(used_at).unsigned_abs();
        if age >= USE_NOTED_FOR {
            self.note_use(project, digest, &view).await?;
        }
        // Behind the note, so that either the collector sees it or its mark is seen here.
        let (is_there, is_condemned) =
            tokio::try_join!(self.has_blob(digest), self.is_condemned(digest))?;
        Ok(Some(view).filter(|_| is_there && !is_condemned))
    }

    /// Reads a project's record of an artifact, and when it was last written.
    async fn document(
        &self,
        project: &ProjectName,
        digest: Digest,
    ) -> Result<Option<(ArtifactView, Timestamp)>, StoreError> {
        let failed = |error| StoreError::of_object("read the record of an artifact", error);
        let found = match self.objects.get(&record_path(project, digest)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let used_at = self.modified(&found.meta);
        let document = found.bytes().await.map_err(failed)?;
        let view = serde_json::from_slice(&document)
            .map_err(|source| StoreError::BadRecord { digest, source })?;
        Ok(Some((view, used_at)))
    }

    async fn note_use(
        &self,
        project: &ProjectName,
        digest: Digest,
        view: &ArtifactView,
    ) -> Result<(), StoreError> {
        let path = record_path(project, digest);
        match &self.directory {
            Some(directory) => directory.touch(&path).await,
            None => self.put_record(project, view).await,
        }
    }

    async fn put_record(
        &self,
        project: &ProjectName,
        view: &ArtifactView,
    ) -> Result<(), StoreError> {
        let document = serde_json::to_vec(view).expect("a view has only texts as keys");
        let written = self.objects.put(&record_path(project, view.digest), document.into()).await;
        written.map_err(|error| StoreError::of_object("write the record of an artifact", error))?;
        Ok(())
    }

    /// Returns whether the bytes of an artifact are there, perhaps set aside.
    async fn has_blob(&self, digest: Digest) -> Result<bool, StoreError> {
        if self.head(&blob_path(digest)).await?.is_some() {
            return Ok(true);
        }
        Ok(self.find_aside(digest).await?.is_some())
    }

    /// Returns when an object was last written, by the store's clock: to the second in a cloud,
    /// where a list and a look at one object may differ in the rest.
    fn modified(&self, object: &ObjectMeta) -> Timestamp {
        let seconds = object.last_modified.timestamp();
        let nanoseconds = match &self.directory {
            Some(_) => object.last_modified.timestamp_subsec_nanos().cast_signed(),
            None => 0,
        };
        Timestamp::new(seconds, nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Removes uploads that nobody has written to for a day, and damaged blobs after a month.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub async fn sweep(&self, now: SystemTime) -> Result<(), StoreError> {
        for (folder, age) in [("uploads", STALE_UPLOAD_AGE), ("corrupt", CORRUPT_AGE)] {
            let oldest = now - age;
            for object in self.listed(folder).await? {
                if SystemTime::from(object.last_modified) < oldest {
                    tracing::info!(object = %object.location, "removing what was left behind");
                    self.remove(&object.location).await?;
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
