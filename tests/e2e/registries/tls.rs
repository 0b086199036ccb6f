// SPDX-License-Identifier: Apache-2.0

//! Certificates of registries, and failures of TLS that last.

use slipway_tests::certificate::Certificate;
use slipway_tests::faulty_registry::FaultyRegistry;
use slipway_tests::proxy::Counter;

use super::{Built, Scene};

const HERE: &str = "IP:127.0.0.1,DNS:localhost";

/// Builds for a registry with a certificate, trusting another, if there is one, beside none of this
/// machine's.
async fn build(scene: &Scene, registry: &str, trusted: Option<&Certificate>) -> Built {
    let nobody = Certificate::self_signed(&scene.path("nobody"), "DNS:nobody.invalid");
    let trusted = trusted.unwrap_or(&nobody).certificate.to_str().expect("UTF-8").to_owned();
    let arguments = ["--environment", "scratch", "--registry-tls", registry];
    let environment = [("SSL_CERT_FILE", trusted.as_str()), ("SSL_CERT_DIR", "")];
    scene.build_with("a", &format!("{registry}/team/tool:1"), &arguments, &environment).await
}

/// Checks that the message has no name of a type of the library's.
fn plainly(built: &Built) {
    for name in ["Other(", "OtherError", "CaUsed", "invalid peer", "UnknownIssuer", "NotValidFor"] {
        assert!(!built.says.contains(name), "{name}: {}", built.says);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_trusted_is_taken_and_another_is_one_attempt_and_a_sentence() {
    let scene = Scene::start().await;
    let own = Certificate::self_signed(&scene.path("own"), HERE);
    let registry = FaultyRegistry::with_tls(&scene.real.address, &own).await;
    build(&scene, registry.address(), Some(&own)).await.good();
    let built = build(&scene, registry.address(), None).await;
    let built = built.failed_for("has a certificate that").failed_for("SSL_CERT_FILE");
    plainly(&built);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_an_own_authority_is_taken() {
    let scene = Scene::start().await;
    let authority = Certificate::self_signed(&scene.path("ca"), "DNS:ca.invalid");
    let issued = authority.issue(&scene.path("ca"), HERE, 2);
    let registry = FaultyRegistry::with_tls(&scene.real.address, &issued).await;
    build(&scene, registry.address(), Some(&authority)).await.good();
    // It is itself among the trusted ones.
    build(&scene, registry.address(), Some(&issued)).await.good();
    let built = build(&scene, registry.address(), None).await;
    let built = built.failed_for("does not know who issued it").failed_for("certificate");
    plainly(&built);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_refused_with_its_names() {
    let scene = Scene::start().await;
    let other = Certificate::self_signed(&scene.path("other"), "DNS:registry.test");
    let registry = FaultyRegistry::with_tls(&scene.real.address, &other).await;
    let built = build(&scene, registry.address(), Some(&other)).await;
    plainly(&built.failed_for("has a certificate for registry.test"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_expired_is_refused_even_if_it_is_trusted() {
    let scene = Scene::start().await;
    let authority = Certificate::self_signed(&scene.path("ca"), "DNS:ca.invalid");
    let expired = authority.issue(&scene.path("ca"), HERE, 0);
    let registry = FaultyRegistry::with_tls(&scene.real.address, &expired).await;
    // It is good for the second in which it was made.
    slipway_tests::wait::until("the certificate to expire", slipway_tests::wait::SOON, || async {
        let built = build(&scene, registry.address(), Some(&authority)).await;
        (!built.is_good).then_some(())
    })
    .await;
    for trusted in [&authority, &expired] {
        let built = build(&scene, registry.address(), Some(trusted)).await;
        plainly(&built.failed_for("has a certificate that has expired"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_common_version_of_tls_is_one_attempt_and_a_sentence() {
    let scene = Scene::start().await;
    // A fatal alert: protocol_version (RFC 8446, 6.2).
    let old = Counter::answering(&[0x15, 3, 1, 0, 2, 2, 70]).await;
    let built = build(&scene, old.address(), None).await;
    plainly(&built.failed_for("no version or cipher of TLS in common"));
    let connections = old.connections();
    assert!(connections <= 4, "a mount and an upload of each blob: {connections}");
}
