// SPDX-License-Identifier: Apache-2.0

//! A small tar writer for tests, which also writes what no honest archive holds.

use std::io::Write as _;

const BLOCK: usize = 512;

/// An entry of a tar archive; the defaults are a file as GNU tar and POSIX write it.
#[derive(Debug, Clone)]
pub struct TarEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// The type flag.
    pub flag: u8,
    /// The target of a link.
    pub link: Vec<u8>,
    /// Its content.
    pub data: Vec<u8>,
    /// The size that the header claims.
    pub size: u64,
    /// The permission bits.
    pub mode: u32,
    /// The modification time.
    pub modified: u64,
    /// Magic and version.
    pub magic: [u8; 8],
    /// The checksum, if it is not the right one.
    pub checksum: Option<u32>,
}

/// A file.
#[must_use]
pub fn file(name: &str, data: &[u8]) -> TarEntry {
    TarEntry {
        name: name.as_bytes().to_vec(),
        flag: b'0',
        link: Vec::new(),
        data: data.to_vec(),
        size: data.len() as u64,
        mode: 0o644,
        modified: 1_700_000_000,
        magic: *b"ustar\x0000",
        checksum: None,
    }
}

/// An entry of another type.
#[must_use]
pub fn special(name: &str, flag: u8, link: &str) -> TarEntry {
    TarEntry { flag, link: link.as_bytes().to_vec(), ..file(name, b"") }
}

/// A header of a header: records of pax, or a long name of GNU.
#[must_use]
pub fn extended(flag: u8, data: &[u8]) -> TarEntry {
    TarEntry { flag, ..file("header", data) }
}

/// A record of pax.
#[must_use]
pub fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}").into_bytes()
}

/// Writes an archive of these entries, with its end.
#[must_use]
pub fn tar(entries: impl IntoIterator<Item = TarEntry>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend_from_slice(&entry.bytes());
    }
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

/// Compresses bytes by gzip.
///
/// # Panics
///
/// Never: writing to memory does not fail.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

impl TarEntry {
    fn bytes(&self) -> Vec<u8> {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, most: usize, bytes: &[u8]| {
            let length = bytes.len().min(most);
            block[at..at + length].copy_from_slice(&bytes[..length]);
        };
        put(0, 100, &self.name);
        put(100, 8, format!("{:07o}\0", self.mode).as_bytes());
        put(108, 8, b"0000000\0");
        put(116, 8, b"0000000\0");
        put(124, 12, format!("{:011o}\0", self.size).as_bytes());
        put(136, 12, format!("{:011o}\0", self.modified).as_bytes());
        put(148, 8, b"        ");
        put(156, 1, &[self.flag]);
        put(157, 100, &self.link);
        put(257, 8, &self.magic);
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        let sum = self.checksum.unwrap_or(sum);
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut bytes = block.to_vec();
        bytes.extend_from_slice(&self.data);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }
}
