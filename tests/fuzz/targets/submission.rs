// SPDX-License-Identifier: Apache-2.0

//! Any JSON as the request of a client. The first byte says what was uploaded.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use slipway_proto::artifact::{ArtifactFacts, ElfFacts, JarFacts, WarFacts};
use slipway_proto::environment::Catalogue;
use slipway_proto::platform::Architecture;
use slipway_proto::submission::Uploaded;
use slipway_proto::{BuildId, BuildRequest, Submission, codec};

fuzz_target!(|bytes: &[u8]| {
    let Some((first, text)) = bytes.split_first() else { return };
    let Ok(document) = serde_json::from_slice::<Value>(text) else { return };
    let submission = Submission::read(&document);
    let pretty = serde_json::to_string_pretty(&document).expect("a value can be written");
    let pretty: Value = serde_json::from_str(&pretty).expect("it was just written");
    // serde_json may read a fraction that it wrote as its neighbour.
    if pretty == document {
        assert_eq!(Submission::read(&pretty).digest(), submission.digest(), "spacing counts");
    }

    let uploaded =
        facts(*first).map(|facts| Uploaded { size_bytes: 7, filename: "app".into(), facts });
    let project = "team".parse().expect("a name");
    let build = BuildId::from_bytes([7; 16]);
    match submission.accept(build, project, uploaded.as_ref(), &Catalogue::default()) {
        Err(mistakes) => {
            assert!(!mistakes.is_empty(), "refused without a reason");
            assert!(mistakes.iter().all(|mistake| !mistake.detail.is_empty()));
            assert!(mistakes.iter().all(|mistake| !mistake.code.is_empty()));
        }
        Ok(request) => {
            let encoded = codec::encode(&request).expect("it was accepted");
            assert_eq!(codec::decode(&encoded).expect("it was just written"), request);
            let document = serde_json::to_string(&request).expect("it can be written");
            let read: BuildRequest = serde_json::from_str(&document).expect("it was just written");
            assert_eq!(read, request, "JSON says another thing");
            assert!((1..=32).contains(&request.references.len()));
        }
    }
});

fn facts(first: u8) -> Option<ArtifactFacts> {
    match first % 4 {
        0 => None,
        1 => Some(ArtifactFacts::Jar(JarFacts::default())),
        2 => Some(ArtifactFacts::War(WarFacts::default())),
        _ => Some(ArtifactFacts::Binary(ElfFacts::new(
            Architecture::Arm64,
            Some("/lib/ld-linux-aarch64.so.1"),
        ))),
    }
}
