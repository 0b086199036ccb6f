// SPDX-License-Identifier: Apache-2.0

//! What a push asks of a registry, and which bytes it sends how often.

use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use serde_json::{Value, json};
use slipway_proto::Digest;
use slipway_tests::faulty_registry::{FaultyRegistry, Misbehaviour, Rule, Seen};
use slipway_tests::{Stack, WorkerOptions, artifacts, wait};

/// What may be sent around the blobs: configs.
const SMALL: u64 = 64 * 1024;
const CHUNK: u64 = 1 << 20;

/// A stack whose registry is looked at from before it.
struct Scene {
    stack: Stack,
    registry: FaultyRegistry,
}

impl Scene {
    async fn start(arguments: &[&str]) -> Self {
        let mut stack = Stack::start().await;
        let registry = FaultyRegistry::before(&stack.registry.address, 1).await;
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        stack.add_worker(WorkerOptions { id: "worker-1", arguments, ..WorkerOptions::default() });
        Self { stack, registry }
    }

    /// Puts a base with these many bytes in each of its layers into the registry.
    async fn put_base(&self, name: &str, layers: &[usize]) -> Digest {
        let archive = |(seed, length)| artifacts::tar(&[("data", &noise(seed, length))]);
        let archives: Vec<Vec<u8>> = (0..).zip(layers.iter().copied()).map(archive).collect();
        self.stack.registry.put_base_of(name, "1", json!({}), &archives).await
    }

    async fn submit(&self, program: &[u8], image: &str, more: Value) -> String {
        let artifact = self.stack.upload("tool", program.to_owned()).await;
        let image = format!("{}/{image}", self.registry.address());
        let mut request = json!({"artifact": artifact, "image": image, "environment": "scratch"});
        for (field, value) in more.as_object().into_iter().flatten() {
            request[field] = value.clone();
        }
        self.stack.submit(&request).await
    }

    async fn succeeded(&self, id: &str) -> Value {
        let build = self.stack.finished(id).await;
        assert_eq!(build["state"], "succeeded", "{build}");
        build
    }

    /// Builds a program, on a base of the same registry or on none, and returns the build and the
    /// requests that it took.
    async fn run(&self, program: &[u8], image: &str, base: &str) -> (Value, Vec<Seen>) {
        let before = self.registry.requests().len();
        let base_image = format!("{}/{base}", self.registry.address());
        let more = if base.is_empty() { json!({}) } else { json!({"base": base_image}) };
        let id = self.submit(program, image, more).await;
        let build = self.succeeded(&id).await;
        (build, self.registry.requests().split_off(before))
    }

    fn rule(&self, method: &'static str, misbehaviour: Misbehaviour, times: u32) {
        self.rule_about(method, "/blobs/", misbehaviour, times);
    }

