// SPDX-License-Identifier: Apache-2.0

//! Dead letters: what becomes one, and how they are shown, replayed and dropped. And retries.

use serde_json::{Value, json};
use slipway_tests::{Stack, wait};

/// A build that used up its only attempt, because the registry was away.
async fn dead_build(stack: &mut Stack, marker: &str) -> String {
    stack.registry.kill();
    let mut request = stack.tool(marker, &stack.image("dead/tool:1")).await;
    request["max_attempts"] = json!(1);
    let id = stack.submit(&request).await;
    let build = stack.finished(&id).await;
    assert_eq!(build["state"], "failed", "{build}");
    wait::until("its dead letter", wait::SOON, || async {
        let (status, _) = stack.get(&format!("/v1/projects/team/dead/{id}")).await;
        (status == 200).then_some(())
    })
    .await;
    stack.registry.restart().await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_replayed_as_a_new_epoch_of_its_build() {
    let mut stack = Stack::with_worker().await;
    let id = dead_build(&mut stack, "a").await;
    let failed = stack.build(&id).await;
    let (status, list) = stack.get("/v1/projects/team/dead").await;
    assert_eq!(status, 200, "{list}");
    assert_eq!(list["letters"].as_array().map(Vec::len), Some(1), "{list}");
    let letter = &list["letters"][0];
    assert_eq!((&letter["build"], &letter["epoch"]), (&json!(id), &json!(1)), "{letter}");
    assert_eq!(letter["request"]["build"], json!(id));
    let reason = letter["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("PushImageFailed"), "{reason}");
    let (status, build) = stack.post(&format!("/v1/projects/team/dead/{id}/replay")).await;
    assert_eq!((status, &build["id"]), (202, &json!(id)), "{build}");
    assert_eq!(build["replays"], 1);
    let build = stack.finished(&id).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    assert!(build["epoch"].as_u64() > failed["epoch"].as_u64(), "{build}");
    assert_eq!(build["attempt"], 1, "all attempts anew: {build}");
    // At once: the log archived after the first outcome lacks the replay until the archiver
    // returns.
    let log = stack.log(&id).await;
    let (failed_at, completed_at) = (log.find("Build failed: "), log.find("Build completed"));
    assert!(failed_at.is_some() && failed_at < completed_at, "{log}");
    let (_, list) = stack.get("/v1/projects/team/dead").await;
    assert_eq!(list["letters"], json!([]));
    let listed = wait::until("the list to follow", wait::SOON, || async {
        let (_, list) = stack.get("/v1/projects/team/builds?state=succeeded").await;
        list["builds"].as_array().filter(|builds| builds.len() == 1).cloned()
    })
    .await;
    assert_eq!(listed[0]["id"], json!(id));
    let (status, problem) = stack.post(&format!("/v1/projects/team/dead/{id}/replay")).await;
    assert_eq!((status, &problem["code"]), (404, &json!("dead_letter_not_found")), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_dead_letter_does_not_come_back() {
    let mut stack = Stack::with_worker().await;
    let id = dead_build(&mut stack, "a").await;
    let path = format!("/v1/projects/team/dead/{id}");
    let dropped = stack.client.delete(stack.url(&path)).send().await.expect("an answer");
    assert_eq!(dropped.status().as_u16(), 204);
    let (status, repairs) = stack.post("/v1/reconcile").await;
    assert_eq!((status, &repairs["dead_letters"]), (200, &json!(0)), "{repairs}");
    assert_eq!(stack.get(&path).await.0, 404);
    assert_eq!(stack.build(&id).await["state"], "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_before_the_dead_letter_leaves_it_to_the_next_delivery() {
    let mut stack = Stack::start().await;
    let victim = stack.add_worker(slipway_tests::WorkerOptions {
        id: "worker-1",
        environment: vec![("SLIPWAY_FAILPOINTS", "dead.announced=abort")],
        ..slipway_tests::WorkerOptions::default()
    });
    stack.registry.kill();
    let mut request = stack.tool("a", &stack.image("dead/tool:1")).await;
    request["max_attempts"] = json!(1);
    let id = stack.submit(&request).await;
    stack.workers[victim].exit(wait::SOON).await;
    stack.add_worker(slipway_tests::WorkerOptions {
        id: "worker-2",
        ..slipway_tests::WorkerOptions::default()
    });
    wait::until("the dead letter", wait::LATER, || async {
        let (status, _) = stack.get(&format!("/v1/projects/team/dead/{id}")).await;
        (status == 200).then_some(())
    })
    .await;
    stack.queue_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_a_new_build_that_names_the_old() {
    let stack = Stack::with_worker().await;
    let request = stack.tool("a", &stack.image("retried/tool:1")).await;
    let old = stack.submit(&request).await;
    let built = stack.finished(&old).await;
    let retry = async |key: &str| -> (u16, Value) {
        let url = stack.url(&format!("/v1/projects/team/builds/{old}/retry"));
        stack.send(stack.client.post(url).header("idempotency-key", key)).await
    };
    let (status, new) = retry("k").await;
    assert_eq!(status, 202, "{new}");
    assert_ne!(new["id"], json!(old));
    assert_eq!(new["request"]["retry_of"], json!(old), "{new}");
    let new = stack.finished(new["id"].as_str().expect("an id")).await;
    assert_eq!(new["image"]["digest"], built["image"]["digest"], "images are reproducible");
    assert!(new["order"].as_u64() > built["order"].as_u64());
    let (status, again) = retry("k").await;
    assert_eq!((status, &again["id"]), (200, &new["id"]), "one key, one build");
}
