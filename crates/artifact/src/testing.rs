// SPDX-License-Identifier: Apache-2.0

//! A small ZIP writer for tests, which also writes what no honest archive holds.
//!
//! Compiled for the tests of this crate, and with the feature `testing` for the fuzz targets. Not
//! one of the writers on crates.io: those cannot be made to contradict themselves.

pub mod tar;

use std::io::Write as _;

use flate2::Compression;
use flate2::write::DeflateEncoder;

/// What a record of an entry says; the defaults are the truth.
#[derive(Debug, Clone)]
pub struct TestEntry {
    /// Its name in the central directory, and in the local header.
    pub name: Vec<u8>,
    /// Another name for the local header.
    pub local_name: Option<Vec<u8>>,
    /// The bytes that are stored, compressed if the method says so.
    pub data: Vec<u8>,
    /// The compression method: 0 stored, 8 deflated.
    pub method: u16,
    /// The general purpose flags; bit 3 moves checksum and sizes behind the data.
    pub flags: u16,
    /// The Unix mode, with the type of the file.
    pub mode: u32,
    /// The checksum of the content.
    pub crc32: u32,
    /// The number of bytes of the content.
    pub size: u64,
    /// The number of bytes of `data`.
    pub compressed_size: u64,
    /// Where the central directory says the entry is, instead of where it was written.
    pub offset: Option<u64>,
    /// Extra fields of the local header.
    pub local_extra: Vec<u8>,
    /// Whether sizes and offset are in a ZIP64 field.
    pub zip64: bool,
}

/// A stored entry.
#[must_use]
pub fn stored(name: &str, content: &[u8]) -> TestEntry {
    TestEntry {
        name: name.as_bytes().to_vec(),
        local_name: None,
        data: content.to_vec(),
        method: 0,
        flags: 0,
        mode: 0,
        crc32: crc32fast::hash(content),
        size: content.len() as u64,
        compressed_size: content.len() as u64,
        offset: None,
        local_extra: Vec::new(),
        zip64: false,
    }
}

/// A deflated entry.
///
/// # Panics
///
/// Never: writing to memory does not fail.
#[must_use]
pub fn deflated(name: &str, content: &[u8]) -> TestEntry {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(content).expect("writing to memory");
    let data = encoder.finish().expect("writing to memory");
    let compressed_size = data.len() as u64;
    TestEntry { method: 8, data, compressed_size, ..stored(name, content) }
}

/// An archive to be written.
#[derive(Debug, Clone, Default)]
pub struct TestArchive {
    /// Its entries, in this order.
    pub entries: Vec<TestEntry>,
    /// Bytes in front of the archive.
    pub prefix: Vec<u8>,
    /// Whether offsets count from the first byte of the prefix instead of the archive.
    pub absolute_offsets: bool,
    /// The comment behind the end record.
    pub comment: Vec<u8>,
    /// Whether there is a ZIP64 end record.
    pub zip64: bool,
    /// The count that the end record claims.
    pub claimed_count: Option<u64>,
}

/// Writes an archive of these entries.
#[must_use]
pub fn zip(entries: impl IntoIterator<Item = TestEntry>) -> Vec<u8> {
    TestArchive { entries: entries.into_iter().collect(), ..TestArchive::default() }.bytes()
}

fn number(bytes: &mut Vec<u8>, value: u64, width: usize) {
    bytes.extend_from_slice(&value.to_le_bytes()[..width]);
}

fn low16(value: usize) -> u64 {
    u64::from(u16::try_from(value).expect("fits a ZIP field"))
}

