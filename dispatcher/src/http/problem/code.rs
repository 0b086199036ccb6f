// SPDX-License-Identifier: Apache-2.0

//! The stable codes that clients branch on.

use http::StatusCode;

/// Makes the codes from a table: name, status, code and title. A number of seconds at the end says
/// how long a client should wait before it repeats the request; without one the same request fails
/// again.
macro_rules! codes {
    ($($name:ident $status:ident $code:literal $title:literal $($seconds:literal)?;)*) => {
        /// A code, with the status, the title and the advice that belong to it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum Code {
            /// The bytes are not an artifact. The code comes from the inspection.
            InvalidArtifact(&'static str),
            $($name,)*
        }

        impl Code {
            /// Every code; of those of an inspection, one as an example.
            #[cfg(test)]
            const ALL: &'static [Self] =
                &[Self::InvalidArtifact("not_an_artifact"), $(Self::$name,)*];

            /// Returns status, code and title.
            pub(super) fn describe(self) -> (StatusCode, &'static str, &'static str) {
                match self {
                    Self::InvalidArtifact(code) => {
                        (StatusCode::UNPROCESSABLE_ENTITY, code, "The file cannot be built")
                    }
                    $(Self::$name => (StatusCode::$status, $code, $title),)*
                }
            }

            /// Returns how many seconds a client should wait before it tries again; `None` where
            /// the same request fails again.
            pub(crate) fn retry_after(self) -> Option<u16> {
                match self {
                    $($(Self::$name => Some($seconds),)?)*
                    _ => None,
                }
            }
        }
    };
}

// Builds leave a full queue at the rate of the fleet. What restarts is back within two seconds.
codes! {
    InvalidRequest UNPROCESSABLE_ENTITY "invalid_request" "The build request has mistakes";
    MalformedJson BAD_REQUEST "malformed_json" "The body is not JSON";
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "unsupported_media_type"
        "The media type of the body is not supported";
    RequestTooLarge PAYLOAD_TOO_LARGE "request_too_large" "The build request is too large";
    BatchTooLarge PAYLOAD_TOO_LARGE "batch_too_large" "The batch is too large";
    InvalidName BAD_REQUEST "invalid_name" "A name in the path is malformed";
    InvalidBuildId BAD_REQUEST "invalid_build_id" "The build id is malformed";
    InvalidDigest BAD_REQUEST "invalid_digest" "The digest is malformed";
    InvalidQuery BAD_REQUEST "invalid_query" "The query parameters have mistakes";
    InvalidIdempotencyKey BAD_REQUEST "invalid_idempotency_key"
        "The Idempotency-Key header is malformed";
    IdempotencyKeyReused CONFLICT "idempotency_key_reused"
        "The idempotency key belongs to another request";
    InvalidContentDigest BAD_REQUEST "invalid_content_digest"
        "The Content-Digest header is malformed";
    DigestMismatch UNPROCESSABLE_ENTITY "digest_mismatch"
        "The bytes do not match the Content-Digest header";
    ArtifactTooLarge PAYLOAD_TOO_LARGE "artifact_too_large" "The artifact is too large";
    UploadTruncated BAD_REQUEST "upload_truncated" "The upload was cut off";
    UploadTimedOut REQUEST_TIMEOUT "upload_timed_out" "The upload made no progress for too long";
    ArtifactNotFound NOT_FOUND "artifact_not_found" "The project has no such artifact";
    ArtifactInUse CONFLICT "artifact_in_use" "A build needs the artifact";
    BuildNotFound NOT_FOUND "build_not_found" "The project has no such build";
    BuildNotFinished CONFLICT "build_not_finished" "The build is not finished";
    BuildFinished CONFLICT "build_finished" "The build is finished";
    BuildPublishing CONFLICT "build_publishing" "The build is being published";
    DeadLetterNotFound NOT_FOUND "dead_letter_not_found" "The project has no such dead letter";
    LetterUnreadable UNPROCESSABLE_ENTITY "letter_unreadable"
        "The dead letter does not hold a build request";
    WorkerNotFound NOT_FOUND "worker_not_found" "There is no such worker";
    NotFound NOT_FOUND "not_found" "There is nothing at this path";
    MethodNotAllowed METHOD_NOT_ALLOWED "method_not_allowed"
        "The path does not support this method";
    QueueFull SERVICE_UNAVAILABLE "queue_full" "The queue is full" 5;
    QueueUnavailable SERVICE_UNAVAILABLE "queue_unavailable" "The queue does not answer" 2;
    WorkerSilent SERVICE_UNAVAILABLE "worker_silent" "The worker does not answer" 2;
    StoreUnavailable SERVICE_UNAVAILABLE "store_unavailable" "The artifact store does not answer" 2;
    Busy SERVICE_UNAVAILABLE "busy" "The dispatcher is busy" 2;
    NotReady SERVICE_UNAVAILABLE "not_ready" "The dispatcher is not ready" 2;
    ShuttingDown SERVICE_UNAVAILABLE "shutting_down" "The dispatcher is shutting down" 2;
    Internal INTERNAL_SERVER_ERROR "internal" "Internal error of the dispatcher";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients branch on these, so they must not change.
    #[test]
    fn codes_and_their_statuses_stay() {
        let lines: Vec<String> = Code::ALL
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
