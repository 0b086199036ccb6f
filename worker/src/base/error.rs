// SPDX-License-Identifier: Apache-2.0

//! Why a base image cannot be used, and what that means for the build.

use std::sync::Arc;

use slipway_proto::{Failure, Platform, Reason, Reference};
use slipway_registry::{ErrorKind, RegistryError};

use crate::failure::{StageError, registry};

/// Why a base image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// Its registry refused or failed.
    #[error("failed to read the base image {reference}")]
    Registry {
        /// The base, as the recipe names it.
        reference: Reference,
        /// The registry's answer, or why there is none.
        #[source]
        source: Arc<RegistryError>,
    },
    /// It has no image for the platform.
    #[error("the base image {reference} has no image for {platform}; it has {available}")]
    NoPlatform {
        /// The base, as the recipe names it.
        reference: Reference,
        /// The platform asked for.
        platform: Platform,
        /// The available platforms.
        available: String,
    },
    /// It is an image for one platform, and for another one.
    #[error("the base image {reference} is for {actual}, and the build is for {platform}")]
    OtherPlatform {
        /// The base, as the recipe names it.
        reference: Reference,
        /// The platform asked for.
        platform: Platform,
        /// Its own.
        actual: String,
    },
    /// Its documents do not describe an image.
    #[error("the base image {reference} is not an image Slipway can build on: {why}")]
    Unusable {
        /// The base, as the recipe names it.
        reference: Reference,
        /// What is wrong with its documents, for people.
        why: String,
    },
}

impl BaseError {
    /// Returns whether it has no image for the platform, as far as its documents tell.
    #[must_use]
    pub fn lacks_platform(&self) -> bool {
        matches!(self, Self::NoPlatform { .. } | Self::OtherPlatform { .. })
    }
}

impl From<BaseError> for StageError {
    fn from(error: BaseError) -> Self {
        match &error {
            BaseError::Registry { reference, source } => {
                let failure = match source.kind() {
                    ErrorKind::NotFound => Failure::new(
                        Reason::BaseImageNotFound,
                        format!(
                            "there is no base image {reference} ({source}); check its name and tag"
                        ),
                    ),
                    ErrorKind::Denied => {
                        Failure::new(Reason::RegistryDenied, format!("{error}: {source}"))
                    }
                    _ => Failure::new(Reason::PullBaseImageFailed, format!("{error}: {source}")),
                };
                registry::stage_error(failure, source)
            }
            BaseError::NoPlatform { .. } | BaseError::OtherPlatform { .. } => {
                Self::permanent(Failure::new(Reason::BaseImageNotFound, error.to_string()))
            }
            BaseError::Unusable { .. } => {
                Self::permanent(Failure::new(Reason::PullBaseImageFailed, error.to_string()))
            }
        }
    }
}
