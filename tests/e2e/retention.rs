// SPDX-License-Identifier: Apache-2.0

//! What nobody needs any more is removed, and nothing that a build still needs.

use futures::future::join_all;
use serde_json::{Value, json};
use slipway_tests::process::Process;
use slipway_tests::{Stack, WorkerOptions, artifacts, wait};

/// The failpoints between the steps in which an artifact is removed.
pub(crate) const COLLECT: [&str; 5] = [
    "collect.condemned",
    "collect.looked",
    "collect.aside",
    "collect.confirmed",
    "collect.discarded",
];

/// The failpoint between looking for an artifact and creating the record.
pub(crate) const CHECKED: &str = "accept.checked";

/// Nothing is kept that is not needed, and nothing is collected unless somebody asks.
const KEEP_NOTHING: [&str; 4] = [
    "--artifacts-bytes=1",
    "--artifacts-grace-s=0",
    "--collect-every-s=86400",
    "--reconcile-every-s=1",
];

async fn keeps_nothing() -> Stack {
    Stack::start_with(&KEEP_NOTHING).await
}

fn worker(id: &'static str) -> WorkerOptions {
    WorkerOptions { id, ..WorkerOptions::default() }
}

async fn collect(stack: &Stack) -> Value {
    let (status, view) = stack.post("/v1/gc").await;
    assert_eq!(status, 200, "{view}");
    view
}

async fn has(stack: &Stack, artifact: &Value) -> bool {
    let artifact = artifact.as_str().expect("a digest");
    let (status, answer) = stack.get(&format!("/v1/projects/team/artifacts/{artifact}")).await;
    match status {
        200 => true,
        404 => {
            assert_eq!(answer["code"], "artifact_not_found", "{answer}");
            false
        }
        other => panic!("{other}: {answer}"),
    }
}

