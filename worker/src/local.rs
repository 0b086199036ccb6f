// SPDX-License-Identifier: Apache-2.0

//! Builds an image in this process, without a server or a queue: `slipway build --local`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use slipway_artifact::verified_files::Scope;
use slipway_artifact::{FileSource, VerifiedFiles, source};
use slipway_fault::chain;
use slipway_proto::outcome::{Image, Transfer};
use slipway_proto::{BuildRequest, Digest, Failure, Reason, Stage};
use tokio::sync::oneshot;

use crate::export;
pub use crate::export::Target;
use crate::failure::StageError;
use crate::input::{ArtifactDigest, Input, Verified};
use crate::observer::{Lines, Observer};
use crate::pipeline::{Pipeline, PlatformImage, Product, outcome};
use crate::push::PushReport;
use crate::stage_clock::StageClock;

/// The longest delay that a registry can ask a person to wait for.
const MAX_WAIT: Duration = Duration::from_secs(10 * 60);

/// A file of this machine that an image is made from.
#[derive(Clone)]
pub struct Artifact {
    /// Its bytes.
    pub file: Arc<FileSource>,
    /// Their digest, valid as long as the file is untouched.
    pub digest: ArtifactDigest,
}

impl Artifact {
    /// Opens a file, and looks up its digest in the cache directory. A file that was not digested
    /// before, or was touched since, is digested while the image is made. Blocks.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or is not a regular file.
    pub fn open(path: &Path, cache_dir: &Path) -> io::Result<Self> {
        let file = Arc::new(FileSource::open(path)?);
        let verified = file.is_settled().then(|| verified_files(cache_dir));
        let known = verified.as_ref().and_then(|verified| verified.digest(file.identity()));
        if let Some(digest) = known {
            return Ok(Self { file, digest: ArtifactDigest::Known(digest) });
        }
        let read = Arc::clone(&file);
        let digest = ArtifactDigest::by(async move {
            let (found, digest) = oneshot::channel();
            tokio::task::spawn_blocking(move || {
                let digest = find_digest(&read, verified.as_ref(), &found);
                // The build that wanted it may be gone.
                let _gone = found.send(digest);
            });
            let found = digest.await.unwrap_or_else(|gone| Err(io::Error::other(gone)));
            found.map_err(|error| unreadable(&error))
        });
        Ok(Self { file, digest })
    }

    /// Returns whether the file is still what was digested. Checked once all of it was read.
    fn verified(&self) -> Verified {
        let read = self.clone();
        Verified::by(async move {
            read.digest.wait().await?;
            is_untouched(&read.file)
        })
    }
}

/// The digests of the files of this machine that images were made from.
fn verified_files(cache_dir: &Path) -> VerifiedFiles {
    VerifiedFiles::in_directory(cache_dir.join("records/files"), Scope::Machine)
}

/// Digests a file, unless the build that waits for the digest ends, and remembers it.
fn find_digest(
    file: &FileSource,
    verified: Option<&VerifiedFiles>,
    waiting: &oneshot::Sender<io::Result<Digest>>,
) -> io::Result<Digest> {
    let goes_on = || {
        let gone = || io::Error::other("nobody waits for the digest");
        if waiting.is_closed() { Err(gone()) } else { Ok(()) }
    };
    let digest = source::digest(file, &goes_on)?;
    if let Some(verified) = verified.filter(|_| file.is_untouched().unwrap_or_default()) {
        verified.remember(file.identity(), digest);
    }
    Ok(digest)
}

/// Builds an image in this process, without a server or a queue. `artifacts` has the artifact of
/// each platform of the request, in its order; the digests in the request are ignored.
///
/// # Errors
///
/// When a stage fails. Transient failures are retried as often as the request allows.
pub async fn build_local(
    pipeline: &Pipeline,
    request: &BuildRequest,
    artifacts: &[Artifact],
    target: Target,
    log: impl Fn(&str) + Send + Sync,
) -> Result<Image, Failure> {
    let observer = Lines(log);
    let request = Arc::new(request.clone());
    let mut attempt = 1;
    loop {
        let error = match try_local(pipeline, &request, artifacts, &target, &observer).await {
            Ok(image) => return Ok(image),
            Err(error) => error,
        };
        let asked = error.retry_after.unwrap_or_default();
        if !error.transient || attempt >= request.max_attempts || asked > MAX_WAIT {
            return Err(error.failure);
        }
        let delay = asked.max(Duration::from_secs(1 << attempt.min(5)));
        observer.line(&format!("{}; trying again in {} s", error.failure, delay.as_secs()));
        tokio::time::sleep(delay).await;
        attempt += 1;
    }
}

