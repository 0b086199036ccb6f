// SPDX-License-Identifier: Apache-2.0

//! Submitting builds, and reading one or many.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{HeaderValue, LOCATION};
use http::{HeaderMap, StatusCode, Uri};
use slipway_proto::api::{BuildList, BuildView, StateName};
use slipway_proto::{Reference, Submission};

use super::json;
use crate::accept::{AcceptError, Accepted, Submitted, accept};
use crate::app::App;
use crate::extract::{self, InProject, OfBuild, Parameters};
use crate::metrics::Metrics;
use crate::problem::{ApiError, Code};
use crate::projection::{Cursor, ImageFilter, ListQuery};

/// How many builds a page has unless the client asks otherwise, and how many at most.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 1000;

pub(super) async fn submit(
    State(app): State<Arc<App>>,
    InProject(project): InProject,
    request: Request,
) -> Result<Response, ApiError> {
    Parameters::read(request.uri(), &[]).finish()?;
    let headers = request.headers().clone();
    let key = idempotency_key(&headers)?;
    let document = extract::json(request).await?;
    let submitted = Submitted {
        project: project.clone(),
        submission: Submission::read(&document),
        key,
        traceparent: traceparent(&headers),
    };
    let outcome = accept(&app, submitted).await;
    let metrics = &app.metrics;
    Metrics::count(match &outcome {
        Ok(Accepted::Now(_)) => &metrics.submits_accepted,
        Ok(Accepted::Before(_)) => &metrics.submits_repeated,
        Err(AcceptError::Invalid(_)) => &metrics.submits_invalid,
        Err(AcceptError::KeyReused(_)) => &metrics.submits_key_reused,
        Err(AcceptError::Full(_)) => &metrics.submits_queue_full,
        Err(_) => &metrics.submits_unavailable,
    });
    let (status, build) = match outcome? {
        Accepted::Now(build) => (StatusCode::ACCEPTED, build),
        Accepted::Before(build) => (StatusCode::OK, build),
    };
    let mut response = json(&BuildView::from(&build));
    *response.status_mut() = status;
    let location = format!("/v1/projects/{project}/builds/{}", build.request.build);
    let location = HeaderValue::try_from(location).expect("names and ids are ASCII");
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(key) = extract::header(headers, "idempotency-key") else { return Ok(None) };
    let visible = key.bytes().all(|byte| byte.is_ascii_graphic());
    if (1..=255).contains(&key.len()) && visible {
        return Ok(Some(key));
    }
    Err(ApiError::new(
        Code::InvalidIdempotencyKey,
        "an idempotency key has 1 to 255 visible ASCII characters, as a UUID has",
    ))
}

/// Returns the trace context if it has the form of W3C Trace Context, section 3.2; a broken one is
/// to be ignored.
fn traceparent(headers: &HeaderMap) -> Option<&str> {
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
    uri: Uri,
) -> Result<Response, ApiError> {
    Parameters::read(&uri, &[]).finish()?;
    match app.builds.find(&project, build).await? {
        Some(build) => Ok(json(&BuildView::from(&build))),
        None => Err(missing(build)),
    }
}

/// The answer about a build that is not there.
pub(super) fn missing(build: slipway_proto::BuildId) -> ApiError {
    let detail = format!("the project has no build {build}: check the id and the project");
    ApiError::new(Code::BuildNotFound, detail)
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    InProject(project): InProject,
    uri: Uri,
) -> Result<Response, ApiError> {
    let mut parameters = Parameters::read(&uri, &["state", "image", "limit", "cursor"]);
    let states = states(&mut parameters);
    let image: Option<Reference> = parameters.parsed("image", "invalid_reference");
    let limit = parameters.parsed("limit", "invalid_limit").unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let detail = format!("must be a number from 1 to {MAX_LIMIT}");
        parameters.mistake("limit", "invalid_limit", detail);
    }
    let after: Option<Cursor> = parameters.parsed("cursor", "invalid_cursor");
    parameters.finish()?;
    let image = image.map(ImageFilter::from);
    let page = app.projection.list(ListQuery { project, states, image, limit, after }).await?;
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
                let detail = format!("`{word}` is no state: use {known}, separated by commas");
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
