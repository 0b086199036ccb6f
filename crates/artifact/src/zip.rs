// SPDX-License-Identifier: Apache-2.0

//! A ZIP archive that may be hostile, read by position.
//!
//! Written by hand because existing readers are lenient by design: where an archive can be
//! understood in two ways, they choose one. Here the archive that was checked must be the archive
//! that runs. Only the central directory is held in memory.
//!
//! An archive that goes into an image as it is becomes no path but its own, and the JVM reads it
//! later. So [`Archive::read`] reads what the JVM reads, as the JVM does. Names, duplicates and
//! types matter where entries become files: [`Archive::unpacked`] refuses what would make two
//! readers see two trees.

pub(crate) mod central;
mod directory;
mod end;
mod layout;
mod name;
mod reader;
pub(crate) mod starts;
mod time;
mod unpack;

pub(crate) use self::directory::{LONGEST_DIRECTORY, MOST_ENTRIES};
use self::end::u16_at;
pub(crate) use self::layout::check_total;
pub(crate) use self::name::{by_path, check as check_name};
pub use self::reader::EntryReader;
use crate::invalid::{Code, InspectError, quoted};
use crate::source::Source;

const LOCAL: &[u8] = b"PK\x03\x04";
/// The length of a local header without name and extra fields.
const LOCAL_LENGTH: u64 = 30;

/// How an entry's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// As they are.
    Stored,
    /// By raw deflate (RFC 1951).
    Deflated,
}

/// One entry of an archive, as its central directory describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, with a `/` at the end if it is a directory. A relative path only among those
    /// that [`Archive::unpacked`] returns.
    pub name: String,
    /// How its bytes are stored.
    pub method: Method,
    /// CRC-32 of its content.
    pub crc32: u32,
    /// The number of bytes it takes in the archive.
    pub compressed_size: u64,
    /// The number of bytes of its content.
    pub size: u64,
    /// When its content was last changed, in seconds since the epoch; above 0. `None` without a
    /// time that can be.
    pub modified: Option<i64>,
    /// Its Unix mode, with the type of the file; 0 if the archive does not tell it.
    pub mode: u32,
    /// Where its local header is in the source.
    offset: u64,
    /// Where the next local header or the central directory starts.
    end: u64,
    /// The length of its name in the archive, which may not be UTF-8 there.
    raw_name_length: u16,
    /// What it is by its Unix mode, if that is neither a file nor a directory.
    special: Option<&'static str>,
}

impl Entry {
    /// Returns where it is and how it is stored.
    pub(crate) fn place(&self) -> starts::Place {
        let Self { offset, method, compressed_size, .. } = *self;
        starts::Place { local: offset, method, compressed_size }
    }

    /// Returns what it is by its Unix mode, if that is neither a file nor a directory.
    pub(crate) fn special(&self) -> Option<&'static str> {
        self.special
    }

    /// Returns whether this is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.name.ends_with('/')
    }
}

/// The entries of an archive, checked as far as possible without reading their content.
///
/// No two share bytes, and together they inflate to no more than is reasonable.
#[derive(Debug, Clone)]
pub struct Archive {
    entries: Vec<Entry>,
    /// Indices of `entries` in the order of their paths, those of one name in the order of the
    /// archive: half the memory of a hash table, and it finds names, duplicates and files that are
    /// used as directories alike.
    by_path: Vec<u32>,
}

impl Archive {
    /// Reads the central directory of an archive.
    ///
    /// # Errors
    ///
    /// [`InspectError::Invalid`] for what no JVM opens either and for what inflates without
    /// measure, or [`InspectError::Read`].
    pub fn read(source: &dyn Source) -> Result<Self, InspectError> {
        let directory = end::locate(source)?;
        let mut entries = directory::read(source, &directory)?;
        layout::check_sizes(&entries, source.len())?;
        layout::place(&mut entries, directory.offset)?;
        let mut by_path: Vec<u32> = (0..).take(entries.len()).collect();
        let name = |index: &u32| entries[position(*index)].name.as_str();
        by_path.sort_unstable_by(|one, other| {
            name::by_path(name(one), name(other)).then(one.cmp(other))
        });
        Ok(Self { entries, by_path })
    }

