// SPDX-License-Identifier: Apache-2.0

//! The owner of a tag: the last submitted build that came as far as writing it.
//!
//! A registry has no compare-and-set, so of two builds of one tag the later writer would win. Here each writer first enters itself as the tag's owner; an older build never displaces a
//! newer one, and a writer that finds a newer owner behind it writes that one's image.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use slipway_proto::{BuildId, Digest, ProjectName, Reference};

use crate::Queue;
use crate::bucket::{Bucket, BucketError};
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
    pub async fn owner(&self, reference: &Reference) -> Result<Option<TagOwner>, RecordError> {
        Ok(self.read(reference).await?.map(|(owner, _revision)| owner))
    }

    async fn read(&self, reference: &Reference) -> Result<Option<(TagOwner, u64)>, RecordError> {
        let key = key(reference);
        let Some(entry) = self.bucket.get(&key).await? else { return Ok(None) };
        let owner = serde_json::from_slice(&entry.value)
            .map_err(|error| RecordError::Malformed(key, error))?;
        Ok(Some((owner, entry.revision)))
    }

    /// Enters an owner unless a build that was submitted later owns the tag, and returns the owner.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn claim(&self, claimant: &TagOwner) -> Result<TagOwner, RecordError> {
        let key = key(&claimant.reference);
        let value = Bytes::from(serde_json::to_vec(claimant).expect("an owner is valid JSON"));
        loop {
            let written = match self.read(&claimant.reference).await? {
                Some((owner, _)) if owner.order > claimant.order || owner == *claimant => {
                    return Ok(owner);
                }
                Some((_, revision)) => self.bucket.update(&key, value.clone(), revision).await,
                None => self.bucket.create(&key, value.clone()).await,
            };
            match written {
                Ok(_revision) => return Ok(claimant.clone()),
                Err(BucketError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
