// SPDX-License-Identifier: Apache-2.0

//! The way from an artifact to a published image, without the queue: resolve, assemble, push, tag.
//!
//! Used by attempts of the queue and by `slipway build --local` alike, so that both make the same
//! image.

mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use slipway_artifact::FileSource;
use slipway_proto::outcome::{StageTime, Transfer};
use slipway_proto::request::Base;
use slipway_proto::{ArtifactKind, BuildRequest, Digest, Failure, Reason, Reference, Stage};
use tokio::sync::watch;

use crate::assemble::layer::{Layer, Workshop};
use crate::assemble::records::LayerRecords;
use crate::assemble::{self, Assembled, Progress};
use crate::base::{self, BaseLayer, Mirror, ResolvedBase};
use crate::cache::Cache;
use crate::config::Config;
use crate::failure::StageError;
use crate::liveness::Liveness;
use crate::push::locations::BlobLocations;
use crate::push::{InTheMaking, PushError, Pushed, Pusher, Uploads};
use slipway_registry::{Registry, RegistryError};

pub use report::{bytes, outcome};

/// What a pipeline needs of the machine is not there.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The cache's directory cannot be used.
    #[error("failed to use the cache directory {path}")]
    Cache {
        /// The directory.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The registry client cannot be made.
    #[error("failed to set up the registry client: {0}")]
    Registry(RegistryError),
}

/// Listens to a build as it goes.
pub trait Observer: Send + Sync {
    /// A stage begins.
    fn stage(&self, stage: Stage);
    /// Something a person should read.
    fn line(&self, line: &str);
    /// What shows that the build goes on.
    fn liveness(&self) -> Liveness;
    /// Returns whether the build may still be worked on. Asked before what cannot be taken back;
    /// what is returned after a `false` is not looked at.
    fn holds(&self) -> bool {
        true
    }
}

/// Builds images. Cheap to clone.
#[derive(Clone)]
pub struct Pipeline {
    registry: Registry,
    cache: Cache,
    layer_records: LayerRecords,
    locations: BlobLocations,
    uploads: Uploads,
    mirrors: Arc<[Mirror]>,
    scratch: PathBuf,
    epoch: i64,
}

/// Whether an artifact is the one that its request names. It is found out when somebody first waits
/// for it; clones share the answer.
#[derive(Clone)]
pub struct Verified(Shared<BoxFuture<'static, Result<(), StageError>>>);

impl Verified {
    /// The answer is what `verification` comes to.
    #[must_use]
    pub fn by(verification: impl Future<Output = Result<(), StageError>> + Send + 'static) -> Self {
        Self(verification.boxed().shared())
    }

    /// Waits for the answer.
    ///
    /// # Errors
    ///
    /// When it is another, or cannot be read.
    pub async fn wait(&self) -> Result<(), StageError> {
        self.0.clone().await
    }
}

/// The digest of an artifact. Clones share it.
#[derive(Clone)]
pub enum ArtifactDigest {
    /// Whoever asked for the image said it.
    Said(Digest),
    /// It is being found out.
    Coming(Shared<BoxFuture<'static, Result<Digest, StageError>>>),
}

impl ArtifactDigest {
    /// The digest is what `finding` comes to.
    #[must_use]
    pub fn by(finding: impl Future<Output = Result<Digest, StageError>> + Send + 'static) -> Self {
        Self::Coming(finding.boxed().shared())
    }

    /// Has the finding begin, unless it has: else it does when somebody waits for it.
    fn begin(&self) {
        if let Self::Coming(finding) = self {
            tokio::spawn(finding.clone());
        }
    }

    /// Returns the digest if it is there.
    #[must_use]
    pub fn now(&self) -> Option<Digest> {
        match self {
            Self::Said(digest) => Some(*digest),
            Self::Coming(finding) => finding.peek()?.as_ref().ok().copied(),
        }
    }

    /// Waits for the digest.
    ///
    /// # Errors
    ///
    /// When the artifact cannot be read.
    pub async fn wait(&self) -> Result<Digest, StageError> {
        match self {
            Self::Said(digest) => Ok(*digest),
            Self::Coming(finding) => finding.clone().await,
        }
    }
}

/// Whether an image may be published.
#[derive(Clone, Copy)]
pub struct Gate<'a> {
    verified: &'a Verified,
    observer: &'a dyn Observer,
}

impl Gate<'_> {
    /// Waits until a manifest may be written.
    ///
    /// # Errors
    ///
    /// When it may not.
    pub async fn pass(&self) -> Result<(), PushError> {
        self.verified.wait().await.map_err(|_told_elsewhere| PushError::Withheld)?;
        if self.observer.holds() { Ok(()) } else { Err(PushError::LeaseLost) }
    }
}

