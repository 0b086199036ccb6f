// SPDX-License-Identifier: Apache-2.0

//! Uploads an artifact under its digest, if the project does not have it.
//!
//! The file is read from disk as it is sent. A form or one `Bytes` would be simpler, but would hold
//! the whole artifact in memory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use futures::TryStreamExt as _;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Method};
use slipway_proto::Digest;
use slipway_proto::api::ArtifactView;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::retry::{Patience, Retries};
use super::{Client, ClientError, REQUEST_DEADLINE, is_missing};

/// How much is read from the file at once.
const READ_AT_ONCE: usize = 1 << 18;

/// How long an upload may make no progress. Longer than a dispatcher needs to digest, inspect and
/// store an artifact, which it does silently after the last byte.
const UPLOAD_STALL_DEADLINE: Duration = Duration::from_secs(120);

/// An artifact to upload.
#[derive(Debug, Clone, Copy)]
pub struct Upload<'a> {
    /// The file.
    pub path: &'a Path,
    /// The name it gets.
    pub filename: &'a str,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// Receives the progress of an upload.
pub trait Progress: Send + Sync {
    /// Sending starts with the first byte. Called again after a failed try.
    fn started(&self);
    /// The given number of bytes has been sent in total.
    fn sent(&self, bytes: u64);
    /// A try ended for this reason, and another follows after a pause.
    fn interrupted(&self, reason: &ClientError, pause: Duration);
    /// All bytes were sent, and the server has them.
    fn finished(&self);
}

/// Ignores the progress.
impl Progress for () {
    fn started(&self) {}
    fn sent(&self, _bytes: u64) {}
    fn interrupted(&self, _reason: &ClientError, _pause: Duration) {}
    fn finished(&self) {}
}

impl Client {
    /// Returns whether the project has the artifact.
    ///
    /// # Errors
    ///
    /// When the server refuses or cannot be asked.
    pub async fn has_artifact(&self, digest: Digest) -> Result<bool, ClientError> {
        let url = self.project_url(&["artifacts", &digest.to_string()]);
        let mut retries = Retries::default();
        loop {
            let request = self.request(Method::HEAD, url.clone()).timeout(REQUEST_DEADLINE);
            let response = request.send().await.map_err(|source| self.transport(source))?;
            let status = response.status();
            if status.is_success() {
                return Ok(true);
            }
            // The answer to HEAD has no body with a reason, so the upload that follows asks again.
            let error = self.refusal(response).await;
            match retries.after(&error, Patience::Busy) {
                Some(pause) if !is_missing(status) => tokio::time::sleep(pause).await,
                _ => return Ok(false),
            }
        }
    }

    /// Uploads an artifact unless the project has it. Returns what the server read from it, or
    /// `None` if it was there.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or the server refuses it or stays away.
    pub async fn upload(
        &self,
        upload: Upload<'_>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Option<ArtifactView>, ClientError> {
        if self.has_artifact(upload.digest).await? {
            return Ok(None);
        }
        let mut retries = Retries::default();
        loop {
            match self.put(upload, progress).await {
                Ok(artifact) => {
                    progress.finished();
                    return Ok(Some(artifact));
                }
                Err(error) => match retries.after(&error, Patience::Away) {
                    Some(pause) => {
                        progress.interrupted(&error, pause);
                        tokio::time::sleep(pause).await;
                    }
                    None => return Err(error),
                },
            }
        }
    }

    async fn put(
        &self,
        upload: Upload<'_>,
        progress: &Arc<dyn Progress>,
    ) -> Result<ArtifactView, ClientError> {
        let file = tokio::fs::File::open(upload.path)
            .await
            .map_err(|source| ClientError::ReadArtifact { path: upload.path.to_owned(), source })?;
        progress.started();
        let sent = Arc::new(AtomicU64::new(0));
        // No more than the announced size, even if the file grows meanwhile.
        let pieces = ReaderStream::with_capacity(file.take(upload.size_bytes), READ_AT_ONCE);
        let counter = Arc::clone(&sent);
        let listener = Arc::clone(progress);
        let body = Body::wrap_stream(pieces.inspect_ok(move |piece| {
            let length = piece.len() as u64;
            listener.sent(counter.fetch_add(length, Ordering::Relaxed) + length);
        }));
        let mut url = self.project_url(&["artifacts"]);
        url.query_pairs_mut().append_pair("filename", upload.filename);
        let request = self
            .request(Method::PUT, url)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, upload.size_bytes)
            .header("content-digest", content_digest(upload.digest))
            .body(body);
        let answer = async {
            let response = self.send(request).await?;
            let status = response.status().as_u16();
            let bytes = response.bytes().await.map_err(|source| self.transport(source))?;
            serde_json::from_slice(&bytes).map_err(|source| ClientError::Unexpected {
                server: self.shown(),
                status,
                source: Some(source),
            })
        };
        tokio::select! {
            answer = answer => answer,
            () = stalled(&sent) => Err(self.silent(UPLOAD_STALL_DEADLINE)),
        }
    }
}

/// Returns once nothing has been sent for the deadline.
async fn stalled(sent: &AtomicU64) {
    let mut seen = None;
    loop {
        let now = sent.load(Ordering::Relaxed);
        if seen == Some(now) {
            return;
        }
        seen = Some(now);
        tokio::time::sleep(UPLOAD_STALL_DEADLINE).await;
    }
}

/// Writes a digest as a dictionary of byte sequences (RFC 9530 section 2, RFC 8941).
fn content_digest(digest: Digest) -> String {
    format!("sha-256=:{}:", base64::engine::general_purpose::STANDARD.encode(digest.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_digest_has_the_form_of_its_rfc() {
        // The example of RFC 9530, appendix B.1.
        let digest = Digest::of(b"{\"hello\": \"world\"}\n");
        assert_eq!(
            content_digest(digest),
            "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
        );
    }
}
