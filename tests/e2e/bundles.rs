// SPDX-License-Identifier: Apache-2.0

//! Directories and archives of them: each form that is recognised, by way of the queue and without a
//! server.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use slipway_tests::container::Podman;
use slipway_tests::{Stack, artifacts};

const SCRIPT: &str = r#"#!/bin/sh
DEFAULT_JVM_OPTS='"-Xss2m"'
CLASSPATH=$APP_HOME/lib/shop.jar:$APP_HOME/lib/z-1.0.jar:$APP_HOME/lib/a-2.0.jar
set -- \
        -classpath "$CLASSPATH" \
        com.example.Shop \
        "$@"
exec "$JAVACMD" "$@"
"#;

fn library(name: &str, release: u8) -> Vec<u8> {
    artifacts::zip(&[artifacts::entry(&format!("{name}.class"), artifacts::class(release))])
}

/// Writes a directory with files, those in `bin/` executable.
fn directory(stack: &Stack, name: &str, files: &[(&str, Vec<u8>)]) -> PathBuf {
    let root = stack.directory.path().join(name);
    for (path, bytes) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("it can be made");
        fs::write(&path, bytes).expect("it can be written");
        let mode =
            if path.parent().is_some_and(|parent| parent.ends_with("bin")) { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it can be set");
    }
    root
}

fn quarkus(stack: &Stack) -> PathBuf {
    let run = artifacts::zip(&[
        artifacts::entry("META-INF/MANIFEST.MF", "Main-Class: Q\nClass-Path: lib/boot/b-1.jar\n"),
        artifacts::entry("Q.class", artifacts::class(17)),
    ]);
    let files = [
        ("quarkus-run.jar", run),
        ("lib/boot/b-1.jar", library("B", 11)),
        ("lib/main/m-1.jar", library("M", 11)),
        ("quarkus/generated-bytecode.jar", library("G", 21)),
        ("quarkus/quarkus-application.dat", b"index".to_vec()),
        ("app/shop-1.jar", library("S", 17)),
    ];
    directory(stack, "quarkus-app", &files)
}

fn scripts(stack: &Stack) -> PathBuf {
    let files = [
        ("bin/shop", SCRIPT.into()),
        ("bin/shop.bat", b"@echo off\r\n".to_vec()),
        ("lib/shop.jar", library("Shop", 17)),
        ("lib/z-1.0.jar", library("Z", 11)),
        ("lib/a-2.0.jar", library("A", 11)),
        ("conf/shop.properties", b"a=b\n".to_vec()),
    ];
    directory(stack, "shop", &files)
}

fn extracted(stack: &Stack) -> PathBuf {
    let manifest = "Main-Class: com.example.App\nClass-Path: lib/one.jar lib/two.jar\n\
        Spring-Boot-Version: 3.3.0\n";
    let app = artifacts::zip(&[
        artifacts::entry("META-INF/MANIFEST.MF", manifest),
        artifacts::entry("com/example/App.class", artifacts::class(17)),
    ]);
    let files = [
        ("app.jar", app),
        ("lib/one.jar", library("One", 17)),
        ("lib/two.jar", library("Two", 17)),
    ];
    directory(stack, "app", &files)
}

fn native(stack: &Stack) -> PathBuf {
    let files = [("bin/tool", artifacts::elf(62, "")), ("share/words.txt", b"words\n".to_vec())];
    let root = directory(stack, "tool", &files);
    std::os::unix::fs::symlink("bin/tool", root.join("start")).expect("it is linked");
    root
}

/// Builds by way of the queue and without a server, and returns the image's digest, which must be
/// the same.
async fn build(stack: &Stack, artifact: &Path, name: &str, more: &[&str]) -> String {
    let artifact = artifact.to_str().expect("UTF-8");
    let mut digests = Vec::new();
    for (repository, how) in [("queued", &[][..]), ("local", &["--local"])] {
        let image = stack.image(&format!("{repository}/{name}:1"));
        let line =
            [&["build", artifact, "--image", &image, "--base", "scratch"], more, how].concat();
        let output = stack.cli(&line).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{errors}");
        let repository = format!("{repository}/{name}");
        let (_, digest) = stack.registry.manifest(&repository, "1").await.expect("it was pushed");
        digests.push(digest.to_string());
    }
    assert_eq!(digests[0], digests[1], "{name}");
    digests.swap_remove(0)
}

