// SPDX-License-Identifier: Apache-2.0

//! The way from an artifact to a published image, without the queue: resolve, assemble, push, tag.
//!
//! Used by attempts of the queue and by `slipway build --local` alike, so that both make the same
//! image.

mod platforms;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use slipway_proto::outcome::Transfer;
use slipway_proto::request::Base;
use slipway_proto::{
    ArtifactKind, BuildRequest, Digest, Failure, Platform, Reason, Reference, Stage, units,
};
use tokio::sync::watch;

use crate::assemble::base::BaseLayer;
use crate::assemble::layer::{Layer, LayerContext};
use crate::assemble::manifest::Document;
use crate::assemble::records::LayerRecords;
use crate::assemble::{self, Assembled, Progress};
use crate::base::{self, BaseError, Mirror, ResolvedBase, WantedPlatform};
use crate::cache::Cache;
use crate::config::Config;
use crate::failure::StageError;
use crate::input::{ArtifactDigest, Input};
use crate::liveness::Liveness;
use crate::push::locations::BlobLocations;
use crate::push::{Mounts, PartialImage, PublishGate, PushError, PushReport, Pusher, Uploads};
use crate::stage_clock::StageClock;
use slipway_registry::{Registry, RegistryError};

pub use platforms::{PlatformImage, Product};
pub use report::outcome;

/// Why a pipeline cannot be set up on this machine.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The cache's directory cannot be used.
    #[error("failed to use the cache directory {path}")]
    Cache {
        /// The cache directory.
        path: String,
        /// What the file system reports.
        #[source]
        source: std::io::Error,
    },
    /// The registry client cannot be made.
    #[error("failed to set up the registry client: {0}")]
    Registry(RegistryError),
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

/// Hands each layer to the push as soon as it is made.
struct LayerSender {
    image: watch::Sender<PartialImage>,
    digest: ArtifactDigest,
}

impl Progress for LayerSender {
    fn made(&self, layer: &Arc<Layer>) {
        self.image.send_modify(|image| image.layers.push(Arc::clone(layer)));
    }

