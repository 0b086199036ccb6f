// SPDX-License-Identifier: Apache-2.0

//! Credentials that change, are not needed, or are somewhere else.

use std::path::Path;

use serde_json::json;
use slipway_tests::faulty_registry::{FaultyRegistry, Misbehaviour, Rule};
use slipway_tests::registry::Registry;
use slipway_tests::{Stack, WorkerOptions};

use super::Scene;

/// The passwords of the registry's two users.
const PASSWORDS: [(&str, &str); 2] = [("user", "password"), ("next", "next")];

fn write(path: &Path, registry: &str, (user, password): (&str, &str)) {
    let config = json!({"auths": {registry: {"username": user, "password": password}}});
    // As Kubernetes does: another file under the same name.
    let next = path.with_extension("next");
    std::fs::write(&next, config.to_string()).expect("it can be written");
    std::fs::rename(next, path).expect("it can be renamed");
}

/// A stack whose worker pushes to a registry with users, which a faulty one stands before.
struct Closed {
    stack: Stack,
    real: Registry,
    faulty: FaultyRegistry,
}

impl Closed {
    async fn start() -> Self {
        let mut stack = Stack::start().await;
        let directory = stack.directory.path().join("closed");
        let real = Registry::start_closed(&directory).await;
        let faulty = FaultyRegistry::before(&real.address, 1).await;
        let closed = directory.join("config.json");
        write(&closed, faulty.address(), PASSWORDS[0]);
        let arguments = vec![format!("--docker-config={}", closed.display())];
        stack.add_worker(WorkerOptions { id: "worker-1", arguments, ..WorkerOptions::default() });
        Self { stack, real, faulty }
    }

    fn config(&self) -> std::path::PathBuf {
        self.stack.directory.path().join("closed/config.json")
    }

    /// Builds and returns the state, the attempt, and what it says.
    async fn build(&self, marker: &str) -> (String, u64, String) {
        let image = format!("{}/team/tool:{marker}", self.faulty.address());
        let request = self.stack.tool(marker, &image).await;
        let build = self.stack.finished(&self.stack.submit(&request).await).await;
        let state = build["state"].as_str().expect("a state").to_owned();
        (state, build["attempt"].as_u64().expect("a number"), build["failure"].to_string())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_replaced_on_disk_are_read_again() {
    let mut closed = Closed::start().await;
    let (state, attempt, why) = closed.build("first").await;
    assert_eq!((state.as_str(), attempt), ("succeeded", 1), "{why}");

    // The registry takes another password from now on, and the file is replaced.
    closed.real.replace_user();
    closed.real.kill();
    closed.real.restart().await;
    write(&closed.config(), closed.faulty.address(), PASSWORDS[1]);
    let (state, attempt, why) = closed.build("second").await;
    assert_eq!((state.as_str(), attempt), ("succeeded", 1), "{why}");

    // A file that is half written changes nothing, and is told.
    std::fs::write(closed.config(), r#"{"auths": {"127.0"#).expect("it can be written");
    let (state, attempt, why) = closed.build("third").await;
    assert_eq!((state.as_str(), attempt), ("succeeded", 1), "{why}");
    let log = closed.stack.workers[0].output();
    assert!(log.contains("those from before stay in use"), "{log}");

    // A wrong password fails, without asking on and on.
    write(&closed.config(), closed.faulty.address(), ("next", "wrong"));
    let before = closed.faulty.requests().len();
    let (state, attempt, why) = closed.build("fourth").await;
    assert_eq!((state.as_str(), attempt), ("failed", 1), "{why}");
    assert!(why.contains("RegistryDenied"), "{why}");
    let requests = closed.faulty.requests().split_off(before);
    let refused = requests.iter().filter(|seen| seen.status == Some(401)).count();
    assert!(refused <= 4, "at most two for the layer and for the config: {requests:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_the_credentials_lack_is_one_attempt() {
    let closed = Closed::start().await;
    closed.faulty.add_rule(Rule {
        method: Some("PUT"),
        path_contains: "/manifests/".to_owned(),
        misbehaviour: Misbehaviour::Forbidden,
        times: None,
        probability: 1.0,
    });
    let (state, attempt, why) = closed.build("third").await;
    assert_eq!((state.as_str(), attempt), ("failed", 1), "{why}");
    assert!(why.contains("may do this"), "{why}");
    let requests = closed.faulty.requests();
    let refused = requests.iter().filter(|seen| seen.status == Some(403)).count();
    assert_eq!(refused, 1, "nothing new was to be read: {requests:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_not_needed_stops_nothing() {
    let scene = Scene::start().await;
    let config = scene.path("config.json");
    let config_argument = format!("--docker-config={}", config.display());
    for entry in [json!({"auth": ""}), json!({"auth": "?"}), json!({"auth": 7}), json!(7)] {
        let document = json!({"auths": {"registry.example": entry}});
        std::fs::write(&config, document.to_string()).expect("it can be written");
        let arguments = ["--environment", "scratch", &config_argument];
        scene.build_with("a", &scene.image("team/tool:1"), &arguments, &[]).await.good();
    }
    let document = json!({"auths": {scene.faulty.address(): {"auth": "?"}}});
    std::fs::write(&config, document.to_string()).expect("it can be written");
    // Asked for when the registry wants them, and then told.
    scene.rule("POST", "/blobs/", Misbehaviour::Unauthorized);
    let arguments = ["--environment", "scratch", &config_argument];
    let built = scene.build_with("b", &scene.image("team/tool:1"), &arguments, &[]).await;
    let sentence = format!("the credentials for {} in", scene.faulty.address());
    built.failed_for(&sentence).failed_for("malformed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_left_to_a_helper_is_told_with_it() {
    let scene = Scene::start().await;
    let config = scene.path("config.json");
    let config_argument = format!("--docker-config={}", config.display());
    let address = scene.faulty.address();
    let faults = [
        ("POST", Misbehaviour::Unauthorized),
        ("POST", Misbehaviour::Forbidden),
        ("PUT", Misbehaviour::Forbidden),
    ];
    for (method, fault) in faults {
        for document in [
            json!({"auths": {address: {}}, "credsStore": "desktop"}),
            json!({"credsStore": "desktop"}),
            json!({"credHelpers": {address: "desktop"}}),
        ] {
            scene.faulty.clear();
            scene.rule(method, "/v2/", fault.clone());
            std::fs::write(&config, document.to_string()).expect("it can be written");
            let arguments = ["--environment", "scratch", &config_argument];
            let built = scene.build_with("a", &scene.image("team/tool:1"), &arguments, &[]).await;
            let sentence = format!(
                "config.json leaves {address} to the helper `desktop`, which Slipway does not run"
            );
            built.failed_for(&sentence);
        }
    }
}
