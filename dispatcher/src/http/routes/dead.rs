// SPDX-License-Identifier: Apache-2.0

//! The dead letters of a project: listing, showing, replaying and dropping them.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, Uri};
use slipway_proto::api::{BuildView, DeadLetterList};

use super::{in_time, json};
use crate::app::App;
use crate::builds::dead;
use crate::http::extract::{InProject, NoParameters, OfLetter, Parameters};
use crate::http::problem::ApiError;

pub(super) async fn list(
    State(app): State<Arc<App>>,
    InProject(project): InProject,
    uri: Uri,
) -> Result<Response, ApiError> {
    let mut parameters = Parameters::read(&uri, &["limit", "cursor"]);
    let limit = parameters.limit();
    let after: u64 = parameters.parsed("cursor", "invalid_cursor").unwrap_or(0);
    parameters.finish()?;
    let mut letters = in_time(&app, app.queue.dead_letters(&project, after, limit + 1)).await?;
    let more = letters.len() > limit;
    letters.truncate(limit);
    let last = letters.last().map(|letter| letter.sequence.to_string());
    Ok(json(&DeadLetterList {
        letters: letters.iter().map(dead::view).collect(),
        next_cursor: last.filter(|_| more),
    }))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    OfLetter(project, name): OfLetter,
    _: NoParameters,
) -> Result<Response, ApiError> {
    let letter = in_time(&app, dead::find(&app.queue, &project, &name)).await?;
    Ok(json(&dead::view(&letter)))
}

pub(super) async fn replay(
    State(app): State<Arc<App>>,
    OfLetter(project, name): OfLetter,
    _: NoParameters,
) -> Result<Response, ApiError> {
    let build = dead::replay(&app.queue, &app.store, &app.announcer, &project, &name).await?;
    let mut response = json(&BuildView::from(&build));
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

pub(super) async fn discard(
    State(app): State<Arc<App>>,
    OfLetter(project, name): OfLetter,
    _: NoParameters,
) -> Result<Response, ApiError> {
    dead::drop_letter(&app.queue, &project, &name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