    /// Returns the entries in the order of the central directory.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the entry of exactly this name: the last of several, as the JDK does.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Entry> {
        let upto = self.by_path.partition_point(|index| {
            name::by_path(&self.entries[position(*index)].name, name).is_le()
        });
        let last = self.by_path.get(upto.checked_sub(1)?)?;
        Some(&self.entries[position(*last)]).filter(|entry| entry.name == name)
    }

    /// Returns the entries as they become files and directories, in the order of their paths. Each
    /// path is there once.
    ///
    /// Of copies that are the same the last one is returned, which the JDK reads. What has no
    /// content cannot disagree: directories may be there several times, and an empty file whose
    /// path is also a directory is that directory.
    ///
    /// # Errors
    ///
    /// [`Code::UnsafePath`], [`Code::DuplicateEntry`], [`Code::UnsupportedEntry`] or
    /// [`Code::CorruptArchive`] for an entry that cannot become one file or directory.
    pub fn unpacked(&self) -> Result<Vec<&Entry>, InspectError> {
        unpack::entries(self.by_path.iter().map(|index| &self.entries[position(*index)]))
    }

    /// Returns where the entry's compressed bytes start in the source, after comparing its local
    /// header with the central directory: a reader that uses local headers must see the same entry.
    ///
    /// # Errors
    ///
    /// [`Code::CorruptArchive`] when the local header disagrees.
    pub fn data_offset(&self, source: &dyn Source, entry: &Entry) -> Result<u64, InspectError> {
        let name_start = entry.offset.saturating_add(LOCAL_LENGTH);
        let name_end = name_start.saturating_add(u64::from(entry.raw_name_length));
        if name_end > entry.end {
            return Err(corrupt(entry, "has no room for its local header"));
        }
        // One read covers header and name, which must have the length that the central directory
        // says.
        let mut header = vec![0; usize::try_from(name_end - entry.offset).expect("17 bits")];
        source.read_exact_at(entry.offset, &mut header)?;
        if !header.starts_with(LOCAL) {
            return Err(corrupt(entry, "is not where the archive's list of entries says"));
        }
        let name = &header[usize::try_from(LOCAL_LENGTH).expect("it is 30")..];
        if u16_at(&header, 26) != entry.raw_name_length
            || name::decode(name, u16_at(&header, 6))? != entry.name
        {
            return Err(corrupt(entry, "has another name in its local header"));
        }
        let data = name_end.saturating_add(u64::from(u16_at(&header, 28)));
        if data.checked_add(entry.compressed_size).is_none_or(|end| end > entry.end) {
            return Err(corrupt(entry, "overlaps what follows it"));
        }
        let method = match entry.method {
            Method::Stored => 0,
            Method::Deflated => 8,
        };
        if u16_at(&header, 8) != method {
            return Err(corrupt(entry, "has another compression method in its local header"));
        }
        Ok(data)
    }

    /// Opens an entry for reading its content.
    ///
    /// # Errors
    ///
    /// As [`data_offset`](Self::data_offset).
    pub fn open<'a>(
        &self,
        source: &'a dyn Source,
        entry: &Entry,
    ) -> Result<EntryReader<'a>, InspectError> {
        let offset = self.data_offset(source, entry)?;
        Ok(EntryReader::new(source, entry, offset))
    }

    /// Reads the whole content of an entry that has at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`Code::ArchiveBomb`] when it has more, [`Code::CorruptArchive`] when it does not match its
    /// record.
    pub fn read_to_vec(
        &self,
        source: &dyn Source,
        entry: &Entry,
        limit: usize,
    ) -> Result<Vec<u8>, InspectError> {
        let size = usize::try_from(entry.size).unwrap_or(usize::MAX);
        if size > limit {
            return Err(InspectError::invalid(
                Code::ArchiveBomb,
                format!(
                    "the entry {} has {} bytes, and at most {limit} of it are read: make it \
                    smaller",
                    quoted(&entry.name),
                    entry.size
                ),
            ));
        }
        let mut content = vec![0; size];
        self.open(source, entry)?.fill(&mut content)?;
        Ok(content)
    }

    /// Fills `buffer` with the first bytes of an entry, and returns how many there were.
    pub(crate) fn read_start(
        &self,
        source: &dyn Source,
        entry: &Entry,
        buffer: &mut [u8],
    ) -> Result<usize, InspectError> {
        let offset = self.data_offset(source, entry)?;
        let count = usize::try_from(entry.size).unwrap_or(usize::MAX).min(buffer.len());
        EntryReader::for_start(source, entry, offset).fill(&mut buffer[..count])?;
        Ok(count)
    }
}

fn position(index: u32) -> usize {
    usize::try_from(index).expect("an index of the entries fits the address space")
}

