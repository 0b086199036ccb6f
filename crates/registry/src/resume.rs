// SPDX-License-Identifier: Apache-2.0

//! A whole upload, which continues where it broke if the registry kept its part.
//!
//! A blob goes in one PUT, a large one in PATCH requests of a bounded size and a closing PUT. When
//! a request breaks, the session is asked what it holds ("Pushing a blob in chunks", GET of the
//! upload's location), and the rest goes in PATCH requests. A session that is gone is replaced by a
//! new one. docker-registry 2.8 gives up a session whose request broke while it wrote, and one
//! whose state it cannot read after a restart without `REGISTRY_HTTP_SECRET`. It continues if the
//! break was between two requests.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use reqwest::{RequestBuilder, Response};
use slipway_proto::Digest;

use super::access::Access;
use super::error_document::ErrorCode;
use super::transport::Registry;
use super::upload::{UploadSession, check_digest, octets, stored};
use super::{ErrorKind, RegistryError, Repository, TRANSFER_BACKOFF};

/// How often an upload may break without progress.
const MAX_BREAKS: u32 = 3;
/// The fewest bytes that count as progress. So the number of breaks is bounded by the size.
const MIN_PROGRESS: u64 = 1 << 20;
/// How often a registry that does not answer is asked again about a session: with the pauses, for
/// as long as a restart takes.
const MAX_QUESTIONS: u32 = 5;

/// The pieces of a blob's content, in order.
pub type Pieces = BoxStream<'static, io::Result<Bytes>>;

/// A blob to upload.
pub struct Upload<'a> {
    /// Its digest.
    pub digest: Digest,
    /// The number of its bytes.
    pub size: u64,
    /// Reads its bytes from an offset to the end. Called again after a break.
    pub content: &'a (dyn Fn(u64) -> Pieces + Send + Sync),
}

/// Why an upload failed.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The registry refused or failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The content could not be read.
    #[error("failed to read what is to be uploaded")]
    Content(#[source] io::Error),
}

/// Why a request of an upload failed.
enum Stop {
    /// For good.
    End(UploadError),
    /// The connection broke or the registry had an error. The session may have kept a part.
    Broken(RegistryError),
    /// The registry refuses what was sent into this session.
    Refused(RegistryError),
}

impl Registry {
    /// Uploads a blob, into an open session if there is one.
    ///
    /// # Errors
    ///
    /// When the content cannot be read, or the registry refuses, breaks again and again without
    /// progress, or computed another digest.
    pub async fn upload(
        &self,
        repository: &Repository,
        session: Option<UploadSession>,
        blob: &Upload<'_>,
    ) -> Result<(), UploadError> {
        let sending = Sending {
            registry: self,
            repository,
            access: Access::push(repository),
            what: format!("upload of {} to {}", blob.digest, repository.reference.name()),
            blob,
            session,
            held: 0,
            is_resumed: false,
        };
        Box::pin(sending.run()).await
    }
}

/// An upload in progress.
struct Sending<'a> {
    registry: &'a Registry,
    repository: &'a Repository,
    access: Access,
    what: String,
    blob: &'a Upload<'a>,
    session: Option<UploadSession>,
    /// The bytes that the session holds.
    held: u64,
    /// Whether the session was continued after a break.
    is_resumed: bool,
}

