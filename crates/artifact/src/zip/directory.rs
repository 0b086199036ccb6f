// SPDX-License-Identifier: Apache-2.0

//! The central directory: one record for each entry, read in one pass and checked on the way.

use std::io::{BufReader, Read as _};

use super::end::{Directory, u16_at, u32_at, u64_at};
use super::{Entry, Method, name, time};
use crate::invalid::{Code, InspectError, quoted};
use crate::source::{Source, SourceReader};

/// More entries than this are refused. Too low refuses real applications (the largest exploded
/// ones have some 60,000 files); too high lets one upload take the memory of a hundred, at some
/// 100 bytes an entry.
pub(crate) const MOST_ENTRIES: u64 = 200_000;

/// A longer central directory is refused, because its names are what an archive costs in memory. It
/// leaves 160 bytes for each of [`MOST_ENTRIES`], of which 46 are not the name.
pub(crate) const LONGEST_DIRECTORY: u64 = 32 << 20;

const RECORD: &[u8] = b"PK\x01\x02";
const RECORD_LENGTH: usize = 46;

/// Bits 0, 6 and 13 of an entry's flags: encryption in its three forms (APPNOTE 4.4.4).
const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
/// Bit 5: the entry is a patch to another file.
const PATCH: u16 = 1 << 5;

/// Unix file types that are neither a regular file nor a directory (`S_IFMT` of `stat`).
const SPECIAL_FILES: [(u32, &str); 5] = [
    (0o120_000, "a symbolic link"),
    (0o010_000, "a named pipe"),
    (0o140_000, "a socket"),
    (0o020_000, "a device"),
    (0o060_000, "a device"),
];

fn too_many(directory: &Directory) -> InspectError {
    InspectError::invalid(
        Code::TooManyEntries,
        format!(
            "the archive's list of entries is {} bytes long; at most {MOST_ENTRIES} entries and \
            {} MiB are read",
            directory.size,
            LONGEST_DIRECTORY >> 20
        ),
    )
}

fn corrupt(message: &str) -> InspectError {
    InspectError::invalid(Code::CorruptArchive, format!("{message}: build the archive again"))
}

/// Reads every record. The entries' `end` is still open; the layout sets it.
pub(super) fn read(source: &dyn Source, directory: &Directory) -> Result<Vec<Entry>, InspectError> {
    if directory.size > LONGEST_DIRECTORY {
        return Err(too_many(directory));
    }
    // A claimed count is believed only as far as there is room for it.
    let room = (directory.size / RECORD_LENGTH as u64).min(MOST_ENTRIES);
    let expected = directory.count.claimed().min(room);
    let mut entries = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
    let mut records = Records {
        reader: BufReader::with_capacity(
            64 << 10,
            SourceReader::new(source, directory.offset, directory.size),
        ),
        remaining: directory.size,
        variable: Vec::new(),
    };
    while records.remaining > 0 {
        if entries.len() as u64 == MOST_ENTRIES {
            return Err(too_many(directory));
        }
        entries.push(records.next(directory)?);
    }
    if !directory.count.matches(entries.len() as u64) {
        return Err(corrupt("the archive's list of entries is not as long as its end record says"));
    }
    Ok(entries)
}

struct Records<'a> {
    reader: BufReader<SourceReader<'a>>,
    remaining: u64,
    /// Name, extra fields and comment of the current record.
    variable: Vec<u8>,
}

impl Records<'_> {
    fn take(&mut self, count: usize) -> Result<(), InspectError> {
        self.remaining = self.remaining.checked_sub(count as u64).ok_or_else(|| {
            corrupt("the last record in the archive's list of entries is cut short")
        })?;
        Ok(())
    }

    fn next(&mut self, directory: &Directory) -> Result<Entry, InspectError> {
        let mut record = [0; RECORD_LENGTH];
        self.take(RECORD_LENGTH)?;
        self.reader.read_exact(&mut record)?;
        if !record.starts_with(RECORD) {
            return Err(corrupt("the archive's list of entries holds something else"));
        }
        let [name_length, extra_length, comment_length] =
            [28, 30, 32].map(|at| usize::from(u16_at(&record, at)));
        let length = name_length + extra_length + comment_length;
        self.take(length)?;
        self.variable.resize(length, 0);
        self.reader.read_exact(&mut self.variable)?;
        let (name, rest) = self.variable.split_at(name_length);
        entry(&record, name, &rest[..extra_length], directory)
    }
}

