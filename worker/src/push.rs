// SPDX-License-Identifier: Apache-2.0

//! Brings an assembled image into its repositories: blobs in parallel, then the manifest, and
//! tags only when told to.
//!
//! For each blob: mount it from the base's repository when that is in the same registry, else ask
//! whether it is there, else upload it whole. A layer of the base is downloaded only for a
//! repository that lacks it.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::future::try_join_all;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use slipway_proto::outcome::Transfer;
use slipway_proto::{BuildRequest, Digest, Failure, Reason, Reference};
use tokio_util::io::ReaderStream;

use crate::assemble::layer::Layer;
use crate::assemble::manifest::MEDIA_TYPE;
use crate::assemble::{AssembleError, Assembled};
use crate::base::{BaseLayer, ResolvedBase};
use crate::cache::{Cache, CacheError};
use crate::pulse::Pulse;
use crate::registry::{ErrorKind, Mounted, Registry, RegistryError, Repository, UploadSession};

/// How much of a cached layer is read at a time.
const READ_CHUNK: usize = 256 * 1024;

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
    /// A layer that the registry turned out not to have could not be made.
    #[error(transparent)]
    Layer(AssembleError),
    /// A layer of the base could not be read.
    #[error("failed to read layer {digest} of the base image {reference}")]
    BaseLayer {
        /// The base.
        reference: Reference,
        /// The layer.
        digest: Digest,
        /// Why.
        #[source]
        source: CacheError<RegistryError>,
    },
}

impl PushError {
    /// Returns whether another attempt may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Registry { source, .. }
            | Self::BaseLayer { source: CacheError::Fetch(source), .. } => source.is_transient(),
            Self::Layer(error) => error.is_transient(),
            Self::BaseLayer { .. } => true,
        }
    }

    /// Returns how long the registry asked to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Registry { source, .. }
            | Self::BaseLayer { source: CacheError::Fetch(source), .. } => source.retry_after(),
            Self::Layer(_) | Self::BaseLayer { .. } => None,
        }
    }

    /// Returns whether the registry asked for fewer requests, which is no fault of the build.
    #[must_use]
    pub fn is_rate_limit(&self) -> bool {
        match self {
            Self::Registry { source, .. }
            | Self::BaseLayer { source: CacheError::Fetch(source), .. } => {
                source.kind() == ErrorKind::RateLimited
            }
            Self::Layer(_) | Self::BaseLayer { .. } => false,
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
            Self::Layer(error) => error.failure(),
            Self::BaseLayer { source, .. } => {
                Failure::new(Reason::PullBaseImageFailed, format!("{self}: {source}"))
            }
        }
    }
}

/// What a push moved.
#[derive(Debug)]
pub struct Pushed {
    /// How each layer, the base's first, reached the first repository.
    pub transfers: Vec<Transfer>,
    /// How many bytes of blobs and manifests were sent.
    pub sent_bytes: u64,
}