/// What an image is made from, and for whom.
pub struct Input<'a> {
    /// What is wanted.
    pub request: &'a Arc<BuildRequest>,
    /// The artifact's bytes.
    pub artifact: Arc<FileSource>,
    /// Their digest. The one in the request is not looked at.
    pub digest: &'a ArtifactDigest,
    /// Whether they have it.
    pub verified: &'a Verified,
    /// Who follows it.
    pub observer: &'a dyn Observer,
}

/// Passes layers on while others are made.
struct Making {
    layers: watch::Sender<InTheMaking>,
    digest: ArtifactDigest,
}

impl Progress for Making {
    fn made(&self, layer: &Arc<Layer>) {
        self.layers.send_modify(|making| making.layers.push(Arc::clone(layer)));
    }

    fn leaves_a_processor(&self) {
        self.digest.begin();
    }
}

/// Measures stages one after the other.
#[derive(Debug, Default)]
pub struct Stages {
    done: Vec<StageTime>,
    current: Option<(Stage, Instant)>,
}

impl Stages {
    /// Ends the current stage and begins another.
    pub fn enter(&mut self, stage: Stage, observer: &dyn Observer) {
        self.end();
        self.current = Some((stage, Instant::now()));
        observer.stage(stage);
    }

    fn end(&mut self) {
        if let Some((stage, begun)) = self.current.take() {
            let duration_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.done.push(StageTime { stage, duration_us });
        }
    }

    /// Ends the last stage and returns them all.
    #[must_use]
    pub fn finish(mut self) -> Vec<StageTime> {
        self.end();
        self.done
    }
}

impl Pipeline {
    /// Makes a pipeline.
    ///
    /// # Errors
    ///
    /// When the cache directory cannot be used or credentials cannot be read.
    pub fn new(config: &Config) -> Result<Self, PipelineError> {
        let scratch = config.cache.cache_dir.join("scratch");
        let unusable = |source| PipelineError::Cache {
            path: config.cache.cache_dir.display().to_string(),
            source,
        };
        std::fs::create_dir_all(&scratch).map_err(unusable)?;
        Ok(Self {
            registry: Registry::new(config.registry_options()).map_err(PipelineError::Registry)?,
            cache: Cache::open(&config.cache.cache_dir, config.cache.cache_bytes).map_err(unusable)?,
            layer_records: LayerRecords::open(&config.cache.cache_dir).map_err(unusable)?,
            locations: BlobLocations::open(&config.cache.cache_dir).map_err(unusable)?,
            uploads: Uploads::default(),
            mirrors: config.registries.mirrors.clone().into(),
            scratch,
            epoch: config.source_date_epoch,
        })
    }

