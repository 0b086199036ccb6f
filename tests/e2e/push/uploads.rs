// SPDX-License-Identifier: Apache-2.0

//! Uploads and downloads that break, go in chunks or lose their token: which bytes are sent again.

use serde_json::json;
use slipway_tests::faulty_registry::{FaultyRegistry, Misbehaviour, Rule, Seen};

use super::{CHUNK, SMALL, Scene, blob_bytes, count, made_layer, program, uploads};

/// Returns the requests that carried a part of a blob.
fn chunks(requests: &[Seen]) -> Vec<&Seen> {
    requests.iter().filter(|seen| seen.method == "PATCH").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_of_a_base_that_breaks_goes_on_where_it_stopped() {
    let scene = Scene::start(&[]).await;
    scene.put_base("library/large", &[2 << 20]).await;
    let origin = FaultyRegistry::before(&scene.stack.registry.address, 1).await;
    origin.add_rule(Rule {
        method: Some("GET"),
        // The config is smaller than a chunk.
        path_contains: "/blobs/".to_owned(),
        misbehaviour: Misbehaviour::KeepUpTo { offset: CHUNK },
        times: Some(3),
        probability: 1.0,
    });
    let base = format!("{}/library/large:1", origin.address());
    let id = scene.submit(&program(1, 100), "moved/tool:1", json!({"base": base})).await;
    let build = scene.succeeded(&id).await;
    assert_eq!(build["attempt"], 1, "{build}");
    let digest = build["image"]["layers"][0]["digest"].as_str().expect("a digest").to_owned();
    let requests = origin.requests();
    let reads: Vec<Option<u64>> =
        requests.iter().filter(|seen| seen.path.contains(&digest)).map(|seen| seen.start).collect();
    // Bytes that were on their way when the connection closed may be lost.
    assert_eq!(reads[0], None, "{reads:?}");
    assert!(reads.len() > 1 && reads[1..].iter().all(|start| *start > Some(0)), "{reads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_goes_on_where_the_registry_stopped() {
    let scene = Scene::start(&[]).await;
    let cut = 2 << 20;
    scene.rule("PUT", Misbehaviour::KeepUpTo { offset: cut }, 1);
    let (build, requests) = scene.run(&program(1, 3 << 20), "cut/tool:1", "").await;
    assert_eq!(build["attempt"], 1, "{build}");
    let (digest, size) = made_layer(&build);
    let uploads = uploads(&requests);
    assert_eq!(uploads.len(), 2, "{requests:#?}");
    assert_eq!((uploads[1].method.as_str(), uploads[1].start), ("PATCH", Some(cut)));
    assert_eq!(uploads[1].body_bytes, size - cut, "what was kept is not sent again");
    assert_eq!(scene.stack.registry.blob("cut/tool", &digest).await.len() as u64, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_that_breaks_at_the_end_sends_only_its_last_chunk_again() {
    let scene = Scene::start(&[&format!("--upload-chunk-bytes={CHUNK}")]).await;
    let length = 4 * (1 << 20) + (1 << 19);
    let cut = 4 * CHUNK + CHUNK / 4;
    scene.rule("PATCH", Misbehaviour::KeepUpTo { offset: cut }, 1);
    let (build, requests) = scene.run(&program(1, length), "chunks/tool:1", "").await;
    assert_eq!(build["attempt"], 1, "{build}");
    let (digest, size) = made_layer(&build);
    let starts: Vec<Option<u64>> = uploads(&requests).iter().map(|upload| upload.start).collect();
    let chunks = [0, 1, 2, 3, 4].map(|number| Some(number * CHUNK));
    assert_eq!(starts[..5], chunks, "{requests:#?}");
    assert_eq!(starts[5..], [Some(cut)], "{requests:#?}");
    assert_eq!(scene.stack.registry.blob("chunks/tool", &digest).await.len() as u64, size);
}

/// docker-registry gives up a session while it was writing to it, and keeps it otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_outlives_a_registry_that_is_killed_between_two_chunks() {
    let mut scene = Scene::start(&[&format!("--upload-chunk-bytes={CHUNK}")]).await;
    scene.rule("PATCH", Misbehaviour::HoldAt { offset: 3 * CHUNK }, 1);
    let id = scene.submit(&program(1, 4 << 20), "killed/tool:1", json!({})).await;
    scene.registry.held().await;
    scene.stack.registry.kill();
    scene.registry.release();
    scene.stack.registry.restart().await;
    let build = scene.succeeded(&id).await;
    assert_eq!(build["attempt"], 1, "{build}");
    let requests = scene.registry.requests();
    let starts: Vec<Option<u64>> = uploads(&requests).iter().map(|upload| upload.start).collect();
    let again = starts.iter().filter(|start| **start == Some(0)).count();
    assert_eq!(again, 1, "{starts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_into_which_its_registry_is_killed_starts_over_in_the_same_attempt() {
    let mut scene = Scene::start(&[&format!("--upload-chunk-bytes={CHUNK}")]).await;
    scene.rule("PATCH", Misbehaviour::HoldAt { offset: 2 * CHUNK + CHUNK / 2 }, 1);
    let id = scene.submit(&program(1, 4 << 20), "killed/tool:1", json!({})).await;
    scene.registry.held().await;
    scene.stack.registry.kill();
    scene.registry.release();
    scene.stack.registry.restart().await;
    let build = scene.succeeded(&id).await;
    assert_eq!(build["attempt"], 1, "{build}");
    let (digest, size) = made_layer(&build);
    assert_eq!(scene.stack.registry.blob("killed/tool", &digest).await.len() as u64, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_before_its_upload_costs_the_blob_once_more() {
    let scene = Scene::start(&[]).await;
    scene.registry.require_tokens();
    for (seed, is_early) in [(1, false), (2, true)] {
        scene.rule("PUT", Misbehaviour::ExpireTokens { offset: CHUNK, is_early }, 1);
        let image = format!("expired{seed}/tool:1");
        let (build, requests) = scene.run(&program(seed, 3 << 20), &image, "").await;
        assert_eq!(build["attempt"], 1, "{build}");
        let (digest, size) = made_layer(&build);
        let (_algorithm, hex) = digest.split_once(':').expect("a digest");
        assert_eq!(count(&requests, "PUT", hex), 2, "{requests:#?}");
        let sent = if is_early { size } else { 2 * size };
        assert!(blob_bytes(&requests) < sent + SMALL, "{requests:#?}");
    }
    assert_eq!(scene.registry.faults(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_between_two_chunks_costs_the_chunk_once_more() {
    let scene = Scene::start(&[&format!("--upload-chunk-bytes={CHUNK}")]).await;
    scene.registry.require_tokens();
    for offset in [CHUNK, 3 * CHUNK] {
        scene.rule("PATCH", Misbehaviour::ExpireTokens { offset, is_early: false }, 1);
    }
    let (build, requests) = scene.run(&program(1, 4 << 20), "expired/tool:1", "").await;
    assert_eq!(build["attempt"], 1, "{build}");
    let chunks = chunks(&requests).into_iter().map(|chunk| (chunk.start, chunk.status));
    let statuses = [(0, 202), (1, 401), (1, 202), (2, 202), (3, 401), (3, 202), (4, 202)];
    let expected = statuses.map(|(number, status)| (Some(number * CHUNK), Some(status)));
    assert_eq!(chunks.collect::<Vec<_>>(), expected, "{requests:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_when_its_upload_breaks_does_not_cost_what_was_kept() {
    let scene = Scene::start(&[]).await;
    scene.registry.require_tokens();
    let cut = 2 << 20;
    scene.rule("PUT", Misbehaviour::KeepUpTo { offset: cut }, 1);
    // The request for how much was kept.
    let expired = Misbehaviour::ExpireTokens { offset: 0, is_early: false };
    scene.rule_about("GET", "/blobs/uploads/", expired, 1);
    let (build, requests) = scene.run(&program(1, 3 << 20), "expired/tool:1", "").await;
    assert_eq!(build["attempt"], 1, "{build}");
    assert_eq!(scene.registry.faults(), 2);
    let starts: Vec<Option<u64>> = chunks(&requests).iter().map(|chunk| chunk.start).collect();
    assert_eq!(starts, [Some(cut)], "{requests:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_outlives_more_than_one_of_its_tokens() {
    let scene = Scene::start(&[]).await;
    scene.registry.require_tokens();
    let cut = 2 << 20;
    scene.rule("PUT", Misbehaviour::KeepUpTo { offset: cut }, 1);
    let expired = |offset| Misbehaviour::ExpireTokens { offset, is_early: false };
    scene.rule_about("GET", "/blobs/uploads/", expired(0), 1);
    scene.rule("PATCH", expired(cut), 1);
    let (build, requests) = scene.run(&program(1, 3 << 20), "expired/tool:1", "").await;
    assert_eq!(build["attempt"], 1, "{build}");
    let starts: Vec<Option<u64>> = chunks(&requests).iter().map(|chunk| chunk.start).collect();
    assert_eq!(starts, [Some(cut), Some(cut)], "{requests:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_as_long_as_the_registry_wants_them() {
    let scene = Scene::start(&[&format!("--upload-chunk-bytes={CHUNK}")]).await;
    let least = CHUNK + CHUNK / 2;
    // Only the answer that opens the upload announces it.
    let wish = Misbehaviour::ChunksOfAtLeast { bytes: least };
    scene.rule_about("POST", "/blobs/uploads/", wish, None);
    // Also after a break, however much was kept.
    let cut = least + CHUNK / 4;
    scene.rule("PATCH", Misbehaviour::KeepUpTo { offset: cut }, 1);
    let (build, requests) = scene.run(&program(1, 6 << 20), "least/tool:1", "").await;
    assert_eq!(build["attempt"], 1, "{build}");
    let (digest, size) = made_layer(&build);
    let chunks = chunks(&requests);
    let starts: Vec<Option<u64>> = chunks.iter().map(|chunk| chunk.start).collect();
    let expected = [0, least, cut, cut + least, cut + 2 * least].map(Some);
    assert_eq!(starts, expected, "{requests:#?}");
    let rest = size - (cut + 2 * least);
    let lengths: Vec<u64> = chunks.iter().map(|chunk| chunk.body_bytes).collect();
    assert_eq!(lengths[2..], [least, least, rest], "{requests:#?}");
    assert_eq!(scene.stack.registry.blob("least/tool", &digest).await.len() as u64, size);
}
