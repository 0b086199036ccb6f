// SPDX-License-Identifier: Apache-2.0

//! The main attributes of a JAR's manifest.
//!
//! Read as leniently as the JDK does (JAR File Specification, "JAR Manifest"). The JVM judges an
//! odd manifest; nothing here depends on its being right.

use crate::invalid::InspectError;
use crate::source::Source;
use crate::zip::{Archive, Entry};

/// Where a JAR has its manifest.
pub const PATH: &str = "META-INF/MANIFEST.MF";

/// How much of a manifest is read. Main sections have a few kilobytes. The sections after them,
/// some 200 bytes for each class of a signed archive, are not needed.
const MAX_READ_BYTES: usize = 1 << 20;

/// The main attributes of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    attributes: Vec<(String, String)>,
}

impl Manifest {
    /// Reads the main section: the lines up to the first empty one.
    ///
    /// A line that starts with a space continues the one before it. Lines are folded at 72 bytes,
    /// even within a character, so they are joined before they are read as UTF-8.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for line in physical_lines(bytes) {
            match (line.strip_prefix(b" "), lines.last_mut()) {
                (Some(continuation), Some(last)) => last.extend_from_slice(continuation),
                _ if line.is_empty() => break,
                _ => lines.push(line.to_vec()),
            }
        }
        let attribute = |line: &Vec<u8>| {
            let line = String::from_utf8_lossy(line);
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        };
        Self { attributes: lines.iter().filter_map(attribute).collect() }
    }

    /// Reads the manifest of an archive; without one, all attributes are absent.
    ///
    /// # Errors
    ///
    /// When its entry cannot be read.
    pub fn read(archive: &Archive, source: &dyn Source) -> Result<Self, InspectError> {
        // The JDK ignores the case of the name, and takes the last of several.
        let named = |entry: &&Entry| entry.name.eq_ignore_ascii_case(PATH);
        let entry = archive.entries().iter().rev().find(named);
        let Some(entry) = entry else { return Ok(Self::default()) };
        if entry.size <= MAX_READ_BYTES as u64 {
            return Ok(Self::parse(&archive.read_to_vec(source, entry, MAX_READ_BYTES)?));
        }
        let mut start = vec![0; MAX_READ_BYTES];
        archive.read_start(source, entry, &mut start)?;
        Ok(Self::parse(&start))
    }

    /// Returns an attribute's value. The case of a name does not matter, and the last of two
    /// attributes of one name counts.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut matching = self.attributes.iter().rev();
        let found = matching.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Splits at the line ends the specification allows: CR LF, LF and a single CR.
fn physical_lines(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let length = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        let (line, rest) = bytes.split_at(length.unwrap_or(bytes.len()));
        let end = if rest.starts_with(b"\r\n") { 2 } else { rest.len().min(1) };
        bytes = &rest[end..];
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{deflated, stored, zip};

    #[test]
    fn main_attributes_are_read_with_every_line_end() {
        for end in ["\r\n", "\n", "\r"] {
            let text = "Manifest-Version: 1.0\nMain-Class:  com.example.Main \n\nName: \
                x\nMain-Class: no\n";
            let manifest = Manifest::parse(text.replace('\n', end).as_bytes());
            assert_eq!(manifest.get("main-class"), Some("com.example.Main"), "{end:?}");
            assert_eq!(manifest.get("Name"), None, "{end:?}");
        }
    }

    #[test]
    fn folded_lines_are_joined_even_within_a_character() {
        let manifest = Manifest::parse(b"Main-Class: com.ex\r\n ample.M\xc3\r\n \xa4in\r\nA: b");
        assert_eq!(manifest.get("Main-Class"), Some("com.example.M\u{e4}in"));
        assert_eq!(manifest.get("A"), Some("b"));
    }

    #[test]
    fn of_two_attributes_the_last_counts_and_odd_lines_are_passed_over() {
        let manifest = Manifest::parse(b" odd\nodd\nA: 1\na: 2\nC:3:4\n");
        assert_eq!((manifest.get("A"), manifest.get("C")), (Some("2"), Some("3:4")));
        assert_eq!(Manifest::parse(b"").get("A"), None);
    }

    #[test]
    fn the_manifest_of_an_archive_is_found_in_any_case() {
        for name in [PATH, "META-INF/manifest.mf"] {
            let bytes = zip([stored("x", b""), deflated(name, b"Main-Class: M\n")]);
            let archive = Archive::read(&bytes).expect("it is read");
            let manifest = Manifest::read(&archive, &bytes).expect("it is read");
            assert_eq!(manifest.get("Main-Class"), Some("M"));
        }
        let bytes = zip([stored("x", b"")]);
        let archive = Archive::read(&bytes).expect("it is read");
        assert_eq!(Manifest::read(&archive, &bytes).expect("absent"), Manifest::default());
    }

    /// As `java -jar` of 17 and 25 does.
    #[test]
    fn of_several_manifests_the_last_is_read() {
        for names in [[PATH, PATH], [PATH, "META-INF/manifest.mf"], ["META-INF/manifest.mf", PATH]]
        {
            let bytes =
                zip([stored(names[0], b"Main-Class: A\n"), stored(names[1], b"Main-Class: B\n")]);
            let archive = Archive::read(&bytes).expect("it is read");
            let manifest = Manifest::read(&archive, &bytes).expect("it is read");
            assert_eq!(manifest.get("Main-Class"), Some("B"), "{names:?}");
        }
    }

    #[test]
    fn of_a_huge_manifest_only_the_main_section_is_read() {
        let text = format!("Main-Class: M\n\n{}", "Name: x\n\n".repeat(200_000));
        let bytes = zip([deflated(PATH, text.as_bytes())]);
        let archive = Archive::read(&bytes).expect("it is read");
        let manifest = Manifest::read(&archive, &bytes).expect("it is read");
        assert_eq!(manifest.get("Main-Class"), Some("M"));
    }
}
