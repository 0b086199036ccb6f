// SPDX-License-Identifier: Apache-2.0

//! Any bytes as a build request out of the queue.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slipway_fuzz::seeds;
use slipway_proto::artifact::{ArtifactFacts, ElfFacts};
use slipway_proto::environment::Catalogue;
use slipway_proto::platform::Architecture;
use slipway_proto::submission::Uploaded;
use slipway_proto::{BuildId, BuildRequest, Digest, Submission, codec};

fuzz_target!(
    init: seeds::write(inputs()),
    |bytes: &[u8]| {
        let Ok(request) = codec::decode(bytes) else { return };
        let encoded = codec::encode(&request).expect("what was decoded is small enough");
        assert_eq!(codec::decode(&encoded).expect("it was just written"), request);
        // The same request travels as JSON in records and events.
        let document = serde_json::to_string(&request).expect("it can be written");
        let read: BuildRequest = serde_json::from_str(&document).expect("it was just written");
        assert_eq!(read, request, "JSON says another thing");
        // What the worker takes for granted.
        assert_eq!(Some(request.image()), request.references.first());
    }
);

/// A plain request, and one with every field.
fn inputs() -> Vec<(&'static str, Vec<u8>)> {
    let uploaded = Uploaded {
        size_bytes: 48_234_496,
        filename: "app".into(),
        facts: ArtifactFacts::Binary(ElfFacts::new(Architecture::Amd64, None)),
    };
    let encoded = |mut fields: serde_json::Value| {
        fields["artifact"] = Digest::of(b"artifact").to_string().into();
        fields["image"] = "registry.example/team/app:1.4".into();
        let build = BuildId::from_bytes([7; 16]);
        let project = "team".parse().expect("a name");
        let accepted = Submission::read(&fields).accept(
            build,
            project,
            Some(&uploaded),
            &Catalogue::default(),
        );
        codec::encode(&accepted.expect("a good request")).expect("it is small")
    };
    let full = serde_json::json!({
        "additional_tags": ["latest"],
        "base": "registry.example/base:1",
        "env": {"JAVA_OPTIONS": "-Xmx256m"},
        "labels": {"team": "a"},
        "annotations": {"note": "n"},
        "ports": ["8080", "53/udp"],
        "args": ["--verbose"],
        "user": "1000:1000",
        "priority": "high",
        "registry_secret": "hub",
        "supersede_key": "refs/heads/main",
        "compression": "zstd",
    });
    vec![("plain", encoded(serde_json::json!({}))), ("full", encoded(full))]
}
