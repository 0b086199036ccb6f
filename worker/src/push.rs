// SPDX-License-Identifier: Apache-2.0

//! Brings an image into its repositories while it is made: each blob as soon as it is there, then
//! the manifest, and tags only when told to.
//!
//! For each blob, the one request that is most likely to be all: none if its repository had it
//! minutes ago; a blob that its repository is known to hold is asked for, one that another
//! repository of the registry holds is mounted, one that nobody can have yet is sent. What is known
//! may be wrong: a repository that then refuses the manifest is forgotten and pushed to once more,
//! with every blob asked for. A layer of the base is downloaded only for a repository that lacks
//! it, and sent on while it comes.

pub mod locations;
mod place;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt as _;
use futures::future::try_join_all;
use futures::stream::FuturesUnordered;
use slipway_proto::id::SecretName;
use slipway_proto::outcome::Transfer;
use slipway_proto::{BuildRequest, Digest, Failure, Reason, Reference};
use tokio::sync::{Semaphore, watch};

use crate::assemble::layer::Layer;
use crate::assemble::manifest::MEDIA_TYPE;
use crate::assemble::{AssembleError, Assembled};
use crate::base::ResolvedBase;
use crate::cache::{Cache, CacheError};
use crate::liveness::Liveness;
use crate::pipeline::Gate;
use locations::BlobLocations;
use place::{Blob, Source};
use slipway_registry::{ErrorKind, Registry, RegistryError, Repository, SingleFlight};

/// So many blobs are brought into a repository at the same time.
const AT_ONCE: usize = 8;

/// Why an image could not be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The target's registry refused or failed.
    #[error("failed to push to {repository}")]
    Registry {
        /// The target repository.
        repository: String,
        /// Why.
        #[source]
        source: RegistryError,
    },
    /// A layer of the base could not be read.
    #[error("failed to read layer {digest} of the base image {reference}")]
    BaseLayer {
        /// The base.
        reference: Reference,
        /// The layer.
        digest: Digest,
        /// Why.
        #[source]
        source: CacheError,
    },
    /// A layer could not be made again.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// What was to be sent could not be read.
    #[error("failed to read what is to be pushed")]
    Content(#[source] std::io::Error),
    /// The image is not to be published after all.
    #[error("the artifact is not the one that the request names")]
    Withheld,
    /// The build is no longer this worker's.
    #[error("the build is another's by now")]
    LeaseLost,
}

impl PushError {
    /// Returns whether another attempt may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Assemble(source) => source.is_transient(),
            Self::BaseLayer { source: CacheError::Size { .. }, .. } => false,
            _ => self.refusal().is_none_or(RegistryError::is_transient),
        }
    }

    /// Returns how long the registry asked to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        self.refusal().and_then(RegistryError::retry_after)
    }

    /// Returns whether the registry asked for fewer requests, which is no fault of the build.
    #[must_use]
    pub fn is_rate_limit(&self) -> bool {
        self.refusal().is_some_and(|error| error.kind() == ErrorKind::RateLimited)
    }

    /// Returns what a registry said, if it was one.
    fn refusal(&self) -> Option<&RegistryError> {
        match self {
            Self::Registry { source, .. } => Some(source),
            Self::BaseLayer { source: CacheError::Fetch(source), .. } => Some(source),
            _ => None,
        }
    }

    /// Returns the failure that users see.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            Self::Registry { source, .. } if source.kind() == ErrorKind::Denied => {
                Failure::new(Reason::RegistryDenied, format!("{self}: {source}"))
            }
            Self::Registry { source, .. } => {
                Failure::new(Reason::PushImageFailed, format!("{self}: {source}"))
            }
            Self::BaseLayer { source, .. } => {
                Failure::new(Reason::PullBaseImageFailed, format!("{self}: {source}"))
            }
            Self::Assemble(source) => source.failure(),
            Self::Content(source) => {
                Failure::new(Reason::PushImageFailed, format!("{self}: {source}"))
            }
            Self::Withheld => Failure::new(Reason::FetchArtifactFailed, self.to_string()),
            Self::LeaseLost => Failure::new(Reason::LeaseLost, self.to_string()),
        }
    }
}

/// What there is of an image that is being made. Each part goes to the repositories as soon as it
/// is here, and the manifest once all of it is.
#[derive(Debug, Default)]
pub struct InTheMaking {
    /// The base, when it is resolved.
    pub base: Option<Arc<ResolvedBase>>,
    /// The layers that were made, in any order.
    pub layers: Vec<Arc<Layer>>,
    /// The image, when it is complete.
    pub image: Option<Arc<Assembled>>,
}

/// What a push moved.
#[derive(Debug)]
pub struct Pushed {
    /// How each layer, the base's first, reached the first repository.
    pub transfers: Vec<Transfer>,
    /// How many bytes of blobs and manifests were sent.
    pub sent_bytes: u64,
}

/// What the pushes of a process do at this moment, so that no two do the same. Cheap to clone.
#[derive(Clone, Default)]
pub struct Uploads(Arc<UnderWay>);

#[derive(Default)]
struct UnderWay {
    /// A blob is brought into a repository.
    placing: SingleFlight<(Place, Digest), ()>,
    /// A blob is sent to a registry, as the credentials of a name see it.
    sending: SingleFlight<(String, Option<SecretName>, Digest), ()>,
    /// Changes with each piece of any upload, so that a push that waits for another is not idle.
    progress: watch::Sender<()>,
}

/// A repository, by name, and the credentials for it.
type Place = (String, Option<SecretName>);

