// SPDX-License-Identifier: Apache-2.0

//! Environments, workers and the queue; and draining a worker.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use slipway_fault::chain;
use slipway_proto::api::{EnvironmentView, WorkerView};
use slipway_queue::control::ControlError;

use super::{in_time, json, unavailable};
use crate::app::App;
use crate::http::extract::{NoParameters, OfWorker};
use crate::http::problem::{ApiError, Code};

pub(super) async fn environments(
    State(app): State<Arc<App>>,
    _: NoParameters,
) -> Result<Response, ApiError> {
    let views: Vec<EnvironmentView> =
        app.catalogue.environments().iter().map(EnvironmentView::from).collect();
    Ok(json(&views))
}

pub(super) async fn workers(
    State(app): State<Arc<App>>,
    _: NoParameters,
) -> Result<Response, ApiError> {
    Ok(json(&in_time(&app, app.queue.workers()).await?))
}

pub(super) async fn queue(
    State(app): State<Arc<App>>,
    _: NoParameters,
) -> Result<Response, ApiError> {
    Ok(json(&in_time(&app, app.queue.depth()).await?))
}

pub(super) async fn drain(
    State(app): State<Arc<App>>,
    OfWorker(worker): OfWorker,
    _: NoParameters,
) -> Result<Response, ApiError> {
    // First, because a worker with nothing to finish is gone a moment after it answered.
    let present = in_time(&app, app.queue.worker(&worker)).await?.map(|(view, _age)| view);
    match (app.queue.drain_worker(&worker).await, present) {
        (Ok(()), Some(view)) => {
            let mut response = json(&WorkerView { draining: true, ..view });
            *response.status_mut() = StatusCode::ACCEPTED;
            Ok(response)
        }
        (Ok(()), None) => Err(ApiError::new(
            Code::WorkerSilent,
            format!("worker {worker} drains, but has not announced itself yet: try again"),
        )),
        (Err(ControlError::NoSuchWorker), None) => Err(ApiError::new(
            Code::WorkerNotFound,
            format!("no worker {worker} is connected: /v1/workers lists the connected ones"),
        )),
        (Err(error), Some(_)) => {
            tracing::warn!(%worker, error = chain(&error), "a worker does not answer");
            Err(ApiError::new(
                Code::WorkerSilent,
                format!(
                    "worker {worker} does not answer: it may be stopped or gone, and its builds \
                    go to other workers when their leases end"
                ),
            ))
        }
        (Err(ControlError::Unavailable(_)), None) => Err(unavailable()),
    }
}
