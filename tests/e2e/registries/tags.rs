// SPDX-License-Identifier: Apache-2.0

//! Tags that a registry does not move, and answers to a tag that are lost.

use slipway_tests::faulty_registry::Misbehaviour;

use super::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_points_at_the_image_already_is_a_success_however_the_write_is_refused() {
    let scene = Scene::start().await;
    for status in [400, 403, 405, 409, 412] {
        scene.faulty.clear();
        let tag = format!("/manifests/v{status}");
        // Stored, and its answer lost; from then on it is immutable.
        scene.rule_times("PUT", &tag, Misbehaviour::LoseAnswer, 1);
        scene.rule("PUT", &tag, Misbehaviour::Immutable(status));
        let image = format!("team/tool:v{status}");
        scene.build("same", &image).await.good();
        scene.build("same", &image).await.good();
        let there = scene.digest("team/tool", &format!("v{status}")).await.expect("it is tagged");
        let other = scene.build("other", &image).await;
        let sentence =
            format!("the tag v{status} is taken by {there}, and tags there are immutable");
        other.failed_for(&sentence);
        assert_eq!(scene.digest("team/tool", &format!("v{status}")).await, Some(there));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_whose_answer_is_always_lost_is_looked_up() {
    let scene = Scene::start().await;
    scene.rule("PUT", "/manifests/1", Misbehaviour::LoseAnswer);
    scene.build("a", "team/tool:1").await.good();
    let requests = scene.requests("GET", "/manifests/1");
    assert_eq!(requests.len(), 1, "one look at the tag: {requests:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_refused_and_not_there_says_the_registrys_own_words() {
    let scene = Scene::start().await;
    scene.rule("PUT", "/manifests/1", Misbehaviour::answer(400, "TAG_INVALID"));
    let built = scene.build("a", "team/tool:1").await.failed_for("TAG_INVALID");
    assert!(!built.says.contains("immutable"), "{}", built.says);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_may_not_be_written_twice_is_a_success_if_it_is_there() {
    let scene = Scene::start().await;
    scene.build("same", "team/tool:1").await.good();
    scene.rule("PUT", "/manifests/sha256:", Misbehaviour::Immutable(409));
    scene.build("same", "team/tool:2").await.good();
    scene.build("other", "team/tool:3").await.good();
}
