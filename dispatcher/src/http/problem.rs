// SPDX-License-Identifier: Apache-2.0

//! Errors as RFC 9457 `application/problem+json`: the only place that maps an error of the domain
//! to HTTP.
//!
//! An error has two messages: `detail`, for the client, says what to do; the chain of sources, for
//! the operator, goes to the log, once, when it is answered.

mod code;

use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use slipway_artifact::{ReceiveError, StoreError};
use slipway_fault::chain;
use slipway_proto::api::Problem;
use slipway_proto::{BuildId, FieldError};
use slipway_queue::protocol::replay::ReplayError;
use slipway_queue::read::ReadError;
use slipway_queue::references::ReferencesError;
use slipway_queue::{PublishError, QueryError, RecordError};

use crate::builds::accept::AcceptError;
use crate::builds::announce::EventsError;
use crate::builds::cancel::CancelError;
use crate::builds::dead::DeadError;
use crate::builds::find::FindError;
use crate::events::projection::ProjectionError;
use crate::intake::content_digest::ContentDigestError;
use crate::reconcile::SweepError;
use crate::retention::CollectError;

pub(crate) use code::Code;

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct ApiError {
    code: Code,
    detail: String,
    errors: Vec<FieldError>,
    closes: bool,
    for_operator: Option<Box<ForOperator>>,
}

/// The operator's part of an error.
#[derive(Debug)]
struct ForOperator {
    /// Whether it is the dispatcher's own fault.
    is_ours: bool,
    what: String,
    cause: String,
}

impl ApiError {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), closes: false, for_operator: None }
    }

    /// An error with mistakes by field.
    pub(crate) fn fields(code: Code, errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [only] => only.to_string(),
            several => format!("{} mistakes: see `errors`", several.len()),
        };
        Self { errors, ..Self::new(code, detail) }
    }

    /// An internal error. The client learns only that it happened.
    pub(crate) fn internal(error: &(dyn std::error::Error + 'static), doing: &str) -> Self {
        let what = format!("failed to {doing}");
        let detail = format!("{what}: the dispatcher's log says why; try again later");
        let cause = chain(error);
        let for_operator = Some(Box::new(ForOperator { is_ours: true, what, cause }));
        Self { for_operator, ..Self::new(Code::Internal, detail) }
    }

    /// The answer about a build that does not exist.
    pub(crate) fn build_not_found(build: BuildId) -> Self {
        let detail = format!("the project has no build {build}: check the id and the project");
        Self::new(Code::BuildNotFound, detail)
    }

    /// Closes the connection after the answer, which is necessary if the rest of the request is not
    /// read.
    pub(crate) fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    /// Adds the operator's part: what happened, and its cause.
    fn because(self, what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let (what, cause) = (what.to_owned(), chain(error));
        let for_operator = Some(Box::new(ForOperator { is_ours: false, what, cause }));
        Self { for_operator, ..self }
    }

    /// Logs the operator's part for `times` such errors.
    pub(crate) fn log(&self, times: usize) {
        let Some(ForOperator { is_ours, what, cause }) = self.for_operator.as_deref() else {
            return;
        };
        match is_ours {
            true => tracing::error!(error = cause, times, "{what}"),
            false => tracing::warn!(error = cause, times, "{what}"),
        }
    }

    /// Returns the code.
    pub(crate) fn code(&self) -> Code {
        self.code
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
        self.log(1);
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

fn queue_unavailable(error: &(dyn std::error::Error + 'static)) -> ApiError {
    ApiError::new(
        Code::QueueUnavailable,
        "NATS does not answer: try again, with the same Idempotency-Key if you sent one",
    )
    .because("NATS does not serve a request", error)
}

impl From<AcceptError> for ApiError {
    fn from(error: AcceptError) -> Self {
        match error {
            AcceptError::Invalid(errors) => Self::fields(Code::InvalidRequest, errors),
            AcceptError::KeyReused(build) => Self::new(
                Code::IdempotencyKeyReused,
                format!(
                    "the key was already used for another request, which became build {build}: \
                    use a new key for a new request"
                ),
            ),
            AcceptError::Full(source) => Self::new(
                Code::QueueFull,
                "the queue is full and nothing was accepted: try again later",
            )
            .because("refused a build", &source),
            AcceptError::Unavailable(source) => queue_unavailable(source.as_ref()),
            AcceptError::Store(source) => source.into(),
            AcceptError::Refused(source) => Self::internal(&source, "queue the build"),
            AcceptError::Find(source) => source.into(),
            AcceptError::Folding => Self::new(
                Code::NotReady,
                "the projection is being rebuilt, and until then it is unknown whether the \
                Idempotency-Key was used; nothing was accepted: try again with the same key",
            ),
            AcceptError::Unwritable => Self::new(
                Code::QueueUnavailable,
                "NATS does not store messages, perhaps because its disk is full; nothing was accepted: try again later",
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
                format!("the build has already {}: there is nothing to cancel", state.as_str()),
            ),
            CancelError::Publishing => Self::new(
                Code::BuildPublishing,
                "the tags of the build are being written: it is too late to cancel it",
            ),
            CancelError::NotWaiting => {
                Self::new(Code::BuildFinished, "the build is no longer waiting")
            }
            CancelError::Find(source) => source.into(),
            CancelError::Record(source) => queue_unavailable(&source),
            CancelError::Query(source) => source.into(),
        }
    }
}

impl From<DeadError> for ApiError {
    fn from(error: DeadError) -> Self {
        match error {
            DeadError::NotFound => Self::new(
                Code::DeadLetterNotFound,
                "the project has no dead letter of this build: it was replayed or dropped, or \
                never existed",
            ),
            DeadError::ArtifactGone(digest) => Self::new(
                Code::ArtifactNotFound,
                format!(
                    "the artifact {digest} of the build is no longer in the store: upload the \
                    same file again and replay the letter, or drop it"
                ),
            ),
            DeadError::Store(source) => source.into(),
            DeadError::Read(source) => queue_unavailable(&source),
            DeadError::Replay(source) => source.into(),
        }
    }
}

impl From<ReplayError> for ApiError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Unreadable => Self::new(
                Code::LetterUnreadable,
                "the letter does not hold a request and the build's record is gone: drop the \
                letter and submit the build again",
            ),
            ReplayError::Finished(state) => Self::new(
                Code::BuildFinished,
                format!(
                    "the build has already {}: drop the letter if it is no longer needed",
                    state.as_str()
                ),
            ),
            ReplayError::Publish(PublishError::Full(source)) => Self::new(
                Code::QueueFull,
                "the queue is full; the replay is recorded and the build will be queued when \
                there is room: replay it again to be sure",
            )
            .because("a replay waits for room in the queue", &*source),
            ReplayError::Publish(PublishError::Refused(source)) => {
                Self::internal(&*source, "queue the build")
            }
            ReplayError::Record(source) => queue_unavailable(&source),
            ReplayError::Publish(source) => queue_unavailable(&source),
            ReplayError::Drop(source) => queue_unavailable(&source),
        }
    }
}

