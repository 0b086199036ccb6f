// SPDX-License-Identifier: Apache-2.0

//! Reads a blob, and continues where the connection broke.

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use http::{Method, StatusCode};
use reqwest::{RequestBuilder, Response};
use slipway_fault::Pauses;
use slipway_proto::Digest;

use super::access::Access;
use super::transport::{Body, Registry};
use super::{RegistryError, Repository, TRANSFER_BACKOFF};

/// How often a download may break without progress.
const MAX_BREAKS: u32 = 3;
/// The fewest bytes that count as progress. So the number of breaks is bounded by the size.
const MIN_PROGRESS: u64 = 1 << 20;

impl Registry {
    /// Reads a blob ("Pulling blobs") as a stream of unchecked bytes. If the connection breaks, the
    /// rest is requested. The stream fails if the registry does not serve parts of blobs.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](super::ErrorKind::NotFound) when the repository has no such blob.
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<impl Stream<Item = Result<Bytes, RegistryError>> + Send + use<>, RegistryError>
    {
        let mut reading = Reading {
            registry: self.clone(),
            access: Access::pull(repository),
            path: format!("blobs/{digest}"),
            what: format!("blob {}@{digest}", repository.reference.name()),
            body: futures::stream::empty().boxed(),
            read: 0,
            furthest: 0,
            pauses: TRANSFER_BACKOFF.pauses(),
        };
        let response = reading.ask().await?;
        reading.body = response.bytes_stream().boxed();
        Ok(futures::stream::unfold(Some(reading), |reading| async move {
            let mut reading = reading?;
            match reading.next().await? {
                Ok(piece) => Some((Ok(piece), Some(reading))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

/// A blob that is being read.
struct Reading {
    registry: Registry,
    access: Access,
    path: String,
    what: String,
    body: BoxStream<'static, Result<Bytes, reqwest::Error>>,
    /// How many bytes arrived.
    read: u64,
    /// How many had arrived at the last break after progress.
    furthest: u64,
    pauses: Pauses,
}

impl Reading {
    /// Requests the rest.
    async fn ask(&mut self) -> Result<Response, RegistryError> {
        let from = self.read;
        let prepare = move |request: RequestBuilder| match from {
            0 => request,
            _ => request.header("range", format!("bytes={from}-")),
        };
        self.registry.send(&self.access, Method::GET, &self.path, &prepare, &Body::Empty).await
    }

    async fn next(&mut self) -> Option<Result<Bytes, RegistryError>> {
        loop {
            let failure = match self.body.next().await? {
                Ok(piece) => {
                    self.read += piece.len() as u64;
                    return Some(Ok(piece));
                }
                Err(error) => RegistryError::from_transport(&self.what, error),
            };
            if self.read >= self.furthest + MIN_PROGRESS {
                self.pauses.reset();
                self.furthest = self.read;
            }
            if self.read == 0 || self.pauses.failures() + 1 >= MAX_BREAKS {
                return Some(Err(failure));
            }
            tracing::debug!(what = self.what, read = self.read, %failure, "a download broke");
            self.pauses.wait().await;
            match self.ask().await {
                Ok(response) if self.is_rest(&response) => {
                    self.body = response.bytes_stream().boxed();
                }
                Ok(_whole) => return Some(Err(failure)),
                Err(failure) => return Some(Err(failure)),
            }
        }
    }

    fn is_rest(&self, response: &Response) -> bool {
        let range = response.headers().get("content-range").and_then(|range| range.to_str().ok());
        let start = format!("bytes {}-", self.read);
        response.status() == StatusCode::PARTIAL_CONTENT
            && range.is_some_and(|range| range.starts_with(&start))
    }
}
