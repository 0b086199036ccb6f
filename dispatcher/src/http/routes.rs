// SPDX-License-Identifier: Apache-2.0

//! The HTTP API: one table of routes, from which the router is made and with which the OpenAPI
//! description is compared in tests.

mod artifacts;
mod batch;
mod builds;
mod dead;
mod events;
mod fleet;
mod logs;
mod service;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, head, post, put};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Uri};
use serde::Serialize;
use tokio::time::Instant;

use crate::app::App;
use crate::http::problem::{ApiError, Code};

/// How long NATS may take to answer.
const NATS_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

type Route = (Method, &'static str, MethodRouter<Arc<App>>);

/// All routes.
fn table() -> Vec<Route> {
    let artifacts = "/v1/projects/{project}/artifacts";
    let artifact = "/v1/projects/{project}/artifacts/{digest}";
    let builds = "/v1/projects/{project}/builds";
    let letter = "/v1/projects/{project}/dead/{build}";
    let build = "/v1/projects/{project}/builds/{build}";
    vec![
        (Method::PUT, artifacts, put(artifacts::upload)),
        (Method::GET, artifact, get(artifacts::show)),
        (Method::HEAD, artifact, head(artifacts::show)),
        (Method::DELETE, artifact, delete(artifacts::discard)),
        (Method::POST, builds, post(builds::submit)),
        (Method::GET, builds, get(builds::list)),
        (Method::POST, "/v1/projects/{project}/builds:batch", post(batch::submit)),
        (Method::POST, "/v1/projects/{project}/builds:cancel", post(builds::call_off_waiting)),
        (Method::GET, build, get(builds::show)),
        (Method::POST, "/v1/projects/{project}/builds/{build}/cancel", post(builds::call_off)),
        (Method::POST, "/v1/projects/{project}/builds/{build}/retry", post(builds::repeat)),
        (Method::GET, "/v1/projects/{project}/builds/{build}/logs", get(logs::read)),
        (Method::GET, "/v1/projects/{project}/dead", get(dead::list)),
        (Method::GET, letter, get(dead::show)),
        (Method::DELETE, letter, delete(dead::discard)),
        (Method::POST, "/v1/projects/{project}/dead/{build}/replay", post(dead::replay)),
        (Method::GET, "/v1/projects/{project}/events", get(events::follow)),
        (Method::GET, "/v1/environments", get(fleet::environments)),
        (Method::GET, "/v1/workers", get(fleet::workers)),
        (Method::POST, "/v1/workers/{worker}/drain", post(fleet::drain)),
        (Method::GET, "/v1/queue", get(fleet::queue)),
        (Method::POST, "/v1/reconcile", post(service::reconcile)),
        (Method::POST, "/v1/gc", post(service::collect)),
        (Method::GET, "/healthz", get(service::alive)),
        (Method::GET, "/readyz", get(service::ready)),
        (Method::GET, "/metrics", get(service::metrics)),
        (Method::GET, "/openapi.json", get(service::openapi)),
        (Method::GET, "/", get(service::index)),
    ]
}

/// Makes the router.
pub(crate) fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for (_, path, handler) in table() {
        router = router.route(path, handler);
    }
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn(log))
        .with_state(app)
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(Code::NotFound, format!("there is nothing at {}: see /openapi.json", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        Code::MethodNotAllowed,
        format!("{} does not support {method}: see the Allow header", uri.path()),
    )
}

/// Logs each request with its path, but not its query, which may hold a secret.
async fn log(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let start = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    tracing::debug!(%method, path, status, elapsed = ?start.elapsed(), "answered");
    response
}

/// Answers with a JSON document.
fn json<T: Serialize>(document: &T) -> Response {
    let body = serde_json::to_vec(document).expect("a view is always valid JSON");
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

/// Waits for an answer from NATS for a limited time.
async fn in_time<T, E>(app: &App, answer: impl Future<Output = Result<T, E>>) -> Result<T, ApiError>
where
    ApiError: From<E>,
{
    if !app.queue.is_connected() {
        return Err(unavailable());
    }
    let answer = tokio::time::timeout(NATS_ANSWERS_WITHIN, answer).await;
    Ok(answer.map_err(|_elapsed| unavailable())??)
}

fn unavailable() -> ApiError {
    ApiError::new(Code::QueueUnavailable, "NATS does not answer: try again")
}

#[cfg(test)]
mod tests;
