// SPDX-License-Identifier: Apache-2.0

//! What the failure of a stage means for the build: the one place where the errors of registry,
//! store and assembly become permanent or transient, charged or free.

use std::time::Duration;

use slipway_artifact::store::StoreError;
use slipway_fault::chain;
use slipway_proto::{Failure, Reason};

use crate::assemble::AssembleError;
use crate::base::BaseError;
use crate::push::PushError;

/// A stage that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{failure}")]
pub struct StageError {
    /// What users see.
    pub failure: Failure,
    /// Whether another attempt may succeed.
    pub transient: bool,
    /// Whether the attempt counts against the build. A registry that asks for fewer requests is
    /// no fault of the build.
    pub charged: bool,
    /// How long the other side asked to wait.
    pub retry_after: Option<Duration>,
}

impl StageError {
    /// A failure that no other attempt changes.
    #[must_use]
    pub fn permanent(failure: Failure) -> Self {
        Self { failure, transient: false, charged: true, retry_after: None }
    }

    fn new(failure: Failure, transient: bool) -> Self {
        Self { failure, transient, charged: true, retry_after: None }
    }
}

impl From<StoreError> for StageError {
    fn from(error: StoreError) -> Self {
        let failure = Failure::new(Reason::FetchArtifactFailed, chain(&error));
        Self::new(failure, error.is_transient())
    }
}

impl From<BaseError> for StageError {
    fn from(error: BaseError) -> Self {
        let (limited, retry_after) = match &error {
            BaseError::Registry { source, .. } => {
                (source.kind() == slipway_registry::ErrorKind::RateLimited, source.retry_after())
            }
            _ => (false, None),
        };
        Self { charged: !limited, retry_after, ..Self::new(error.failure(), error.is_transient()) }
    }
}

impl From<AssembleError> for StageError {
    fn from(error: AssembleError) -> Self {
        Self::new(error.failure(), error.is_transient())
    }
}

impl From<PushError> for StageError {
    fn from(error: PushError) -> Self {
        Self {
            charged: !error.is_rate_limit(),
            retry_after: error.retry_after(),
            ..Self::new(error.failure(), error.is_transient())
        }
    }
}