    fn leaves_a_processor(&self) {
        self.digest.begin();
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
            cache: Cache::open(&config.cache.cache_dir, config.cache.cache_bytes)
                .map_err(unusable)?,
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

    /// Makes an image and pushes it by digest. Blobs are sent as soon as they are ready. The manifest
    /// follows when the image is complete, the observer still holds its build, and the artifact is
    /// verified. No tag points at the image yet. A damaged artifact is reported as such, whatever
    /// other failures its bytes cause.
    ///
    /// # Errors
    ///
    /// When a stage fails.
    pub async fn publish(
        &self,
        input: &Input<'_>,
        clock: &mut StageClock,
    ) -> Result<(Arc<Assembled>, PushReport), StageError> {
        let Input { request, verified, observer, .. } = *input;
        let partial = watch::Sender::new(PartialImage::default());
        let receiver = partial.subscribe();
        let pusher = self.pusher(request, observer.liveness());
        let make = async {
            let image = self.assemble_into(&partial, input, clock).await?;
            clock.enter(Stage::Push, observer);
            partial.send_modify(|partial| partial.image = Some(Arc::clone(&image)));
            // Not earlier: while blobs are sent, a processor is free for the check.
            Self::confirm(&image, input).await?;
            Ok::<_, StageError>(image)
        };
        // A failure to make the image ends the push, and is the one that is returned.
        let gate = PublishGate { verified, observer };
        let push = async { Ok(pusher.push(&receiver, gate).await) };
        let (image, pushed) = tokio::try_join!(make, push)?;
        let pushed = pushed?;
        let count = |transfer| pushed.transfers.iter().filter(|t| **t == transfer).count();
        observer.line(&format!(
            "pushed {}: {} mounted, {} found, {} uploaded, {} sent",
            image.manifest_digest,
            units::count(count(Transfer::Mounted), "layer"),
            count(Transfer::Found),
            count(Transfer::Uploaded),
            units::size(pushed.sent_bytes)
        ));
        Ok((image, pushed))
    }

    /// Makes an image without pushing it.
    ///
    /// # Errors
    ///
    /// When a stage fails, or the artifact has another digest than the request names.
    pub async fn assemble(
        &self,
        input: &Input<'_>,
        clock: &mut StageClock,
    ) -> Result<Arc<Assembled>, StageError> {
        let unwatched = watch::Sender::new(PartialImage::default());
        let image = self.assemble_into(&unwatched, input, clock).await?;
        Self::confirm(&image, input).await?;
        Ok(image)
    }

    async fn assemble_into(
        &self,
        partial: &watch::Sender<PartialImage>,
        input: &Input<'_>,
        clock: &mut StageClock,
    ) -> Result<Arc<Assembled>, StageError> {
        let assembled = self.assemble_unverified(partial, input, clock).await;
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
                units::size(layer.size),
                layer.digest
            ));
        }
        Ok(Arc::new(assembled))
    }

    /// Resolves the base and reads the artifact at the same time, because neither needs the other.
    async fn assemble_unverified(
        &self,
        partial: &watch::Sender<PartialImage>,
        input: &Input<'_>,
        clock: &mut StageClock,
    ) -> Result<Assembled, StageError> {
        let Input { request, digest, observer, .. } = *input;
        clock.enter(Stage::Resolve, observer);
        for note in &request.notes {
            observer.line(&note.to_string());
        }
        let context = LayerContext {
            scratch: self.scratch.clone(),
            records: self.layer_records.clone(),
            epoch: self.epoch,
            liveness: observer.liveness(),
        };
        let digest_now = match request.artifact.kind {
            // A binary has no list of entries. Only its digest can find its layer's record before the
            // layer is compressed.
            ArtifactKind::Binary => Some(digest.wait().await?),
            _ => digest.now(),
        };
        let parts = tokio::task::spawn_blocking({
            let (request, artifact) = (Arc::clone(request), Arc::clone(&input.artifact));
            let sender = LayerSender { image: partial.clone(), digest: digest.clone() };
            move || assemble::make_parts(&request, &artifact, digest_now, &context, &sender)
        });
        let base = self.resolve(input).await?;
        let base_image = base.as_ref().map(|base| Arc::clone(&base.image));
        partial.send_modify(|image| image.base = base);
        clock.enter(Stage::Assemble, observer);
        let parts = parts.await.map_err(|error| {
            // The thread panicked. That is a bug, perhaps one that only this artifact triggers.
            let message = format!("the assembly broke down: {error}; please report it");
            StageError::permanent(Failure::new(Reason::AssembleFailed, message))
        })??;
        Ok(assemble::put_together(request, digest.wait().await?, base_image, parts, self.epoch)?)
    }

    async fn resolve(&self, input: &Input<'_>) -> Result<Option<Arc<ResolvedBase>>, StageError> {
        let Input { request, observer, .. } = *input;
        let Base::Image(reference) = &request.recipe.base else {
            observer.line("starting from nothing (scratch)");
            return Ok(None);
        };
        let base = match &input.base {
            Some(base) => Arc::clone(base),
            None => Arc::new(self.resolve_base(request, reference, None).await?),
        };
        let location = &base.repository.reference;
        let by_way =
            if location == reference { String::new() } else { format!(" by way of {location}") };
        observer.line(&format!("resolved base image {reference}{by_way} to {}", base.image.digest));
        if let Some(line) = other_variant(request, base.image.platform()) {
            observer.line(&line);
        }
        Ok(Some(base))
    }

    async fn resolve_base(
        &self,
        request: &BuildRequest,
        reference: &Reference,
        named: Option<Digest>,
    ) -> Result<ResolvedBase, BaseError> {
        let (registry, cache, mirrors) = (&self.registry, &self.cache, &self.mirrors);
        base::resolve(registry, cache, mirrors, reference, WantedPlatform::of(request), named).await
    }

    /// Waits until the artifact of an image is verified, and then remembers its layers. Nothing is
    /// published or remembered before.
    async fn confirm(image: &Assembled, input: &Input<'_>) -> Result<(), StageError> {
        input.verified.wait().await?;
        let digest = input.digest.wait().await?;
        for layer in &image.layers {
            layer.remember(digest);
        }
        Ok(())
    }

    /// Points one reference of the request at a pushed manifest or index. `writer` names the attempt in the
    /// registry's log.
    ///
    /// # Errors
    ///
    /// When the registry refuses or fails.
    pub async fn tag(
        &self,
        request: &BuildRequest,
        reference: &Reference,
        document: &Document,
        writer: &str,
    ) -> Result<(), StageError> {
        Ok(self.pusher(request, Liveness::default()).tag(reference, document, writer).await?)
    }

    /// Points a reference at a manifest of its repository, with the credentials of the request, and
    /// returns whether it pointed elsewhere before.
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
            mounts: Mounts::default(),
            request,
            liveness,
        }
    }

    /// Opens the base's layers in the cache, after downloading those that are missing.
    pub(crate) async fn export_layers(
        &self,
        image: &Assembled,
    ) -> Result<Vec<std::fs::File>, StageError> {
        let Some(base) = &image.base else { return Ok(Vec::new()) };
        let repository = base::repository(&base.reference, &self.mirrors);
        let mut files = Vec::new();
        for layer in &base.layers {
            let BaseLayer { digest, size, .. } = *layer;
            let (wanted, fetch) = base::download(&self.registry, &repository, digest, size);
            let file = self.cache.get_or_fetch(wanted, fetch).await.map_err(|source| {
                PushError::BaseLayer { reference: base.reference.clone(), digest, source }
            })?;
            files.push(file);
        }
        Ok(files)
    }
}