    /// Returns the directory for temporary files.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Returns the cache of base layers.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Makes an image and pushes it by digest while it is made: what is ready is sent while the
    /// rest is not. No tag points at it yet, and a manifest comes only once the image is complete,
    /// the observer still holds its build, and the artifact is known to be the one that the request
    /// names; if it is not, that is the failure, whatever else its bytes lead to.
    ///
    /// # Errors
    ///
    /// When a stage fails.
    pub async fn publish(
        &self,
        input: &Input<'_>,
        stages: &mut Stages,
    ) -> Result<(Arc<Assembled>, Pushed), StageError> {
        let Input { request, verified, observer, .. } = *input;
        let making = watch::Sender::new(InTheMaking::default());
        let receiver = making.subscribe();
        let pusher = self.pusher(request, observer.liveness());
        let make = async {
            let image = self.assemble_into(&making, input, stages).await?;
            stages.enter(Stage::Push, observer);
            making.send_modify(|making| making.image = Some(Arc::clone(&image)));
            // Only now: sending leaves a processor to the check.
            Self::confirm(&image, input).await?;
            Ok::<_, StageError>(image)
        };
        // What is wrong with the image is told first, and ends the push.
        let gate = Gate { verified, observer };
        let push = async { Ok(pusher.push(&receiver, gate).await) };
        let (image, pushed) = tokio::try_join!(make, push)?;
        let pushed = pushed?;
        let count = |transfer| pushed.transfers.iter().filter(|t| **t == transfer).count();
        observer.line(&format!(
            "pushed {}: {} layers mounted, {} found, {} uploaded, {} sent",
            image.manifest_digest,
            count(Transfer::Mounted),
            count(Transfer::Found),
            count(Transfer::Uploaded),
            bytes(pushed.sent_bytes)
        ));
        Ok((image, pushed))
    }

    /// Makes an image and keeps it here.
    ///
    /// # Errors
    ///
    /// When a stage fails, or the artifact is not the one that the request names.
    pub async fn assemble(
        &self,
        input: &Input<'_>,
        stages: &mut Stages,
    ) -> Result<Arc<Assembled>, StageError> {
        let nobody = watch::Sender::new(InTheMaking::default());
        let image = self.assemble_into(&nobody, input, stages).await?;
        Self::confirm(&image, input).await?;
        Ok(image)
    }

    async fn assemble_into(
        &self,
        making: &watch::Sender<InTheMaking>,
        input: &Input<'_>,
        stages: &mut Stages,
    ) -> Result<Arc<Assembled>, StageError> {
        let assembled = self.assemble_unverified(making, input, stages).await;
        let assembled = match assembled {
            Ok(assembled) => assembled,
            Err(error) => {
                input.verified.wait().await?;
                return Err(error);
            }
        };
        for layer in &assembled.layers {
            let before = if layer.is_known { ", as before" } else { "" };
            input.observer.line(&format!(
                "assembled layer {} ({}{before}): {}",
                layer.title,
                bytes(layer.size),
                layer.digest
            ));
        }
        Ok(Arc::new(assembled))
    }

    /// Resolves the base and reads the artifact at the same time: neither needs the other.
    async fn assemble_unverified(
        &self,
        making: &watch::Sender<InTheMaking>,
        input: &Input<'_>,
        stages: &mut Stages,
    ) -> Result<Assembled, StageError> {
        let Input { request, digest, observer, .. } = *input;
        stages.enter(Stage::Resolve, observer);
        let workshop = Workshop {
            scratch: self.scratch.clone(),
            records: self.layer_records.clone(),
            epoch: self.epoch,
            liveness: observer.liveness(),
        };
        let said = match request.artifact.kind {
            // Without a directory, it is only by its digest that it is known again before it is
            // compressed.
            ArtifactKind::Binary => Some(digest.wait().await?),
            _ => digest.now(),
        };
        let parts = tokio::task::spawn_blocking({
            let (request, artifact) = (Arc::clone(request), Arc::clone(&input.artifact));
            let making = Making { layers: making.clone(), digest: digest.clone() };
            move || assemble::make_parts(&request, &artifact, said, &workshop, &making)
        });
        let base = self.resolve(request, observer).await?.map(Arc::new);
        making.send_modify(|making| making.base.clone_from(&base));
        stages.enter(Stage::Assemble, observer);
        let parts = parts.await.map_err(|error| {
            // The thread panicked: a bug, and perhaps one that only this artifact finds.
            let message = format!("the assembly broke down: {error}; please report it");
            StageError::permanent(Failure::new(Reason::AssembleFailed, message))
        })??;
        Ok(assemble::put_together(request, digest.wait().await?, base, parts, self.epoch)?)
    }

