// SPDX-License-Identifier: Apache-2.0

//! Removes artifacts, in the steps that [`slipway_artifact::StoredArtifact`]'s store asks for.

use std::collections::HashMap;
use std::time::Duration;

use slipway_artifact::{ArtifactStore, StoredArtifact};
use slipway_proto::api::{CollectionView, RemovalReason, RemovedArtifact};
use slipway_proto::{Digest, Timestamp};
use slipway_queue::failpoint::failpoint;

use super::plan::{Item, choose};
use super::{CollectError, Collector, Pass, noted};
use crate::intake::artifacts::CONFIRMED_WITHIN;

/// How long a submission that has looked for its artifact may be on its way to its record. Longer
/// than a submission relies on what it saw, so that either its record is found or it looks again.
const SUBMITTED_WITHIN: Duration = CONFIRMED_WITHIN.saturating_add(Duration::from_secs(2));

type Chosen = Vec<(StoredArtifact, RemovalReason)>;

impl Collector {
    /// Removes artifacts above the bounds, and notes what it found and removed.
    pub(super) async fn collect_artifacts(
        &self,
        pass: &Pass<'_>,
        view: &mut CollectionView,
    ) -> Result<(), CollectError> {
        let bounds = self.retention.artifacts;
        let artifacts = self.store.artifacts().await?;
        view.artifacts = noted(artifacts.iter().map(|artifact| artifact.size_bytes), bounds);
        let chosen = self.choose_artifacts(artifacts, view).await?;
        let removed = match pass.dry_run {
            true => chosen,
            false => self.remove_artifacts(pass, chosen).await?,
        };
        for (artifact, reason) in removed {
            view.artifacts.removed += 1;
            view.artifacts.removed_bytes += artifact.size_bytes;
            if view.removed_artifacts.len() < CollectionView::MAX_NAMED {
                view.removed_artifacts.push(RemovedArtifact {
                    digest: artifact.digest,
                    size_bytes: artifact.size_bytes,
                    used_at: artifact.used_at(),
                    reason,
                });
            }
        }
        Ok(())
    }

    async fn choose_artifacts(
        &self,
        artifacts: Vec<StoredArtifact>,
        view: &mut CollectionView,
    ) -> Result<Chosen, CollectError> {
        let (bounds, now) = (self.retention.artifacts, Timestamp::now());
        let unreferenced = |artifact: &StoredArtifact| Item {
            bytes: artifact.size_bytes,
            used_at: artifact.used_at(),
            is_needed: false,
        };
        // Reading all records is not worth it if nothing would go even without them.
        let items: Vec<Item> = artifacts.iter().map(unreferenced).collect();
        if choose(&items, bounds, now).is_empty() {
            return Ok(Vec::new());
        }
        let references = self.queue.references().await?;
        let grace = self.retention.grace;
        let items: Vec<Item> = artifacts
            .iter()
            .map(|artifact| Item::of_artifact(artifact, &references, grace, now))
            .collect();
        view.artifacts.needed = items.iter().filter(|item| item.is_needed).count() as u64;
        let chosen = choose(&items, bounds, now).into_iter();
        Ok(chosen.map(|(place, reason)| (artifacts[place].clone(), reason)).collect())
    }

    /// Removes artifacts, unless somebody turns out to need one; returns those that are gone.
    async fn remove_artifacts(
        &self,
        pass: &Pass<'_>,
        chosen: Chosen,
    ) -> Result<Chosen, CollectError> {
        for (artifact, _) in &chosen {
            pass.check()?;
            self.store.condemn(artifact.digest, pass.collector).await?;
        }
        let condemned = self.pardon_used(chosen).await?;
        failpoint("collect.condemned");
        if condemned.is_empty() {
            return Ok(condemned);
        }
        tokio::time::sleep(SUBMITTED_WITHIN).await;
        let references = self.queue.references().await?;
        failpoint("collect.looked");
        let mut removed = Vec::with_capacity(condemned.len());
        for (artifact, reason) in condemned {
            pass.check()?;
            let digest = artifact.digest;
            if references.needs(digest) {
                self.store.pardon(digest).await?;
            } else if remove(&self.store, &artifact, pass.collector).await? {
                tracing::info!(%digest, bytes = artifact.size_bytes, ?reason, "removed an artifact");
                removed.push((artifact, reason));
            }
        }
        Ok(removed)
    }
}

impl Collector {
    /// Takes the marks back of artifacts that somebody uploaded or used since they were listed;
    /// returns the others. A use after this finds the mark.
    async fn pardon_used(&self, chosen: Chosen) -> Result<Chosen, CollectError> {
        if chosen.is_empty() {
            return Ok(chosen);
        }
        let listed = self.store.artifacts().await?.into_iter();
        let listed: HashMap<Digest, StoredArtifact> =
            listed.map(|artifact| (artifact.digest, artifact)).collect();
        let mut unused = Vec::with_capacity(chosen.len());
        for (artifact, reason) in chosen {
            if listed.get(&artifact.digest) == Some(&artifact) {
                unused.push((artifact, reason));
            } else {
                self.store.pardon(artifact.digest).await?;
            }
        }
        Ok(unused)
    }
}

/// Removes a condemned artifact; returns whether it is gone.
async fn remove(
    store: &ArtifactStore,
    artifact: &StoredArtifact,
    collector: &str,
) -> Result<bool, CollectError> {
    let digest = artifact.digest;
    let aside = store.set_aside(digest, collector).await?;
    failpoint("collect.aside");
    if !store.is_condemned_by(digest, collector).await? {
        if let Some(aside) = aside {
            store.bring_back(aside).await?;
        }
        return Ok(false);
    }
    failpoint("collect.confirmed");
    store.discard(aside, artifact).await?;
    failpoint("collect.discarded");
    if store.is_condemned_by(digest, collector).await? {
        store.pardon(digest).await?;
    }
    Ok(true)
}
