// SPDX-License-Identifier: Apache-2.0

//! Which requests the client sends, and what it does with the answers.

use serde_json::{Value, json};
use slipway_proto::BuildId;

use super::scripted::{Scripted, Step};
use super::*;

const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn id() -> BuildId {
    ID.parse().expect("an id")
}

fn build() -> Step {
    Step::Answer(200, slipway_proto::api::EXAMPLE_BUILD.to_owned())
}

fn document(document: &Value) -> Step {
    Step::Answer(200, document.to_string())
}

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
        token: Some("a\nb".to_owned().into()),
    };
    assert!(matches!(Client::new(options), Err(ClientError::InvalidToken)));
}

#[tokio::test]
async fn each_question_has_its_place() {
    let worker = json!({
        "id": "w-1", "version": "0.1.0", "pool": "default", "slots": 1, "running": [],
        "cache_bytes": 0, "draining": true, "started_at": "2026-01-01T00:00:00Z"
    });
    let repairs = json!({
        "unfinished": 1, "enqueued": 0, "queued_events": 0, "started_events": 0,
        "finished_events": 0, "dead_letters": 0, "messages_removed": 0, "timed_out": 0,
        "superseded": 0
    });
    let letter = json!({
        "build": ID, "project": "team", "pool": "default", "reason": "no",
        "died_at": "2026-01-01T00:00:00Z", "epoch": 1, "request": null
    });
    let server = Scripted::start(vec![
        build(),
        document(&json!({"cancelled": [ID]})),
        build(),
        document(&json!({"letters": [letter], "next_cursor": null})),
        document(&letter),
        build(),
        Step::Answer(204, String::new()),
        document(&worker),
        document(&repairs),
    ])
    .await;
    let client = server.client();
    client.cancel(id()).await.expect("it is cancelled");
    assert_eq!(client.cancel_queued().await.expect("they are cancelled").cancelled, [id()]);
    client.retry(id(), "key").await.expect("it is retried");
    let page = client.dead_letters(Some(2), Some("7")).await.expect("letters");
    assert_eq!(page.letters.len(), 1);
    client.dead_letter(ID).await.expect("a letter");
    client.replay(ID).await.expect("it is replayed");
    client.drop_dead_letter(ID).await.expect("it is dropped");
    client.drain(&"w-1".parse().expect("a name")).await.expect("it drains");
    assert_eq!(client.reconcile().await.expect("a sweep").unfinished, 1);
    let team = "/v1/projects/team";
    assert_eq!(
        server.requests(),
        [
            format!("POST {team}/builds/{ID}/cancel"),
            format!("POST {team}/builds:cancel"),
            format!("POST {team}/builds/{ID}/retry key"),
            format!("GET {team}/dead?limit=2&cursor=7"),
            format!("GET {team}/dead/{ID}"),
            format!("POST {team}/dead/{ID}/replay"),
            format!("DELETE {team}/dead/{ID}"),
            "POST /v1/workers/w-1/drain".to_owned(),
            "POST /v1/reconcile".to_owned(),
        ]
    );
}

#[tokio::test]
async fn a_cancellation_whose_answer_was_lost_is_repeated() {
    let server = Scripted::start(vec![Step::HangUp, build()]).await;
    server.client().cancel(id()).await.expect("it is cancelled");
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_retry_is_repeated_under_its_key() {
    let busy = Step::refuse(503, "queue_unavailable");
    let server = Scripted::start(vec![busy, Step::HangUp, build()]).await;
    server.client().retry(id(), "key").await.expect("it is retried");
    assert!(server.requests().iter().all(|request| request.ends_with("/retry key")));
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_twice() {
    let server = Scripted::start(vec![Step::HangUp, Step::HangUp, Step::HangUp]).await;
    let client = server.client();
    assert!(matches!(client.replay(ID).await, Err(ClientError::Lost { .. })));
    assert!(matches!(client.cancel_queued().await, Err(ClientError::Lost { .. })));
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_letter_that_was_dropped_without_an_answer_is_dropped() {
    let gone = Step::refuse(404, "dead_letter_not_found");
    let server = Scripted::start(vec![Step::HangUp, gone.clone()]).await;
    server.client().drop_dead_letter(ID).await.expect("it is dropped");
    let server = Scripted::start(vec![gone]).await;
    let error = server.client().drop_dead_letter(ID).await.expect_err("there is none");
    assert_eq!(error.code(), Some("dead_letter_not_found"));
}
