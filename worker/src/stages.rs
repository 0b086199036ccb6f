// SPDX-License-Identifier: Apache-2.0

//! The work of an attempt between claim and commit: from a request to a pushed image.
//!
//! A seam: the protocol of the queue (claim, lease, events, log, commit, acknowledgement) does not
//! depend on how the image is made, so it can be measured with stages that do nothing. Installed
//! programs only contain [`PipelineStages`].

use std::sync::Arc;

use futures::future::BoxFuture;
use slipway_artifact::FileSource;
use slipway_artifact::store::{ArtifactStore, Fetched, StoreError};
use slipway_proto::request::Artifact;
use slipway_proto::{BuildRequest, Digest, Stage, units};

use crate::config::Config;
use crate::failure::StageError;
use crate::input::{ArtifactDigest, Input, Verified};
use crate::observer::Observer;
use crate::pipeline::{Pipeline, PipelineError, Product};
use crate::stage_clock::StageClock;

/// An image that its registry holds by digest. No tag points at it yet.
#[derive(Debug)]
pub struct Made {
    /// The image, of one platform or of several.
    pub product: Product,
    /// The stages so far. The last one still runs.
    pub stages: StageClock,
}

/// Makes the image of a request.
pub trait ImageStages: Send + Sync {
    /// Runs the stages of a request and announces each to the attempt. The future is dropped when the
    /// attempt ends early.
    ///
    /// # Errors
    ///
    /// When a stage fails.
    fn make<'a>(
        &'a self,
        request: &'a Arc<BuildRequest>,
        attempt: &'a dyn Observer,
    ) -> BoxFuture<'a, Result<Made, StageError>>;

    /// Returns the writer of tags. `None` if there is no registry: then no build has tags.
    fn tagger(&self) -> Option<&Pipeline>;

    /// Returns the size of the cache in bytes. May read the disk.
    fn cache_bytes(&self) -> u64;
}

/// The stages of real builds: fetch, resolve, assemble, push.
#[derive(Clone)]
pub struct PipelineStages {
    store: ArtifactStore,
    pipeline: Pipeline,
}

/// An artifact on this machine.
struct FetchedArtifact {
    digest: Digest,
    source: Arc<FileSource>,
    verified: Verified,
}

/// Why the stages cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum StagesError {
    /// The artifact store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Cache or registry client cannot be used.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
}

impl PipelineStages {
    /// Opens artifact store, cache and registry client.
    ///
    /// # Errors
    ///
    /// When one of them cannot be used.
    pub async fn open(config: &Config) -> Result<Self, StagesError> {
        let pipeline = Pipeline::new(config)?;
        let store = ArtifactStore::open(config.store.store.expose()).await?;
        Ok(Self { store, pipeline })
    }

    async fn stages(
        &self,
        request: &Arc<BuildRequest>,
        observer: &dyn Observer,
    ) -> Result<Made, StageError> {
        let pipeline = &self.pipeline;
        let mut stages = StageClock::default();
        stages.enter(Stage::Fetch, observer);
        let mut fetched: Vec<FetchedArtifact> = Vec::new();
        for artifact in request.artifacts() {
            if !fetched.iter().any(|known| known.digest == artifact.digest) {
                fetched.push(self.fetch(artifact, observer).await?);
            }
        }
        let requests = if request.further_platforms.is_empty() {
            vec![Arc::clone(request)]
        } else {
            request.for_each_platform().into_iter().map(Arc::new).collect()
        };
        let digests: Vec<ArtifactDigest> =
            requests.iter().map(|request| ArtifactDigest::Known(request.artifact.digest)).collect();
        let inputs: Vec<Input<'_>> = requests
            .iter()
            .zip(&digests)
            .map(|(request, digest)| {
                let artifact = request.artifact.digest;
                let artifact = fetched.iter().find(|known| known.digest == artifact);
                let artifact = artifact.expect("each artifact was fetched");
                let (verified, artifact) = (&artifact.verified, Arc::clone(&artifact.source));
                Input { request, artifact, digest, verified, observer, base: None }
            })
            .collect();
        let product = pipeline.publish_all(request, &inputs, &mut stages).await?;
        Ok(Made { product, stages })
    }

    async fn fetch(
        &self,
        artifact: &Artifact,
        observer: &dyn Observer,
    ) -> Result<FetchedArtifact, StageError> {
        let liveness = observer.liveness();
        let Artifact { digest, size_bytes, filename, .. } = artifact;
        let fetched = self
            .store
            .fetch(*digest, *size_bytes, self.pipeline.scratch(), &|| {
                let _over = liveness.touch();
            })
            .await?;
        let size = units::size(*size_bytes);
        observer.line(&format!("fetched artifact {filename} ({size}, {digest})"));
        let Fetched { source, verification } = fetched;
        let verified = Verified::by(async { Ok(verification.wait().await?) });
        Ok(FetchedArtifact { digest: *digest, source, verified })
    }
}

impl ImageStages for PipelineStages {
    fn make<'a>(
        &'a self,
        request: &'a Arc<BuildRequest>,
        attempt: &'a dyn Observer,
    ) -> BoxFuture<'a, Result<Made, StageError>> {
        Box::pin(self.stages(request, attempt))
    }

    fn tagger(&self) -> Option<&Pipeline> {
        Some(&self.pipeline)
    }

    fn cache_bytes(&self) -> u64 {
        self.pipeline.cache().size()
    }
}
