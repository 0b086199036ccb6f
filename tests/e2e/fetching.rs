// SPDX-License-Identifier: Apache-2.0

//! How workers fetch builds from the queue and claim them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use slipway_tests::proxy::Proxy;
use slipway_tests::{Stack, WorkerOptions, events, wait};

/// How long a message stays with a worker that does not give it back.
const LEASE: Duration = Duration::from_secs(15);

fn worker(id: &'static str, slots: usize) -> WorkerOptions {
    WorkerOptions { id, arguments: vec![format!("--slots={slots}")], ..WorkerOptions::default() }
}

/// Submits builds that stop in their push, one class after the other.
async fn submit_held(stack: &Stack, proxy: &Proxy, count: usize) -> Vec<String> {
    let mut builds = Vec::new();
    for number in 0..count {
        let image = format!("{}/held/tool:{number}", proxy.address);
        let mut request = stack.tool(&number.to_string(), &image).await;
        request["priority"] = json!(["high", "normal", "low"][number % 3]);
        builds.push(stack.submit(&request).await);
    }
    builds
}

/// Waits until workers hold this many builds, and returns how many wait then.
async fn held(stack: &Stack, count: usize) -> Value {
    let what = format!("{count} builds to run");
    let queue = wait::until(&what, wait::SOON, || async {
        let (_, queue) = stack.get("/v1/queue").await;
        (queue["running"] == count).then_some(queue)
    });
    queue.await["queued"].clone()
}

/// Each one was built by the first worker that took it.
async fn all_succeed(stack: &Stack, builds: &[String]) {
    for id in builds {
        let build = stack.finished(id).await;
        assert_eq!((&build["state"], &build["epoch"]), (&json!("succeeded"), &json!(1)), "{build}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_as_many_builds_at_once_as_it_has_slots() {
    let mut stack = Stack::start().await;
    let proxy = Proxy::holding(&stack.registry.address, b"PUT /v2/held/tool/blobs/").await;
    let builds = submit_held(&stack, &proxy, 9).await;
    stack.add_worker(worker("worker-1", 4));
    assert_eq!(held(&stack, 4).await, 5, "the others are for other workers");
    stack.add_worker(worker("worker-2", 8));
    assert_eq!(held(&stack, 9).await, 0);
    proxy.release();
    all_succeed(&stack, &builds).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_that_reach_a_worker_without_a_free_slot_go_to_another_at_once() {
    let mut stack = Stack::start().await;
    let proxy = Proxy::holding(&stack.registry.address, b"PUT /v2/held/tool/blobs/").await;
    // It asks in all three classes, and has room for one build.
    stack.add_worker(worker("worker-1", 1));
    wait::until("the worker's announcement", wait::SOON, || async {
        let (_, workers) = stack.get("/v1/workers").await;
        workers.to_string().contains("worker-1").then_some(())
    })
    .await;
    let begun = Instant::now();
    let builds = submit_held(&stack, &proxy, 3).await;
    // The server counts messages that were given back as held, so this shows that all three were
    // delivered.
    assert_eq!(held(&stack, 3).await, 0);
    stack.add_worker(worker("worker-2", 2));
    for id in &builds {
        wait::until("the build to run", wait::SOON, || async {
            (stack.build(id).await["state"] == "running").then_some(())
        })
        .await;
    }
    let took = begun.elapsed();
    assert!(took < LEASE, "one was kept until its lease ended, for {took:?}");
    proxy.release();
    all_succeed(&stack, &builds).await;
}

/// It claims without reading the record.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_was_cancelled_after_its_delivery_is_not_claimed() {
    let mut stack = Stack::start().await;
    let environment = vec![("SLIPWAY_FAILPOINTS", "claim.received=stop")];
    let sleeper = stack.add_worker(WorkerOptions { environment, ..worker("worker-1", 1) });
    let id = stack.submit(&stack.tool("a", &stack.image("claim/a:1")).await).await;
    stack.workers[sleeper].stopped().await;
    let (status, build) = stack.post(&format!("/v1/projects/team/builds/{id}/cancel")).await;
    assert_eq!(status, 200, "{build}");
    stack.workers[sleeper].signal("CONT");
    // The worker continues with the next one.
    let next = stack.submit(&stack.tool("b", &stack.image("claim/b:1")).await).await;
    assert_eq!(stack.finished(&next).await["state"], "succeeded");
    let build = stack.build(&id).await;
    assert_eq!((&build["state"], &build["epoch"]), (&json!("cancelled"), &json!(0)), "{build}");
    let events = events::all(&stack.nats.url()).await;
    assert_eq!(events::of(&id, &events), ["queued", "finished"]);
}
