// SPDX-License-Identifier: Apache-2.0

//! What can go wrong in the artifact store, and whether trying again can help.

use std::io;

use slipway_proto::Digest;

use crate::invalid::InvalidArtifact;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// An operation of the artifact store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The scheme is known, but its feature was not built in.
    #[error(
        "this slipway was built without support for {scheme}:// artifact stores: use a directory, \
        or build it with the feature `{feature}` of slipway-artifact"
    )]
    Unsupported {
        /// The URL's scheme.
        scheme: String,
        /// The feature that adds it.
        feature: &'static str,
    },
    /// The text names no store.
    #[error("{0} is not an artifact store: use a directory, or a URL with file, s3, gs or az")]
    InvalidUrl(String),
    /// There is no such artifact.
    #[error("the artifact {digest} is not in the store: upload it again")]
    NotFound {
        /// The digest of the artifact.
        digest: Digest,
    },
    /// The stored bytes are not those that were uploaded.
    #[error(
        "the artifact {expected} is damaged in the store (its bytes have the digest {actual}): \
        upload it again"
    )]
    Corrupt {
        /// The digest that it was stored under.
        expected: Digest,
        /// The digest of what was read.
        actual: Digest,
    },
    /// The record of an artifact cannot be read.
    #[error("the record of the artifact {digest} is damaged: upload it again")]
    BadRecord {
        /// The digest of the artifact.
        digest: Digest,
        /// What the parser reports.
        source: serde_json::Error,
    },
    /// The store refuses access.
    #[error("the artifact store denies access: cannot {action}")]
    Denied {
        /// The work that failed, as in "read an artifact".
        action: &'static str,
        /// What the storage reports.
        source: Source,
    },
    /// The store cannot be reached, is full, or fails.
    #[error("the artifact store is unavailable: cannot {action}")]
    Unavailable {
        /// The work that failed, as in "read an artifact".
        action: &'static str,
        /// What the storage reports.
        source: Source,
    },
}

impl StoreError {
    /// Returns whether the same operation may succeed later, once the storage has recovered.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub(super) fn unavailable(action: &'static str, source: impl Into<Source>) -> Self {
        Self::Unavailable { action, source: source.into() }
    }

    pub(super) fn of_io(action: &'static str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Denied { action, source: error.into() }
            }
            _ => Self::unavailable(action, error),
        }
    }

    pub(super) fn of_object(action: &'static str, error: object_store::Error) -> Self {
        use object_store::Error;
        match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                Self::Denied { action, source: error.into() }
            }
            _ => Self::unavailable(action, error),
        }
    }

    /// A blocking task ended without a result: the process is shutting down, or there is a bug.
    pub(super) fn of_task(error: tokio::task::JoinError) -> Self {
        Self::unavailable("finish a piece of work", error)
    }
}

/// Why an upload was refused.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The bytes are not an artifact that can be built.
    #[error(transparent)]
    Invalid(#[from] InvalidArtifact),
    /// The bytes are not those that the client meant to send.
    #[error(
        "the upload has the digest {actual} and should have {expected}: it was damaged on its \
        way, send it again"
    )]
    DigestMismatch {
        /// The digest that it was stored under.
        expected: Digest,
        /// What arrived.
        actual: Digest,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
