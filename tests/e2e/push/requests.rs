// SPDX-License-Identifier: Apache-2.0

//! Which requests a push sends, and which bytes it avoids.

use serde_json::{Value, json};
use slipway_tests::faulty_registry::{FaultyRegistry, Misbehaviour, Rule, Seen};
use slipway_tests::{WorkerOptions, wait};

use super::{CHUNK, SMALL, Scene, blob_bytes, count, made_layer, program, transfers, uploads};

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_image_takes_eight_requests_and_what_is_known_is_not_sent() {
    let mut scene = Scene::start(&[]).await;
    let base = scene.put_base("library/base", &[1000, 2000]).await;
    let base = format!("library/base@{base}");
    // The first build reads the base, and finds out that docker-registry accepts no blob in one
    // POST.
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
    // It was there a moment ago, so only the refused manifest shows that it is gone.
    let (build, requests) = scene.run(&program, "lost/tool:2", "").await;
    assert_eq!(build["attempt"], 1, "{build}");
    let (digest, _) = made_layer(&build);
    assert_eq!(count(&requests, "HEAD", &digest), 1, "asked when it was refused: {requests:#?}");
    assert_eq!(transfers(&build), ["uploaded"]);

    scene.rule_about("PUT", "/manifests/sha256:", Misbehaviour::ServerError(400), 1);
    let (build, requests) = scene.run(&program, "lost/tool:3", "").await;
    assert_eq!(build["attempt"], 1, "{build}");
    assert_eq!(count(&requests, "HEAD", &digest), 1, "asked when it was refused: {requests:#?}");

    // Another process, with the same records and no recent news.
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
        // Half of them into one repository, each of the others into a repository of its own.
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
    let sent = moved(&scene, 1).await;
    assert!(sent < MOVED + 5 * SMALL, "{sent}: sent to one repository, mounted to the others");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workers_of_a_node_download_a_base_once_and_both_send_it_on_while_it_comes() {
    let mut scene = Scene::start(&["--slots=3"]).await;
    scene.add_neighbour("--slots=2");
    let sent = moved(&scene, 2).await;
    assert!(sent < 2 * MOVED + 5 * SMALL, "{sent}: sent once by each");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_whose_worker_is_killed_is_taken_over_by_another_of_the_node() {
    let mut scene = Scene::start(&["--slots=1"]).await;
    // The config, and the layer once.
    let origin = scene.base_elsewhere(2).await;
    let first = scene.submit_moved(&origin, 1).await;
    origin.held().await;
    scene.add_neighbour("--slots=1");
    let second = scene.submit_moved(&origin, 2).await;
    scene.half_is_sent(2).await;
    scene.stack.workers[0].kill();
    let build = scene.succeeded(&second).await;
    assert_eq!(layer_reads(&origin, &build), 2, "{:#?}", origin.requests());
    scene.succeeded(&first).await;
    assert_eq!(layer_reads(&origin, &build), 2, "{:#?}", origin.requests());
}

/// The size of the base that is copied.
const MOVED: u64 = 8 << 20;

/// Lets five builds, each into a repository of its own, copy the base from another registry, which
/// sends only half of it until this many workers have passed that on. Returns how many bytes of
/// blobs were sent.
async fn moved(scene: &Scene, workers: usize) -> u64 {
    let origin = scene.base_elsewhere(None).await;
    let mut builds = Vec::new();
    for number in 0..5 {
        builds.push(scene.submit_moved(&origin, number).await);
    }
    origin.held().await;
    scene.half_is_sent(workers).await;
    let half: Vec<Seen> = origin.requests();
    assert!(half.iter().all(|seen| seen.method == "GET"), "{half:#?}");
    origin.release();
    for id in &builds {
        let build = scene.succeeded(id).await;
        assert_eq!(layer_reads(&origin, &build), 1, "{:#?}", origin.requests());
    }
    blob_bytes(&scene.registry.requests())
}

/// Returns how often the layer of the base was requested.
fn layer_reads(origin: &FaultyRegistry, build: &Value) -> usize {
    let digest = build["image"]["layers"][0]["digest"].as_str().expect("a digest");
    count(&origin.requests(), "GET", digest)
}

impl Scene {
    /// Starts a registry with a base of one layer. It sends half of the layer, this many times,
    /// until it is released.
    async fn base_elsewhere(&self, times: impl Into<Option<u32>>) -> FaultyRegistry {
        self.put_base("library/large", &[usize::try_from(MOVED).expect("a size")]).await;
        let origin = FaultyRegistry::before(&self.stack.registry.address, 1).await;
        origin.add_rule(Rule {
            method: Some("GET"),
            path_contains: "/blobs/".to_owned(),
            misbehaviour: Misbehaviour::HoldAt { offset: MOVED / 2 },
            times: times.into(),
            probability: 1.0,
        });
        origin
    }

    /// Submits a build on that base, into a new repository.
    async fn submit_moved(&self, origin: &FaultyRegistry, number: u64) -> String {
        let base = format!("{}/library/large:1", origin.address());
        let image = format!("moved{number}/tool:1");
        self.submit(&program(number, 100), &image, json!({"base": base})).await
    }

    /// Waits until this many workers have passed on half of that base.
    async fn half_is_sent(&self, workers: usize) {
        wait::until("half of the layer at the target", wait::LATER, || async {
            let requests = self.registry.requests();
            let halves = requests.iter().filter(|seen| seen.body_bytes >= MOVED / 4).count();
            (halves == workers).then_some(())
        })
        .await;
    }

    /// Starts a second worker on the cache of the first.
    fn add_neighbour(&mut self, slots: &str) {
        let cache = |worker: &str| self.stack.directory.path().join(format!("cache-{worker}"));
        // The first may not have come this far, and nothing can be made through a link that leads
        // nowhere.
        std::fs::create_dir_all(cache("worker-1")).expect("the cache of the first");
        std::os::unix::fs::symlink(cache("worker-1"), cache("worker-2"))
            .expect("one cache for both");
        let arguments = vec![slots.to_owned()];
        self.stack.add_worker(WorkerOptions {
            id: "worker-2",
            arguments,
            ..WorkerOptions::default()
        });
    }
}
