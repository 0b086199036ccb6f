// SPDX-License-Identifier: Apache-2.0

//! Where an archive's central directory is: the end record, plain or ZIP64.
//!
//! A ZIP archive is read from its end. Bytes before it are allowed, because a Spring Boot
//! "executable" JAR starts with a shell script; they may be archives themselves. Bytes after it are
//! refused, and so is a record that can be understood in two ways: the program that runs the
//! archive later might choose the other.

use std::io;

use super::LOCAL;
use crate::invalid::{Code, InspectError};
use crate::source::{Section, Source};

const END: &[u8] = b"PK\x05\x06";
const END_LENGTH: usize = 22;
const END64: &[u8] = b"PK\x06\x06";
const END64_LENGTH: u64 = 56;
const LOCATOR64: &[u8] = b"PK\x06\x07";
const LOCATOR64_LENGTH: u64 = 20;
/// The longest comment that may follow the end record.
const LONGEST_COMMENT: usize = 0xffff;
/// How many archives in front of the last one are told from an archive that was cut short. Each
/// costs a search of 64 KiB.
const MOST_IN_FRONT: usize = 16;

/// Where the central directory is and what it should hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Directory {
    /// Where it starts in the source.
    pub(super) offset: u64,
    /// Its length in bytes.
    pub(super) size: u64,
    /// The number of entries it claims.
    pub(super) count: Count,
    /// The number to add to an offset in the archive to get one in the source: the length of the
    /// bytes before the archive, or 0 if the writer of those bytes adjusted the offsets.
    pub(super) base: u64,
}

/// The number of entries that an end record claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// Exactly this number.
    Exact(u64),
    /// The low 16 bits: old writers put more than 65,535 entries into an archive without ZIP64, and
    /// the JDK reads them.
    Low16(u16),
}

impl Count {
    /// Returns the number in the record.
    pub(super) fn claimed(self) -> u64 {
        match self {
            Self::Exact(exact) => exact,
            Self::Low16(low) => u64::from(low),
        }
    }

    /// Returns whether the archive may hold `count` entries.
    pub(super) fn matches(self, count: u64) -> bool {
        match self {
            Self::Exact(exact) => exact == count,
            Self::Low16(low) => u64::from(low) == count & 0xffff,
        }
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("a slice of two bytes"))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

fn corrupt(message: &str) -> InspectError {
    InspectError::invalid(Code::CorruptArchive, message)
}

fn truncated() -> InspectError {
    InspectError::invalid(
        Code::Truncated,
        "the file starts as a ZIP archive, but its end, which says what is in it, is missing: it \
        was cut short, upload it again",
    )
}

/// Finds the central directory.
pub(super) fn locate(source: &dyn Source) -> Result<Directory, InspectError> {
    let mut start = [0; 4];
    let starts_as_zip = source.len() >= 4 && {
        source.read_exact_at(0, &mut start)?;
        matches!(&start, b"PK\x03\x04" | b"PK\x05\x06" | b"PK\x07\x08")
    };
    let tail = Tail::of(source)?;
    // The JDK takes the last record whose comment ends with the file.
    if let Some(at) = tail.records().find(|at| tail.behind(*at) == 0) {
        let directory = tail.directory(source, at)?;
        // A file that was cut off after an archive stored inside it ends with the inner end record.
        if starts_as_zip && directory.base > 0 && !is_behind_archives(source, directory.base)? {
            return Err(truncated());
        }
        return Ok(directory);
    }
    let followed = tail.records().find(|at| tail.behind(*at) > 0).is_some_and(|at| {
        let directory = tail.directory(source, at);
        directory.is_ok_and(|directory| directory.base == 0 || !starts_as_zip)
            // Of several archives the last one was cut short.
            && !tail.bytes[tail.end(at)..].starts_with(LOCAL)
    });
    Err(match (followed, starts_as_zip) {
        (true, _) => corrupt(
            "bytes follow the end of the archive: upload the file as it is, as the body of the \
            request and not as a form",
        ),
        (false, true) => truncated(),
        (false, false) => InspectError::invalid(
            Code::NotAnArtifact,
            "the file is neither a ZIP archive (a JAR or a WAR) nor an ELF executable",
        ),
    })
}

/// Returns whether the bytes before `base` are whole archives, one behind the other. If so, the
/// archive at `base` is no entry of one that was cut short: an entry has its local header in front.
fn is_behind_archives(source: &dyn Source, base: u64) -> io::Result<bool> {
    let mut base = base;
    for _ in 0..MOST_IN_FRONT {
        let front = Section::new(source, 0, base);
        let tail = Tail::of(&front)?;
        let Some(at) = tail.records().find(|at| tail.behind(*at) == 0) else { return Ok(false) };
        match tail.directory(&front, at) {
            Ok(directory) if directory.base == 0 => return Ok(true),
            Ok(directory) => base = directory.base,
            Err(InspectError::Read(error)) => return Err(error),
            Err(InspectError::Invalid(_)) => return Ok(false),
        }
    }
    Ok(false)
}

/// The end of a source, where an end record may be.
struct Tail {
    bytes: Vec<u8>,
    start: u64,
}

impl Tail {
    fn of(source: &dyn Source) -> io::Result<Self> {
        let length = source.len().min((END_LENGTH + LONGEST_COMMENT) as u64);
        let start = source.len() - length;
        let mut bytes = vec![0; usize::try_from(length).expect("at most 64 KiB")];
        source.read_exact_at(start, &mut bytes)?;
        Ok(Self { bytes, start })
    }

