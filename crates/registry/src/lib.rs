// SPDX-License-Identifier: Apache-2.0

//! The client of OCI registries: one connection pool and one set of tokens for all builds of a
//! process.
//!
//! No client library is suitable: `oci-client` 0.18 probes `/v2/` before each request to an open
//! registry, drops `Retry-After`, gives up the upload session of a refused mount, and gets tokens
//! for one repository, which allow no mount. The requests are those of the OCI distribution
//! specification 1.1; the methods name its sections.

mod access;
mod challenge;
pub mod credentials;
mod download;
pub mod error;
mod error_document;
mod resume;
mod single_flight;
mod token;
mod tokens;
mod transport;
mod upload;

use std::hash::{Hash, Hasher};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, StatusCode};
use slipway_fault::Backoff;
use slipway_proto::id::SecretName;
use slipway_proto::{Digest, Reference};
use tokio::time::Instant;

use access::Access;
pub use error::{ErrorKind, RegistryError};
pub use error_document::ErrorCode;
pub use resume::{Pieces, Upload, UploadError};
pub use single_flight::{Flight, SingleFlight};
use transport::Body;
pub use transport::{Registry, RegistryOptions};
pub use upload::{Mounted, Posted, UploadSession};

/// The pauses before what broke is tried again. The first two take less than a build notices; all
/// four together are as long as a registry takes to restart.
const PAUSES: Backoff = Backoff::constant(50, 4, 3_200, 20);

/// The largest manifest or index that is read, in bytes: the limit of registries themselves
/// (distribution specification, "Pushing Manifests").
pub const MAX_MANIFEST: usize = 4 * 1024 * 1024;

/// The media types of manifests and indexes that can be read.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

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
type Reading = Result<Manifest, RegistryError>;

impl Registry {
    /// Reads a manifest or index ("Pulling manifests") and checks it against `version`, if that
    /// is a digest.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the repository has no such manifest.
    pub async fn manifest(
        &self,
        repository: &Repository,
        version: &str,
    ) -> Result<Manifest, RegistryError> {
        let path = format!("manifests/{version}");
        let access = Access::pull(repository);
        let request = |builder: reqwest::RequestBuilder| builder.header("accept", MANIFEST_TYPES);
        let response = self.send(&access, Method::GET, &path, &request, &Body::Empty).await?;
        let what = format!("manifest {}:{version}", repository.reference.name());
        let media_type = response.headers().get("content-type");
        let media_type = media_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let bytes = read_bounded(response, MAX_MANIFEST, &what).await?;
        let digest = Digest::of(&bytes);
        if version.starts_with("sha256:") && version != digest.to_string() {
            return Err(RegistryError::malformed(format!(
                "{what}: the registry answered with bytes of digest {digest}"
            )));
        }
        Ok(Manifest { bytes, digest, media_type })
    }

    /// Reads a manifest like [`manifest`](Self::manifest), once for all callers at the same time.
    /// Each caller gets a result that was read after it asked, so a build never sees a tag where it
    /// was before its submission: of many builds, the first reads for itself, and the second for
    /// all that asked meanwhile. Nothing is kept for later, and a registry that does not answer is
    /// waited for once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the repository has no such manifest.
    pub async fn shared_manifest(
        &self,
        repository: &Repository,
        version: &str,
    ) -> Result<Manifest, RegistryError> {
        let key = (repository.clone(), version.to_owned());
        let flight = self.readings().join(key).await;
        let again = |read: &Reading| read.as_ref().cloned().map_err(RegistryError::again);
        if let Some(read) = flight.result() {
            return again(read);
        }
        let begun = Instant::now();
        let read = self.manifest(repository, version).await;
        let as_of = match &read {
            Err(failure) if failure.is_transient() => Instant::now(),
            _ => begun,
        };
        flight.complete_as_of(as_of, again(&read));
        read
    }

