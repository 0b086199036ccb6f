// SPDX-License-Identifier: Apache-2.0

//! Removing artifacts that nobody needs any more.
//!
//! Other processes use the store meanwhile, and no store can delete an object on a condition. So an
//! artifact is removed in steps, between which the collector looks again:
//!
//! 1. It marks the artifact. From then on [`ArtifactStore::record`] says that it is gone, and an
//!    upload of it removes the mark. Then it lists the artifacts again, and takes the mark back if
//!    somebody uploaded or used this one since it was listed first.
//! 2. It looks for builds that were accepted until then, and takes the mark back if it finds one.
//! 3. It sets the bytes aside, under a name of its own. [`ArtifactStore::fetch`] finds them there.
//! 4. Only if the mark is still its own does it delete them; otherwise it brings them back.
//!
//! A collector that slept between any two steps therefore finds the mark gone, and harms nobody. An
//! upload keeps its side: it writes its record and removes the mark before it looks whether the
//! bytes are there.

use std::collections::HashMap;
use std::str::FromStr as _;

use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt as _, PutPayload};
use slipway_proto::{Digest, ProjectName, Timestamp};

use super::{ArtifactStore, StoreError, blob_path, record_path};

/// Marks, one for each artifact that is being removed.
const MARKS: &str = "condemned";
/// Bytes that were set aside, named `<hex>.<collector>`.
const ASIDE: &str = "removed";

/// An artifact in the store, and the projects that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredArtifact {
    /// Its digest.
    pub digest: Digest,
    /// The size of its bytes; 0 if they are missing, because an upload was broken off or somebody
    /// else removed them.
    pub size_bytes: u64,
    /// The projects that have it, with the time of their last upload or use.
    pub owners: Vec<(ProjectName, Timestamp)>,
}

impl StoredArtifact {
    /// Returns when it was last uploaded, asked for or submitted by any project; `None` if no
    /// project has it any more.
    #[must_use]
    pub fn used_at(&self) -> Option<Timestamp> {
        self.owners.iter().map(|(_, time)| *time).max()
    }
}

/// Bytes that were set aside.
#[derive(Debug)]
#[must_use = "bytes that were set aside are deleted or brought back"]
pub struct Aside {
    digest: Digest,
    path: Path,
}

