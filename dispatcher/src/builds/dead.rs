// SPDX-License-Identifier: Apache-2.0

//! The dead letters of a project, replayed and dropped by the protocol of
//! [`slipway_queue::protocol::replay`].

use std::sync::Arc;

use slipway_proto::api::DeadLetterView;
use slipway_proto::{Build, ProjectName};
use slipway_queue::dead::DeadLetter;
use slipway_queue::protocol::replay::{self as protocol, ReplayError};
use slipway_queue::read::ReadError;

use crate::app::App;

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
    app: &Arc<App>,
    project: &ProjectName,
    name: &str,
) -> Result<Build, DeadError> {
    let letter = find(app, project, name).await?;
    Ok(protocol::replay(&app.queue, &app.announcer, project, &letter).await?)
}

/// Drops a dead letter. Its build remains failed.
pub(crate) async fn drop_letter(
    app: &App,
    project: &ProjectName,
    name: &str,
) -> Result<(), DeadError> {
    let letter = find(app, project, name).await?;
    Ok(protocol::drop_letter(&app.queue, project, &letter).await?)
}

/// Finds the letter of a build.
pub(crate) async fn find(
    app: &App,
    project: &ProjectName,
    name: &str,
) -> Result<DeadLetter, DeadError> {
    app.queue.dead_letter(project, name).await?.ok_or(DeadError::NotFound)
}
