// SPDX-License-Identifier: Apache-2.0

//! Turns an artifact, a recipe and a base image into layers, a config and a manifest.
//!
//! Everything here is a function of its input alone: entries are sorted, times and owners fixed,
//! JSON written in a fixed order. [`ASSEMBLY_VERSION`] numbers the behaviour that digests depend
//! on; golden digests in the tests hold it still.

pub mod compress;
pub mod config;
pub mod content;
pub mod java;
pub mod layer;
pub mod layout;
pub mod manifest;
pub mod tar;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use slipway_artifact::FileSource;
use slipway_proto::{BuildRequest, Digest, Failure, Reason};

use crate::base::ResolvedBase;
use crate::pulse::Pulse;
use layer::Layer;

/// Numbers the behaviour that digests depend on: layout, tar, compression, config, manifest. Raise
/// it with every change that gives the same input another digest, and record the new digests.
pub const ASSEMBLY_VERSION: u32 = 1;

/// The time of files and images: one second after the epoch, since some tools take zero for
/// "not set".
pub const DEFAULT_EPOCH: i64 = 1;

/// An image that is ready to be pushed or written to a file.
#[derive(Debug)]
pub struct Assembled {
    /// The layers made here, in order; those of the base come before them.
    pub layers: Vec<Layer>,
    /// The base, unless the image starts from nothing.
    pub base: Option<ResolvedBase>,
    /// The bytes of the config.
    pub config: Bytes,
    /// Their digest.
    pub config_digest: Digest,
    /// The bytes of the manifest.
    pub manifest: Bytes,
    /// Their digest.
    pub manifest_digest: Digest,
}

/// Why an image could not be assembled.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The artifact is not what it must be.
    #[error("{0}")]
    Artifact(String),
    /// Artifact and recipe do not go together.
    #[error("{0}")]
    Recipe(String),
    /// A file of this machine fails.
    #[error("failed to {what}")]
    Disk {
        /// What was done.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl AssembleError {
    /// Returns whether another attempt may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Disk { .. })
    }

    /// Returns the failure that users see.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            Self::Artifact(message) => Failure::new(Reason::InvalidArtifact, message),
            Self::Recipe(message) => Failure::new(Reason::InvalidRequest, message),
            Self::Disk { source, .. } => {
                Failure::new(Reason::AssembleFailed, format!("{self}: {source}"))
            }
        }
    }

    pub(crate) fn disk(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Disk { what, source }
    }
}

impl From<slipway_artifact::InspectError> for AssembleError {
    fn from(error: slipway_artifact::InspectError) -> Self {
        match error {
            slipway_artifact::InspectError::Invalid(invalid) => Self::Artifact(invalid.to_string()),
            slipway_artifact::InspectError::Read(source) => {
                Self::Disk { what: "read the artifact", source }
            }
        }
    }
}

/// Assembles an image. Blocks: it reads the whole artifact.
///
/// `scratch` is a directory for temporary files, which have no names and vanish with the result.
/// `pulse` shows that it goes on, and stops it when the build is over.
///
/// # Errors
///
/// When the artifact or the request does not allow it, or a disk fails.
pub fn assemble(
    request: &BuildRequest,
    artifact: &Arc<FileSource>,
    base: Option<ResolvedBase>,
    epoch: i64,
    scratch: &Path,
    pulse: &Pulse,
) -> Result<Assembled, AssembleError> {
    let plan = layout::plan(request, artifact)?;
    let layers = plan
        .layers
        .iter()
        .map(|planned| layer::make(planned, artifact, epoch, scratch, pulse))
        .collect::<Result<Vec<_>, _>>()?;
    let config = config::image_config(request, &plan.start, base.as_ref(), &layers, epoch)?;
    let config_digest = Digest::of(&config);
    let manifest =
        manifest::image_manifest(request, base.as_ref(), &layers, config_digest, config.len());
    let manifest_digest = Digest::of(&manifest);
    Ok(Assembled { layers, base, config, config_digest, manifest, manifest_digest })
}
