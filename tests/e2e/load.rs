// SPDX-License-Identifier: Apache-2.0

//! Many builds, and a large one.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::json;
use slipway_tests::{Stack, WorkerOptions, artifacts, events, wait};

const MEBIBYTE: u64 = 1 << 20;

/// The limit of memory in dispatcher and worker for an artifact of any size.
const MAX_RESIDENT: u64 = 150 * MEBIBYTE;

/// How many of the largest batches are sent at once, half a gigabyte together, and the limit of the
/// dispatcher's memory for them: twice the bytes of those it holds at once, and the memory of the
/// four it reads.
const BATCHES_AT_ONCE: usize = 64;
const MAX_BATCHES: u64 = 220 * MEBIBYTE;

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_and_200_builds_each_built_once() {
    let mut stack = Stack::start().await;
    stack.add_worker(WorkerOptions { id: "worker-1", ..WorkerOptions::default() });
    stack.add_worker(WorkerOptions { id: "worker-2", ..WorkerOptions::default() });
    let tool = stack.upload("tool", artifacts::elf(62, "")).await;
    let submit = async |number: u32| {
        let image = stack.image(&format!("many/tool:{number}"));
        let request = json!({"artifact": tool, "image": image, "environment": "scratch"});
        stack.submit(&request).await
    };
    let builds: Vec<String> =
        futures::stream::iter(0..200).map(submit).buffer_unordered(16).collect().await;
    for id in &builds {
        let build = stack.finished(id).await;
        assert_eq!(build["state"], "succeeded", "{build}");
        assert_eq!((&build["attempt"], &build["epoch"]), (&json!(1), &json!(1)), "{build}");
    }
    assert_eq!(stack.registry.tags("many/tool").await.len(), 200);
    let seen = count(&stack).await;
    for id in &builds {
        for kind in ["queued", "started", "finished"] {
            let kind = format!("dev.slipway.build.{kind}.v1");
            assert_eq!(seen.get(&(id.clone(), kind.clone())), Some(&1), "{id} {kind}");
        }
    }
    wait::until("the queue to be empty", wait::SOON, || async {
        let (_, queue) = stack.get("/v1/queue").await;
        (queue["queued"] == 0 && queue["running"] == 0).then_some(())
    })
    .await;
}

/// Counts what a subscriber of NATS sees, by build and type.
async fn count(stack: &Stack) -> BTreeMap<(String, String), u32> {
    let mut seen = BTreeMap::new();
    for event in events::all(&stack.nats.url()).await {
        let text = |name: &str| event[name].as_str().expect("a text").to_owned();
        *seen.entry((text("subject"), text("type"))).or_default() += 1;
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jar_of_300_megabytes_needs_little_memory() {
    let mut stack = Stack::start().await;
    let worker = stack.add_worker(WorkerOptions { id: "worker-1", ..WorkerOptions::default() });
    stack.registry.put_base("docker.io/library/eclipse-temurin", "17-jre", json!({})).await;
    let path = stack.directory.path().join("large.jar");
    write_large_jar(&path);
    let size = std::fs::metadata(&path).expect("it is there").len();
    assert!(size > 300_000_000);
    let file = std::fs::File::open(&path).expect("it opens");
    let body = futures::stream::unfold(file, |mut file| async {
        let mut chunk = vec![0; 1 << 20];
        let read = file.read(&mut chunk).expect("it reads");
        chunk.truncate(read);
        (read > 0).then_some((Ok::<_, std::io::Error>(Bytes::from(chunk)), file))
    });
    let url = stack.url("/v1/projects/team/artifacts?filename=large.jar");
    let request = stack.client.put(url).body(reqwest::Body::wrap_stream(body));
    let (status, artifact) = stack.send(request).await;
    assert_eq!(status, 201, "{artifact}");
    let image = stack.image("large/app:1");
    let id = stack.submit(&json!({"artifact": artifact["digest"], "image": image})).await;
    let build = stack.finished(&id).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    assert!(build["image"]["sent_bytes"].as_u64().is_some_and(|sent| sent >= size), "{build}");
    for (name, process) in [("dispatcher", &stack.dispatcher), ("worker", &stack.workers[worker])] {
        let peak = process.peak_memory();
        println!("{name}: {} MiB at most", peak / MEBIBYTE);
        assert!(peak < MAX_RESIDENT, "{name} took {} MiB", peak / MEBIBYTE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_batches_on_many_connections_need_little_memory() {
    let stack = Stack::start().await;
    // Nearly the largest batch, with builds that are all refused.
    let builds = vec![json!({"image": "r.example/app:1", "nothing": "x".repeat(8_000)}); 1000];
    let batch = Bytes::from(json!({"builds": builds}).to_string());
    let before = stack.dispatcher.peak_memory();
    let send = || async {
        let request = stack.client.post(stack.url("/v1/projects/team/builds:batch"));
        let request = request.header("content-type", "application/json").body(batch.clone());
        // A batch that waited in vain may find the connection closed before it was sent.
        request.send().await.map_or(503, |answer| answer.status().as_u16())
    };
    let statuses = futures::future::join_all((0..BATCHES_AT_ONCE).map(|_| send())).await;
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&200));
    let took = stack.dispatcher.peak_memory() - before;
    println!("{} MiB at most", took / MEBIBYTE);
    assert!(took < MAX_BATCHES, "{} MiB", took / MEBIBYTE);
}

/// A Spring Boot JAR with one nested library of 300 MiB that does not compress.
fn write_large_jar(path: &std::path::Path) {
    let mut library = b"PK\x03\x04".to_vec();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    while library.len() < 300 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        library.extend_from_slice(&state.to_le_bytes());
    }
    let manifest = "Main-Class: org.springframework.boot.loader.launch.JarLauncher\n\
        Spring-Boot-Version: 3.3.0\nSpring-Boot-Classes: BOOT-INF/classes/\n";
    let jar = artifacts::zip(&[
        artifacts::entry("META-INF/MANIFEST.MF", manifest),
        artifacts::entry("BOOT-INF/classes/App.class", artifacts::class(17)),
        artifacts::entry("BOOT-INF/lib/large.jar", library),
    ]);
    let mut file = std::fs::File::create(path).expect("it can be made");
    file.write_all(&jar).expect("it can be written");
}
