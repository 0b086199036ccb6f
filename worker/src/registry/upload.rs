// SPDX-License-Identifier: Apache-2.0

//! Uploads: mount if possible, else one POST and one PUT of the whole blob.
//!
//! A refused mount answers with an upload session, which is used instead of opening another
//! (distribution specification, "Mounting a blob from another repository").

use bytes::Bytes;
use futures::Stream;
use http::{Method, StatusCode};
use reqwest::{Response, Url};
use slipway_proto::Digest;

use super::transport::{Access, Body, Registry};
use super::{RegistryError, Repository};

/// A place that takes one blob.
#[derive(Debug)]
pub struct UploadSession {
    location: Url,
    same_host: bool,
}

/// The registry's answer to a mount.
#[derive(Debug)]
pub enum Mounted {
    /// The blob is in the repository now.
    Yes,
    /// It must be uploaded; this is the session for it.
    No(UploadSession),
}

impl Registry {
    /// Asks the registry to take a blob over from another of its repositories.
    ///
    /// # Errors
    ///
    /// When the registry refuses the upload as such, or cannot be reached.
    pub async fn mount(
        &self,
        repository: &Repository,
        digest: Digest,
        from: &str,
    ) -> Result<Mounted, RegistryError> {
        let access = Access::push(repository);
        let path = format!("blobs/uploads/?mount={digest}&from={}", percent_encode(from));
        let response = self.send(&access, Method::POST, &path, &|b| b, &Body::Empty).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(Mounted::Yes);
        }
        self.session(&access, &response).map(Mounted::No)
    }

    /// Opens an upload session ("Pushing a blob monolithically", POST then PUT).
    ///
    /// # Errors
    ///
    /// When the registry refuses or cannot be reached.
    pub async fn begin_upload(
        &self,
        repository: &Repository,
    ) -> Result<UploadSession, RegistryError> {
        let access = Access::push(repository);
        let path = "blobs/uploads/";
        let response = self.send(&access, Method::POST, path, &|b| b, &Body::Empty).await?;
        self.session(&access, &response)
    }

    /// Sends a blob whole, in one PUT.
    ///
    /// # Errors
    ///
    /// When the registry refuses, breaks off, or computed another digest.
    pub async fn upload(
        &self,
        repository: &Repository,
        session: UploadSession,
        digest: Digest,
        size: u64,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), RegistryError> {
        let access = Access::push(repository);
        let what = format!("upload of {digest} to {}", repository.reference.name());
        let mut location = session.location;
        location.query_pairs_mut().append_pair("digest", &digest.to_string());
        let request = self
            .http()
            .put(location)
            .header("content-type", "application/octet-stream")
            .header("content-length", size)
            .body(reqwest::Body::wrap_stream(body));
        let response = self.send_once(&access, request, session.same_host, &what).await?;
        if response.status() != StatusCode::CREATED {
            return Err(RegistryError::unexpected(&response, "an upload"));
        }
        super::check_digest(&response, digest, "the blob")
    }

    fn session(
        &self,
        access: &Access,
        response: &Response,
    ) -> Result<UploadSession, RegistryError> {
        if response.status() != StatusCode::ACCEPTED {
            return Err(RegistryError::unexpected(response, "the start of an upload"));
        }
        let location = response
            .headers()
            .get("location")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| response.url().join(value).ok())
            .ok_or_else(|| {
                RegistryError::malformed(format!(
                    "{}: the registry opened an upload without saying where",
                    access.repository.reference.name()
                ))
            })?;
        let origin = self.url(access, "")?;
        let same_host = origin.origin() == location.origin();
        if !same_host && is_private(&location) {
            return Err(RegistryError::malformed(format!(
                "{}: the registry sends uploads to {}, a private address on another host",
                access.repository.reference.name(),
                location.host_str().unwrap_or_default()
            )));
        }
        Ok(UploadSession { location, same_host })
    }
}

/// Whether an address belongs to a closed network: no registry elsewhere has a business there.
fn is_private(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => {
            address.is_private() || address.is_loopback() || address.is_link_local()
        }
        Some(url::Host::Ipv6(address)) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
        Some(url::Host::Domain(name)) => name == "localhost",
        None => true,
    }
}

fn percent_encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
