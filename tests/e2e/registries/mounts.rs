// SPDX-License-Identifier: Apache-2.0

//! Mounts and checks save uploads. Whatever a registry says to them, an upload follows.

use std::collections::HashSet;

use serde_json::json;
use slipway_tests::artifacts;
use slipway_tests::faulty_registry::Misbehaviour;

use super::Scene;

const MOUNT: &str = "?mount=";

/// Puts a base of three layers into a repository.
async fn put_base(scene: &Scene) {
    let archive = |text: &[u8]| artifacts::tar(&[("data", text)]);
    let archives = [archive(b"one"), archive(b"two"), archive(b"three")];
    scene.real.put_base_of("library/base", "1", json!({}), &archives).await;
}

/// Builds on the base into a new repository. Returns the repositories that were asked for a mount,
/// how many blobs were sent, and how many of these twice.
async fn build(scene: &Scene, repository: &str) -> (Vec<String>, usize, usize) {
    let before = scene.faulty.requests().len();
    scene.build_on("library/base:1", &format!("{repository}:1")).await.good();
    let requests = scene.faulty.requests().split_off(before);
    let mounts = requests.iter().filter(|seen| seen.path.contains(MOUNT));
    let mounts = mounts.filter_map(|seen| Some(seen.path.split_once("&from=")?.1.to_owned()));
    let mounts = mounts.collect();
    let mut sent: Vec<&str> = requests
        .iter()
        .filter(|seen| seen.method == "PUT" && seen.path.contains("/blobs/uploads/"))
        .filter_map(|seen| seen.path.split_once("digest=").map(|(_, digest)| digest))
        .collect();
    let count = sent.len();
    sent.sort_unstable();
    sent.dedup();
    (mounts, count, count - sent.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_is_refused_is_an_upload_and_no_further_one_is_asked_for() {
    let scene = Scene::start().await;
    put_base(&scene).await;
    for (number, (status, code)) in [
        (400, "BLOB_UPLOAD_INVALID"),
        (400, "UNSUPPORTED"),
        (401, "UNAUTHORIZED"),
        (403, "DENIED"),
        (404, "NAME_UNKNOWN"),
        (405, "UNSUPPORTED"),
        (409, "CONFLICT"),
        (415, "UNSUPPORTED"),
        (416, "BLOB_UPLOAD_INVALID"),
        (429, "TOOMANYREQUESTS"),
        (500, "UNKNOWN"),
        (501, "UNSUPPORTED"),
        (502, "UNKNOWN"),
        (503, "UNAVAILABLE"),
    ]
    .into_iter()
    .enumerate()
    {
        scene.faulty.clear();
        scene.rule("POST", MOUNT, Misbehaviour::answer(status, code));
        // Three layers of the base, one of its own, and the config.
        let (mounts, sent, twice) = build(&scene, &format!("refused/{number}")).await;
        assert_eq!((sent, twice), (5, 0), "{status} {code}");
        let distinct: HashSet<&String> = mounts.iter().collect();
        assert_eq!(distinct.len(), mounts.len(), "{status} {code}: one for each source");
        let is_denied = matches!(status, 401 | 403 | 404);
        assert!(is_denied || mounts.len() == 1, "{status} {code}: {mounts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_is_refused_for_a_layer_of_a_build_without_a_base_is_an_upload() {
    let scene = Scene::start().await;
    for status in [400, 500] {
        scene.faulty.clear();
        scene.rule("POST", MOUNT, Misbehaviour::answer(status, "UNKNOWN"));
        let marker = status.to_string();
        scene.build(&marker, &format!("team/tool:{status}")).await.good();
    }
    assert_eq!(scene.requests("POST", MOUNT).len(), 2, "once by each build");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_is_said_to_be_done_and_is_not_is_an_upload_after_the_manifest_is_refused() {
    let scene = Scene::start().await;
    put_base(&scene).await;
    scene.rule("POST", MOUNT, Misbehaviour::answer(201, "NONE"));
    let (mounts, sent, twice) = build(&scene, "team/lied").await;
    assert_eq!((sent, twice), (5, 0));
    assert_eq!(mounts.len(), 4, "not asked again when the manifest was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_whose_session_cannot_be_used_is_an_upload() {
    let scene = Scene::start().await;
    let elsewhere = Misbehaviour::SendUploadsTo("http://10.0.0.1:5000".to_owned());
    for (number, fault) in [Misbehaviour::NameNoLocation, elsewhere].into_iter().enumerate() {
        scene.faulty.clear();
        scene.rule("POST", MOUNT, fault);
        scene.build(&number.to_string(), &format!("session/{number}:1")).await.good();
    }
    let sent = scene.requests("PUT", "/blobs/uploads/");
    assert_eq!(sent.len(), 4, "two layers and two configs: {sent:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_of_something_else_is_an_upload() {
    let scene = Scene::start().await;
    put_base(&scene).await;
    scene.rule("POST", MOUNT, Misbehaviour::WrongDigest);
    let (mounts, sent, twice) = build(&scene, "team/tool").await;
    assert_eq!((sent, twice), (5, 0), "{mounts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_used_where_they_work() {
    let scene = Scene::start().await;
    put_base(&scene).await;
    let (mounts, sent, _) = build(&scene, "team/tool").await;
    assert_eq!((mounts.len(), sent), (4, 2), "the layers of the base, and the check of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_not_allowed_is_an_upload() {
    let scene = Scene::start().await;
    scene.build("same", "team/tool:1").await.good();
    let layer = scene.real.manifest("team/tool", "1").await.expect("it is there").0;
    let layer = layer["layers"][0]["digest"].as_str().expect("a digest");
    let layer = layer.trim_start_matches("sha256:").to_owned();
    for (status, code) in [(400, "UNSUPPORTED"), (403, "DENIED"), (405, "UNSUPPORTED"), (501, "X")]
    {
        scene.faulty.clear();
        scene.rule("HEAD", "/blobs/", Misbehaviour::answer(status, code));
        scene.rule("POST", MOUNT, Misbehaviour::answer(status, code));
        let before = scene.requests("PUT", &layer).len();
        // The next process knows where the layer is, and asks.
        scene.build("same", &format!("team/tool:{status}")).await.good();
        assert_eq!(scene.requests("PUT", &layer).len(), before + 1, "{status}");
    }
}
