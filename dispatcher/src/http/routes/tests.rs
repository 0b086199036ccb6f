// SPDX-License-Identifier: Apache-2.0

//! The API as clients see it, with a NATS server that is there and has no JetStream: what needs the
//! queue is refused, and everything else can be seen. Whole ways through the queue are in `tests/`.

mod batch;
mod builds;
mod description;
mod events;
mod reading;
mod uploads;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;

use axum::ServiceExt;
use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt as _;
use http::StatusCode;
use http::header::{ALLOW, LOCATION, RETRY_AFTER};
use serde_json::{Value, json};
use slipway_artifact::ArtifactStore;
use slipway_proto::api::{BuildView, CancelledView, DeadLetterList, DeadLetterView, RepairsView};
use slipway_proto::environment::Catalogue;
use slipway_proto::event::Event;
use slipway_proto::{Build, BuildId, Change, Digest, Timestamp};
use slipway_queue::events::EventMessage;
use slipway_queue::{NatsConfig, Queue};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::*;
use crate::app::{MAX_BATCH_BYTES, Parts};
use crate::builds::find::LIVE_RECORD_WITHIN;
use crate::config::RetentionConfig;
use crate::events::feed::Arrived;
use crate::events::projection::{Folder, Projection, Stored};
use crate::readiness::Readiness;
use crate::testing;

const LIMIT: u64 = 4096;

struct Api {
    app: Arc<App>,
    folder: Folder,
    directory: tempfile::TempDir,
}

impl Api {
    async fn start() -> Self {
        let api = Self::just_started().await;
        api.app.feed.aligned(0, 0, false);
        api
    }

    /// Before the dispatcher has asked where the events stand.
    async fn just_started() -> Self {
        let nats = testing::nats_without_jetstream().await;
        let nats_url = format!("nats://{nats}").into();
        let config = NatsConfig { nats_url, ..NatsConfig::default() };
        let queue = Queue::connect(&config, "test").await.expect("it connects");
        let queue = queue.with_read_deadline(LIVE_RECORD_WITHIN);
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("projection.sqlite");
        let (projection, folder) =
            Projection::open(&path, Box::new(|_, _| Ok(None))).expect("it opens");
        let store = directory.path().join("store");
        let app = App::new(Parts {
            queue,
            store: ArtifactStore::open(store.to_str().expect("a text")).await.expect("it opens"),
            catalogue: Catalogue::default(),
            projection,
            readiness: Readiness::default(),
            max_artifact_bytes: LIMIT,
            retention: RetentionConfig::default().bounds(),
            max_batches_read: 1,
        });
        Self { app: Arc::new(app), folder, directory }
    }

    async fn ask(&self, request: Request) -> Response {
        answer(router(Arc::clone(&self.app)), request).await
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(request("GET", path, &[], "")).await
    }

    async fn put(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
        self.ask(request("PUT", path, headers, body)).await
    }

    async fn post(&self, body: &Value) -> Response {
        let headers = [("content-type", "application/json")];
        self.ask(request("POST", "/v1/projects/team/builds", &headers, body.to_string())).await
    }

    /// Serves on a port, for what cannot be seen without a connection.
    async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = router(Arc::clone(&self.app));
        tokio::spawn(axum::serve(listener, router).into_future());
        address
    }

    /// Lists what the artifact store holds.
    fn stored(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut directories = vec![self.directory.path().join("store")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    found.push(path.display().to_string());
                }
            }
        }
        found
    }
}

/// Calls a service through the trait that it implements, which axum has as a bound of its own.
async fn answer<S>(mut service: S, request: Request) -> Response
where
    S: ServiceExt<Request, Response = Response, Error = Infallible>,
{
    service.call(request).await.unwrap_or_else(|never| match never {})
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Request {
    let mut request = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.into()).expect("a request")
}

async fn body(response: Response) -> Bytes {
    axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body")
}

async fn document(response: Response) -> Value {
    serde_json::from_slice(&body(response).await).expect("a JSON document")
}

async fn code(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let kind = response.headers().get(CONTENT_TYPE).cloned();
    assert_eq!(kind.as_ref().map(HeaderValue::as_bytes), Some(&b"application/problem+json"[..]));
    let document = document(response).await;
    assert_eq!(document["status"], status);
    (status, document["code"].as_str().expect("a code").to_owned())
}
