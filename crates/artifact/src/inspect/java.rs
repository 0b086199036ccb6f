// SPDX-License-Identifier: Apache-2.0

//! The Java release an archive needs.

use crate::invalid::InspectError;
use crate::manifest::Manifest;
use crate::source::Source;
use crate::zip::Archive;

/// Class-file versions are Java releases and 44 (JVM Specification, table 4.1-A).
const MAJOR_OF_RELEASE_0: u16 = 44;

/// Returns the newest Java release among the classes whose names are wanted.
///
/// Only the first 8 bytes of each are read: magic, minor and major version. Module descriptors are
/// skipped: they are often compiled for a newer release than the classes, and an older JVM skips
/// them too.
pub(super) fn newest_release(
    archive: &Archive,
    source: &dyn Source,
    wanted: impl Fn(&str) -> bool,
) -> Result<Option<u16>, InspectError> {
    let mut newest = None;
    for entry in archive.entries() {
        let class = entry.name.strip_suffix(".class");
        let module = |class: &str| class == "module-info" || class.ends_with("/module-info");
        if class.is_none_or(module) || !wanted(&entry.name) {
            continue;
        }
        let mut start = [0; 8];
        if archive.read_start(source, entry, &mut start)? < start.len()
            || !start.starts_with(b"\xca\xfe\xba\xbe")
        {
            continue;
        }
        let major = u16::from_be_bytes([start[6], start[7]]);
        newest = newest.max(major.checked_sub(MAJOR_OF_RELEASE_0).filter(|release| *release > 0));
    }
    Ok(newest)
}

/// Returns the Java release that a manifest names, from the attributes that Maven, Gradle and the
/// JDK's own tools write. Most say which JDK built the archive, which is at least what it needs.
pub(super) fn manifest_release(manifest: &Manifest) -> Option<u16> {
    ["Build-Jdk-Spec", "X-Compile-Target-JDK", "Build-Jdk", "Created-By"]
        .into_iter()
        .find_map(|name| release(manifest.get(name)?))
}

/// Reads `17`, `17.0.9+9`, `1.8` and `1.8.0_392 (Debian)`, and nothing from `Maven 3.9`.
fn release(version: &str) -> Option<u16> {
    let mut numbers = version.split(|character: char| !character.is_ascii_digit());
    let first: u16 = numbers.next()?.parse().ok()?;
    match first {
        1 => numbers.next()?.parse().ok(),
        release => Some(release),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{deflated, stored, zip};

    pub(super) fn class(major: u16) -> Vec<u8> {
        let mut bytes = b"\xca\xfe\xba\xbe\0\0".to_vec();
        bytes.extend_from_slice(&major.to_be_bytes());
        bytes.extend_from_slice(&[7; 3000]);
        bytes
    }

    #[test]
    fn the_newest_class_counts() {
        let bytes = zip([
            deflated("A.class", &class(52)),
            stored("b/B.class", &class(61)),
            deflated("C.class", &class(55)),
            deflated("module-info.class", &class(69)),
            deflated("b/module-info.class", &class(69)),
            deflated("ignored/D.class", &class(69)),
            stored("E.classes", &class(69)),
        ]);
        let archive = Archive::read(&bytes).expect("it is read");
        let wanted = |name: &str| !name.starts_with("ignored/");
        assert_eq!(newest_release(&archive, &bytes, wanted).expect("it is read"), Some(17));
        assert_eq!(newest_release(&archive, &bytes, |_| false).expect("it is read"), None);
    }

    #[test]
    fn what_is_no_class_is_passed_over() {
        let bytes = zip([
            stored("A.class", b"\xca\xfe\xba"),
            stored("B.class", b"not a class at all"),
            stored("C.class", &class(44)),
            stored("D.class", &class(3)),
            stored("E.class", b""),
        ]);
        let archive = Archive::read(&bytes).expect("it is read");
        assert_eq!(newest_release(&archive, &bytes, |_| true).expect("it is read"), None);
    }

    #[test]
    fn a_release_is_read_from_a_manifest() {
        let cases = [
            ("Build-Jdk-Spec: 17", Some(17)),
            ("Build-Jdk: 1.8.0_392", Some(8)),
            ("Created-By: 21.0.1 (Eclipse Adoptium)", Some(21)),
            ("X-Compile-Target-JDK: 11", Some(11)),
            ("Created-By: Maven JAR Plugin 3.4.1\nBuild-Jdk-Spec: 25", Some(25)),
            ("Created-By: Maven JAR Plugin 3.4.1", None),
            ("Build-Jdk: 99999999", None),
            ("Build-Jdk: 1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(manifest_release(&Manifest::parse(text.as_bytes())), expected, "{text}");
        }
    }
}
