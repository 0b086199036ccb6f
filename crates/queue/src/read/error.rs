// SPDX-License-Identifier: Apache-2.0

//! Why a stream could not be read.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::{LastRawMessageError, LastRawMessageErrorKind};

use crate::query::QueryError;

/// Why a stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The server could not be asked about the stream.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The server refused or did not answer.
    #[error("failed to read the stream {stream}")]
    Unavailable {
        /// The stream.
        stream: String,
        /// The client's error.
        #[source]
        source: async_nats::Error,
    },
    /// The server stopped answering in the middle.
    #[error("the stream {stream} stopped answering")]
    Stalled {
        /// The stream.
        stream: String,
    },
    /// The connection was lost and restored, so the server may have forgotten the reader.
    #[error("the connection was lost while the stream {stream} was read")]
    Reconnected {
        /// The stream.
        stream: String,
    },
}

/// Returns whether the error means that a subject holds no message.
pub(crate) fn is_missing(error: &LastRawMessageError) -> bool {
    match error.kind() {
        LastRawMessageErrorKind::NoMessageFound => true,
        LastRawMessageErrorKind::JetStream(inner) => {
            inner.error_code() == ErrorCode::NO_MESSAGE_FOUND
        }
        _ => false,
    }
}
