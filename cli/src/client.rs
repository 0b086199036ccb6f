// SPDX-License-Identifier: Apache-2.0

//! The client of the dispatcher's HTTP API, typed by [`slipway_proto::api`].
//!
//! Every request has a deadline, and what can be repeated without harm is repeated when the server
//! says that it is busy: an upload is named by its digest and a submission by its key.

mod error;
mod follow;
mod retry;
mod upload;

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, redirect};
use serde::de::DeserializeOwned;
use serde_json::Value;
use slipway_proto::api::{
    BuildList, BuildView, EnvironmentView, Problem, QueueView, StateName, WorkerView,
};
use slipway_proto::{BuildId, ProjectName};
use url::Url;

pub use error::ClientError;
pub use follow::{Followed, Follower};
pub use upload::{Progress, Upload};

use retry::Retries;

/// How long a connection may take to come about.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// How long an ordinary request may take. The dispatcher's own deadline towards NATS is 5 s and it
/// asks more than once, so less than that would give up on answers that are on their way.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// More than this of an error's body is not read: it is not from a dispatcher.
const MAX_PROBLEM: usize = 1 << 20;

/// What a client speaks to.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The dispatcher's address; a path before `/v1` is kept.
    pub server: Url,
    /// The project that builds and artifacts belong to.
    pub project: ProjectName,
    /// The API token, sent as `Authorization: Bearer`.
    pub token: Option<String>,
}

/// Which builds to list.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Only those in one of these states, if any is named.
    pub states: Vec<StateName>,
    /// Only those of this image, at any tag if none is named.
    pub image: Option<String>,
    /// How many at most.
    pub limit: Option<u32>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// Which events to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Events {
    /// Those that happen from now on; the stream does not end.
    Coming,
    /// Those that have happened; the stream ends behind them.
    Past,
    /// Both; the stream does not end.
    All,
}

