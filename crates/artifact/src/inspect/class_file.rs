// SPDX-License-Identifier: Apache-2.0

//! The version of a class file, and the newest of many.

use std::collections::BTreeMap;
use std::io;

use crate::invalid::quoted;
use crate::source::Source;
use crate::zip::starts::Starts;
use crate::zip::{Archive, Entry};

/// Class-file versions are Java releases and 44 (JVM Specification, table 4.1-A).
const MAJOR_OF_RELEASE_0: u16 = 44;

/// From this major version on, the minor version 65535 says that the class uses preview features
/// (JVM Specification, 4.1).
const FIRST_WITH_PREVIEW: u16 = 56;

/// The number of bytes that tell a version: magic, minor and major version.
pub(super) const HEADER: usize = 8;

/// What a class file says about the JVM that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    /// The Java release.
    pub(super) release: u16,
    /// Whether it runs on that release alone, with preview features.
    pub(super) is_preview: bool,
}

impl Version {
    /// Reads the start of a class file. What is none has no version.
    pub(super) fn read(start: &[u8]) -> Option<Self> {
        let [0xca, 0xfe, 0xba, 0xbe, minor_1, minor_2, major_1, major_2] = *start.first_chunk()?
        else {
            return None;
        };
        let [minor, major] = [[minor_1, minor_2], [major_1, major_2]].map(u16::from_be_bytes);
        let release = major.checked_sub(MAJOR_OF_RELEASE_0).filter(|release| *release > 0)?;
        let is_preview = minor == u16::MAX && major >= FIRST_WITH_PREVIEW;
        Some(Self { release, is_preview })
    }
}

/// Returns whether an entry of an archive, or of a root of classes, is a class that every JVM may
/// load.
///
/// Those of other releases (`META-INF/versions` of a multi-release JAR) and module descriptors are
/// often compiled for newer releases, and an older JVM skips them.
pub(super) fn is_loaded(name: &[u8]) -> bool {
    name.ends_with(b".class")
        && !name.ends_with(b"module-info.class")
        && !name.starts_with(b"META-INF/versions/")
}

/// The newest version among classes, with one class that has it.
#[derive(Debug, Clone, Default)]
pub(super) struct Newest {
    newest: Option<(u16, String)>,
    previews: BTreeMap<u16, String>,
}

impl Newest {
    /// Reads the versions of the classes below a prefix for which `wanted` is true of the rest of
    /// the name.
    pub(super) fn of(
        archive: &Archive,
        source: &dyn Source,
        starts: &mut Starts,
        mut wanted: impl FnMut(&Entry) -> bool,
    ) -> io::Result<Self> {
        let mut newest = Self::default();
        for entry in archive.entries().iter().filter(|entry| wanted(entry)) {
            let mut start = [0; HEADER];
            let length = starts.read(source, entry.place(), &mut start)?;
            if let Some(version) = Version::read(&start[..length]) {
                newest.add(version, &entry.name);
            }
        }
        Ok(newest)
    }

    fn add(&mut self, version: Version, name: &str) {
        if self.newest.as_ref().is_none_or(|(release, _)| *release < version.release) {
            self.newest = Some((version.release, quoted(name)));
        }
        if version.is_preview {
            self.previews.entry(version.release).or_insert_with(|| quoted(name));
            // Two of them contradict each other already.
            if self.previews.len() > 2 {
                self.previews.pop_last();
            }
        }
    }

    /// Returns the newest release and the quoted name of a class that has it.
    pub(super) fn release(&self) -> Option<(u16, &str)> {
        self.newest.as_ref().map(|(release, name)| (*release, name.as_str()))
    }

    /// Returns the releases whose preview features are used, with the quoted name of a class of
    /// each.
    pub(super) fn previews(&self) -> &BTreeMap<u16, String> {
        &self.previews
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{deflated, stored, zip};

    fn class(major: u16, minor: u16) -> Vec<u8> {
        let numbers = [minor, major].map(u16::to_be_bytes).concat();
        [b"\xca\xfe\xba\xbe", numbers.as_slice(), &[7; 3000]].concat()
    }

    fn newest(entries: impl IntoIterator<Item = crate::testing::TestEntry>) -> Newest {
        let bytes = zip(entries);
        let archive = Archive::read(&bytes).expect("it is read");
        let wanted = |entry: &Entry| is_loaded(entry.name.as_bytes());
        Newest::of(&archive, &bytes, &mut Starts::default(), wanted).expect("memory is read")
    }

    #[test]
    fn the_newest_class_that_is_loaded_counts() {
        let newest = newest([
            deflated("A.class", &class(52, 0)),
            stored("b/B.class", &class(61, 0)),
            deflated("C.class", &class(55, 3)),
            deflated("module-info.class", &class(69, 0)),
            deflated("b/module-info.class", &class(69, 0)),
            deflated("META-INF/versions/25/D.class", &class(69, 0)),
            stored("E.classes", &class(69, 0)),
        ]);
        assert_eq!(newest.release(), Some((17, "`b/B.class`")));
        assert!(newest.previews().is_empty());
    }

    #[test]
    fn preview_features_are_told_by_the_minor_version() {
        let preview = newest([
            stored("A.class", &class(61, 65535)),
            stored("B.class", &class(65, 65535)),
            stored("C.class", &class(65, 65535)),
            // Before Java 12, a minor version is only a number.
            stored("D.class", &class(55, 65535)),
        ]);
        let expected = BTreeMap::from([(17, "`A.class`".into()), (21, "`B.class`".into())]);
        assert_eq!(preview.previews(), &expected);
    }

    #[test]
    fn what_is_no_class_is_passed_over() {
        let none = newest([
            stored("A.class", b"\xca\xfe\xba"),
            stored("B.class", b"not a class at all"),
            stored("C.class", &class(44, 0)),
            stored("D.class", &class(3, 0)),
            stored("E.class", b""),
        ]);
        assert_eq!(none.release(), None);
    }
}
