// SPDX-License-Identifier: Apache-2.0

//! Sends requests to dispatchers, and records requests and answers.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde_json::Value;

use super::next_call;
use crate::chaos::history::{Ask, History, What};
use crate::chaos::world::World;

/// How long an upload may take.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(10);

/// The members of answers that are recorded.
const RECORDED_MEMBERS: [&str; 8] =
    ["id", "state", "attempt", "status", "code", "detail", "cancelled", "letters"];

/// The answer of a dispatcher, if it gave one.
pub(in crate::chaos) struct Answer {
    pub(in crate::chaos) status: Option<u16>,
    pub(in crate::chaos) body: Value,
}

/// A client of the dispatchers.
#[derive(Clone)]
pub(in crate::chaos) struct Client {
    pub(super) world: Arc<World>,
    history: History,
    calls: Arc<AtomicU64>,
}

impl Client {
    pub(in crate::chaos) fn new(
        world: Arc<World>,
        history: History,
        calls: Arc<AtomicU64>,
    ) -> Self {
        Self { world, history, calls }
    }

    /// Uploads an artifact and returns its digest. Uploads are not part of the history: the only
    /// promise about them is that a build can name them.
    pub(in crate::chaos) async fn upload(
        &self,
        dispatcher: usize,
        project: &str,
        bytes: Vec<u8>,
    ) -> Option<String> {
        let path = format!("/v1/projects/{project}/artifacts?filename=tool");
        let request = self.world.client.put(self.world.url(dispatcher, &path)).body(bytes);
        let answer = request.timeout(UPLOAD_DEADLINE).send().await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        let document: Value = answer.json().await.ok()?;
        document["digest"].as_str().map(str::to_owned)
    }

    /// Returns the builds of a project's dead letters, if they can be read.
    pub(super) async fn dead(&self, dispatcher: usize, project: &str) -> Vec<String> {
        let url = self.world.url(dispatcher, &format!("/v1/projects/{project}/dead?limit=20"));
        let answer = send(self.world.client.get(url).timeout(UPLOAD_DEADLINE)).await;
        let letters = answer.body["letters"].as_array().cloned().unwrap_or_default();
        letters.iter().filter_map(|letter| Some(letter["build"].as_str()?.to_owned())).collect()
    }

    /// Sends a request, and waits for an answer for a limited time.
    pub(in crate::chaos) async fn ask(
        &self,
        dispatcher: usize,
        ask: &Ask,
        patience: Duration,
    ) -> Answer {
        let call = next_call(&self.calls);
        self.history.note(What::Asked { call, dispatcher, ask: ask.clone() });
        let client = &self.world.client;
        let url = |path: &str| self.world.url(dispatcher, path);
        let request = match ask {
            Ask::Submit { project, key, request } => client
                .post(url(&format!("/v1/projects/{project}/builds")))
                .header("Idempotency-Key", key)
                .json(request),
            Ask::Cancel { project, build } => {
                client.post(url(&format!("/v1/projects/{project}/builds/{build}/cancel")))
            }
            Ask::CancelAll { project } => {
                client.post(url(&format!("/v1/projects/{project}/builds:cancel")))
            }
            Ask::Replay { project, build } => {
                client.post(url(&format!("/v1/projects/{project}/dead/{build}/replay")))
            }
        };
        let answer = send(request.timeout(patience)).await;
        let (status, body) = (answer.status, answer.body.clone());
        self.history.note(What::Answered { call, status, body });
        answer
    }
}

async fn send(request: reqwest::RequestBuilder) -> Answer {
    let broken =
        |error: &reqwest::Error| Answer { status: None, body: Value::String(error.to_string()) };
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return broken(&error),
    };
    let status = response.status().as_u16();
    match response.bytes().await {
        Ok(bytes) => {
            let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
            let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
            Answer { status: Some(status), body: shortened(body) }
        }
        Err(error) => broken(&error),
    }
}

/// Keeps the members that the checker reads, because a build's document is long.
fn shortened(body: Value) -> Value {
    let Value::Object(mut fields) = body else { return body };
    fields.retain(|name, _| RECORDED_MEMBERS.contains(&name.as_str()));
    Value::Object(fields)
}
