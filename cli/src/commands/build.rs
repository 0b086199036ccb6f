// SPDX-License-Identifier: Apache-2.0

//! Uploads an artifact and submits its build, or submits a finished one again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slipway_proto::api::BuildView;
use slipway_proto::{BuildId, Digest, Platform, Submission};

use super::id_of;
use crate::args::{RequestArgs, RetryArgs};
use crate::exit::Error;
use crate::input::ArtifactFile;
use crate::output::Output;
use crate::pack::Uploadable;
use crate::platforms;
use crate::progress::UploadProgress;
use slipway_artifact::digest_file;
use slipway_client::{Client, ClientError, Progress, Upload};

/// Uploads the artifact if the project does not have it, and submits the build.
pub(super) async fn submit(
    client: &Client,
    (file, further): (&Path, &[PathBuf]),
    request: &RequestArgs,
    output: &Output,
) -> Result<BuildView, Error> {
    // Nothing of this depends on the digest.
    let early = Submission::read(&request.document(Digest::of(b""), file));
    if !early.mistakes().is_empty() {
        return Err(Error::Mistakes(early.mistakes().to_vec()));
    }
    let files = platforms::find(further, &request.platform_artifacts)?;
    let artifact = ArtifactFile::open(file, request.filename.as_deref()).await?;
    let (path, filename) = (artifact.path(), request.filename(file));
    let digest = upload(client, path, &filename, output).await?;
    let key = key(request.idempotency_key.as_deref());
    let mut document = request.document(digest, file);
    platforms::put(&mut document, &upload_further(client, &files, output).await?);
    let build = match client.submit(&document, &key).await {
        Err(error) if is_artifact_gone(&error) => {
            output.note(&format!("{filename} was removed from the server meanwhile"));
            upload(client, path, &filename, output).await?;
            upload_further(client, &files, output).await?;
            client.submit(&document, &key).await?
        }
        submitted => submitted?,
    };
    note_accepted(&build, output);
    Ok(build)
}

/// Uploads the executables of further platforms, and returns their digests.
async fn upload_further(
    client: &Client,
    files: &platforms::Files,
    output: &Output,
) -> Result<BTreeMap<Platform, Digest>, ClientError> {
    let mut digests = BTreeMap::new();
    for (platform, path) in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        digests.insert(*platform, upload(client, path, &name, output).await?);
    }
    Ok(digests)
}

/// Returns whether the server removed the artifact between upload and submission, because nobody
/// needed it.
fn is_artifact_gone(error: &ClientError) -> bool {
    let ClientError::Refused { problem, .. } = error else { return false };
    problem.errors.iter().any(|mistake| mistake.code == "artifact_not_found")
}

/// Uploads an artifact if the project does not have it, and returns its digest.
pub(super) async fn upload(
    client: &Client,
    file: &Path,
    filename: &str,
    output: &Output,
) -> Result<Digest, ClientError> {
    let packed = pack(file).await?;
    let file = packed.path();
    let (digest, size_bytes) = digest(file).await?;
    let progress: Arc<dyn Progress> =
        Arc::new(UploadProgress::new(filename, size_bytes, output.notes_on_terminal()));
    let upload = Upload { path: file, filename, digest, size_bytes };
    if client.upload(upload, &progress).await?.is_none() {
        output.note(&format!("{filename} is already there ({digest})"));
    }
    Ok(digest)
}

/// Submits the request of a finished build again.
pub(super) async fn retry(
    client: &Client,
    args: &RetryArgs,
    output: &Output,
) -> Result<BuildView, ClientError> {
    let id = id_of(client, &args.id).await?;
    let build = client.retry(id, &key(args.idempotency_key.as_deref())).await?;
    note_accepted(&build, output);
    Ok(build)
}

/// Returns the key to submit under, a fresh one unless it was given. It makes the submission one
/// build however often it is sent.
fn key(named: Option<&str>) -> String {
    named.map_or_else(|| BuildId::fresh().to_string(), str::to_owned)
}

fn note_accepted(build: &BuildView, output: &Output) {
    let (id, environment) = (build.id, &build.request.recipe.environment);
    output.note(&format!("build {id} accepted: {} on {environment}", build.target));
    for note in build.request.notes.iter().filter(|note| note.warning) {
        output.note(&note.to_string());
    }
}

/// Packs a directory.
async fn pack(path: &Path) -> Result<Uploadable, ClientError> {
    let read = path.to_owned();
    let packed = tokio::task::spawn_blocking(move || Uploadable::of(&read)).await;
    packed
        .unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
        .map_err(|source| ClientError::ReadArtifact { path: path.to_owned(), source })
}

async fn digest(file: &Path) -> Result<(Digest, u64), ClientError> {
    let path = file.to_owned();
    let digested = tokio::task::spawn_blocking(move || digest_file(&path)).await;
    digested
        .unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
        .map_err(|source| ClientError::ReadArtifact { path: file.to_owned(), source })
}
