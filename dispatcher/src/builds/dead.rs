// SPDX-License-Identifier: Apache-2.0

//! The dead letters of a project, replayed and dropped by the protocol of
//! [`slipway_queue::protocol::replay`].

use slipway_proto::api::DeadLetterView;
use slipway_proto::{Build, ProjectName};
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
    announcer: &Announcer,
    project: &ProjectName,
    name: &str,
) -> Result<Build, DeadError> {
    let letter = find(queue, project, name).await?;
    Ok(protocol::replay(queue, announcer, project, &letter).await?)
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
