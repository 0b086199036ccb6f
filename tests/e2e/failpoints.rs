// SPDX-License-Identifier: Apache-2.0

//! A crash between every two durable steps, one by one. Whatever the step, the build gets its one
//! outcome, and other processes finish the rest.
//!
//! All of them run at the same time in one stack: each worker has a pool of its own, and each
//! dispatcher dies while another one lives.

use std::collections::BTreeSet;

use futures::future::join_all;
use serde_json::{Value, json};
use slipway_tests::faulty_registry::{FaultyRegistry, Misbehaviour, Rule};
use slipway_tests::process::{Process, repository};
use slipway_tests::{Stack, WorkerOptions, events, wait};

use crate::retention;

/// The outcome of the build at a worker's failpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Build {
    /// It succeeds.
    Plain,
    /// The registry refuses it.
    Denied,
    /// It uses up its attempts.
    Dead,
    /// It has one attempt, which is lost with its worker.
    Once,
}

impl Build {
    fn is_dead(self) -> bool {
        matches!(self, Self::Dead | Self::Once)
    }
}

/// The failpoints in a worker, each with a build that passes it.
const WORKER: [(&str, Build); 14] = [
    ("claim.received", Build::Plain),
    ("claim.claimed", Build::Once),
    ("claim.announced", Build::Plain),
    ("commit.pushed", Build::Plain),
    ("commit.publishing", Build::Plain),
    ("tag.claimed", Build::Plain),
    ("tag.written", Build::Plain),
    ("commit.tagged", Build::Plain),
    ("commit.succeeded", Build::Plain),
    ("commit.announced", Build::Plain),
    ("settle.before_record", Build::Denied),
    ("settle.recorded", Build::Denied),
    ("dead.announced", Build::Dead),
    ("dead.buried", Build::Dead),
];

/// The failpoints in a dispatcher that a submission passes.
const ACCEPT: [&str; 3] = ["accept.created", "accept.queued", "accept.announced"];
/// Those that a cancellation passes.
const CANCEL: [&str; 2] = ["cancel.recorded", "cancel.announced"];
/// Those that a replay passes.
const REPLAY: [&str; 3] = ["replay.recorded", "replay.announced", "replay.queued"];

#[test]
fn every_point_is_crashed_at() {
    let mut named = BTreeSet::new();
    for directory in ["worker/src", "dispatcher/src", "crates/queue/src"] {
        points(&repository().join(directory), &mut named);
    }
    let crashed: BTreeSet<String> = WORKER
        .iter()
        .map(|(point, _)| *point)
        .chain(ACCEPT)
        .chain(CANCEL)
        .chain(REPLAY)
        .chain(retention::COLLECT)
        .chain([retention::CHECKED])
        .map(str::to_owned)
        .collect();
    assert_eq!(named, crashed);
}

/// Finds the failpoints named in the sources below a directory.
fn points(directory: &std::path::Path, named: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).expect("the sources are there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            points(&path, named);
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("it reads");
        let calls = text.split("failpoint(\"").skip(1);
        named.extend(calls.filter_map(|call| Some(call.split_once('"')?.0.to_owned())));
    }
}

/// The failpoint as the name of a pool.
fn pool(point: &str) -> String {
    point.replace(['.', '_'], "-")
}

fn worker(point: &str, role: &str) -> WorkerOptions {
    WorkerOptions {
        id: format!("{role}-{}", pool(point)).leak(),
        arguments: vec![format!("--pool={}", pool(point)), "--slots=1".to_owned()],
        ..WorkerOptions::default()
    }
}

/// Starts a registry in which some repositories are refused, and some fail.
async fn registry(stack: &Stack) -> FaultyRegistry {
    let registry = FaultyRegistry::before(&stack.registry.address, 1).await;
    for (path, misbehaviour) in
        [("/denied/", Misbehaviour::Forbidden), ("/dead/", Misbehaviour::ServerError(500))]
    {
        registry.add_rule(Rule {
            method: None,
            path_contains: path.to_owned(),
            misbehaviour,
            times: None,
            probability: 1.0,
        });
    }
    registry
}

