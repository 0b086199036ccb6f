// SPDX-License-Identifier: Apache-2.0

//! Uploads of artifacts: the body goes to the store as it arrives and is never held in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::BodyDataStream;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use http::header::{ETAG, EXPECT, HeaderValue, LAST_MODIFIED, LOCATION};
use http::{HeaderMap, StatusCode, Uri};
use slipway_artifact::Upload;
use slipway_proto::api::ArtifactView;
use slipway_proto::submission::{FILENAME_RULE, is_filename};
use slipway_proto::{Digest, ProjectName, Timestamp};

use super::{in_time, json};
use crate::app::App;
use crate::http::extract::{self, InProject, NoParameters, OfArtifact, Parameters};
use crate::http::problem::{ApiError, Code};
use crate::intake::content_digest;
use crate::metrics::Metrics;

/// How long a client may send nothing in the middle of an upload.
const IDLE: Duration = Duration::from_secs(60);

/// How much of a refused body is read and discarded, and for how long. A connection that is closed
/// while the client still sends is reset, and the client may never see the answer (RFC 9112,
/// section 9.6). But a client that sends for ever must not be read for ever.
const LINGER_BYTES: usize = 64 << 20;
const LINGER: Duration = Duration::from_secs(5);

pub(super) async fn upload(
    State(app): State<Arc<App>>,
    project: Result<InProject, ApiError>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let mut body = body.into_data_stream();
    let received = match project {
        Ok(InProject(project)) => {
            receive(&app, &project, &parts.uri, &parts.headers, &mut body).await
        }
        Err(error) => Err(error),
    };
    let refused = match received {
        Ok(response) => return response,
        Err(error) => error,
    };
    Metrics::count(&app.metrics.uploads_refused);
    linger_later(&app, &parts.headers, body);
    refused.closing().into_response()
}

async fn receive(
    app: &App,
    project: &ProjectName,
    uri: &Uri,
    headers: &HeaderMap,
    body: &mut BodyDataStream,
) -> Result<Response, ApiError> {
    let mut parameters = Parameters::read(uri, &["filename"]);
    let filename = parameters.text("filename").unwrap_or_default();
    if !is_filename(&filename) {
        parameters.mistake("filename", "invalid_filename", FILENAME_RULE.to_owned());
    }
    parameters.finish()?;
    let expected = match extract::header(headers, "content-digest") {
        Some(header) => Some(content_digest::parse(header)?),
        None => None,
    };
    let announced = extract::content_length(headers);
    if announced.is_some_and(|length| length > app.max_artifact_bytes) {
        return Err(too_large(app.max_artifact_bytes));
    }
    let known = match expected {
        Some(digest) => app.store.record(project, digest).await?.is_some(),
        None => false,
    };
    let mut upload = app.store.receive().await?;
    copy(app, body, &mut upload).await?;
    if announced.is_some_and(|length| length != upload.received()) {
        return Err(truncated(upload.received(), announced));
    }
    app.metrics.upload_bytes.fetch_add(upload.received(), Ordering::Relaxed);
    let artifact = upload.finish(project, &filename, expected, Timestamp::now()).await?;
    app.artifacts.forget(project, artifact.digest);
    Metrics::count(&app.metrics.uploads_stored);
    let status = if known { StatusCode::OK } else { StatusCode::CREATED };
    let mut response = json(&artifact);
    *response.status_mut() = status;
    let location = format!("/v1/projects/{project}/artifacts/{}", artifact.digest);
    let location = HeaderValue::try_from(location).expect("names and digests are ASCII");
    response.headers_mut().insert(LOCATION, location);
    describe(&artifact, response.headers_mut());
    Ok(response)
}