/// Returns what the store holds besides records of verified files.
fn stored(stack: &Stack, folder: &str) -> usize {
    std::fs::read_dir(stack.store().join(folder)).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn old_artifacts_go_and_those_of_waiting_and_running_builds_stay() {
    let mut stack = keeps_nothing().await;
    let stopped = WorkerOptions {
        environment: vec![("SLIPWAY_FAILPOINTS", "claim.claimed=stop")],
        arguments: vec!["--slots=1".to_owned()],
        ..worker("worker-1")
    };
    let running = stack.tool("running", &stack.image("keep/running:1")).await;
    let running_id = stack.submit(&running).await;
    let stopped = stack.add_worker(stopped);
    stack.workers[stopped].stopped().await;
    let waiting = stack.tool("waiting", &stack.image("keep/waiting:1")).await;
    let waiting_id = stack.submit(&waiting).await;
    let old = stack.tool("old", &stack.image("keep/old:1")).await;

    let (_, planned) = stack.post("/v1/gc?dry_run=true").await;
    assert_eq!(planned["artifacts"]["found"], 3, "{planned}");
    assert_eq!(planned["artifacts"]["needed"], 2, "{planned}");
    assert_eq!(planned["removed_artifacts"][0]["digest"], old["artifact"], "{planned}");
    assert!(has(&stack, &old["artifact"]).await, "it was only planned");

    let view = collect(&stack).await;
    assert_eq!((&view["artifacts"]["removed"], &view["dry_run"]), (&json!(1), &json!(false)));
    assert!(!has(&stack, &old["artifact"]).await);
    assert_eq!((stored(&stack, "blobs/sha256"), stored(&stack, "condemned")), (2, 0));
    let (status, problem) = stack.try_submit(&old).await;
    assert_eq!((status, &problem["errors"][0]["code"]), (422, &json!("artifact_not_found")));
    let detail = problem["errors"][0]["detail"].as_str().expect("a detail");
    assert!(detail.contains("upload it"), "{problem}");
    stack.tool("old", &stack.image("keep/old:1")).await;
    let old_id = stack.submit(&old).await;

    stack.workers[stopped].signal("CONT");
    for id in [running_id, waiting_id, old_id] {
        assert_eq!(stack.finished(&id).await["state"], "succeeded");
    }
    let metrics = stack.client.get(stack.url("/metrics")).send().await.expect("an answer");
    let metrics = metrics.text().await.expect("a body");
    assert!(metrics.contains("slipway_removed_total{kind=\"artifacts\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_just_uploaded_waits_for_its_build() {
    let stack = Stack::start_with(&["--artifacts-bytes=1", "--collect-every-s=1"]).await;
    let request = stack.tool("a", &stack.image("grace/tool:1")).await;
    let view = collect(&stack).await;
    assert_eq!(
        (&view["artifacts"]["removed"], &view["artifacts"]["needed"]),
        (&json!(0), &json!(1))
    );
    let id = stack.submit(&request).await;
    let (status, build) = stack.post(&format!("/v1/projects/team/builds/{id}/cancel")).await;
    assert_eq!(status, 200, "{build}");
    // Its build is over, and nobody asked for it since: the next collection takes it by itself.
    wait::until("the artifact to be collected", wait::LATER, || async {
        (stored(&stack, "blobs/sha256") == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_a_build_whose_artifact_is_gone_says_how_to_go_on() {
    let stack = keeps_nothing().await;
    let request = stack.tool("a", &stack.image("gone/tool:1")).await;
    let id = stack.submit(&request).await;
    stack.post(&format!("/v1/projects/team/builds/{id}/cancel")).await;
    collect(&stack).await;
    let retry = format!("/v1/projects/team/builds/{id}/retry");
    let (status, problem) = stack.post(&retry).await;
    assert_eq!(status, 422, "{problem}");
    let detail = problem["detail"].as_str().expect("a detail");
    assert!(detail.contains("upload the same file again and retry"), "{problem}");
    stack.tool("a", &stack.image("gone/tool:1")).await;
    assert_eq!(stack.post(&retry).await.0, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_keeps_its_artifact_and_a_replay_without_it_says_how_to_go_on() {
    let mut stack = keeps_nothing().await;
    stack.add_worker(worker("worker-1"));
    stack.registry.kill();
    let mut request = stack.tool("a", &stack.image("dead/tool:1")).await;
    request["max_attempts"] = json!(1);
    let id = stack.submit(&request).await;
    let letter = format!("/v1/projects/team/dead/{id}");
    wait::until("the dead letter", wait::LATER, || async {
        (stack.get(&letter).await.0 == 200).then_some(())
    })
    .await;
    let view = collect(&stack).await;
    assert_eq!(view["artifacts"]["needed"], 1, "{view}");
    let path = format!("/v1/projects/team/artifacts/{}", request["artifact"].as_str().expect("it"));
    let (status, problem) = stack.send(stack.client.delete(stack.url(&path))).await;
    assert_eq!((status, &problem["code"]), (409, &json!("artifact_in_use")), "{problem}");
    // As a lifecycle rule of a bucket would.
    std::fs::remove_dir_all(stack.store().join("blobs/sha256")).expect("it is removed");
    std::fs::create_dir(stack.store().join("blobs/sha256")).expect("it is made");
    let replay = format!("{letter}/replay");
    let (status, problem) = stack.post(&replay).await;
    assert_eq!((status, &problem["code"]), (404, &json!("artifact_not_found")), "{problem}");
    let detail = problem["detail"].as_str().expect("a detail");
    assert!(detail.contains("upload the same file again and replay"), "{problem}");
    stack.registry.restart().await;
    stack.tool("a", &stack.image("dead/tool:1")).await;
    assert_eq!(stack.post(&replay).await.0, 202);
    assert_eq!(stack.finished(&id).await["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_can_be_given_up_unless_a_build_needs_it() {
    let stack = keeps_nothing().await;
    let request = stack.tool("a", &stack.image("given/up:1")).await;
    let artifact = &request["artifact"];
    let path = format!("/v1/projects/team/artifacts/{}", artifact.as_str().expect("a digest"));
    let id = stack.submit(&request).await;
    let delete = || stack.client.delete(stack.url(&path)).send();
    let (status, problem) = stack.send(stack.client.delete(stack.url(&path))).await;
    assert_eq!((status, &problem["code"]), (409, &json!("artifact_in_use")), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(&id)), "{problem}");
    stack.post(&format!("/v1/projects/team/builds/{id}/cancel")).await;
    assert_eq!(delete().await.expect("an answer").status().as_u16(), 204);
    assert!(!has(&stack, artifact).await);
    assert_eq!(delete().await.expect("an answer").status().as_u16(), 404);
    let view = collect(&stack).await;
    assert_eq!(view["removed_artifacts"][0]["reason"], "deleted", "{view}");
}

/// Starts a dispatcher that stops at a failpoint.
async fn stopping(stack: &mut Stack, point: &str) -> (Process, String) {
    let failpoints: &'static str = format!("{point}=stop").leak();
    stack.dispatcher_environment = vec![("SLIPWAY_FAILPOINTS", failpoints)];
    stack.another_dispatcher(&format!("stopping-{}", point.replace('.', "-"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_that_slept_while_its_artifact_was_removed_is_refused() {
    let mut stack = keeps_nothing().await;
    let request = stack.tool("a", &stack.image("race/tool:1")).await;
    let (asleep, url) = stopping(&mut stack, CHECKED).await;
    let submit = stack.client.post(format!("{url}/v1/projects/team/builds")).json(&request);
    let submit = tokio::spawn(submit.send());
    asleep.stopped().await;
    let view = collect(&stack).await;
    assert_eq!(view["artifacts"]["removed"], 1, "{view}");
    asleep.signal("CONT");
    let answer = submit.await.expect("no panic").expect("an answer");
    let status = answer.status().as_u16();
    let problem: Value = answer.json().await.expect("JSON");
    assert_eq!((status, &problem["errors"][0]["code"]), (422, &json!("artifact_not_found")));
    let (_, queue) = stack.get("/v1/queue").await;
    assert_eq!((&queue["queued"], &queue["running"]), (&json!(0), &json!(0)), "{queue}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_was_accepted_while_the_collector_slept_keeps_its_artifact() {
    let mut stack = keeps_nothing().await;
    let mut builds = Vec::new();
    for point in COLLECT {
        let request = stack.tool(point, &stack.image(&format!("race/{}:1", point.len()))).await;
        let (asleep, url) = stopping(&mut stack, point).await;
        let collecting = tokio::spawn(stack.client.post(format!("{url}/v1/gc")).send());
        asleep.stopped().await;
        // Whether it seems to be there or not, a client uploads what is not, and submits.
        if !has(&stack, &request["artifact"]).await {
            stack.tool(point, "x.example/x:1").await;
        }
        builds.push((point, stack.submit(&request).await));
        asleep.signal("CONT");
        drop(collecting.await.expect("no panic").expect("an answer"));
    }
    stack.add_worker(worker("worker-1"));
    let ended = join_all(builds.iter().map(|(_, id)| stack.finished(id))).await;
    for ((point, _), build) in builds.iter().zip(ended) {
        assert_eq!(build["state"], "succeeded", "{point}: {build}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_that_died_has_left_is_finished_by_the_next() {
    let mut stack = keeps_nothing().await;
    for point in COLLECT {
        let request = stack.tool(point, "x.example/x:1").await;
        let failpoints: &'static str = format!("{point}=abort").leak();
        stack.dispatcher_environment = vec![("SLIPWAY_FAILPOINTS", failpoints)];
        let name = format!("dying-{}", point.replace('.', "-"));
        let (mut dying, url) = stack.another_dispatcher(&name).await;
        let answer = stack.client.post(format!("{url}/v1/gc")).send().await;
        assert!(answer.is_err(), "{point}: it answered {answer:?}");
        dying.exit(wait::SOON).await;
        // It held the turn, which ends by itself.
        let view = collect(&stack).await;
        assert_eq!(view["artifacts"]["found"], view["artifacts"]["removed"], "{point}: {view}");
        assert!(!has(&stack, &request["artifact"]).await, "{point}");
        for folder in ["blobs/sha256", "condemned", "removed", "projects/team/artifacts"] {
            let left = stored(&stack, folder);
            let gone =
                left == 0 || (folder.starts_with("projects") && point == "collect.discarded");
            assert!(gone, "{point}: {left} in {folder}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_dispatcher_collects_at_a_time() {
    let mut stack = keeps_nothing().await;
    stack.tool("a", "x.example/x:1").await;
    let (asleep, url) = stopping(&mut stack, "collect.condemned").await;
    let collecting = tokio::spawn(stack.client.post(format!("{url}/v1/gc")).send());
    asleep.stopped().await;
    // The sleeper's turn ends, and it notices that when it wakes.
    let view = collect(&stack).await;
    assert_eq!(view["artifacts"]["removed"], 1, "{view}");
    asleep.signal("CONT");
    let late = collecting.await.expect("no panic").expect("an answer");
    assert_eq!(late.status().as_u16(), 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn archived_logs_are_bounded_by_age() {
    let mut stack =
        Stack::start_with(&["--archived-logs-age-s=3600", "--collect-every-s=86400"]).await;
    stack.add_worker(worker("worker-1"));
    let id = stack.submit(&stack.tool("a", &stack.image("logs/tool:1")).await).await;
    stack.finished(&id).await;
    let log = stack.store().join(format!("logs/team/{id}.log"));
    wait::until("the log's archive", wait::SOON, || async { log.exists().then_some(()) }).await;
    let view = collect(&stack).await;
    assert_eq!(
        (&view["logs"]["found"], &view["logs"]["removed"]),
        (&json!(1), &json!(0)),
        "{view}"
    );
    let file = std::fs::OpenOptions::new().write(true).open(&log).expect("it opens");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(4000);
    file.set_modified(old).expect("it is set");
    let view = collect(&stack).await;
    assert_eq!(view["logs"]["removed"], 1, "{view}");
    assert!(!log.exists());
}

/// How many messages a stream holds.
async fn messages(stack: &Stack, stream: &str) -> u64 {
    let client = async_nats::connect(stack.nats.url()).await.expect("NATS is there");
    let stream = async_nats::jetstream::new(client).get_stream(stream).await.expect("a stream");
    stream.cached_info().state.messages
}

/// A stack that keeps nothing in NATS either, and does not wait for it to grow old.
async fn keeps_nothing_young() -> Stack {
    let options = ["--tags-bytes=1", "--records-bytes=1", "--dead-letters-bytes=1"];
    let mut stack = Stack::start_with(&[&KEEP_NOTHING[..], &options].concat()).await;
    stack.dispatcher.kill();
    stack.dispatcher_environment = vec![("SLIPWAY_SWITCH_OFF", "retention-floor")];
    stack.restart_dispatcher().await;
    stack
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_a_tag_stays_as_long_as_an_older_build_could_take_it() {
    let mut stack = keeps_nothing_young().await;
    // Makes the pool, in which nobody works from then on.
    let idle = stack.add_worker(WorkerOptions {
        arguments: vec!["--pool=idle".to_owned()],
        ..worker("worker-idle")
    });
    let mut older = stack.tool("older", &stack.image("tags/tool:1")).await;
    older["pool"] = json!("idle");
    let first = wait::until("the pool", wait::SOON, || async {
        let (status, build) = stack.try_submit(&older).await;
        (status == 202).then(|| build["id"].as_str().expect("an id").to_owned())
    })
    .await;
    stack.finished(&first).await;
    stack.workers[idle].kill();
    let waiting = stack.submit(&older).await;
    stack.add_worker(worker("worker-1"));
    let newer = stack.tool("newer", &stack.image("tags/tool:1")).await;
    stack.finished(&stack.submit(&newer).await).await;
    let view = collect(&stack).await;
    assert_eq!(
        (&view["tags"]["found"], &view["tags"]["removed"]),
        (&json!(1), &json!(0)),
        "{view}"
    );
    stack.post(&format!("/v1/projects/team/builds/{waiting}/cancel")).await;
    let view = collect(&stack).await;
    assert_eq!(view["tags"]["removed"], 1, "{view}");
    assert_eq!(messages(&stack, "KV_slipway-tags").await, 0);
    let again = stack.finished(&stack.submit(&older_again(&stack).await).await).await;
    assert_eq!(again["state"], "succeeded", "{again}");
}

async fn older_again(stack: &Stack) -> Value {
    stack.tool("again", &stack.image("tags/tool:1")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_finished_builds_go_and_their_builds_and_keys_stay_known() {
    let mut stack = keeps_nothing_young().await;
    let request = stack.tool("a", &stack.image("records/tool:1")).await;
    let url = stack.url("/v1/projects/team/builds");
    let submit =
        || stack.send(stack.client.post(&url).header("idempotency-key", "k").json(&request));
    let (status, build) = submit().await;
    assert_eq!(status, 202, "{build}");
    let id = build["id"].as_str().expect("an id").to_owned();
    let view = collect(&stack).await;
    assert_eq!(view["records"]["removed"], 0, "it is unfinished: {view}");
    let (status, again) = submit().await;
    assert_eq!((status, &again["id"]), (200, &json!(id)));
    stack.add_worker(worker("worker-1"));
    assert_eq!(stack.finished(&id).await["state"], "succeeded");
    wait::until("it to be listed", wait::SOON, || async {
        let (_, list) = stack.get("/v1/projects/team/builds?state=succeeded").await;
        (list["builds"].as_array()?.len() == 1).then_some(())
    })
    .await;
    let view = collect(&stack).await;
    assert_eq!(view["records"]["removed"], 1, "{view}");
    assert_eq!(messages(&stack, "KV_slipway-state").await, 0);
    assert_eq!(stack.build(&id).await["state"], "succeeded");
    let url = stack.url("/v1/projects/team/builds");
    let submit = stack.client.post(&url).header("idempotency-key", "k").json(&request);
    let (status, again) = stack.send(submit).await;
    assert_eq!((status, &again["id"]), (200, &json!(id)), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_above_their_bound_are_dropped_with_their_artifacts() {
    let mut stack = keeps_nothing_young().await;
    stack.add_worker(worker("worker-1"));
    stack.registry.kill();
    let mut request = stack.tool("a", &stack.image("dead/tool:1")).await;
    request["max_attempts"] = json!(1);
    let id = stack.submit(&request).await;
    let letter = format!("/v1/projects/team/dead/{id}");
    wait::until("the dead letter", wait::LATER, || async {
        (stack.get(&letter).await.0 == 200).then_some(())
    })
    .await;
    let view = collect(&stack).await;
    let (letters, artifacts) = (&view["dead_letters"]["removed"], &view["artifacts"]["removed"]);
    assert_eq!((letters, artifacts), (&json!(1), &json!(0)), "{view}");
    assert_eq!(stack.get(&letter).await.0, 404);
    let (_, repairs) = stack.post("/v1/reconcile").await;
    assert_eq!(repairs["dead_letters"], 0, "it does not come back: {repairs}");
    let view = collect(&stack).await;
    assert_eq!(view["artifacts"]["removed"], 1, "{view}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_young_stays_whatever_the_bounds_say() {
    let mut stack = Stack::start_with(&["--tags-bytes=1", "--records-bytes=1"]).await;
    stack.add_worker(worker("worker-1"));
    let id = stack.submit(&stack.tool("a", &stack.image("young/tool:1")).await).await;
    stack.finished(&id).await;
    let view = collect(&stack).await;
    for kind in ["tags", "records"] {
        let (found, removed) = (&view[kind]["found"], &view[kind]["removed"]);
        assert_eq!((found, removed), (&json!(1), &json!(0)), "{kind}: {view}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_says_what_would_be_removed_and_uploads_again_what_is_gone() {
    let stack = keeps_nothing().await;
    let tool = stack.directory.path().join("tool");
    std::fs::write(&tool, artifacts::elf(62, "by the client")).expect("it is written");
    let tool = tool.to_str().expect("UTF-8");
    let image = stack.image("client/tool:1");
    let submit = ["submit", tool, "--image", &image, "--environment", "scratch"];
    let first = stack.cli(&submit).await;
    assert_eq!(first.status.code(), Some(0), "{}", String::from_utf8_lossy(&first.stderr));
    let id = String::from_utf8_lossy(&first.stdout).trim().to_owned();
    stack.cli(&["cancel", &id]).await;
    let planned = stack.cli(&["gc", "--dry-run"]).await;
    let planned = String::from_utf8_lossy(&planned.stdout).into_owned();
    assert!(planned.contains("WOULD REMOVE") && planned.contains("sha256:"), "{planned}");
    assert_eq!(stack.cli(&["gc"]).await.status.code(), Some(0));
    assert_eq!(stored(&stack, "blobs/sha256"), 0);
    assert_eq!(stack.cli(&submit).await.status.code(), Some(0));
}
