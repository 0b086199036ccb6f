// SPDX-License-Identifier: Apache-2.0

//! Submitting many builds in one request.
//!
//! A batch that could be read is answered with 200, whatever happened to its builds. The body has
//! their counts and the answer each would have got on its own, in order, as in the bulk interfaces
//! of Elasticsearch and others. 207 belongs to WebDAV, whose body is XML, and 202 would be untrue
//! for refused builds.

mod document;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use http::HeaderMap;
use slipway_proto::ProjectName;
use slipway_proto::api::{BatchResult, BatchView, BuildView, MAX_BATCH};
use tokio::sync::SemaphorePermit;

use super::{artifacts, builds, json};
use crate::app::App;
use crate::builds::accept::{AcceptError, Accepted, accept_batch};
use crate::http::extract::{self, InProject, NoParameters};
use crate::http::problem::{ApiError, Code};

/// The largest batch in bytes: 8 KiB for each build, which is a request with dozens of variables
/// and labels. Larger requests need smaller batches.
const MAX_BYTES: usize = MAX_BATCH * 8192;

/// The least that a batch counts for: a thousand short builds and their answers take this much.
const MIN_BYTES: usize = 1 << 20;

/// How long a batch waits for room.
const ROOM_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn submit(
    State(app): State<Arc<App>>,
    InProject(project): InProject,
    _: NoParameters,
    request: Request,
) -> Result<Response, ApiError> {
    if request.headers().contains_key("idempotency-key") {
        return Err(ApiError::new(
            Code::InvalidIdempotencyKey,
            "a batch has no key of its own: give each of its builds a field `idempotency_key`",
        ));
    }
    let traceparent: Option<Arc<str>> = builds::traceparent(request.headers()).map(Arc::from);
    let too_large = || {
        let detail = format!(
            "the batch is larger than the limit of {MAX_BYTES} bytes: send \
            several batches"
        );
        ApiError::new(Code::BatchTooLarge, detail)
    };
    let _room = match room(&app, request.headers()).await {
        Ok(room) => room,
        Err(error) => {
            let (parts, body) = request.into_parts();
            artifacts::linger_later(&app, &parts.headers, body.into_data_stream());
            return Err(error.closing());
        }
    };
    let body = extract::json_bytes(request, MAX_BYTES, too_large).await?;
    let items = {
        let _place = app.batches.acquire().await.expect("nobody closes it");
        let read = tokio::task::spawn_blocking(move || document::read(&body)).await;
        read.map_err(|panic| ApiError::internal(&panic, "read the batch"))??
    };
    let outcomes = accept_batch(&app.acceptor, &project, items, traceparent.as_ref()).await;
    Ok(json(&view(&app, &project, outcomes)))
}

/// Waits for room in memory for a batch before any of it is read. Until then it stays in the
/// connection. A batch of unknown length counts as the largest.
async fn room<'a>(app: &'a App, headers: &HeaderMap) -> Result<SemaphorePermit<'a>, ApiError> {
    let length = extract::content_length(headers).and_then(|length| u32::try_from(length).ok());
    let longest = u32::try_from(MAX_BYTES).expect("it is some millions");
    let least = u32::try_from(MIN_BYTES).expect("it is less");
    let room = app.batch_bytes.acquire_many(length.unwrap_or(longest).clamp(least, longest));
    let Ok(room) = tokio::time::timeout(ROOM_WITHIN, room).await else {
        let detail = "other batches take all the memory for batches; nothing was accepted: \
            try again, or send smaller ones";
        return Err(ApiError::new(Code::Busy, detail));
    };
    Ok(room.expect("nobody closes it"))
}

/// Counts the results, and makes the answer.
fn view(
    app: &App,
    project: &ProjectName,
    outcomes: Vec<Result<Accepted, AcceptError>>,
) -> BatchView {
    let results = Vec::with_capacity(outcomes.len());
    let mut view = BatchView { accepted: 0, repeated: 0, refused: 0, results };
    let mut refusals: HashMap<Code, (ApiError, usize)> = HashMap::new();
    for outcome in outcomes {
        builds::count(&app.metrics, &outcome);
        view.results.push(match outcome {
            Ok(accepted) => {
                match accepted {
                    Accepted::Now(_) => view.accepted += 1,
                    Accepted::Before(_) => view.repeated += 1,
                }
                BatchResult {
                    status: builds::status(&accepted).as_u16(),
                    location: Some(builds::location(project, accepted.build())),
                    build: Some(BuildView::from(accepted.build())),
                    problem: None,
                    retry_after_s: None,
                }
            }
            Err(error) => {
                view.refused += 1;
                let error = ApiError::from(error);
                let (problem, retry_after_s) = (error.problem(), error.code().retry_after());
                refusals.entry(error.code()).or_insert((error, 0)).1 += 1;
                BatchResult {
                    status: problem.status,
                    location: None,
                    build: None,
                    problem: Some(problem),
                    retry_after_s,
                }
            }
        });
    }
    // One line for each kind of error, because a thousand of one kind say no more.
    refusals.values().for_each(|(first, times)| first.log(*times));
    view
}
