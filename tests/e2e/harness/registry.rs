// SPDX-License-Identifier: Apache-2.0

//! The registry that misbehaves.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Method;
use serde_json::json;
use slipway_proto::{Digest, Timestamp};
use slipway_tests::faulty_registry::{FaultyRegistry, Misbehaviour, Rule, TagWriter};
use slipway_tests::registry::Registry;
use slipway_tests::{http, wait};
use tempfile::TempDir;

use super::SILENCE_PERIOD;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A real registry behind a faulty one, and a client.
struct Registries {
    real: Registry,
    faulty: FaultyRegistry,
    client: reqwest::Client,
    _directory: TempDir,
}

impl Registries {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let real = Registry::start(directory.path()).await;
        let faulty = FaultyRegistry::before(&real.address, 1).await;
        Self { real, faulty, client: http::client(), _directory: directory }
    }

    /// The faulty registry, for pushing images through it.
    async fn put_image(&mut self, repository: &str, tag: &str) -> Digest {
        let real = std::mem::replace(&mut self.real.address, self.faulty.address().to_owned());
        let digest = self.real.put_base(repository, tag, json!({})).await;
        self.real.address = real;
        digest
    }

    fn misbehave_once(&self, method: &'static str, path: &str, misbehaviour: Misbehaviour) {
        self.faulty.set_rules(vec![Rule {
            method: Some(method),
            path_contains: path.to_owned(),
            misbehaviour,
            times: Some(1),
            probability: 1.0,
        }]);
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}/v2/{path}", self.faulty.address());
        self.client.request(method, url).header("accept", MANIFEST_TYPE)
    }

    async fn get(&self, path: &str) -> Result<reqwest::Response, reqwest::Error> {
        self.request(Method::GET, path).send().await
    }

    /// Writes the manifest of `team/tool:1` under another tag.
    async fn put_manifest(&self, tag: &str) -> Result<reqwest::Response, reqwest::Error> {
        let (manifest, _) = self.real.manifest("team/tool", "1").await.expect("the image");
        self.put(tag, manifest.to_string()).await
    }

    async fn put(&self, tag: &str, manifest: String) -> Result<reqwest::Response, reqwest::Error> {
        let put = self.request(Method::PUT, &format!("team/tool/manifests/{tag}"));
        let put = put.header("content-type", MANIFEST_TYPE);
        put.header("slipway-tag-write", "build=b-2 epoch=3").body(manifest).send().await
    }

    async fn is_written(&self, tag: &str) -> bool {
        self.real.manifest("team/tool", tag).await.is_some()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_registry_without_rules_is_a_registry() {
    let mut registries = Registries::start().await;
    let digest = registries.put_image("team/tool", "1").await;
    let (manifest, written) =
        registries.real.manifest("team/tool", "1").await.expect("the image is there");
    assert_eq!(written, digest);
    assert_eq!(registries.faulty.faults(), 0);

    let layer = manifest["layers"][0]["digest"].as_str().expect("a layer");
    let path = format!("team/tool/blobs/{layer}");
    let bytes = registries.get(&path).await.expect("an answer").bytes().await.expect("a body");
    assert_eq!(Digest::of(&bytes).to_string(), layer);
    let head = registries.request(Method::HEAD, &path).send().await.expect("an answer");
    assert_eq!(head.headers()["content-length"], bytes.len().to_string());
    assert_eq!(head.headers()["docker-content-digest"], layer);
    assert_eq!(registries.get("team/tool/manifests/2").await.expect("an answer").status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_pass_through_a_faulty_registry_with_or_without_a_length() {
    let registries = Registries::start().await;
    let blob = Bytes::from(vec![7; 20_000_000]);
    let digest = Digest::of(&blob);
    for in_chunks in [false, true] {
        let start = registries.request(Method::POST, "team/tool/blobs/uploads/");
        let response = start.send().await.expect("an answer");
        let location = response.headers()["location"].to_str().expect("text").to_owned();
        let here = format!("http://{}/v2/", registries.faulty.address());
        assert!(location.starts_with(&here), "{location}");
        let parts = futures::stream::iter(blob.chunks(100_000).map(Bytes::copy_from_slice).map(Ok));
        let body = if in_chunks {
            let parts: Vec<Result<Bytes, std::io::Error>> =
                futures::StreamExt::collect(parts).await;
            reqwest::Body::wrap_stream(futures::stream::iter(parts))
        } else {
            reqwest::Body::from(blob.clone())
        };
        let put = registries.client.put(format!("{location}&digest={digest}"));
        let response = put.body(body).send().await.expect("an answer");
        assert_eq!(response.status(), 201);
    }
    assert_eq!(registries.real.blob("team/tool", &digest.to_string()).await, blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_answered_and_nothing_is_done() {
    let mut registries = Registries::start().await;
    registries.put_image("team/tool", "1").await;
    let later = Misbehaviour::TooManyRequests { retry_after_s: 7 };
    for (misbehaviour, status, header, code) in [
        (
            Misbehaviour::Unauthorized,
            401,
            Some(("www-authenticate", "Basic realm=\"tests\"")),
            "UNAUTHORIZED",
        ),
        (Misbehaviour::Forbidden, 403, None, "DENIED"),
        (later, 429, Some(("retry-after", "7")), "TOOMANYREQUESTS"),
        (Misbehaviour::ServerError(503), 503, None, "UNKNOWN"),
    ] {
        registries.misbehave_once("PUT", "/manifests/", misbehaviour.clone());
        let response = registries.put_manifest("2").await.expect("an answer");
        assert_eq!(response.status(), status);
        if let Some((name, value)) = header {
            assert_eq!(response.headers()[name], value);
        }
        let document: serde_json::Value = response.json().await.expect("JSON");
        assert_eq!(document["errors"][0]["code"], code);
        assert!(!registries.is_written("2").await);

        registries.misbehave_once("POST", "/blobs/uploads/", misbehaviour);
        let start = registries.request(Method::POST, "team/tool/blobs/uploads/");
        let response = start.body(vec![0; 3_000_000]).send().await.expect("an answer");
        assert_eq!(response.status(), status);
    }
    assert_eq!(registries.faulty.faults(), 8);
    let writes = registries.faulty.writes();
    assert_eq!(writes.len(), 5);
    for write in &writes[1..] {
        assert_eq!((write.forwarded_at, write.answered_at, write.status), (None, None, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_registry_does_it_later_even_if_its_client_is_gone() {
    let mut registries = Registries::start().await;
    registries.put_image("team/tool", "1").await;
    let slow = Misbehaviour::Slow { millis: 500 };
    registries.misbehave_once("GET", "/manifests/1", slow.clone());
    let begun = Instant::now();
    assert_eq!(registries.get("team/tool/manifests/1").await.expect("an answer").status(), 200);
    assert!(begun.elapsed() >= Duration::from_millis(500));

    registries.misbehave_once("PUT", "/manifests/", slow);
    let gone = tokio::time::timeout(SILENCE_PERIOD, registries.put_manifest("2")).await;
    assert!(gone.is_err());
    assert!(!registries.is_written("2").await);
    assert_eq!(registries.put_manifest("2").await.expect("an answer").status(), 201);
    let writes = wait::until("the slow write", wait::SOON, || async {
        Some(registries.faulty.writes()).filter(|writes| writes.len() == 3)
    })
    .await;
    // The second of the two overtook the first.
    assert!(writes[1].received_at > writes[2].received_at);
    assert!(writes[1].answered_at <= writes[2].forwarded_at);
    assert_eq!((writes[1].status, writes[2].status), (Some(201), Some(201)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_closes_the_connection_and_nothing_is_done() {
    let mut registries = Registries::start().await;
    registries.put_image("team/tool", "1").await;
    registries.misbehave_once("PUT", "/manifests/", Misbehaviour::ResetMidBody);
    registries.put_manifest("2").await.expect_err("the connection is closed");
    assert!(!registries.is_written("2").await);
    assert_eq!(registries.faulty.writes()[1].forwarded_at, None);

    registries.misbehave_once("POST", "/blobs/uploads/", Misbehaviour::ResetMidBody);
    let start = registries.request(Method::POST, "team/tool/blobs/uploads/");
    start.body(vec![0; 3_000_000]).send().await.expect_err("the connection is closed");
    registries.misbehave_once("GET", "/manifests/1", Misbehaviour::ResetMidBody);
    registries.get("team/tool/manifests/1").await.expect_err("the connection is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_of_something_that_was_done() {
    let mut registries = Registries::start().await;
    registries.put_image("team/tool", "1").await;
    registries.misbehave_once("PUT", "/manifests/", Misbehaviour::LoseAnswer);
    registries.put_manifest("2").await.expect_err("no answer");
    assert!(registries.is_written("2").await);
    assert_eq!(registries.faulty.writes()[1].status, Some(201));

    let blob = Bytes::from_static(b"a blob whose upload is not answered");
    let digest = Digest::of(&blob);
    let start = registries.request(Method::POST, "team/tool/blobs/uploads/").send().await;
    let location =
        start.expect("an answer").headers()["location"].to_str().expect("text").to_owned();
    registries.misbehave_once("PUT", "/blobs/uploads/", Misbehaviour::LoseAnswer);
    let put = registries.client.put(format!("{location}&digest={digest}")).body(blob.clone());
    put.send().await.expect_err("no answer");
    assert_eq!(registries.real.blob("team/tool", &digest.to_string()).await, blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_digest_is_answered_or_a_wrong_byte_comes() {
    let mut registries = Registries::start().await;
    let digest = registries.put_image("team/tool", "1").await.to_string();
    let wrong = Misbehaviour::WrongDigest;
    registries.misbehave_once("PUT", "/manifests/", wrong.clone());
    let response = registries.put_manifest("2").await.expect("an answer");
    assert_eq!(response.status(), 201);
    assert_ne!(response.headers()["docker-content-digest"], digest);
    assert_eq!(
        registries.real.manifest("team/tool", "2").await.expect("written").1.to_string(),
        digest
    );

    let (manifest, _) = registries.real.manifest("team/tool", "1").await.expect("the image");
    let layer = manifest["layers"][0]["digest"].as_str().expect("a layer").to_owned();
    for (path, digest) in [("manifests/1".to_owned(), &digest), (format!("blobs/{layer}"), &layer)]
    {
        registries.misbehave_once("HEAD", &path, wrong.clone());
        let head = registries.request(Method::HEAD, &format!("team/tool/{path}")).send().await;
        assert_ne!(head.expect("an answer").headers()["docker-content-digest"], **digest);
        registries.misbehave_once("GET", &path, wrong.clone());
        let response = registries.get(&format!("team/tool/{path}")).await.expect("an answer");
        assert_eq!(response.headers()["docker-content-digest"], **digest);
        let bytes = response.bytes().await.expect("a body of the right length");
        assert_ne!(Digest::of(&bytes).to_string(), **digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_serve_until_they_expire() {
    let mut registries = Registries::start().await;
    registries.put_image("team/tool", "1").await;
    registries.faulty.require_tokens();
    let get = async |token: &str| {
        let get = registries.request(Method::GET, "team/tool/manifests/1").bearer_auth(token);
        get.send().await.expect("an answer")
    };
    let refused = get("guessed").await;
    assert_eq!(refused.status(), 401);
    let challenge = refused.headers()["www-authenticate"].to_str().expect("text");
    let rest = challenge.strip_prefix("Bearer realm=\"").expect("a challenge");
    let (realm, _service) = rest.split_once('"').expect("an address");
    let token = async || {
        let answer = registries.client.get(realm).send().await.expect("an answer");
        let document: serde_json::Value = answer.json().await.expect("JSON");
        document["token"].as_str().expect("a token").to_owned()
    };
    let first = token().await;
    assert_eq!(get(&first).await.status(), 200);
    let expired = Misbehaviour::ExpireTokens { offset: 0, is_early: true };
    registries.misbehave_once("GET", "/manifests/", expired);
    assert_eq!([get(&first).await.status(), get(&first).await.status()], [401, 401]);
    assert_eq!(get(&token().await).await.status(), 200);
    assert_eq!(registries.faulty.faults(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_says_how_long_chunks_are_to_be() {
    let registries = Registries::start().await;
    let start = async || {
        let start = registries.request(Method::POST, "team/tool/blobs/uploads/");
        start.send().await.expect("an answer")
    };
    let wish = Misbehaviour::ChunksOfAtLeast { bytes: 4096 };
    registries.misbehave_once("POST", "/blobs/uploads/", wish);
    let response = start().await;
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["oci-chunk-min-length"], "4096");
    assert!(!start().await.headers().contains_key("oci-chunk-min-length"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_apply_in_order_so_often_and_so_likely_as_they_say() {
    let registries = Registries::start().await;
    let rule = |status, times, probability| Rule {
        method: None,
        path_contains: "/manifests/".to_owned(),
        misbehaviour: Misbehaviour::ServerError(status),
        times,
        probability,
    };
    let status = async || {
        registries.get("team/tool/manifests/1").await.expect("an answer").status().as_u16()
    };
    registries.faulty.set_rules(vec![rule(500, Some(2), 1.0)]);
    registries.faulty.add_rule(rule(502, None, 1.0));
    assert_eq!(
        [status().await, status().await, status().await, status().await],
        [500, 500, 502, 502]
    );
    registries.faulty.clear();
    assert_eq!(status().await, 404);
    assert_eq!(registries.faulty.faults(), 4);
    assert_eq!(registries.get("team/tool/tags/list").await.expect("an answer").status(), 404);

    registries.faulty.set_rules(vec![rule(500, None, 0.5), rule(502, None, 1.0)]);
    let mut likely = 0;
    for _ in 0..60 {
        likely += u32::from(status().await == 500);
    }
    assert!((10..50).contains(&likely), "{likely} of 60");
    registries.faulty.set_rules(vec![rule(500, None, 0.0)]);
    assert_eq!(status().await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_recorded_in_the_order_of_their_effect() {
    let mut registries = Registries::start().await;
    let begun = Timestamp::now();
    let digest = registries.put_image("team/tool", "1").await;
    registries.put_manifest("2").await.expect("an answer");
    let repaired = registries.request(Method::PUT, "team/tool/manifests/3");
    let repaired = repaired.header("slipway-tag-write", "build=b-4 epoch=5 repairs=b-3");
    let refused = r#"{"schemaVersion":2}"#;
    let answer = repaired.header("content-type", MANIFEST_TYPE).body(refused).send().await;
    assert_eq!(answer.expect("an answer").status(), 400);

    let writes = registries.faulty.writes();
    let tags: Vec<&str> = writes.iter().map(|write| write.reference.as_str()).collect();
    assert_eq!(tags, ["1", "2", "3"]);
    let statuses: Vec<Option<u16>> = writes.iter().map(|write| write.status).collect();
    assert_eq!(statuses, [Some(201), Some(201), Some(400)]);
    assert_eq!((writes[0].repository.as_str(), &writes[0].writer), ("team/tool", &None));
    assert_eq!(writes[0].digest, digest.to_string());
    assert_eq!(writes[2].digest, Digest::of(refused.as_bytes()).to_string());
    let writer = |build: &str, epoch, repairs: Option<&str>| {
        Some(TagWriter { build: build.to_owned(), epoch, repairs: repairs.map(str::to_owned) })
    };
    assert_eq!(writes[1].writer, writer("b-2", 3, None));
    assert_eq!(writes[2].writer, writer("b-4", 5, Some("b-3")));
    let times = |write: &slipway_tests::faulty_registry::ManifestWrite| {
        [Some(write.received_at), write.forwarded_at, write.answered_at]
    };
    let times: Vec<Timestamp> =
        writes.iter().flat_map(times).map(|time| time.expect("done")).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(begun <= times[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_one_tag_take_turns() {
    let mut registries = Registries::start().await;
    registries.put_image("team/tool", "1").await;
    let (manifest, _) = registries.real.manifest("team/tool", "1").await.expect("the image");
    futures::future::join_all((0..20).map(|_| registries.put("2", manifest.to_string()))).await;
    let writes = registries.faulty.writes();
    assert_eq!(writes.len(), 21);
    for pair in writes[1..].windows(2) {
        assert!(pair[0].answered_at <= pair[1].forwarded_at, "{pair:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_registry_does_not_answer_for_one_that_is_down() {
    let mut registries = Registries::start().await;
    registries.put_image("team/tool", "1").await;
    registries.real.kill();
    registries.get("team/tool/manifests/1").await.expect_err("the connection is closed");
    registries.real.restart().await;
    assert_eq!(registries.get("team/tool/manifests/1").await.expect("an answer").status(), 200);
}