    async fn resolve(
        &self,
        request: &BuildRequest,
        observer: &dyn Observer,
    ) -> Result<Option<ResolvedBase>, StageError> {
        let Base::Image(reference) = &request.recipe.base else {
            observer.line("starting from nothing (scratch)");
            return Ok(None);
        };
        let base =
            base::resolve(&self.registry, &self.cache, &self.mirrors, reference, request.platform)
                .await?;
        let location = &base.repository.reference;
        let by_way =
            if location == reference { String::new() } else { format!(" by way of {location}") };
        observer.line(&format!("resolved base image {reference}{by_way} to {}", base.digest));
        Ok(Some(base))
    }

    /// Waits until the artifact of an image is known to be the right one, and remembers what its
    /// layers came to. Nothing is published or remembered before.
    async fn confirm(image: &Assembled, input: &Input<'_>) -> Result<(), StageError> {
        input.verified.wait().await?;
        let digest = input.digest.wait().await?;
        for layer in &image.layers {
            layer.remember(digest);
        }
        Ok(())
    }

    /// Points one reference of the request at a pushed image. `writer` says to the registry's log
    /// who does so.
    ///
    /// # Errors
    ///
    /// When the registry refuses or fails.
    pub async fn tag(
        &self,
        request: &BuildRequest,
        reference: &Reference,
        image: &Assembled,
        writer: &str,
    ) -> Result<(), StageError> {
        Ok(self.pusher(request, Liveness::default()).tag(reference, image, writer).await?)
    }

    /// Points a reference at a manifest that stands in its repository, with the credentials of the
    /// request, and returns whether it pointed elsewhere before.
    ///
    /// # Errors
    ///
    /// When the registry refuses or fails.
    pub async fn point(
        &self,
        request: &BuildRequest,
        reference: &Reference,
        digest: Digest,
        writer: &str,
    ) -> Result<bool, StageError> {
        Ok(self.pusher(request, Liveness::default()).point(reference, digest, writer).await?)
    }

    fn pusher<'a>(&'a self, request: &'a BuildRequest, liveness: Liveness) -> Pusher<'a> {
        Pusher {
            registry: &self.registry,
            cache: &self.cache,
            locations: &self.locations,
            uploads: &self.uploads,
            request,
            liveness,
        }
    }