fn corrupt(entry: &Entry, what: &str) -> InspectError {
    let message = format!("the entry {} {what}: build the archive again", quoted(&entry.name));
    InspectError::invalid(Code::CorruptArchive, message)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::testing::{TestArchive, TestEntry, deflated, stored, zip};

    fn refusal<T>(result: Result<T, InspectError>) -> Code {
        match result {
            Err(InspectError::Invalid(invalid)) => invalid.code,
            Err(InspectError::Read(error)) => panic!("{error}"),
            Ok(_) => panic!("it was accepted"),
        }
    }

    #[test]
    fn entries_keep_their_order_and_are_found_by_name() {
        let bytes =
            zip([stored("b", b"1"), stored("a/", b""), deflated("a/c", b"22"), stored("a!", b"")]);
        let archive = Archive::read(&bytes).expect("it is read");
        let names: Vec<&str> = archive.entries().iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["b", "a/", "a/c", "a!"]);
        for name in names {
            assert_eq!(archive.find(name).expect("it is found").name, name);
        }
        for name in ["", "a", "c", "a/c/", "b/"] {
            assert!(archive.find(name).is_none(), "{name}");
        }
        assert!(archive.find("a/").expect("found").is_directory());
    }

    #[test]
    fn content_is_read_however_the_archive_was_written() {
        let content: Vec<u8> = (0..200_000u32).flat_map(|number| number.to_le_bytes()).collect();
        let described = TestEntry { flags: 8, ..deflated("described", &content) };
        let entries = vec![
            stored("stored", &content),
            deflated("deflated", &content),
            described,
            TestEntry { zip64: true, local_extra: vec![9; 40], ..deflated("wide", &content) },
            TestEntry { name: b"M\x81ll".to_vec(), ..deflated("", &content) },
            stored("empty", b""),
        ];
        for prefix in [&b""[..], b"#!/bin/sh\nexec java -jar $0\n"] {
            for (zip64, absolute_offsets) in
                [(false, false), (true, false), (false, true), (true, true)]
            {
                let archive = TestArchive {
                    entries: entries.clone(),
                    prefix: prefix.to_vec(),
                    absolute_offsets,
                    zip64,
                    ..TestArchive::default()
                };
                let bytes = archive.bytes();
                let archive = Archive::read(&bytes).expect("it is read");
                for name in ["stored", "deflated", "described", "wide", "Müll"] {
                    let entry = archive.find(name).expect(name);
                    let read = archive.read_to_vec(&bytes, entry, content.len()).expect(name);
                    assert!(read == content, "{name}");
                    let start = &mut [0; 9];
                    assert_eq!(archive.read_start(&bytes, entry, start).expect(name), 9);
                    assert_eq!(start[..], content[..9], "{name}");
                }
                let empty = archive.find("empty").expect("an entry");
                assert!(archive.read_to_vec(&bytes, empty, 0).expect("nothing").is_empty());
            }
        }
    }

    #[test]
    fn a_local_header_that_says_another_thing_is_refused() {
        let entry = stored("name", b"content");
        let renamed = TestEntry { local_name: Some(b"eman".to_vec()), ..entry.clone() };
        let longer = TestEntry { local_name: Some(b"name/../../x".to_vec()), ..entry.clone() };
        let mut sign = zip([entry.clone()]);
        sign[2] = 7;
        let mut method = zip([entry]);
        method[8] = 8;
        for bytes in [zip([renamed]), zip([longer]), sign, method] {
            let archive = Archive::read(&bytes).expect("the central directory is right");
            let entry = &archive.entries()[0];
            assert_eq!(refusal(archive.data_offset(&bytes, entry)), Code::CorruptArchive);
        }
    }

    #[test]
    fn an_extra_field_that_reaches_over_the_next_entry_is_refused() {
        let mut bytes = zip([stored("a", b"1"), stored("b", b"2")]);
        bytes[28] = 32;
        let archive = Archive::read(&bytes).expect("the central directory is right");
        let entry = archive.find("a").expect("an entry");
        assert_eq!(refusal(archive.open(&bytes, entry)), Code::CorruptArchive);
    }

    #[test]
    fn an_entry_above_the_limit_is_not_read() {
        let bytes = zip([deflated("a", &[0; 1000])]);
        let archive = Archive::read(&bytes).expect("it is read");
        let entry = &archive.entries()[0];
        assert!(archive.read_to_vec(&bytes, entry, 1000).is_ok());
        assert_eq!(refusal(archive.read_to_vec(&bytes, entry, 999)), Code::ArchiveBomb);
    }

    #[test]
    fn of_several_entries_of_one_name_the_last_is_found() {
        let bytes =
            zip([stored("a", b"1"), stored("b", b""), stored("a", b"22"), stored("a!", b"")]);
        let archive = Archive::read(&bytes).expect("java -jar reads it, too");
        assert_eq!(archive.find("a").expect("an entry").size, 2);
        // A NUL stands beside the separator and is not taken for one.
        let bytes = zip([stored("a/b", b"1"), stored("a\0b", b"22")]);
        let archive = Archive::read(&bytes).expect("java -jar reads it, too");
        assert_eq!(archive.find("a/b").expect("an entry").size, 1);
        assert_eq!(archive.find("a\0b").expect("an entry").size, 2);
    }

    #[test]
    fn a_source_that_fails_is_no_fault_of_the_artifact() {
        struct Failing(Vec<u8>);
        impl Source for Failing {
            fn len(&self) -> u64 {
                Source::len(&self.0)
            }
            fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
                if offset == 0 && buffer.len() == "a".len() + 30 {
                    return Err(std::io::Error::other("the disk is gone"));
                }
                self.0.read_exact_at(offset, buffer)
            }
        }
        let source = Failing(zip([stored("a", b"1")]));
        let archive = Archive::read(&source).expect("it is read");
        let result = archive.open(&source, &archive.entries()[0]);
        assert!(matches!(result, Err(InspectError::Read(_))));
        let mut text = String::new();
        let entry = &archive.entries()[0];
        archive.open(&source.0, entry).expect("open").read_to_string(&mut text).expect("read");
        assert_eq!(text, "1");
    }
}
