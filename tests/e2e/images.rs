// SPDX-License-Identifier: Apache-2.0

//! Images: what they hold, that they are the same everywhere, and that they run.

use serde_json::{Value, json};
use slipway_tests::container::{Podman, get, succeed};
use slipway_tests::port::free_port;
use slipway_tests::process::{command, repository};
use slipway_tests::registry::Registry;
use slipway_tests::{Stack, WorkerOptions, artifacts};

/// From end to end, with the stand-ins of the public base images and the artifacts of the demo.
#[tokio::test(flavor = "multi_thread")]
async fn a_jar_a_war_and_a_binary_become_running_images() {
    let stack = Stack::with_worker().await;
    let directory = stack.directory.path();
    let mut bases = command(repository().join("dev/base-images.sh"));
    bases.arg(&stack.registry.address).args([
        "docker.io/library/eclipse-temurin:17-jre",
        "docker.io/library/tomcat:10.1-jre17-temurin",
        "gcr.io/distroless/static-debian12:nonroot",
    ]);
    let mut compile = command(repository().join("dev/demo/build.sh"));
    compile.arg(directory.join("artifacts"));
    tokio::join!(succeed(bases), succeed(compile));

    let podman = Podman::new(directory);
    let port = free_port();
    let root = format!("http://127.0.0.1:{port}/");
    for (file, variable, url, answer) in [
        ("hello.jar", format!("PORT={port}"), root.clone(), "hello from a jar"),
        (
            "hello.war",
            format!("JAVA_OPTIONS=-Dport.http={port}"),
            format!("{root}hello/"),
            "hello from a war",
        ),
        ("hello", format!("PORT={port}"), root.clone(), "hello from a binary"),
    ] {
        let bytes = std::fs::read(directory.join("artifacts").join(file)).expect("it was compiled");
        let name = file.replace('.', "-");
        let build = stack.run(file, bytes, &format!("demo/{name}:1"), json!({})).await;
        assert_eq!(build["state"], "succeeded", "{build}");
        let pull = build["image"]["pull"].as_str().expect("a reference");

        let mut inspect = command("skopeo");
        inspect.args(["inspect", "--tls-verify=false", &format!("docker://{pull}")]);
        let inspected: Value = serde_json::from_str(&succeed(inspect).await).expect("JSON");
        assert_eq!(inspected["Digest"], build["image"]["digest"]);
        let layout = directory.join(format!("layout-{name}"));
        let mut copy = command("skopeo");
        copy.args(["copy", "--src-tls-verify=false", &format!("docker://{pull}")]);
        copy.arg(format!("oci:{}:x", layout.display()));
        succeed(copy).await;
        let mut unpack = command("umoci");
        unpack.args(["unpack", "--rootless", "--image", &format!("{}:x", layout.display())]);
        unpack.arg(directory.join(format!("bundle-{name}")));
        succeed(unpack).await;

        podman.pull(pull).await;
        let container = podman.start(&["-e", &variable], pull).await;
        let answered = get(&url).await;
        assert!(answered.contains(answer), "{file}: {answered}");
        let log = container.log().await;
        assert!(!log.contains("SEVERE"), "{file}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_of_different_surroundings_make_the_same_image() {
    let mut stack = Stack::start().await;
    stack.registry.put_base("docker.io/library/eclipse-temurin", "17-jre", json!({})).await;
    let jar = stack.upload("app.jar", artifacts::spring_boot_jar()).await;
    let mut digests = Vec::new();
    for (id, umask, zone) in [("one", "000", "Asia/Tokyo"), ("two", "077", "America/New_York")] {
        let worker = stack.add_worker(WorkerOptions {
            id,
            umask: Some(umask),
            environment: vec![("TZ", zone)],
            ..WorkerOptions::default()
        });
        let image = stack.image(&format!("same/{id}:1"));
        let build = stack.submit(&json!({"artifact": jar, "image": image})).await;
        let build = stack.finished(&build).await;
        assert_eq!(build["state"], "succeeded", "{build}");
        digests.push(build["image"]["digest"].clone());
        stack.workers[worker].terminate().await;
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spring_boot_jar_becomes_the_layers_it_names() {
    let stack = Stack::with_worker().await;
    let config = json!({
        "Env": ["PATH=/usr/bin", "JAVA_HOME=/opt/java"], "ExposedPorts": {"9999/tcp": {}},
        "Cmd": ["jshell"]
    });
    stack.registry.put_base("docker.io/library/eclipse-temurin", "17-jre", config).await;
    let more = json!({
        "env": {"JAVA_OPTIONS": "-Xmx256m", "PATH": "/bin"}, "labels": {"team": "a"},
        "annotations": {"note": "n"}, "ports": [8080, "53/udp"], "args": ["--x"],
        "additional_tags": ["latest"]
    });
    let build = stack.run("app.jar", artifacts::spring_boot_jar(), "boot/app:1", more).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    let (manifest, digest) = stack.registry.manifest("boot/app", "latest").await.expect("tagged");
    assert_eq!(build["image"]["digest"], digest.to_string());
    assert_eq!(manifest["annotations"]["note"], "n");
    assert_eq!(
        manifest["annotations"]["org.opencontainers.image.base.name"],
        "docker.io/library/eclipse-temurin:17-jre"
    );
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(5), "{manifest}");
    assert_eq!(build["image"]["layers"][0]["transfer"], "mounted");
    let config = stack.registry.config("boot/app", "1").await;
    insta::assert_json_snapshot!("spring_boot_config", config, {".rootfs" => "…"});
    let mut listing = Vec::new();
    for layer in 1..5 {
        listing.push(stack.registry.listing("boot/app", "1", layer).await);
    }
    insta::assert_json_snapshot!("spring_boot_layers", listing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_war_is_exploded_with_its_libraries_apart() {
    let stack = Stack::with_worker().await;
    let config = json!({"Cmd": ["catalina.sh", "run"], "WorkingDir": "/usr/local/tomcat"});
    let base = stack.registry.put_base("docker.io/library/tomcat", "plain", config).await;
    stack.registry.put_index("docker.io/library/tomcat", "10.1-jre17-temurin", base, 600).await;
    let build = stack.run("shop.war", artifacts::war(), "war/shop:1", json!({})).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    assert_eq!(build["image"]["base"]["digest"], base.to_string());
    let config = stack.registry.config("war/shop", "1").await;
    assert_eq!(config["config"]["Cmd"], json!(["catalina.sh", "run"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    let mut listing = Vec::new();
    for layer in 1..3 {
        listing.push(stack.registry.listing("war/shop", "1", layer).await);
    }
    insta::assert_json_snapshot!("war_layers", listing);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_has_the_variant_of_its_base() {
    let stack = Stack::with_worker().await;
    let layer = artifacts::tar(&[("etc/base", b"for ARM\n")]);
    let arm = json!({
        "architecture": "arm", "variant": "v7", "history": [{"created_by": "the tests"}]
    });
    stack.registry.put_base_saying("bases/arm", "1", arm, &[layer]).await;
    let base = stack.image("bases/arm:1");
    for platform in ["linux/arm", "linux/arm/v7", "armhf"] {
        let more = json!({"environment": "java-17", "base": base, "platform": platform});
        let build = stack.run("app.jar", artifacts::jar("arm"), "variant/app:1", more).await;
        assert_eq!(build["state"], "succeeded", "{build}");
        assert_eq!(build["image"]["platform"], "linux/arm/v7", "{platform}");
        let config = stack.registry.config("variant/app", "1").await;
        assert_eq!(config["variant"], "v7", "{platform}");
    }
}

/// Servers tell browsers by the time of a static file whether it is the one that they have.
#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_an_archive_keep_their_times() {
    let stack = Stack::with_worker().await;
    let war = |month: u16| {
        artifacts::zip(&[
            artifacts::entry("WEB-INF/web.xml", "<web-app/>").at([2024, 0, 0], [0, 0, 0]),
            artifacts::entry("js/", "").at([2024, month, 3], [4, 5, 6]),
            artifacts::entry("js/app.js", format!("let release = {month};\n"))
                .at([2024, month, 3], [4, 5, 6]),
        ])
    };
    let more = json!({"environment": "tomcat-10-java-17", "base": "scratch"});
    let mut times = Vec::new();
    for month in 1..3 {
        let image = format!("times/v{month}");
        let build = stack.run("shop.war", war(month), &format!("{image}:1"), more.clone()).await;
        assert_eq!(build["state"], "succeeded", "{build}");
        let listing = stack.registry.listing(&image, "1", 0).await;
        let time = |path: &str| -> String {
            let line = listing.iter().find(|line| line.ends_with(path));
            let words: Vec<&str> = line.expect("it is there").split(' ').collect();
            words[3..5].join(" ")
        };
        // Entries without a day of their own, and directories, have the time of the image.
        assert_eq!(time("web.xml"), "1970-01-01 00:00:01");
        assert_eq!(time("js/"), "1970-01-01 00:00:01");
        times.push(time("app.js"));
    }
    assert_eq!(times, ["2024-01-03 04:05:06", "2024-02-03 04:05:06"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_has_an_entry_for_each_layer_whatever_the_base_says() {
    let stack = Stack::with_worker().await;
    let directory = stack.directory.path();
    let layers = ["one", "two"].map(|name| artifacts::tar(&[(name, name.as_bytes())]));
    let entry = |name: &str| json!({"created_by": name});
    let empty = json!({"created_by": "ENV", "empty_layer": true});
    for (name, more) in [
        ("none", json!({})),
        ("short", json!({"history": [entry("1")]})),
        ("long", json!({"history": [entry("1"), empty, entry("2"), entry("3")]})),
    ] {
        let repository = format!("history/{name}");
        stack.registry.put_base_saying("bases/history", name, more, &layers).await;
        let base = stack.image(&format!("bases/history:{name}"));
        let more = json!({"environment": "scratch", "base": base});
        let tool = artifacts::elf(62, "history");
        let build = stack.run("tool", tool, &format!("{repository}:1"), more).await;
        assert_eq!(build["state"], "succeeded", "{build}");
        let config = stack.registry.config(&repository, "1").await;
        let history = config["history"].as_array().expect("a history");
        let of_layers = history.iter().filter(|entry| entry["empty_layer"] != true);
        assert_eq!(of_layers.count(), 3, "{history:?}");
        assert_eq!(history.contains(&empty), name == "long");
        let own = history.last().and_then(|entry| entry["created_by"].as_str());
        assert_eq!(own, Some("slipway scratch: binary"));

        // skopeo converts it, and umoci unpacks it.
        let pull = build["image"]["pull"].as_str().expect("a reference");
        let mut copy = command("skopeo");
        copy.args(["copy", "--src-tls-verify=false", "--format=v2s2"]);
        copy.arg(format!("docker://{pull}"));
        copy.arg(format!("dir:{}", directory.join(format!("dir-{name}")).display()));
        succeed(copy).await;
        let layout = directory.join(format!("layout-{name}"));
        let mut copy = command("skopeo");
        copy.args(["copy", "--src-tls-verify=false", &format!("docker://{pull}")]);
        copy.arg(format!("oci:{}:x", layout.display()));
        succeed(copy).await;
        let mut unpack = command("umoci");
        unpack.args(["unpack", "--rootless", "--image", &format!("{}:x", layout.display())]);
        unpack.arg(directory.join(format!("bundle-{name}")));
        succeed(unpack).await;
    }
}

/// Manifest and config are read by the specification's own types, and agree.
async fn check_documents(stack: &Stack, repository: &str) {
    let (manifest, _) = stack.registry.manifest(repository, "1").await.expect("it is there");
    let manifest = manifest.to_string();
    let manifest = oci_spec::image::ImageManifest::from_reader(manifest.as_bytes());
    let manifest = manifest.expect("an OCI manifest");
    let config = stack.registry.config(repository, "1").await.to_string();
    let config = oci_spec::image::ImageConfiguration::from_reader(config.as_bytes());
    let config = config.expect("an OCI config");
    assert_eq!(config.rootfs().diff_ids().len(), manifest.layers().len());
    let history = config.history().as_ref().expect("a history");
    assert_eq!(history.len(), manifest.layers().len());
}

/// Digests that must not change without a new assembly version.
#[tokio::test(flavor = "multi_thread")]
async fn golden_digests_hold() {
    let stack = Stack::with_worker().await;
    for base in ["eclipse-temurin:17-jre", "tomcat:10.1-jre17-temurin"] {
        let (name, tag) = base.split_once(':').expect("a tag");
        stack.registry.put_base(&format!("docker.io/library/{name}"), tag, json!({})).await;
    }
    let mut digests = serde_json::Map::new();
    for (file, bytes, environment) in [
        ("plain.jar", artifacts::jar("golden"), "auto"),
        ("boot.jar", artifacts::spring_boot_jar(), "auto"),
        ("app.war", artifacts::war(), "auto"),
        ("tool", artifacts::elf(62, "golden"), "scratch"),
    ] {
        let image = format!("golden/{}:1", file.replace('.', "-"));
        let build = stack.run(file, bytes, &image, json!({"environment": environment})).await;
        assert_eq!(build["state"], "succeeded", "{build}");
        digests.insert(file.to_owned(), build["image"]["digest"].clone());
        check_documents(&stack, image.trim_end_matches(":1")).await;
    }
    insta::assert_json_snapshot!("golden_digests", digests);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_in_another_registry_is_moved_once_and_then_found() {
    let mut stack = Stack::start().await;
    let other = Registry::start(&stack.directory.path().join("other")).await;
    other.put_base("library/base", "1", json!({})).await;
    stack.add_worker(WorkerOptions { id: "worker-1", ..WorkerOptions::default() });
    let base = format!("{}/library/base:1", other.address);
    let build = async |tag: &str| {
        let more = json!({"environment": "scratch", "base": base});
        stack.run("tool", artifacts::elf(62, tag), &format!("moved/tool:{tag}"), more).await
    };
    let first = build("1").await;
    assert_eq!(first["state"], "succeeded", "{first}");
    assert_eq!(first["image"]["layers"][0]["transfer"], "uploaded");
    let second = build("2").await;
    assert_eq!(second["image"]["layers"][0]["transfer"], "found", "{second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_build_reaches_several_registries() {
    let mut stack = Stack::start().await;
    let other = Registry::start(&stack.directory.path().join("other")).await;
    stack.add_worker(WorkerOptions { id: "worker-1", ..WorkerOptions::default() });
    let copy = format!("{}/copy/tool:1", other.address);
    let more = json!({"environment": "scratch", "additional_images": [copy]});
    let build = stack.run("tool", artifacts::elf(62, ""), "main/tool:1", more).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    let (_, digest) = other.manifest("copy/tool", "1").await.expect("it was copied");
    assert_eq!(build["image"]["digest"], digest.to_string());
}

/// One tar archive under three media types. Podman checks the digest of what each unpacks to.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_says_how_its_layers_are_compressed() {
    let stack = Stack::with_worker().await;
    let directory = stack.directory.path();
    let mut configs = Vec::new();
    for (compression, media_type) in [
        ("gzip", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("none", "application/vnd.oci.image.layer.v1.tar"),
    ] {
        let more = json!({"environment": "java-17", "base": "scratch", "compression": compression});
        let image = format!("{compression}/app:1");
        let build = stack.run("app.jar", artifacts::spring_boot_jar(), &image, more).await;
        assert_eq!(build["state"], "succeeded", "{build}");
        assert_eq!(build["request"]["compression"], compression);
        let repository = image.trim_end_matches(":1");
        let (manifest, _) = stack.registry.manifest(repository, "1").await.expect("tagged");
        let layers = manifest["layers"].as_array().expect("layers");
        assert!(layers.iter().all(|layer| layer["mediaType"] == media_type), "{manifest}");
        assert_eq!(build["image"]["layers"][0]["media_type"], media_type);
        configs.push(manifest["config"]["digest"].clone());
        let mut pull = command("podman");
        pull.arg("--root").arg(directory.join("vfs")).arg("--runroot").arg(directory.join("run"));
        pull.args(["--storage-driver=vfs", "--events-backend=none", "pull", "--quiet"]);
        pull.args(["--tls-verify=false", build["image"]["pull"].as_str().expect("a reference")]);
        succeed(pull).await;
    }
    assert!(configs.iter().all(|config| *config == configs[0]), "{configs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_that_changed_leaves_the_layer_of_the_libraries() {
    let stack = Stack::with_worker().await;
    let war = |page: &str| {
        artifacts::zip(&[
            artifacts::entry("WEB-INF/lib/a.jar", artifacts::jar("a")),
            artifacts::entry("index.html", page),
        ])
    };
    let build = async |page: &str| {
        let more = json!({"environment": "tomcat-10-java-17", "base": "scratch"});
        let build = stack.run("app.war", war(page), "rebuilt/app:1", more).await;
        assert_eq!(build["state"], "succeeded", "{build}");
        let log = stack.log(build["id"].as_str().expect("an id")).await;
        let line = |title: &str| -> String {
            let found = log.lines().find(|line| line.contains(title));
            found.unwrap_or_else(|| panic!("no {title} in {log}")).to_owned()
        };
        ["layer war libraries", "layer war application"].map(line)
    };
    let first = build("one").await;
    let second = build("two").await;
    let third = build("two").await;
    let known = |lines: &[String; 2]| lines.each_ref().map(|line| line.contains("as before"));
    assert_eq!(known(&first), [false, false], "{first:?}");
    assert_eq!(known(&second), [true, false], "{second:?}");
    assert_eq!(known(&third), [true, true], "{third:?}");
}
