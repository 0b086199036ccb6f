// SPDX-License-Identifier: Apache-2.0

//! Batches, as far as they come without the queue.

use super::*;

async fn batch(api: &Api, document: &Value) -> Response {
    let headers = [("content-type", "application/json")];
    let path = "/v1/projects/team/builds:batch";
    api.ask(request("POST", path, &headers, document.to_string())).await
}

#[tokio::test]
async fn each_build_has_all_its_mistakes() {
    let api = Api::start().await;
    let builds = json!([
        {"artifact": Digest::of(b"x"), "image": "Nonsense", "idempotency_key": "a b"},
        {"artefact": "x", "image": "r.example/a:1"},
        3,
    ]);
    let answer = batch(&api, &json!({"builds": builds})).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let answer = document(answer).await;
    assert_eq!((&answer["accepted"], &answer["refused"]), (&json!(0), &json!(3)), "{answer}");
    let mistakes = |number: usize| -> Vec<String> {
        let result = &answer["results"][number];
        assert_eq!(result["status"], 422, "{result}");
        let errors = result["problem"]["errors"].as_array().expect("errors").iter();
        errors.map(|error| error["code"].as_str().expect("a code").to_owned()).collect()
    };
    assert_eq!(mistakes(0), ["invalid_idempotency_key", "invalid_reference", "artifact_not_found"]);
    assert_eq!(mistakes(1), ["unknown_field", "missing"]);
    assert_eq!(mistakes(2), ["not_an_object"]);
}

#[tokio::test]
async fn without_the_queue_each_build_is_refused_and_none_is_lost() {
    let api = Api::start().await;
    api.put("/v1/projects/team/artifacts?filename=app", &[], testing::executable()).await;
    let digest = Digest::of(&testing::executable());
    let good = json!({"artifact": digest, "image": "r.example/a:1", "environment": "scratch"});
    let answer = document(batch(&api, &json!({"builds": [good, {}]})).await).await;
    assert_eq!(answer["results"][0]["problem"]["code"], "queue_unavailable", "{answer}");
    assert_eq!(answer["results"][0]["retry_after_s"], 2);
    assert_eq!(answer["results"][1]["status"], 422);
    assert_eq!(answer["results"][1].get("retry_after_s"), None);
}

#[tokio::test]
async fn a_batch_that_is_none_is_refused_as_a_whole() {
    let api = Api::start().await;
    assert_eq!(
        code(batch(&api, &json!({"builds": []})).await).await,
        (422, "invalid_request".into())
    );
    let many = vec![json!({}); 1001];
    assert_eq!(
        code(batch(&api, &json!({"builds": many})).await).await,
        (413, "batch_too_large".into())
    );
    let large = json!({"builds": [{"image": "x".repeat(8_192_001)}]});
    assert_eq!(code(batch(&api, &large).await).await, (413, "batch_too_large".into()));
    let headers = [("content-type", "application/json"), ("idempotency-key", "k")];
    let path = "/v1/projects/team/builds:batch";
    let keyed = api.ask(request("POST", path, &headers, "{\"builds\":[{}]}")).await;
    assert_eq!(code(keyed).await, (400, "invalid_idempotency_key".into()));
}