/// Pushes images with one set of connections and one cache.
pub struct Pusher<'a> {
    /// The registries.
    pub registry: &'a Registry,
    /// The base layers kept on this machine.
    pub cache: &'a Cache,
    /// Which repositories are known to hold which blob.
    pub locations: &'a BlobLocations,
    /// What other pushes of this process do.
    pub uploads: &'a Uploads,
    /// The request that the image was assembled for.
    pub request: &'a BuildRequest,
    /// Beats with every piece that is sent.
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

    /// Pushes blobs and manifest, by digest, to every repository: blobs as they come, manifests
    /// only once the image is complete and may pass the gate.
    ///
    /// # Errors
    ///
    /// When a registry refuses or fails, or the image may not be published, or is never completed.
    pub async fn push(
        &self,
        making: &watch::Receiver<InTheMaking>,
        gate: Gate<'_>,
    ) -> Result<Pushed, PushError> {
        let sent = AtomicU64::new(0);
        let repositories = self.repositories();
        let each = repositories.iter().map(|repository| {
            let permits = Semaphore::new(AT_ONCE);
            let push = Push { pusher: self, sent: &sent, gate, permits, trusts_nothing: false };
            self.push_to(repository, making, push)
        });
        let transfers = try_join_all(each).await?;
        let first = transfers.into_iter().next().expect("a request has a reference");
        Ok(Pushed { transfers: first, sent_bytes: sent.into_inner() })
    }

    /// Points a reference at the image, which must have been pushed. `writer` says to the
    /// registry's log who does so.
    ///
    /// # Errors
    ///
    /// When the registry refuses or fails.
    pub async fn tag(
        &self,
        reference: &Reference,
        image: &Assembled,
        writer: &str,
    ) -> Result<(), PushError> {
        let repository = self.repository(reference);
        let tag = reference.version();
        self.registry
            .put_tag(&repository, &tag, MEDIA_TYPE, &image.manifest, writer)
            .await
            .map_err(|source| failed(&repository, source))
    }

    /// Points a reference at a manifest that stands in its repository, and returns whether it
    /// pointed elsewhere before.
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
        let to_target = |source| failed(&repository, source);
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

    fn repository(&self, reference: &Reference) -> Repository {
        let secret = self.request.registry_secret.clone();
        Repository { reference: reference.clone(), secret }
    }

    /// Pushes to one repository; once more if it turns out that it lacks what it was known to have.
    async fn push_to(
        &self,
        repository: &Repository,
        making: &watch::Receiver<InTheMaking>,
        mut push: Push<'_>,
    ) -> Result<Vec<Transfer>, PushError> {
        loop {
            let placed = Box::pin(push.place_all(repository, making.clone())).await?;
            let (image, transfers) = placed;
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
                    for blob in making.borrow().blobs() {
                        self.locations.forget(repository, blob.digest);
                    }
                    push.trusts_nothing = true;
                }
                Err(source) => return Err(failed(repository, source)),
            }
        }
    }
}

/// One push to one repository.
struct Push<'a> {
    pusher: &'a Pusher<'a>,
    sent: &'a AtomicU64,
    gate: Gate<'a>,
    /// One for each blob that may be brought there at the same time.
    permits: Semaphore,
    /// Whether the repository is asked for every blob.
    trusts_nothing: bool,
}

impl Push<'_> {
    /// Brings all blobs into the repository, as they come, and waits until a manifest may be
    /// written. Returns the image, and how its layers came there, the base's first.
    async fn place_all(
        &self,
        repository: &Repository,
        mut making: watch::Receiver<InTheMaking>,
    ) -> Result<(Arc<Assembled>, Vec<Transfer>), PushError> {
        let mut begun = HashSet::new();
        let mut placing = FuturesUnordered::new();
        let mut placed = HashMap::new();
        let image = loop {
            let image = {
                let now = making.borrow_and_update();
                for blob in now.blobs().filter(|blob| begun.insert(blob.digest)) {
                    let digest = blob.digest;
                    placing.push(async move {
                        let _permit = self.permits.acquire().await;
                        self.place(repository, &blob).await.map(|transfer| (digest, transfer))
                    });
                }
                now.image.clone()
            };
            if let Some(image) = image {
                break image;
            }
            tokio::select! {
                // Nobody makes it any more, for a reason that is told elsewhere.
                changed = making.changed() => changed.map_err(|_| PushError::Withheld)?,
                Some(done) = placing.next() => placed.extend([done?]),
            }
        };
        while let Some(done) = placing.next().await {
            placed.extend([done?]);
        }
        self.gate.pass().await?;
        let base = image.base.iter().flat_map(|base| &base.layers).map(|layer| layer.digest);
        let made = image.layers.iter().map(|layer| layer.digest);
        let transfers = base.chain(made).map(|layer| placed[&layer]).collect();
        Ok((image, transfers))
    }
}

impl InTheMaking {
    /// Returns the blobs that are here: the base's layers, those that were made, and the config.
    fn blobs(&self) -> impl Iterator<Item = Blob> {
        let base = self.base.iter().flat_map(|base| {
            base.layers.iter().map(|layer| Blob {
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

/// Whether a manifest may have been refused because blobs are missing that it names. Not every
/// registry says so in the word that the specification has for it.
fn may_lack_blobs(refusal: &RegistryError) -> bool {
    refusal.is_blob_unknown()
        || matches!(refusal.kind(), ErrorKind::Refused | ErrorKind::NotFound | ErrorKind::Malformed)
}

fn failed(repository: &Repository, source: RegistryError) -> PushError {
    PushError::Registry { repository: repository.reference.name(), source }
}
