// SPDX-License-Identifier: Apache-2.0

//! Builds an image in this process, without a server or a queue: `slipway build --local`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use slipway_artifact::{FileSource, source};
use slipway_proto::outcome::{Image, Transfer};
use slipway_proto::{BuildRequest, Digest, Failure, Reason, Stage};

use crate::export;
use crate::failure::StageError;
use crate::known::Known;
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

/// Opens an artifact and returns it with its digest: what is read from it has that digest as long
/// as it is untouched. Digested is what was not before, or was touched since, by what the file
/// system says of the file; the cache directory holds what it said. Blocks.
///
/// # Errors
///
/// When the file cannot be read, or is not a regular file.
pub fn open_artifact(path: &Path, cache_dir: &Path) -> io::Result<(FileSource, Digest)> {
    let file = FileSource::open(path)?;
    // Without a place to remember it every file is digested. What else needs the place says why
    // there is none.
    let known = Known::open(cache_dir).ok().filter(|_| file.is_settled());
    if let Some(digest) = known.as_ref().and_then(|known| known.file(file.stamp())) {
        return Ok((file, digest));
    }
    let digest = source::digest(&file, &|| Ok(()))?;
    if let Some(known) = known.filter(|_| file.is_untouched().unwrap_or_default()) {
        known.remember_file(file.stamp(), digest);
    }
    Ok((file, digest))
}

/// Builds an image in this process, without a server or a queue. `artifact` had the digest that the
/// request names since it was opened.
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use super::*;

    /// Opens an artifact that was not changed just now.
    fn open(path: &Path, cache_dir: &Path) -> (FileSource, Digest) {
        while !FileSource::open(path).expect("it opens").is_settled() {
            std::thread::yield_now();
        }
        open_artifact(path, cache_dir).expect("it opens")
    }

    #[test]
    fn an_artifact_is_digested_again_only_when_it_was_touched() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, cache_dir) = (directory.path().join("app"), directory.path().join("cache"));
        std::fs::write(&path, "one").expect("it is written");
        let (file, digest) = open(&path, &cache_dir);
        assert_eq!(digest, Digest::of(b"one"));
        // Such a digest can only have been looked up.
        let known = Known::open(&cache_dir).expect("it opens");
        known.remember_file(file.stamp(), Digest::of(b"looked up"));
        assert_eq!(open(&path, &cache_dir).1, Digest::of(b"looked up"));
        let mut writer = File::options().write(true).open(&path).expect("it opens");
        writer.write_all(b"two").expect("it is written");
        assert_eq!(open(&path, &cache_dir).1, Digest::of(b"two"));
    }

    #[test]
    fn what_was_changed_just_now_is_not_remembered() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, cache_dir) = (directory.path().join("app"), directory.path().join("cache"));
        loop {
            std::fs::write(&path, "one").expect("it is written");
            let (file, digest) = open_artifact(&path, &cache_dir).expect("it opens");
            assert_eq!(digest, Digest::of(b"one"));
            if !file.is_settled() {
                let known = Known::open(&cache_dir).expect("it opens");
                assert_eq!(known.file(file.stamp()), None);
                break;
            }
        }
    }

    #[test]
    fn a_directory_is_no_artifact() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(open_artifact(directory.path(), &directory.path().join("cache")).is_err());
    }
}
