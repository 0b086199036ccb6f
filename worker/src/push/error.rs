// SPDX-License-Identifier: Apache-2.0

//! What can go wrong in a push, and what it means for the build.

use slipway_proto::{Digest, Failure, Reason, Reference};
use slipway_registry::{ErrorKind, RegistryError, Repository};

use crate::assemble::AssembleError;
use crate::cache::CacheError;
use crate::failure::{StageError, registry};

/// Why an image could not be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The target's registry refused or failed.
    #[error("failed to push to {repository}")]
    Registry {
        /// The target repository.
        repository: String,
        /// The registry's answer, or why there is none.
        #[source]
        source: RegistryError,
    },
    /// A layer of the base could not be read.
    #[error("failed to read layer {digest} of the base image {reference}")]
    BaseLayer {
        /// The base, as the recipe names it.
        reference: Reference,
        /// The digest of the layer.
        digest: Digest,
        /// What the cache reports.
        #[source]
        source: CacheError,
    },
    /// A layer could not be made again.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The bytes to send could not be read.
    #[error("failed to read what is to be pushed")]
    Content(#[source] std::io::Error),
    /// The image must not be published.
    #[error("the artifact is not the one that the request names")]
    Withheld,
    /// Another worker has the build by now.
    #[error("the build is another's by now")]
    LeaseLost,
}

impl PushError {
    /// The registry of a target refused or failed.
    pub(super) fn of_registry(repository: &Repository, source: RegistryError) -> Self {
        Self::Registry { repository: repository.reference.name(), source }
    }
}

impl From<PushError> for StageError {
    fn from(error: PushError) -> Self {
        let caused = |reason, source: &dyn std::error::Error| {
            Failure::new(reason, format!("{error}: {source}"))
        };
        match &error {
            PushError::Registry { source, .. } => {
                let reason = match source.kind() {
                    ErrorKind::Denied => Reason::RegistryDenied,
                    _ => Reason::PushImageFailed,
                };
                registry::stage_error(caused(reason, source), source)
            }
            PushError::BaseLayer { source, .. } => {
                let failure = caused(Reason::PullBaseImageFailed, source);
                match source {
                    CacheError::Fetch(answer) => registry::stage_error(failure, answer),
                    CacheError::Size { .. } => Self::permanent(failure),
                    _ => Self::transient(failure),
                }
            }
            PushError::Content(source) => Self::transient(caused(Reason::PushImageFailed, source)),
            PushError::Withheld => {
                Self::transient(Failure::new(Reason::FetchArtifactFailed, error.to_string()))
            }
            PushError::LeaseLost => {
                Self::transient(Failure::new(Reason::LeaseLost, error.to_string()))
            }
            PushError::Assemble(source) => source.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn each_cause_has_its_reason_and_says_whether_to_try_again() {
        let repository = "r.example/app".to_owned();
        let base_layer = |source| PushError::BaseLayer {
            reference: "r.example/base:1".parse().expect("a reference"),
            digest: Digest::of(b""),
            source,
        };
        let away = || RegistryError::unavailable("away".to_owned());
        let broken = || std::io::Error::other("broken");
        let cases = [
            (
                PushError::Registry { repository, source: RegistryError::denied("no".into()) },
                Reason::RegistryDenied,
                false,
            ),
            (
                PushError::Registry { repository: "r.example/app".into(), source: away() },
                Reason::PushImageFailed,
                true,
            ),
            (base_layer(CacheError::Fetch(Arc::new(away()))), Reason::PullBaseImageFailed, true),
            (
                base_layer(CacheError::Size { digest: Digest::of(b""), expected: 1 }),
                Reason::PullBaseImageFailed,
                false,
            ),
            (
                base_layer(CacheError::Abandoned { digest: Digest::of(b"") }),
                Reason::PullBaseImageFailed,
                true,
            ),
            (
                PushError::Assemble(AssembleError::Artifact("bad".into())),
                Reason::InvalidArtifact,
                false,
            ),
            (PushError::Content(broken()), Reason::PushImageFailed, true),
            (PushError::LeaseLost, Reason::LeaseLost, true),
        ];
        for (error, reason, transient) in cases {
            let shown = error.to_string();
            let stage = StageError::from(error);
            assert_eq!((stage.failure.reason, stage.transient), (reason, transient), "{shown}");
            assert!(stage.charged, "{shown}");
        }
    }
}
