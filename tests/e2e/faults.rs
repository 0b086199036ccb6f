// SPDX-License-Identifier: Apache-2.0

//! An accepted build is not lost, whatever is killed.

use serde_json::{Value, json};
use slipway_proto::Timestamp;
use slipway_tests::faulty_registry::{FaultyRegistry, Misbehaviour, Rule};
use slipway_tests::proxy::Proxy;
use slipway_tests::{Stack, WorkerOptions, artifacts, events, wait};

async fn submit_tools(stack: &Stack, count: usize) -> Vec<String> {
    let mut builds = Vec::new();
    for number in 0..count {
        let tool = stack.upload("tool", artifacts::elf(62, &number.to_string())).await;
        let image = stack.image(&format!("many/tool:{number}"));
        let request = json!({"artifact": tool, "image": image, "environment": "scratch"});
        builds.push(stack.submit(&request).await);
    }
    builds
}

/// A build that a worker named `worker-1` holds in the middle of its upload.
async fn held_build(
    stack: &mut Stack,
    arguments: Vec<String>,
    max_attempts: u32,
) -> (Proxy, String) {
    let mut proxy = Proxy::holding(&stack.registry.address, b"PUT /v2/held/tool/blobs/").await;
    stack.add_worker(WorkerOptions { id: "worker-1", arguments, ..WorkerOptions::default() });
    let tool = stack.upload("tool", artifacts::elf(62, "")).await;
    let request = json!({
        "artifact": tool, "image": format!("{}/held/tool:1", proxy.address),
        "environment": "scratch", "max_attempts": max_attempts
    });
    let id = stack.submit(&request).await;
    proxy.held().await;
    (proxy, id)
}

