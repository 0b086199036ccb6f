// SPDX-License-Identifier: Apache-2.0

//! Images for several platforms: an index, read by other programs.

use serde_json::{Value, json};
use slipway_proto::Digest;
use slipway_tests::container::succeed;
use slipway_tests::process::command;
use slipway_tests::{Stack, artifacts};

const TEMURIN: &str = "docker.io/library/eclipse-temurin";

/// The names of the platforms in a list of images.
fn platforms(images: &Value) -> Vec<&str> {
    let images = images.as_array().expect("a list");
    images.iter().map(|image| image["platform"].as_str().expect("a platform")).collect()
}

/// What skopeo reads of an image when it runs on a machine of this architecture.
async fn inspect(stack: &Stack, image: &str, architecture: &str) -> Value {
    let mut skopeo = command("skopeo");
    skopeo.args(["inspect", "--tls-verify=false", "--config", "--override-arch", architecture]);
    skopeo.arg(format!("docker://{}", stack.image(image)));
    serde_json::from_str(&succeed(skopeo).await).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jar_for_two_platforms_is_an_index_whose_images_share_our_layers() {
    let stack = Stack::with_worker().await;
    stack.registry.put_platforms(TEMURIN, "17-jre", &["amd64", "arm64", "s390x"]).await;
    let platform = json!({"platform": ["linux/arm64", "linux/amd64"]});
    let jar = || artifacts::spring_boot_jar();
    let build = stack.run("app.jar", jar(), "several/app:1", platform).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    let image = &build["image"];
    assert_eq!(platforms(&image["platforms"]), ["linux/amd64", "linux/arm64"]);

    let (index, digest) = stack.registry.index("several/app", "1").await;
    assert_eq!(image["digest"], digest.to_string());
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    let entries = index["manifests"].as_array().expect("manifests");
    assert_eq!(entries.len(), 2);
    let mut made = Vec::new();
    for (entry, architecture) in entries.iter().zip(["amd64", "arm64"]) {
        assert_eq!(entry["platform"], json!({"architecture": architecture, "os": "linux"}));
        let digest = entry["digest"].as_str().expect("a digest");
        let (manifest, _) = stack.registry.manifest("several/app", digest).await.expect("there");
        assert_eq!(entry["size"], manifest.to_string().len());
        let config = inspect(&stack, "several/app:1", architecture).await;
        assert_eq!(config["architecture"], architecture);
        let layers = manifest["layers"].as_array().expect("layers");
        made.push(layers[1..].to_vec());
        // The bases differ, so their layers do.
        assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(layers.len()));
    }
    assert!(!made[0].is_empty() && made[0] == made[1], "{made:?}");
    let second = image["platforms"][1]["layers"].as_array().expect("layers");
    let ours = second.iter().filter(|layer| layer["base"] == false);
    assert!(ours.clone().count() > 0);
    assert!(ours.into_iter().all(|layer| layer["transfer"] == "found"), "{image}");

    let directory = stack.directory.path();
    let mut pull = command("podman");
    pull.arg("--root").arg(directory.join("vfs")).arg("--runroot").arg(directory.join("run"));
    pull.args(["--storage-driver=vfs", "--events-backend=none", "pull", "--quiet"]);
    pull.args(["--tls-verify=false", "--arch=arm64", image["pull"].as_str().expect("a reference")]);
    succeed(pull).await;

    let other_order = json!({"platform": ["linux/amd64", "linux/arm64"]});
    let again = stack.run("app.jar", jar(), "several/again:1", other_order).await;
    assert_eq!(again["image"]["digest"], image["digest"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_platform_gets_its_own_executable() {
    let stack = Stack::with_worker().await;
    let (amd64, arm64) = (artifacts::elf(62, "several"), artifacts::elf(183, "several"));
    let further = stack.upload("tool-arm64", arm64.clone()).await;
    let more = json!({"environment": "scratch", "platform_artifacts": {"linux/arm64": further}});
    let build = stack.run("tool", amd64.clone(), "several/tool:1", more).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    let images = build["image"]["platforms"].as_array().expect("several");
    for (image, (architecture, bytes)) in images.iter().zip([("amd64", amd64), ("arm64", arm64)]) {
        let config = inspect(&stack, "several/tool:1", architecture).await;
        assert_eq!(config["architecture"], architecture);
        let labels = &config["config"]["Labels"];
        assert_eq!(labels["dev.slipway.artifact"], Digest::of(&bytes).to_string());
        assert_eq!(config["config"]["Entrypoint"], json!(["/app/tool"]));
        let digest = image["digest"].as_str().expect("a digest");
        let listing = stack.registry.listing("several/tool", digest, 0).await;
        assert!(listing.iter().any(|line| line.contains(&bytes.len().to_string())), "{listing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_lacks_platforms_is_one_error_and_nothing_is_pushed() {
    let stack = Stack::with_worker().await;
    stack.registry.put_platforms(TEMURIN, "17-jre", &["amd64"]).await;
    let platform = json!({"platform": ["linux/amd64", "linux/arm64", "linux/s390x"]});
    let jar = artifacts::jar("lacking");
    let build = stack.run("app.jar", jar, "several/lacking:1", platform).await;
    assert_eq!(build["state"], "failed", "{build}");
    assert_eq!(build["failure"]["reason"], "BaseImageNotFound");
    let message = build["failure"]["message"].as_str().expect("a message");
    assert!(message.contains("no image for linux/arm64"), "{message}");
    assert!(message.contains("no image for linux/s390x"), "{message}");
    assert_eq!(build["attempt"], 1);
    assert!(stack.registry.tags("several/lacking").await.is_empty());
}

/// Two executables that the client tells apart, and one archive, with and without a server.
#[tokio::test(flavor = "multi_thread")]
async fn the_client_builds_for_several_platforms_with_and_without_a_server() {
    let stack = Stack::with_worker().await;
    stack.registry.put_platforms(TEMURIN, "17-jre", &["amd64", "arm64"]).await;
    let directory = stack.directory.path();
    let write = |name: &str, bytes: Vec<u8>| {
        let path = directory.join(name);
        std::fs::write(&path, bytes).expect("it can be written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (one, other) =
        (write("app", artifacts::elf(62, "")), write("arm", artifacts::elf(183, "")));
    let build = async |arguments: &[&str]| -> Value {
        let mirror = format!("docker.io={}/docker.io", stack.registry.address);
        let local = ["--cache-dir", directory.to_str().expect("UTF-8"), "--mirror", &mirror];
        let mut line = [&["--output", "json", "build"], arguments].concat();
        if line.iter().any(|argument| ["--local", "--to"].contains(argument)) {
            line.extend(local);
        }
        let output = stack.cli(&line).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
        serde_json::from_slice(&output.stdout).expect("one document")
    };
    let image = stack.image("client/tool:1");
    let files = [&*one, &*other, "--image", &image, "--environment", "scratch"];
    let queued = build(&files).await;
    assert_eq!(platforms(&queued["image"]["platforms"]), ["linux/amd64", "linux/arm64"]);
    let local = build(&[&files[..], &["--local"]].concat()).await;
    assert_eq!(local["image"]["digest"], queued["image"]["digest"]);
    let named = format!("linux/arm64={other}");
    let named = [&*one, "--platform-artifact", &named, "--image", &image];
    let named = build(&[&named[..], &["--environment", "scratch"]].concat()).await;
    assert_eq!(named["image"]["digest"], queued["image"]["digest"]);

    let jar = write("app.jar", artifacts::jar("several"));
    let layout = directory.join("layout");
    let to = format!("oci:{}", layout.display());
    let written = ["--platform", "linux/arm64,linux/amd64", "--image", "app:1", "--to", &to];
    let written = build(&[&[&*jar], &written[..]].concat()).await;
    let index = std::fs::read(layout.join("index.json")).expect("it was written");
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    let entry = &index["manifests"][0];
    assert_eq!(entry["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(entry["digest"], written["image"]["digest"]);
    for architecture in ["amd64", "arm64"] {
        let mut skopeo = command("skopeo");
        skopeo.args(["inspect", "--config", "--override-arch", architecture]);
        skopeo.arg(format!("{to}:1"));
        let config: Value = serde_json::from_str(&succeed(skopeo).await).expect("JSON");
        assert_eq!(config["architecture"], architecture);
    }

    let wrong = stack.cli(&["build", &one, &jar, "--image", &image]).await;
    assert_eq!(wrong.status.code(), Some(2));
    let says = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(says.contains("app.jar is a jar: only executables differ by platform"), "{says}");
    let twice = stack.cli(&["build", &one, &one, "--image", &image]).await;
    assert_eq!(twice.status.code(), Some(1));
    let says = String::from_utf8_lossy(&twice.stderr).into_owned();
    assert!(says.contains("linux/amd64"), "{says}");
}
