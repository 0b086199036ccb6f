// SPDX-License-Identifier: Apache-2.0

//! Registries that want tokens: how often their token server is asked, and for what.

use serde_json::{Value, json};
use slipway_proto::Digest;
use slipway_tests::faulty_registry::{FaultyRegistry, Seen};
use slipway_tests::process::Process;
use slipway_tests::token_server::{Asked, IDENTITY, PASSWORD, TokenServer, USER};
use slipway_tests::{Stack, WorkerOptions, artifacts, http, wait};

/// A stack whose worker reaches its registry only with tokens. The tests reach the same storage
/// without.
struct Scene {
    stack: Stack,
    tokens: TokenServer,
    /// The proxy between worker and registry, which counts requests.
    registry: FaultyRegistry,
    _process: Process,
}

impl Scene {
    async fn start(login: Value) -> Self {
        let mut stack = Stack::start().await;
        let directory = stack.directory.path().join("tokens");
        let tokens = TokenServer::start(&directory).await;
        let storage = stack.directory.path().join("registry/storage");
        let (process, address) = tokens.registry(&directory, &storage).await;
        let registry = FaultyRegistry::before(&address, 1).await;
        let config = json!({"auths": {registry.address(): login}});
        let path = directory.join("config.json");
        std::fs::write(&path, config.to_string()).expect("it can be written");
        let arguments = vec![format!("--docker-config={}", path.display())];
        stack.add_worker(WorkerOptions { id: "worker-1", arguments, ..WorkerOptions::default() });
        Self { stack, tokens, registry, _process: process }
    }

    async fn with_password() -> Self {
        Self::start(json!({"username": USER, "password": PASSWORD})).await
    }

    /// Puts a base of two layers into the registry.
    async fn put_base(&self, name: &str) -> Digest {
        let archive = |text: &[u8]| artifacts::tar(&[("data", text)]);
        let archives = [archive(b"one"), archive(b"two")];
        self.stack.registry.put_base_of(name, "1", json!({}), &archives).await
    }

    /// Builds a program, on a base of the same registry or on none. Returns the build, the requests
    /// to the registry and those for tokens.
    async fn run(&self, program: &str, image: &str, base: &str) -> (Value, Vec<Seen>, Vec<Asked>) {
        let (before, asked) = (self.registry.requests().len(), self.tokens.asked().len());
        let image = format!("{}/{image}", self.registry.address());
        let mut request = self.stack.tool(program, &image).await;
        if !base.is_empty() {
            request["base"] = json!(format!("{}/{base}", self.registry.address()));
        }
        let build = self.stack.finished(&self.stack.submit(&request).await).await;
        assert_eq!(build["state"], "succeeded", "{build}");
        assert_eq!(build["attempt"], 1, "{build}");
        let requests = self.registry.requests().split_off(before);
        (build, requests, self.tokens.asked().split_off(asked))
    }
}

/// Returns the scopes of the requested tokens, in alphabetical order.
fn scopes(asked: &[Asked]) -> Vec<String> {
    let mut scopes: Vec<String> = asked.iter().map(|asked| asked.scopes.join(" ")).collect();
    scopes.sort();
    scopes
}

fn transfers(build: &Value) -> Vec<&str> {
    let layers = build["image"]["layers"].as_array().expect("layers");
    layers.iter().filter_map(|layer| layer["transfer"].as_str()).collect()
}

fn refused(requests: &[Seen]) -> Vec<&Seen> {
    requests.iter().filter(|seen| seen.status == Some(401)).collect()
}

const PUSH: &str = "repository:team/tool:pull,push";
const PULL_BASE: &str = "repository:library/base:pull";
const MOUNT_BASE: &str = "repository:team/tool:pull,push repository:library/base:pull";

