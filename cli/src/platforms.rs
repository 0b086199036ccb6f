// SPDX-License-Identifier: Apache-2.0

//! The executables of an image for several platforms. A file tells its own platform, so several can
//! be named one after the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use slipway_artifact::{FileSource, InspectError};
use slipway_proto::{ArtifactFacts, ArtifactKind, Digest, Platform};

/// Why files cannot be the executables of further platforms.
#[derive(Debug, thiserror::Error)]
pub enum PlatformsError {
    /// One cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// One is no artifact.
    #[error("{} cannot become an image", path.display())]
    Inspect {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: InspectError,
    },
    /// One is no executable.
    #[error(
        "{} is a {kind}: only executables differ by platform; name one file, and the platforms with \
        --platform",
        path.display()
    )]
    Archive {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: ArtifactKind,
    },
    /// Two are for the same platform.
    #[error("{} and {} are both for {platform}: name one of them", one.display(), other.display())]
    Twice {
        /// The platform.
        platform: Platform,
        /// The file that was named first.
        one: PathBuf,
        /// The file that was named after it.
        other: PathBuf,
    },
}

/// The files of further platforms.
pub(crate) type Files = BTreeMap<Platform, PathBuf>;

/// Finds the platform of each file that is named behind the first one, and adds those that were
/// named with their platform. Reads the files.
pub(crate) fn find(
    further: &[PathBuf],
    named: &[(Platform, PathBuf)],
) -> Result<Files, PlatformsError> {
    let mut files = Files::new();
    let mut add = |platform: Platform, path: &Path| match files.insert(platform, path.to_owned()) {
        Some(one) => Err(PlatformsError::Twice { platform, one, other: path.to_owned() }),
        None => Ok(()),
    };
    for path in further {
        let read = |source| PlatformsError::Read { path: path.clone(), source };
        let source = FileSource::open(path).map_err(read)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let facts = slipway_artifact::inspect(&source, &name)
            .map_err(|source| PlatformsError::Inspect { path: path.clone(), source })?;
        let ArtifactFacts::Binary(elf) = facts else {
            return Err(PlatformsError::Archive { path: path.clone(), kind: facts.kind() });
        };
        add(elf.platform(), path)?;
    }
    for (platform, path) in named {
        add(*platform, path)?;
    }
    Ok(files)
}

/// Puts the digests of further artifacts into a request.
pub(crate) fn put(document: &mut Value, artifacts: &BTreeMap<Platform, Digest>) {
    if artifacts.is_empty() {
        return;
    }
    let members = artifacts.iter().map(|(platform, digest)| (platform.to_string(), json!(digest)));
    document["platform_artifacts"] = Value::Object(members.collect());
}

#[cfg(test)]
mod tests {
    use slipway_artifact::testing::{stored, zip};
    use slipway_proto::platform::Architecture;

    use super::*;

    fn elf(machine: u64) -> Vec<u8> {
        let mut executable = slipway_artifact::elf::testing::TestElf::executable();
        executable.machine = machine;
        executable.bytes()
    }

    #[test]
    fn a_file_tells_its_platform_and_each_has_one_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, bytes: Vec<u8>| {
            let path = directory.path().join(name);
            std::fs::write(&path, bytes).expect("it is written");
            path
        };
        let (arm, other) = (write("arm", elf(183)), write("other", elf(183)));
        let arm64 = Platform::from(Architecture::Arm64);
        let s390x = Platform::from(Architecture::S390x);
        let found = find(std::slice::from_ref(&arm), &[(s390x, other.clone())]).expect("found");
        assert_eq!(found, Files::from([(arm64, arm.clone()), (s390x, other.clone())]));

        let twice = find(&[arm.clone(), other.clone()], &[]).expect_err("both are for arm64");
        assert!(twice.to_string().contains("both for linux/arm64"), "{twice}");
        let named = find(std::slice::from_ref(&arm), &[(arm64, other)]);
        assert!(matches!(named, Err(PlatformsError::Twice { .. })));

        let class = stored("A.class", b"\xca\xfe\xba\xbe\0\0\0\x34");
        let jar = write("a.jar", zip([class]));
        let archive = find(&[jar], &[]).expect_err("it is no executable");
        assert!(matches!(archive, PlatformsError::Archive { .. }), "{archive:?}");
        assert!(find(&[directory.path().join("none")], &[]).is_err());
    }

    #[test]
    fn the_digests_stand_in_the_request_by_platform() {
        let mut document = json!({});
        put(&mut document, &BTreeMap::new());
        assert_eq!(document, json!({}));
        let digest = Digest::of(b"x");
        put(&mut document, &BTreeMap::from([(Platform::from(Architecture::Arm64), digest)]));
        assert_eq!(document, json!({"platform_artifacts": {"linux/arm64": digest}}));
    }
}
