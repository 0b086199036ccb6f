// SPDX-License-Identifier: Apache-2.0

//! Routes about the dispatcher itself: health, readiness, metrics, reconciling, and the description
//! of its API.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{StatusCode, Uri};
use serde_json::{Value, json};

use crate::app::App;
use crate::http::extract::{NoParameters, Parameters};
use crate::http::problem::{ApiError, Code};
use crate::metrics::Gauges;
use crate::reconcile::sweep_now;
use slipway_service::Page;

/// The description of the API; `{version}` in it is replaced.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

/// The page at `/` until there is a web console.
const INDEX: &str = include_str!("index.html");

pub(super) async fn alive() -> Response {
    super::json(&json!({"status": "alive"}))
}

pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let report = app.readiness.report(&app.queue, &app.feed).await;
    if report.ready {
        return super::json(&report);
    }
    // The problem also has the members of the report (RFC 9457, section 3.2).
    let error = ApiError::new(Code::NotReady, report.sentence());
    let mut document = serde_json::to_value(error.problem()).unwrap_or_default();
    let mut response = error.into_response();
    let members = serde_json::to_value(report).unwrap_or_default();
    if let (Value::Object(document), Value::Object(members)) = (&mut document, members) {
        document.extend(members);
    }
    *response.body_mut() = document.to_string().into();
    response
}

pub(super) async fn reconcile(
    State(app): State<Arc<App>>,
    _: NoParameters,
) -> Result<Response, ApiError> {
    if !app.queue.is_connected() {
        return Err(super::unavailable());
    }
    Ok(super::json(&sweep_now(&app.reconciler).await?))
}

pub(super) async fn collect(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, ApiError> {
    let mut parameters = Parameters::read(&uri, &["dry_run"]);
    let dry_run = parameters.switch("dry_run", false);
    parameters.finish()?;
    if !app.queue.is_connected() {
        return Err(super::unavailable());
    }
    let collector = Arc::clone(&app.collector);
    // A client that hangs up does not end it halfway.
    let collected = app.tasks.spawn(async move { collector.collect(dry_run).await }).await;
    let collected = collected.map_err(|error| ApiError::internal(&error, "collect"))?;
    Ok(super::json(&collected?))
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let events = app.queue.client_events();
    let gauges = Gauges {
        connected: app.queue.is_connected(),
        server_errors: events.server_errors.load(Ordering::Relaxed),
        slow_consumers: events.slow_consumers.load(Ordering::Relaxed),
        disconnects: events.disconnects.load(Ordering::Relaxed),
        subscribers: app.feed.subscribers(),
    };
    let kind = HeaderValue::from_static(Page::CONTENT_TYPE);
    (StatusCode::OK, [(CONTENT_TYPE, kind)], app.metrics.render(&gauges)).into_response()
}

pub(super) async fn openapi() -> Response {
    let kind = HeaderValue::from_static("application/json");
    let body = OPENAPI.replace("{version}", env!("CARGO_PKG_VERSION"));
    ([(CONTENT_TYPE, kind)], body).into_response()
}

pub(super) async fn index() -> Html<String> {
    Html(INDEX.replace("{version}", env!("CARGO_PKG_VERSION")))
}
