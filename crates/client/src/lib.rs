// SPDX-License-Identifier: Apache-2.0

//! The client of the dispatcher's HTTP API, typed by [`slipway_proto::api`].
//!
//! Every request has a deadline. A request that can be repeated without harm is repeated when the
//! server is busy: an upload is named by its digest and a submission by its key. This file has what
//! all requests share; the requests are in the modules below it, by topic.

mod batch;
mod builds;
mod dead;
mod error;
mod fleet;
mod follow;
mod retry;
#[cfg(test)]
mod scripted;
pub mod sse;
mod upload;

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, redirect};
use serde::de::DeserializeOwned;
use slipway_fault::root_cause;
use slipway_proto::ProjectName;
use slipway_proto::api::Problem;
use slipway_secret::Secret;
use url::Url;

pub use builds::{Events, ListQuery};
pub use error::ClientError;
pub use error::describe;
pub use follow::{Followed, Follower};
pub use upload::{Progress, Upload};

use retry::{Patience, Retries};

/// How long it may take to connect.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// How long an ordinary request may take. The dispatcher's deadline for NATS is 5 s and it may ask
/// more than once, so a shorter time would give up on answers that are on their way.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// How long a request may take that goes through all builds.
const SWEEP_DEADLINE: Duration = Duration::from_secs(180);

/// How much of an error's body is read. A longer one is not from a dispatcher.
const MAX_PROBLEM: usize = 1 << 20;

/// The options of a client.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The dispatcher's address; a path before `/v1` is kept.
    pub server: Url,
    /// The project that builds and artifacts belong to.
    pub project: ProjectName,
    /// The API token, sent as `Authorization: Bearer`.
    pub token: Option<Secret>,
}

/// A client of one dispatcher and project.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    server: Url,
    project: ProjectName,
}

impl Client {
    /// Makes a client; does not connect yet.
    ///
    /// # Errors
    ///
    /// When the token cannot be sent in a header, or TLS cannot be set up.
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        // It fails if this process has installed one already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        if let Some(token) = options.token.filter(|token| !token.expose().is_empty()) {
            let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
                .map_err(|_| ClientError::InvalidToken)?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT_DEADLINE)
            // The API never redirects, and a token must not go to another host.
            .redirect(redirect::Policy::none());
        if is_loopback(&options.server) {
            builder = builder.no_proxy();
        }
        if options.server.scheme() == "http" {
            // The default reads the system's certificates and fails if there are none, as in many
            // containers, although plain HTTP needs none. This one trusts nobody.
            let tls = rustls::ClientConfig::builder()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            builder = builder.tls_backend_preconfigured(tls);
        }
        let http = builder.build().map_err(ClientError::Setup)?;
        Ok(Self { http, server: options.server, project: options.project })
    }

    /// Returns the dispatcher's address.
    #[must_use]
    pub fn server(&self) -> &Url {
        &self.server
    }

    /// Returns the project.
    #[must_use]
    pub fn project(&self) -> &ProjectName {
        &self.project
    }

    async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, ClientError> {
        self.repeat(self.request(Method::GET, url), Patience::Busy).await
    }

    /// Sends a request, repeats it while that may help, and reads the answer.
    async fn repeat<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        patience: Patience,
    ) -> Result<T, ClientError> {
        self.repeat_within(REQUEST_DEADLINE, request, patience).await
    }

    /// The same, with the given deadline for each try.
    async fn repeat_within<T: DeserializeOwned>(
        &self,
        deadline: Duration,
        request: RequestBuilder,
        patience: Patience,
    ) -> Result<T, ClientError> {
        let mut retries = Retries::default();
        loop {
            let copy = request.try_clone().expect("only uploads have a body that is a stream");
            match self.json(copy.timeout(deadline)).await {
                Err(error) => match retries.after(&error, patience) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(error),
                },
                answer => return answer,
            }
        }
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.server.clone();
        url.path_segments_mut()
            .expect("the address was checked to be http or https")
            .pop_if_empty()
            .push("v1")
            .extend(path);
        url
    }

    fn project_url(&self, path: &[&str]) -> Url {
        let mut segments = vec!["projects", self.project.as_str()];
        segments.extend(path);
        self.url(&segments)
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.request(method, url)
    }

    /// Sends a request and reads its answer, all within the request's deadline.
    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request).await?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|source| self.transport(source))?;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Unexpected {
            server: self.shown(),
            status: status.as_u16(),
            source: Some(source),
        })
    }

    /// Sends a request, and turns an error answer into an error.
    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|source| self.transport(source))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    async fn refusal(&self, response: Response) -> ClientError {
        let status = response.status();
        let retry_after = retry::retry_after(response.headers());
        match read_problem(response).await {
            Some(problem) => ClientError::Refused { problem: Box::new(problem), retry_after },
            None => ClientError::Unexpected {
                server: self.shown(),
                status: status.as_u16(),
                source: None,
            },
        }
    }

    fn transport(&self, error: reqwest::Error) -> ClientError {
        let server = self.shown();
        let unreachable = error.is_connect();
        // The message names the server already, and the URL might hold a password.
        let cause = root_cause(&error.without_url());
        if unreachable {
            return ClientError::Unreachable { server, cause };
        }
        ClientError::Lost { server, cause }
    }

    fn silent(&self, deadline: Duration) -> ClientError {
        ClientError::Stalled { server: self.shown(), seconds: deadline.as_secs() }
    }

    /// The address without a password, for messages.
    fn shown(&self) -> String {
        let mut url = self.server.clone();
        let _ = url.set_password(None);
        let _ = url.set_username("");
        url.as_str().trim_end_matches('/').to_owned()
    }
}

async fn read_problem(mut response: Response) -> Option<Problem> {
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(bytes)) = response.chunk().await {
            body.extend_from_slice(&bytes);
            if body.len() > MAX_PROBLEM {
                return;
            }
        }
    };
    tokio::time::timeout(REQUEST_DEADLINE, read).await.ok()?;
    serde_json::from_slice(&body).ok()
}

/// A proxy that the environment names cannot reach this machine's own addresses.
fn is_loopback(server: &Url) -> bool {
    match server.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn is_missing(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
}

#[cfg(test)]
mod tests;
