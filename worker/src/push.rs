// SPDX-License-Identifier: Apache-2.0

//! Pushes an image to its repositories while it is made: each blob as soon as it is ready, then the
//! manifest. Tags are written by separate calls.
//!
//! Each blob starts with the request that is most likely to be the only one. A blob that its
//! repository confirmed minutes ago needs none. If the repository is known to hold the blob, it is
//! asked. If another repository of the registry holds it, the blob is mounted, or uploaded where the
//! registry does not mount. A blob that no registry can have yet is sent. These memories can be wrong:
//! when a repository refuses the manifest, they are dropped, and the push runs once more and asks for
//! every blob. A layer of the base is downloaded only for a repository that lacks it, and is sent on
//! while it arrives.

mod blob;
mod error;
mod gate;
pub mod locations;
mod mounts;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt as _;
use futures::future::try_join_all;
use futures::stream::FuturesUnordered;
use slipway_proto::id::SecretName;
use slipway_proto::outcome::Transfer;
use slipway_proto::{BuildRequest, Digest, Reference};
use tokio::sync::{Semaphore, watch};

use crate::assemble::Assembled;
use crate::assemble::layer::Layer;
use crate::assemble::manifest::{Document, MEDIA_TYPE};
use crate::base::ResolvedBase;
use crate::cache::Cache;
use crate::liveness::Liveness;
use crate::observer::Observer;
use blob::{Blob, Source};
pub use error::PushError;
pub use gate::PublishGate;
use locations::BlobLocations;
pub use mounts::Mounts;
use slipway_registry::{ErrorKind, Registry, RegistryError, Repository, SingleFlight};

/// The most blobs that are transferred to one repository at the same time.
const MAX_BLOBS_IN_FLIGHT: usize = 8;

/// The finished parts of an image that is being made. Each part is pushed as soon as it is ready, and
/// the manifest when the image is complete.
#[derive(Debug, Default)]
pub struct PartialImage {
    /// The base, when it is resolved.
    pub base: Option<Arc<ResolvedBase>>,
    /// The finished layers, in any order.
    pub layers: Vec<Arc<Layer>>,
    /// The image, when it is complete.
    pub image: Option<Arc<Assembled>>,
}

/// The result of a push.
#[derive(Debug)]
pub struct PushReport {
    /// How each layer, the base's first, reached the first repository.
    pub transfers: Vec<Transfer>,
    /// How many bytes of blobs and manifests were sent.
    pub sent_bytes: u64,
}

/// The transfers that a process has under way, so that no two pushes do the same one. Cheap to clone.
#[derive(Clone, Default)]
pub struct Uploads(Arc<UnderWay>);

#[derive(Default)]
struct UnderWay {
    /// Blobs whose presence in a repository is being ensured.
    ensuring: SingleFlight<(Place, Digest), ()>,
    /// Blobs that are being sent to a registry with named credentials.
    sending: SingleFlight<(String, Option<SecretName>, Digest), ()>,
    /// Changes with each piece of any upload. A push that waits for another counts it as progress.
    progress: watch::Sender<()>,
}

/// A repository, by name, and the credentials for it.
type Place = (String, Option<SecretName>);

/// Pushes images with one set of connections and one cache.
pub struct Pusher<'a> {
    /// The client of all registries.
    pub registry: &'a Registry,
    /// The base layers kept on this machine.
    pub cache: &'a Cache,
    /// The known repositories of each blob.
    pub locations: &'a BlobLocations,
    /// The transfers of other pushes of this process.
    pub uploads: &'a Uploads,
    /// The mounts that this build's registries refused.
    pub mounts: Mounts,
    /// The request that the image was assembled for.
    pub request: &'a BuildRequest,
    /// Touched with every piece that is sent.
    pub liveness: Liveness,
}

