// SPDX-License-Identifier: Apache-2.0

//! Why a build failed: a stable reason code and a sentence for the person who reads it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The stable code of a failure.
///
/// Starts from the `FailureReason` strings of KubeSphere's B2I (s2irun
/// `pkg/utils/status/build_status.go`). The codes are part of the API and never change their
/// meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reason {
    /// The artifact could not be read from the artifact store.
    FetchArtifactFailed,
    /// The artifact's bytes are not what the build needs.
    InvalidArtifact,
    /// The request itself cannot be carried out.
    InvalidRequest,
    /// The environment is not in the catalogue.
    EnvironmentNotFound,
    /// The base image does not exist, or has no manifest for the platform.
    BaseImageNotFound,
    /// The base image could not be read from its registry.
    PullBaseImageFailed,
    /// The layers or the config could not be made.
    AssembleFailed,
    /// The image could not be pushed.
    PushImageFailed,
    /// The registry refused the credentials, or there were none.
    RegistryDenied,
    /// The build took longer than its `timeout_s`.
    DeadlineExceeded,
    /// A stage of the build did nothing for longer than its `stall_timeout_s`.
    StageStalled,
    /// No worker took the build within its `queue_timeout_s`.
    QueueTimeExceeded,
    /// Somebody cancelled the build.
    Cancelled,
    /// The worker shut down and gave the build back.
    WorkerDrained,
    /// The worker lost its lease: it could not reach the queue for too long.
    LeaseLost,
    /// The worker that held the build vanished.
    WorkerLost,
    /// Every permitted attempt failed.
    AttemptsExhausted,
}

impl Reason {
    /// Returns the code as it is written in documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FetchArtifactFailed => "FetchArtifactFailed",
            Self::InvalidArtifact => "InvalidArtifact",
            Self::InvalidRequest => "InvalidRequest",
            Self::EnvironmentNotFound => "EnvironmentNotFound",
            Self::BaseImageNotFound => "BaseImageNotFound",
            Self::PullBaseImageFailed => "PullBaseImageFailed",
            Self::AssembleFailed => "AssembleFailed",
            Self::PushImageFailed => "PushImageFailed",
            Self::RegistryDenied => "RegistryDenied",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::StageStalled => "StageStalled",
            Self::QueueTimeExceeded => "QueueTimeExceeded",
            Self::Cancelled => "Cancelled",
            Self::WorkerDrained => "WorkerDrained",
            Self::LeaseLost => "LeaseLost",
            Self::WorkerLost => "WorkerLost",
            Self::AttemptsExhausted => "AttemptsExhausted",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure as users see it, in the state, in events and in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// The stable code.
    pub reason: Reason,
    /// What failed, on what, and what to do about it.
    pub message: String,
}

impl Failure {
    /// Makes a failure from its code and sentence.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}
