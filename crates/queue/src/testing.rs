// SPDX-License-Identifier: Apache-2.0

//! Builds for tests.

use serde_json::json;
use slipway_proto::artifact::ElfFacts;
use slipway_proto::environment::Catalogue;
use slipway_proto::platform::Architecture;
use slipway_proto::submission::Uploaded;
use slipway_proto::{ArtifactFacts, Build, BuildId, Digest, Submission, Timestamp};

/// Makes the record of a build of the project `team` that was just accepted.
pub(crate) fn build() -> Build {
    let document = json!({
        "artifact": Digest::of(b"artifact"), "image": "r.example/app:1", "environment": "scratch"
    });
    let (architecture, interpreter) = (Architecture::Amd64, None);
    let facts = ArtifactFacts::Binary(ElfFacts { architecture, interpreter });
    let uploaded = Uploaded { size_bytes: 8, filename: "app".to_owned(), facts };
    let project = "team".parse().expect("a name");
    let request = Submission::read(&document)
        .accept(BuildId::fresh(), project, Some(&uploaded), &Catalogue::default())
        .expect("it is accepted");
    let accepted = Build::accepted(request, Digest::of(b"submission"), Timestamp::now());
    Build { order: 7, ..accepted }
}