/// Speaks to a dispatcher.
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
    /// When the token cannot stand in a header, or TLS cannot be set up.
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        // It fails when somebody in this process has installed one, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        if let Some(token) = options.token.filter(|token| !token.is_empty()) {
            let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| ClientError::InvalidToken)?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT_DEADLINE)
            // The API redirects nowhere, and a token must not go to another host.
            .redirect(redirect::Policy::none());
        if is_loopback(&options.server) {
            builder = builder.no_proxy();
        }
        if options.server.scheme() == "http" {
            // The default reads the system's certificates and fails where there are none, as in
            // many containers, although plain HTTP needs none. This trusts nobody.
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

    /// Submits a build and returns it as it was accepted. Repeated under the same key while the
    /// server is busy or away, so that one build comes of it however often it arrives.
    ///
    /// # Errors
    ///
    /// When the server refuses the request or stays away.
    pub async fn submit(&self, document: &Value, key: &str) -> Result<BuildView, ClientError> {
        let key = HeaderValue::try_from(key).map_err(|_| ClientError::InvalidKey)?;
        let mut retries = Retries::default();
        loop {
            let request = self
                .request(Method::POST, self.project_url(&["builds"]))
                .header("idempotency-key", key.clone())
                .json(document);
            match self.json(request).await {
                Err(error) => match retries.after(&error, true) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(error),
                },
                accepted => return accepted,
            }
        }
    }

    /// Returns a build.
    ///
    /// # Errors
    ///
    /// When there is none of that id, or the server cannot be asked.
    pub async fn build(&self, id: BuildId) -> Result<BuildView, ClientError> {
        self.get(self.project_url(&["builds", &id.to_string()])).await
    }

    /// Returns a build, without patience for a server that is busy.
    ///
    /// # Errors
    ///
    /// When there is none of that id, or the server cannot be asked now.
    pub async fn build_now(&self, id: BuildId) -> Result<BuildView, ClientError> {
        let url = self.project_url(&["builds", &id.to_string()]);
        self.json(self.request(Method::GET, url)).await
    }

    /// Returns a page of builds.
    ///
    /// # Errors
    ///
    /// When the server refuses the query or cannot be asked.
    pub async fn list(&self, query: &ListQuery) -> Result<BuildList, ClientError> {
        let mut url = self.project_url(&["builds"]);
        {
            let mut pairs = url.query_pairs_mut();
            if !query.states.is_empty() {
                let states: Vec<_> = query.states.iter().map(|state| state.as_str()).collect();
                pairs.append_pair("state", &states.join(","));
            }
            if let Some(image) = &query.image {
                pairs.append_pair("image", image);
            }
            if let Some(limit) = query.limit {
                pairs.append_pair("limit", &limit.to_string());
            }
            if let Some(cursor) = &query.cursor {
                pairs.append_pair("cursor", cursor);
            }
        }
        self.get(url).await
    }

    /// Returns what a build has logged so far, piece by piece as it arrives.
    ///
    /// # Errors
    ///
    /// When there is no such build, or the server cannot be asked.
    pub async fn log(&self, id: BuildId) -> Result<Response, ClientError> {
        let url = self.project_url(&["builds", &id.to_string(), "logs"]);
        let request = self.request(Method::GET, url).header("accept", "text/plain");
        match tokio::time::timeout(REQUEST_DEADLINE, self.send(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.silent(REQUEST_DEADLINE)),
        }
    }

    /// Returns the next piece of an answer's body; `None` at its end.
    ///
    /// # Errors
    ///
    /// When the connection breaks or is silent for longer than the deadline.
    pub async fn next_piece(
        &self,
        response: &mut Response,
        deadline: Duration,
    ) -> Result<Option<bytes::Bytes>, ClientError> {
        match tokio::time::timeout(deadline, response.chunk()).await {
            Ok(read) => read.map_err(|source| self.transport(source)),
            Err(_) => Err(self.silent(deadline)),
        }
    }

    /// Follows a build's log from its beginning until it is dropped.
    #[must_use]
    pub fn follow_log(&self, id: BuildId) -> Follower {
        let mut url = self.project_url(&["builds", &id.to_string(), "logs"]);
        url.query_pairs_mut().append_pair("follow", "true");
        Follower::start(self.clone(), url)
    }

    /// Reads the project's events, or those of one build, until it is dropped.
    #[must_use]
    pub fn events(&self, which: Events, build: Option<BuildId>) -> Follower {
        let mut url = self.project_url(&["events"]);
        match which {
            Events::Coming => {}
            Events::Past => drop(url.query_pairs_mut().append_pair("follow", "false")),
            Events::All => drop(url.query_pairs_mut().append_pair("after", "0")),
        }
        if let Some(build) = build {
            url.query_pairs_mut().append_pair("build", &build.to_string());
        }
        Follower::start(self.clone(), url)
    }

    /// Returns whether the server is ready to serve.
    ///
    /// # Errors
    ///
    /// When it is not, with the reason.
    pub async fn ready(&self) -> Result<(), ClientError> {
        let mut url = self.server.clone();
        url.path_segments_mut()
            .expect("the address was checked to be http or https")
            .pop_if_empty()
            .push("readyz");
        let request = self.request(Method::GET, url).timeout(REQUEST_DEADLINE);
        self.send(request).await.map(drop)
    }

    /// Returns the environments.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked.
    pub async fn environments(&self) -> Result<Vec<EnvironmentView>, ClientError> {
        self.get(self.url(&["environments"])).await
    }

    /// Returns the workers.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked.
    pub async fn workers(&self) -> Result<Vec<WorkerView>, ClientError> {
        self.get(self.url(&["workers"])).await
    }

    /// Returns what waits in the queue.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked.
    pub async fn queue(&self) -> Result<QueueView, ClientError> {
        self.get(self.url(&["queue"])).await
    }

    async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, ClientError> {
        let mut retries = Retries::default();
        loop {
            match self.json(self.request(Method::GET, url.clone())).await {
                Err(error) => match retries.after(&error, false) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(error),
                },
                found => return found,
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

    /// Sends a request and reads its answer, all within the deadline.
    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request.timeout(REQUEST_DEADLINE)).await?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|source| self.transport(source))?;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Unexpected {
            server: self.shown(),
            status: status.as_u16(),
            source: Some(source),
        })
    }

    /// Sends a request and makes an error of an answer that is one.
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
        // The URL is told already, and it might hold a password.
        let cause = innermost(&error.without_url());
        if unreachable {
            return ClientError::Unreachable { server, cause };
        }
        ClientError::Lost { server, cause }
    }

    fn silent(&self, deadline: Duration) -> ClientError {
        ClientError::Stalled { server: self.shown(), seconds: deadline.as_secs() }
    }

    /// The address as it may be shown: without a password.
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

/// What went wrong in the end; what lies around it are layers of the HTTP library.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
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
mod tests {
    use super::*;

    fn client(server: &str) -> Client {
        let server = server.parse().expect("a URL");
        let project = "team".parse().expect("a name");
        Client::new(ClientOptions { server, project, token: None }).expect("a client")
    }

    #[test]
    fn a_path_before_the_api_is_kept() {
        for server in ["https://ci.example/slipway", "https://ci.example/slipway/"] {
            let url = client(server).project_url(&["builds"]);
            assert_eq!(url.as_str(), "https://ci.example/slipway/v1/projects/team/builds");
        }
        let url = client("http://127.0.0.1:7070").url(&["queue"]);
        assert_eq!(url.as_str(), "http://127.0.0.1:7070/v1/queue");
    }

    #[test]
    fn a_password_in_the_address_is_not_shown() {
        assert_eq!(client("http://user:secret@ci.example/").shown(), "http://ci.example");
    }

    #[test]
    fn a_token_that_is_no_header_is_refused() {
        let options = ClientOptions {
            server: "http://127.0.0.1".parse().expect("a URL"),
            project: "team".parse().expect("a name"),
            token: Some("a\nb".into()),
        };
        assert!(matches!(Client::new(options), Err(ClientError::InvalidToken)));
    }
}
