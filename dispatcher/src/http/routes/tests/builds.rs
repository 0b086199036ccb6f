// SPDX-License-Identifier: Apache-2.0

//! What is answered about builds while the queue is not there.

use super::*;

#[tokio::test]
async fn without_the_queue_nothing_is_accepted_and_the_client_is_told_to_come_back() {
    let api = Api::start().await;
    let bytes = testing::executable();
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
    let bytes = testing::executable();
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
