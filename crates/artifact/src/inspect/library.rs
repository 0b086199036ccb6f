// SPDX-License-Identifier: Apache-2.0

//! A JAR inside an artifact, looked into without unpacking it.
//!
//! A stored JAR has its list of entries in the artifact, so that is read, and a few entries. Of a
//! deflated one only the start is inflated, and its local headers are followed. Nothing here is
//! refused: the JVM judges a library, and what cannot be read tells nothing.

use std::io::{self, Read as _};
use std::ops::Range;

use flate2::{Decompress, FlushDecompress, Status};

use super::class_file::{HEADER, Version, is_loaded};
use crate::invalid::InspectError;
use crate::source::{Section, Source};
use crate::zip::starts::{Place, Starts};
use crate::zip::{Archive, Entry, Method, central};

/// How many classes are looked at where the library has more.
const FEW: usize = 4;
/// How many where those disagree.
const MANY: usize = 16;
/// Of up to this many classes each is looked at.
const ALL: usize = 8;

/// How much of a deflated library is inflated at first. Then it is doubled.
const PIECE: usize = 8 << 10;

/// What must be there of an entry's data for its first bytes to be read.
const CLASS_HEAD: usize = 512;

/// A longer list of entries is not read: it would be that of 40,000 classes.
const LONGEST_DIRECTORY: u64 = 4 << 20;

/// The names of the files by which libraries tell servers to start them (Servlet 6.0, 8.2.4).
pub(super) const INITIALIZERS: [&[u8]; 2] = [
    b"META-INF/services/javax.servlet.ServletContainerInitializer",
    b"META-INF/services/jakarta.servlet.ServletContainerInitializer",
];

/// How far a deflated library is looked into.
#[derive(Debug, Clone, Copy)]
pub(super) struct Depth {
    /// The number of bytes that are inflated.
    pub(super) bytes: usize,
    /// The number of classes after which the rest does not matter.
    pub(super) classes: usize,
}

/// A JAR inside an artifact.
pub(super) struct Library<'a> {
    /// The stored JAR; none if `bytes` holds the start of it.
    stored: Option<Section<'a>>,
    /// Its list of entries, or the start of the JAR itself.
    bytes: Vec<u8>,
    classes: Vec<Class>,
    /// Whether it has each of [`INITIALIZERS`].
    initializers: [bool; 2],
}

struct Class {
    name: Range<usize>,
    place: Place,
}

impl<'a> Library<'a> {
    /// Opens a library. Whatever is inflated of a deflated one is taken from `left`.
    ///
    /// # Errors
    ///
    /// When the source cannot be read.
    pub(super) fn open(
        archive: &Archive,
        source: &'a dyn Source,
        entry: &Entry,
        depth: Depth,
        left: &mut usize,
    ) -> io::Result<Self> {
        let mut library =
            Self { stored: None, bytes: Vec::new(), classes: Vec::new(), initializers: [false; 2] };
        let opened = match entry.method {
            Method::Stored => library.open_stored(archive, source, entry),
            Method::Deflated => library.open_deflated(archive, source, entry, depth, left),
        };
        match opened {
            Ok(()) | Err(InspectError::Invalid(_)) => Ok(library),
            Err(InspectError::Read(error)) => Err(error),
        }
    }

    /// Opens a library that is not compressed.
    ///
    /// # Errors
    ///
    /// When the source cannot be read.
    pub(super) fn of(section: Section<'a>) -> io::Result<Self> {
        let mut library =
            Self { stored: None, bytes: Vec::new(), classes: Vec::new(), initializers: [false; 2] };
        match library.open_section(section) {
            Ok(()) | Err(InspectError::Invalid(_)) => Ok(library),
            Err(InspectError::Read(error)) => Err(error),
        }
    }

    fn open_stored(
        &mut self,
        archive: &Archive,
        source: &'a dyn Source,
        entry: &Entry,
    ) -> Result<(), InspectError> {
        let offset = archive.data_offset(source, entry)?;
        self.open_section(Section::new(source, offset, entry.size))
    }

