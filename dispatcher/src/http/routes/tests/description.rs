// SPDX-License-Identifier: Apache-2.0

//! The description of the API says what the router serves and what the documents hold.

use super::*;
use slipway_proto::api::{BatchResult, BatchView, CollectionView, RemovalReason, RemovedArtifact};

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
    let result = BatchResult {
        status: 202,
        location: Some(String::new()),
        build: Some(BuildView::from(&build)),
        problem: Some(ApiError::build_not_found(build.request.build).problem()),
        retry_after_s: Some(5),
    };
    let batch = BatchView { accepted: 1, repeated: 0, refused: 0, results: vec![result.clone()] };
    let removed = RemovedArtifact {
        digest: Digest::of(b""),
        size_bytes: 0,
        used_at: None,
        reason: RemovalReason::Age,
    };
    let written = [
        ("DeadLetter", serde_json::to_value(letter)),
        ("DeadLetterList", serde_json::to_value(letters)),
        ("Cancelled", serde_json::to_value(cancelled)),
        ("Batch", serde_json::to_value(batch)),
        ("BatchResult", serde_json::to_value(result)),
        ("Repairs", serde_json::to_value(RepairsView::default())),
        ("Collection", serde_json::to_value(CollectionView::default())),
        ("Collected", serde_json::to_value(CollectionView::default().artifacts)),
        ("RemovedArtifact", serde_json::to_value(removed)),
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
