// SPDX-License-Identifier: Apache-2.0

//! The API as clients see it, with a NATS server that is there and has no JetStream: what needs the
//! queue is refused, and everything else can be seen. Whole ways through the queue are in `tests/`.

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
use slipway_queue::read::Message;
use slipway_queue::{Queue, QueueOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::builds::Builds;
use crate::feed::Arrived;
use crate::pools::Pools;
use crate::projection::{Folder, Projection, Stored};
use crate::readiness::Readiness;
use crate::reconcile::Reconciler;
use crate::testing;

const LIMIT: u64 = 4096;

struct Api {
    app: Arc<App>,
    folder: Folder,
    directory: tempfile::TempDir,
}

impl Api {
    async fn start() -> Self {
        let nats = testing::nats_without_jetstream().await;
        let queue = Queue::connect(QueueOptions {
            url: format!("nats://{nats}"),
            credentials: None,
            client_name: "test".into(),
            subjects: "slipway".parse().expect("a prefix"),
            replicas: 1,
        })
        .await
        .expect("it connects");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("projection.sqlite");
        let (projection, folder) =
            Projection::open(&path, Box::new(|_, _| Ok(None))).expect("it opens");
        let store = directory.path().join("store");
        let app = App {
            builds: Builds::new(queue.clone(), projection.clone()),
            queue,
            store: ArtifactStore::open(store.to_str().expect("a text")).await.expect("it opens"),
            catalogue: Catalogue::default(),
            max_artifact_bytes: LIMIT,
            projection,
            feed: Arc::default(),
            pools: Pools::default(),
            readiness: Readiness::default(),
            reconciler: Reconciler::default(),
            metrics: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            cut_off: CancellationToken::new(),
        };
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

/// The smallest executable: an ELF header for x86-64 and nothing else.
fn executable() -> Vec<u8> {
    let mut elf = vec![0; 120];
    elf[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    elf[16] = 2; // ET_EXEC
    elf[18] = 62; // EM_X86_64
    elf[20] = 1;
    elf[32] = 64; // The program headers follow.
    elf[52] = 64;
    elf[54] = 56;
    elf[56] = 1;
    elf[64] = 1; // PT_LOAD
    elf[68] = 5;
    elf[96] = 120;
    elf[104] = 120;
    elf
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let description: Value = serde_json::from_str(service::OPENAPI).expect("it is JSON");
    let mut described = BTreeSet::new();
    for (path, item) in description["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("an item").keys().filter(|key| *key != "parameters") {
            described.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let served: BTreeSet<String> =
        table().iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    assert_eq!(described, served);
}

#[tokio::test]
async fn the_table_says_what_the_router_serves() {
    let api = Api::start().await;
    for (method, path, _) in table() {
        let path = path
            .replace("{project}", "team")
            .replace("{digest}", &Digest::of(b"").to_string())
            .replace("{build}", &BuildId::fresh().to_string())
            .replace("{worker}", "w1");
        let response = api.ask(request(method.as_str(), &path, &[], "")).await;
        assert_ne!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
    }
}

#[test]
fn every_reference_in_the_description_leads_somewhere() {
    fn visit(value: &Value, root: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(target) = members.get("$ref").and_then(Value::as_str) {
                    let pointer = target.strip_prefix('#').expect("a local reference");
                    assert!(root.pointer(pointer).is_some(), "{target}");
                }
                members.values().for_each(|member| visit(member, root));
            }
            Value::Array(values) => values.iter().for_each(|value| visit(value, root)),
            _ => {}
        }
    }
    let description: Value = serde_json::from_str(service::OPENAPI).expect("it is JSON");
    visit(&description, &description);
}

/// Checks a document against the schema's members, two levels deep.
#[track_caller]
fn assert_described(schema: &str, document: &Value) {
    let description: Value = serde_json::from_str(service::OPENAPI).expect("it is JSON");
    let schema = &description["components"]["schemas"][schema];
    let members: BTreeSet<&String> = document.as_object().expect("an object").keys().collect();
    let described: BTreeSet<&String> =
        schema["properties"].as_object().expect("properties").keys().collect();
    assert_eq!(members, described);
}

#[tokio::test]
async fn the_schemas_have_the_members_that_the_documents_have() {
    let build = testing::build("team", "r.example/app:1");
    let view = serde_json::to_value(BuildView::from(&build)).expect("JSON");
    assert_described("Build", &view);
    assert_described("BuildRequest", &view["request"]);
    assert_described("Recipe", &view["request"]["recipe"]);
    let api = Api::start().await;
    let environments = document(api.get("/v1/environments").await).await;
    assert_described("Environment", &environments[0]);
    assert_described("BuildList", &document(api.get("/v1/projects/team/builds").await).await);
    let letter = DeadLetterView {
        build: "nonsense".into(),
        project: "team".into(),
        pool: "default".parse().expect("a name"),
        reason: "the request's bytes are corrupt".into(),
        died_at: Timestamp::now(),
        epoch: 0,
        request: None,
    };
    let letters = DeadLetterList { letters: vec![letter.clone()], next_cursor: None };
    let cancelled = CancelledView { cancelled: Vec::new() };
    let written = [
        ("DeadLetter", serde_json::to_value(letter)),
        ("DeadLetterList", serde_json::to_value(letters)),
        ("Cancelled", serde_json::to_value(cancelled)),
        ("Repairs", serde_json::to_value(RepairsView::default())),
        (
            "Readiness",
            serde_json::to_value(api.app.readiness.report(&api.app.queue, &api.app.feed).await),
        ),
    ];
    for (schema, document) in written {
        assert_described(schema, &document.expect("JSON"));
    }
    let fields: BTreeSet<&str> = slipway_proto::submission::FIELDS.into_iter().collect();
    let description: Value = serde_json::from_str(service::OPENAPI).expect("it is JSON");
    let described = &description["components"]["schemas"]["BuildSubmission"]["properties"];
    let described: BTreeSet<&str> =
        described.as_object().expect("properties").keys().map(String::as_str).collect();
    assert_eq!(fields, described);
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let api = Api::start().await;
    let answer = api.get("/v2/nothing?token=secret").await;
    insta::assert_json_snapshot!("not_found", document(answer).await);
    let answer = api.ask(request("DELETE", "/v1/projects/team/builds", &[], "")).await;
    let allow = answer.headers().get(ALLOW).cloned().expect("an Allow header");
    let allow: BTreeSet<&str> = allow.to_str().expect("a text").split(',').collect();
    assert_eq!(allow, BTreeSet::from(["GET", "HEAD", "POST"]));
    insta::assert_json_snapshot!("method_not_allowed", document(answer).await);
}

#[tokio::test]
async fn what_cannot_be_read_of_a_path_is_named() {
    let api = Api::start().await;
    let id = BuildId::fresh().to_string();
    let cases = [
        ("/v1/projects/Team/builds".to_owned(), "invalid_name"),
        ("/v1/projects/%ff/builds".to_owned(), "invalid_name"),
        (format!("/v1/projects/team/builds/{}", id.to_uppercase()), "invalid_build_id"),
        (format!("/v1/projects/team/builds/{}/logs", id.replace('-', "")), "invalid_build_id"),
        ("/v1/projects/team/artifacts/sha256:12".to_owned(), "invalid_digest"),
    ];
    for (path, expected) in cases {
        assert_eq!(code(api.get(&path).await).await, (400, expected.to_owned()), "{path}");
    }
    let answer = api.get("/v1/projects/team/builds/123").await;
    insta::assert_json_snapshot!("invalid_build_id", document(answer).await);
}

#[tokio::test]
async fn every_mistake_of_a_query_is_reported_at_once() {
    let api = Api::start().await;
    let query = "state=done,failed&image=UPPER&limit=0&cursor=x&order=asc";
    let answer = api.get(&format!("/v1/projects/team/builds?{query}")).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    insta::assert_json_snapshot!("invalid_query", document(answer).await);
    let id = BuildId::fresh();
    for path in [
        "/v1/workers?x=1".to_owned(),
        "/v1/projects/team/events?after=-1".to_owned(),
        format!("/v1/projects/team/builds/{id}/logs?follow=maybe"),
        format!("/v1/projects/team/builds/{id}?x"),
    ] {
        assert_eq!(code(api.get(&path).await).await, (400, "invalid_query".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn every_mistake_of_a_build_request_is_reported_at_once() {
    let api = Api::start().await;
    let artifact = Digest::of(b"never uploaded").to_string();
    let answer = api
        .post(&json!({
            "artifact": artifact, "image": "app", "enviroment": "java-17", "priority": "urgent",
            "ports": [0], "timeout_s": "long"
        }))
        .await;
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
    insta::assert_json_snapshot!("invalid_request", document(answer).await);
}

#[tokio::test]
async fn a_body_that_is_no_request_is_refused_before_it_is_read_as_one() {
    let api = Api::start().await;
    let path = "/v1/projects/team/builds";
    let send = async |headers: &[(&str, &str)], body: String| {
        code(api.ask(request("POST", path, headers, body)).await).await
    };
    let json = ("content-type", "application/json");
    assert_eq!(send(&[json], "{".into()).await, (400, "malformed_json".into()));
    assert_eq!(send(&[], "{}".into()).await, (415, "unsupported_media_type".into()));
    let large = format!("\"{}\"", "x".repeat(256 * 1024));
    assert_eq!(send(&[json], large).await, (413, "request_too_large".into()));
    let length = ("content-length", "1000000000");
    assert_eq!(send(&[json, length], "{}".into()).await, (413, "request_too_large".into()));
    for key in ["", "with space", &"x".repeat(256), "ä"] {
        let key = ("idempotency-key", key);
        let expected = (400, "invalid_idempotency_key".to_owned());
        assert_eq!(send(&[json, key], "{}".into()).await, expected, "{key:?}");
    }
}

#[tokio::test]
async fn an_upload_is_kept_and_found_again() {
    let api = Api::start().await;
    let bytes = executable();
    let digest = Digest::of(&bytes);
    let path = "/v1/projects/team/artifacts?filename=app";
    let answer = api.put(path, &[], bytes.clone()).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    let location = format!("/v1/projects/team/artifacts/{digest}");
    assert_eq!(answer.headers()[LOCATION], location);
    let artifact = document(answer).await;
    assert_eq!(artifact["digest"], digest.to_string());
    assert_eq!(artifact["kind"], "binary");

    let answer = api.ask(request("HEAD", &location, &[], "")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["etag"], format!("\"{digest}\""));
    assert_eq!(answer.headers()["slipway-artifact-size"], "120");
    assert_eq!(document(api.get(&location).await).await, artifact);
    let other = location.replace("team", "other");
    assert_eq!(code(api.get(&other).await).await, (404, "artifact_not_found".into()));

    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(digest.as_bytes());
    let promised = format!("sha-256=:{encoded}:");
    let answer = api.put(path, &[("content-digest", &promised)], bytes).await;
    assert_eq!(answer.status(), StatusCode::OK, "the project has it already");
}

#[tokio::test]
async fn an_upload_that_is_refused_leaves_nothing() {
    let api = Api::start().await;
    let path = "/v1/projects/team/artifacts?filename=app";
    let other = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
    let none = ("x-none", "");
    let cases = [
        ("/v1/projects/team/artifacts", none, "400 invalid_query"),
        ("/v1/projects/team/artifacts?filename=a/b", none, "400 invalid_query"),
        ("/v1/projects/TEAM/artifacts?filename=app", none, "400 invalid_name"),
        (path, ("content-digest", "sha-256=:AAAA:"), "400 invalid_content_digest"),
        (path, ("content-digest", other), "422 digest_mismatch"),
        (path, ("content-length", "121"), "400 upload_truncated"),
    ];
    for (path, header, expected) in cases {
        let (status, code) = code(api.put(path, &[header], executable()).await).await;
        assert_eq!(format!("{status} {code}"), expected, "{path}");
        assert_eq!(api.stored(), Vec::<String>::new(), "{expected}");
    }
    let answer = api.put(path, &[], "neither ZIP nor ELF").await;
    assert_eq!(code(answer).await, (422, "not_an_artifact".to_owned()));
    assert_eq!(api.stored(), Vec::<String>::new());
}

#[tokio::test]
async fn an_upload_above_the_limit_is_refused_with_the_limit_in_the_sentence() {
    let api = Api::start().await;
    let path = "/v1/projects/team/artifacts?filename=app";
    let unread = Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>());
    let answer = api.put(path, &[("content-length", "4097")], unread).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    insta::assert_json_snapshot!("artifact_too_large", document(answer).await);
    let chunks = futures::stream::repeat(Ok::<_, Infallible>(Bytes::from_static(&[0; 1024])));
    let answer = api.put(path, &[], Body::from_stream(chunks.take(5))).await;
    assert_eq!(code(answer).await, (413, "artifact_too_large".into()));
    assert_eq!(api.stored(), Vec::<String>::new());
}

/// Sends bytes on a connection and returns what comes back until it closes.
async fn converse(address: SocketAddr, sent: &[u8], shutdown: bool) -> String {
    let mut connection = TcpStream::connect(address).await.expect("it connects");
    connection.write_all(sent).await.expect("it is sent");
    if shutdown {
        connection.shutdown().await.expect("it is shut down");
    }
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.expect("an answer and no reset");
    String::from_utf8(answer).expect("a text")
}

#[tokio::test]
async fn a_client_that_goes_on_sending_still_gets_its_refusal() {
    let api = Api::start().await;
    let address = api.listen().await;
    let length = 8 << 20;
    let head = format!(
        "PUT /v1/projects/team/artifacts?filename=app HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    );
    let sent = [head.as_bytes(), &vec![0; length]].concat();
    let answer = converse(address, &sent, false).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    assert!(answer.contains("artifact_too_large"), "{answer}");
}

#[tokio::test]
async fn a_client_that_asks_first_is_refused_without_sending() {
    let api = Api::start().await;
    let address = api.listen().await;
    let head = "PUT /v1/projects/team/artifacts?filename=app HTTP/1.1\r\nHost: x\r\nContent-Length: 8192\r\nExpect: 100-continue\r\n\r\n";
    let answer = converse(address, head.as_bytes(), false).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn an_upload_whose_connection_breaks_leaves_nothing() {
    let api = Api::start().await;
    let address = api.listen().await;
    let head = "PUT /v1/projects/team/artifacts?filename=app HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n";
    let sent = [head.as_bytes(), &executable()].concat();
    converse(address, &sent, true).await;
    // The connection is closed after the upload was dropped.
    assert_eq!(api.stored(), Vec::<String>::new());
    assert_eq!(api.app.metrics.uploads_refused.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn without_the_queue_nothing_is_accepted_and_the_client_is_told_to_come_back() {
    let api = Api::start().await;
    let bytes = executable();
    let path = "/v1/projects/team/artifacts?filename=app";
    let uploaded = document(api.put(path, &[], bytes).await).await;
    let answer =
        api.post(&json!({"artifact": uploaded["digest"], "image": "r.example/app:1"})).await;
    assert_eq!(answer.headers()[RETRY_AFTER], "2");
    insta::assert_json_snapshot!("queue_unavailable", document(answer).await);
    for path in ["/v1/workers", "/v1/queue"] {
        assert_eq!(code(api.get(path).await).await, (503, "queue_unavailable".into()), "{path}");
    }
}

#[tokio::test]
async fn what_the_projection_knows_is_served_without_the_queue() {
    let mut api = Api::start().await;
    let build = testing::build("team", "r.example/app:1");
    let stored = Stored { sequence: 1, event: Some(Event::queued(&build)) };
    api.folder.fold(&[stored]).expect("it folds");
    let expected = serde_json::to_value(BuildView::from(&build)).expect("JSON");
    let id = build.request.build;
    let answer = api.get(&format!("/v1/projects/team/builds/{id}")).await;
    assert_eq!(document(answer).await, expected);
    let answer = api.get("/v1/projects/team/builds?state=queued&image=r.example/app").await;
    let list = document(answer).await;
    assert_eq!(list, json!({"builds": [expected], "next_cursor": null}));
    // Whether there is no such build cannot be said without the records.
    let answer = api.get(&format!("/v1/projects/team/builds/{}", BuildId::fresh())).await;
    assert_eq!(code(answer).await, (503, "queue_unavailable".into()));
}

/// Folds the events of builds, so that they are known without their records.
fn fold(api: &mut Api, events: Vec<Event>) {
    let events: Vec<Stored> = (api.folder.last_sequence() + 1..)
        .zip(events)
        .map(|(sequence, event)| Stored { sequence, event: Some(event) })
        .collect();
    api.folder.fold(&events).expect("it folds");
}

fn cancelled(build: &Build) -> Build {
    let cancel = Change::Cancel { message: "cancelled on request".into() };
    build.apply(&cancel, build.accepted_at).expect("it applies")
}

#[tokio::test]
async fn only_a_finished_build_whose_artifact_is_there_is_repeated() {
    let mut api = Api::start().await;
    let (waiting, ended) =
        (testing::build("team", "r.example/app:1"), testing::build("team", "r.example/app:2"));
    let finished = Event::finished(&cancelled(&ended)).expect("it is finished");
    fold(&mut api, vec![Event::queued(&waiting), Event::queued(&ended), finished]);
    let retry = async |build: &Build, key: &str| {
        let path = format!("/v1/projects/team/builds/{}/retry", build.request.build);
        let headers = if key.is_empty() { vec![] } else { vec![("idempotency-key", key)] };
        api.ask(request("POST", &path, &headers, "")).await
    };
    assert_eq!(code(retry(&waiting, "").await).await, (409, "build_not_finished".into()));
    let answer = retry(&ended, "").await;
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let problem = document(answer).await;
    assert_eq!(problem["errors"][0]["field"], "artifact");
    assert_eq!(problem["errors"][0]["code"], "artifact_not_found");
    let wrong = retry(&ended, "with space").await;
    assert_eq!(code(wrong).await, (400, "invalid_idempotency_key".into()));
    // Whether the key is taken cannot be said without the records.
    assert_eq!(code(retry(&ended, "key").await).await, (503, "queue_unavailable".into()));
}

#[tokio::test]
async fn what_changes_builds_is_refused_without_the_queue() {
    let api = Api::start().await;
    let id = BuildId::fresh();
    for (method, path) in [
        ("POST", format!("/v1/projects/team/builds/{id}/cancel")),
        ("POST", "/v1/projects/team/builds:cancel".to_owned()),
        ("GET", "/v1/projects/team/dead".to_owned()),
        ("GET", format!("/v1/projects/team/dead/{id}")),
        ("DELETE", format!("/v1/projects/team/dead/{id}")),
        ("POST", format!("/v1/projects/team/dead/{id}/replay")),
        ("POST", "/v1/workers/w1/drain".to_owned()),
        ("POST", "/v1/reconcile".to_owned()),
    ] {
        let answer = api.ask(request(method, &path, &[], "")).await;
        assert!(answer.headers().contains_key(RETRY_AFTER), "{path}");
        assert_eq!(code(answer).await, (503, "queue_unavailable".into()), "{path}");
    }
}

#[tokio::test]
async fn a_letter_is_named_by_one_token() {
    let api = Api::start().await;
    for name in ["*", "%3E", "a.b", "a%20b", "%C3%A4"] {
        let path = format!("/v1/projects/team/dead/{name}");
        for method in ["GET", "DELETE"] {
            let answer = api.ask(request(method, &path, &[], "")).await;
            assert_eq!(code(answer).await, (404, "dead_letter_not_found".into()), "{name}");
        }
    }
    let answer = api.get("/v1/projects/team/dead?limit=0&cursor=x").await;
    let problem = document(answer).await;
    let fields: Vec<&Value> =
        problem["errors"].as_array().expect("a list").iter().map(|error| &error["field"]).collect();
    assert_eq!(fields, ["limit", "cursor"]);
    let answer = api.ask(request("POST", "/v1/workers/W1/drain", &[], "")).await;
    assert_eq!(code(answer).await, (400, "invalid_name".into()));
}

#[tokio::test]
async fn a_build_is_refused_at_once_while_nothing_is_stored() {
    let api = Api::start().await;
    let bytes = executable();
    let path = "/v1/projects/team/artifacts?filename=app";
    let uploaded = document(api.put(path, &[], bytes).await).await;
    // Tries to write.
    assert_eq!(api.get("/readyz").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = json!({"artifact": uploaded["digest"], "image": "r.example/app:1"});
    let answer = api.post(&body).await;
    assert_eq!(answer.headers()[RETRY_AFTER], "2");
    let problem = document(answer).await;
    assert_eq!(problem["code"], "queue_unavailable");
    assert!(problem["detail"].as_str().expect("a text").contains("disk"), "{problem}");
}

#[tokio::test]
async fn the_dispatcher_is_alive_and_says_why_it_is_not_ready() {
    let api = Api::start().await;
    assert_eq!(document(api.get("/healthz").await).await, json!({"status": "alive"}));
    let answer = api.get("/readyz").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    insta::assert_json_snapshot!("not_ready", document(answer).await);
    let description = document(api.get("/openapi.json").await).await;
    assert_eq!(description["info"]["version"], env!("CARGO_PKG_VERSION"));
    let page = body(api.get("/").await).await;
    assert!(str::from_utf8(&page).expect("a text").contains(env!("CARGO_PKG_VERSION")));
    let metrics = body(api.get("/metrics").await).await;
    assert!(str::from_utf8(&metrics).expect("a text").contains("slipway_nats_connected 1"));
}

fn told(sequence: u64, project: &str, build: BuildId) -> Arrived {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(slipway_queue::publish::header::BUILD_ID, build.to_string());
    Arrived::of(Message {
        sequence,
        pending: 0,
        time: slipway_proto::Timestamp::UNIX_EPOCH,
        subject: format!("slipway.event.{project}.1.build.started"),
        headers: Some(headers),
        payload: Bytes::from(format!("{{\"n\":{sequence}}}")),
    })
}

#[tokio::test]
async fn a_subscriber_gets_its_project_s_events_from_now_on() {
    let api = Api::start().await;
    let (one, two) = (BuildId::fresh(), BuildId::fresh());
    api.app.feed.tell(&told(1, "team", one));
    let all = api.get("/v1/projects/team/events").await;
    let only = api.get(&format!("/v1/projects/team/events?build={two}")).await;
    assert_eq!(all.headers()[CONTENT_TYPE], "text/event-stream");
    for arrived in [told(2, "team", one), told(3, "other", one), told(4, "team", two)] {
        api.app.feed.tell(&arrived);
    }
    // Ends the streams; what they were told before comes first.
    let mut all = all.into_body().into_data_stream();
    let mut only = only.into_body().into_data_stream();
    let opening = "retry: 1000\nid: 1\n\n";
    let frame = |n| format!("id: {n}\nevent: build.started\ndata: {{\"n\":{n}}}\n\n");
    for expected in [opening, &frame(2), &frame(4)] {
        assert_eq!(all.next().await.expect("a frame").expect("a frame"), expected);
    }
    for expected in [opening, &frame(4)] {
        assert_eq!(only.next().await.expect("a frame").expect("a frame"), expected);
    }
    api.app.stop.cancel();
    assert!(all.next().await.is_none());
}

#[tokio::test]
async fn a_subscriber_that_resumes_at_the_end_needs_no_history() {
    let api = Api::start().await;
    let build = BuildId::fresh();
    for sequence in 1..=3 {
        api.app.feed.tell(&told(sequence, "team", build));
    }
    let path = "/v1/projects/team/events";
    let answer = api.ask(request("GET", path, &[("last-event-id", "3")], "")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    // What lies behind must be read from the stream, which is not there.
    let answer = api.ask(request("GET", path, &[("last-event-id", "2")], "")).await;
    assert_eq!(code(answer).await, (503, "queue_unavailable".into()));
    let answer = api.ask(request("GET", path, &[("last-event-id", "x")], "")).await;
    assert_eq!(code(answer).await, (400, "invalid_query".into()));
}

#[tokio::test]
async fn a_subscriber_that_is_too_slow_is_dropped() {
    let api = Api::start().await;
    let build = BuildId::fresh();
    let answer = api.get("/v1/projects/team/events").await;
    let mut frames = answer.into_body().into_data_stream();
    assert!(frames.next().await.is_some(), "the opening");
    for sequence in 1..=5000 {
        api.app.feed.tell(&told(sequence, "team", build));
    }
    let mut received = 0;
    while let Some(frame) = frames.next().await {
        frame.expect("a frame");
        received += 1;
    }
    assert!(received < 5000, "{received}");
    let dropped = &api.app.metrics.subscribers_dropped;
    assert_eq!(dropped.load(std::sync::atomic::Ordering::Relaxed), 1);
}
