// SPDX-License-Identifier: Apache-2.0

//! A cheap HTTP client: one kept connection, and bodies that are serialised beforehand.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use slipway_proto::BuildId;
use tokio::net::TcpStream;

/// The path of the project's builds.
pub(super) const BUILDS: &str = "/v1/projects/bench/builds";

/// How long an answer may take to begin on a busy machine.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// A connection to the dispatcher.
#[derive(Debug)]
pub(super) struct Connection {
    address: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects.
    pub(super) async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("the dispatcher is not there")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // The next request on this connection fails.
            let _broken = connection.await;
        });
        Ok(Self { address: address.to_owned(), sender })
    }

    /// Sends a request, under an idempotency key if there is one, and returns the answer as soon as
    /// its head is there.
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.address)
            .header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(Full::new(body))?;
        let answer = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        let answer = tokio::time::timeout(ANSWERS_WITHIN, answer).await;
        Ok(answer.with_context(|| format!("no answer to {path}"))??)
    }

    /// Sends a request and returns status and body of the answer.
    pub(super) async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<(u16, Bytes)> {
        let response = self.send(method, path, None, body).await?;
        read(response).await
    }

    /// Sends a request that must succeed and returns the body of the answer.
    pub(super) async fn post(&mut self, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let response = self.send(Method::POST, path, None, body).await?;
        good(path, read(response).await?)
    }

    /// Submits a build that must be accepted and returns the body of the answer. It has a fresh
    /// idempotency key, as every submission of the command line has.
    pub(super) async fn submit(&mut self, document: Bytes) -> anyhow::Result<Bytes> {
        let key = fresh_key();
        let response = self.send(Method::POST, BUILDS, Some(&key), document).await?;
        good(BUILDS, read(response).await?)
    }
}

/// Returns an idempotency key as the command line makes it.
pub(super) fn fresh_key() -> String {
    BuildId::fresh().to_string()
}

async fn read(response: Response<Incoming>) -> anyhow::Result<(u16, Bytes)> {
    let status = response.status().as_u16();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

fn good(path: &str, (status, answer): (u16, Bytes)) -> anyhow::Result<Bytes> {
    let shown = || String::from_utf8_lossy(&answer).into_owned();
    anyhow::ensure!((200..300).contains(&status), "{path} answered {status}: {}", shown());
    Ok(answer)
}