/// Makes an entry from its record, or says why it is refused.
fn entry(
    record: &[u8; RECORD_LENGTH],
    raw_name: &[u8],
    extra: &[u8],
    directory: &Directory,
) -> Result<Entry, InspectError> {
    let flags = u16_at(record, 8);
    let name = name::decode(raw_name, flags)?;
    let unsupported = |what: &str| {
        let message = format!("the entry {} {what}: build the archive again", quoted(&name));
        InspectError::invalid(Code::UnsupportedEntry, message)
    };
    if flags & ENCRYPTED != 0 {
        return Err(unsupported("is encrypted, and only plain ones are read"));
    }
    if flags & PATCH != 0 {
        return Err(unsupported("is a patch, and only whole files are read"));
    }
    let method = match u16_at(record, 10) {
        0 => Method::Stored,
        8 => Method::Deflated,
        other => {
            let what = format!(
                "is compressed by method {other}, and only stored and deflated ones are read"
            );
            return Err(unsupported(&what));
        }
    };
    // The system that the record names is ignored: some writers set a Unix mode with another
    // system.
    let mode = u32_at(record, 38) >> 16;
    let file_type = mode & 0o170_000;
    let special = SPECIAL_FILES.iter().find(|(special, _)| *special == file_type);
    let (size, compressed_size, offset) = sizes(record, extra, &name)?;
    Ok(Entry {
        crc32: u32_at(record, 16),
        method,
        compressed_size,
        size,
        mode,
        modified: time::modified(u16_at(record, 12), u16_at(record, 14), extra),
        offset: offset
            .checked_add(directory.base)
            .ok_or_else(|| corrupt(&format!("the entry {} is outside the file", quoted(&name))))?,
        end: 0,
        raw_name_length: u16_at(record, 28),
        special: special.map(|(_, what)| *what),
        name,
    })
}

/// Returns size, compressed size and offset. A value that is full in the record is in the ZIP64
/// extra field, which holds exactly the full ones, in this order (APPNOTE 4.5.3).
fn sizes(
    record: &[u8; RECORD_LENGTH],
    extra: &[u8],
    name: &str,
) -> Result<(u64, u64, u64), InspectError> {
    const FULL: u32 = u32::MAX;
    let disk = u16_at(record, 34);
    let narrow = [24, 20, 42].map(|at| u32_at(record, at));
    if disk != 0 && disk != 0xffff {
        let message = format!("the entry {} is in another file of a spread archive", quoted(name));
        return Err(InspectError::invalid(Code::UnsupportedEntry, message));
    }
    let mut wide = narrow.map(u64::from);
    if narrow.contains(&FULL) {
        let mut field = zip64_field(extra).unwrap_or_default();
        for (narrow, wide) in narrow.into_iter().zip(&mut wide) {
            if narrow == FULL {
                let Some((value, rest)) = field.split_at_checked(8) else {
                    let message = format!("the entry {} lacks its ZIP64 sizes", quoted(name));
                    return Err(corrupt(&message));
                };
                *wide = u64_at(value, 0);
                field = rest;
            }
        }
    }
    Ok((wide[0], wide[1], wide[2]))
}

