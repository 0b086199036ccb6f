// SPDX-License-Identifier: Apache-2.0

//! Failures that a registry caused, when a base is pulled or an image is pushed.
//!
//! A file of its own, so that assembly can use [`StageError`] without knowing registries.

use slipway_proto::Failure;
use slipway_registry::{ErrorKind, RegistryError};

use super::StageError;

/// Makes the failure of a stage to which a registry said no, or nothing.
pub(crate) fn stage_error(failure: Failure, cause: &RegistryError) -> StageError {
    StageError {
        failure,
        transient: cause.is_transient(),
        charged: cause.kind() != ErrorKind::RateLimited,
        retry_after: cause.retry_after(),
    }
}
