// SPDX-License-Identifier: Apache-2.0

//! Builds that are cancelled: waiting ones, running ones, all of a project, and by a later build.

use serde_json::{Value, json};
use slipway_tests::proxy::Proxy;
use slipway_tests::{Stack, WorkerOptions, events};

fn worker(id: &'static str) -> WorkerOptions {
    WorkerOptions { id, ..WorkerOptions::default() }
}

async fn cancel(stack: &Stack, id: &str) -> (u16, Value) {
    stack.post(&format!("/v1/projects/team/builds/{id}/cancel")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_build_that_is_cancelled_never_starts() {
    let mut stack = Stack::start().await;
    let called_off = stack.submit(&stack.tool("a", &stack.image("cancel/a:1")).await).await;
    let other = stack.submit(&stack.tool("b", &stack.image("cancel/b:1")).await).await;
    let (status, build) = cancel(&stack, &called_off).await;
    assert_eq!((status, &build["state"]), (200, &json!("cancelled")), "{build}");
    let (status, again) = cancel(&stack, &called_off).await;
    assert_eq!((status, &again["finished_at"]), (200, &build["finished_at"]), "once is enough");
    let (_, queue) = stack.get("/v1/queue").await;
    assert_eq!(queue["queued"], 1, "its request is out of the queue: {queue}");
    stack.add_worker(worker("worker-1"));
    assert_eq!(stack.finished(&other).await["state"], "succeeded");
    let build = stack.build(&called_off).await;
    assert_eq!((&build["state"], &build["epoch"]), (&json!("cancelled"), &json!(0)), "{build}");
    assert_eq!(build["failure"]["reason"], "Cancelled");
    assert_eq!(stack.registry.tags("cancel/a").await, Vec::<String>::new());
    let (status, problem) = cancel(&stack, &other).await;
    assert_eq!((status, &problem["code"]), (409, &json!("build_finished")), "{problem}");
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    assert_eq!(cancel(&stack, unknown).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_build_that_is_cancelled_stops_at_once_and_pushes_no_tag() {
    let mut stack = Stack::start().await;
    let mut proxy = Proxy::holding(&stack.registry.address, b"PUT /v2/held/tool/blobs/").await;
    stack.add_worker(worker("worker-1"));
    let image = format!("{}/held/tool:1", proxy.address);
    let id = stack.submit(&stack.tool("a", &image).await).await;
    proxy.held().await;
    let (status, build) = cancel(&stack, &id).await;
    assert_eq!((status, &build["state"]), (200, &json!("cancelled")), "{build}");
    // The upload is still held, so only a worker that stopped by itself settles the build now.
    stack.queue_empty().await;
    proxy.release();
    // The log waits for the worker's last line, although the build ended before it was written.
    let log = stack.log(&id).await;
    assert!(log.contains("on worker worker-1") && !log.contains("tagged "), "{log}");
    assert!(log.contains("Build cancelled: "), "{log}");
    assert_eq!(stack.registry.tags("held/tool").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_whose_tags_are_being_written_is_not_cancelled_any_more() {
    let mut stack = Stack::start().await;
    let mut proxy = Proxy::holding(&stack.registry.address, b"PUT /v2/held/tool/manifests/1").await;
    stack.add_worker(worker("worker-1"));
    let image = format!("{}/held/tool:1", proxy.address);
    let id = stack.submit(&stack.tool("a", &image).await).await;
    proxy.held().await;
    let (status, problem) = cancel(&stack, &id).await;
    assert_eq!((status, &problem["code"]), (409, &json!("build_publishing")), "{problem}");
    proxy.release();
    assert_eq!(stack.finished(&id).await["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_waiting_builds_of_a_project_are_cancelled_and_no_others() {
    let mut stack = Stack::start().await;
    let mut proxy = Proxy::holding(&stack.registry.address, b"PUT /v2/held/tool/blobs/").await;
    let arguments = vec!["--slots=1".to_owned()];
    stack.add_worker(WorkerOptions { arguments, ..worker("worker-1") });
    let image = format!("{}/held/tool:1", proxy.address);
    let running = stack.submit(&stack.tool("a", &image).await).await;
    proxy.held().await;
    let mut waiting = Vec::new();
    for number in 0..5 {
        let image = stack.image(&format!("cancel/many:{number}"));
        waiting.push(stack.submit(&stack.tool(&number.to_string(), &image).await).await);
    }
    let (status, answer) = stack.post("/v1/projects/team/builds:cancel").await;
    assert_eq!(status, 200, "{answer}");
    let mut cancelled: Vec<&str> =
        answer["cancelled"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    cancelled.sort_unstable();
    waiting.sort_unstable();
    assert_eq!(cancelled, waiting);
    proxy.release();
    assert_eq!(stack.finished(&running).await["state"], "succeeded");
    stack.queue_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_build_with_the_same_key_cancels_the_earlier_ones() {
    let mut stack = Stack::start().await;
    let keyed = async |marker: &str, key: &str| {
        let mut request = stack.tool(marker, &stack.image(&format!("keyed/{marker}:1"))).await;
        request["supersede_key"] = json!(key);
        stack.submit(&request).await
    };
    let first = keyed("a", "refs/heads/main").await;
    let other = keyed("b", "refs/heads/feature").await;
    let second = keyed("c", "refs/heads/main").await;
    let last = keyed("d", "refs/heads/main").await;
    for superseded in [&first, &second] {
        let build = stack.finished(superseded).await;
        assert_eq!(build["state"], "cancelled", "{build}");
        let message = build["failure"]["message"].as_str().expect("a message");
        assert!(message.contains("superseded by build"), "{message}");
    }
    stack.add_worker(worker("worker-1"));
    for kept in [&other, &last] {
        assert_eq!(stack.finished(kept).await["state"], "succeeded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_see_that_a_build_started_before_they_see_that_it_was_cancelled() {
    let mut stack = Stack::start().await;
    // It stops between its claim and the event for it.
    let environment = vec![("SLIPWAY_FAILPOINTS", "claim.claimed=stop")];
    let sleeper = stack.add_worker(WorkerOptions { environment, ..worker("worker-1") });
    let id = stack.submit(&stack.tool("a", &stack.image("cancel/a:1")).await).await;
    stack.workers[sleeper].stopped().await;
    assert_eq!(cancel(&stack, &id).await.0, 200);
    stack.workers[sleeper].signal("CONT");
    stack.queue_empty().await;
    let events = events::all(&stack.nats.url()).await;
    let mut told = events::of(&id, &events);
    told.retain(|word| *word != "stage");
    assert_eq!(told, ["queued", "started", "finished"]);
}
