// SPDX-License-Identifier: Apache-2.0

//! Limits: time in the queue, a stage that makes no progress, room in the queue and on the disk,
//! and a worker that is drained.

use serde_json::json;
use slipway_tests::disk::SmallDisk;
use slipway_tests::proxy::Proxy;
use slipway_tests::{Stack, WorkerOptions, wait};

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_no_worker_takes_in_time_ends() {
    let stack = Stack::start_with(&["--reconcile-every-s=1"]).await;
    let mut request = stack.tool("a", &stack.image("late/tool:1")).await;
    request["queue_timeout_s"] = json!(1);
    let id = stack.submit(&request).await;
    let build = stack.finished(&id).await;
    assert_eq!(build["failure"]["reason"], "QueueTimeExceeded", "{build}");
    assert_eq!((&build["state"], &build["epoch"]), (&json!("failed"), &json!(0)));
    stack.queue_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_stands_still_ends() {
    let mut stack = Stack::start().await;
    let mut proxy = Proxy::holding(&stack.registry.address, b"PUT /v2/held/tool/blobs/").await;
    stack.add_worker(WorkerOptions { id: "worker-1", ..WorkerOptions::default() });
    let image = format!("{}/held/tool:1", proxy.address);
    let mut request = stack.tool("a", &image).await;
    request["stall_timeout_s"] = json!(1);
    request["max_attempts"] = json!(1);
    let id = stack.submit(&request).await;
    proxy.held().await;
    let build = stack.finished(&id).await;
    assert_eq!(build["failure"]["reason"], "StageStalled", "{build}");
    proxy.release();
    assert_eq!(stack.registry.tags("held/tool").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_503_and_leaves_nothing_behind() {
    let mut stack = Stack::start_with(&["--queue-messages=2"]).await;
    let request = stack.tool("a", &stack.image("full/tool:1")).await;
    let accepted = [stack.submit(&request).await, stack.submit(&request).await];
    let url = stack.url("/v1/projects/team/builds");
    let refused = stack.client.post(&url).header("idempotency-key", "k").json(&request);
    let refused = refused.send().await.expect("an answer");
    assert_eq!(refused.status().as_u16(), 503);
    assert_eq!(refused.headers()["retry-after"], "5");
    stack.add_worker(WorkerOptions { id: "worker-1", ..WorkerOptions::default() });
    for id in &accepted {
        assert_eq!(stack.finished(id).await["state"], "succeeded");
    }
    let again = stack.client.post(&url).header("idempotency-key", "k").json(&request);
    let (status, build) = stack.send(again).await;
    assert_eq!(status, 202, "the refused request left nothing: {build}");
    stack.finished(build["id"].as_str().expect("an id")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_503_at_once_and_passes() {
    if !SmallDisk::available() {
        println!("not run: this needs the right to mount");
        return;
    }
    let mounted = tempfile::tempdir().expect("a directory");
    let disk = SmallDisk::mount(mounted.path(), 64);
    let directory = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::symlink(disk.path(), directory.path().join("nats")).expect("a link");
    let mut stack = Stack::start_in(directory, &[]).await;
    let request = stack.tool("a", &stack.image("disk/tool:1")).await;
    let before = stack.submit(&request).await;
    disk.fill();
    wait::until("readiness to notice", wait::SOON, || async {
        let (status, report) = stack.get("/readyz").await;
        (status == 503 && report["nats_writable"] == false).then_some(())
    })
    .await;
    let response = stack.client.post(stack.url("/v1/projects/team/builds")).json(&request);
    let response = response.send().await.expect("an answer");
    assert_eq!(response.status().as_u16(), 503);
    assert!(response.headers().contains_key("retry-after"));
    disk.free();
    stack.nats.kill(0);
    stack.restart_nats().await;
    stack.dispatcher_ready().await;
    stack.add_worker(WorkerOptions { id: "worker-1", ..WorkerOptions::default() });
    assert_eq!(stack.finished(&before).await["state"], "succeeded");
    let after = stack.submit(&request).await;
    assert_eq!(stack.finished(&after).await["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_says_what_accepted_builds_survive() {
    let stack = Stack::start().await;
    let (status, report) = stack.get("/readyz").await;
    assert_eq!((status, &report["durability"]), (200, &json!("process-crash")), "{report}");
    assert!(stack.dispatcher.output().contains("process-crash"), "the log says so too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_drain_finishes_what_it_holds_and_leaves() {
    let mut stack = Stack::start().await;
    let mut proxy = Proxy::holding(&stack.registry.address, b"PUT /v2/held/tool/blobs/").await;
    let worker = stack.add_worker(WorkerOptions { id: "worker-1", ..WorkerOptions::default() });
    let image = format!("{}/held/tool:1", proxy.address);
    let held = stack.submit(&stack.tool("a", &image).await).await;
    proxy.held().await;
    let output = stack.cli(&["workers", "drain", "worker-1"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait::until("it to say so", wait::SOON, || async {
        let (_, workers) = stack.get("/v1/workers").await;
        (workers[0]["draining"] == true).then_some(())
    })
    .await;
    let later = stack.submit(&stack.tool("b", &stack.image("later/tool:1")).await).await;
    proxy.release();
    assert!(stack.workers[worker].exit(wait::LATER).await.success());
    let build = stack.finished(&held).await;
    assert_eq!((&build["state"], &build["attempt"]), (&json!("succeeded"), &json!(1)), "{build}");
    assert_eq!(stack.build(&later).await["state"], "queued");
    let (status, problem) = stack.post("/v1/workers/worker-1/drain").await;
    assert_eq!((status, &problem["code"]), (404, &json!("worker_not_found")), "{problem}");
}