/// Returns the paths of each layer's files and links.
async fn layers(stack: &Stack, repository: &str) -> Vec<Vec<String>> {
    let (manifest, _) = stack.registry.manifest(repository, "1").await.expect("it was pushed");
    let count = manifest["layers"].as_array().expect("layers").len();
    let mut layers = Vec::new();
    for layer in 0..count {
        let listing = stack.registry.listing(repository, "1", layer).await;
        let files = listing.iter().filter(|line| !line.starts_with('d'));
        let path = |line: &String| line.splitn(6, ' ').nth(5).unwrap_or_default().to_owned();
        layers.push(files.map(path).collect());
    }
    layers
}

async fn command(stack: &Stack, repository: &str) -> Vec<String> {
    let config = stack.registry.config(repository, "1").await;
    serde_json::from_value(config["config"]["Entrypoint"].clone()).expect("a list")
}

async fn environment(stack: &Stack, repository: &str) -> String {
    let config = stack.registry.config(repository, "1").await;
    config["config"]["Labels"]["dev.slipway.environment"].as_str().expect("a label").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn quarkus_is_three_layers_and_starts_by_its_own_jar() {
    let stack = Stack::with_worker().await;
    build(&stack, &quarkus(&stack), "quarkus", &[]).await;
    let expected: [&[&str]; 3] = [
        &["app/lib/boot/b-1.jar", "app/lib/main/m-1.jar"],
        &["app/quarkus/generated-bytecode.jar", "app/quarkus/quarkus-application.dat"],
        &["app/app/shop-1.jar", "app/quarkus-run.jar"],
    ];
    assert_eq!(layers(&stack, "queued/quarkus").await, expected);
    let command = command(&stack, "queued/quarkus").await;
    assert!(command.ends_with(&["-jar".into(), "/app/quarkus-run.jar".into()]), "{command:?}");
    assert_eq!(environment(&stack, "queued/quarkus").await, "java-21");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_script_says_the_command_and_libraries_are_a_layer() {
    let stack = Stack::with_worker().await;
    let shop = scripts(&stack);
    let digest = build(&stack, &shop, "shop", &[]).await;
    let expected: [&[&str]; 2] = [
        &["app/lib/a-2.0.jar", "app/lib/z-1.0.jar"],
        &["app/bin/shop", "app/bin/shop.bat", "app/conf/shop.properties", "app/lib/shop.jar"],
    ];
    assert_eq!(layers(&stack, "queued/shop").await, expected);
    let class_path = "/app/lib/shop.jar:/app/lib/z-1.0.jar:/app/lib/a-2.0.jar";
    let expected = ["-Xss2m", "-classpath", class_path, "com.example.Shop"].map(str::to_owned);
    let command = command(&stack, "queued/shop").await;
    assert!(command.ends_with(&expected), "{command:?}");
    assert_eq!(environment(&stack, "queued/shop").await, "java-17");
    assert_eq!(build(&stack, &shop, "shop", &[]).await, digest, "the same directory again");

    // The archives of it that build tools make have a directory at the top.
    for (archive, pack) in [
        ("shop-1.0.tar.gz", "tar -czf shop-1.0.tar.gz --transform s,^shop,shop-1.0, shop"),
        ("shop-1.0.tar", "tar -cf shop-1.0.tar --format=gnu --transform s,^shop,shop-1.0, shop"),
    ] {
        let packed = std::process::Command::new("sh")
            .args(["-ec", pack])
            .current_dir(stack.directory.path())
            .status();
        assert!(packed.expect("tar runs").success());
        build(&stack, &stack.directory.path().join(archive), "archive", &[]).await;
        assert_eq!(
            layers(&stack, "queued/archive").await,
            layers(&stack, "queued/shop").await,
            "{archive}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extracted_jar_starts_beside_its_libraries() {
    let stack = Stack::with_worker().await;
    build(&stack, &extracted(&stack), "extracted", &[]).await;
    let expected: [&[&str]; 2] = [&["app/lib/one.jar", "app/lib/two.jar"], &["app/app.jar"]];
    assert_eq!(layers(&stack, "queued/extracted").await, expected);
    let command = command(&stack, "queued/extracted").await;
    assert!(command.ends_with(&["-jar".into(), "/app/app.jar".into()]), "{command:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executable_runs_among_its_files() {
    let stack = Stack::with_worker().await;
    build(&stack, &native(&stack), "tool", &[]).await;
    assert_eq!(environment(&stack, "queued/tool").await, "static");
    assert_eq!(command(&stack, "queued/tool").await, ["/app/bin/tool"]);
    let listed = &layers(&stack, "queued/tool").await[0];
    assert_eq!(listed, &["app/bin/tool", "app/share/words.txt", "app/start -> bin/tool"]);
    // It exits with status 0, by its own path and by the link.
    let podman = Podman::new(stack.directory.path());
    podman.output(&[], &stack.image("queued/tool:1"), &[]).await;
    let more = ["--entrypoint", "/app/start 'one word'"];
    build(&stack, &stack.directory.path().join("tool"), "link", &more).await;
    assert_eq!(command(&stack, "queued/link").await, ["/app/start", "one word"]);
    podman.output(&[], &stack.image("queued/link:1"), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zip_without_a_manifest_is_a_bundle() {
    let stack = Stack::start().await;
    let zip = artifacts::zip(&[
        artifacts::entry("shop-1.0/bin/shop", SCRIPT),
        artifacts::deflated("shop-1.0/lib/shop.jar", library("Shop", 17)),
    ]);
    let (status, answer) = stack.try_upload("shop-1.0.zip", zip).await;
    assert_eq!(status, 201, "{answer}");
    assert_eq!(answer["kind"], "bundle");
    assert_eq!(answer["directory"], "shop-1.0");
    assert_eq!(answer["java_release"], 17);
    assert_eq!(answer["form"], json!({"name": "start-scripts", "scripts": ["shop"]}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_tell_how_it_starts_needs_an_entrypoint() {
    let stack = Stack::start().await;
    let unknown = artifacts::tar(&[("server.js", b"// node"), ("package.json", b"{}")]);
    let two =
        artifacts::tar(&[("bin/a", &artifacts::elf(62, "a")), ("bin/b", &artifacts::elf(62, "b"))]);
    for (file, bytes, says) in [
        ("node.tar", unknown, "nothing in the bundle tells"),
        ("tools.tar", two, "`bin/a`, `bin/b`"),
    ] {
        let artifact = stack.upload(file, bytes).await;
        let mut request = json!({"artifact": artifact, "image": stack.image("x:1")});
        let (status, problem) = stack.try_submit(&request).await;
        assert_eq!(status, 422, "{problem}");
        let found = problem["errors"].as_array().expect("mistakes");
        let is_told = |error: &Value| {
            error["field"] == "entrypoint"
                && error["detail"].as_str().is_some_and(|d| d.contains(says))
        };
        assert!(found.iter().any(is_told), "{problem}");
        request["entrypoint"] = json!(["/app/bin/b"]);
        request["base"] = json!("scratch");
        let (status, answer) = stack.try_submit(&request).await;
        assert_eq!(status, 202, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_archive_is_refused_and_nothing_is_kept() {
    let stack = Stack::start().await;
    let directory = native(&stack);
    std::os::unix::fs::symlink("/etc/passwd", directory.join("users")).expect("it is linked");
    let line = ["build", directory.to_str().expect("UTF-8"), "--image", "r.example/x:1"];
    let output = stack.cli(&line).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_ne!(output.status.code(), Some(0));
    assert!(errors.contains("`users` to `/etc/passwd` leads out"), "{errors}");
    let packed = std::process::Command::new("tar")
        .args(["-cf", "-", "-C"])
        .arg(&directory)
        .arg(".")
        .output()
        .expect("tar runs");
    let (status, problem) = stack.try_upload("tool.tar", packed.stdout).await;
    assert_eq!((status, &problem["code"]), (422, &json!("unsafe_path")), "{problem}");
}