/// Returns the content of the ZIP64 extra field. Other fields are skipped. Padding that is not a
/// field (Android's zipalign writes it) ends the search.
fn zip64_field(mut extra: &[u8]) -> Option<&[u8]> {
    while let Some((header, rest)) = extra.split_at_checked(4) {
        let (content, rest) = rest.split_at_checked(usize::from(u16_at(header, 2)))?;
        if u16_at(header, 0) == 1 {
            return Some(content);
        }
        extra = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestArchive, TestEntry, deflated, stored, zip};
    use crate::zip::Archive;

    fn refusal(bytes: &[u8]) -> Code {
        match Archive::read(&bytes) {
            Err(InspectError::Invalid(invalid)) => invalid.code,
            Err(InspectError::Read(error)) => panic!("{error}"),
            Ok(_) => panic!("the archive was accepted"),
        }
    }

    #[test]
    fn an_encrypted_entry_is_refused() {
        for flags in [1, 1 << 6, 1 << 13, 1 << 5] {
            let entry = TestEntry { flags, ..stored("a", b"x") };
            assert_eq!(refusal(&zip([entry])), Code::UnsupportedEntry, "{flags:#x}");
        }
    }

    #[test]
    fn an_entry_of_another_method_is_refused() {
        for method in [1, 9, 12, 14, 93, 95, 99] {
            let entry = TestEntry { method, ..stored("a", b"x") };
            assert_eq!(refusal(&zip([entry])), Code::UnsupportedEntry, "{method}");
        }
    }

    #[test]
    fn a_name_that_no_jvm_reads_is_refused() {
        let entry = TestEntry { name: b"\xff\xfe".to_vec(), flags: 1 << 11, ..stored("", b"x") };
        assert_eq!(refusal(&zip([entry])), Code::UnsafePath);
    }

    #[test]
    fn what_the_jvm_reads_from_an_archive_that_is_not_unpacked_is_let_in() {
        let link = TestEntry { mode: 0o120_777, ..stored("link", b"/etc/passwd") };
        let long = "a/".repeat(3000);
        let names = ["../x", "/a", "a//b", "./a", "a\\b", "C:/a", "a\0b", &long, "x", "x", "x/"];
        let odd = names.map(|name| stored(name, b"content"));
        let archive = Archive::read(&zip(odd.into_iter().chain([link]))).expect("it is read");
        assert_eq!(archive.entries().len(), names.len() + 1);
    }

    #[test]
    fn a_count_that_is_not_true_is_refused() {
        let entries = vec![stored("a", b"1"), stored("b", b"2")];
        for (zip64, claimed) in [(false, 1), (false, 3), (true, 1), (true, 3)] {
            let archive = TestArchive {
                entries: entries.clone(),
                zip64,
                claimed_count: Some(claimed),
                ..TestArchive::default()
            };
            assert_eq!(refusal(&archive.bytes()), Code::CorruptArchive, "{zip64} {claimed}");
        }
    }

    #[test]
    fn a_record_that_is_something_else_or_cut_short_is_refused() {
        let bytes = zip([stored("a", b"1"), stored("b", b"2")]);
        let second = bytes.len() - 22 - 47;
        for (at, value) in [(second, b'X'), (second + 28, 2), (second + 30, 9), (second + 32, 1)] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            assert_eq!(refusal(&bytes), Code::CorruptArchive, "{}", at - second);
        }
    }

    #[test]
    fn more_entries_than_are_read_are_refused() {
        let many = (0..=MOST_ENTRIES).map(|number| stored(&format!("{number:x}"), b""));
        let archive =
            TestArchive { entries: many.collect(), zip64: true, ..TestArchive::default() };
        assert_eq!(refusal(&archive.bytes()), Code::TooManyEntries);
        let lying = TestArchive { zip64: false, ..archive };
        assert_eq!(refusal(&lying.bytes()), Code::TooManyEntries);
    }

    #[test]
    fn a_directory_that_is_too_long_is_refused_before_it_is_read() {
        struct Huge(Vec<u8>);
        impl Source for Huge {
            fn len(&self) -> u64 {
                LONGEST_DIRECTORY + 1 + self.0.len() as u64
            }
            fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
                for (position, byte) in (offset..).zip(buffer) {
                    let at = position.checked_sub(LONGEST_DIRECTORY + 1);
                    *byte = at.map_or(0, |at| self.0[usize::try_from(at).expect("small")]);
                }
                Ok(())
            }
        }
        let mut end = zip([]);
        let size = u32::try_from(LONGEST_DIRECTORY + 1).expect("32 bits");
        end[12..16].copy_from_slice(&size.to_le_bytes());
        let Err(InspectError::Invalid(invalid)) = Archive::read(&Huge(end)) else {
            panic!("it was accepted");
        };
        assert_eq!(invalid.code, Code::TooManyEntries);
    }

    #[test]
    fn more_than_16_bits_of_entries_are_read_without_zip64() {
        let entries = (0..65_537).map(|number| stored(&format!("{number:x}"), b"")).collect();
        let archive = TestArchive { entries, ..TestArchive::default() };
        let archive = Archive::read(&archive.bytes()).expect("as the JDK does");
        assert_eq!(archive.entries().len(), 65_537);
    }

    #[test]
    fn zip64_sizes_are_read_and_must_be_there() {
        let wide = TestEntry { zip64: true, ..deflated("a", &[b'x'; 5000]) };
        let bytes = zip([stored("first", b"1"), wide]);
        let archive = Archive::read(&bytes).expect("it is read");
        assert_eq!(archive.find("a").expect("an entry").size, 5000);
        let bytes = zip([TestEntry { size: u64::from(u32::MAX), ..stored("a", b"x") }]);
        assert_eq!(refusal(&bytes), Code::CorruptArchive);
        assert_eq!(zip64_field(b"\x99\x00\x02\x00ab\x01\x00\x01\x00c"), Some(&b"c"[..]));
        assert_eq!(zip64_field(b"\x99\x00\x09\x00ab\x01\x00\x01\x00c"), None);
    }
}
