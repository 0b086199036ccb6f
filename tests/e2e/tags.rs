// SPDX-License-Identifier: Apache-2.0

//! The build that was submitted last keeps a tag, in whatever order builds write it.

use serde_json::{Value, json};
use slipway_tests::faulty_registry::{FaultyRegistry, Misbehaviour, Rule};
use slipway_tests::{Stack, WorkerOptions, wait};

fn worker(id: &'static str) -> WorkerOptions {
    let arguments = vec!["--slots=2".to_owned()];
    WorkerOptions { id, arguments, ..WorkerOptions::default() }
}

fn armed(id: &'static str, failpoints: &'static str) -> WorkerOptions {
    WorkerOptions { environment: vec![("SLIPWAY_FAILPOINTS", failpoints)], ..worker(id) }
}

/// Checks that the tag points at the image of `owner`, and that `older` gave way to it.
async fn owns(stack: &Stack, tag: &str, owner: &Value, older: &Value) {
    let (_, digest) = stack.registry.manifest("raced/tool", tag).await.expect("the tag is there");
    assert_eq!(owner["image"]["digest"], digest.to_string(), "{owner}");
    assert_ne!(owner["image"]["digest"], older["image"]["digest"]);
    let superseded = &older["image"]["superseded"];
    assert_eq!(superseded[0]["by"], owner["id"], "{older}");
    assert_eq!(older["image"]["references"], json!([]), "{older}");
    let pushed = older["image"]["digest"].as_str().expect("a digest");
    assert!(stack.registry.manifest("raced/tool", pushed).await.is_some(), "it is there by digest");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_build_whose_write_comes_last_gives_the_tag_back() {
    let mut stack = Stack::start().await;
    let registry = FaultyRegistry::before(&stack.registry.address, 1).await;
    on_first_write(&registry, SLOW);
    stack.add_worker(worker("worker-1"));
    let image = format!("{}/raced/tool:1", registry.address());
    let older = stack.submit(&stack.tool("older", &image).await).await;
    wait::until("the older build's write", wait::SOON, || async {
        (registry.faults() > 0).then_some(())
    })
    .await;
    let newer = stack.submit(&stack.tool("newer", &image).await).await;
    let newer = stack.finished(&newer).await;
    assert_eq!(stack.build(&older).await["state"], "publishing", "it is overtaken");
    let older = stack.finished(&older).await;
    owns(&stack, "1", &newer, &older).await;
    let writers: Vec<Value> = registry
        .writes()
        .iter()
        .filter(|write| write.reference == "1")
        .map(|write| json!(write.writer.as_ref().expect("workers sign tags").repairs))
        .collect();
    assert_eq!(writers, [json!(null), json!(null), newer["id"].clone()], "new, old, repair");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_slept_past_its_lease_writes_no_tag() {
    let mut stack = Stack::start().await;
    let registry = FaultyRegistry::before(&stack.registry.address, 1).await;
    let sleeper = stack.add_worker(armed("worker-1", "tag.claimed=stop"));
    let image = format!("{}/raced/tool:1", registry.address());
    let older = stack.submit(&stack.tool("older", &image).await).await;
    stack.workers[sleeper].stopped().await;
    stack.add_worker(worker("worker-2"));
    let newer = stack.submit(&stack.tool("newer", &image).await).await;
    let newer = stack.finished(&newer).await;
    let older = stack.finished(&older).await;
    assert_eq!((&older["state"], &older["epoch"]), (&json!("succeeded"), &json!(2)), "{older}");
    let writes = registry.writes().len();
    stack.workers[sleeper].signal("CONT");
    wait::until("the sleeper to find out", wait::SOON, || async {
        stack.workers[sleeper].output().contains("lost a build").then_some(())
    })
    .await;
    assert_eq!(registry.writes().len(), writes, "the sleeper wrote nothing");
    // Either of the two may end first: the sleeper may have held the newer one's message too.
    let (_, digest) = stack.registry.manifest("raced/tool", "1").await.expect("the tag is there");
    assert_eq!(newer["image"]["digest"], digest.to_string(), "{newer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_slept_over_a_write_does_not_write_again() {
    let mut stack = Stack::start().await;
    let registry = FaultyRegistry::before(&stack.registry.address, 1).await;
    on_first_write(&registry, Misbehaviour::LoseAnswerLater);
    let sleeper = stack.add_worker(worker("worker-1"));
    let image = format!("{}/raced/tool:1", registry.address());
    let build = stack.submit(&stack.tool("only", &image).await).await;
    registry.held().await;
    stack.workers[sleeper].signal("STOP");
    stack.add_worker(worker("worker-2"));
    let build = stack.finished(&build).await;
    assert_eq!((&build["state"], &build["epoch"]), (&json!("succeeded"), &json!(2)), "{build}");
    let writes = registry.writes().len();
    registry.release();
    stack.workers[sleeper].signal("CONT");
    wait::until("the sleeper to find out", wait::SOON, || async {
        stack.workers[sleeper].output().contains("lost a build").then_some(())
    })
    .await;
    assert_eq!(registry.writes().len(), writes, "the sleeper tried no second time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_between_claim_and_tag_leaves_a_tag_that_ends_right() {
    let mut stack = Stack::start().await;
    let victim = stack.add_worker(armed("worker-1", "tag.claimed=abort"));
    let image = stack.image("raced/tool:1");
    let older = stack.submit(&stack.tool("older", &image).await).await;
    stack.workers[victim].exit(wait::SOON).await;
    stack.add_worker(worker("worker-2"));
    let newer = stack.submit(&stack.tool("newer", &image).await).await;
    let newer = stack.finished(&newer).await;
    let older = stack.finished(&older).await;
    owns(&stack, "1", &newer, &older).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_between_claim_and_tag_is_followed_by_one_that_tags() {
    let mut stack = Stack::start().await;
    let victim = stack.add_worker(armed("worker-1", "tag.claimed=abort"));
    let id = stack.submit(&stack.tool("only", &stack.image("raced/tool:1")).await).await;
    stack.workers[victim].exit(wait::SOON).await;
    stack.add_worker(worker("worker-2"));
    let build = stack.finished(&id).await;
    assert_eq!((&build["state"], &build["epoch"]), (&json!("succeeded"), &json!(2)), "{build}");
    let (_, digest) = stack.registry.manifest("raced/tool", "1").await.expect("the tag is there");
    assert_eq!(build["image"]["digest"], digest.to_string());
}

/// The registry needs three seconds for a request.
const SLOW: Misbehaviour = Misbehaviour::Slow { millis: 3000 };

/// The registry misbehaves at the first write of the tag.
fn on_first_write(registry: &FaultyRegistry, misbehaviour: Misbehaviour) {
    registry.add_rule(Rule {
        method: Some("PUT"),
        path_contains: "/manifests/1".to_owned(),
        misbehaviour,
        times: Some(1),
        probability: 1.0,
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_does_not_come_between_a_write_and_the_look_after_it() {
    let mut stack = Stack::start().await;
    let registry = FaultyRegistry::before(&stack.registry.address, 1).await;
    // The deadline is long enough for a busy machine to reach the write before it, and short enough
    // to fall into the write.
    on_first_write(&registry, Misbehaviour::Slow { millis: 8000 });
    stack.add_worker(worker("worker-1"));
    let image = format!("{}/raced/tool:1", registry.address());
    let mut request = stack.tool("older", &image).await;
    request["timeout_s"] = json!(5);
    let older = stack.submit(&request).await;
    wait::until("the older build's write", wait::SOON, || async {
        (registry.faults() > 0).then_some(())
    })
    .await;
    let newer = stack.submit(&stack.tool("newer", &image).await).await;
    let newer = stack.finished(&newer).await;
    let older = stack.finished(&older).await;
    owns(&stack, "1", &newer, &older).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_leaves_no_tag_that_a_later_one_owns() {
    let mut stack = Stack::start_with(&["--reconcile-every-s=1"]).await;
    let registry = FaultyRegistry::before(&stack.registry.address, 1).await;
    on_first_write(&registry, SLOW);
    let victim = stack.add_worker(armed("worker-1", "tag.written=abort"));
    let image = format!("{}/raced/tool:1", registry.address());
    let mut request = stack.tool("older", &image).await;
    request["max_attempts"] = json!(1);
    let older = stack.submit(&request).await;
    wait::until("the older build's write", wait::SOON, || async {
        (registry.faults() > 0).then_some(())
    })
    .await;
    stack.add_worker(worker("worker-2"));
    let mut newer = stack.tool("newer", &image).await;
    newer["additional_tags"] = json!(["2"]);
    let newer = stack.submit(&newer).await;
    stack.workers[victim].exit(wait::SOON).await;
    let newer = stack.finished(&newer).await;
    let older = stack.finished(&older).await;
    assert_eq!(older["failure"]["reason"], "AttemptsExhausted", "{older}");
    stack.queue_empty().await;
    let (_, digest) = stack.registry.manifest("raced/tool", "1").await.expect("the tag is there");
    assert_eq!(newer["image"]["digest"], digest.to_string(), "{newer}");
}