impl TestArchive {
    /// Writes the archive.
    ///
    /// # Panics
    ///
    /// When a name, an extra field or the comment is longer than 65,535 bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.prefix.clone();
        let base = if self.absolute_offsets { 0 } else { self.prefix.len() as u64 };
        let mut offsets = Vec::new();
        for entry in &self.entries {
            offsets.push(bytes.len() as u64 - base);
            entry.write_local(&mut bytes);
        }
        let directory = bytes.len() as u64;
        for (entry, offset) in self.entries.iter().zip(offsets) {
            entry.write_central(&mut bytes, offset);
        }
        let size = bytes.len() as u64 - directory;
        let count = self.claimed_count.unwrap_or(self.entries.len() as u64);
        if self.zip64 {
            let end64 = bytes.len() as u64 - base;
            bytes.extend_from_slice(b"PK\x06\x06");
            number(&mut bytes, 44, 8);
            number(&mut bytes, 45, 2);
            number(&mut bytes, 45, 2);
            number(&mut bytes, 0, 8);
            number(&mut bytes, count, 8);
            number(&mut bytes, count, 8);
            number(&mut bytes, size, 8);
            number(&mut bytes, directory - base, 8);
            bytes.extend_from_slice(b"PK\x06\x07");
            number(&mut bytes, 0, 4);
            number(&mut bytes, end64, 8);
            number(&mut bytes, 1, 4);
        }
        let narrow = |value: u64, width: u32| match self.zip64 {
            true => (1 << (8 * width)) - 1,
            false => value & ((1 << (8 * width)) - 1),
        };
        bytes.extend_from_slice(b"PK\x05\x06");
        number(&mut bytes, 0, 4);
        number(&mut bytes, narrow(count, 2), 2);
        number(&mut bytes, narrow(count, 2), 2);
        number(&mut bytes, narrow(size, 4), 4);
        number(&mut bytes, narrow(directory - base, 4), 4);
        number(&mut bytes, low16(self.comment.len()), 2);
        bytes.extend_from_slice(&self.comment);
        bytes
    }
}

impl TestEntry {
    fn write_local(&self, bytes: &mut Vec<u8>) {
        let name = self.local_name.as_ref().unwrap_or(&self.name);
        let described = self.flags & 8 != 0;
        bytes.extend_from_slice(b"PK\x03\x04");
        number(bytes, 20, 2);
        number(bytes, u64::from(self.flags), 2);
        number(bytes, u64::from(self.method), 2);
        number(bytes, 0, 4);
        let facts = [u64::from(self.crc32), self.compressed_size, self.size];
        for fact in facts {
            number(bytes, if described { 0 } else { fact.min(u64::from(u32::MAX)) }, 4);
        }
        number(bytes, low16(name.len()), 2);
        number(bytes, low16(self.local_extra.len()), 2);
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&self.local_extra);
        bytes.extend_from_slice(&self.data);
        if described {
            bytes.extend_from_slice(b"PK\x07\x08");
            for fact in facts {
                number(bytes, fact, 4);
            }
        }
    }

    fn write_central(&self, bytes: &mut Vec<u8>, written_at: u64) {
        let offset = self.offset.unwrap_or(written_at);
        let mut extra = Vec::new();
        if self.zip64 {
            number(&mut extra, 1, 2);
            number(&mut extra, 24, 2);
            for value in [self.size, self.compressed_size, offset] {
                number(&mut extra, value, 8);
            }
        }
        let narrow = |value: u64| if self.zip64 { u64::from(u32::MAX) } else { value };
        bytes.extend_from_slice(b"PK\x01\x02");
        number(bytes, 0x0314, 2);
        number(bytes, 20, 2);
        number(bytes, u64::from(self.flags), 2);
        number(bytes, u64::from(self.method), 2);
        number(bytes, 0, 4);
        number(bytes, u64::from(self.crc32), 4);
        number(bytes, narrow(self.compressed_size), 4);
        number(bytes, narrow(self.size), 4);
        number(bytes, low16(self.name.len()), 2);
        number(bytes, low16(extra.len()), 2);
        number(bytes, 0, 6);
        number(bytes, u64::from(self.mode) << 16, 4);
        number(bytes, narrow(offset), 4);
        bytes.extend_from_slice(&self.name);
        bytes.extend_from_slice(&extra);
    }
}
