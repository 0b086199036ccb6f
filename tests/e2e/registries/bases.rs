// SPDX-License-Identifier: Apache-2.0

//! The documents of base images, as the tools of ten years wrote them.

use bytes::Bytes;
use serde_json::{Value, json};
use slipway_proto::Digest;
use slipway_tests::artifacts;

use super::Scene;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const REPOSITORY: &str = "library/base";

/// Puts an image with one layer into the repository, for a platform as its config names it.
async fn put(scene: &Scene, tag: &str, platform: &Value, layer_type: &str) -> (Digest, Digest) {
    let archive = artifacts::tar(&[("etc/base", tag.as_bytes())]);
    let mut config = json!({
        "config": {}, "rootfs": {"type": "layers", "diff_ids": [Digest::of(&archive)]},
        "history": [{"created_by": "the tests"}],
    });
    for (name, value) in platform.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    let (layer, config) = (artifacts::gzip(&archive), Bytes::from(config.to_string()));
    let layer_digest = scene.real.put_blob(REPOSITORY, layer.clone()).await;
    let config_digest = scene.real.put_blob(REPOSITORY, config.clone()).await;
    let is_docker = layer_type.contains(".docker.");
    let (kind, config_type) = match is_docker {
        true => (DOCKER, "application/vnd.docker.container.image.v1+json"),
        false => (OCI, "application/vnd.oci.image.config.v1+json"),
    };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind,
        "config": {"mediaType": config_type, "digest": config_digest, "size": config.len()},
        "layers": [{"mediaType": layer_type, "digest": layer_digest, "size": layer.len()}],
    });
    (scene.real.put_manifest(REPOSITORY, tag, kind, &manifest).await, layer_digest)
}

async fn put_for(scene: &Scene, tag: &str, os: &str, architecture: &str) -> Digest {
    let platform = json!({"os": os, "architecture": architecture});
    put(scene, tag, &platform, "application/vnd.oci.image.layer.v1.tar+gzip").await.0
}

async fn put_index(scene: &Scene, tag: &str, entries: &Value) -> Digest {
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    scene.real.put_manifest(REPOSITORY, tag, OCI_INDEX, &index).await
}

/// An entry of an index.
fn entry(digest: Digest, more: Value) -> Value {
    let mut entry = json!({"mediaType": OCI, "digest": digest, "size": 500});
    let Value::Object(more) = more else { panic!("{more} is no object") };
    entry.as_object_mut().expect("an object").extend(more);
    entry
}

fn platform(os: &str, architecture: &str) -> Value {
    json!({"platform": {"os": os, "architecture": architecture}})
}

/// Builds on a base of the repository, and returns the layer that it brings and the base's digest.
async fn built_on(scene: &Scene, tag: &str) -> (Value, Value) {
    scene.build_on(&format!("{REPOSITORY}:{tag}"), &format!("team/tool:{tag}")).await.good();
    let (manifest, _) = scene.real.manifest("team/tool", tag).await.expect("it is there");
    let base = manifest["annotations"]["org.opencontainers.image.base.digest"].clone();
    (manifest["layers"][0].clone(), base)
}

