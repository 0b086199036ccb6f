// SPDX-License-Identifier: Apache-2.0

//! The content of one entry, inflated and verified.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress, Status};

use super::{Entry, Method};
use crate::invalid::{Code, InspectError, quoted};
use crate::source::{Source, SourceReader};

/// Compressed bytes read at once. Below 16 KiB system calls show; above 64 KiB nothing is gained.
const INPUT: usize = 64 << 10;

/// Compressed bytes read at once where only an entry's start is wanted.
const START_INPUT: usize = 512;

/// Reads the content of one entry.
///
/// It never yields more than the entry's size. Size and CRC-32 are verified before the last bytes
/// are returned, so a caller that stops there has verified content too. A fault of the entry is an
/// error of the kind [`io::ErrorKind::InvalidData`]; other kinds come from the source.
pub struct EntryReader<'a> {
    body: Body<'a>,
    /// Bytes of content that are still to be read.
    remaining: u64,
    /// None when only the start is read.
    checksum: Option<crc32fast::Hasher>,
    expected: u32,
    verified: bool,
    name: String,
}

enum Body<'a> {
    Stored(SourceReader<'a>),
    Deflated(Inflate<'a>),
}

impl std::fmt::Debug for EntryReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EntryReader")
            .field("name", &self.name)
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}

impl<'a> EntryReader<'a> {
    /// Makes a reader of `entry`, whose compressed bytes start at `offset`.
    pub(super) fn new(source: &'a dyn Source, entry: &Entry, offset: u64) -> Self {
        Self::with_input(source, entry, offset, INPUT, Some(crc32fast::Hasher::new()))
    }

    /// Makes a reader of the start of `entry`, which verifies nothing.
    pub(super) fn for_start(source: &'a dyn Source, entry: &Entry, offset: u64) -> Self {
        Self::with_input(source, entry, offset, START_INPUT, None)
    }

    fn with_input(
        source: &'a dyn Source,
        entry: &Entry,
        offset: u64,
        most: usize,
        checksum: Option<crc32fast::Hasher>,
    ) -> Self {
        let input = SourceReader::new(source, offset, entry.compressed_size);
        let body = match entry.method {
            Method::Stored => Body::Stored(input),
            Method::Deflated => Body::Deflated(Inflate::new(input, most)),
        };
        Self {
            body,
            remaining: entry.size,
            checksum,
            expected: entry.crc32,
            verified: false,
            name: entry.name.clone(),
        }
    }

    /// Fills `buffer`, which is not longer than the entry.
    pub(super) fn fill(mut self, buffer: &mut [u8]) -> Result<(), InspectError> {
        let whole = self.checksum.is_some() && buffer.len() as u64 == self.remaining;
        let result = self.read_exact(buffer).and_then(|()| match whole {
            // An empty entry has no last bytes that would verify it.
            true => self.verify(),
            false => Ok(()),
        });
        result.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => {
                InspectError::invalid(Code::CorruptArchive, error.to_string())
            }
            _ => InspectError::Read(error),
        })
    }

    fn corrupt(&self, what: &str) -> io::Error {
        let message = format!("the entry {} {what}: build the archive again", quoted(&self.name));
        io::Error::new(io::ErrorKind::InvalidData, message)
    }

    /// Verifies that the content is at its end and was right.
    fn verify(&mut self) -> io::Result<()> {
        let Some(checksum) = self.checksum.as_ref().filter(|_| !self.verified) else {
            return Ok(());
        };
        if checksum.clone().finalize() != self.expected {
            return Err(self.corrupt("does not match its checksum"));
        }
        if let Body::Deflated(inflate) = &mut self.body {
            match inflate.read(&mut [0; 1]) {
                Ok(0) => {}
                Ok(_) => return Err(self.corrupt("inflates to more than its size")),
                Err(error) => return Err(self.describe(error)),
            }
        }
        self.verified = true;
        Ok(())
    }

    /// Names the entry in an error of the inflater; errors of the source stay as they are.
    fn describe(&self, error: io::Error) -> io::Error {
        match error.kind() {
            io::ErrorKind::InvalidData => self.corrupt(&error.to_string()),
            _ => error,
        }
    }
}

impl Read for EntryReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if most > 0 {
            let result = match &mut self.body {
                Body::Stored(input) => input.read(&mut buffer[..most]),
                Body::Deflated(inflate) => inflate.read(&mut buffer[..most]),
            };
            let count = result.map_err(|error| self.describe(error))?;
            if count == 0 {
                return Err(self.corrupt("inflates to less than its size"));
            }
            if let Some(checksum) = &mut self.checksum {
                checksum.update(&buffer[..count]);
            }
            self.remaining -= count as u64;
            if self.remaining > 0 {
                return Ok(count);
            }
            self.verify()?;
            return Ok(count);
        }
        self.verify()?;
        Ok(0)
    }
}

