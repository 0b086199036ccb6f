// SPDX-License-Identifier: Apache-2.0

//! Builds: submitting, reading, following and cancelling them.

use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use slipway_proto::BuildId;
use slipway_proto::api::{BuildList, BuildView, CancelledView, Problem, StateName};

use super::retry::Patience;
use super::{Client, ClientError, Follower, REQUEST_DEADLINE, SWEEP_DEADLINE};

/// Which builds to list.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Only those in one of these states, if any is named.
    pub states: Vec<StateName>,
    /// Only those whose id begins so, in place of all other filters.
    pub id: Option<String>,
    /// Only those of this image, with any tag if none is given.
    pub image: Option<String>,
    /// The largest number of builds.
    pub limit: Option<u32>,
    /// The end of the page before.
    pub cursor: Option<String>,
}

/// Which events to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Events {
    /// Those that happen from now on; the stream does not end.
    Coming,
    /// Those that have happened; then the stream ends.
    Past,
    /// Both; the stream does not end.
    All,
}

impl Client {
    /// Submits a build and returns it as it was accepted. Repeated under the same key while the
    /// server is busy or away, so it becomes one build however often it arrives.
    ///
    /// # Errors
    ///
    /// When the server refuses the request or stays away.
    pub async fn submit(&self, document: &Value, key: &str) -> Result<BuildView, ClientError> {
        let request = self.request(Method::POST, self.project_url(&["builds"])).json(document);
        self.repeat(keyed(request, key)?, Patience::Away).await
    }

    /// Submits the request of a finished build as a new build, and returns the new one. Repeated
    /// under the same key like [`submit`](Self::submit).
    ///
    /// # Errors
    ///
    /// When there is no such build, it is not finished, or the server refuses or stays away.
    pub async fn retry(&self, id: BuildId, key: &str) -> Result<BuildView, ClientError> {
        let url = self.project_url(&["builds", &id.to_string(), "retry"]);
        self.repeat(keyed(self.request(Method::POST, url), key)?, Patience::Away).await
    }

    /// Cancels a build and returns it. A build that was already cancelled is returned unchanged.
    ///
    /// # Errors
    ///
    /// When there is no such build, it is finished or being published, or the server stays away.
    pub async fn cancel(&self, id: BuildId) -> Result<BuildView, ClientError> {
        let url = self.project_url(&["builds", &id.to_string(), "cancel"]);
        self.repeat(self.request(Method::POST, url), Patience::Away).await
    }

    /// Cancels all builds of the project that wait for a worker, and returns them. Not repeated
    /// when the answer is lost, because the next answer would not name them.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked.
    pub async fn cancel_queued(&self) -> Result<CancelledView, ClientError> {
        let request = self.request(Method::POST, self.project_url(&["builds:cancel"]));
        self.repeat_within(SWEEP_DEADLINE, request, Patience::Busy).await
    }

    /// Returns a build.
    ///
    /// # Errors
    ///
    /// When there is no such build, or the server cannot be asked.
    pub async fn build(&self, id: BuildId) -> Result<BuildView, ClientError> {
        self.get(self.project_url(&["builds", &id.to_string()])).await
    }

    /// Returns the id of the only build that begins so.
    ///
    /// # Errors
    ///
    /// A refusal when none does or several do, and when the server cannot be asked.
    pub async fn find_build(&self, beginning: &str) -> Result<BuildId, ClientError> {
        const NAMED: u32 = 5;
        let (id, limit) = (Some(beginning.to_owned()), Some(NAMED));
        let found = self.list(&ListQuery { id, limit, ..ListQuery::default() }).await?;
        let refuse = |code: &str, title: &str, status, detail| {
            let (r#type, errors) = (format!("/problems/{code}"), Vec::new());
            let (title, code) = (title.to_owned(), code.to_owned());
            let problem = Box::new(Problem { r#type, title, status, detail, code, errors });
            Err(ClientError::Refused { problem, retry_after: None })
        };
        let project = &self.project;
        match found.builds.as_slice() {
            [only] => Ok(only.id),
            [] => refuse(
                "build_not_found",
                "The project has no such build",
                404,
                format!(
                    "the project {project} has no build whose id begins with {beginning}: check \
                    the id and the project"
                ),
            ),
            several => {
                let ids: Vec<String> = several.iter().map(|build| build.id.to_string()).collect();
                let more = if found.next_cursor.is_some() { ", …" } else { "" };
                let ids = ids.join(", ");
                refuse(
                    "ambiguous_build_id",
                    "Several builds begin so",
                    409,
                    format!("the ids of several builds begin with {beginning}: {ids}{more}"),
                )
            }
        }
    }

    /// Returns a build, without repeating the request when the server is busy.
    ///
    /// # Errors
    ///
    /// When there is no such build, or the server cannot be asked now.
    pub async fn build_now(&self, id: BuildId) -> Result<BuildView, ClientError> {
        let url = self.project_url(&["builds", &id.to_string()]);
        self.json(self.request(Method::GET, url).timeout(REQUEST_DEADLINE)).await
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
            if let Some(id) = &query.id {
                pairs.append_pair("id", id);
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
}

/// Gives a submission its key, so that the server recognises a repetition.
fn keyed(request: RequestBuilder, key: &str) -> Result<RequestBuilder, ClientError> {
    let key = HeaderValue::try_from(key).map_err(|_| ClientError::InvalidKey)?;
    Ok(request.header("idempotency-key", key))
}