/// Says that an executable and its base are for different variants of a processor.
fn other_variant(request: &BuildRequest, base: Option<Platform>) -> Option<String> {
    let (own, base) = (request.platform, base?);
    let differs = own.generation() != base.generation();
    (request.artifact.kind == ArtifactKind::Binary && differs).then(|| {
        format!(
            "warning: the executable is for {own} and its base is for {base}: the image runs on \
            what runs both"
        )
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;
    use slipway_artifact::FileSource;
    use slipway_proto::environment::Catalogue;
    use slipway_proto::submission::Uploaded;
    use slipway_proto::{BuildId, Submission};

    use super::*;
    use crate::config::CacheConfig;
    use crate::input::Verified;

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

    #[test]
    fn an_executable_on_a_base_for_another_variant_is_told() {
        let mut request = request(b"tool");
        let base = |text: &str| Some(text.parse().expect("a platform"));
        request.platform = "linux/arm/v6".parse().expect("a platform");
        let line = other_variant(&request, base("linux/arm/v7")).expect("it differs");
        assert!(line.contains("for linux/arm/v6") && line.contains("for linux/arm/v7"), "{line}");
        for same in [base("linux/arm/v6"), None] {
            assert_eq!(other_variant(&request, same), None);
        }
        request.platform = "linux/arm".parse().expect("a platform");
        assert_eq!(other_variant(&request, base("linux/arm/v7")), None);
        request.artifact.kind = ArtifactKind::Jar;
        assert_eq!(other_variant(&request, base("linux/arm/v5")), None);
    }

    #[tokio::test]
    async fn what_was_made_of_a_damaged_artifact_is_neither_returned_nor_remembered() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = config(&directory);
        let pipeline = Pipeline::new(&config).expect("it is made");
        let path = directory.path().join("tool");
        let request = Arc::new(request(b"whole"));
        let observer = crate::observer::Lines(|_: &str| {});
        let damaged =
            StageError::permanent(Failure::new(Reason::FetchArtifactFailed, "it is damaged"));
        let assemble = |bytes: &'static [u8], verified: Result<(), StageError>| {
            std::fs::write(&path, bytes).expect("it can be written");
            let artifact = Arc::new(FileSource::open(&path).expect("it opens"));
            let (pipeline, request, observer) = (&pipeline, &request, &observer);
            async move {
                let digest = ArtifactDigest::Known(request.artifact.digest);
                let verified = Verified::by(std::future::ready(verified));
                let input = Input {
                    request,
                    artifact,
                    digest: &digest,
                    verified: &verified,
                    observer,
                    base: None,
                };
                pipeline.assemble(&input, &mut StageClock::default()).await
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
    async fn a_binary_is_recognised_by_a_digest_that_is_computed_during_the_build() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = config(&directory);
        let pipeline = Pipeline::new(&config).expect("it is made");
        let path = directory.path().join("tool");
        let observer = &crate::observer::Lines(|_: &str| {});
        // It names another digest, which is ignored.
        let request = &Arc::new(request(b"other"));
        let whole = Digest::of(b"whole");
        let mut images = Vec::new();
        // Whoever knows the layer again does not look at its bytes.
        for bytes in [b"whole", b"wrong"] {
            std::fs::write(&path, bytes).expect("it can be written");
            let artifact = Arc::new(FileSource::open(&path).expect("it opens"));
            let digest = &ArtifactDigest::by(async move { Ok(whole) });
            let verified = &Verified::by(std::future::ready(Ok(())));
            let input = Input { request, artifact, digest, verified, observer, base: None };
            let image = pipeline.assemble(&input, &mut StageClock::default()).await;
            images.push(image.expect("it is assembled"));
        }
        assert_eq!(images[0].layers[0].digest, images[1].layers[0].digest);
        assert!(String::from_utf8_lossy(&images[0].config).contains(&whole.to_string()));
    }
}