async fn try_local(
    pipeline: &Pipeline,
    request: &Arc<BuildRequest>,
    artifacts: &[Artifact],
    target: &Target,
    observer: &dyn Observer,
) -> Result<Image, StageError> {
    let mut clock = StageClock::default();
    clock.enter(Stage::Fetch, observer);
    let requests: Vec<Arc<BuildRequest>> =
        request.for_each_platform().into_iter().map(Arc::new).collect();
    let verified: Vec<Verified> = artifacts.iter().map(Artifact::verified).collect();
    let parts = requests.iter().zip(artifacts).zip(&verified);
    let inputs: Vec<Input<'_>> = parts
        .map(|((request, artifact), verified)| {
            let (digest, artifact) = (&artifact.digest, Arc::clone(&artifact.file));
            Input { request, artifact, digest, verified, observer, base: None }
        })
        .collect();
    let product = match target {
        Target::Registry => {
            let product = pipeline.publish_all(request, &inputs, &mut clock).await?;
            let document = product.document();
            for reference in &request.references {
                pipeline.tag(request, reference, &document, "local").await?;
                observer.line(&format!("tagged {reference}"));
            }
            product
        }
        Target::OciLayout(path) | Target::DockerArchive(path) => {
            let images = pipeline.assemble_all(&inputs, &mut clock).await?;
            clock.enter(Stage::Push, observer);
            let mut parts = Vec::new();
            let mut base_layers = Vec::new();
            for (image, platform) in images.into_iter().zip(request.platforms()) {
                let of_base = pipeline.export_layers(&image).await?;
                let layers = of_base.len() + image.layers.len();
                let transfers = vec![Transfer::Uploaded; layers];
                let pushed = PushReport { transfers, sent_bytes: 0 };
                parts.push(PlatformImage { platform, image, pushed });
                base_layers.push(of_base);
            }
            let mut product = Product::of(request, parts);
            let written = export::write(target, request, &product, &base_layers);
            let written = written.map_err(|error| {
                let error = chain(&error);
                let message = format!("failed to write {}: {error}", path.display());
                StageError::permanent(Failure::new(Reason::PushImageFailed, message))
            })?;
            // The index is counted by the product.
            let index = product.index.as_ref().map_or(0, |index| index.bytes.len() as u64);
            product.images[0].pushed.sent_bytes = written.saturating_sub(index);
            observer.line(&format!("wrote {}", path.display()));
            product
        }
    };
    Ok(outcome(request, &product, clock.finish()))
}

/// Checks that a file has not changed since it was opened and digested.
fn is_untouched(artifact: &FileSource) -> Result<(), StageError> {
    match artifact.is_untouched() {
        Ok(true) => Ok(()),
        Ok(false) => {
            let message = "the artifact was written to while it was built: build it again";
            Err(StageError::permanent(Failure::new(Reason::FetchArtifactFailed, message)))
        }
        Err(error) => Err(unreadable(&error)),
    }
}

fn unreadable(error: &io::Error) -> StageError {
    let message = format!("the artifact can no longer be read: {error}");
    StageError::permanent(Failure::new(Reason::FetchArtifactFailed, message))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use super::*;

    /// Opens an artifact that was not changed very recently.
    fn open_settled(path: &Path, cache_dir: &Path) -> Artifact {
        while !FileSource::open(path).expect("it opens").is_settled() {
            std::thread::yield_now();
        }
        Artifact::open(path, cache_dir).expect("it opens")
    }

    async fn digest(artifact: &Artifact) -> Digest {
        artifact.digest.wait().await.expect("it is digested")
    }

    #[tokio::test]
    async fn an_artifact_is_digested_again_only_when_it_was_touched() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, cache_dir) = (directory.path().join("app"), directory.path().join("cache"));
        std::fs::write(&path, "one").expect("it is written");
        let artifact = open_settled(&path, &cache_dir);
        assert_eq!(digest(&artifact).await, Digest::of(b"one"));
        // Such a digest can only come from a record.
        let verified = verified_files(&cache_dir);
        verified.remember(artifact.file.identity(), Digest::of(b"looked up"));
        let looked_up = open_settled(&path, &cache_dir).digest.now();
        assert_eq!(looked_up, Some(Digest::of(b"looked up")));
        let mut writer = File::options().write(true).open(&path).expect("it opens");
        writer.write_all(b"two").expect("it is written");
        assert_eq!(digest(&open_settled(&path, &cache_dir)).await, Digest::of(b"two"));
    }

    #[tokio::test]
    async fn what_was_changed_just_now_is_not_remembered() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, cache_dir) = (directory.path().join("app"), directory.path().join("cache"));
        loop {
            std::fs::write(&path, "one").expect("it is written");
            let artifact = Artifact::open(&path, &cache_dir).expect("it opens");
            assert_eq!(digest(&artifact).await, Digest::of(b"one"));
            if !artifact.file.is_settled() {
                assert_eq!(verified_files(&cache_dir).digest(artifact.file.identity()), None);
                break;
            }
        }
    }

    #[test]
    fn a_directory_is_no_artifact() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(Artifact::open(directory.path(), &directory.path().join("cache")).is_err());
    }

    #[test]
    fn a_digest_that_nobody_waits_for_is_not_found_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("app");
        std::fs::write(&path, "one").expect("it is written");
        let file = FileSource::open(&path).expect("it opens");
        let (waiting, digest) = oneshot::channel();
        assert_eq!(find_digest(&file, None, &waiting).expect("it reads"), Digest::of(b"one"));
        drop(digest);
        assert!(find_digest(&file, None, &waiting).is_err());
    }
}