fn worker(id: &'static str) -> WorkerOptions {
    WorkerOptions { id, ..WorkerOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_killed_and_started_while_builds_are_queued_loses_none() {
    let mut stack = Stack::start().await;
    let builds = submit_tools(&stack, 20).await;
    stack.nats.kill(0);
    stack.restart_nats().await;
    stack.add_worker(worker("worker-1"));
    for build in &builds {
        let build = stack.finished(build).await;
        assert_eq!(build["state"], "succeeded", "{build}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_killed_while_builds_run_loses_none() {
    let mut stack = Stack::with_worker().await;
    let builds = submit_tools(&stack, 30).await;
    stack.nats.kill(0);
    stack.restart_nats().await;
    for build in &builds {
        let build = stack.finished(build).await;
        assert_eq!(build["state"], "succeeded", "{build}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_started_before_nats_takes_a_build_once_nats_is_there() {
    let mut stack = Stack::start().await;
    stack.nats.kill(0);
    let early = stack.add_worker(worker("worker-1"));
    wait::until("the worker to wait for NATS", wait::SOON, || async {
        stack.workers[early].output().contains("NATS is not ready").then_some(())
    })
    .await;
    stack.restart_nats().await;
    stack.dispatcher_ready().await;
    let id = submit_tools(&stack, 1).await.remove(0);
    let build = stack.finished(&id).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    assert!(stack.workers[early].is_running(), "it is the same process");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_killed_after_202_finds_the_build_again_without_its_database() {
    let mut stack = Stack::start().await;
    let builds = submit_tools(&stack, 5).await;
    stack.dispatcher.kill();
    std::fs::remove_dir_all(stack.dispatcher_data()).expect("it can be removed");
    stack.add_worker(worker("worker-1"));
    stack.restart_dispatcher().await;
    for id in &builds {
        let build = stack.finished(id).await;
        assert_eq!(build["state"], "succeeded", "{build}");
    }
    let listed = wait::until("the list to hold all builds", wait::SOON, || async {
        let (_, list) = stack.get("/v1/projects/team/builds?state=succeeded").await;
        let builds = list["builds"].as_array()?.clone();
        (builds.len() == 5).then_some(builds)
    })
    .await;
    let newest_first: Vec<Value> = listed.iter().map(|build| build["id"].clone()).collect();
    let submitted: Vec<Value> = builds.iter().rev().map(|id| json!(id)).collect();
    assert_eq!(newest_first, submitted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_during_push_is_followed_by_another_with_attempt_2() {
    let mut stack = Stack::start().await;
    let (proxy, id) = held_build(&mut stack, vec![], 5).await;
    stack.workers[0].kill();
    stack.add_worker(worker("worker-2"));
    proxy.release();
    let build = stack.finished(&id).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    assert_eq!(build["attempt"], 2);
    let log = stack.log(&id).await;
    assert!(log.contains("attempt 1 of 5 on worker worker-1"), "{log}");
    assert!(log.contains("attempt 2 of 5 on worker worker-2"), "{log}");
    assert_eq!(log.lines().last(), Some("Build completed successfully"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_told_to_stop_finishes_what_it_holds() {
    let mut stack = Stack::start().await;
    let (proxy, id) = held_build(&mut stack, vec![], 5).await;
    stack.workers[0].signal("TERM");
    wait::until("the worker to drain", wait::SOON, || async {
        let (_, workers) = stack.get("/v1/workers").await;
        workers.to_string().contains("\"draining\":true").then_some(())
    })
    .await;
    let later = submit_tools(&stack, 1).await.remove(0);
    proxy.release();
    assert_eq!(stack.finished(&id).await["state"], "succeeded");
    assert!(stack.workers[0].exit(wait::SOON).await.success());
    assert_eq!(stack.build(&later).await["state"], "queued");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_finish_in_time_gives_back_and_charges_nothing() {
    let mut stack = Stack::start().await;
    let arguments = vec!["--drain-grace-s=0".to_owned()];
    let (proxy, id) = held_build(&mut stack, arguments, 1).await;
    assert!(stack.workers[0].terminate().await.success());
    proxy.release();
    stack.add_worker(worker("worker-2"));
    let build = stack.finished(&id).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    assert_eq!((&build["attempt"], &build["epoch"]), (&json!(1), &json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_kills_every_worker_ends_when_its_attempts_are_used_up() {
    let mut stack = Stack::start().await;
    let (_proxy, id) = held_build(&mut stack, vec![], 1).await;
    stack.workers[0].kill();
    stack.add_worker(worker("worker-2"));
    let build = stack.finished(&id).await;
    assert_eq!(build["state"], "failed", "{build}");
    assert_eq!(build["failure"]["reason"], "AttemptsExhausted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_takes_too_long_is_ended() {
    let mut stack = Stack::start().await;
    let mut proxy = Proxy::holding(&stack.registry.address, b"PUT /v2/held/tool/blobs/").await;
    stack.add_worker(worker("worker-1"));
    let tool = stack.upload("tool", artifacts::elf(62, "")).await;
    let request = json!({
        "artifact": tool, "image": format!("{}/held/tool:1", proxy.address),
        "environment": "scratch", "timeout_s": 5
    });
    let id = stack.submit(&request).await;
    proxy.held().await;
    let build = stack.finished(&id).await;
    assert_eq!(build["state"], "failed", "{build}");
    assert_eq!(build["failure"]["reason"], "DeadlineExceeded");
    proxy.release();
    assert_eq!(stack.registry.tags("held/tool").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_comes_back_is_tried_again() {
    let mut stack = Stack::with_worker().await;
    stack.registry.kill();
    let id = submit_tools(&stack, 1).await.remove(0);
    wait::until("a failed attempt", wait::SOON, || async {
        let build = stack.build(&id).await;
        (!build["failure"].is_null()).then_some(())
    })
    .await;
    stack.registry.restart().await;
    let build = stack.finished(&id).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    assert!(build["attempt"].as_u64().is_some_and(|attempt| attempt >= 2), "{build}");
    assert_eq!(build["failure"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_to_wait_is_given_its_time_and_costs_no_attempt() {
    let mut stack = Stack::start().await;
    let registry = FaultyRegistry::before(&stack.registry.address, 1).await;
    registry.add_rule(Rule {
        method: Some("POST"),
        path_contains: "/blobs/uploads/".to_owned(),
        misbehaviour: Misbehaviour::TooManyRequests { retry_after_s: 3 },
        // A mount that is refused is an upload, so that the upload counts.
        times: Some(2),
        probability: 1.0,
    });
    stack.add_worker(worker("worker-1"));
    let image = format!("{}/limited/tool:1", registry.address());
    let mut request = stack.tool("a", &image).await;
    request["max_attempts"] = json!(1);
    let id = stack.submit(&request).await;
    let build = stack.finished(&id).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    assert_eq!((&build["attempt"], &build["epoch"]), (&json!(1), &json!(2)), "{build}");
    let events = events::all(&stack.nats.url()).await;
    assert!(events::of(&id, &events).contains(&"retrying"));
    let retrying = events.iter().find(|event| event["type"] == "dev.slipway.build.retrying.v1");
    let retrying = retrying.expect("a retry");
    assert_eq!(retrying["data"]["charged"], false, "{retrying}");
    let time = |value: &Value| -> Timestamp {
        value.as_str().expect("a time").parse().expect("it parses")
    };
    let asked = time(&retrying["data"]["not_before"]).duration_since(time(&retrying["time"]));
    assert_eq!(asked.as_secs(), 3, "what Retry-After said, and no longer");
}
