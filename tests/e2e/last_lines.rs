// SPDX-License-Identifier: Apache-2.0

//! The last line of every log says the outcome and its reason, whoever ended the build.

use serde_json::{Value, json};
use slipway_tests::{Stack, WorkerOptions, wait};

fn worker(id: &'static str) -> WorkerOptions {
    WorkerOptions { id, ..WorkerOptions::default() }
}

async fn cancel(stack: &Stack, id: &str) {
    let (status, build) = stack.post(&format!("/v1/projects/team/builds/{id}/cancel")).await;
    assert_eq!(status, 200, "{build}");
}

/// Checks the end of a build's log in every form in which it can be read.
async fn ends_with(stack: &Stack, id: &str, start: &str) {
    let build = stack.finished(id).await;
    let reason = build["failure"]["message"].as_str().expect("a reason").to_owned();
    let check = |form: &str, log: &str| {
        let last = log.lines().last().unwrap_or_default();
        assert!(last.starts_with(start) && last.ends_with(&reason), "{form}: {last:?} in {log}");
        assert_eq!(log.matches(last).count(), 1, "{form}: once: {log}");
    };
    check("plain", &stack.log(id).await);
    let url = stack.url(&format!("/v1/projects/team/builds/{id}/logs?follow=true"));
    let followed = stack.client.get(&url).send().await.expect("an answer");
    check("followed", &followed.text().await.expect("it ends"));
    let events = stack.client.get(&url).header("accept", "text/event-stream").send().await;
    let events = events.expect("an answer").text().await.expect("it ends");
    let data = events.lines().filter_map(|line| line.strip_prefix("data: "));
    let lines: Vec<&str> =
        data.filter(|line| !line.starts_with("{\"state\"") && !line.is_empty()).collect();
    check("events", &lines.join("\n"));
    for arguments in [&["logs", id][..], &["logs", id, "-f"]] {
        let output = stack.cli(arguments).await;
        check(&format!("{arguments:?}"), &String::from_utf8_lossy(&output.stdout));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_builds_that_never_began() {
    let stack = Stack::start_with(&["--reconcile-every-s=1"]).await;
    let tool = async |marker: &str, more: Value| {
        let mut request = stack.tool(marker, &stack.image(&format!("last/{marker}:1"))).await;
        for (field, value) in more.as_object().into_iter().flatten() {
            request[field] = value.clone();
        }
        stack.submit(&request).await
    };
    let cancelled = tool("cancelled", json!({})).await;
    cancel(&stack, &cancelled).await;
    ends_with(&stack, &cancelled, "Build cancelled: cancelled on request").await;
    let late = tool("late", json!({"queue_timeout_s": 1})).await;
    ends_with(&stack, &late, "Build failed: QueueTimeExceeded: ").await;
    let old = tool("old", json!({"supersede_key": "main"})).await;
    let _new = tool("new", json!({"supersede_key": "main"})).await;
    ends_with(&stack, &old, "Build cancelled: superseded by build ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_build_that_was_followed_while_it_waited() {
    let stack = Stack::start().await;
    let id = stack.submit(&stack.tool("a", &stack.image("last/followed:1")).await).await;
    let mut follow = stack.cli_command();
    follow.args(["logs", &id, "-f"]).stdout(std::process::Stdio::piped());
    let follow = follow.spawn().expect("it runs");
    cancel(&stack, &id).await;
    let output = tokio::task::spawn_blocking(|| follow.wait_with_output());
    let output = output.await.expect("no panic").expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8_lossy(&output.stdout);
    assert_eq!(log, "Build cancelled: cancelled on request\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_builds_whose_worker_is_gone() {
    let mut stack = Stack::start_with(&["--reconcile-every-s=1"]).await;
    let victim = stack.add_worker(WorkerOptions {
        environment: vec![("SLIPWAY_FAILPOINTS", "claim.announced=abort")],
        ..worker("worker-1")
    });
    let mut request = stack.tool("a", &stack.image("last/lost:1")).await;
    request["max_attempts"] = json!(1);
    let id = stack.submit(&request).await;
    stack.workers[victim].exit(wait::SOON).await;
    stack.add_worker(worker("worker-2"));
    ends_with(&stack, &id, "Build failed: AttemptsExhausted: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_builds_that_fail_or_are_cancelled_between_two_attempts() {
    let mut stack = Stack::with_worker().await;
    stack.registry.kill();
    let mut request = stack.tool("a", &stack.image("last/dead:1")).await;
    request["max_attempts"] = json!(1);
    let dead = stack.submit(&request).await;
    ends_with(&stack, &dead, "Build failed: PushImageFailed: ").await;
    request["max_attempts"] = json!(20);
    request["image"] = json!(stack.image("last/retried:1"));
    let retried = stack.submit(&request).await;
    wait::until("an attempt to fail", wait::LATER, || async {
        stack.log(&retried).await.contains("trying again in").then_some(())
    })
    .await;
    wait::until("the build to wait", wait::LATER, || async {
        let (status, build) =
            stack.post(&format!("/v1/projects/team/builds/{retried}/cancel")).await;
        (status == 200 && build["state"] == "cancelled").then_some(())
    })
    .await;
    stack.finished(&retried).await;
    ends_with(&stack, &retried, "Build cancelled: cancelled on request").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_build_whose_log_is_no_longer_kept() {
    let stack = Stack::with_worker().await;
    let id = stack.submit(&stack.tool("a", &stack.image("last/kept:1")).await).await;
    stack.finished(&id).await;
    let log = stack.store().join(format!("logs/team/{id}.log"));
    wait::until("the log's archive", wait::SOON, || async { log.exists().then_some(()) }).await;
    let client = async_nats::connect(stack.nats.url()).await.expect("NATS is there");
    let logs = async_nats::jetstream::new(client).get_stream("LOGS").await.expect("a stream");
    logs.purge().await.expect("it is purged");
    std::fs::remove_file(log).expect("it is removed");
    let told = stack.log(&id).await;
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[1..], ["Build completed successfully"], "{told}");
    assert!(lines[0].contains("no line of this build's log is kept"), "{told}");
}
