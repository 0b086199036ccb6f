// SPDX-License-Identifier: Apache-2.0

//! Builds for tests.

use serde_json::json;
use slipway_proto::artifact::ElfFacts;
use slipway_proto::environment::Catalogue;
use slipway_proto::outcome::{Image, Layer, StageTime, Transfer};
use slipway_proto::platform::Architecture;
use slipway_proto::submission::Uploaded;
use slipway_proto::{
    ArtifactFacts, Build, BuildId, Digest, Platform, Reference, Stage, Submission, Timestamp,
};

/// Makes the record of a build of the project `team` that was just accepted.
pub(crate) fn build() -> Build {
    let document = json!({
        "artifact": Digest::of(b"artifact"), "image": "r.example/app:1", "environment": "scratch"
    });
    let facts = ArtifactFacts::Binary(ElfFacts::new(Architecture::Amd64, None));
    let uploaded = Uploaded { size_bytes: 8, filename: "app".to_owned(), facts };
    let project = "team".parse().expect("a name");
    let request = Submission::read(&document)
        .accept(BuildId::fresh(), project, Some(&uploaded), &Catalogue::default())
        .expect("it is accepted");
    let accepted = Build::accepted(request, Digest::of(b"submission"), Timestamp::now());
    Build { order: 7, ..accepted }
}

/// Makes the image of a build that succeeded.
pub(crate) fn image() -> Image {
    let reference: Reference = "r.example/app:1".parse().expect("a reference");
    let digest = Digest::of(b"manifest");
    Image {
        digest,
        pull: reference.with_digest(digest),
        references: vec![reference],
        superseded: Vec::new(),
        platform: Platform::LINUX_AMD64,
        config_digest: Digest::of(b"config"),
        base: None,
        layers: vec![Layer {
            digest: Digest::of(b"layer"),
            diff_id: Digest::of(b"tar"),
            size_bytes: 5,
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            base: false,
            transfer: Transfer::Uploaded,
        }],
        size_bytes: 10,
        sent_bytes: 10,
        assembly_version: 1,
        platforms: Vec::new(),
        stages: vec![StageTime { stage: Stage::Push, duration_us: 7 }],
    }
}
