// SPDX-License-Identifier: Apache-2.0

//! The facts of artifacts that were inspected before, by digest, for builds without a server. An
//! artifact store keeps the facts of its own with each upload.

use std::path::PathBuf;

use slipway_proto::{ArtifactFacts, Digest};

use crate::inspect;
use crate::record_cache::{Bounds, RecordCache, RecordKey};

/// At most 16 MiB of disk with a block for each record.
const BOUNDS: Bounds = Bounds { files: 4096, in_memory: 16 };

/// Remembers what was found in artifacts.
#[derive(Debug)]
pub struct KnownFacts(RecordCache<ArtifactFacts>);

impl KnownFacts {
    /// Keeps the facts in a directory, which need not exist.
    #[must_use]
    pub fn in_directory(directory: PathBuf) -> Self {
        Self(RecordCache::new(Some(directory), BOUNDS))
    }

    /// Returns the facts of an artifact, if this version of Slipway found them.
    #[must_use]
    pub fn get(&self, artifact: Digest) -> Option<ArtifactFacts> {
        self.0.get(key(artifact))
    }

    /// Remembers the facts of an artifact, unless they are known.
    pub fn remember(&self, artifact: Digest, facts: &ArtifactFacts) {
        if self.get(artifact).as_ref() != Some(facts) {
            self.0.put(key(artifact), facts.clone());
        }
    }
}

fn key(artifact: Digest) -> Digest {
    let mut key = RecordKey::new("facts of an artifact");
    key.number(inspect::VERSION.into());
    key.field(artifact.as_bytes());
    key.finish()
}

#[cfg(test)]
mod tests {
    use slipway_proto::artifact::JarFacts;

    use super::*;

    #[test]
    fn facts_are_known_to_the_next_process() {
        let directory = tempfile::tempdir().expect("a directory");
        let known = || KnownFacts::in_directory(directory.path().join("facts"));
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let facts = ArtifactFacts::Jar(JarFacts {
            java_release: Some(17),
            warnings: vec!["it may not start".into()],
            ..JarFacts::default()
        });
        assert_eq!(known().get(one), None);
        known().remember(one, &facts);
        assert_eq!(known().get(one), Some(facts));
        assert_eq!(known().get(other), None);
    }
}
