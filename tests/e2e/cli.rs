// SPDX-License-Identifier: Apache-2.0

//! The command line client, with real files and exit codes.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use slipway_tests::port::free_port;
use slipway_tests::process::{Process, command, program};
use slipway_tests::{Stack, artifacts, wait};

fn write_tool(stack: &Stack) -> PathBuf {
    let path = stack.directory.path().join("tool");
    std::fs::write(&path, artifacts::elf(62, "")).expect("it can be written");
    path
}

fn skopeo(arguments: &[&str]) -> Value {
    let mut skopeo = command("skopeo");
    let output = skopeo.args(arguments).output().expect("skopeo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "skopeo {arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn build_follows_the_log_and_tells_success_from_failure() {
    let stack = Stack::with_worker().await;
    let tool = write_tool(&stack);
    let tool = tool.to_str().expect("UTF-8");
    let image = stack.image("cli/tool:1");
    let build = ["build", tool, "--image", &image, "--environment", "scratch"];
    let output = stack.cli(&[&build[..], &["--follow", "--output", "json"]].concat()).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(errors.contains("Build completed successfully"), "{errors}");
    let built: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(built["state"], "succeeded");

    let id = built["id"].as_str().expect("an id");
    let get = stack.cli(&["get", id, "--output", "json"]).await;
    let got: Value = serde_json::from_slice(&get.stdout).expect("one document");
    assert_eq!(got["image"]["digest"], built["image"]["digest"]);
    let logs = stack.cli(&["logs", id]).await;
    assert!(String::from_utf8_lossy(&logs.stdout).ends_with("Build completed successfully\n"));
    for listing in ["list", "events", "workers", "queue", "environments"] {
        let output = stack.cli(&[listing]).await;
        assert_eq!(output.status.code(), Some(0), "{listing}");
        assert!(!output.stdout.is_empty(), "{listing}");
    }

    let missing = stack.image("no/base:1");
    let output = stack.cli(&[&build[..], &["--base", &missing]].concat()).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("BaseImageNotFound"));
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_and_an_absent_server_have_codes_of_their_own() {
    let stack = Stack::start().await;
    let output = stack.cli(&["build"]).await;
    assert_eq!(output.status.code(), Some(2));
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let output = stack.cli(&["--server", &nowhere, "list"]).await;
    assert_eq!(output.status.code(), Some(3));
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(says.contains(&nowhere) && says.contains("slipway dev"), "{says}");
}

#[tokio::test(flavor = "multi_thread")]
async fn local_builds_make_the_same_image_without_a_server() {
    let stack = Stack::with_worker().await;
    let tool = write_tool(&stack);
    let tool = tool.to_str().expect("UTF-8");
    let scratch = json!({"environment": "scratch"});
    let queued = stack.run("tool", artifacts::elf(62, ""), "cli/tool:1", scratch).await;
    let digest = queued["image"]["digest"].as_str().expect("a digest");

    let image = stack.image("cli/local:1");
    let local = async |to: &[&str]| {
        let build = ["build", tool, "--image", &image, "--environment", "scratch"];
        let output = stack.cli(&[&build[..], to].concat()).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{errors}");
    };
    local(&["--local"]).await;
    let (_, pushed) = stack.registry.manifest("cli/local", "1").await.expect("it was pushed");
    assert_eq!(pushed.to_string(), digest);

    let layout = format!("oci:{}", stack.directory.path().join("layout").display());
    local(&["--to", &layout]).await;
    assert_eq!(skopeo(&["inspect", &format!("{layout}:1")])["Digest"], digest);

    let archive = format!("docker-archive:{}", stack.directory.path().join("x.tar").display());
    local(&["--to", &archive]).await;
    let config = skopeo(&["inspect", "--config", &archive]);
    assert_eq!(config["config"]["Entrypoint"], json!(["/app/tool"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_starts_everything_and_stops_everything() {
    let directory = tempfile::tempdir().expect("a directory");
    let listen = format!("127.0.0.1:{}", free_port());
    let mut dev = command(program("slipway"));
    dev.args(["dev", "--listen", &listen, "--data-dir"]).arg(directory.path().join("data"));
    dev.env("HOME", directory.path());
    let mut dev = Process::start("slipway dev", dev, &directory.path().join("dev.log"));
    wait::until("slipway dev", wait::SOON, || {
        let output = dev.output();
        let ready = output.lines().any(|line| line.starts_with("slipway dev: ready on http://"));
        async move { ready.then_some(()) }
    })
    .await;
    let children = children_of(dev.id());
    assert_eq!(children.len(), 1, "nats-server is its child");
    dev.signal("INT");
    let status = dev.exit(wait::SOON).await;
    assert!(status.success(), "{status}: {}", dev.output());
    let child = format!("/proc/{}", children[0]);
    assert!(!Path::new(&child).exists(), "nats-server runs on");
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("there is a /proc").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        line.and_then(|line| line.trim().parse::<u32>().ok()) == Some(parent)
    })
    .collect()
}

/// As people report it, and as a package is checked against its source.
#[test]
fn every_program_says_its_version_and_the_commit_it_is_built_from() {
    for name in ["slipway", "slipway-dispatcher", "slipway-worker"] {
        let output = command(program(name)).arg("--version").output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let rest = text.trim_end().strip_prefix(name).and_then(|rest| rest.strip_suffix(')'));
        let (version, commit) = rest.and_then(|rest| rest.split_once(" (")).expect("two parts");
        assert_eq!(version.trim_start(), env!("CARGO_PKG_VERSION"), "{text}");
        let is_commit = commit.split_once(' ').is_some_and(|(hash, day)| {
            hash.bytes().all(|byte| byte.is_ascii_hexdigit()) && day.split('-').count() == 3
        });
        assert!(is_commit || commit == "unknown", "{text}");
    }
}
