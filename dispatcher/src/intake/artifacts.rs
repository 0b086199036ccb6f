// SPDX-License-Identifier: Apache-2.0

//! Remembers uploaded artifacts for a moment.
//!
//! Each submission names an artifact, and finding it takes two reads of the store. Many submissions
//! at once name few artifacts, as in a matrix of builds or a batch. Bytes never change under their
//! digest. They can be collected, for which a submission looks again if it took longer than
//! [`CONFIRMED_WITHIN`] since its artifact was seen, and their file name can change with a new
//! upload. An upload to this dispatcher is seen at once, an
//! upload to another one within [`REMEMBERED_FOR`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slipway_artifact::{ArtifactStore, StoreError};
use slipway_proto::api::ArtifactView;
use slipway_proto::submission::Uploaded;
use slipway_proto::{Digest, ProjectName};
use tokio::time::Instant;

/// How long an artifact is remembered: long enough for a thousand submissions.
const REMEMBERED_FOR: Duration = Duration::from_secs(1);

/// How long a submission relies on what it saw in the store. A collector that wants to remove the
/// artifact waits longer than this before it looks for builds.
pub(crate) const CONFIRMED_WITHIN: Duration = Duration::from_secs(3);

/// The largest number of remembered artifacts, of some hundred bytes each.
const MAX_KEPT: usize = 4096;

/// Remembers artifacts that the store has.
#[derive(Debug, Default)]
pub(crate) struct Artifacts {
    kept: Mutex<HashMap<(ProjectName, Digest), Found>>,
    /// Counts uploads, so that a result read before an upload is not remembered after it.
    uploads: AtomicU64,
}

/// An artifact, and when the store was asked for it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) since: Instant,
    pub(crate) uploaded: Arc<Uploaded>,
}

impl Artifacts {
    /// Returns the artifact that a project uploaded under a digest, if it did and the bytes are
    /// still there. It counts as used.
    pub(crate) async fn find(
        &self,
        store: &ArtifactStore,
        project: &ProjectName,
        digest: Digest,
    ) -> Result<Option<Found>, StoreError> {
        let key = (project.clone(), digest);
        if let Some(found) = self.kept(&key) {
            return Ok(Some(found));
        }
        let (uploads, since) = (self.uploads.load(Ordering::SeqCst), Instant::now());
        let Some(found) = store.use_record(project, digest).await? else { return Ok(None) };
        let found = Found { since, uploaded: Arc::new(uploaded(found)) };
        self.keep(key, found.clone(), uploads);
        Ok(Some(found))
    }

    /// Forgets an artifact that was uploaded again, or removed.
    pub(crate) fn forget(&self, project: &ProjectName, digest: Digest) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        self.uploads.fetch_add(1, Ordering::SeqCst);
        kept.remove(&(project.clone(), digest));
    }

    fn kept(&self, key: &(ProjectName, Digest)) -> Option<Found> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(key).filter(|found| found.since.elapsed() < REMEMBERED_FOR).cloned()
    }

    /// Remembers a result that was read at the given upload count.
    fn keep(&self, key: (ProjectName, Digest), found: Found, uploads: u64) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if self.uploads.load(Ordering::SeqCst) != uploads {
            return;
        }
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, found| found.since.elapsed() < REMEMBERED_FOR);
            if kept.len() >= MAX_KEPT {
                kept.clear();
            }
        }
        kept.insert(key, found);
    }
}

fn uploaded(artifact: ArtifactView) -> Uploaded {
    Uploaded { size_bytes: artifact.size_bytes, filename: artifact.filename, facts: artifact.facts }
}

#[cfg(test)]
mod tests {
    use slipway_proto::ArtifactFacts;
    use slipway_proto::Timestamp;

    use super::*;
    use crate::testing;

    async fn upload(store: &ArtifactStore, project: &ProjectName, name: &str) -> Digest {
        let mut upload = store.receive().await.expect("it begins");
        upload.write(testing::executable().into()).await.expect("it is written");
        let stored = upload.finish(project, name, None, Timestamp::now()).await;
        stored.expect("it is kept").digest
    }

    #[tokio::test]
    async fn what_is_remembered_is_read_again_after_an_upload_and_after_a_while() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = ArtifactStore::open(directory.path().to_str().expect("a text")).await;
        let (store, project) = (store.expect("it opens"), "team".parse().expect("a name"));
        let artifacts = Artifacts::default();
        let digest = upload(&store, &project, "a").await;
        let name = async || {
            let found = artifacts.find(&store, &project, digest).await.expect("it answers");
            found.map(|found| found.uploaded.filename.clone())
        };
        assert_eq!(name().await.as_deref(), Some("a"));
        upload(&store, &project, "b").await;
        assert_eq!(name().await.as_deref(), Some("a"), "the upload was not reported");
        artifacts.forget(&project, digest);
        assert_eq!(name().await.as_deref(), Some("b"));
        let other = "other".parse().expect("a name");
        assert!(artifacts.find(&store, &other, digest).await.expect("it answers").is_none());
        upload(&store, &project, "c").await;
        for found in artifacts.kept.lock().expect("a lock").values_mut() {
            found.since -= REMEMBERED_FOR;
        }
        assert_eq!(name().await.as_deref(), Some("c"));
    }

    #[tokio::test]
    async fn what_was_read_before_an_upload_is_not_remembered_after_it() {
        let artifacts = Artifacts::default();
        let key = ("team".parse().expect("a name"), Digest::of(b"x"));
        let facts = ArtifactFacts::Jar(Default::default());
        let uploaded = Arc::new(Uploaded { size_bytes: 1, filename: "old".into(), facts });
        let old = Found { since: Instant::now(), uploaded };
        let before = artifacts.uploads.load(Ordering::SeqCst);
        artifacts.forget(&key.0, key.1);
        artifacts.keep(key.clone(), old.clone(), before);
        assert!(artifacts.kept(&key).is_none());
        let now = artifacts.uploads.load(Ordering::SeqCst);
        for other in 0..=MAX_KEPT {
            let key = (key.0.clone(), Digest::of(&other.to_le_bytes()));
            artifacts.keep(key, old.clone(), now);
        }
        assert!(artifacts.kept.lock().expect("a lock").len() <= MAX_KEPT);
    }
}
