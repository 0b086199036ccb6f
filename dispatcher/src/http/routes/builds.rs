// SPDX-License-Identifier: Apache-2.0

//! Submitting builds, reading one or many, repeating and cancelling them.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{HeaderValue, LOCATION};
use http::{HeaderMap, StatusCode, Uri};
use slipway_proto::api::{BuildList, BuildView, CancelledView, StateName};
use slipway_proto::{Build, ProjectName, Reference, Submission};
use slipway_queue::protocol::cancel::Scope;

use super::json;
use crate::app::App;
use crate::builds::accept::{AcceptError, Accepted, SubmissionHeaders, accept, retry};
use crate::events::projection::{Cursor, IdPrefix, ImageFilter, ListQuery};
use crate::http::extract::{self, InProject, NoParameters, OfBuild, Parameters};
use crate::http::problem::{ApiError, Code};
use crate::metrics::Metrics;

pub(super) async fn submit(
    State(app): State<Arc<App>>,
    InProject(project): InProject,
    _: NoParameters,
    request: Request,
) -> Result<Response, ApiError> {
    let headers = submission_headers(request.headers())?;
    let document = extract::json(request).await?;
    let submission = Submission::read(&document);
    let accepting = accept(&app.acceptor, project.clone(), submission, headers);
    let outcome = Box::pin(accepting).await;
    accepted(&app, &project, outcome)
}

pub(super) async fn repeat(
    State(app): State<Arc<App>>,
    OfBuild(project, build): OfBuild,
    headers: HeaderMap,
    _: NoParameters,
) -> Result<Response, ApiError> {
    let outcome = retry(&app.acceptor, project.clone(), build, submission_headers(&headers)?).await;
    accepted(&app, &project, outcome)
}

/// Answers a request for a build.
fn accepted(
    app: &App,
    project: &ProjectName,
    outcome: Result<Accepted, AcceptError>,
) -> Result<Response, ApiError> {
    count(&app.metrics, &outcome);
    let outcome = outcome?;
    let (status, build) = (status(&outcome), outcome.build());
    let mut response = json(&BuildView::from(build));
    *response.status_mut() = status;
    let location = HeaderValue::try_from(location(project, build));
    response.headers_mut().insert(LOCATION, location.expect("names and ids are ASCII"));
    Ok(response)
}

/// Counts the result of a request for a build.
pub(super) fn count(metrics: &Metrics, outcome: &Result<Accepted, AcceptError>) {
    Metrics::count(match outcome {
        Ok(Accepted::Now(_)) => &metrics.submits_accepted,
        Ok(Accepted::Before(_)) => &metrics.submits_repeated,
        Err(AcceptError::Invalid(_) | AcceptError::NotFound(_) | AcceptError::NotFinished(_)) => {
            &metrics.submits_invalid
        }
        Err(AcceptError::KeyReused(_)) => &metrics.submits_key_reused,
        Err(AcceptError::Full(_)) => &metrics.submits_queue_full,
        Err(_) => &metrics.submits_unavailable,
    });
}

/// Returns the status of a build that was accepted, now or before.
pub(super) fn status(accepted: &Accepted) -> StatusCode {
    match accepted {
        Accepted::Now(_) => StatusCode::ACCEPTED,
        Accepted::Before(_) => StatusCode::OK,
    }
}

/// Returns the path of a build.
pub(super) fn location(project: &ProjectName, build: &Build) -> String {
    format!("/v1/projects/{project}/builds/{}", build.request.build)
}

/// The message of a cancellation on request.
const ON_REQUEST: &str = "cancelled on request";

pub(super) async fn call_off(
    State(app): State<Arc<App>>,
    OfBuild(project, build): OfBuild,
    _: NoParameters,
) -> Result<Response, ApiError> {
    let cancelled = app.cancelling().cancel(&project, build, ON_REQUEST, Scope::Unfinished).await?;
    Ok(json(&BuildView::from(&cancelled.into_build())))
}

