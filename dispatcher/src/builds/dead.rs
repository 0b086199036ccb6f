// SPDX-License-Identifier: Apache-2.0

//! The dead letters of a project, replayed and dropped by the protocol of
//! [`slipway_queue::protocol::replay`].

use slipway_artifact::{ArtifactStore, StoreError};
use slipway_proto::api::DeadLetterView;
use slipway_proto::{Build, BuildRequest, Digest, ProjectName};
use slipway_queue::Queue;
use slipway_queue::dead::DeadLetter;
use slipway_queue::protocol::replay::{self as protocol, ReplayError};
use slipway_queue::read::ReadError;

use super::announce::Announcer;

/// Why a dead letter is not replayed or dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeadError {
    /// There is none.
    #[error("there is no such dead letter")]
    NotFound,
    /// The letters could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Its artifact is no longer in the store.
    #[error("the artifact {0} of the build is gone")]
    ArtifactGone(Digest),
    /// The artifact store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It could not be replayed or dropped.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

/// Returns a letter in the form for clients.
pub(crate) fn view(letter: &DeadLetter) -> DeadLetterView {
    DeadLetterView {
        build: letter.build.clone(),
        project: letter.project.clone(),
        pool: letter.pool.clone(),
        reason: letter.reason.clone(),
        died_at: letter.died_at,
        epoch: letter.epoch,
        request: letter.request(),
    }
}

/// Tries the build of a dead letter again.
pub(crate) async fn replay(
    queue: &Queue,
    store: &ArtifactStore,
    announcer: &Announcer,
    project: &ProjectName,
    name: &str,
) -> Result<Build, DeadError> {
    let letter = find(queue, project, name).await?;
    if let Some(request) = request(queue, project, &letter).await {
        for artifact in request.artifacts() {
            if store.use_record(project, artifact.digest).await?.is_none() {
                return Err(DeadError::ArtifactGone(artifact.digest));
            }
        }
    }
    Ok(protocol::replay(queue, announcer, project, &letter).await?)
}

/// Returns the request that a replay repeats, of the letter or, if that is corrupt, of the record.
async fn request(
    queue: &Queue,
    project: &ProjectName,
    letter: &DeadLetter,
) -> Option<BuildRequest> {
    if let Some(request) = letter.request() {
        return Some(request);
    }
    let record = queue.record(project, letter.build.parse().ok()?).await.ok()??;
    Some(record.build.request)
}

/// Drops a dead letter. Its build remains failed.
pub(crate) async fn drop_letter(
    queue: &Queue,
    project: &ProjectName,
    name: &str,
) -> Result<(), DeadError> {
    let letter = find(queue, project, name).await?;
    Ok(protocol::drop_letter(queue, project, &letter).await?)
}

/// Finds the letter of a build.
pub(crate) async fn find(
    queue: &Queue,
    project: &ProjectName,
    name: &str,
) -> Result<DeadLetter, DeadError> {
    queue.dead_letter(project, name).await?.ok_or(DeadError::NotFound)
}