impl Sending<'_> {
    async fn run(mut self) -> Result<(), UploadError> {
        let (mut pauses, mut furthest) = (TRANSFER_BACKOFF.pauses(), 0);
        loop {
            let (failure, refused) = match self.send_rest().await {
                Ok(()) => return Ok(()),
                Err(Stop::End(error)) => return Err(error),
                Err(Stop::Broken(failure)) => (failure, false),
                Err(Stop::Refused(failure)) => (failure, true),
            };
            let before = self.held;
            if self.find_rest().await? {
                return Ok(());
            }
            if refused && self.held == before {
                // What it refuses is what it asked for.
                self.start_over();
            }
            if self.held >= furthest + MIN_PROGRESS {
                pauses.reset();
                furthest = self.held;
            }
            if pauses.failures() + 1 >= MAX_BREAKS {
                return Err(failure.into());
            }
            tracing::debug!(what = self.what, held = self.held, %failure, "an upload broke");
            pauses.wait().await;
        }
    }

    /// Sends what the session lacks, and closes it.
    async fn send_rest(&mut self) -> Result<(), Stop> {
        if self.session.is_none() {
            let opened = self.registry.begin_upload(self.repository).await;
            self.session = Some(opened.map_err(|error| Stop::End(error.into()))?);
            self.held = 0;
        }
        let size = self.blob.size;
        let chunk = self.registry.upload_chunk_bytes();
        let in_chunks = chunk > 0 && size > chunk;
        if self.held == 0 && !in_chunks {
            return self.close(Some(0)).await;
        }
        let min_chunk = self.session.as_ref().map_or(0, |session| session.min_chunk);
        let chunk = if in_chunks { chunk.max(min_chunk) } else { size };
        while self.held < size {
            self.patch(size.min(self.held.saturating_add(chunk))).await?;
        }
        self.close(None).await
    }

    /// Sends the piece up to an offset.
    async fn patch(&mut self, end: u64) -> Result<(), Stop> {
        let (start, length) = (self.held, end - self.held);
        let response = self
            .request(Some((start, length)), &|session| {
                let request = self.registry.http().patch(session.location.clone());
                let request = octets(request, length);
                request.header("content-range", format!("{start}-{}", end - 1))
            })
            .await?;
        let session = self.registry.session(&self.access, &response, self.session.as_ref());
        self.session = Some(session.map_err(|error| Stop::End(error.into()))?);
        // A registry may have taken less; one that says nothing sensible took it all, and if it
        // did not, the digest will tell.
        self.held = stored(&response).filter(|held| (start + 1..end).contains(held)).unwrap_or(end);
        Ok(())
    }

    /// Closes the session with the digest, and with the whole content if it is given from there.
    async fn close(&mut self, content: Option<u64>) -> Result<(), Stop> {
        let (digest, size) = (self.blob.digest, self.blob.size);
        let length = content.map_or(0, |start| size - start);
        let response = self
            .request(content.map(|start| (start, length)), &|session| {
                let mut location = session.location.clone();
                location.query_pairs_mut().append_pair("digest", &digest.to_string());
                octets(self.registry.http().put(location), length)
            })
            .await?;
        check_digest(&response, digest, "the blob").map_err(|e| Stop::End(e.into()))
    }

    /// Sends a request into the session, with `length` bytes of the content from an offset.
    async fn request(
        &self,
        content: Option<(u64, u64)>,
        make: &(dyn Fn(&UploadSession) -> RequestBuilder + Sync),
    ) -> Result<Response, Stop> {
        let session = self.session.as_ref().expect("a session is open");
        let unread = Unread::default();
        let make = || {
            let request = make(session);
            match content {
                Some((start, length)) => {
                    let pieces = first((self.blob.content)(start), length);
                    request.body(reqwest::Body::wrap_stream(unread.watch(pieces)))
                }
                None => request,
            }
        };
        let Self { registry, access, what, .. } = self;
        match registry.send_to(access, session.same_host, what, &make).await {
            Ok(response) if response.status().is_success() => Ok(response),
            Ok(response) => Err(self.judge(response).await),
            Err(failure) => Err(match unread.take() {
                Some(error) => Stop::End(UploadError::Content(error)),
                None => stop(failure),
            }),
        }
    }

    /// Decides what an answer that is no success means for the upload.
    async fn judge(&self, response: Response) -> Stop {
        let status = response.status();
        let failure = self.registry.refusal(&self.access, &self.what, response).await;
        let spoiled = failure.has_code(&[ErrorCode::DigestInvalid, ErrorCode::SizeInvalid]);
        let is_session = matches!(status.as_u16(), 404 | 409 | 416)
            || failure.has_code(&[ErrorCode::BlobUploadUnknown, ErrorCode::BlobUploadInvalid]);
        if spoiled {
            // Content that was sent in one go is what it is; a patchwork may have a wrong seam.
            return if self.is_resumed {
                Stop::Refused(failure)
            } else {
                Stop::End(failure.into())
            };
        }
        if is_session {
            return Stop::Refused(failure);
        }
        stop(failure)
    }

    /// Asks what the session holds, and returns whether the blob is in its repository already.
    async fn find_rest(&mut self) -> Result<bool, UploadError> {
        if let Some((session, held)) = self.ask().await? {
            (self.session, self.held, self.is_resumed) = (Some(session), held, true);
            return Ok(false);
        }
        self.start_over();
        // A session is also gone when all went well and only the answer was lost.
        Ok(self.registry.has_blob(self.repository, self.blob.digest).await?)
    }

    fn start_over(&mut self) {
        (self.session, self.held, self.is_resumed) = (None, 0, false);
    }

    /// Returns the session and how many bytes it holds, if it can be gone on with.
    async fn ask(&mut self) -> Result<Option<(UploadSession, u64)>, RegistryError> {
        let Some(session) = self.session.clone() else { return Ok(None) };
        let mut pauses = TRANSFER_BACKOFF.pauses();
        loop {
            let make = || self.registry.http().get(session.location.clone());
            let Self { registry, access, what, .. } = self;
            let failure = match registry.send_to(access, session.same_host, what, &make).await {
                Ok(response) if response.status().is_success() => {
                    let held = stored(&response).filter(|held| *held <= self.blob.size);
                    let session = self.registry.session(&self.access, &response, Some(&session));
                    return Ok(session.ok().zip(held));
                }
                Ok(response) if response.status().is_server_error() => {
                    RegistryError::from_response(&self.what, response).await
                }
                Ok(response) => {
                    let failure = registry.refusal(access, what, response).await;
                    let waits = failure.kind() == ErrorKind::RateLimited;
                    return if waits { Err(failure) } else { Ok(None) };
                }
                Err(failure) if failure.kind() == ErrorKind::Unavailable => failure,
                Err(failure) => return Err(failure),
            };
            // A session that holds nothing yet is not worth waiting for: a new one is as good.
            if self.held == 0 {
                return Ok(None);
            }
            if pauses.failures() + 1 >= MAX_QUESTIONS {
                return Err(failure);
            }
            pauses.wait().await;
        }
    }
}