/// Pushes images with one set of connections and one cache.
pub struct Pusher<'a> {
    /// The registries.
    pub registry: &'a Registry,
    /// The base layers kept on this machine.
    pub cache: &'a Cache,
    /// The request that the image was assembled for.
    pub request: &'a BuildRequest,
    /// Beats with every piece that is sent.
    pub pulse: Pulse,
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

    /// Pushes blobs and manifest, by digest, to every repository.
    ///
    /// # Errors
    ///
    /// When a registry refuses or fails.
    pub async fn push(&self, image: &Assembled) -> Result<Pushed, PushError> {
        let sent = AtomicU64::new(0);
        let repositories = self.repositories();
        let each = repositories.iter().map(|repository| self.push_to(repository, image, &sent));
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

    async fn push_to(
        &self,
        repository: &Repository,
        image: &Assembled,
        sent: &AtomicU64,
    ) -> Result<Vec<Transfer>, PushError> {
        let base_layers = image.base.iter().flat_map(|base| {
            base.layers.iter().map(move |layer| self.base_layer(repository, base, layer, sent))
        });
        let made_layers = image.layers.iter().map(|layer| self.made_layer(repository, layer, sent));
        let config = self.bytes(repository, image.config_digest, &image.config, sent);
        let (base, made, _config) =
            futures::try_join!(try_join_all(base_layers), try_join_all(made_layers), config)?;
        self.registry
            .put_manifest(repository, MEDIA_TYPE, &image.manifest)
            .await
            .map_err(|source| failed(repository, source))?;
        sent.fetch_add(image.manifest.len() as u64, Ordering::Relaxed);
        Ok(base.into_iter().chain(made).collect())
    }

    async fn base_layer(
        &self,
        target: &Repository,
        base: &ResolvedBase,
        layer: &BaseLayer,
        sent: &AtomicU64,
    ) -> Result<Transfer, PushError> {
        let source = &base.repository.reference;
        let same_registry = source.registry() == target.reference.registry();
        let mut session = None;
        if same_registry && source.name() == target.reference.name() {
            return Ok(Transfer::Found);
        }
        if same_registry {
            let mounted = self.registry.mount(target, layer.digest, source.repository()).await;
            match mounted.map_err(|source| failed(target, source))? {
                Mounted::Yes => return Ok(Transfer::Mounted),
                Mounted::No(opened) => session = Some(opened),
            }
        } else if self.has(target, layer.digest).await? {
            return Ok(Transfer::Found);
        }
        let fetch = || self.registry.blob(&base.repository, layer.digest);
        let file = self.cache.get_or_fetch(layer.digest, fetch).await.map_err(|source| {
            PushError::BaseLayer { reference: base.reference.clone(), digest: layer.digest, source }
        })?;
        let reader = tokio::fs::File::from_std(file);
        let body = ReaderStream::with_capacity(reader, READ_CHUNK);
        self.upload(target, session, layer.digest, layer.size, body, sent).await?;
        Ok(Transfer::Uploaded)
    }

    async fn made_layer(
        &self,
        target: &Repository,
        layer: &Layer,
        sent: &AtomicU64,
    ) -> Result<Transfer, PushError> {
        if self.has(target, layer.digest).await? {
            return Ok(Transfer::Found);
        }
        let body = layer.content().await.map_err(PushError::Layer)?.stream();
        self.upload(target, None, layer.digest, layer.size, body, sent).await?;
        Ok(Transfer::Uploaded)
    }

    async fn bytes(
        &self,
        target: &Repository,
        digest: Digest,
        bytes: &Bytes,
        sent: &AtomicU64,
    ) -> Result<Transfer, PushError> {
        if self.has(target, digest).await? {
            return Ok(Transfer::Found);
        }
        let body = futures::stream::iter([Ok(bytes.clone())]);
        self.upload(target, None, digest, bytes.len() as u64, body, sent).await?;
        Ok(Transfer::Uploaded)
    }

    async fn has(&self, target: &Repository, digest: Digest) -> Result<bool, PushError> {
        self.registry.has_blob(target, digest).await.map_err(|source| failed(target, source))
    }

    async fn upload(
        &self,
        target: &Repository,
        session: Option<UploadSession>,
        digest: Digest,
        size: u64,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
        sent: &AtomicU64,
    ) -> Result<(), PushError> {
        let to_target = |source| failed(target, source);
        let session = match session {
            Some(session) => session,
            None => self.registry.begin_upload(target).await.map_err(to_target)?,
        };
        let pulse = self.pulse.clone();
        let body = body.into_stream().and_then(move |piece| {
            let alive = pulse.beat();
            async move { alive.map(|()| piece) }
        });
        let body = body.boxed();
        self.registry.upload(target, session, digest, size, body).await.map_err(to_target)?;
        sent.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }
}

fn failed(repository: &Repository, source: RegistryError) -> PushError {
    PushError::Registry { repository: repository.reference.name(), source }
}
