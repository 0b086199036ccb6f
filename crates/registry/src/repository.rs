// SPDX-License-Identifier: Apache-2.0

//! A repository of a registry, and a manifest as the registry holds it.

use std::hash::{Hash, Hasher};

use bytes::Bytes;
use slipway_proto::id::SecretName;
use slipway_proto::{Digest, Reference};

use super::error::RegistryError;

/// A repository, and the credentials to use for it.
#[derive(Debug, Clone)]
pub struct Repository {
    /// Registry and repository. Tag and digest are ignored, also in comparisons.
    pub reference: Reference,
    /// The named credentials to use instead of the default ones.
    pub secret: Option<SecretName>,
}

impl Repository {
    /// Returns what makes it the one it is.
    fn identity(&self) -> (&str, &str, Option<&SecretName>) {
        (self.reference.registry(), self.reference.repository(), self.secret.as_ref())
    }
}

impl PartialEq for Repository {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Repository {}

impl Hash for Repository {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

/// A manifest or index from a registry.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its digest, computed here.
    pub digest: Digest,
    /// The media type that the registry gave.
    pub media_type: Option<String>,
}

/// The result of reading a manifest.
pub(super) type Reading = Result<Manifest, RegistryError>;
