// SPDX-License-Identifier: Apache-2.0

//! An HTTP client that costs little: one connection, kept, and bodies that were serialised before.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long an answer may take to begin, on a machine with much else to do.
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
            // Whoever sends next is told.
            let _broken = connection.await;
        });
        Ok(Self { address: address.to_owned(), sender })
    }

    /// Sends a request and returns the answer as soon as its head is there.
    pub(super) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.address)
            .header("content-type", "application/json")
            .body(Full::new(body))?;
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
        let response = self.send(method, path, body).await?;
        let status = response.status().as_u16();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// Sends a request that must succeed and returns the body of the answer.
    pub(super) async fn post(&mut self, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let (status, answer) = self.call(Method::POST, path, body).await?;
        let shown = || String::from_utf8_lossy(&answer).into_owned();
        anyhow::ensure!((200..300).contains(&status), "{path} answered {status}: {}", shown());
        Ok(answer)
    }
}
