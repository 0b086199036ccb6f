// SPDX-License-Identifier: Apache-2.0

//! Bytes that can be read from any position.
//!
//! Not a memory map: its pages count as resident memory of the process, which must stay bounded for
//! artifacts of any size, and truncating a mapped file kills the process instead of giving an
//! error. Not `Read + Seek`: a position shared by readers would need a lock.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use slipway_proto::Digest;

use crate::file_identity::FileIdentity;

/// How much is digested at a time.
const DIGEST_PIECE: usize = 256 << 10;

/// Bytes of a known length that can be read from any position, by several readers at once.
pub trait Source: Send + Sync {
    /// Returns the number of bytes.
    fn len(&self) -> u64;

    /// Returns whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` with the bytes at `offset`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] when the source has too few bytes there, or the storage's
    /// error.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// A file as a source. Its length is the one it had when it was opened.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    identity: FileIdentity,
    is_settled: bool,
}

impl FileSource {
    /// Opens the file at `path`.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or is not a regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Checked before it is opened: opening a pipe blocks until somebody writes to it.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
        }
        Self::new(File::open(path)?)
    }

    /// Takes a file that is open for reading.
    ///
    /// # Errors
    ///
    /// When its length cannot be learned.
    pub fn new(file: File) -> io::Result<Self> {
        let now = SystemTime::now();
        let identity = FileIdentity::of(&file)?;
        Ok(Self { file, identity, is_settled: identity.is_settled_at(now) })
    }

    /// Returns the identity that the file had when it was opened.
    #[must_use]
    pub fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Returns whether any change after the file was opened gives it another identity. A change
    /// within the same step of the file system's clock as the one before would not.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Returns whether the file still has the identity that it had when it was opened. If so, all
    /// bytes that were read since are the bytes that it held then.
    ///
    /// # Errors
    ///
    /// When it cannot be asked.
    pub fn is_untouched(&self) -> io::Result<bool> {
        Ok(FileIdentity::of(&self.file)? == self.identity)
    }
}

impl Source for FileSource {
    fn len(&self) -> u64 {
        self.identity.length()
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

impl Source for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..)?.get(..buffer.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

impl Source for Vec<u8> {
    fn len(&self) -> u64 {
        Source::len(&self.as_slice())
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.as_slice().read_exact_at(offset, buffer)
    }
}

/// A range of a source, as a source of its own.
#[derive(Clone, Copy)]
pub struct Section<'a> {
    source: &'a dyn Source,
    start: u64,
    length: u64,
}

impl<'a> Section<'a> {
    /// Takes the `length` bytes at `offset`. A range that reaches past the end of the source is
    /// shortened.
    #[must_use]
    pub fn new(source: &'a dyn Source, offset: u64, length: u64) -> Self {
        let start = offset.min(source.len());
        Self { source, start, length: length.min(source.len() - start) }
    }
}

impl std::fmt::Debug for Section<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Section")
            .field("start", &self.start)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl Source for Section<'_> {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.source.read_exact_at(self.start + offset, buffer)
    }
}

/// Returns the digest of a source; `goes_on` is asked before each piece of it.
///
/// # Errors
///
/// When it cannot be read, or what `goes_on` returned.
pub fn digest(source: &dyn Source, goes_on: &dyn Fn() -> io::Result<()>) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; DIGEST_PIECE];
    let mut done = 0;
    while done < source.len() {
        goes_on()?;
        let rest = usize::try_from(source.len() - done).unwrap_or(usize::MAX);
        let piece = &mut buffer[..rest.min(DIGEST_PIECE)];
        source.read_exact_at(done, piece)?;
        hasher.update(&*piece);
        done += piece.len() as u64;
    }
    Ok(Digest::from(hasher))
}

/// Reads a range of a source from its first byte to its last. It has no buffer of its own.
#[derive(Clone)]
pub struct SourceReader<'a> {
    source: &'a dyn Source,
    start: u64,
    length: u64,
    position: u64,
}

impl<'a> SourceReader<'a> {
    /// Makes a reader of the `length` bytes at `offset`. A range that reaches past the end of the
    /// source is shortened.
    #[must_use]
    pub fn new(source: &'a dyn Source, offset: u64, length: u64) -> Self {
        let start = offset.min(source.len());
        let length = length.min(source.len() - start);
        Self { source, start, length, position: 0 }
    }

    /// Returns the number of bytes that are still to be read.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.length.saturating_sub(self.position)
    }
}

impl std::fmt::Debug for SourceReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceReader")
            .field("start", &self.start)
            .field("length", &self.length)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Read for SourceReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = usize::try_from(self.remaining()).unwrap_or(usize::MAX).min(buffer.len());
        if count == 0 {
            return Ok(0);
        }
        self.source.read_exact_at(self.start + self.position, &mut buffer[..count])?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for SourceReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_is_read_by_position() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(b"0123456789").expect("written");
        let source = FileSource::new(file).expect("a source");
        let mut buffer = [0; 3];
        source.read_exact_at(4, &mut buffer).expect("three bytes at 4");
        assert_eq!((&buffer, source.len(), source.is_empty()), (b"456", 10, false));
        let error = source.read_exact_at(8, &mut buffer).expect_err("only two bytes are there");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo runs").success());
        let (sender, refused) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(FileSource::open(&path).is_err()));
        assert_eq!(refused.recv_timeout(Duration::from_secs(10)), Ok(true));
    }

    #[test]
    fn a_reader_gives_its_range_and_no_more() {
        let bytes = b"0123456789".to_vec();
        let mut text = String::new();
        let mut reader = SourceReader::new(&bytes, 2, 5);
        reader.read_to_string(&mut text).expect("the range");
        assert_eq!((text.as_str(), reader.remaining()), ("23456", 0));
        text.clear();
        SourceReader::new(&bytes, 8, 100).read_to_string(&mut text).expect("the shortened range");
        assert_eq!(text, "89");
        assert_eq!(SourceReader::new(&bytes, u64::MAX, u64::MAX).remaining(), 0);
    }

    #[test]
    fn a_section_ends_where_it_ends() {
        let bytes = b"0123456789".to_vec();
        let section = Section::new(&bytes, 2, 5);
        let mut buffer = [0; 3];
        section.read_exact_at(2, &mut buffer).expect("three bytes at 4");
        assert_eq!((&buffer, section.len()), (b"456", 5));
        let error = section.read_exact_at(3, &mut buffer).expect_err("only two are in it");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(section.read_exact_at(u64::MAX, &mut buffer).is_err());
        assert_eq!(Section::new(&bytes, 8, u64::MAX).len(), 2, "it is shortened");
    }

    #[test]
    fn a_reader_seeks_within_its_range() {
        let bytes = b"0123456789".to_vec();
        let mut reader = SourceReader::new(&bytes, 2, 5);
        let mut text = String::new();
        assert_eq!(reader.seek(SeekFrom::End(-2)).expect("a position"), 3);
        reader.read_to_string(&mut text).expect("the rest");
        assert_eq!(text, "56");
        assert!(reader.seek(SeekFrom::Current(-6)).is_err(), "before the range");
        assert_eq!(reader.seek(SeekFrom::Start(u64::MAX)).expect("far behind it"), u64::MAX);
        assert_eq!(reader.read(&mut [0; 1]).expect("nothing"), 0);
    }
}
