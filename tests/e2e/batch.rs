// SPDX-License-Identifier: Apache-2.0

//! Many builds in one request.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use slipway_tests::{Stack, WorkerOptions, artifacts, events, wait};

const PATH: &str = "/v1/projects/team/builds:batch";

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn submit(stack: &Stack, builds: &[Value]) -> Value {
    let request = stack.client.post(stack.url(PATH)).header("traceparent", TRACE);
    let (status, answer) = stack.send(request.json(&json!({"builds": builds}))).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(results(&answer).len(), builds.len());
    answer
}

fn results(answer: &Value) -> &Vec<Value> {
    answer["results"].as_array().expect("results")
}

/// The numbers of accepted, repeated and refused builds.
fn counts(answer: &Value) -> [u64; 3] {
    ["accepted", "repeated", "refused"].map(|name| answer[name].as_u64().expect("a number"))
}

fn statuses(answer: &Value) -> Vec<u64> {
    results(answer).iter().map(|result| result["status"].as_u64().expect("a number")).collect()
}

/// The builds that were accepted, now or before.
fn ids(answer: &Value) -> Vec<String> {
    let builds = results(answer).iter().filter_map(|result| result["build"]["id"].as_str());
    builds.map(str::to_owned).collect()
}

/// Requests with keys, each for a tag of its own of one image.
async fn requests(stack: &Stack, repository: &str, count: usize) -> Vec<Value> {
    let tool = stack.upload("tool", artifacts::elf(62, "")).await;
    let request = |number: usize| {
        let image = stack.image(&format!("{repository}:{number}"));
        let key = format!("{repository}-{number}");
        json!({"artifact": tool, "image": image, "environment": "scratch", "idempotency_key": key})
    };
    (0..count).map(request).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_builds_are_accepted_once_each_and_all_are_built() {
    let mut stack = Stack::start().await;
    let builds = requests(&stack, "batch/tool", 1000).await;
    let answer = submit(&stack, &builds).await;
    assert_eq!(counts(&answer), [1000, 0, 0]);
    let accepted = ids(&answer);
    assert_eq!(accepted.iter().collect::<BTreeSet<_>>().len(), 1000);
    for (request, result) in builds.iter().zip(results(&answer)) {
        assert_eq!(result["build"]["target"], request["image"]);
        let id = result["build"]["id"].as_str().expect("an id");
        assert_eq!(result["location"], format!("/v1/projects/team/builds/{id}"));
    }
    let orders = results(&answer).iter().map(|result| result["build"]["order"].as_u64());
    assert!(orders.is_sorted(), "the order of the batch is the order of acceptance");
    // On a busy machine NATS may answer a few of a thousand questions too late: they are asked again.
    let again = wait::until("the answers of a thousand builds", wait::LATER, || async {
        let again = submit(&stack, &builds).await;
        (counts(&again)[2] == 0).then_some(again)
    });
    let again = again.await;
    assert_eq!((counts(&again), ids(&again)), ([0, 1000, 0], accepted.clone()));
    let (_, queue) = stack.get("/v1/queue").await;
    assert_eq!(queue["queued"], 1000);
    let client = async_nats::connect(stack.nats.url()).await.expect("NATS is there");
    let queued = async_nats::jetstream::new(client).get_stream("BUILDS").await.expect("a stream");
    for sequence in [1, 1000] {
        let request = queued.get_raw_message(sequence).await.expect("a request");
        let trace = request.headers.get("traceparent").map(async_nats::HeaderValue::as_str);
        assert_eq!(trace, Some(TRACE));
    }
    for id in ["worker-1", "worker-2"] {
        let arguments = vec!["--slots=4".to_owned()];
        stack.add_worker(WorkerOptions { id, arguments, ..WorkerOptions::default() });
    }
    for id in &accepted {
        assert_eq!(stack.finished(id).await["state"], "succeeded");
    }
    stack.queue_empty().await;
    assert_eq!(stack.registry.tags("batch/tool").await.len(), 1000);
    let events = events::all(&stack.nats.url()).await;
    let mut told = std::collections::BTreeMap::new();
    for event in &events {
        let text = |name: &str| event[name].as_str().expect("a text");
        *told.entry((text("subject"), text("type"))).or_insert(0) += 1;
    }
    for id in &accepted {
        for kind in ["queued", "started", "finished"] {
            let kind = format!("dev.slipway.build.{kind}.v1");
            assert_eq!(told.get(&(id.as_str(), kind.as_str())), Some(&1), "{id} {kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_build_of_a_batch_is_answered_by_itself() {
    let stack = Stack::with_worker().await;
    let mut builds = requests(&stack, "mixed/tool", 4).await;
    let mut alone = builds[0].clone();
    let key = alone.as_object_mut().expect("an object").remove("idempotency_key");
    let key = key.as_ref().and_then(Value::as_str).expect("a key");
    let url = stack.url("/v1/projects/team/builds");
    let single = stack.client.post(url).header("idempotency-key", key).json(&alone);
    let (status, before) = stack.send(single).await;
    assert_eq!(status, 202, "{before}");
    // 0 was submitted alone, 1 is new.
    builds[2]["artifact"] = json!("sha256:0");
    builds[2]["timeout_s"] = json!(0);
    // 3 is new: twice the same request, and once another one under its key.
    builds.push(builds[3].clone());
    let mut other = builds[3].clone();
    other["image"] = json!(stack.image("mixed/other:1"));
    builds.push(other);
    // Under the key of a refused build, without its mistakes.
    let mut corrected = builds[1].clone();
    corrected["idempotency_key"] = builds[2]["idempotency_key"].clone();
    corrected["image"] = json!(stack.image("mixed/corrected:1"));
    builds.push(corrected);
    let answer = submit(&stack, &builds).await;
    assert_eq!(statuses(&answer), [200, 202, 422, 202, 200, 409, 202], "{answer}");
    assert_eq!(counts(&answer), [3, 2, 2]);
    let results = results(&answer);
    assert_eq!(results[0]["build"]["id"], before["id"]);
    assert_eq!(results[4]["build"]["id"], results[3]["build"]["id"]);
    assert_eq!(results[5]["problem"]["code"], "idempotency_key_reused");
    let errors = results[2]["problem"]["errors"].as_array().expect("errors").iter();
    let fields: Vec<&str> = errors.filter_map(|error| error["field"].as_str()).collect();
    assert_eq!(fields, ["artifact", "timeout_s"]);
    for id in ids(&answer) {
        assert_eq!(stack.finished(&id).await["state"], "succeeded");
    }
    let (_, list) = stack.get("/v1/projects/team/builds").await;
    assert_eq!(list["builds"].as_array().map(Vec::len), Some(4), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_place_in_the_queue_is_refused_and_the_rest_accepted() {
    let mut stack = Stack::start_with(&["--queue-messages=5"]).await;
    let builds = requests(&stack, "full/tool", 8).await;
    let answer = submit(&stack, &builds).await;
    assert_eq!(counts(&answer), [5, 0, 3], "{answer}");
    for refused in results(&answer).iter().filter(|result| result["status"] == 503) {
        assert_eq!(refused["problem"]["code"], "queue_full");
        assert_eq!(refused["retry_after_s"], 5);
    }
    stack.add_worker(WorkerOptions { id: "worker-1", ..WorkerOptions::default() });
    for id in ids(&answer) {
        assert_eq!(stack.finished(&id).await["state"], "succeeded");
    }
    stack.queue_empty().await;
    let again = submit(&stack, &builds).await;
    assert_eq!(counts(&again), [3, 5, 0], "what was refused left nothing: {again}");
    for id in ids(&again) {
        assert_eq!(stack.finished(&id).await["state"], "succeeded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_of_a_batch_is_built_though_nats_died_in_its_middle() {
    let mut stack = Stack::start().await;
    let builds = requests(&stack, "killed/tool", 400).await;
    let request = stack.client.post(stack.url(PATH)).json(&json!({"builds": builds}));
    let answer = tokio::spawn(async move {
        let answer = request.send().await.expect("the dispatcher answers");
        answer.json::<Value>().await.expect("JSON")
    });
    wait::until("the first builds to be queued", wait::SOON, || async {
        let (_, queue) = stack.get("/v1/queue").await;
        (queue["queued"].as_u64()? > 0).then_some(())
    })
    .await;
    stack.nats.kill(0);
    stack.restart_nats().await;
    let answer = answer.await.expect("it does not panic");
    stack.dispatcher_ready().await;
    let accepted = ids(&answer);
    assert!(!accepted.is_empty(), "{answer}");
    let unknown = results(&answer).iter().filter(|result| result["build"].is_null());
    assert!(unknown.into_iter().all(|result| result["status"] == 503), "{answer}");
    // Builds without an answer are submitted again, and become the builds that they may already
    // have been.
    let again = submit(&stack, &builds).await;
    assert_eq!(counts(&again)[2], 0, "{again}");
    let all = ids(&again);
    assert!(accepted.iter().all(|id| all.contains(id)));
    let arguments = vec!["--slots=4".to_owned()];
    stack.add_worker(WorkerOptions { id: "worker-1", arguments, ..WorkerOptions::default() });
    for id in &all {
        let build = stack.finished(id).await;
        assert_eq!((&build["state"], &build["epoch"]), (&json!("succeeded"), &json!(1)), "{build}");
    }
    stack.queue_empty().await;
    assert_eq!(stack.registry.tags("killed/tool").await.len(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_requests_is_submitted_line_by_line() {
    let stack = Stack::with_worker().await;
    let tool = stack.directory.path().join("tool");
    std::fs::write(&tool, artifacts::elf(62, "")).expect("it can be written");
    let line = |number: u32| {
        let image = stack.image(&format!("lines/tool:{number}"));
        json!({"file": tool, "image": image, "environment": "scratch"}).to_string()
    };
    let file = stack.directory.path().join("builds.jsonl");
    std::fs::write(&file, [line(1), line(2)].join("\n\n")).expect("it can be written");
    let file = file.to_str().expect("UTF-8");
    let output = stack.cli(&["batch", file]).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    let images: Vec<&str> = text.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(images, [stack.image("lines/tool:1"), stack.image("lines/tool:2")]);
    for id in text.lines().filter_map(|line| line.split(' ').next()) {
        assert_eq!(stack.finished(id).await["state"], "succeeded");
    }
    std::fs::write(file, format!("{}\n{{\"image\": 7}}\n", line(3))).expect("it can be written");
    let output = stack.cli(&["batch", file, "--output", "json"]).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("line 2:"), "{errors}");
    let answers: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!((&answers[0]["line"], &answers[0]["status"]), (&json!(1), &json!(202)));
    assert_eq!((&answers[1]["line"], &answers[1]["status"]), (&json!(2), &json!(422)));
    std::fs::write(file, "nonsense").expect("it can be written");
    assert_eq!(stack.cli(&["batch", file]).await.status.code(), Some(2));
}
