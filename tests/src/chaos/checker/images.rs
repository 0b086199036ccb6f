// SPDX-License-Identifier: Apache-2.0

//! I11: the registry holds the image that a build reports.

use std::collections::{BTreeMap, BTreeSet};

use super::Findings;
use super::facts::Facts;
use crate::chaos::history::What;
use crate::faulty_registry::ManifestWrite;

/// Event, record and registry name one digest, and all of its blobs exist.
pub(super) fn published(facts: &Facts<'_>, findings: &mut Findings) {
    let mut manifests = BTreeMap::new();
    for entry in facts.entries {
        if let What::Manifest { digest, present, missing, .. } = &entry.what {
            manifests.insert(digest.as_str(), (*present, missing));
        }
    }
    let written: BTreeSet<&str> = facts
        .writes
        .iter()
        .filter(|write| write.reference == write.digest && is_effective(write))
        .map(|write| write.digest.as_str())
        .collect();
    for (id, build) in &facts.builds {
        if build.phase() != "succeeded" {
            continue;
        }
        let Some(digest) = build.digest() else {
            findings.add("I11", id, "it succeeded, and its record names no image".to_owned());
            continue;
        };
        for event in build.events("finished") {
            let said = event.data["published"]["digest"].as_str();
            if event.text("outcome") == "succeeded" && said != Some(digest) {
                let text = format!("its event says {said:?}, its record {digest}");
                findings.add("I11", id, text);
            }
        }
        if !written.contains(digest) {
            findings.add("I11", id, format!("nobody wrote its manifest {digest}"));
        }
        match manifests.get(digest) {
            Some((true, missing)) if missing.is_empty() => {}
            Some((true, missing)) => {
                findings.add(
                    "I11",
                    id,
                    format!("blobs of its image {digest} are missing: {missing:?}"),
                );
            }
            Some((false, _)) | None => {
                findings.add("I11", id, format!("its manifest {digest} is not in the registry"));
            }
        }
    }
}

/// Returns whether a write may have had its effect.
pub(super) fn is_effective(write: &ManifestWrite) -> bool {
    write.forwarded_at.is_some() && write.status.is_none_or(|status| (200..300).contains(&status))
}