impl Pusher<'_> {
    /// Returns the repositories of the request, each once, the main one first.
    fn repositories(&self) -> Vec<Repository> {
        let mut repositories: Vec<Repository> = Vec::new();
        for reference in &self.request.references {
            if !repositories.iter().any(|known| known.reference.name() == reference.name()) {
                repositories.push(self.repository(reference));
            }
        }
        repositories
    }

    /// Pushes blobs and manifest, by digest, to every repository: each blob when it is ready, the
    /// manifest when the image is complete and the gate lets it pass.
    ///
    /// # Errors
    ///
    /// When a registry refuses or fails, or the image must not be published or is never completed.
    pub async fn push(
        &self,
        partial: &watch::Receiver<PartialImage>,
        gate: PublishGate<'_>,
    ) -> Result<PushReport, PushError> {
        let sent = AtomicU64::new(0);
        let repositories = self.repositories();
        let each = repositories.iter().map(|repository| {
            let permits = Semaphore::new(MAX_BLOBS_IN_FLIGHT);
            let push = Push { pusher: self, sent: &sent, gate, permits, trusts_nothing: false };
            self.push_to(repository, partial, push)
        });
        let transfers = try_join_all(each).await?;
        let first = transfers.into_iter().next().expect("a request has a reference");
        Ok(PushReport { transfers: first, sent_bytes: sent.into_inner() })
    }

    /// Pushes an index, by digest, to every repository. The images that it lists must be there.
    ///
    /// # Errors
    ///
    /// When a registry refuses or fails, or the build is another's by now.
    pub async fn push_index(
        &self,
        index: &Document,
        observer: &dyn Observer,
    ) -> Result<(), PushError> {
        if !observer.holds() {
            return Err(PushError::LeaseLost);
        }
        let repositories = self.repositories();
        let each = repositories.iter().map(|repository| async move {
            let put = self.registry.put_manifest(repository, index.media_type, &index.bytes).await;
            match put {
                Err(refusal) if self.is_there_anyway(repository, index.digest, &refusal).await => {
                    Ok(())
                }
                put => put.map_err(|source| PushError::of_registry(repository, source)),
            }
        });
        try_join_all(each).await.map(drop)
    }

    /// Points a reference at a manifest or index, which must have been pushed. `writer` names the
    /// attempt in the registry's log.
    ///
    /// # Errors
    ///
    /// When the registry refuses or fails.
    pub async fn tag(
        &self,
        reference: &Reference,
        document: &Document,
        writer: &str,
    ) -> Result<(), PushError> {
        let repository = self.repository(reference);
        let tag = reference.version();
        self.registry
            .put_tag(&repository, &tag, document.media_type, &document.bytes, writer)
            .await
            .map_err(|source| PushError::of_registry(&repository, source))
    }

    /// Points a reference at a manifest of its repository, and returns whether it pointed elsewhere
    /// before.
    ///
    /// # Errors
    ///
    /// When the registry refuses or fails.
    pub async fn point(
        &self,
        reference: &Reference,
        digest: Digest,
        writer: &str,
    ) -> Result<bool, PushError> {
        let repository = self.repository(reference);
        let to_target = |source| PushError::of_registry(&repository, source);
        let tag = reference.version();
        match self.registry.manifest(&repository, &tag).await {
            Ok(now) if now.digest == digest => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(to_target(error)),
        }
        let manifest = self.registry.manifest(&repository, &digest.to_string()).await;
        let manifest = manifest.map_err(to_target)?;
        let media_type = manifest.media_type.as_deref().unwrap_or(MEDIA_TYPE);
        let written =
            self.registry.put_tag(&repository, &tag, media_type, &manifest.bytes, writer).await;
        written.map(|()| true).map_err(to_target)
    }

    /// Returns whether a manifest whose write was refused is there: where nothing can be overwritten,
    /// only the write was refused.
    async fn is_there_anyway(
        &self,
        repository: &Repository,
        digest: Digest,
        refusal: &RegistryError,
    ) -> bool {
        let is_refused = refusal.status().is_some() && !refusal.is_transient();
        is_refused && self.registry.has_manifest(repository, digest).await
    }

    fn repository(&self, reference: &Reference) -> Repository {
        let secret = self.request.registry_secret.clone();
        Repository { reference: reference.clone(), secret }
    }

    /// Pushes to one repository. Runs once more if the repository lacks a blob that it was known to
    /// hold.
    async fn push_to(
        &self,
        repository: &Repository,
        partial: &watch::Receiver<PartialImage>,
        mut push: Push<'_>,
    ) -> Result<Vec<Transfer>, PushError> {
        loop {
            let ensured = Box::pin(push.ensure_blobs(repository, partial.clone())).await?;
            let (image, transfers) = ensured;
            let manifest = &image.manifest;
            match self.registry.put_manifest(repository, MEDIA_TYPE, manifest).await {
                Ok(()) => {
                    push.sent.fetch_add(manifest.len() as u64, Ordering::Relaxed);
                    return Ok(transfers);
                }
                Err(source) if !push.trusts_nothing && may_lack_blobs(&source) => {
                    tracing::info!(
                        repository = repository.reference.name(),
                        error = %source,
                        "the registry refused the manifest; pushing once more"
                    );
                    for blob in partial.borrow().blobs() {
                        self.locations.forget(repository, blob.digest);
                    }
                    push.trusts_nothing = true;
                }
                // All blobs were confirmed, so that a manifest that is there is a whole image.
                Err(source)
                    if self.is_there_anyway(repository, image.manifest_digest, &source).await =>
                {
                    return Ok(transfers);
                }
                Err(source) => return Err(PushError::of_registry(repository, source)),
            }
        }
    }
}