    /// Asks whether a repository has a blob ("Checking if content exists").
    ///
    /// # Errors
    ///
    /// When the registry refuses or cannot be reached.
    pub async fn has_blob(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<bool, RegistryError> {
        let path = format!("blobs/{digest}");
        // With the right to push, because a new repository may be invisible to a token for pulling.
        let access = Access::push(repository);
        match self.send(&access, Method::HEAD, &path, &|b| b, &Body::Empty).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a manifest under its digest ("Pushing manifests").
    ///
    /// # Errors
    ///
    /// When the registry refuses, cannot be reached, or stored other bytes.
    pub async fn put_manifest(
        &self,
        repository: &Repository,
        media_type: &str,
        manifest: &Bytes,
    ) -> Result<(), RegistryError> {
        let version = Digest::of(manifest).to_string();
        self.put(repository, &version, manifest, &|builder| {
            builder.header("content-type", media_type)
        })
        .await
    }

    /// Writes a manifest under a tag ("Pushing manifests"). `writer` is sent in the header
    /// `Slipway-Tag-Write`, so that a registry's log shows which attempt moved a tag.
    ///
    /// # Errors
    ///
    /// When the registry refuses, cannot be reached, or stored other bytes.
    pub async fn put_tag(
        &self,
        repository: &Repository,
        tag: &str,
        media_type: &str,
        manifest: &Bytes,
        writer: &str,
    ) -> Result<(), RegistryError> {
        self.put(repository, tag, manifest, &|builder| {
            builder.header("content-type", media_type).header("slipway-tag-write", writer)
        })
        .await
    }

    async fn put(
        &self,
        repository: &Repository,
        version: &str,
        manifest: &Bytes,
        prepare: &(dyn Fn(reqwest::RequestBuilder) -> reqwest::RequestBuilder + Sync),
    ) -> Result<(), RegistryError> {
        let path = format!("manifests/{version}");
        let access = Access::push(repository);
        let body = Body::Bytes(manifest.clone());
        let response = self.send(&access, Method::PUT, &path, prepare, &body).await?;
        if response.status() != StatusCode::CREATED && response.status() != StatusCode::OK {
            return Err(RegistryError::unexpected(&response, "the manifest"));
        }
        check_digest(&response, Digest::of(manifest), "the manifest")
    }
}

/// Checks the digest that the registry reports, if it reports one.
fn check_digest(
    response: &reqwest::Response,
    expected: Digest,
    what: &str,
) -> Result<(), RegistryError> {
    let Some(told) = response.headers().get("docker-content-digest") else { return Ok(()) };
    if told.to_str().is_ok_and(|told| told == expected.to_string()) {
        return Ok(());
    }
    // Not the sent digest. It must not count as pushed, and another try may succeed.
    Err(RegistryError::unavailable(format!(
        "the registry says that it stored {what} as {}, and {expected} was sent",
        told.to_str().unwrap_or("something unreadable")
    )))
}

async fn read_bounded(
    response: reqwest::Response,
    limit: usize,
    what: &str,
) -> Result<Bytes, RegistryError> {
    let mut body = response.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| RegistryError::from_transport(what, error))?;
        if bytes.len() + chunk.len() > limit {
            return Err(RegistryError::malformed(format!("{what} is larger than {limit} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    #[tokio::test]
    async fn a_registry_that_does_not_answer_is_waited_for_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a port");
        let (asked, mut heard) = watch::channel(0);
        let closing = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                drop(connection);
                asked.send_modify(|count| *count += 1);
            }
        });
        transport::install_crypto();
        let registry = Registry::new(RegistryOptions::default()).expect("it is made");
        let reference = format!("{address}/base:1").parse().expect("a reference");
        let repository = Repository { reference, secret: None };
        let asking = (0..8).map(|_| registry.shared_manifest(&repository, "1"));
        let answers = futures::future::join_all(asking).await;
        let all_failed =
            answers.iter().all(|read| read.as_ref().is_err_and(RegistryError::is_transient));
        assert!(all_failed, "{answers:?}");
        let count = *heard.borrow_and_update();
        assert_eq!(count, 3, "the tries of one");
        closing.abort();
    }
}
