// SPDX-License-Identifier: Apache-2.0

//! A failed stage, as an attempt sees it: what users read, and whether to try again.
//!
//! Each cause is classified once, beside the error that knows it:
//!
//! | error | decides | where |
//! |---|---|---|
//! | `RegistryError` | what the registry's answer means, and whether it can pass | `slipway_registry::error` |
//! | `StoreError` | whether the artifact store may recover | `slipway_artifact::store` |
//! | `AssembleError`, `BaseError`, `PushError` | the reason that users see, and the rest of what can pass | its `From` into [`StageError`] |
//!
//! An attempt decides by the four fields and never looks at a cause again. One central `match` over
//! all errors would have to know every stage, and every stage knows this type.

pub(crate) mod registry;

use std::time::Duration;

use slipway_artifact::store::StoreError;
use slipway_fault::chain;
use slipway_proto::{Failure, Reason};

/// A stage that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{failure}")]
pub struct StageError {
    /// What users see.
    pub failure: Failure,
    /// Whether another attempt may succeed.
    pub transient: bool,
    /// Whether the attempt counts against the build. A rate limit is no fault of the build.
    pub charged: bool,
    /// How long the other side asked to wait.
    pub retry_after: Option<Duration>,
}

impl StageError {
    /// A failure that another attempt cannot change.
    #[must_use]
    pub fn permanent(failure: Failure) -> Self {
        Self::new(failure, false)
    }

    /// A failure that another attempt may not meet.
    #[must_use]
    pub fn transient(failure: Failure) -> Self {
        Self::new(failure, true)
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