async fn refused(scene: &Scene, tag: &str, reason: &str) {
    let built = scene.build_on(&format!("{REPOSITORY}:{tag}"), "team/tool:1").await;
    let built = built.failed_for(reason);
    assert!(built.says.contains("BaseImageNotFound"), "{}", built.says);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_layer_that_others_take_is_taken_under_its_name_in_oci() {
    let scene = Scene::start().await;
    let amd64 = json!({"os": "linux", "architecture": "amd64"});
    for (number, (written, kept)) in [
        ("docker.image.rootfs.diff.tar.zstd", "tar+zstd"),
        ("docker.image.rootfs.diff.tar.gzip", "tar+gzip"),
        ("docker.image.rootfs.diff.tar", "tar"),
        ("oci.image.layer.v1.tar+zstd", "tar+zstd"),
    ]
    .into_iter()
    .enumerate()
    {
        let tag = number.to_string();
        // Only the name is looked at. docker-registry checks no bytes either.
        let written = format!("application/vnd.{written}");
        let (_, digest) = put(&scene, &tag, &amd64, &written).await;
        let (layer, _) = built_on(&scene, &tag).await;
        let kept = format!("application/vnd.oci.image.layer.v1.{kept}");
        assert_eq!((&layer["mediaType"], &layer["digest"]), (&json!(kept), &json!(digest)));
    }
    put(&scene, "chart", &amd64, "application/vnd.cncf.helm.chart.content.v1.tar+gzip").await;
    let built = scene.build_on("library/base:chart", "team/tool:1").await;
    built.failed_for("it has a layer of type application/vnd.cncf.helm.chart");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_an_index_without_a_platform_is_looked_into() {
    let scene = Scene::start().await;
    let amd64 = put_for(&scene, "amd64", "linux", "amd64").await;
    let arm64 = put_for(&scene, "arm64", "linux", "arm64").await;
    let attestation = put_for(&scene, "attestation", "unknown", "unknown").await;
    let attests = json!({
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
    });
    for (tag, entries) in [
        ("alone", json!([entry(amd64, json!({}))])),
        ("null", json!([entry(amd64, json!({"platform": null}))])),
        ("empty", json!([entry(amd64, json!({"platform": {}}))])),
        ("half", json!([entry(amd64, json!({"platform": {"os": "linux"}}))])),
        ("second", json!([entry(arm64, json!({})), entry(amd64, json!({}))])),
        ("beside", json!([entry(arm64, platform("linux", "arm64")), entry(amd64, json!({}))])),
        ("named", json!([entry(arm64, json!({})), entry(amd64, platform("linux", "amd64"))])),
        ("attested", json!([entry(attestation, attests.clone()), entry(amd64, json!({}))])),
    ] {
        put_index(&scene, tag, &entries).await;
        assert_eq!(built_on(&scene, tag).await.1, json!(amd64), "{tag}");
    }
    for (tag, entries, reason) in [
        (
            "other",
            json!([entry(arm64, json!({}))]),
            "has no image for linux/amd64; it has linux/arm64",
        ),
        (
            "others",
            json!([entry(arm64, platform("windows", "amd64")), entry(arm64, json!({}))]),
            "it has windows/amd64, linux/arm64",
        ),
        ("only-attested", json!([entry(attestation, attests)]), "it has no image at all"),
        ("lies", json!([entry(arm64, platform("linux", "amd64"))]), "it has linux/arm64"),
    ] {
        put_index(&scene, tag, &entries).await;
        refused(&scene, tag, reason).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_in_an_index_is_read() {
    let scene = Scene::start().await;
    let amd64 = put_for(&scene, "amd64", "linux", "amd64").await;
    let inner =
        put_index(&scene, "inner", &json!([entry(amd64, platform("linux", "amd64"))])).await;
    let inner = entry(inner, json!({"mediaType": OCI_INDEX}));
    put_index(&scene, "outer", &json!([inner])).await;
    assert_eq!(built_on(&scene, "outer").await.1, json!(amd64));
    // Docker's name for an index.
    let list = json!({
        "schemaVersion": 2, "mediaType": DOCKER_LIST,
        "manifests": [entry(amd64, platform("linux", "amd64"))],
    });
    scene.real.put_manifest(REPOSITORY, "list", DOCKER_LIST, &list).await;
    assert_eq!(built_on(&scene, "list").await.1, json!(amd64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_of_another_system_or_processor_is_refused_with_what_it_is_for() {
    let scene = Scene::start().await;
    for (os, architecture) in
        [("windows", "amd64"), ("freebsd", "amd64"), ("linux", "arm64"), ("windows", "arm64")]
    {
        let tag = format!("{os}-{architecture}");
        put_for(&scene, &tag, os, architecture).await;
        refused(&scene, &tag, &format!("is for {os}/{architecture}")).await;
    }
    let windows = put_for(&scene, "nt", "windows", "amd64").await;
    put_index(&scene, "nt-index", &json!([entry(windows, platform("windows", "amd64"))])).await;
    refused(&scene, "nt-index", "it has windows/amd64").await;
    // Names of other tools for the same.
    put_for(&scene, "uname", "linux", "x86_64").await;
    built_on(&scene, "uname").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_variant_that_fits_best_is_taken_wherever_it_stands_in_an_index() {
    let scene = Scene::start().await;
    let mut entries = Vec::new();
    for variant in ["v5", "v6", "v7"] {
        let own = json!({"os": "linux", "architecture": "arm", "variant": variant});
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let (digest, _) = put(&scene, variant, &own, layer).await;
        entries.push(entry(digest, json!({"platform": own})));
    }
    for order in ["rising", "falling"] {
        put_index(&scene, order, &json!(entries)).await;
        entries.reverse();
        for (asked, taken) in [
            ("linux/arm", "v7"),
            ("linux/arm/v7", "v7"),
            ("linux/arm/v6", "v6"),
            ("linux/arm/v5", "v5"),
        ] {
            let tag = format!("{order}-{}", asked.replace('/', "-"));
            let jar = artifacts::zip(&[artifacts::entry(
                "META-INF/MANIFEST.MF",
                "Manifest-Version: 1.0\r\nMain-Class: M\r\n\r\n",
            )]);
            let base = scene.image(&format!("{REPOSITORY}:{order}"));
            let arguments = ["--base", &base, "--platform", asked, "--environment", "java-17"];
            let image = scene.image(&format!("team/tool:{tag}"));
            scene.build_file("app.jar", jar, &image, &arguments, &[]).await.good();
            assert_eq!(scene.config("team/tool", &tag).await["variant"], taken, "{tag}");
        }
    }
}
