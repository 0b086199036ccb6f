// SPDX-License-Identifier: Apache-2.0

//! Bad input is refused early, with a clear sentence and a stable code, and leaves nothing behind.

use serde_json::{Value, json};
use slipway_tests::artifacts::{self, entry, zip};
use slipway_tests::port::free_port;
use slipway_tests::registry::Registry;
use slipway_tests::{Stack, WorkerOptions, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Files of the artifact store, without the directories.
fn stored(stack: &Stack) -> Vec<String> {
    fn visit(directory: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                visit(&entry.path(), found);
            } else {
                found.push(entry.path().display().to_string());
            }
        }
    }
    let mut found = Vec::new();
    visit(&stack.store(), &mut found);
    found
}

async fn refused(stack: &Stack, filename: &str, bytes: Vec<u8>, code: &str, says: &str) {
    let (status, problem) = stack.try_upload(filename, bytes).await;
    assert_eq!((status, &problem["code"]), (422, &json!(code)), "{problem}");
    let detail = problem["detail"].as_str().expect("a sentence");
    assert!(detail.contains(says), "{detail}");
    assert_eq!(stored(stack), Vec::<String>::new(), "something was left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_artifacts_are_refused() {
    let stack = Stack::start().await;
    refused(&stack, "app.jar", b"hello, this is text".to_vec(), "not_an_artifact", "").await;
    refused(&stack, "app.jar", Vec::new(), "not_an_artifact", "empty").await;
    let jar = artifacts::jar("x");
    refused(&stack, "app.jar", jar[..jar.len() - 30].to_vec(), "truncated", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn executables_of_other_systems_are_named_and_refused() {
    let stack = Stack::start().await;
    let elf = |os_abi: u8| {
        let mut elf = artifacts::elf(62, "");
        elf[7] = os_abi;
        elf
    };
    for (os_abi, system) in [(9, "FreeBSD"), (2, "NetBSD"), (12, "OpenBSD"), (6, "Solaris")] {
        refused(&stack, "tool", elf(os_abi), "unsupported_executable", system).await;
        refused(&stack, "tool", elf(os_abi), "unsupported_executable", "GOOS=linux").await;
    }
    let mut windows = b"MZ".to_vec();
    windows.resize(60, 0);
    windows.extend_from_slice(&64u32.to_le_bytes());
    windows.extend_from_slice(b"PE\0\0\x64\x86");
    for (file, bytes, what) in [
        ("tool", b"\xcf\xfa\xed\xfe\x0c\0\0\x01".to_vec(), "Mach-O"),
        ("tool", b"\xca\xfe\xba\xbe\0\0\0\x02".to_vec(), "universal Mach-O"),
        ("tool.exe", windows, "Windows"),
        ("run.sh", b"#!/bin/sh\n".to_vec(), "a script"),
    ] {
        refused(&stack, file, bytes, "not_an_artifact", what).await;
    }
    for os_abi in [0, 3] {
        stack.upload("tool", elf(os_abi)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_war_given_as_jar_is_refused() {
    let stack = Stack::start().await;
    refused(&stack, "app.jar", artifacts::war(), "kind_mismatch", "WEB-INF").await;
}

/// Deflating twelve gigabytes of zeros to twelve megabytes would be too slow here. An archive that
/// claims this much is refused for its claim.
#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_refused() {
    let stack = Stack::start().await;
    let manifest = entry("META-INF/MANIFEST.MF", "Main-Class: Main\n");
    let mut bomb = zip(&[manifest, entry("zeros", vec![0; 1000])]);
    let central = bomb.windows(4).rposition(|w| w == b"PK\x01\x02").expect("an entry");
    let local = bomb.windows(5).position(|w| w == b"zeros").expect("the entry") - 30;
    for (size, method) in [(local + 22, local + 8), (central + 24, central + 10)] {
        bomb[size..size + 4].copy_from_slice(&0xf000_0000u32.to_le_bytes());
        // A stored entry cannot lie about its size, so it must claim to be deflated.
        bomb[method] = 8;
    }
    refused(&stack, "app.jar", bomb, "archive_bomb", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_that_does_not_match_is_refused() {
    let stack = Stack::start().await;
    let url = stack.url("/v1/projects/team/artifacts?filename=app.jar");
    let of_nothing = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    let request = stack.client.put(url).header("content-digest", of_nothing);
    let (status, problem) = stack.send(request.body(artifacts::jar("x"))).await;
    assert_eq!((status, &problem["code"]), (422, &json!("digest_mismatch")), "{problem}");
    assert_eq!(stored(&stack), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let stack = Stack::start().await;
    let address = stack.url("").replace("http://", "");
    let mut connection = tokio::net::TcpStream::connect(&address).await.expect("it listens");
    let head = format!(
        "PUT /v1/projects/team/artifacts?filename=app.jar HTTP/1.1\r\n\
        Host: {address}\r\nContent-Length: 1000000\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.expect("it is sent");
    connection.write_all(&[0x50; 100_000]).await.expect("it is sent");
    wait::until("the upload to begin", wait::SOON, || async {
        (!stored(&stack).is_empty()).then_some(())
    })
    .await;
    drop(connection);
    wait::until("the upload to be removed", wait::SOON, || async {
        stored(&stack).is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_is_too_large_is_refused_with_the_limit() {
    let stack = Stack::start_with(&["--max-artifact-bytes=1000"]).await;
    let (status, problem) = stack.try_upload("app.jar", vec![0x50; 2000]).await;
    assert_eq!((status, &problem["code"]), (413, &json!("artifact_too_large")), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("1000")), "{problem}");
    // Without a declared length, it is refused when it exceeds the limit.
    let chunks = futures::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![0x50; 100])));
    let url = stack.url("/v1/projects/team/artifacts?filename=app.jar");
    let request = stack.client.put(url).body(reqwest::Body::wrap_stream(chunks));
    let (status, _) = stack.send(request).await;
    assert_eq!(status, 413);
    assert_eq!(stored(&stack), Vec::<String>::new());
}

async fn mistakes(stack: &Stack, request: Value) -> Vec<(String, String)> {
    let (status, problem) = stack.try_submit(&request).await;
    assert_eq!(status, 422, "{problem}");
    assert_eq!(problem["code"], "invalid_request");
    let errors = problem["errors"].as_array().expect("errors by field");
    let text = |error: &Value, name: &str| error[name].as_str().expect("a text").to_owned();
    assert!(errors.iter().all(|error| !text(error, "detail").is_empty()));
    errors.iter().map(|error| (text(error, "field"), text(error, "code"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_mistakes_are_refused_with_all_of_them() {
    let stack = Stack::start().await;
    let jar = stack.upload("app.jar", artifacts::jar("x")).await;
    let image = stack.image("a/b:1");
    for (field, value, code) in [
        ("environment", "java-71", "environment_not_found"),
        ("environment", "tomcat-10", "environment_unsuitable"),
        ("base", "NOT A BASE", "invalid_reference"),
        ("image", "https://r.example/x", "invalid_reference"),
        ("image", "app", "invalid_reference"),
        ("imgae", "x", "unknown_field"),
        ("pool", "nobody", "pool_not_found"),
    ] {
        let mut request = json!({"artifact": jar, "image": image});
        request[field] = value.into();
        assert_eq!(mistakes(&stack, request).await, [(field.to_owned(), code.to_owned())]);
    }
    let several = mistakes(&stack, json!({"image": "app", "pool": "-", "timeout_s": -1})).await;
    assert_eq!(several.len(), 4, "{several:?}");
    let (status, problem) = stack.get("/v1/projects/Not_A_Name/builds").await;
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_name")), "{problem}");
    let (_, list) = stack.get("/v1/projects/team/builds").await;
    assert_eq!(list["builds"], json!([]));
    let (_, queue) = stack.get("/v1/queue").await;
    assert_eq!(queue["queued"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executable_for_another_machine_than_the_platform_is_refused() {
    let stack = Stack::start().await;
    let arm = stack.upload("tool", artifacts::elf(183, "")).await;
    let request = json!({"artifact": arm, "image": stack.image("a/b"), "platform": "linux/amd64"});
    let expected = [("platform".to_owned(), "platform_mismatch".to_owned())];
    assert_eq!(mistakes(&stack, request).await, expected);
}

fn failed(build: &Value, reason: &str, says: &str) {
    assert_eq!(build["state"], "failed", "{build}");
    assert_eq!(build["failure"]["reason"], reason, "{build}");
    let message = build["failure"]["message"].as_str().expect("a sentence");
    assert!(message.contains(says), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_denies_fails_the_build_at_once() {
    let stack = Stack::with_worker().await;
    let closed = Registry::start_closed(&stack.directory.path().join("closed")).await;
    let tool = stack.upload("tool", artifacts::elf(62, "")).await;
    let image = format!("{}/team/tool:1", closed.address);
    let id =
        stack.submit(&json!({"artifact": tool, "image": image, "environment": "scratch"})).await;
    let build = stack.finished(&id).await;
    failed(&build, "RegistryDenied", "config.json");
    assert_eq!(build["attempt"], 1);
    let log = stack.log(&id).await;
    let last = log.lines().last().unwrap_or_default();
    assert!(last.starts_with("Build failed: RegistryDenied"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_the_worker_open_a_closed_registry() {
    let mut stack = Stack::start().await;
    let closed = Registry::start_closed(&stack.directory.path().join("closed")).await;
    let config = json!({"auths": {&closed.address: {"username": "user", "password": "password"}}});
    let path = stack.directory.path().join("team-registry.json");
    std::fs::write(&path, config.to_string()).expect("it can be written");
    let arguments = vec![format!("--docker-config={}", path.display())];
    stack.add_worker(WorkerOptions { id: "worker-1", arguments, ..WorkerOptions::default() });
    let tool = stack.upload("tool", artifacts::elf(62, "")).await;
    let request = json!({
        "artifact": tool, "image": format!("{}/team/tool:1", closed.address),
        "environment": "scratch", "registry_secret": "team-registry"
    });
    let id = stack.submit(&request).await;
    let build = stack.finished(&id).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    assert!(!stack.workers[0].output().contains("password"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_not_there_fails_the_build_after_its_attempts() {
    let stack = Stack::with_worker().await;
    let tool = stack.upload("tool", artifacts::elf(62, "")).await;
    let image = format!("127.0.0.1:{}/team/tool:1", free_port());
    let request = json!({
        "artifact": tool, "image": image, "environment": "scratch", "max_attempts": 2
    });
    let id = stack.submit(&request).await;
    let build = stack.finished(&id).await;
    failed(&build, "PushImageFailed", "cannot be reached");
    assert_eq!(build["attempt"], 2);
    wait::until("the dead letter", wait::SOON, || async {
        let (_, queue) = stack.get("/v1/queue").await;
        (queue["dead"] == 1 && queue["running"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_not_there_fails_the_build_at_once() {
    let stack = Stack::with_worker().await;
    let more = json!({"base": stack.image("no/such/base:1")});
    let build = stack.run("app.jar", artifacts::jar("x"), "a/b:1", more).await;
    failed(&build, "BaseImageNotFound", "no/such/base:1");
    assert_eq!(build["attempt"], 1);
    assert_eq!(stack.registry.tags("a/b").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_whose_entry_is_corrupt_fails_the_build_and_is_not_pushed() {
    let stack = Stack::with_worker().await;
    stack.registry.put_base("docker.io/library/eclipse-temurin", "17-jre", json!({})).await;
    let mut jar = artifacts::spring_boot_jar();
    // Inside a nested library, which is copied and never unpacked.
    let content = jar.windows(8).position(|w| w == b"one.txt1").expect("the nested entry") + 7;
    jar[content] = b'2';
    let build = stack.run("app.jar", jar, "a/b:1", json!({})).await;
    failed(&build, "InvalidArtifact", "BOOT-INF/lib/one.jar");
    assert_eq!(stack.registry.tags("a/b").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_for_another_platform_fails_the_build() {
    let stack = Stack::with_worker().await;
    stack.registry.put_base("docker.io/library/eclipse-temurin", "17-jre", json!({})).await;
    let more = json!({"platform": "linux/arm64"});
    let build = stack.run("app.jar", artifacts::jar("x"), "a/b:1", more).await;
    failed(&build, "BaseImageNotFound", "linux/arm64");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_over_http_gets_an_answer() {
    let stack = Stack::start().await;
    let address = stack.url("").replace("http://", "");
    let mut connection = tokio::net::TcpStream::connect(&address).await.expect("it listens");
    connection.write_all(b"\x16\x03\x01nonsense\r\n\r\n").await.expect("it is sent");
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.expect("it is closed");
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    let (status, _) = stack.get("/readyz").await;
    assert_eq!(status, 200);
}

/// The store's file is read while it is still being digested. Nothing of it may be published.
#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_was_damaged_in_the_store_fails_the_build_until_it_is_uploaded_again() {
    let stack = Stack::with_worker().await;
    let bytes = artifacts::elf(62, "damaged");
    let digest = stack.upload("tool", bytes.clone()).await;
    let hex = digest.trim_start_matches("sha256:");
    let blob = stack.store().join("blobs/sha256").join(hex);
    let mut damaged = bytes.clone();
    *damaged.last_mut().expect("bytes") ^= 1;
    std::fs::write(&blob, damaged).expect("it can be written");
    let image = stack.image("damaged/tool:1");
    let request = json!({
        "artifact": digest, "image": image, "environment": "scratch", "compression": "none"
    });
    let build = stack.finished(&stack.submit(&request).await).await;
    failed(&build, "FetchArtifactFailed", "upload it again");
    assert!(stack.registry.manifest("damaged/tool", "1").await.is_none());
    assert!(!blob.exists() && stack.store().join("corrupt").join(hex).exists());
    stack.upload("tool", bytes.clone()).await;
    let build = stack.finished(&stack.submit(&request).await).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    let layer = build["image"]["layers"][0]["digest"].as_str().expect("a digest");
    let tar = stack.registry.blob("damaged/tool", layer).await;
    assert!(tar.windows(bytes.len()).any(|window| window == bytes), "made of the whole bytes");
}
