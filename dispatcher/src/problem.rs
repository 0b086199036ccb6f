// SPDX-License-Identifier: Apache-2.0

//! Errors as RFC 9457 `application/problem+json`: the one place that knows what an error of the
//! domain is in HTTP.
//!
//! An error has two messages: `detail`, for the client, says what to do; the chain of sources, for
//! the operator, goes to the log, once, here.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use slipway_artifact::{ReceiveError, StoreError};
use slipway_proto::api::Problem;
use slipway_proto::{BuildId, FieldError};
use slipway_queue::read::ReadError;
use slipway_queue::topology::TopologyError;
use slipway_queue::{PublishError, RecordError};

use crate::accept::AcceptError;
use crate::builds::FindError;
use crate::cancel::CancelError;
use crate::content_digest::ContentDigestError;
use crate::dead::DeadError;
use crate::projection::ProjectionError;
use crate::reconcile::SweepError;

/// The stable codes, with the status and the few words that belong to each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    InvalidRequest,
    MalformedJson,
    UnsupportedMediaType,
    RequestTooLarge,
    InvalidName,
    InvalidBuildId,
    InvalidDigest,
    InvalidQuery,
    InvalidIdempotencyKey,
    IdempotencyKeyReused,
    InvalidContentDigest,
    DigestMismatch,
    /// Bytes that are no artifact; the code is the inspection's own.
    InvalidArtifact(&'static str),
    ArtifactTooLarge,
    UploadTruncated,
    UploadTimedOut,
    ArtifactNotFound,
    BuildNotFound,
    BuildNotFinished,
    BuildFinished,
    BuildPublishing,
    DeadLetterNotFound,
    LetterUnreadable,
    WorkerNotFound,
    NotFound,
    MethodNotAllowed,
    QueueFull,
    QueueUnavailable,
    WorkerSilent,
    StoreUnavailable,
    NotReady,
    ShuttingDown,
    Internal,
}

