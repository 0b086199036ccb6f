// SPDX-License-Identifier: Apache-2.0

//! What there is to build with: environments, workers, queue.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::Uri;
use slipway_proto::api::EnvironmentView;

use super::json;
use crate::app::App;
use crate::extract::Parameters;
use crate::problem::{ApiError, Code};

/// How long NATS may take to answer.
const DEADLINE: Duration = Duration::from_secs(5);

pub(super) async fn environments(
    State(app): State<Arc<App>>,
    uri: Uri,
) -> Result<Response, ApiError> {
    Parameters::read(&uri, &[]).finish()?;
    let views: Vec<EnvironmentView> =
        app.catalogue.environments().iter().map(EnvironmentView::from).collect();
    Ok(json(&views))
}

pub(super) async fn workers(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, ApiError> {
    Parameters::read(&uri, &[]).finish()?;
    Ok(json(&in_time(&app, app.queue.workers()).await?))
}

pub(super) async fn queue(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, ApiError> {
    Parameters::read(&uri, &[]).finish()?;
    Ok(json(&in_time(&app, app.queue.depth()).await?))
}

async fn in_time<T, E>(app: &App, answer: impl Future<Output = Result<T, E>>) -> Result<T, ApiError>
where
    ApiError: From<E>,
{
    let unavailable = || ApiError::new(Code::QueueUnavailable, "NATS does not answer: try again");
    if !app.queue.is_connected() {
        return Err(unavailable());
    }
    let answer = tokio::time::timeout(DEADLINE, answer).await;
    Ok(answer.map_err(|_elapsed| unavailable())??)
}