    /// Returns the base's layers, from the cache or by way of it.
    pub(crate) async fn export_layers(
        &self,
        image: &Assembled,
    ) -> Result<Vec<std::fs::File>, StageError> {
        let Some(base) = &image.base else { return Ok(Vec::new()) };
        let mut files = Vec::new();
        for layer in &base.layers {
            let BaseLayer { digest, size, .. } = *layer;
            let (wanted, fetch) = base::download(&self.registry, &base.repository, digest, size);
            let file = self.cache.get_or_fetch(wanted, fetch).await.map_err(|source| {
                PushError::BaseLayer { reference: base.reference.clone(), digest, source }
            })?;
            files.push(file);
        }
        Ok(files)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;
    use slipway_proto::environment::Catalogue;
    use slipway_proto::submission::Uploaded;
    use slipway_proto::{BuildId, Submission};

    use super::*;
    use crate::config::CacheConfig;

    fn config(directory: &tempfile::TempDir) -> Config {
        let cache_dir = directory.path().join("cache");
        let cache = CacheConfig { cache_dir, ..CacheConfig::default() };
        Config { cache, ..Config::default() }
    }

    pub(crate) fn request(artifact: &[u8]) -> BuildRequest {
        let document = json!({
            "artifact": Digest::of(artifact), "image": "r.example/a:1", "base": "scratch"
        });
        let facts = json!({"kind": "binary", "architecture": "amd64", "interpreter": null});
        let uploaded = Uploaded {
            size_bytes: artifact.len() as u64,
            filename: "tool".into(),
            facts: serde_json::from_value(facts).expect("facts"),
        };
        let project = "team".parse().expect("a name");
        Submission::read(&document)
            .accept(BuildId::fresh(), project, Some(&uploaded), &Catalogue::default())
            .expect("it is accepted")
    }

    #[tokio::test]
    async fn what_was_made_of_a_damaged_artifact_is_neither_returned_nor_remembered() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = config(&directory);
        let pipeline = Pipeline::new(&config).expect("it is made");
        let path = directory.path().join("tool");
        let request = Arc::new(request(b"whole"));
        let observer = crate::local::Lines(|_: &str| {});
        let damaged =
            StageError::permanent(Failure::new(Reason::FetchArtifactFailed, "it is damaged"));
        let assemble = |bytes: &'static [u8], verified: Result<(), StageError>| {
            std::fs::write(&path, bytes).expect("it can be written");
            let artifact = Arc::new(FileSource::open(&path).expect("it opens"));
            let (pipeline, request, observer) = (&pipeline, &request, &observer);
            async move {
                let digest = ArtifactDigest::Said(request.artifact.digest);
                let verified = Verified::by(std::future::ready(verified));
                let input =
                    Input { request, artifact, digest: &digest, verified: &verified, observer };
                pipeline.assemble(&input, &mut Stages::default()).await
            }
        };
        let error = assemble(b"wrong", Err(damaged.clone())).await.expect_err("it is damaged");
        assert_eq!(error, damaged);
        let image = assemble(b"whole", Ok(())).await.expect("it is assembled");
        assert!(!image.layers[0].is_known);
        let again = assemble(b"whole", Ok(())).await.expect("it is assembled");
        assert!(again.layers[0].is_known);
        assert_eq!(again.manifest_digest, image.manifest_digest);
    }

    #[tokio::test]
    async fn a_binary_whose_digest_nobody_said_is_known_again_by_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = config(&directory);
        let pipeline = Pipeline::new(&config).expect("it is made");
        let path = directory.path().join("tool");
        let observer = &crate::local::Lines(|_: &str| {});
        // It names another digest, which is not looked at.
        let request = &Arc::new(request(b"other"));
        let whole = Digest::of(b"whole");
        let mut images = Vec::new();
        // Whoever knows the layer again does not look at its bytes.
        for bytes in [b"whole", b"wrong"] {
            std::fs::write(&path, bytes).expect("it can be written");
            let artifact = Arc::new(FileSource::open(&path).expect("it opens"));
            let digest = &ArtifactDigest::by(async move { Ok(whole) });
            let verified = &Verified::by(std::future::ready(Ok(())));
            let input = Input { request, artifact, digest, verified, observer };
            let image = pipeline.assemble(&input, &mut Stages::default()).await;
            images.push(image.expect("it is assembled"));
        }
        assert_eq!(images[0].layers[0].digest, images[1].layers[0].digest);
        assert!(String::from_utf8_lossy(&images[0].config).contains(&whole.to_string()));
    }

    /// A build that is, or is no more, this worker's.
    struct Held(bool);

    impl Observer for Held {
        fn stage(&self, _stage: Stage) {}
        fn line(&self, _line: &str) {}
        fn liveness(&self) -> Liveness {
            Liveness::default()
        }
        fn holds(&self) -> bool {
            self.0
        }
    }

    #[tokio::test]
    async fn only_the_holder_of_a_build_with_the_right_artifact_passes_the_gate() {
        let damaged = StageError::permanent(Failure::new(Reason::FetchArtifactFailed, "damaged"));
        let pass = |holds: bool, verified: Result<(), StageError>| async move {
            let verified = Verified::by(std::future::ready(verified));
            Gate { verified: &verified, observer: &Held(holds) }.pass().await
        };
        pass(true, Ok(())).await.expect("it may be published");
        let lost = pass(false, Ok(())).await.expect_err("it is another's");
        assert!(matches!(lost, PushError::LeaseLost) && lost.is_transient(), "{lost}");
        let withheld = pass(true, Err(damaged)).await.expect_err("it is damaged");
        assert!(matches!(withheld, PushError::Withheld), "{withheld}");
    }
}
