// SPDX-License-Identifier: Apache-2.0

//! What a crash between two steps leaves, and that the reconciler finishes it.

use std::time::Duration;

use serde_json::{Value, json};
use slipway_tests::{Stack, WorkerOptions, wait};

const SWEEP_EVERY_SECOND: [&str; 1] = ["--reconcile-every-s=1"];

fn worker(id: &'static str) -> WorkerOptions {
    WorkerOptions { id, ..WorkerOptions::default() }
}

/// Makes the dispatcher die at a failpoint of acceptance, with a client that does not retry.
async fn crash_in_accept(stack: &mut Stack, failpoints: &'static str) {
    stack.dispatcher.kill();
    stack.dispatcher_environment = vec![("SLIPWAY_FAILPOINTS", failpoints)];
    stack.restart_dispatcher().await;
    let request = stack.tool("a", &stack.image("half/tool:1")).await;
    let url = stack.url("/v1/projects/team/builds");
    let answer = stack.client.post(url).header("idempotency-key", "k").json(&request).send().await;
    assert!(answer.is_err(), "the dispatcher died before it answered");
    stack.dispatcher.exit(wait::SOON).await;
    stack.dispatcher_environment.clear();
    stack.restart_dispatcher().await;
}

async fn only_build(stack: &Stack) -> Value {
    wait::until("the build to be listed", wait::LATER, || async {
        let (_, list) = stack.get("/v1/projects/team/builds").await;
        list["builds"].as_array().and_then(|builds| builds.first().cloned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_whose_request_was_never_queued_is_queued_and_built() {
    let mut stack = Stack::start_with(&SWEEP_EVERY_SECOND).await;
    crash_in_accept(&mut stack, "accept.created=abort").await;
    stack.add_worker(worker("worker-1"));
    let id = only_build(&stack).await["id"].as_str().expect("an id").to_owned();
    assert_eq!(stack.finished(&id).await["state"], "succeeded");
    let metrics = stack.client.get(stack.url("/metrics")).send().await.expect("an answer");
    let metrics = metrics.text().await.expect("a body");
    let repaired = "slipway_reconciler_repairs_total{repair=\"enqueued\"} 1";
    assert!(metrics.contains(repaired), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_was_never_queued_is_found_behind_the_changes_of_many_others() {
    let mut stack = Stack::start_with(&SWEEP_EVERY_SECOND).await;
    stack.add_worker(worker("worker-1"));
    let mut others = Vec::new();
    for number in 0..100 {
        let tool = stack.tool("a", &stack.image(&format!("many/tool:{number}"))).await;
        others.push(stack.submit(&tool).await);
    }
    // The first one leads, and has seen each of some hundred changes as it arrived.
    stack.dispatcher_environment = vec![("SLIPWAY_FAILPOINTS", "accept.created=abort")];
    let (mut second, url) = stack.another_dispatcher("dispatcher-2").await;
    let half = stack.tool("a", &stack.image("half/tool:1")).await;
    let url = format!("{url}/v1/projects/team/builds");
    let answer = stack.client.post(url).json(&half).send().await;
    assert!(answer.is_err(), "the dispatcher died before it answered");
    second.exit(wait::SOON).await;
    let succeeded = "/v1/projects/team/builds?state=succeeded&limit=200";
    wait::until("all builds to succeed", wait::SOON, || async {
        let (_, list) = stack.get(succeeded).await;
        (list["builds"].as_array()?.len() == others.len() + 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_was_never_announced_is_announced() {
    let mut stack = Stack::start_with(&SWEEP_EVERY_SECOND).await;
    crash_in_accept(&mut stack, "accept.queued=abort").await;
    let build = only_build(&stack).await;
    assert_eq!(build["state"], "queued", "{build}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_was_accepted_without_an_answer_is_the_same_for_the_same_key() {
    let mut stack = Stack::start_with(&SWEEP_EVERY_SECOND).await;
    crash_in_accept(&mut stack, "accept.announced=abort").await;
    let id = only_build(&stack).await["id"].clone();
    stack.nats.kill(0);
    stack.restart_nats().await;
    stack.dispatcher_ready().await;
    let request = stack.tool("a", &stack.image("half/tool:1")).await;
    let url = stack.url("/v1/projects/team/builds");
    let send = |body: Value| {
        stack.send(stack.client.post(&url).header("idempotency-key", "k").json(&body))
    };
    let (status, build) = send(request.clone()).await;
    assert_eq!((status, &build["id"]), (200, &id), "{build}");
    let mut other = request;
    other["image"] = json!(stack.image("half/other:1"));
    let (status, problem) = send(other).await;
    assert_eq!((status, &problem["code"]), (409, &json!("idempotency_key_reused")), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_before_it_announces_the_outcome_leaves_it_to_others() {
    let mut stack = Stack::start_with(&SWEEP_EVERY_SECOND).await;
    let victim = stack.add_worker(WorkerOptions {
        environment: vec![("SLIPWAY_FAILPOINTS", "commit.succeeded=abort")],
        ..worker("worker-1")
    });
    let id = stack.submit(&stack.tool("a", &stack.image("late/tool:1")).await).await;
    stack.workers[victim].exit(wait::SOON).await;
    // No worker is there to get the message again, so the reconciler publishes the outcome and
    // empties the queue.
    let listed = wait::until("the outcome to be announced", wait::LATER, || async {
        let (_, list) = stack.get("/v1/projects/team/builds?state=succeeded").await;
        list["builds"].as_array().and_then(|builds| builds.first().cloned())
    })
    .await;
    assert_eq!(listed["id"], json!(id));
    stack.queue_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_dispatcher_takes_over_within_10_seconds() {
    let mut stack = Stack::start_with(&SWEEP_EVERY_SECOND).await;
    let leads = async |url: String| {
        let metrics = stack.client.get(format!("{url}/metrics")).send().await.ok()?;
        metrics.text().await.ok()?.contains("slipway_reconciler_leader 1").then_some(())
    };
    wait::until("the first to lead", wait::SOON, || leads(stack.url(""))).await;
    let (_second, url) = stack.another_dispatcher("dispatcher-2").await;
    assert!(leads(url.clone()).await.is_none(), "one at a time");
    stack.dispatcher.kill();
    wait::until("the second to lead", Duration::from_secs(10), || leads(url.clone())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_can_be_asked_for() {
    let stack = Stack::start_with(&["--reconcile-every-s=3600"]).await;
    let output = stack.cli(&["--output", "json", "reconcile"]).await;
    let repairs: Value = serde_json::from_slice(&output.stdout).expect("a document");
    assert_eq!(repairs["enqueued"], 0, "{repairs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_server_does_not_deliver_is_queued_anew() {
    let mut stack = Stack::start_with(&SWEEP_EVERY_SECOND).await;
    let mut builds = Vec::new();
    for marker in ["a", "b", "c"] {
        let image = stack.image(&format!("stranded/{marker}:1"));
        builds.push(stack.submit(&stack.tool(marker, &image).await).await);
    }
    // After a purge by subject, nats-server 2.9.10 skips everything in the queue.
    let client = async_nats::connect(stack.nats.url()).await.expect("NATS is there");
    let queue = async_nats::jetstream::new(client).get_stream("BUILDS").await.expect("a stream");
    let subject = format!("slipway.build.default.normal.team.{}", builds[0]);
    queue.purge().filter(subject).await.expect("it is purged");
    stack.add_worker(worker("worker-1"));
    for id in &builds {
        assert_eq!(stack.finished(id).await["state"], "succeeded");
    }
    stack.queue_empty().await;
}