impl Code {
    /// Returns status, code and title.
    fn describe(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::InvalidRequest => {
                (S::UNPROCESSABLE_ENTITY, "invalid_request", "The build request has mistakes")
            }
            Self::MalformedJson => (S::BAD_REQUEST, "malformed_json", "The body is not JSON"),
            Self::UnsupportedMediaType => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "The body has another media type than expected",
            ),
            Self::RequestTooLarge => {
                (S::PAYLOAD_TOO_LARGE, "request_too_large", "The build request is too large")
            }
            Self::InvalidName => (S::BAD_REQUEST, "invalid_name", "A name in the path is wrong"),
            Self::InvalidBuildId => (S::BAD_REQUEST, "invalid_build_id", "The build id is wrong"),
            Self::InvalidDigest => (S::BAD_REQUEST, "invalid_digest", "The digest is wrong"),
            Self::InvalidQuery => {
                (S::BAD_REQUEST, "invalid_query", "The query parameters have mistakes")
            }
            Self::InvalidIdempotencyKey => {
                (S::BAD_REQUEST, "invalid_idempotency_key", "The Idempotency-Key header is wrong")
            }
            Self::IdempotencyKeyReused => (
                S::CONFLICT,
                "idempotency_key_reused",
                "The idempotency key belongs to another request",
            ),
            Self::InvalidContentDigest => {
                (S::BAD_REQUEST, "invalid_content_digest", "The Content-Digest header is wrong")
            }
            Self::DigestMismatch => (
                S::UNPROCESSABLE_ENTITY,
                "digest_mismatch",
                "The bytes are not those that Content-Digest announced",
            ),
            Self::InvalidArtifact(code) => {
                (S::UNPROCESSABLE_ENTITY, code, "The file cannot become an image")
            }
            Self::ArtifactTooLarge => {
                (S::PAYLOAD_TOO_LARGE, "artifact_too_large", "The artifact is too large")
            }
            Self::UploadTruncated => {
                (S::BAD_REQUEST, "upload_truncated", "The upload ended before its end")
            }
            Self::UploadTimedOut => {
                (S::REQUEST_TIMEOUT, "upload_timed_out", "The upload stood still for too long")
            }
            Self::ArtifactNotFound => {
                (S::NOT_FOUND, "artifact_not_found", "The project has no such artifact")
            }
            Self::BuildNotFound => {
                (S::NOT_FOUND, "build_not_found", "The project has no such build")
            }
            Self::BuildNotFinished => {
                (S::CONFLICT, "build_not_finished", "The build is not finished")
            }
            Self::BuildFinished => (S::CONFLICT, "build_finished", "The build is finished"),
            Self::BuildPublishing => {
                (S::CONFLICT, "build_publishing", "The build is being published")
            }
            Self::DeadLetterNotFound => {
                (S::NOT_FOUND, "dead_letter_not_found", "The project has no such dead letter")
            }
            Self::LetterUnreadable => (
                S::UNPROCESSABLE_ENTITY,
                "letter_unreadable",
                "The dead letter holds no build request",
            ),
            Self::WorkerNotFound => (S::NOT_FOUND, "worker_not_found", "There is no such worker"),
            Self::NotFound => (S::NOT_FOUND, "not_found", "There is nothing at this path"),
            Self::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "method_not_allowed", "The path does not take this method")
            }
            Self::QueueFull => (S::SERVICE_UNAVAILABLE, "queue_full", "The queue is full"),
            Self::QueueUnavailable => {
                (S::SERVICE_UNAVAILABLE, "queue_unavailable", "The queue does not answer")
            }
            Self::WorkerSilent => {
                (S::SERVICE_UNAVAILABLE, "worker_silent", "The worker does not answer")
            }
            Self::StoreUnavailable => {
                (S::SERVICE_UNAVAILABLE, "store_unavailable", "The artifact store does not answer")
            }
            Self::NotReady => (S::SERVICE_UNAVAILABLE, "not_ready", "The dispatcher is not ready"),
            Self::ShuttingDown => {
                (S::SERVICE_UNAVAILABLE, "shutting_down", "The dispatcher is shutting down")
            }
            Self::Internal => {
                (S::INTERNAL_SERVER_ERROR, "internal", "Something is wrong with the dispatcher")
            }
        }
    }

    /// Returns how many seconds a client should wait before it tries again; `None` where the same
    /// request will fail again.
    fn retry_after(self) -> Option<u16> {
        match self {
            // Builds leave the queue at the rate of the fleet.
            Self::QueueFull => Some(5),
            // A restarted server is back within a second or two.
            Self::QueueUnavailable
            | Self::WorkerSilent
            | Self::StoreUnavailable
            | Self::NotReady
            | Self::ShuttingDown => Some(2),
            _ => None,
        }
    }
}

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct ApiError {
    code: Code,
    detail: String,
    errors: Vec<FieldError>,
    closes: bool,
}

