// SPDX-License-Identifier: Apache-2.0

//! The way to a registry: proxies, and where a registry sends requests to.

use slipway_tests::certificate::Certificate;
use slipway_tests::faulty_registry::{FaultyRegistry, Misbehaviour, Rule};
use slipway_tests::proxy::Counter;

use super::Scene;

const NOWHERE: &str = "http://127.0.0.1:9";

#[tokio::test(flavor = "multi_thread")]
async fn loopback_is_reached_without_a_proxy_however_it_is_written() {
    let scene = Scene::start().await;
    let port = scene.faulty.address().split_once(':').expect("a port").1.to_owned();
    for (number, host) in ["127.0.0.1", "localhost", "127.0.0.2"].into_iter().enumerate() {
        let image = format!("{host}:{port}/team/tool:{number}");
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"] {
            let (marker, scratch) = (number.to_string(), ["--environment", "scratch"]);
            let environment = [(name, NOWHERE), ("NO_PROXY", "other.example")];
            let built = scene.build_with(&marker, &image, &scratch, &environment).await;
            // Linux answers on all of 127.0.0.0/8, but the registry listens on one of them.
            if host == "127.0.0.2" {
                assert!(!built.says.contains("proxy"), "{}", built.says);
                break;
            }
            built.good();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_elsewhere_is_reached_by_the_proxy_which_a_failure_names() {
    let scene = Scene::start().await;
    let counter = Counter::start().await;
    let proxy = format!("http://user:secret@{}", counter.address());
    let once = ["--environment", "scratch", "--max-attempts", "1"];
    for (scheme, variable) in [("--insecure-registry", "HTTP_PROXY"), ("", "HTTPS_PROXY")] {
        let host = "registry.invalid:5000";
        let mut arguments = once.to_vec();
        if !scheme.is_empty() {
            arguments.extend([scheme, host]);
        }
        let image = format!("{host}/team/tool:1");
        let before = counter.connections();
        let built = scene.build_with("a", &image, &arguments, &[(variable, &proxy)]).await;
        let built = built.failed_for(&format!("by way of the proxy http://{}", counter.address()));
        assert!(!built.says.contains("secret"), "{}", built.says);
        assert!(counter.connections() > before, "{variable}");
        let none = [(variable, proxy.as_str()), ("NO_PROXY", "registry.invalid")];
        let before = counter.connections();
        let built = scene.build_with("a", &image, &arguments, &none).await;
        assert!(!built.is_good && !built.says.contains("proxy"), "{}", built.says);
        assert_eq!(counter.connections(), before);
    }
}

/// A registry with TLS, and a plain port that counts connections.
struct Sending {
    scene: Scene,
    tls: FaultyRegistry,
    plain: Counter,
    certificate: Certificate,
}

impl Sending {
    async fn start() -> Self {
        let scene = Scene::start().await;
        let certificate = Certificate::self_signed(scene.directory.path(), "IP:127.0.0.1");
        let tls = FaultyRegistry::with_tls(&scene.real.address, &certificate).await;
        Self { scene, tls, plain: Counter::start().await, certificate }
    }

    fn rule(&self, method: &'static str, path: &str, misbehaviour: Misbehaviour) {
        self.tls.set_rules(vec![Rule {
            method: Some(method),
            path_contains: path.to_owned(),
            misbehaviour,
            times: None,
            probability: 1.0,
        }]);
    }

    async fn build(&self, marker: &str, more: &[&str]) -> super::Built {
        let image = format!("{}/team/tool:{marker}", self.tls.address());
        let trusted = self.certificate.certificate.to_str().expect("UTF-8");
        let mut arguments = vec!["--environment", "scratch", "--registry-tls", self.tls.address()];
        arguments.extend(more);
        self.scene.build_with(marker, &image, &arguments, &[("SSL_CERT_FILE", trusted)]).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_follows_a_registry_from_tls_to_plain_http() {
    let sending = Sending::start().await;
    sending.build("secure", &[]).await.good();
    let plain = format!("http://{}", sending.plain.address());
    sending.rule("POST", "/blobs/uploads/", Misbehaviour::SendUploadsTo(plain.clone()));
    let built = sending.build("upload", &[]).await;
    let sentence = format!("the registry sends uploads to {plain}");
    built.failed_for(&sentence).failed_for("X-Forwarded-Proto");

    for status in [307, 308] {
        let to = format!("{plain}/v2/team/tool/blobs/uploads/");
        let headers = vec![("location", to)];
        let redirect = Misbehaviour::Answer { status, code: "NONE", headers };
        sending.rule("POST", "/blobs/uploads/", redirect);
        let built = sending.build("redirect", &[]).await;
        built.failed_for(&format!("the registry sends requests to {plain}"));
    }
    let headers = vec![("www-authenticate", format!("Bearer realm=\"{plain}/token\""))];
    let token = Misbehaviour::Answer { status: 401, code: "UNAUTHORIZED", headers };
    sending.rule("POST", "/blobs/uploads/", token);
    sending.build("token", &[]).await.failed_for("without TLS");
    assert_eq!(sending.plain.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_may_allow_a_plain_host_behind_a_registry_with_tls() {
    let sending = Sending::start().await;
    let plain = format!("http://{}", sending.scene.faulty.address());
    // The address behind it is another host, which may not be a private one.
    sending.rule("POST", "/blobs/uploads/", Misbehaviour::SendUploadsTo(plain));
    let allowed = ["--insecure-registry", sending.scene.faulty.address()];
    let built = sending.build("allowed", &allowed).await;
    built.failed_for("a private address on another host");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_guess_about_tls_is_one_attempt_and_says_what_to_do() {
    let sending = Sending::start().await;
    let trusted = sending.certificate.certificate.to_str().expect("UTF-8").to_owned();
    let (tls, plain) = (sending.tls.address(), sending.scene.faulty.address());
    let scratch = ["--environment", "scratch"];
    let image = |registry: &str| format!("{registry}/team/tool:1");
    let build = async |image: &str, more: &[&str]| {
        let arguments = [&scratch[..], more].concat();
        sending.scene.build_with("a", image, &arguments, &[("SSL_CERT_FILE", &trusted)]).await
    };
    let built = build(&image(tls), &[]).await;
    built.failed_for(&format!("{tls} speaks TLS")).failed_for(&format!("--registry-tls {tls}"));
    let built = build(&image(plain), &["--registry-tls", plain]).await;
    let sentence = format!("{plain} speaks plain HTTP; allow it with --insecure-registry {plain}");
    built.failed_for(&sentence);
    build(&image(tls), &["--registry-tls", tls]).await.good();
    build(&image(plain), &[]).await.good();
}
