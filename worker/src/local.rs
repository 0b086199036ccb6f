// SPDX-License-Identifier: Apache-2.0

//! Builds an image in this process, without a server or a queue: `slipway build --local`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use slipway_artifact::FileSource;
use slipway_proto::outcome::{Image, Transfer};
use slipway_proto::{BuildRequest, Failure, Reason, Stage};

use crate::export;
use crate::failure::StageError;
use crate::pipeline::{Input, Observer, Pipeline, Stages, Verified, outcome};
use crate::pulse::Pulse;
use crate::push::Pushed;

/// Where a local build puts its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The registries that the request names.
    Registry,
    /// An OCI image layout in a directory.
    OciLayout(PathBuf),
    /// A file that `docker load` and `podman load` read.
    DockerArchive(PathBuf),
}

/// Passes the lines on to a function, and shows nothing else.
pub(crate) struct Lines<F>(pub(crate) F);

impl<F: Fn(&str) + Send + Sync> Observer for Lines<F> {
    fn stage(&self, _stage: Stage) {}

    fn line(&self, line: &str) {
        (self.0)(line);
    }

    fn pulse(&self) -> Pulse {
        Pulse::default()
    }
}

/// Builds an image in this process, without a server or a queue. `artifact` was digested since it
/// was opened, with the digest that the request names.
///
/// # Errors
///
/// When a stage fails. Transient failures are tried again as often as the request allows.
pub async fn build_local(
    pipeline: &Pipeline,
    request: &BuildRequest,
    artifact: &Arc<FileSource>,
    target: Target,
    log: impl Fn(&str) + Send + Sync,
) -> Result<Image, Failure> {
    let observer = Lines(log);
    let request = Arc::new(request.clone());
    let mut attempt = 1;
    loop {
        let error = match try_local(pipeline, &request, artifact, &target, &observer).await {
            Ok(image) => return Ok(image),
            Err(error) => error,
        };
        if !error.transient || attempt >= request.max_attempts {
            return Err(error.failure);
        }
        let delay = error.retry_after.unwrap_or(Duration::from_secs(1 << attempt.min(5)));
        observer.line(&format!("{}; trying again in {} s", error.failure, delay.as_secs()));
        tokio::time::sleep(delay).await;
        attempt += 1;
    }
}

async fn try_local(
    pipeline: &Pipeline,
    request: &Arc<BuildRequest>,
    artifact: &Arc<FileSource>,
    target: &Target,
    observer: &dyn Observer,
) -> Result<Image, StageError> {
    let mut stages = Stages::default();
    stages.enter(Stage::Fetch, observer);
    // Looked at once all of it was read.
    let read = Arc::clone(artifact);
    let verified = Verified::by(async move { is_untouched(&read) });
    let input = Input { request, artifact: Arc::clone(artifact), verified: &verified, observer };
    let (image, pushed) = match target {
        Target::Registry => {
            let (image, pushed) = pipeline.publish(&input, &mut stages).await?;
            for reference in &request.references {
                pipeline.tag(request, reference, &image, "local").await?;
                observer.line(&format!("tagged {reference}"));
            }
            (image, pushed)
        }
        Target::OciLayout(path) | Target::DockerArchive(path) => {
            let image = pipeline.assemble(&input, &mut stages).await?;
            stages.enter(Stage::Push, observer);
            let base_layers = pipeline.export_layers(&image).await?;
            let written = export::write(target, request, &image, &base_layers);
            let sent_bytes = written.map_err(|error| {
                let message = format!("failed to write {}: {error}", path.display());
                StageError::permanent(Failure::new(Reason::PushImageFailed, message))
            })?;
            observer.line(&format!("wrote {}", path.display()));
            let layers = base_layers.len() + image.layers.len();
            (image, Pushed { transfers: vec![Transfer::Uploaded; layers], sent_bytes })
        }
    };
    Ok(outcome(request, &image, &pushed, stages.finish()))
}

/// Says whether a file still is what it was when it was opened and digested.
fn is_untouched(artifact: &FileSource) -> Result<(), StageError> {
    let message = match artifact.is_untouched() {
        Ok(true) => return Ok(()),
        Ok(false) => "the artifact was written to while it was built: build it again".to_owned(),
        Err(error) => format!("the artifact cannot be read any more: {error}"),
    };
    Err(StageError::permanent(Failure::new(Reason::FetchArtifactFailed, message)))
}
