// SPDX-License-Identifier: Apache-2.0

//! The owner of a tag: the last submitted of the builds that began to write it.
//!
//! A registry has no compare-and-set, so of two builds of one tag the later writer would win. So
//! each writer first stores itself as the tag's owner; [`protocol`](crate::protocol) says which
//! build may.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use slipway_proto::{BuildId, Digest, ProjectName, Reference};

use crate::Queue;
use crate::bucket::Bucket;
use crate::record::RecordError;

/// The owner of a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagOwner {
    /// The tag.
    pub reference: Reference,
    /// The project of the build.
    pub project: ProjectName,
    /// The build.
    pub build: BuildId,
    /// Its place in the order of acceptance.
    pub order: u64,
    /// The digest of its manifest, which is in the tag's repository.
    pub digest: Digest,
}

/// The owner of a tag with the revision that a compare-and-set must name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerEntry {
    /// The owner.
    pub owner: TagOwner,
    /// The revision of its entry.
    pub revision: u64,
}

/// Reads and writes the owners of tags.
#[derive(Debug, Clone)]
pub struct Tags {
    bucket: Bucket,
}

impl Queue {
    /// Returns the owners of tags.
    #[must_use]
    pub fn tags(&self) -> Tags {
        Tags { bucket: Bucket::new(self.jetstream.clone(), self.subjects.tags_bucket()) }
    }
}

fn key(reference: &Reference) -> String {
    Digest::of(reference.to_string().as_bytes()).hex()
}

impl Tags {
    /// Reads the owner of a tag.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn read(&self, reference: &Reference) -> Result<Option<OwnerEntry>, RecordError> {
        let key = key(reference);
        let Some(entry) = self.bucket.get(&key).await? else { return Ok(None) };
        let owner = serde_json::from_slice(&entry.value)
            .map_err(|error| RecordError::Malformed(key, error))?;
        Ok(Some(OwnerEntry { owner, revision: entry.revision }))
    }

    /// Enters the owner of a tag if its entry still has a revision, 0 if there was none.
    ///
    /// # Errors
    ///
    /// [`RecordError::Conflict`] when the entry has another revision.
    pub async fn enter(&self, owner: &TagOwner, revision: u64) -> Result<(), RecordError> {
        let key = key(&owner.reference);
        let value = Bytes::from(serde_json::to_vec(owner).expect("an owner is valid JSON"));
        match revision {
            0 => self.bucket.create(&key, value).await?,
            revision => self.bucket.update(&key, value, revision).await?,
        };
        Ok(())
    }
}
