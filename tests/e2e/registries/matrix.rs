// SPDX-License-Identifier: Apache-2.0

//! The same builds on every registry: docker-registry 2.8, and those that `make test-registries`
//! compiles. Each test says which one it was when it fails.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use slipway_tests::certificate::Certificate;
use slipway_tests::faulty_registry::FaultyRegistry;
use slipway_tests::process::command;
use slipway_tests::registry::{Registry, RegistryProgram};
use slipway_tests::token_server::{PASSWORD, TokenServer, USER};
use slipway_tests::{artifacts, http};

use super::Scene;

/// Reads an image as others do, and returns its digest.
fn inspect(image: &str) -> String {
    let mut skopeo = command("skopeo");
    skopeo.args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"]);
    let output = skopeo.arg(format!("docker://{image}")).output().expect("skopeo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Writes a `config.json` and returns the argument that names it.
fn docker_config(scene: &Scene, auths: &Value) -> String {
    let path = scene.path("config.json");
    std::fs::write(&path, json!({"auths": auths}).to_string()).expect("it can be written");
    format!("--docker-config={}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_reach_every_registry_and_are_read_by_others() {
    for program in RegistryProgram::all() {
        eprintln!("{program:?}");
        let scene = Scene::before(program).await;
        let archive = |text: &[u8]| artifacts::tar(&[("data", text)]);
        let archives = [archive(b"one"), archive(b"two")];
        scene.real.put_base_of("library/base", "1", json!({}), &archives).await;
        for image in ["team/tool:1", "team/tool:2", "other/tool:1", "a/b/c/d/e/tool:1"] {
            scene.build_on("library/base:1", image).await.good();
            scene.build("without a base", &format!("{image}-scratch")).await.good();
        }
        let digests: Vec<String> = ["team/tool:1", "team/tool:2", "a/b/c/d/e/tool:1"]
            .map(|image| inspect(&scene.image(image)))
            .to_vec();
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
        let repeated = scene.faulty.requests().len();
        scene.build_on("library/base:1", "team/tool:1").await.good();
        let again = scene.faulty.requests().split_off(repeated);
        assert!(again.iter().all(|seen| seen.body_bytes < 64 * 1024), "{again:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_go_in_chunks_to_every_registry() {
    for program in RegistryProgram::all() {
        eprintln!("{program:?}");
        let scene = Scene::before(program).await;
        let mut tool = artifacts::elf(62, "");
        let mut noise = vec![0; 3_000_000];
        StdRng::seed_from_u64(1).fill_bytes(&mut noise);
        tool.extend(noise);
        let arguments = ["--environment", "scratch", "--upload-chunk-bytes", "1000000"];
        let image = scene.image("team/tool:1");
        scene.build_file("tool", tool, &image, &arguments, &[]).await.good();
        assert!(scene.requests("PATCH", "/blobs/uploads/").len() >= 3);
        inspect(&image);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_is_read_from_a_mirror_below_a_path() {
    for program in RegistryProgram::all() {
        eprintln!("{program:?}");
        let scene = Scene::before(program).await;
        scene.real.put_base("mirror/of/hub/library/base", "1", json!({})).await;
        let mirror = format!("--mirror=docker.io={}", scene.image("mirror/of/hub"));
        let arguments = ["--base", "base:1", &mirror];
        scene.build_with("a", &scene.image("team/tool:1"), &arguments, &[]).await.good();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_tokens_of_every_registry_that_has_them_are_shown() {
    for program in RegistryProgram::all().into_iter().filter(RegistryProgram::has_users) {
        eprintln!("{program:?}");
        let scene = Scene::before(program.clone()).await;
        let closed = Registry::start_closed_program(program.clone(), &scene.path("closed")).await;
        let tokens = TokenServer::start(&scene.path("tokens")).await;
        let (directory, storage) = (scene.path("tokens"), scene.path("storage"));
        let (_process, by_token) = tokens.registry_program(&program, &directory, &storage).await;
        for address in [&closed.address, &by_token] {
            let image = format!("{address}/team/tool:1");
            // One entry for the host, and a wrong one for a path of it.
            let good = json!({"username": USER, "password": PASSWORD});
            let wrong = json!({"username": USER, "password": "wrong"});
            let config =
                docker_config(&scene, &json!({address: good, format!("{address}/other"): wrong}));
            let arguments = ["--environment", "scratch", &config];
            scene.build_with("a", &image, &arguments, &[]).await.good();
            let other = format!("{address}/other/tool:1");
            let built = scene.build_with("a", &other, &arguments, &[]).await;
            built.failed_for("RegistryDenied");
            let built = scene.build_with("a", &image, &["--environment", "scratch"], &[]).await;
            built.failed_for(&format!("the worker has no credentials for {address}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_an_authority_of_ones_own_works_with_every_registry() {
    for program in RegistryProgram::all() {
        eprintln!("{program:?}");
        let scene = Scene::before(program.clone()).await;
        let authority = Certificate::self_signed(&scene.path("ca"), "DNS:ca.invalid");
        let issued = authority.issue(&scene.path("ca"), "IP:127.0.0.1", 2);
        let mut own = None;
        let proxied = FaultyRegistry::with_tls(&scene.real.address, &issued).await;
        let mut addresses = vec![proxied.address().to_owned()];
        if program.has_users() {
            let address = format!("127.0.0.1:{}", slipway_tests::port::free_port());
            let tls = json!({"certificate": issued.certificate, "key": issued.key()});
            let more = json!({"http": {"tls": tls}});
            own = Some(program.start(&scene.path("tls"), &address, &more));
            // It answers plain HTTP with a refusal once it is ready.
            let (client, url) = (http::client(), format!("http://{address}/v2/"));
            slipway_tests::wait::until("the registry", slipway_tests::wait::SOON, || {
                http::answers(&client, &url)
            })
            .await;
            addresses.push(address);
        }
        let trusted = authority.certificate.to_str().expect("UTF-8");
        for address in addresses {
            let arguments = ["--environment", "scratch", "--registry-tls", &address];
            let environment = [("SSL_CERT_FILE", trusted)];
            let image = format!("{address}/team/tool:1");
            scene.build_with("a", &image, &arguments, &environment).await.good();
        }
        drop(own);
    }
}
