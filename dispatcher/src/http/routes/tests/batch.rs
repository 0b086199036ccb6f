// SPDX-License-Identifier: Apache-2.0

//! Batches, as far as they come without the queue.

use std::sync::atomic::{AtomicBool, Ordering};

use http::header::CONNECTION;

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

/// A batch that notes when its first byte is read.
fn watched() -> (Request, Arc<AtomicBool>) {
    let is_read = Arc::new(AtomicBool::new(false));
    let note = Arc::clone(&is_read);
    let body = futures::stream::once(async move {
        note.store(true, Ordering::SeqCst);
        Ok::<_, Infallible>(Bytes::from_static(b"{\"builds\":[{}]}"))
    });
    let path = "/v1/projects/team/builds:batch";
    let headers = [("content-type", "application/json")];
    (request("POST", path, &headers, Body::from_stream(body)), is_read)
}

fn all(room: &Semaphore) -> u32 {
    u32::try_from(room.available_permits()).expect("it is some millions")
}

#[tokio::test]
async fn a_batch_is_read_when_there_is_room_and_takes_it_until_its_answer() {
    let api = Api::start().await;
    let room = &api.app.batch_bytes;
    let taken = room.acquire_many(all(room) - 8_000_000).await.expect("it is open");
    let parsing = api.app.batches.acquire().await.expect("it is open");
    let (batch, is_read) = watched();
    let answer = api.ask(batch);
    let others = async {
        assert!(!is_read.load(Ordering::SeqCst), "there is no room for one of any length");
        drop(taken);
        while !is_read.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        assert_eq!(room.available_permits(), MAX_BATCH_BYTES - 8_192_000);
        drop(parsing);
    };
    let (answer, ()) = tokio::join!(answer, others);
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(room.available_permits(), MAX_BATCH_BYTES);
}

#[tokio::test]
async fn a_batch_does_not_wait_for_room_for_ever() {
    let api = Api::start().await;
    let room = &api.app.batch_bytes;
    let _taken = room.acquire_many(all(room)).await.expect("it is open");
    tokio::time::pause();
    let answer = api.ask(watched().0).await;
    assert_eq!(answer.headers()[RETRY_AFTER], "2");
    assert_eq!(answer.headers()[CONNECTION], "close");
    assert_eq!(code(answer).await, (503, "busy".into()));
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