async fn request(stack: &Stack, registry: &FaultyRegistry, point: &str, build: Build) -> Value {
    let repository = match build {
        Build::Plain | Build::Once => "plain",
        Build::Denied => "denied",
        Build::Dead => "dead",
    };
    let image = format!("{}/{repository}/{}:1", registry.address(), pool(point));
    let mut request = stack.tool(point, &image).await;
    request["pool"] = json!(pool(point));
    if build.is_dead() {
        request["max_attempts"] = json!(1);
    }
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_die_between_any_two_steps() {
    let mut stack = Stack::start_with(&["--reconcile-every-s=1"]).await;
    let registry = registry(&stack).await;
    for (point, _) in WORKER {
        let failpoints: &'static str = format!("{point}=abort").leak();
        let environment = vec![("SLIPWAY_FAILPOINTS", failpoints)];
        stack.add_worker(WorkerOptions { environment, ..worker(point, "armed") });
    }
    let mut builds = Vec::new();
    for (point, build) in WORKER {
        let request = request(&stack, &registry, point, build).await;
        // The pool is known once its worker has made its consumers.
        let id = wait::until(&format!("the pool of {point}"), wait::SOON, || async {
            let (status, answer) = stack.try_submit(&request).await;
            (status == 202).then(|| answer["id"].as_str().expect("an id").to_owned())
        })
        .await;
        builds.push(id);
    }
    for armed in &mut stack.workers {
        armed.exit(wait::LATER).await;
    }
    for (point, _) in WORKER {
        stack.add_worker(worker(point, "next"));
    }
    let ended: Vec<Value> = join_all(builds.iter().map(|id| stack.finished(id))).await;
    stack.queue_empty().await;
    let events = announced(&stack, &builds).await;
    for ((point, build), ended) in WORKER.into_iter().zip(&ended) {
        let id = ended["id"].as_str().expect("an id");
        let state = if build == Build::Plain { "succeeded" } else { "failed" };
        assert_eq!(ended["state"], state, "{point}: {ended}");
        told_in_order(point, id, &events);
        let digest = stack.registry.manifest(&format!("plain/{}", pool(point)), "1").await;
        let digest = digest.map(|(_, digest)| json!(digest));
        assert_eq!(ended["image"].get("digest"), digest.as_ref(), "{point}");
        let (status, _) = stack.get(&format!("/v1/projects/team/dead/{id}")).await;
        assert_eq!(status == 200, build.is_dead(), "{point}: the dead letter");
    }
}

/// Waits until the outcomes of all builds are published, and returns all events.
async fn announced(stack: &Stack, builds: &[String]) -> Vec<Value> {
    wait::until("all outcomes to be announced", wait::LATER, || async {
        let events = events::all(&stack.nats.url()).await;
        let told = builds.iter().all(|id| events::of(id, &events).contains(&"finished"));
        told.then_some(events)
    })
    .await
}

/// Checks that subscribers saw queued, started and finished, in this order, and finished once.
fn told_in_order(point: &str, build: &str, events: &[Value]) {
    let told = events::of(build, events);
    let place = |word: &str| told.iter().position(|told| *told == word);
    assert_eq!(place("queued"), Some(0), "{point}: {told:?}");
    assert!(place("started").is_some(), "{point}: {told:?}");
    assert!(place("started") < place("finished"), "{point}: {told:?}");
    let finished = told.iter().filter(|told| **told == "finished").count();
    assert_eq!(finished, 1, "{point}: {told:?}");
}

/// Starts a dispatcher that dies at a failpoint, and returns its process and URL.
async fn armed_dispatcher(stack: &mut Stack, point: &str) -> (Process, String) {
    let failpoints: &'static str = format!("{point}=abort").leak();
    stack.dispatcher_environment = vec![("SLIPWAY_FAILPOINTS", failpoints)];
    stack.another_dispatcher(&format!("armed-{}", pool(point))).await
}

/// Sends a request to a dispatcher that dies while handling it.
async fn deadly(stack: &Stack, dispatcher: &mut Process, request: reqwest::RequestBuilder) {
    let answer = request.send().await;
    assert!(answer.is_err(), "it answered {answer:?}");
    let _aborted = dispatcher.exit(wait::SOON).await;
    assert!(stack.get("/healthz").await.0 == 200, "the other one lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_may_die_between_any_two_steps() {
    let mut stack = Stack::start_with(&["--reconcile-every-s=1"]).await;
    let registry = registry(&stack).await;
    let path = "/v1/projects/team/builds";
    let mut half_accepted = Vec::new();
    for point in ACCEPT {
        let (mut dispatcher, url) = armed_dispatcher(&mut stack, point).await;
        let image = format!("{}/plain/{}:1", registry.address(), pool(point));
        let request = stack.tool(point, &image).await;
        let submit = stack.client.post(format!("{url}{path}")).header("idempotency-key", point);
        deadly(&stack, &mut dispatcher, submit.json(&request)).await;
        half_accepted.push(point);
    }
    let mut cancelled = Vec::new();
    for point in CANCEL {
        let image = format!("{}/plain/{}:1", registry.address(), pool(point));
        let id = stack.submit(&stack.tool(point, &image).await).await;
        let (mut dispatcher, url) = armed_dispatcher(&mut stack, point).await;
        let cancel = stack.client.post(format!("{url}{path}/{id}/cancel"));
        deadly(&stack, &mut dispatcher, cancel).await;
        cancelled.push(id);
    }
    let mut replayed = Vec::new();
    stack.add_worker(WorkerOptions { id: "worker-1", ..WorkerOptions::default() });
    for point in REPLAY {
        let mut request = request(&stack, &registry, point, Build::Dead).await;
        request.as_object_mut().expect("a request").remove("pool");
        let id = stack.submit(&request).await;
        let letter = format!("/v1/projects/team/dead/{id}");
        wait::until("the dead letter", wait::LATER, || async {
            (stack.get(&letter).await.0 == 200).then_some(())
        })
        .await;
        let (mut dispatcher, url) = armed_dispatcher(&mut stack, point).await;
        deadly(&stack, &mut dispatcher, stack.client.post(format!("{url}{letter}/replay"))).await;
        replayed.push(id);
    }
    for id in &cancelled {
        assert_eq!(stack.build(id).await["state"], "cancelled");
    }
    let listed = wait::until("the half accepted builds", wait::LATER, || async {
        let (_, list) = stack.get(&format!("{path}?state=succeeded")).await;
        list["builds"].as_array().filter(|builds| builds.len() == ACCEPT.len()).cloned()
    })
    .await;
    let targets: BTreeSet<&str> =
        listed.iter().filter_map(|build| build["target"].as_str()).collect();
    for point in half_accepted {
        let target = format!("{}/plain/{}:1", registry.address(), pool(point));
        assert!(targets.contains(target.as_str()), "{point}: {targets:?}");
    }
    for id in &replayed {
        let build = wait::until("the replay's end", wait::LATER, || async {
            let build = stack.build(id).await;
            (build["replays"] == 1 && build["state"] == "failed").then_some(build)
        })
        .await;
        assert_eq!(build["attempt"], 1, "all attempts anew: {build}");
    }
    stack.queue_empty().await;
    let ended: Vec<String> =
        listed.iter().filter_map(|build| Some(build["id"].as_str()?.to_owned())).collect();
    let events = announced(&stack, &ended).await;
    ended.iter().for_each(|id| told_in_order("accept", id, &events));
    let events = announced(&stack, &cancelled).await;
    for id in &cancelled {
        assert_eq!(events::of(id, &events), ["queued", "finished"]);
    }
}
