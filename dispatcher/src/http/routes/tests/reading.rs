// SPDX-License-Identifier: Apache-2.0

//! What cannot be read of a request is said at once and completely.

use super::*;

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