impl ApiError {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), closes: false }
    }

    /// An error with mistakes by field.
    pub(crate) fn fields(code: Code, errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [only] => only.to_string(),
            several => format!("{} mistakes: see `errors`", several.len()),
        };
        Self { code, detail, errors, closes: false }
    }

    /// An error of ours, of which the client learns nothing but that it happened.
    pub(crate) fn internal(error: &(dyn std::error::Error + 'static), doing: &str) -> Self {
        tracing::error!(error = chain(error), "failed to {doing}");
        Self::new(
            Code::Internal,
            format!("failed to {doing}: the dispatcher's log says why; try again later"),
        )
    }

    /// The answer about a build that is not there.
    pub(crate) fn build_not_found(build: BuildId) -> Self {
        let detail = format!("the project has no build {build}: check the id and the project");
        Self::new(Code::BuildNotFound, detail)
    }

    /// Says that the connection is closed after the answer, as it must be where the rest of the
    /// request is not read.
    pub(crate) fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    /// Returns the document.
    pub(crate) fn problem(&self) -> Problem {
        let (status, code, title) = self.code.describe();
        Problem {
            r#type: format!("/problems/{code}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.detail.clone(),
            code: code.to_owned(),
            errors: self.errors.clone(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, ..) = self.code.describe();
        let body = serde_json::to_vec(&self.problem()).expect("a problem is always valid JSON");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.code.retry_after() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Writes an error with its sources in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn queue_unavailable(error: &(dyn std::error::Error + 'static)) -> ApiError {
    tracing::warn!(error = chain(error), "NATS does not serve a request");
    ApiError::new(
        Code::QueueUnavailable,
        "NATS does not answer: try again, with the same Idempotency-Key if you sent one",
    )
}

impl From<AcceptError> for ApiError {
    fn from(error: AcceptError) -> Self {
        match error {
            AcceptError::Invalid(errors) => Self::fields(Code::InvalidRequest, errors),
            AcceptError::KeyReused(build) => Self::new(
                Code::IdempotencyKeyReused,
                format!(
                    "the key was sent before with another request, which became the build {build}: use a new key for a new request"
                ),
            ),
            AcceptError::Full(source) => {
                tracing::warn!(error = chain(&source), "refused a build");
                Self::new(
                    Code::QueueFull,
                    "as many builds wait as the queue may hold; nothing was accepted: try again later",
                )
            }
            AcceptError::Unavailable(source) => queue_unavailable(source.as_ref()),
            AcceptError::Store(source) => source.into(),
            AcceptError::Refused(source) => Self::internal(&source, "queue the build"),
            AcceptError::Find(source) => source.into(),
            AcceptError::Unwritable => Self::new(
                Code::QueueUnavailable,
                "NATS does not store messages, its disk may be full; nothing was accepted: try again later",
            ),
            AcceptError::NotFound(build) => Self::build_not_found(build),
            AcceptError::NotFinished(state) => Self::new(
                Code::BuildNotFinished,
                format!("the build is {}: wait until it is finished, or cancel it", state.as_str()),
            ),
        }
    }
}

impl From<CancelError> for ApiError {
    fn from(error: CancelError) -> Self {
        match error {
            CancelError::NotFound(build) => Self::build_not_found(build),
            CancelError::Finished(state) => Self::new(
                Code::BuildFinished,
                format!("the build has {} already: there is nothing to cancel", state.as_str()),
            ),
            CancelError::Publishing => Self::new(
                Code::BuildPublishing,
                "the tags of the build are being written: it is too late to cancel it",
            ),
            CancelError::NotWaiting => {
                Self::new(Code::BuildFinished, "the build does not wait any more")
            }
            CancelError::Find(source) => source.into(),
            CancelError::Record(source) => queue_unavailable(&source),
            CancelError::Topology(source) => source.into(),
        }
    }
}

impl From<DeadError> for ApiError {
    fn from(error: DeadError) -> Self {
        match error {
            DeadError::NotFound => Self::new(
                Code::DeadLetterNotFound,
                "the project has no dead letter of that build: it was replayed, dropped or never there",
            ),
            DeadError::Unreadable => Self::new(
                Code::LetterUnreadable,
                "the letter's bytes are no request and the build's record is gone: drop the letter, and submit the build again",
            ),
            DeadError::Finished(state) => Self::new(
                Code::BuildFinished,
                format!(
                    "the build has {} already: drop the letter if it is of no use",
                    state.as_str()
                ),
            ),
            DeadError::Publish(PublishError::Full(source)) => {
                tracing::warn!(error = chain(&*source), "a replay waits for room in the queue");
                Self::new(
                    Code::QueueFull,
                    "as many builds wait as the queue may hold; the replay is recorded and follows when there is room: replay it again to be sure",
                )
            }
            DeadError::Publish(PublishError::Refused(source)) => {
                Self::internal(&*source, "queue the build")
            }
            DeadError::Read(source) => queue_unavailable(&source),
            DeadError::Record(source) => queue_unavailable(&source),
            DeadError::Publish(source) => queue_unavailable(&source),
            DeadError::Drop(source) => queue_unavailable(&*source),
        }
    }
}

impl From<SweepError> for ApiError {
    fn from(error: SweepError) -> Self {
        match error {
            SweepError::Read(source) => queue_unavailable(&source),
            SweepError::Topology(source) => queue_unavailable(&source),
            SweepError::Projection(source) => source.into(),
        }
    }
}

impl From<RecordError> for ApiError {
    fn from(error: RecordError) -> Self {
        queue_unavailable(&error)
    }
}

impl From<FindError> for ApiError {
    fn from(error: FindError) -> Self {
        match error {
            FindError::Record(source) => queue_unavailable(&source),
            FindError::Projection(source) => source.into(),
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        queue_unavailable(&error)
    }
}

impl From<TopologyError> for ApiError {
    fn from(error: TopologyError) -> Self {
        queue_unavailable(&error)
    }
}

impl From<ProjectionError> for ApiError {
    fn from(error: ProjectionError) -> Self {
        if let ProjectionError::Rebuilding = error {
            let detail = "all events are being folded anew, and lists wait for it: try again later";
            return Self::new(Code::NotReady, detail);
        }
        Self::internal(&error, "read the projection")
    }
}

impl From<ContentDigestError> for ApiError {
    fn from(error: ContentDigestError) -> Self {
        Self::new(Code::InvalidContentDigest, error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if error.is_transient() {
            tracing::warn!(error = chain(&error), "the artifact store does not serve a request");
            return Self::new(
                Code::StoreUnavailable,
                "the artifact store does not answer: try again",
            );
        }
        Self::internal(&error, "use the artifact store")
    }
}

impl From<ReceiveError> for ApiError {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Invalid(invalid) => {
                Self::new(Code::InvalidArtifact(invalid.code.as_str()), invalid.message)
            }
            ReceiveError::DigestMismatch { expected, actual } => Self::new(
                Code::DigestMismatch,
                format!(
                    "Content-Digest announces {expected}, and the bytes received are {actual}: the file changed on its way, upload it again"
                ),
            ),
            ReceiveError::Store(source) => source.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Code; 33] = [
        Code::InvalidRequest,
        Code::MalformedJson,
        Code::UnsupportedMediaType,
        Code::RequestTooLarge,
        Code::InvalidName,
        Code::InvalidBuildId,
        Code::InvalidDigest,
        Code::InvalidQuery,
        Code::InvalidIdempotencyKey,
        Code::IdempotencyKeyReused,
        Code::InvalidContentDigest,
        Code::DigestMismatch,
        Code::InvalidArtifact("not_an_artifact"),
        Code::ArtifactTooLarge,
        Code::UploadTruncated,
        Code::UploadTimedOut,
        Code::ArtifactNotFound,
        Code::BuildNotFound,
        Code::BuildNotFinished,
        Code::BuildFinished,
        Code::BuildPublishing,
        Code::DeadLetterNotFound,
        Code::LetterUnreadable,
        Code::WorkerNotFound,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::QueueFull,
        Code::QueueUnavailable,
        Code::WorkerSilent,
        Code::StoreUnavailable,
        Code::NotReady,
        Code::ShuttingDown,
        Code::Internal,
    ];

    /// Golden: clients branch on these.
    #[test]
    fn codes_and_their_statuses_stay() {
        let lines: Vec<String> = ALL
            .iter()
            .map(|code| {
                let (status, text, title) = code.describe();
                let retry = code.retry_after().map(|s| format!(" (retry after {s} s)"));
                format!("{} {text}: {title}{}", status.as_u16(), retry.unwrap_or_default())
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn the_only_mistake_is_also_the_detail() {
        let mistake = FieldError {
            field: "image".into(),
            code: "missing".into(),
            detail: "is required".into(),
        };
        let error = ApiError::fields(Code::InvalidRequest, vec![mistake]);
        assert_eq!(error.detail, "image: is required");
    }
}
