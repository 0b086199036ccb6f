// SPDX-License-Identifier: Apache-2.0

//! The HTTP API as clients use it.

use serde_json::{Value, json};
use slipway_tests::{Stack, artifacts, wait};

async fn built_tool(stack: &Stack) -> String {
    let tool = stack.upload("tool", artifacts::elf(62, "")).await;
    let image = stack.image("a/b:1");
    stack.submit(&json!({"artifact": tool, "image": image, "environment": "scratch"})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_idempotency_key_gives_the_same_build() {
    let stack = Stack::start().await;
    let tool = stack.upload("tool", artifacts::elf(62, "")).await;
    let post = async |image: &str| {
        let image = stack.image(image);
        let request = json!({"artifact": tool, "image": image, "environment": "scratch"});
        let url = stack.url("/v1/projects/team/builds");
        stack.send(stack.client.post(url).header("idempotency-key", "push-42").json(&request)).await
    };
    let (status, first) = post("a/b:1").await;
    assert_eq!(status, 202, "{first}");
    let (status, second) = post("a/b:1").await;
    assert_eq!((status, &second["id"]), (200, &first["id"]));
    let (status, problem) = post("a/b:2").await;
    assert_eq!((status, &problem["code"]), (409, &json!("idempotency_key_reused")), "{problem}");
    let (_, queue) = stack.get("/v1/queue").await;
    assert_eq!(queue["queued"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_is_stored_is_found_by_its_project_only() {
    let stack = Stack::start().await;
    let tool = stack.upload("tool", artifacts::elf(62, "")).await;
    let head = async |project: &str| {
        let url = stack.url(&format!("/v1/projects/{project}/artifacts/{tool}"));
        stack.client.head(url).send().await.expect("it answers").status().as_u16()
    };
    assert_eq!(head("team").await, 200);
    assert_eq!(head("other").await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_paged() {
    let stack = Stack::with_worker().await;
    let tool = stack.upload("tool", artifacts::elf(62, "")).await;
    let mut builds = Vec::new();
    for number in 0..5 {
        let image = stack.image(&format!("a/b:{number}"));
        let request = json!({"artifact": tool, "image": image, "environment": "scratch"});
        builds.insert(0, stack.submit(&request).await);
    }
    for id in &builds {
        stack.finished(id).await;
    }
    wait::until("the projection", wait::SOON, || async {
        let (_, list) = stack.get("/v1/projects/team/builds?state=succeeded").await;
        (list["builds"].as_array()?.len() == 5).then_some(())
    })
    .await;
    let mut seen = Vec::new();
    let mut query = "limit=2".to_owned();
    loop {
        let (status, page) = stack.get(&format!("/v1/projects/team/builds?{query}")).await;
        assert_eq!(status, 200, "{page}");
        let ids = page["builds"].as_array().expect("builds").iter();
        seen.extend(ids.map(|build| build["id"].as_str().expect("an id").to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("limit=2&cursor={cursor}");
    }
    assert_eq!(seen, builds);
    let image = stack.image("a/b:3");
    let (_, list) = stack.get(&format!("/v1/projects/team/builds?image={image}")).await;
    assert_eq!(list["builds"].as_array().map(Vec::len), Some(1), "{list}");
    let (_, list) = stack.get("/v1/projects/other/builds").await;
    assert_eq!(list["builds"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_to_its_end_and_archived() {
    let stack = Stack::with_worker().await;
    let id = built_tool(&stack).await;
    let url = stack.url(&format!("/v1/projects/team/builds/{id}/logs?follow=true"));
    let response = stack.client.get(url).send().await.expect("it answers");
    let followed = response.text().await.expect("the log ends by itself");
    assert_eq!(followed.lines().last(), Some("Build completed successfully"), "{followed}");
    wait::until("the log's archive", wait::SOON, || async {
        stack.store().join(format!("logs/team/{id}.log")).exists().then_some(())
    })
    .await;
    assert_eq!(stack.log(&id).await, followed);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_resume_behind_the_last_one_seen() {
    let stack = Stack::with_worker().await;
    let id = built_tool(&stack).await;
    stack.finished(&id).await;
    let all = events_until_finished(&stack, "0").await;
    let types: Vec<&str> =
        all.iter().map(|(_, event)| event["type"].as_str().expect("a type")).collect();
    assert_eq!(types.first(), Some(&"dev.slipway.build.queued.v1"));
    assert_eq!(types.get(1), Some(&"dev.slipway.build.started.v1"));
    assert_eq!(types.last(), Some(&"dev.slipway.build.finished.v1"));
    for (_, event) in &all {
        assert_eq!((&event["specversion"], &event["subject"]), (&json!("1.0"), &json!(id)));
    }
    let (second, _) = &all[1];
    let resumed = events_until_finished(&stack, second).await;
    assert_eq!(resumed, all[2..]);
}

/// Reads server-sent events after an id until a build has finished.
async fn events_until_finished(stack: &Stack, last_event_id: &str) -> Vec<(String, Value)> {
    let request = stack.client.get(stack.url("/v1/projects/team/events"));
    let request = request.header("last-event-id", last_event_id);
    let request = request.header("accept", "text/event-stream");
    let mut response = request.send().await.expect("it answers");
    let mut text = String::new();
    let mut events = Vec::new();
    loop {
        let chunk = tokio::time::timeout(wait::SOON, response.chunk()).await.expect("in time");
        let chunk = chunk.expect("it reads").expect("more");
        text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        while let Some(end) = text.find("\n\n") {
            let message: String = text.drain(..end + 2).collect();
            let field = |name: &str| {
                let value = message.lines().find_map(|line| line.strip_prefix(name));
                value.map(|value| value.trim().to_owned())
            };
            let (Some(id), Some(data)) = (field("id:"), field("data:")) else { continue };
            let event: Value = serde_json::from_str(&data).expect("JSON");
            let last = event["type"] == "dev.slipway.build.finished.v1";
            events.push((id, event));
            if last {
                return events;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fleet_and_the_catalogue_are_shown() {
    let stack = Stack::with_worker().await;
    let workers = wait::until("the worker's announcement", wait::SOON, || async {
        let (_, workers) = stack.get("/v1/workers").await;
        workers.to_string().contains("worker-1").then_some(workers)
    })
    .await;
    assert!(workers.to_string().contains("\"pool\":\"default\""), "{workers}");
    let (status, environments) = stack.get("/v1/environments").await;
    assert_eq!(status, 200);
    for name in ["java-17", "java-21", "tomcat-10-java-17", "static", "scratch", "s2i-binary"] {
        assert!(environments.to_string().contains(&format!("\"name\":\"{name}\"")), "{name}");
    }
    let (status, api) = stack.get("/openapi.json").await;
    assert_eq!((status, &api["openapi"]), (200, &json!("3.1.0")));
}