#[tokio::test(flavor = "multi_thread")]
async fn a_token_serves_all_builds_of_a_repository_whatever_their_tags() {
    let scene = Scene::with_password().await;
    scene.put_base("library/base").await;
    let (_, requests, asked) = scene.run("1", "team/tool:1", "library/base:1").await;
    assert_eq!(scopes(&asked), [PULL_BASE, PUSH, MOUNT_BASE], "{requests:#?}");
    for tag in 2..5 {
        let image = format!("team/tool:{tag}");
        let (_, requests, asked) = scene.run(&tag.to_string(), &image, "library/base:1").await;
        assert_eq!(scopes(&asked), Vec::<String>::new());
        assert_eq!(refused(&requests), Vec::<&Seen>::new());
    }
    // It is known how this registry wants to be asked, so no request is wasted.
    let (_, requests, asked) = scene.run("1", "team/other:1", "").await;
    let expected = ["", " repository:team/tool:pull"];
    assert_eq!(
        scopes(&asked),
        expected.map(|from| format!("repository:team/other:pull,push{from}"))
    );
    assert_eq!(refused(&requests), Vec::<&Seen>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_is_mounted_with_a_token_for_both_repositories() {
    let scene = Scene::with_password().await;
    scene.put_base("library/base").await;
    let (build, requests, _) = scene.run("1", "team/tool:1", "library/base:1").await;
    assert_eq!(transfers(&build), ["mounted", "mounted", "uploaded"], "{requests:#?}");
    let mounted = requests.iter().filter(|seen| seen.path.contains("from=library%2Fbase"));
    assert_eq!(mounted.filter(|seen| seen.status == Some(201)).count(), 2, "{requests:#?}");
    let read = requests.iter().filter(|seen| {
        let layers = build["image"]["layers"].as_array().expect("layers");
        let mut digests = layers.iter().filter_map(|layer| layer["digest"].as_str());
        seen.method == "GET" && digests.any(|digest| seen.path.contains(digest))
    });
    assert_eq!(read.count(), 0, "{requests:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_over_is_asked_for_anew() {
    let scene = Scene::with_password().await;
    scene.tokens.set_life(2);
    scene.run("1", "team/tool:1", "").await;
    scene.tokens.set_life(300);
    let (client, asked) = (http::client(), scene.tokens.asked());
    let token = asked.iter().rev().find(|asked| asked.scopes == [PUSH]).expect("it was asked");
    let token = token.token.clone().expect("it was given");
    let url = format!("http://{}/v2/team/tool/tags/list", scene.registry.address());
    wait::until("the registry to refuse the token", wait::SOON, || async {
        let answer = client.get(&url).bearer_auth(&token).send().await.ok()?;
        (answer.status() == 401).then_some(())
    })
    .await;
    let (_, requests, asked) = scene.run("2", "team/tool:2", "").await;
    assert_eq!(scopes(&asked), [PUSH], "{requests:#?}");
    let (_, requests, asked) = scene.run("3", "team/tool:3", "").await;
    assert_eq!((asked.len(), refused(&requests).len()), (0, 0), "{requests:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_mounted_is_uploaded_and_its_repository_remembered() {
    let scene = Scene::with_password().await;
    let (build, ..) = scene.run("same", "team/first:1", "").await;
    assert_eq!(transfers(&build), ["uploaded"]);
    scene.tokens.withhold(&["team/first"]);
    let (build, requests, asked) = scene.run("same", "team/second:1", "").await;
    assert_eq!(transfers(&build), ["uploaded"], "{requests:#?}");
    assert_eq!(refused(&requests).len(), 1, "of that repository, once: {requests:#?}");
    let both = "repository:team/second:pull,push repository:team/first:pull";
    assert_eq!(scopes(&asked), ["repository:team/second:pull,push", both]);
    // The newest known token is tried first, then the one before it.
    scene.tokens.withhold(&["team/second"]);
    let (build, requests, _) = scene.run("same", "team/third:1", "").await;
    assert_eq!(transfers(&build), ["mounted"], "{requests:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_may_not_be_mounted_is_uploaded() {
    let scene = Scene::with_password().await;
    scene.put_base("library/base").await;
    let (build, ..) = scene.run("1", "team/first:1", "library/base:1").await;
    assert_eq!(transfers(&build), ["mounted", "mounted", "uploaded"]);
    // The token for reading the base is already there.
    scene.tokens.withhold(&["library/base", "team/first"]);
    let (build, requests, asked) = scene.run("2", "team/tool:1", "library/base:1").await;
    assert_eq!(transfers(&build), ["uploaded", "uploaded", "uploaded"], "{requests:#?}");
    assert_eq!(refused(&requests).len(), 2, "once from either: {requests:#?}");
    let from_first = "repository:team/tool:pull,push repository:team/first:pull";
    assert_eq!(scopes(&asked), [PUSH, MOUNT_BASE, from_first]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_is_exchanged_for_others() {
    let login = json!({"auth": "dXNlcjo=", "identitytoken": IDENTITY});
    let scene = Scene::start(login).await;
    scene.put_base("library/base").await;
    let (build, _, asked) = scene.run("1", "team/tool:1", "library/base:1").await;
    assert_eq!(transfers(&build), ["mounted", "mounted", "uploaded"]);
    assert_eq!(scopes(&asked), [PULL_BASE, PUSH, MOUNT_BASE]);
    assert!(asked.iter().all(|asked| asked.by_identity), "{asked:#?}");
}