/// Decides what a failure means for the upload that says nothing of its session.
fn stop(failure: RegistryError) -> Stop {
    if failure.kind() == ErrorKind::Unavailable && failure.retry_after().is_none() {
        return Stop::Broken(failure);
    }
    Stop::End(failure.into())
}

/// Keeps why content could not be read, which the HTTP client would tell as a broken connection.
#[derive(Clone, Default)]
struct Unread(Arc<Mutex<Option<io::Error>>>);

impl Unread {
    fn watch(&self, pieces: Pieces) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let unread = self.clone();
        pieces.map(move |piece| {
            piece.map_err(|error| {
                *unread.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                io::Error::other("the content cannot be read")
            })
        })
    }

    fn take(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Returns the first `length` bytes.
fn first(pieces: Pieces, length: u64) -> Pieces {
    let limited = futures::stream::unfold((pieces, length), |(mut pieces, left)| async move {
        if left == 0 {
            return None;
        }
        let piece = pieces.next().await?.map(|mut piece| {
            piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            piece
        });
        let read = piece.as_ref().map_or(left, |piece| piece.len() as u64);
        Some((piece, (pieces, left - read)))
    });
    limited.boxed()
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_chunk_is_cut_out_of_the_pieces() {
        let pieces = || {
            let pieces = ["abc", "def", "ghi"].map(|text| Ok(Bytes::from(text)));
            futures::stream::iter(pieces).boxed()
        };
        for (length, expected) in [(0, ""), (3, "abc"), (5, "abcde"), (9, "abcdefghi")] {
            let cut: Vec<Bytes> = first(pieces(), length).try_collect().await.expect("it reads");
            assert_eq!(cut.concat(), expected.as_bytes());
        }
    }
}
