// SPDX-License-Identifier: Apache-2.0

//! Reads and writes manifests and indexes.
//!
//! A manifest is read whole into memory, so its size is bounded. One that is named by digest is
//! checked against its bytes.

use bytes::Bytes;
use http::Method;
use slipway_proto::Digest;
use tokio::time::Instant;

use super::access::Access;
use super::body::read_bounded;
use super::error::RegistryError;
use super::repository::{Manifest, Reading, Repository};
use super::transport::{Body, Registry};
use super::upload::check_digest;

/// The largest manifest or index that is read, in bytes: the limit of registries themselves
/// (distribution specification, "Pushing Manifests").
pub const MAX_MANIFEST: usize = 4 * 1024 * 1024;

/// The media types of manifests and indexes that can be read.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

impl Registry {
    /// Reads a manifest or index ("Pulling manifests") and checks it against `version`, if that
    /// is a digest.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](super::ErrorKind::NotFound) when the repository has no such manifest.
    pub async fn manifest(
        &self,
        repository: &Repository,
        version: &str,
    ) -> Result<Manifest, RegistryError> {
        self.read(&Access::pull(repository), version).await
    }

    async fn read(&self, access: &Access, version: &str) -> Result<Manifest, RegistryError> {
        let path = format!("manifests/{version}");
        let repository = &access.repository;
        let request = |builder: reqwest::RequestBuilder| builder.header("accept", MANIFEST_TYPES);
        let response = self.send(access, Method::GET, &path, &request, &Body::Empty).await?;
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
    /// [`ErrorKind::NotFound`](super::ErrorKind::NotFound) when the repository has no such manifest.
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

    /// Returns whether a repository holds this manifest, as the one who may push to it sees it.
    pub async fn has_manifest(&self, repository: &Repository, digest: Digest) -> bool {
        self.read(&Access::push(repository), &digest.to_string()).await.is_ok()
    }

    /// Writes a manifest under a tag ("Pushing manifests"). `writer` is sent in the header
    /// `Slipway-Tag-Write`, so that a registry's log shows which attempt moved a tag.
    ///
    /// A tag that points at the manifest already is fine, whatever the registry says to the write:
    /// one with immutable tags refuses it, each in its own way.
    ///
    /// # Errors
    ///
    /// When the registry refuses, cannot be reached, or stored other bytes;
    /// [`ErrorKind::Refused`](super::ErrorKind::Refused) when the tag is another manifest's and the
    /// registry does not move it.
    pub async fn put_tag(
        &self,
        repository: &Repository,
        tag: &str,
        media_type: &str,
        manifest: &Bytes,
        writer: &str,
    ) -> Result<(), RegistryError> {
        let prepare = |builder: reqwest::RequestBuilder| {
            builder.header("content-type", media_type).header("slipway-tag-write", writer)
        };
        let put = self.put(repository, tag, manifest, &prepare).await;
        let Err(refusal) = put else { return Ok(()) };
        let is_refused = refusal.status().is_some() && !refusal.is_transient();
        if !is_refused && !refusal.is_unanswered() {
            return Err(refusal);
        }
        let digest = Digest::of(manifest);
        match self.read(&Access::push(repository), tag).await {
            Ok(now) if now.digest == digest => Ok(()),
            Ok(now) if is_refused => Err(RegistryError::refused(format!(
                "the tag {tag} is taken by {}, and tags there are immutable: choose another tag \
                ({refusal})",
                now.digest
            ))),
            _ => Err(refusal),
        }
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
        // Any success: quay.io answered 202 for a time.
        check_digest(&response, Digest::of(manifest), "the manifest")
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::RegistryOptions;

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
        crate::transport::install_crypto();
        let registry = Registry::new(RegistryOptions::default()).expect("it is made");
        let reference = format!("{address}/base:1").parse().expect("a reference");
        let repository = Repository { reference, secret: None };
        let asking = (0..8).map(|_| registry.shared_manifest(&repository, "1"));
        let answers = futures::future::join_all(asking).await;
        let all_failed =
            answers.iter().all(|read| read.as_ref().is_err_and(RegistryError::is_transient));
        assert!(all_failed, "{answers:?}");
        let count = *heard.borrow_and_update();
        assert_eq!(count, 4, "the tries of one, and whether it wants TLS");
        closing.abort();
    }
}