pub(super) async fn call_off_waiting(
    State(app): State<Arc<App>>,
    InProject(project): InProject,
    _: NoParameters,
) -> Result<Response, ApiError> {
    let cancelled = app.cancelling().cancel_waiting(&project, ON_REQUEST).await?;
    Ok(json(&CancelledView { cancelled }))
}

/// Reads what a client sends in headers.
fn submission_headers(headers: &HeaderMap) -> Result<SubmissionHeaders, ApiError> {
    let key = extract::header(headers, "idempotency-key");
    if key.is_some_and(|key| !is_key(key)) {
        return Err(ApiError::new(Code::InvalidIdempotencyKey, IDEMPOTENCY_KEY_RULE));
    }
    Ok(SubmissionHeaders {
        key: key.map(str::to_owned),
        traceparent: traceparent(headers).map(Arc::from),
    })
}

/// The rule for idempotency keys, for messages.
pub(super) const IDEMPOTENCY_KEY_RULE: &str =
    "an idempotency key has 1 to 255 visible ASCII characters, as a UUID has";

/// Returns whether a text may be an idempotency key.
pub(super) fn is_key(key: &str) -> bool {
    (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Returns the trace context if it has the form of W3C Trace Context, section 3.2; a broken one is
/// to be ignored.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let value = extract::header(headers, "traceparent")?;
    let parts: Vec<&str> = value.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let valid = lengths == [2, 32, 16, 2] && parts.concat().bytes().all(hexadecimal);
    valid.then_some(value)
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    OfBuild(project, build): OfBuild,
    _: NoParameters,
) -> Result<Response, ApiError> {
    match app.builds.find(&project, build).await? {
        Some(build) => Ok(json(&BuildView::from(&build))),
        None => Err(ApiError::build_not_found(build)),
    }
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    InProject(project): InProject,
    uri: Uri,
) -> Result<Response, ApiError> {
    let mut parameters = Parameters::read(&uri, &["state", "image", "id", "limit", "cursor"]);
    let states = states(&mut parameters);
    let image: Option<Reference> = parameters.parsed("image", "invalid_reference");
    let id: Option<IdPrefix> = parameters.parsed("id", "invalid_build_id");
    for other in ["state", "image", "cursor"] {
        if id.is_some() && parameters.text(other).is_some() {
            let detail = "cannot be combined with `id`".to_owned();
            parameters.mistake(other, "conflicting_parameter", detail);
        }
    }
    let limit = parameters.limit();
    let after: Option<Cursor> = parameters.parsed("cursor", "invalid_cursor");
    parameters.finish()?;
    let image = image.map(ImageFilter::from);
    let query = ListQuery { project, states, image, id, limit, after };
    let page = app.projection.list(query).await?;
    Ok(json(&BuildList {
        builds: page.builds.iter().map(BuildView::from).collect(),
        next_cursor: page.next.map(|cursor| cursor.to_string()),
    }))
}

/// Reads states, separated by commas.
fn states(parameters: &mut Parameters) -> Vec<StateName> {
    let mut states = Vec::new();
    for word in parameters.text("state").iter().flat_map(|text| text.split(',')) {
        match StateName::ALL.iter().find(|state| state.as_str() == word) {
            Some(state) if !states.contains(state) => states.push(*state),
            Some(_) => {}
            None => {
                let known = StateName::ALL.map(StateName::as_str).join(", ");
                let detail = format!("`{word}` is not a state: use {known}, separated by commas");
                parameters.mistake("state", "invalid_state", detail);
            }
        }
    }
    states
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_trace_context_is_handed_on() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", HeaderValue::from_static(value));
            traceparent(&headers).map(str::to_owned)
        };
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(read(good).as_deref(), Some(good));
        assert_eq!(read("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"), None);
        assert_eq!(read("00-1-2-3"), None);
    }
}
