// SPDX-License-Identifier: Apache-2.0

//! Rate limits: how often a registry is asked that says "later", and when the build ends.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use slipway_tests::faulty_registry::{FaultyRegistry, Misbehaviour, Rule};
use slipway_tests::{Stack, WorkerOptions, wait};

struct Limited {
    stack: Stack,
    registry: FaultyRegistry,
}

impl Limited {
    async fn start() -> Self {
        let mut stack = Stack::start().await;
        let registry = FaultyRegistry::before(&stack.registry.address, 1).await;
        stack.add_worker(WorkerOptions { id: "worker-1", ..WorkerOptions::default() });
        stack.registry.put_base("library/base", "1", json!({})).await;
        Self { stack, registry }
    }

    /// Limits requests of a method whose path contains this, `times` or for ever.
    fn limit(&self, method: &'static str, path: &str, times: Option<u32>, retry_after: &str) {
        let headers = match retry_after {
            "" => Vec::new(),
            retry_after => vec![("retry-after", retry_after.to_owned())],
        };
        let misbehaviour = Misbehaviour::Answer { status: 429, code: "TOOMANYREQUESTS", headers };
        self.registry.set_rules(vec![Rule {
            method: Some(method),
            path_contains: path.to_owned(),
            misbehaviour,
            times,
            probability: 1.0,
        }]);
    }

    async fn submit(&self, marker: &str, more: &Value) -> String {
        let image = format!("{}/team/tool:{marker}", self.registry.address());
        let mut request = self.stack.tool(marker, &image).await;
        for (field, value) in more.as_object().into_iter().flatten() {
            request[field] = value.clone();
        }
        if more.get("base").is_some() {
            request.as_object_mut().expect("an object").remove("environment");
        }
        self.stack.submit(&request).await
    }

    fn on_base(&self) -> Value {
        json!({"base": format!("{}/library/base:1", self.registry.address())})
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_without_a_time_is_asked_again_at_growing_gaps_until_the_build_may_wait_no_longer()
{
    let limited = Limited::start().await;
    limited.limit("GET", "/library/base/manifests/", None, "");
    let mut request = limited.on_base();
    request["queue_timeout_s"] = json!(12);
    request["max_attempts"] = json!(1);
    let begun = Instant::now();
    let id = limited.submit("a", &request).await;
    let build = wait::until("the build to end", wait::LATER, || async {
        let build = limited.stack.build(&id).await;
        if build["state"] == "queued" && !build["failure"].is_null() {
            assert!(build["failure"].to_string().contains("429"), "{build}");
            assert!(!build["not_before"].is_null(), "it says when it is tried next: {build}");
        }
        (build["state"] == "failed").then_some(build)
    });
    let build = build.await;
    assert!(begun.elapsed() >= Duration::from_secs(11), "{build}");
    let why = build["failure"]["message"].as_str().expect("a reason");
    assert!(why.contains("429") && why.contains("12 s, its queue_timeout_s"), "{why}");
    assert_eq!(
        (&build["failure"]["reason"], &build["attempt"]),
        (&json!("PullBaseImageFailed"), &json!(1))
    );
    // 0, 1, 3, 7 and 12 seconds, less some spread.
    let requests = limited.registry.requests();
    let asked = requests.iter().filter(|seen| seen.path.contains("/manifests/")).count();
    assert!((4..=7).contains(&asked), "{requests:#?}");
    // It can be tried again by people.
    let (_, letters) = limited.stack.get("/v1/projects/team/dead").await;
    assert!(letters.to_string().contains(&id), "{letters}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_always_asks_for_one_second_is_asked_less_and_less() {
    let limited = Limited::start().await;
    limited.limit("GET", "/library/base/manifests/", Some(4), "1");
    let id = limited.submit("a", &limited.on_base()).await;
    let begun = Instant::now();
    let build = limited.stack.finished(&id).await;
    assert_eq!((&build["state"], &build["attempt"]), (&json!("succeeded"), &json!(1)), "{build}");
    assert_eq!(build["epoch"], 5);
    // At least 1, 1.2, 2.4 and 4.8 seconds.
    assert!(begun.elapsed() >= Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_may_be_limited_and_costs_no_attempt() {
    let limited = Limited::start().await;
    for (number, (method, path, retry_after)) in [
        ("GET", "/library/base/manifests/", ""),
        ("GET", "/library/base/blobs/", ""),
        ("POST", "/team/tool/blobs/uploads/", "0"),
        ("PUT", "/team/tool/blobs/uploads/", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ("PUT", "/team/tool/manifests/sha256:", ""),
        ("PUT", "/team/tool/manifests/t5", ""),
    ]
    .into_iter()
    .enumerate()
    {
        // The first POST may be a mount, which is not worth waiting for.
        limited.limit(method, path, Some(3), retry_after);
        let mut request = limited.on_base();
        request["max_attempts"] = json!(1);
        if number == 1 {
            // Not in the cache yet, unlike the config of the first.
            let base = limited.stack.registry.put_base("library/base", "2", json!({"User": "1"}));
            base.await;
            request["base"] = json!(format!("{}/library/base:2", limited.registry.address()));
        }
        let image = format!("{}/team/tool:t{number}", limited.registry.address());
        request["image"] = json!(image);
        let id = limited.submit(&format!("t{number}"), &request).await;
        let build = limited.stack.finished(&id).await;
        assert_eq!(build["state"], "succeeded", "{method} {path}: {build}");
        assert_eq!(build["attempt"], 1, "{method} {path}: {build}");
        assert!(build["epoch"].as_u64() >= Some(2), "{method} {path}: {build}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_may_limit_too() {
    let limited = Limited::start().await;
    limited.registry.require_tokens();
    limited.limit("GET", "/token", Some(2), "");
    let id = limited.submit("a", &json!({"max_attempts": 1})).await;
    let build = limited.stack.finished(&id).await;
    assert_eq!((&build["state"], &build["attempt"]), (&json!("succeeded"), &json!(1)), "{build}");
    assert!(build["epoch"].as_u64() >= Some(2), "{build}");
}