    /// Returns the positions of what may be end records, the last one first.
    fn records(&self) -> impl Iterator<Item = usize> {
        let last = self.bytes.len().checked_sub(END_LENGTH);
        let positions = last.into_iter().flat_map(|last| (0..=last).rev());
        positions.filter(|at| self.bytes[*at..].starts_with(END))
    }

    /// Returns where the comment of the record ends.
    fn end(&self, at: usize) -> usize {
        at + END_LENGTH + usize::from(u16_at(&self.bytes, at + 20))
    }

    /// Returns how many bytes are behind the comment of the record, below 0 if the comment does not
    /// fit.
    fn behind(&self, at: usize) -> isize {
        self.bytes.len().cast_signed() - self.end(at).cast_signed()
    }

    fn directory(&self, source: &dyn Source, at: usize) -> Result<Directory, InspectError> {
        read(source, &self.bytes[at..], self.start + at as u64)
    }
}

/// Reads the end record `end`, which is at `end_offset` in the source.
fn read(source: &dyn Source, end: &[u8], end_offset: u64) -> Result<Directory, InspectError> {
    if u16_at(end, 4) != 0 || u16_at(end, 6) != 0 {
        // Unless the ZIP64 record replaces the field.
        if (u16_at(end, 4), u16_at(end, 6)) != (0xffff, 0xffff) {
            return Err(spread());
        }
    }
    let plain = Claims {
        count: u64::from(u16_at(end, 10)),
        size: u64::from(u32_at(end, 12)),
        offset: u64::from(u32_at(end, 16)),
    };
    let Some((end64_offset, wide)) = zip64(source, end_offset)? else {
        let low = u16_at(end, 10);
        return plain.place(end_offset, Count::Low16(low));
    };
    let agrees = |narrow: u64, most: u64, wide: u64| narrow == most || narrow == wide;
    if !(agrees(plain.count, 0xffff, wide.count)
        && agrees(plain.size, 0xffff_ffff, wide.size)
        && agrees(plain.offset, 0xffff_ffff, wide.offset))
    {
        return Err(corrupt("the archive's two end records contradict each other: build it again"));
    }
    wide.place(end64_offset, Count::Exact(wide.count))
}

fn spread() -> InspectError {
    InspectError::invalid(
        Code::UnsupportedEntry,
        "the archive is spread over several files: build it again as one",
    )
}

/// What an end record says about the central directory.
#[derive(Clone, Copy)]
struct Claims {
    count: u64,
    size: u64,
    offset: u64,
}

impl Claims {
    /// Places the directory directly before `end`, the position of its end record.
    fn place(self, end: u64, count: Count) -> Result<Directory, InspectError> {
        let offset = end.checked_sub(self.size);
        let base = offset.and_then(|offset| offset.checked_sub(self.offset));
        let (Some(offset), Some(base)) = (offset, base) else {
            return Err(corrupt(
                "the archive's list of entries is not where its end record says: part of the file \
                is missing, upload it again",
            ));
        };
        Ok(Directory { offset, size: self.size, count, base })
    }
}

/// Reads the ZIP64 end record, if a locator before the plain record names one, and returns its
/// position too.
fn zip64(source: &dyn Source, end: u64) -> Result<Option<(u64, Claims)>, InspectError> {
    let Some(locator_offset) = end.checked_sub(LOCATOR64_LENGTH) else { return Ok(None) };
    let mut locator = [0; 20];
    source.read_exact_at(locator_offset, &mut locator)?;
    if !locator.starts_with(LOCATOR64) {
        return Ok(None);
    }
    // With bytes before the archive the recorded offset is too small. Then the record is assumed to
    // have its usual length.
    let places = [Some(u64_at(&locator, 8)), locator_offset.checked_sub(END64_LENGTH)];
    for offset in places.into_iter().flatten() {
        if let Some(record) = record64(source, offset, locator_offset)? {
            if u32_at(&record, 16) != 0 || u32_at(&record, 20) != 0 {
                return Err(spread());
            }
            let claims = Claims {
                count: u64_at(&record, 32),
                size: u64_at(&record, 40),
                offset: u64_at(&record, 48),
            };
            return Ok(Some((offset, claims)));
        }
    }
    Err(corrupt("the archive's ZIP64 end record is not where it should be: build it again"))
}

/// Reads the record at `offset` if it is one that reaches exactly to `locator`.
fn record64(source: &dyn Source, offset: u64, locator: u64) -> io::Result<Option<[u8; 56]>> {
    let mut record = [0; 56];
    if offset.checked_add(END64_LENGTH).is_none_or(|end| end > locator) {
        return Ok(None);
    }
    source.read_exact_at(offset, &mut record)?;
    let reaches = u64_at(&record, 4).checked_add(12).and_then(|length| offset.checked_add(length));
    Ok((record.starts_with(END64) && reaches == Some(locator)).then_some(record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestArchive, stored, zip};

    fn code(bytes: &[u8]) -> Option<Code> {
        match locate(&bytes) {
            Ok(_) => None,
            Err(InspectError::Invalid(invalid)) => Some(invalid.code),
            Err(InspectError::Read(error)) => panic!("{error}"),
        }
    }

    fn sample() -> TestArchive {
        TestArchive { entries: vec![stored("a", b"content")], ..TestArchive::default() }
    }

    #[test]
    fn the_directory_is_found_before_a_comment_and_behind_a_prefix() {
        for zip64 in [false, true] {
            let plain = TestArchive { zip64, ..sample() };
            let directory = locate(&plain.bytes()).expect("plain");
            assert_eq!((directory.base, directory.size), (0, 47));
            let comment = TestArchive {
                comment: b"PK\x05\x06 and a text longer than an end record".to_vec(),
                ..plain.clone()
            };
            assert_eq!(locate(&comment.bytes()).expect("comment").offset, directory.offset);
            let longest = TestArchive { comment: vec![b'x'; 0xffff], ..plain.clone() };
            assert_eq!(locate(&longest.bytes()).expect("comment").offset, directory.offset);
            let prefix = TestArchive { prefix: b"#!/bin/sh\n".to_vec(), ..plain };
            let moved = locate(&prefix.bytes()).expect("prefix");
            assert_eq!((moved.base, moved.offset), (10, directory.offset + 10));
            let adjusted = TestArchive { absolute_offsets: true, ..prefix };
            let moved = locate(&adjusted.bytes()).expect("adjusted");
            assert_eq!((moved.base, moved.offset), (0, directory.offset + 10));
        }
    }

    #[test]
    fn an_archive_cut_anywhere_is_truncated() {
        let whole = TestArchive { comment: b"comment".to_vec(), ..sample() }.bytes();
        for length in 4..whole.len() {
            assert_eq!(code(&whole[..length]), Some(Code::Truncated), "{length}");
        }
    }

    #[test]
    fn an_archive_cut_behind_one_that_is_stored_inside_is_truncated() {
        let nested = zip([stored("inner", b"inside")]);
        let whole = zip([stored("nested.jar", &nested), stored("z", b"behind")]);
        let cut = 30 + "nested.jar".len() + nested.len();
        assert_eq!(code(&whole[..cut]), Some(Code::Truncated));
        assert_eq!(code(&whole[..cut + 9]), Some(Code::Truncated));
    }

    #[test]
    fn an_archive_behind_other_archives_is_found() {
        let front = zip([stored("note.txt", b"x")]);
        let wide = TestArchive { zip64: true, comment: b"comment".to_vec(), ..sample() }.bytes();
        let empty = zip([]);
        for fronts in
            [vec![&front], vec![&wide], vec![&empty], vec![&front, &wide, &front], vec![&front; 16]]
        {
            let prefix: Vec<u8> = fronts.iter().flat_map(|front| front.iter().copied()).collect();
            for zip64 in [false, true] {
                for absolute_offsets in [false, true] {
                    let whole =
                        TestArchive { prefix: prefix.clone(), zip64, absolute_offsets, ..sample() };
                    let bytes = whole.bytes();
                    let directory = locate(&bytes.as_slice()).expect("java -jar finds it");
                    let base = if absolute_offsets { 0 } else { prefix.len() as u64 };
                    assert_eq!(directory.base, base, "{}", fronts.len());
                    let cut = &bytes[..bytes.len() - 1];
                    assert_eq!(code(cut), Some(Code::Truncated));
                }
            }
        }
        // An archive that was cut short in front: the whole file was.
        let cut = [&front[..front.len() - 1], &sample().bytes()].concat();
        assert_eq!(code(&cut), Some(Code::Truncated));
    }

    #[test]
    fn bytes_behind_the_archive_are_refused() {
        let mut bytes = sample().bytes();
        bytes.extend_from_slice(b"\r\n--boundary--\r\n");
        assert_eq!(code(&bytes), Some(Code::CorruptArchive));
        let form = [b"--boundary\r\n\r\n", bytes.as_slice()].concat();
        assert_eq!(code(&form), Some(Code::CorruptArchive));
    }

    #[test]
    fn what_has_no_end_record_is_not_an_archive() {
        for bytes in [&b""[..], b"P", b"just some text, longer than an end record", b"PK00"] {
            assert_eq!(code(bytes), Some(Code::NotAnArtifact), "{bytes:?}");
        }
    }

    #[test]
    fn an_end_record_that_points_outside_is_corrupt() {
        let bytes = sample().bytes();
        let end = bytes.len() - END_LENGTH;
        for field in [12, 16] {
            let mut bytes = bytes.clone();
            bytes[end + field + 2] = 1;
            assert_eq!(code(&bytes), Some(Code::CorruptArchive), "{field}");
        }
    }

    #[test]
    fn two_end_records_that_contradict_each_other_are_refused() {
        let mut bytes = TestArchive { zip64: true, ..sample() }.bytes();
        let end = bytes.len() - END_LENGTH;
        bytes[end + 16..end + 20].copy_from_slice(&7u32.to_le_bytes());
        assert_eq!(code(&bytes), Some(Code::CorruptArchive));
    }

    #[test]
    fn a_zip64_record_that_is_not_there_is_refused() {
        let mut bytes = TestArchive { zip64: true, ..sample() }.bytes();
        let record = bytes.len() - END_LENGTH - 20 - 56;
        bytes[record] = b'X';
        assert_eq!(code(&bytes), Some(Code::CorruptArchive));
    }

    #[test]
    fn an_archive_of_several_files_is_refused() {
        let mut bytes = sample().bytes();
        let end = bytes.len() - END_LENGTH;
        bytes[end + 4] = 1;
        assert_eq!(code(&bytes), Some(Code::UnsupportedEntry));
        let mut bytes = TestArchive { zip64: true, ..sample() }.bytes();
        let record = bytes.len() - END_LENGTH - 20 - 56;
        bytes[record + 16] = 1;
        assert_eq!(code(&bytes), Some(Code::UnsupportedEntry));
    }
}