/// A raw deflate stream. Written by hand because `flate2`'s readers mistake a truncated stream for
/// one that ended.
struct Inflate<'a> {
    input: SourceReader<'a>,
    buffer: Box<[u8]>,
    /// The part of `buffer` that is still to be inflated.
    filled: std::ops::Range<usize>,
    stream: Decompress,
    ended: bool,
}

impl<'a> Inflate<'a> {
    fn new(input: SourceReader<'a>, most: usize) -> Self {
        let length = usize::try_from(input.remaining()).unwrap_or(usize::MAX).clamp(1, most);
        Self {
            input,
            buffer: vec![0; length].into_boxed_slice(),
            filled: 0..0,
            stream: Decompress::new(false),
            ended: false,
        }
    }
}

impl Read for Inflate<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        while !self.ended {
            if self.filled.is_empty() {
                let count = self.input.read(&mut self.buffer)?;
                self.filled = 0..count;
            }
            let (before_in, before_out) = (self.stream.total_in(), self.stream.total_out());
            let input = &self.buffer[self.filled.clone()];
            let status = self
                .stream
                .decompress(input, output, FlushDecompress::None)
                .map_err(|_| invalid("cannot be inflated"))?;
            let consumed = self.stream.total_in() - before_in;
            let produced = self.stream.total_out() - before_out;
            self.filled.start += usize::try_from(consumed).expect("not more than the buffer");
            self.ended = status == Status::StreamEnd;
            if produced > 0 {
                return Ok(usize::try_from(produced).expect("not more than the output"));
            }
            // With neither input nor output, there will never be progress.
            if consumed == 0 && !self.ended {
                return Err(invalid("ends in the middle of its compressed data"));
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestEntry, deflated, stored, zip};
    use crate::zip::Archive;

    /// Reads the first entry in pieces of `piece` bytes.
    fn read(entry: TestEntry, piece: usize) -> io::Result<Vec<u8>> {
        let bytes = zip([entry]);
        let archive = Archive::read(&bytes).expect("the central directory is right");
        let mut reader = archive.open(&bytes, &archive.entries()[0]).expect("an entry");
        let (mut content, mut buffer) = (Vec::new(), vec![0; piece]);
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(content),
                count => content.extend_from_slice(&buffer[..count]),
            }
        }
    }

    #[track_caller]
    fn refused(entry: &TestEntry, what: &str) {
        for piece in [1, 7, 100_000] {
            let error = read(entry.clone(), piece).expect_err("it was read");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            assert!(error.to_string().contains(what), "{error}");
        }
    }

    fn text() -> Vec<u8> {
        (0..20_000u32).flat_map(|number| number.to_string().into_bytes()).collect()
    }

    #[test]
    fn content_is_the_same_in_pieces_of_any_size() {
        for piece in [1, 7, 4096, 1 << 20] {
            assert!(read(stored("a", &text()), piece).expect("stored") == text(), "{piece}");
            assert!(read(deflated("a", &text()), piece).expect("deflated") == text(), "{piece}");
        }
        assert_eq!(read(stored("a", b""), 10).expect("stored"), b"");
        assert_eq!(read(deflated("a", b""), 10).expect("deflated"), b"");
    }

    #[test]
    fn content_that_does_not_match_its_checksum_is_refused() {
        refused(&TestEntry { crc32: 7, ..stored("a", &text()) }, "checksum");
        refused(&TestEntry { crc32: 7, ..deflated("a", &text()) }, "checksum");
        refused(&TestEntry { crc32: 7, ..stored("a", b"") }, "checksum");
    }

    #[test]
    fn the_last_bytes_are_not_handed_out_unverified() {
        let bytes = zip([TestEntry { crc32: 7, ..stored("a", b"content") }]);
        let archive = Archive::read(&bytes).expect("the central directory is right");
        let mut reader = archive.open(&bytes, &archive.entries()[0]).expect("an entry");
        assert!(reader.read_exact(&mut [0; 7]).is_err());
    }

    #[test]
    fn content_that_is_longer_than_the_archive_says_is_refused() {
        let text = text();
        let entry = deflated("a", &text);
        let size = 5000;
        let crc32 = crc32fast::hash(&text[..5000]);
        refused(&TestEntry { size, crc32, ..entry }, "more than its size");
    }

    #[test]
    fn content_that_is_shorter_than_the_archive_says_is_refused() {
        let entry = deflated("a", &text());
        refused(&TestEntry { size: entry.size + 1, ..entry }, "less than its size");
    }

    #[test]
    fn compressed_data_that_is_cut_short_is_refused() {
        let mut entry = deflated("a", &text());
        entry.data.truncate(entry.data.len() / 2);
        refused(&TestEntry { compressed_size: entry.data.len() as u64, ..entry }, "in the middle");
        // Also when all content is there and only the end of the stream is missing.
        let mut entry = deflated("a", b"");
        entry.data.clear();
        refused(&TestEntry { compressed_size: 0, ..entry }, "in the middle");
    }

    #[test]
    fn compressed_data_that_is_none_is_refused() {
        let mut entry = deflated("a", &text());
        entry.data.fill(0xff);
        refused(&entry, "cannot be inflated");
    }
}
