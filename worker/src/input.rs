// SPDX-License-Identifier: Apache-2.0

//! The input of an image: a request, and an artifact that may still be digested or verified.
//!
//! Digesting 46 MB takes as long as a quarter of the whole build, so it goes on beside it. Whatever
//! needs the digest, or must not happen for a damaged artifact, waits for it here.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use slipway_artifact::FileSource;
use slipway_proto::{BuildRequest, Digest};

use crate::base::ResolvedBase;
use crate::failure::StageError;
use crate::observer::Observer;

/// The inputs of an image.
pub struct Input<'a> {
    /// The request.
    pub request: &'a Arc<BuildRequest>,
    /// The bytes of the artifact.
    pub artifact: Arc<FileSource>,
    /// The digest of those bytes. The one in the request is ignored.
    pub digest: &'a ArtifactDigest,
    /// Whether the bytes have that digest.
    pub verified: &'a Verified,
    /// The follower of the build.
    pub observer: &'a dyn Observer,
    /// The base, where it was resolved before.
    pub base: Option<Arc<ResolvedBase>>,
}

impl<'a> Input<'a> {
    /// Returns the same input with another follower and a base that was resolved.
    pub(crate) fn with(&self, observer: &'a dyn Observer, base: Option<Arc<ResolvedBase>>) -> Self {
        Self { observer, base, artifact: Arc::clone(&self.artifact), ..*self }
    }
}

/// Whether an artifact is the one that its request names. The check starts when the first caller
/// waits for it. Clones share its result.
#[derive(Clone)]
pub struct Verified(Shared<BoxFuture<'static, Result<(), StageError>>>);

impl Verified {
    /// Takes the check.
    #[must_use]
    pub fn by(verification: impl Future<Output = Result<(), StageError>> + Send + 'static) -> Self {
        Self(verification.boxed().shared())
    }

    /// Waits for the result.
    ///
    /// # Errors
    ///
    /// When the artifact is another one, or cannot be read.
    pub async fn wait(&self) -> Result<(), StageError> {
        self.0.clone().await
    }
}

/// The digest of an artifact. Clones share it.
#[derive(Clone)]
pub enum ArtifactDigest {
    /// It is known.
    Known(Digest),
    /// It is being computed.
    Pending(Shared<BoxFuture<'static, Result<Digest, StageError>>>),
}

impl ArtifactDigest {
    /// Takes the computation.
    #[must_use]
    pub fn by(
        computing: impl Future<Output = Result<Digest, StageError>> + Send + 'static,
    ) -> Self {
        Self::Pending(computing.boxed().shared())
    }

    /// Starts the computation. Otherwise it starts when the first caller waits for it.
    pub fn begin(&self) {
        if let Self::Pending(computing) = self {
            tokio::spawn(computing.clone());
        }
    }

    /// Returns the digest if it is known by now.
    #[must_use]
    pub fn now(&self) -> Option<Digest> {
        match self {
            Self::Known(digest) => Some(*digest),
            Self::Pending(computing) => computing.peek()?.as_ref().ok().copied(),
        }
    }

    /// Waits for the digest.
    ///
    /// # Errors
    ///
    /// When the artifact cannot be read.
    pub async fn wait(&self) -> Result<Digest, StageError> {
        match self {
            Self::Known(digest) => Ok(*digest),
            Self::Pending(computing) => computing.clone().await,
        }
    }
}
