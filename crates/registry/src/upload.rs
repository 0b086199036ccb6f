// SPDX-License-Identifier: Apache-2.0

//! The single requests of an upload: mount, open a session, send all or a piece into it, ask what
//! it holds. `resume` combines them.
//!
//! A refused mount answers with an upload session, which is used instead of opening another one one
//! one (distribution specification, "Mounting a blob from another repository").

use bytes::Bytes;
use http::{Method, StatusCode};
use reqwest::{RequestBuilder, Response, Url};
use slipway_proto::Digest;

use super::access::Access;
use super::address::is_private;
use super::redirect::in_the_clear;
use super::transport::{Body, Registry};
use super::{ErrorKind, RegistryError, Repository};

/// A session for one blob.
#[derive(Debug, Clone)]
pub struct UploadSession {
    pub(super) location: Url,
    pub(super) same_host: bool,
    /// The smallest piece that the registry accepts, in bytes (`OCI-Chunk-Min-Length`).
    pub(super) min_chunk: u64,
}

/// The registry's answer to a mount. A mount only saves an upload, so none of them is a failure.
#[derive(Debug)]
pub enum Mounted {
    /// The blob is in the repository now.
    Yes,
    /// It must be uploaded, into this session.
    No(UploadSession),
    /// It must be uploaded, into a session that is still to be opened: the registry has no mounts,
    /// or none for this client, or none at the moment.
    Refused(RegistryError),
}

/// The registry's answer to a blob in one request.
#[derive(Debug)]
pub enum Posted {
    /// The blob is in the repository now.
    Yes,
    /// The registry does not support this, and opened a session instead.
    No(Option<UploadSession>),
}

impl Registry {
    /// Asks whether a repository has a blob ("Checking if content exists"). One that does not say
    /// so does not have it: then the blob is uploaded, and only that must be possible.
    ///
    /// # Errors
    ///
    /// When the registry asks to wait, or cannot be reached.
    pub async fn has_blob(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<bool, RegistryError> {
        let path = format!("blobs/{digest}");
        // With the right to push, because a new repository may be invisible to a token for pulling.
        let access = Access::push(repository);
        match self.send(&access, Method::HEAD, &path, &|b| b, &Body::Empty).await {
            Ok(response) => Ok(check_digest(&response, digest, "the blob").is_ok()),
            Err(error) if error.kind() == ErrorKind::RateLimited => Err(error),
            Err(error) if error.status().is_some() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks the registry to mount a blob from another of its repositories. If the other is the
    /// same, asks whether it has the blob.
    pub async fn mount(&self, repository: &Repository, digest: Digest, from: &str) -> Mounted {
        let access = Access::mount(repository, from);
        let path = format!("blobs/uploads/?mount={digest}&from={}", percent_encode(from));
        let sent = self.send_once(&access, &Method::POST, &path, &|b| b, &Body::Empty).await;
        let mounted = sent.and_then(|response| match response.status() {
            StatusCode::CREATED => {
                check_digest(&response, digest, "the blob").map(|()| Mounted::Yes)
            }
            _ => self.session(&access, &response, None).map(Mounted::No),
        });
        mounted.unwrap_or_else(Mounted::Refused)
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
        self.session(&access, &response, None)
    }

    /// Sends a small blob in one request ("Pushing a blob monolithically", single POST). Registries
    /// need not support this. One that does not opens a session or refuses, which is remembered.
    ///
    /// # Errors
    ///
    /// When the registry denies this, asks to wait, or cannot be reached.
    pub async fn post_whole(
        &self,
        repository: &Repository,
        digest: Digest,
        bytes: &Bytes,
    ) -> Result<Posted, RegistryError> {
        let registry = repository.reference.registry();
        if self.refuses_whole(registry) {
            return Ok(Posted::No(None));
        }
        let access = Access::push(repository);
        let path = format!("blobs/uploads/?digest={digest}");
        let prepare = |request: RequestBuilder| octets(request, bytes.len() as u64);
        let body = Body::Bytes(bytes.clone());
        match self.send(&access, Method::POST, &path, &prepare, &body).await {
            Ok(response) if response.status() == StatusCode::CREATED => {
                check_digest(&response, digest, "the blob").map(|()| Posted::Yes)
            }
            Ok(response) => {
                self.remember_refusal(registry);
                Ok(Posted::No(self.session(&access, &response, None).ok()))
            }
            Err(error) => match error.kind() {
                ErrorKind::Refused | ErrorKind::NotFound | ErrorKind::Malformed => {
                    self.remember_refusal(registry);
                    Ok(Posted::No(None))
                }
                _ => Err(error),
            },
        }
    }

    /// Reads from a successful answer where an upload continues, whatever its status: registries
    /// mix up 201, 202 and 204. `before` is the session of the request, because an answer need not
    /// repeat its location.
    pub(super) fn session(
        &self,
        access: &Access,
        response: &Response,
        before: Option<&UploadSession>,
    ) -> Result<UploadSession, RegistryError> {
        let name = || access.repository.reference.name();
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        let told = header("location").and_then(|value| response.url().join(value).ok());
        let known = || before.map(|session| session.location.clone());
        let location = told.or_else(known).ok_or_else(|| {
            RegistryError::malformed(format!(
                "{}: the registry answered {} to the start of an upload, and not where it goes on",
                name(),
                response.status()
            ))
        })?;
        let registry = access.repository.reference.registry();
        if !self.may_go_to(registry, &location) {
            return Err(in_the_clear(registry, "uploads", &location));
        }
        let same_host = self.url(access, "")?.origin() == location.origin();
        if !same_host && is_private(&location) {
            return Err(RegistryError::malformed(format!(
                "{}: the registry sends uploads to {}, a private address on another host",
                name(),
                location.host_str().unwrap_or_default()
            )));
        }
        let min_chunk = header("oci-chunk-min-length").and_then(|value| value.trim().parse().ok());
        let min_chunk = min_chunk.or_else(|| before.map(|session| session.min_chunk)).unwrap_or(0);
        Ok(UploadSession { location, same_host, min_chunk })
    }
}

/// Checks the digest that the registry reports, if it reports one.
pub(super) fn check_digest(
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

/// Adds the headers of a request that carries a number of bytes of a blob.
pub(super) fn octets(request: RequestBuilder, length: u64) -> RequestBuilder {
    request.header("content-type", "application/octet-stream").header("content-length", length)
}

/// Reads how many bytes a session holds from the header `Range: 0-<last>`. `0-0` is ambiguous:
/// registries write it for an empty session as well as for a single byte.
pub(super) fn stored(response: &Response) -> Option<u64> {
    stored_by(response.headers().get("range")?.to_str().ok()?)
}

fn stored_by(range: &str) -> Option<u64> {
    let (first, last) = range.trim().trim_start_matches("bytes=").split_once('-')?;
    let last: u64 = last.trim().parse().ok()?;
    (first.trim() == "0" && last > 0).then(|| last.saturating_add(1))
}

fn percent_encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::stored_by;

    #[test]
    fn what_a_session_holds_is_read_from_its_range() {
        assert_eq!(stored_by("0-99"), Some(100));
        assert_eq!(stored_by("bytes=0-99"), Some(100));
        for nothing in ["0-0", "", "7-99", "0-", "x"] {
            assert_eq!(stored_by(nothing), None, "{nothing}");
        }
    }
}
