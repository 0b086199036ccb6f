// SPDX-License-Identifier: Apache-2.0

//! Statuses of success, digests in answers, and redirects of writes.

use slipway_tests::faulty_registry::Misbehaviour;

use super::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn every_success_of_a_manifest_and_a_tag_is_one() {
    let scene = Scene::start().await;
    for status in [200, 202, 204] {
        scene.faulty.clear();
        scene.rule("PUT", "/manifests/", Misbehaviour::SucceedWith(status));
        let before = scene.requests("PUT", "/manifests/").len();
        let tag = format!("v{status}");
        scene.build(&tag, &format!("team/tool:{tag}")).await.good();
        assert_eq!(scene.requests("PUT", "/manifests/").len() - before, 2, "one each: {status}");
        assert!(scene.digest("team/tool", &tag).await.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_success_of_a_piece_and_a_blob_is_one() {
    let scene = Scene::start().await;
    let chunks = ["--environment", "scratch", "--upload-chunk-bytes", "100"];
    for status in [200, 201, 202, 204] {
        scene.faulty.clear();
        scene.rule("PUT", "/blobs/uploads/", Misbehaviour::SucceedWith(status));
        scene.rule("PATCH", "/blobs/uploads/", Misbehaviour::SucceedWith(status));
        let (marker, image) = (status.to_string(), scene.image(&format!("team/tool:{status}")));
        scene.build_with(&marker, &image, &chunks, &[]).await.good();
    }
    assert!(!scene.requests("PATCH", "/blobs/uploads/").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_digest_in_an_answer_is_a_failure() {
    let scene = Scene::start().await;
    for path in ["/manifests/sha256:", "/manifests/1", "/blobs/uploads/"] {
        scene.faulty.clear();
        scene.rule("PUT", path, Misbehaviour::WrongDigest);
        let once = ["--environment", "scratch", "--max-attempts", "1"];
        let built = scene.build_with(path, &scene.image("team/tool:1"), &once, &[]).await;
        built.failed_for("says that it stored");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_redirected_to_a_page_is_no_success() {
    let scene = Scene::start().await;
    let login = scene.image("v2/");
    let redirect = |status| Misbehaviour::Answer {
        status,
        code: "NONE",
        headers: vec![("location", format!("http://{login}"))],
    };
    for status in [301, 302, 303] {
        scene.faulty.clear();
        scene.rule("PUT", "/manifests/", redirect(status));
        let built = scene.build(&status.to_string(), "team/tool:1").await;
        built.failed_for(&login);
        assert_eq!(scene.digest("team/tool", "1").await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_redirected_with_its_method_goes_there() {
    let scene = Scene::start().await;
    for status in [307, 308] {
        scene.faulty.clear();
        let headers = vec![("location", "/v2/team/tool/blobs/uploads/".to_owned())];
        let moved = Misbehaviour::Answer { status, code: "NONE", headers };
        scene.rule_times("POST", "?mount=", moved, 1);
        let before = scene.requests("POST", "/blobs/uploads/").len();
        scene.build(&status.to_string(), &format!("team/tool:{status}")).await.good();
        let posts = scene.requests("POST", "/blobs/uploads/").split_off(before);
        let redirected = posts.iter().filter(|seen| seen.status == Some(status)).count();
        let goes_on = |path: &str| path == "/v2/team/tool/blobs/uploads/";
        let followed = posts.iter().filter(|seen| goes_on(&seen.path)).count();
        assert_eq!((redirected, followed >= 1), (1, true), "{posts:#?}");
    }
}
