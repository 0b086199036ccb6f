// SPDX-License-Identifier: Apache-2.0

//! The stable codes that clients branch on.

use http::StatusCode;

/// The stable codes, with the status and the few words that belong to each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Code {
    InvalidRequest,
    MalformedJson,
    UnsupportedMediaType,
    RequestTooLarge,
    BatchTooLarge,
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
    Busy,
    NotReady,
    ShuttingDown,
    Internal,
}

impl Code {
    /// Returns status, code and title.
    pub(super) fn describe(self) -> (StatusCode, &'static str, &'static str) {
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
            Self::BatchTooLarge => {
                (S::PAYLOAD_TOO_LARGE, "batch_too_large", "The batch is too large")
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
            Self::Busy => (S::SERVICE_UNAVAILABLE, "busy", "The dispatcher is busy"),
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
    pub(crate) fn retry_after(self) -> Option<u16> {
        match self {
            // Builds leave the queue at the rate of the fleet.
            Self::QueueFull => Some(5),
            // A restarted server is back within a second or two.
            Self::QueueUnavailable
            | Self::WorkerSilent
            | Self::StoreUnavailable
            | Self::Busy
            | Self::NotReady
            | Self::ShuttingDown => Some(2),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Code; 35] = [
        Code::InvalidRequest,
        Code::MalformedJson,
        Code::UnsupportedMediaType,
        Code::RequestTooLarge,
        Code::BatchTooLarge,
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
        Code::Busy,
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
}