impl ArtifactStore {
    /// Lists every artifact, the same way each time.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn artifacts(&self) -> Result<Vec<StoredArtifact>, StoreError> {
        let failed = |error| StoreError::of_object("list artifacts", error);
        let mut owners: HashMap<Digest, Vec<(ProjectName, Timestamp)>> = HashMap::new();
        let mut records = self.objects.list(Some(&Path::from("projects")));
        while let Some(record) = records.try_next().await.map_err(failed)? {
            if let Some((project, digest)) = owner_of(&record.location) {
                owners.entry(digest).or_default().push((project, self.modified(&record)));
            }
        }
        let mut artifacts = Vec::new();
        let mut blobs = self.objects.list(Some(&Path::from("blobs/sha256")));
        while let Some(blob) = blobs.try_next().await.map_err(failed)? {
            if let Some(digest) = blob.location.filename().and_then(of_hex) {
                let mut owners = owners.remove(&digest).unwrap_or_default();
                owners.sort_unstable();
                artifacts.push(StoredArtifact { digest, size_bytes: blob.size, owners });
            }
        }
        let bare = owners.into_iter();
        artifacts.extend(bare.map(|(digest, mut owners)| {
            owners.sort_unstable();
            StoredArtifact { digest, size_bytes: 0, owners }
        }));
        Ok(artifacts)
    }

    /// Removes a project's record of an artifact; returns whether there was one. The bytes stay
    /// until they are collected.
    ///
    /// # Errors
    ///
    /// When the store cannot be written to.
    pub async fn remove_record(
        &self,
        project: &ProjectName,
        digest: Digest,
    ) -> Result<bool, StoreError> {
        if self.record(project, digest).await?.is_none() {
            return Ok(false);
        }
        self.remove(&record_path(project, digest)).await?;
        Ok(true)
    }

    /// Marks an artifact as being removed by a collector.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub async fn condemn(&self, digest: Digest, collector: &str) -> Result<(), StoreError> {
        let mark = PutPayload::from(collector.as_bytes().to_vec());
        let written = self.objects.put(&mark_path(digest), mark).await;
        written.map(drop).map_err(|error| StoreError::of_object("mark an artifact", error))
    }

    /// Takes the mark of an artifact back. Repeating it is harmless.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub async fn pardon(&self, digest: Digest) -> Result<(), StoreError> {
        self.remove(&mark_path(digest)).await
    }

    /// Returns whether an artifact still has the mark of a collector.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub async fn is_condemned_by(
        &self,
        digest: Digest,
        collector: &str,
    ) -> Result<bool, StoreError> {
        let failed = |error| StoreError::of_object("read the mark of an artifact", error);
        match self.objects.get(&mark_path(digest)).await {
            Ok(mark) => Ok(mark.bytes().await.map_err(failed)? == collector.as_bytes()),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    pub(super) async fn is_condemned(&self, digest: Digest) -> Result<bool, StoreError> {
        Ok(self.head(&mark_path(digest)).await?.is_some())
    }

    /// Sets the bytes of a marked artifact aside; `None` if they are gone.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub async fn set_aside(
        &self,
        digest: Digest,
        collector: &str,
    ) -> Result<Option<Aside>, StoreError> {
        let path = Path::from_iter([ASIDE, &format!("{}.{collector}", digest.hex())]);
        match self.objects.rename(&blob_path(digest), &path).await {
            Ok(()) => Ok(Some(Aside { digest, path })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(StoreError::of_object("set an artifact aside", error)),
        }
    }

    /// Brings bytes back to their place. What an upload has placed there meanwhile is the same.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub async fn bring_back(&self, aside: Aside) -> Result<(), StoreError> {
        match self.objects.rename(&aside.path, &blob_path(aside.digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(StoreError::of_object("bring an artifact back", error)),
        }
    }

    /// Deletes bytes that were set aside, if there were any, then the records that were listed.
    ///
    /// # Errors
    ///
    /// When the store does not answer. The next collection finds what is left.
    pub async fn discard(
        &self,
        aside: Option<Aside>,
        listed: &StoredArtifact,
    ) -> Result<(), StoreError> {
        if let Some(aside) = aside {
            self.remove(&aside.path).await?;
        }
        for (project, used_at) in &listed.owners {
            let path = record_path(project, listed.digest);
            let record = self.head(&path).await?;
            if record.is_some_and(|record| self.modified(&record) == *used_at) {
                self.remove(&path).await?;
            }
        }
        Ok(())
    }

    /// Undoes what a collector that died has left: brings bytes back and removes marks. Returns how
    /// many artifacts that were.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub async fn undo_removals(&self) -> Result<usize, StoreError> {
        let mut undone = 0;
        for object in self.listed(ASIDE).await? {
            let hex = object.location.filename().and_then(|name| name.split('.').next());
            let Some(digest) = hex.and_then(of_hex) else { continue };
            self.bring_back(Aside { digest, path: object.location }).await?;
            undone += 1;
        }
        for object in self.listed(MARKS).await? {
            self.remove(&object.location).await?;
            undone += 1;
        }
        Ok(undone)
    }

    /// Finds the bytes of an artifact that a collector has set aside.
    pub(super) async fn find_aside(&self, digest: Digest) -> Result<Option<Path>, StoreError> {
        let start = format!("{}.", digest.hex());
        let objects = self.listed(ASIDE).await?.into_iter().map(|object| object.location);
        Ok(objects
            .into_iter()
            .find(|path| path.filename().is_some_and(|name| name.starts_with(&start))))
    }

    pub(super) async fn listed(&self, folder: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let listed = self.objects.list(Some(&Path::from(folder))).try_collect().await;
        listed.map_err(|error| StoreError::of_object("list the store", error))
    }

    pub(super) async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, StoreError> {
        match self.objects.head(path).await {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(StoreError::of_object("look for an object", error)),
        }
    }

    pub(super) async fn remove(&self, path: &Path) -> Result<(), StoreError> {
        match self.objects.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(StoreError::of_object("remove an object", error)),
        }
    }
}

fn mark_path(digest: Digest) -> Path {
    Path::from_iter([MARKS, &digest.hex()])
}

fn of_hex(hex: &str) -> Option<Digest> {
    Digest::from_str(&format!("sha256:{hex}")).ok()
}

/// Reads `projects/<project>/artifacts/<hex>.json`.
fn owner_of(path: &Path) -> Option<(ProjectName, Digest)> {
    let parts: Vec<_> = path.parts().collect();
    let [_, project, _, file] = parts.as_slice() else { return None };
    let digest = of_hex(file.as_ref().strip_suffix(".json")?)?;
    Some((project.as_ref().parse().ok()?, digest))
}