impl From<SweepError> for ApiError {
    fn from(error: SweepError) -> Self {
        match error {
            SweepError::Records(source) => queue_unavailable(&source),
            SweepError::Query(source) => queue_unavailable(&source),
            SweepError::Events(EventsError::Query(source)) => queue_unavailable(&source),
            SweepError::Events(EventsError::Projection(source)) => source.into(),
        }
    }
}

impl From<CollectError> for ApiError {
    fn from(error: CollectError) -> Self {
        match error {
            CollectError::Busy => Self::new(
                Code::Busy,
                "another dispatcher is collecting, or took this one's turn: try again",
            ),
            CollectError::Store(source) => source.into(),
            CollectError::References(source) => queue_unavailable(&source),
            CollectError::Trim(source) => queue_unavailable(&source),
            CollectError::Letter(source) => source.into(),
            CollectError::Turn(source) => queue_unavailable(&source),
        }
    }
}

impl From<ReferencesError> for ApiError {
    fn from(error: ReferencesError) -> Self {
        queue_unavailable(&error)
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

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        queue_unavailable(&error)
    }
}

impl From<ProjectionError> for ApiError {
    fn from(error: ProjectionError) -> Self {
        if let ProjectionError::Rebuilding = error {
            let detail = "the projection is being rebuilt, and lists are not available until then: try again later";
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
            return Self::new(
                Code::StoreUnavailable,
                "the artifact store does not answer: try again",
            )
            .because("the artifact store does not serve a request", &error);
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
                    "Content-Digest says {expected}, but the digest of the received bytes is \
                    {actual}: the file changed on its way, upload it again"
                ),
            ),
            ReceiveError::Store(source) => source.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