    fn rule_about(&self, method: &'static str, path: &str, misbehaviour: Misbehaviour, times: u32) {
        self.registry.add_rule(Rule {
            method: Some(method),
            path_contains: path.to_owned(),
            misbehaviour,
            times: Some(times),
            probability: 1.0,
        });
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// A program whose layer has about so many bytes.
fn program(seed: u64, length: usize) -> Vec<u8> {
    let mut program = artifacts::elf(62, "");
    program.extend_from_slice(&noise(seed, length));
    program
}

fn count(requests: &[Seen], method: &str, path: &str) -> usize {
    requests.iter().filter(|seen| seen.method == method && seen.path.contains(path)).count()
}

/// Returns the bytes of blobs that came.
fn blob_bytes(requests: &[Seen]) -> u64 {
    requests.iter().map(|seen| seen.body_bytes).sum()
}

/// Returns the requests that carried something large.
fn uploads(requests: &[Seen]) -> Vec<&Seen> {
    requests.iter().filter(|seen| seen.body_bytes > SMALL).collect()
}

/// Returns digest and size of the layer that was made.
fn made_layer(build: &Value) -> (String, u64) {
    let layers = build["image"]["layers"].as_array().expect("layers");
    let layer = layers.iter().find(|layer| layer["base"] == false).expect("a layer of its own");
    let digest = layer["digest"].as_str().expect("a digest");
    (digest.to_owned(), layer["size_bytes"].as_u64().expect("a size"))
}

fn transfers(build: &Value) -> Vec<&str> {
    let layers = build["image"]["layers"].as_array().expect("layers");
    layers.iter().filter_map(|layer| layer["transfer"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_image_takes_eight_requests_and_what_is_known_is_not_sent() {
    let mut scene = Scene::start(&[]).await;
    let base = scene.put_base("library/base", &[1000, 2000]).await;
    let base = format!("library/base@{base}");
    // Here the base is read, and it is found out that docker-registry takes no blob in one POST.
    scene.run(&program(1, 100), "first/tool:1", "library/base:1").await;

    let (build, requests) = scene.run(&program(2, 100), "fresh/tool:1", &base).await;
    assert_eq!(requests.len(), 8, "into a repository that has nothing: {requests:#?}");
    assert_eq!(transfers(&build), ["mounted", "mounted", "uploaded"]);

    let changed = program(3, 100);
    let (build, requests) = scene.run(&changed, "fresh/tool:2", "library/base:1").await;
    assert_eq!(requests.len(), 7, "into one that had the base, by its tag: {requests:#?}");
    assert_eq!(transfers(&build), ["found", "found", "uploaded"]);
    let (digest, _) = made_layer(&build);

    let (build, requests) = scene.run(&changed, "fresh/tool:3", "library/base:1").await;
    assert_eq!(requests.len(), 3, "the base's tag, the manifest, its tag: {requests:#?}");
    assert_eq!(transfers(&build), ["found", "found", "found"]);

    let (build, requests) = scene.run(&changed, "other/tool:1", "library/base:1").await;
    assert_eq!(requests.len(), 7, "{requests:#?}");
    assert_eq!(count(&requests, "POST", &format!("mount={digest}&from=fresh%2Ftool")), 1);
    assert_eq!(blob_bytes(&requests), 0, "{requests:#?}");
    assert_eq!(transfers(&build), ["mounted", "mounted", "mounted"]);

    // Another process with the same cache.
    assert!(scene.stack.workers[0].terminate().await.success());
    scene.stack.add_worker(WorkerOptions { id: "worker-1", ..WorkerOptions::default() });
    let (build, requests) = scene.run(&changed, "fresh/tool:4", "library/base:1").await;
    assert_eq!(count(&requests, "HEAD", &digest), 1, "one check of an unchanged layer");
    assert_eq!(blob_bytes(&requests), 0, "{requests:#?}");
    assert_eq!(transfers(&build), ["found", "found", "found"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_worker_pushed_is_found_by_the_request_that_would_send_it() {
    let mut scene = Scene::start(&[]).await;
    let program = program(1, 1 << 20);
    scene.run(&program, "fleet/tool:1", "").await;
    assert!(scene.stack.workers[0].terminate().await.success());
    scene.stack.add_worker(WorkerOptions { id: "worker-2", ..WorkerOptions::default() });
    let (build, requests) = scene.run(&program, "fleet/tool:2", "").await;
    assert_eq!(transfers(&build), ["found"]);
    assert_eq!(uploads(&requests), Vec::<&Seen>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_lost_what_it_was_known_to_have_gets_it_again() {
    let mut scene = Scene::start(&[]).await;
    let program = program(1, 100);
    scene.run(&program, "lost/tool:1", "").await;
    let storage = scene.stack.directory.path().join("registry/storage/docker/registry/v2");
    let lose = || {
        let layers = storage.join("repositories/lost/tool/_layers");
        std::fs::remove_dir_all(layers).expect("the registry can lose it");
    };
    lose();
    // Had a moment ago, so that only the refused manifest tells.
    let (build, requests) = scene.run(&program, "lost/tool:2", "").await;
    assert_eq!(build["attempt"], 1, "{build}");
    let (digest, _) = made_layer(&build);
    assert_eq!(count(&requests, "HEAD", &digest), 1, "asked when it was refused: {requests:#?}");
    assert_eq!(transfers(&build), ["uploaded"]);

    scene.rule_about("PUT", "/manifests/sha256:", Misbehaviour::ServerError(400), 1);
    let (build, requests) = scene.run(&program, "lost/tool:3", "").await;
    assert_eq!(build["attempt"], 1, "{build}");
    assert_eq!(count(&requests, "HEAD", &digest), 1, "asked when it was refused: {requests:#?}");

    // Another process, which knows what this one knew and has heard nothing.
    assert!(scene.stack.workers[0].terminate().await.success());
    scene.stack.add_worker(WorkerOptions { id: "worker-1", ..WorkerOptions::default() });
    lose();
    let (build, requests) = scene.run(&program, "lost/tool:4", "").await;
    assert_eq!(count(&requests, "HEAD", &digest), 1, "{requests:#?}");
    assert_eq!(count(&requests, "PUT", "/manifests/sha256:"), 1, "never refused: {requests:#?}");
    assert_eq!(transfers(&build), ["uploaded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_sent_before_it_is_known_what_it_lies_on() {
    let scene = Scene::start(&[]).await;
    scene.put_base("library/base", &[1000]).await;
    let base = format!("{}/library/base:1", scene.registry.address());
    scene.rule_about("GET", "/library/base/manifests/", Misbehaviour::HoldAt { offset: 1 }, 1);
    let id = scene.submit(&program(1, 1 << 20), "early/tool:1", json!({"base": base})).await;
    scene.registry.held().await;
    wait::until("the layer to be stored", wait::LATER, || async {
        let requests = scene.registry.requests();
        uploads(&requests).iter().any(|upload| upload.status == Some(201)).then_some(())
    })
    .await;
    let requests = scene.registry.requests();
    assert_eq!(count(&requests, "PUT", "/early/tool/manifests/"), 0, "{requests:#?}");
    scene.registry.release();
    assert_eq!(transfers(&scene.succeeded(&id).await), ["mounted", "uploaded"]);
    assert_eq!(uploads(&scene.registry.requests()).len(), 1, "it was sent once");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_builds_with_one_layer_upload_it_once() {
    let scene = Scene::start(&["--slots=20"]).await;
    scene.rule("PUT", Misbehaviour::HoldAt { offset: CHUNK }, 1);
    let program = program(1, 3 << 20);
    let mut builds = Vec::new();
    for number in 0..20 {
        // Half of them into one repository, the others each into one of its own.
        let image = if number % 2 == 0 { "same".to_owned() } else { format!("own{number}") };
        builds.push(scene.submit(&program, &format!("{image}/tool:{number}"), json!({})).await);
    }
    scene.registry.held().await;
    wait::until("all builds to run", wait::LATER, || async {
        let (_, queue) = scene.stack.get("/v1/queue").await;
        (queue["running"] == 20).then_some(())
    })
    .await;
    scene.registry.release();
    let mut size = 0;
    for id in &builds {
        size = made_layer(&scene.succeeded(id).await).1;
    }
    let requests = scene.registry.requests();
    assert_eq!(uploads(&requests).len(), 1, "{:#?}", uploads(&requests));
    assert!(blob_bytes(&requests) < size + SMALL, "{} of {size}", blob_bytes(&requests));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_of_another_registry_is_downloaded_once_and_sent_on_while_it_comes() {
    let scene = Scene::start(&["--slots=5"]).await;
    let size = 8 << 20;
    scene.put_base("library/large", &[size]).await;
    let origin = FaultyRegistry::before(&scene.stack.registry.address, 1).await;
    origin.add_rule(Rule {
        method: Some("GET"),
        path_contains: "/blobs/".to_owned(),
        misbehaviour: Misbehaviour::HoldAt { offset: size as u64 / 2 },
        times: None,
        probability: 1.0,
    });
    let base = format!("{}/library/large:1", origin.address());
    let mut builds = Vec::new();
    for number in 0..5 {
        let image = format!("moved{number}/tool:1");
        let program = program(number, 100);
        builds.push(scene.submit(&program, &image, json!({"base": base})).await);
    }
    origin.held().await;
    wait::until("half of the layer at the target", wait::LATER, || async {
        let requests = scene.registry.requests();
        let sent = requests.iter().map(|seen| seen.body_bytes).max().unwrap_or_default();
        (sent >= size as u64 / 4).then_some(())
    })
    .await;
    let half: Vec<Seen> = origin.requests();
    assert!(half.iter().all(|seen| seen.method == "GET"), "{half:#?}");
    origin.release();
    for id in &builds {
        scene.succeeded(id).await;
    }
    let build = scene.stack.build(&builds[0]).await;
    let digest = build["image"]["layers"][0]["digest"].as_str().expect("a digest");
    assert_eq!(count(&origin.requests(), "GET", digest), 1, "{:#?}", origin.requests());
    let sent = blob_bytes(&scene.registry.requests());
    assert!(
        sent < size as u64 + 5 * SMALL,
        "{sent}: sent to one repository, mounted to the others"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_of_a_base_that_breaks_goes_on_where_it_stopped() {
    let scene = Scene::start(&[]).await;
    scene.put_base("library/large", &[2 << 20]).await;
    let origin = FaultyRegistry::before(&scene.stack.registry.address, 1).await;
    origin.add_rule(Rule {
        method: Some("GET"),
        // Not the config, which is smaller than that.
        path_contains: "/blobs/".to_owned(),
        misbehaviour: Misbehaviour::KeepUpTo { offset: CHUNK },
        times: Some(3),
        probability: 1.0,
    });
    let base = format!("{}/library/large:1", origin.address());
    let id = scene.submit(&program(1, 100), "moved/tool:1", json!({"base": base})).await;
    let build = scene.succeeded(&id).await;
    assert_eq!(build["attempt"], 1, "{build}");
    let digest = build["image"]["layers"][0]["digest"].as_str().expect("a digest").to_owned();
    let requests = origin.requests();
    let reads: Vec<Option<u64>> =
        requests.iter().filter(|seen| seen.path.contains(&digest)).map(|seen| seen.start).collect();
    // What was on its way when the connection closed may be lost.
    assert_eq!(reads[0], None, "{reads:?}");
    assert!(reads.len() > 1 && reads[1..].iter().all(|start| *start > Some(0)), "{reads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_goes_on_where_the_registry_stopped() {
    let scene = Scene::start(&[]).await;
    let cut = 2 << 20;
    scene.rule("PUT", Misbehaviour::KeepUpTo { offset: cut }, 1);
    let (build, requests) = scene.run(&program(1, 3 << 20), "cut/tool:1", "").await;
    assert_eq!(build["attempt"], 1, "{build}");
    let (digest, size) = made_layer(&build);
    let uploads = uploads(&requests);
    assert_eq!(uploads.len(), 2, "{requests:#?}");
    assert_eq!((uploads[1].method.as_str(), uploads[1].start), ("PATCH", Some(cut)));
    assert_eq!(uploads[1].body_bytes, size - cut, "what was kept is not sent again");
    assert_eq!(scene.stack.registry.blob("cut/tool", &digest).await.len() as u64, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_that_breaks_at_the_end_sends_only_its_last_chunk_again() {
    let scene = Scene::start(&[&format!("--upload-chunk-bytes={CHUNK}")]).await;
    let length = 4 * (1 << 20) + (1 << 19);
    let cut = 4 * CHUNK + CHUNK / 4;
    scene.rule("PATCH", Misbehaviour::KeepUpTo { offset: cut }, 1);
    let (build, requests) = scene.run(&program(1, length), "chunks/tool:1", "").await;
    assert_eq!(build["attempt"], 1, "{build}");
    let (digest, size) = made_layer(&build);
    let starts: Vec<Option<u64>> = uploads(&requests).iter().map(|upload| upload.start).collect();
    let chunks = [0, 1, 2, 3, 4].map(|number| Some(number * CHUNK));
    assert_eq!(starts[..5], chunks, "{requests:#?}");
    assert_eq!(starts[5..], [Some(cut)], "{requests:#?}");
    assert_eq!(scene.stack.registry.blob("chunks/tool", &digest).await.len() as u64, size);
}

/// docker-registry gives up a session that it was writing to, and keeps one that it was not.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_outlives_a_registry_that_is_killed_between_two_chunks() {
    let mut scene = Scene::start(&[&format!("--upload-chunk-bytes={CHUNK}")]).await;
    scene.rule("PATCH", Misbehaviour::HoldAt { offset: 3 * CHUNK }, 1);
    let id = scene.submit(&program(1, 4 << 20), "killed/tool:1", json!({})).await;
    scene.registry.held().await;
    scene.stack.registry.kill();
    scene.registry.release();
    scene.stack.registry.restart().await;
    let build = scene.succeeded(&id).await;
    assert_eq!(build["attempt"], 1, "{build}");
    let requests = scene.registry.requests();
    let starts: Vec<Option<u64>> = uploads(&requests).iter().map(|upload| upload.start).collect();
    let again = starts.iter().filter(|start| **start == Some(0)).count();
    assert_eq!(again, 1, "{starts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_into_which_its_registry_is_killed_starts_over_in_the_same_attempt() {
    let mut scene = Scene::start(&[&format!("--upload-chunk-bytes={CHUNK}")]).await;
    scene.rule("PATCH", Misbehaviour::HoldAt { offset: 2 * CHUNK + CHUNK / 2 }, 1);
    let id = scene.submit(&program(1, 4 << 20), "killed/tool:1", json!({})).await;
    scene.registry.held().await;
    scene.stack.registry.kill();
    scene.registry.release();
    scene.stack.registry.restart().await;
    let build = scene.succeeded(&id).await;
    assert_eq!(build["attempt"], 1, "{build}");
    let (digest, size) = made_layer(&build);
    assert_eq!(scene.stack.registry.blob("killed/tool", &digest).await.len() as u64, size);
}