async fn copy(app: &App, body: &mut BodyDataStream, upload: &mut Upload) -> Result<(), ApiError> {
    loop {
        let chunk = tokio::select! {
            chunk = tokio::time::timeout(IDLE, body.next()) => chunk,
            () = app.cut_off.cancelled() => {
                return Err(ApiError::new(Code::ShuttingDown, "upload the artifact again"));
            }
        };
        let chunk = match chunk {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(None) => return Ok(()),
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "an upload was cut off");
                return Err(truncated(upload.received(), None));
            }
            Err(_elapsed) => {
                return Err(ApiError::new(
                    Code::UploadTimedOut,
                    format!("no byte arrived for {} s: upload the artifact again", IDLE.as_secs()),
                ));
            }
        };
        if upload.received() + chunk.len() as u64 > app.max_artifact_bytes {
            return Err(too_large(app.max_artifact_bytes));
        }
        upload.write(chunk).await?;
    }
}

fn too_large(limit: u64) -> ApiError {
    ApiError::new(
        Code::ArtifactTooLarge,
        format!(
            "the artifact is larger than the limit of {}: make it smaller, or ask the operator to \
            raise max_artifact_bytes",
            size(limit)
        ),
    )
}

/// Writes a limit for people: `2 GiB`, or in bytes if it is no whole number of a larger unit.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units.into_iter().find(|(shift, _)| bytes >> shift << shift == bytes && bytes > 0);
    match whole {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

fn truncated(received: u64, announced: Option<u64>) -> ApiError {
    let of = announced.map(|length| format!(" of {length}")).unwrap_or_default();
    ApiError::new(
        Code::UploadTruncated,
        format!(
            "the upload was cut off after {received}{of} bytes and nothing was kept: upload \
            it again"
        ),
    )
}

/// Reads the rest of a refused request in the background.
pub(super) fn linger_later(app: &App, headers: &HeaderMap, body: BodyDataStream) {
    // A client that waits for `100 Continue` has sent nothing, and will not.
    if !headers.contains_key(EXPECT) {
        let lingering = linger(body);
        let stop = app.stop.clone();
        app.tasks.spawn(async move { stop.run_until_cancelled(lingering).await });
    }
}

async fn linger(mut body: BodyDataStream) {
    let drain = async {
        let mut rest = LINGER_BYTES;
        while let Some(Ok(chunk)) = body.next().await {
            rest = match rest.checked_sub(chunk.len()) {
                Some(rest) => rest,
                None => return,
            };
        }
    };
    let _ended = tokio::time::timeout(LINGER, drain).await;
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    OfArtifact(project, digest): OfArtifact,
) -> Result<Response, ApiError> {
    // A client that asks may submit a build of it.
    let Some(artifact) = app.store.use_record(&project, digest).await? else {
        return Err(missing(digest));
    };
    let mut response = json(&artifact);
    describe(&artifact, response.headers_mut());
    Ok(response)
}

pub(super) async fn discard(
    State(app): State<Arc<App>>,
    OfArtifact(project, digest): OfArtifact,
    _: NoParameters,
) -> Result<Response, ApiError> {
    if app.store.record(&project, digest).await?.is_none() {
        return Err(missing(digest));
    }
    let references = in_time(&app, app.queue.references()).await?;
    if let Some(build) = references.build_of(&project, digest) {
        return Err(ApiError::new(
            Code::ArtifactInUse,
            format!(
                "build {build} needs the artifact: wait until it has ended or cancel it, or drop \
                its dead letter"
            ),
        ));
    }
    // A build that is accepted at this moment keeps the bytes, which are collected later.
    app.store.remove_record(&project, digest).await?;
    app.artifacts.forget(&project, digest);
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn missing(digest: Digest) -> ApiError {
    let detail = format!("the project has no artifact {digest}: upload it");
    ApiError::new(Code::ArtifactNotFound, detail)
}

/// Adds the headers for a HEAD request.
fn describe(artifact: &ArtifactView, headers: &mut HeaderMap) {
    let text = |text: String| HeaderValue::try_from(text).expect("all of these are ASCII");
    headers.insert(ETAG, text(format!("\"{}\"", artifact.digest)));
    headers.insert("slipway-artifact-kind", text(artifact.facts.kind().to_string()));
    headers.insert("slipway-artifact-size", artifact.size_bytes.into());
    let modified = artifact.uploaded_at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    headers.insert(LAST_MODIFIED, text(modified));
}