    fn open_section(&mut self, section: Section<'a>) -> Result<(), InspectError> {
        self.stored = Some(section);
        let central::List { offset, size, base } = central::find(&section)?;
        if size > LONGEST_DIRECTORY {
            return Ok(());
        }
        self.bytes = vec![0; usize::try_from(size).expect("at most 4 MiB")];
        section.read_exact_at(offset, &mut self.bytes)?;
        let bytes = std::mem::take(&mut self.bytes);
        for record in central::records(&bytes) {
            let place = record.place(base);
            self.add(&bytes, record.name, place);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Inflates a library piece by piece, and follows the local headers as far as they are there.
    fn open_deflated(
        &mut self,
        archive: &Archive,
        source: &dyn Source,
        entry: &Entry,
        depth: Depth,
        left: &mut usize,
    ) -> Result<(), InspectError> {
        let length = usize::try_from(entry.size).unwrap_or(usize::MAX).min(depth.bytes);
        let mut reader = archive.open(source, entry)?;
        let (mut bytes, mut at) = (Vec::new(), 0);
        while bytes.len() < length && at < length && *left > 0 {
            if self.classes.len() >= depth.classes {
                break;
            }
            let start = bytes.len();
            bytes.resize(length.min(start + PIECE.max(start)), 0);
            let read = reader.read_exact(&mut bytes[start..]);
            if read.is_err() {
                break;
            }
            *left = left.saturating_sub(bytes.len() - start);
            self.follow(&bytes, &mut at, bytes.len() == length, left);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Adds the entries from `at` on whose start is there. `is_last` says that no more bytes will be.
    fn follow(&mut self, bytes: &[u8], at: &mut usize, is_last: bool, left: &mut usize) {
        while let Some(header) = central::local_header(bytes, *at) {
            let data = header.name.end + header.extra;
            let is_there = data.saturating_add(CLASS_HEAD) <= bytes.len();
            let rest = bytes.get(data..).unwrap_or_default();
            let length = match header.compressed_size {
                Some(size) if is_there || is_last => usize::try_from(size).unwrap_or(usize::MAX),
                None if is_last => inflated_length(rest, left).unwrap_or(rest.len()),
                None if is_there => match inflated_length(rest, left) {
                    Some(length) => length,
                    None => return,
                },
                _ => return,
            };
            if let Some(method) = header.method {
                let place = Place { local: *at as u64, method, compressed_size: length as u64 };
                self.add(bytes, header.name, Some(place));
            }
            let behind = if header.compressed_size.is_some() { 0 } else { header.descriptor };
            *at = data.saturating_add(length).saturating_add(behind);
        }
    }

    fn add(&mut self, bytes: &[u8], name: Range<usize>, place: Option<Place>) {
        let text = &bytes[name.clone()];
        if is_loaded(text) {
            self.classes.extend(place.map(|place| Class { name, place }));
        } else if text.len() >= INITIALIZERS[0].len() {
            for (found, known) in self.initializers.iter_mut().zip(INITIALIZERS) {
                *found |= text == known;
            }
        }
    }

    fn source(&self) -> &dyn Source {
        match &self.stored {
            Some(section) => section,
            None => &self.bytes,
        }
    }

    /// Returns whether it has an initializer for `javax.servlet` and for `jakarta.servlet`.
    pub(super) fn initializers(&self) -> [bool; 2] {
        self.initializers
    }

    /// Returns what its classes need of the JVM, from a few of them.
    ///
    /// A version that very few classes have is passed over: libraries bring classes for newer
    /// releases, which they load where they can.
    pub(super) fn version(&self, starts: &mut Starts) -> io::Result<Option<Version>> {
        let count = self.classes.len();
        if count <= ALL {
            return Ok(self.versions(starts, count)?.pop());
        }
        let versions = self.versions(starts, FEW)?;
        if versions.first() == versions.last() {
            return Ok(versions.first().copied());
        }
        let versions = self.versions(starts, MANY.min(count))?;
        let few = versions.len() / 6;
        Ok(versions.len().checked_sub(1 + few).map(|most| versions[most]))
    }

    /// Returns the versions of classes that stand equally far apart, in order.
    fn versions(&self, starts: &mut Starts, count: usize) -> io::Result<Vec<Version>> {
        let mut versions = Vec::with_capacity(count);
        for number in 0..count {
            let last = self.classes.len() - 1;
            let class = &self.classes[number * last / (count - 1).max(1)];
            let mut start = [0; HEADER];
            let length = starts.read(self.source(), class.place, &mut start)?;
            versions.extend(Version::read(&start[..length]));
        }
        versions.sort_unstable();
        Ok(versions)
    }

    /// Calls `look` with the content of classes, of which at most `most` bytes are read, until it
    /// returns true. Those come first whose names say that they serve requests. Returns the number
    /// of bytes that were read.
    pub(super) fn search(
        &self,
        starts: &mut Starts,
        buffer: &mut [u8],
        most: u64,
        mut look: impl FnMut(&[u8]) -> bool,
    ) -> io::Result<u64> {
        const TELLING: [&[u8]; 5] =
            [b"Servlet", b"Filter", b"Initializer", b"Listener", b"Controller"];
        let tells = |class: &&Class| {
            let name = &self.bytes[class.name.clone()];
            let holds = |word: &[u8]| name.windows(word.len()).any(|found| found == word);
            TELLING.into_iter().any(holds)
        };
        let (telling, others): (Vec<&Class>, Vec<&Class>) = self.classes.iter().partition(tells);
        let mut read = 0;
        for class in telling.into_iter().chain(others) {
            if read >= most {
                break;
            }
            let length = starts.read(self.source(), class.place, buffer)?;
            read += length as u64;
            if look(&buffer[..length]) {
                break;
            }
        }
        Ok(read)
    }
}

/// Returns the length of deflated data that is followed by something else; none if its end is not
/// there. What it inflates to is taken from `left`.
fn inflated_length(data: &[u8], left: &mut usize) -> Option<usize> {
    let mut inflate = Decompress::new(false);
    let mut content = [0; 16 << 10];
    loop {
        let read = usize::try_from(inflate.total_in()).expect("not more than there is");
        let wrote = inflate.total_out();
        let status = inflate.decompress(&data[read..], &mut content, FlushDecompress::None);
        let after = usize::try_from(inflate.total_in()).expect("not more than there is");
        let written = usize::try_from(inflate.total_out() - wrote).expect("not more than a buffer");
        *left = left.saturating_sub(written);
        match status {
            Ok(Status::StreamEnd) => return Some(after),
            Ok(_) if *left > 0 && (after > read || written > 0) => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestEntry, deflated, stored, zip};

    fn class(release: u16) -> Vec<u8> {
        let major = (release + 44).to_be_bytes();
        [b"\xca\xfe\xba\xbe\0\0", major.as_slice(), &[7; 2000]].concat()
    }

    /// A library as it may be in an artifact: stored, deflated, written with sizes behind the data.
    fn forms(entries: &[TestEntry]) -> Vec<Vec<u8>> {
        let described: Vec<TestEntry> =
            entries.iter().map(|entry| TestEntry { flags: 8, ..entry.clone() }).collect();
        let mut forms = Vec::new();
        for library in [zip(entries.to_vec()), zip(described)] {
            forms.push(zip([stored("lib.jar", &library)]));
            forms.push(zip([deflated("lib.jar", &library)]));
        }
        forms
    }

    fn version_of(artifact: &[u8], most: usize) -> Option<Version> {
        let archive = Archive::read(&artifact).expect("it is read");
        let source: &dyn Source = &artifact;
        let depth = Depth { bytes: most, classes: usize::MAX };
        let library = Library::open(&archive, source, &archive.entries()[0], depth, &mut (8 << 20));
        library.expect("read").version(&mut Starts::default()).expect("read")
    }

    fn release(entries: &[TestEntry]) -> Option<u16> {
        let found: Vec<Option<u16>> = forms(entries)
            .iter()
            .map(|artifact| version_of(artifact, 64 << 10).map(|version| version.release))
            .collect();
        assert!(found.iter().all(|other| *other == found[0]), "{found:?}");
        found[0]
    }

    #[test]
    fn the_newest_of_few_classes_counts() {
        let manifest = deflated("META-INF/MANIFEST.MF", &[b'x'; 3000]);
        let more = [
            deflated("a/A.class", &class(8)),
            deflated("a/B.class", &class(17)),
            deflated("META-INF/versions/21/a/A.class", &class(21)),
            deflated("module-info.class", &class(25)),
        ];
        assert_eq!(release(&[vec![manifest.clone()], more.to_vec()].concat()), Some(17));
        assert_eq!(release(&[manifest]), None);
        assert_eq!(release(&[]), None);
    }

    #[test]
    fn of_many_classes_a_version_that_very_few_have_is_passed_over() {
        let many = |newer: std::ops::Range<usize>| {
            let entries: Vec<TestEntry> = (0..100)
                .map(|number| {
                    let release = if newer.contains(&number) { 22 } else { 17 };
                    deflated(&format!("c{number}.class"), &class(release))
                })
                .collect();
            release(&entries)
        };
        assert_eq!(many(0..0), Some(17));
        assert_eq!(many(0..5), Some(17), "some that are loaded where the JVM is new enough");
        assert_eq!(many(0..40), Some(22));
        assert_eq!(many(60..100), Some(22));
        assert_eq!(many(0..100), Some(22));
    }

    #[test]
    fn of_a_large_deflated_library_only_the_start_is_inflated() {
        let noise: Vec<u8> = (0..50_000u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
        let library = zip([
            stored("A.class", &class(11)),
            stored("noise", &noise),
            stored("B.class", &class(21)),
        ]);
        let artifact = zip([deflated("lib.jar", &library)]);
        let found = |most| version_of(&artifact, most).map(|version| version.release);
        assert_eq!(found(64 << 10), Some(11));
        assert_eq!(found(1 << 20), Some(21));
        assert_eq!(found(20), None);
    }

    #[test]
    fn what_is_inflated_to_pass_over_entries_is_bounded() {
        let zeros = TestEntry { flags: 8, ..deflated("zeros", &[0; 4 << 20]) };
        let library = zip([zeros, deflated("A.class", &class(11))]);
        let artifact = zip([deflated("lib.jar", &library)]);
        let archive = Archive::read(&artifact).expect("it is read");
        for (mut left, expected) in [(8 << 20, Some(11)), (1 << 20, None)] {
            let depth = Depth { bytes: 64 << 10, classes: 16 };
            let entry = &archive.entries()[0];
            let library = Library::open(&archive, &artifact, entry, depth, &mut left);
            let version = library.expect("read").version(&mut Starts::default()).expect("read");
            assert_eq!(version.map(|version| version.release), expected, "{left}");
        }
    }

    #[test]
    fn what_is_no_library_tells_nothing() {
        let inner = zip([stored("A.class", &class(11))]);
        for bytes in [&b""[..], b"no archive", &[0; 100], &inner[..inner.len() - 30]] {
            for artifact in [zip([stored("lib.jar", bytes)]), zip([deflated("lib.jar", bytes)])] {
                // The start of a library that was cut short is as good as that of a whole one.
                let expected = (bytes.len() > 100).then_some(11);
                let found = version_of(&artifact, 1 << 20).map(|version| version.release);
                assert!(found.is_none() || found == expected, "{found:?}");
            }
        }
    }

    #[test]
    fn initializers_are_found_by_their_names() {
        for (place, name) in INITIALIZERS.iter().enumerate() {
            let name = std::str::from_utf8(name).expect("UTF-8");
            for artifact in forms(&[deflated(name, b"x"), deflated("A.class", &class(8))]) {
                let archive = Archive::read(&artifact).expect("it is read");
                let entry = &archive.entries()[0];
                let depth = Depth { bytes: 1 << 20, classes: 16 };
                let library = Library::open(&archive, &artifact, entry, depth, &mut (8 << 20));
                let library = library.expect("read");
                assert_eq!(library.initializers(), [place == 0, place == 1]);
            }
        }
    }
}