/// One push to one repository.
struct Push<'a> {
    pusher: &'a Pusher<'a>,
    sent: &'a AtomicU64,
    gate: PublishGate<'a>,
    /// One for each blob that may be transferred at the same time.
    permits: Semaphore,
    /// Whether every blob is checked.
    trusts_nothing: bool,
}

impl Push<'_> {
    /// Ensures that the repository holds all blobs, as they become ready, and waits until the manifest
    /// may be written. Returns the image, and how its layers got there, the base's first.
    async fn ensure_blobs(
        &self,
        repository: &Repository,
        mut partial: watch::Receiver<PartialImage>,
    ) -> Result<(Arc<Assembled>, Vec<Transfer>), PushError> {
        let mut begun = HashSet::new();
        let mut ensuring = FuturesUnordered::new();
        let mut transfers = HashMap::new();
        let image = loop {
            let image = {
                let now = partial.borrow_and_update();
                for blob in now.blobs().filter(|blob| begun.insert(blob.digest)) {
                    let digest = blob.digest;
                    ensuring.push(async move {
                        let _permit = self.permits.acquire().await;
                        self.ensure_blob(repository, &blob).await.map(|transfer| (digest, transfer))
                    });
                }
                now.image.clone()
            };
            if let Some(image) = image {
                break image;
            }
            tokio::select! {
                // The image failed. The pipeline reports why.
                changed = partial.changed() => changed.map_err(|_| PushError::Withheld)?,
                Some(done) = ensuring.next() => transfers.extend([done?]),
            }
        };
        while let Some(done) = ensuring.next().await {
            transfers.extend([done?]);
        }
        self.gate.pass().await?;
        let base = image.base.iter().flat_map(|base| &base.layers).map(|layer| layer.digest);
        let made = image.layers.iter().map(|layer| layer.digest);
        let transfers = base.chain(made).map(|layer| transfers[&layer]).collect();
        Ok((image, transfers))
    }
}

impl PartialImage {
    /// Returns the blobs that are ready: the base's layers, the layers that were made, and the config.
    fn blobs(&self) -> impl Iterator<Item = Blob> {
        let base = self.base.iter().flat_map(|base| {
            base.image.layers.iter().map(|layer| Blob {
                digest: layer.digest,
                size: layer.size,
                source: Source::Base(Arc::clone(base), layer.clone()),
            })
        });
        let made = self.layers.iter().map(|layer| Blob {
            digest: layer.digest,
            size: layer.size,
            source: Source::Made(Arc::clone(layer)),
        });
        let config = self.image.iter().map(|image| Blob {
            digest: image.config_digest,
            size: image.config.len() as u64,
            source: Source::Config(image.config.clone()),
        });
        base.chain(made).chain(config)
    }
}

/// Returns whether a manifest may have been refused because a blob is missing. Not every registry
/// reports that with the code of the specification.
fn may_lack_blobs(refusal: &RegistryError) -> bool {
    refusal.is_blob_unknown()
        || matches!(refusal.kind(), ErrorKind::Refused | ErrorKind::NotFound | ErrorKind::Malformed)
}
