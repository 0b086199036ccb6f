// SPDX-License-Identifier: Apache-2.0

//! Writes ZIP archives (APPNOTE 6.3.10, without ZIP64): stored and deflated entries, directories.

use std::io::{self, Write};

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// Writes an archive, entry by entry.
pub(super) struct ZipWriter<W> {
    out: W,
    offset: usize,
    directory: Vec<u8>,
    entries: u16,
}

/// Returns deflated bytes for an entry. The level is the cheapest, because the benchmark waits for
/// it.
pub(super) fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::with_capacity(bytes.len() / 2), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes all writes")
}

impl<W: Write> ZipWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, offset: 0, directory: Vec::new(), entries: 0 }
    }

    /// Writes the entry of a directory; its name ends with a slash.
    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, STORED, &[], &[])
    }

    /// Writes a stored entry.
    pub(super) fn stored(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.entry(name, STORED, bytes, bytes)
    }

    /// Writes an entry compressed.
    pub(super) fn deflated(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.entry(name, DEFLATED, bytes, &deflate(bytes))
    }

    /// Writes the directory of the archive and returns where it was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        let mut end = b"PK\x05\x06\0\0\0\0".to_vec();
        end.extend([self.entries.to_le_bytes(), self.entries.to_le_bytes()].concat());
        end.extend(size(self.directory.len())?.to_le_bytes());
        end.extend(size(self.offset)?.to_le_bytes());
        end.extend([0, 0]);
        self.out.write_all(&self.directory)?;
        self.out.write_all(&end)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, method: u16, bytes: &[u8], held: &[u8]) -> io::Result<()> {
        let mut checksum = Crc::new();
        checksum.update(bytes);
        let mut header = Vec::with_capacity(64 + name.len());
        // Version, flags (the name is UTF-8), method, time, date (1 February 1980, as Maven writes).
        for number in [20_u16, 0x0800, method, 0, 0x41] {
            header.extend(number.to_le_bytes());
        }
        for number in [checksum.sum(), size(held.len())?, size(bytes.len())?] {
            header.extend(number.to_le_bytes());
        }
        let length = u16::try_from(name.len()).map_err(|_| too_large())?;
        header.extend(length.to_le_bytes());
        header.extend([0, 0]);
        self.directory.extend(b"PK\x01\x02\x14\x00");
        self.directory.extend(&header);
        // Comment length, disk, internal and external attributes.
        self.directory.extend([0; 10]);
        self.directory.extend(size(self.offset)?.to_le_bytes());
        self.directory.extend(name.as_bytes());
        header.extend(name.as_bytes());
        self.out.write_all(b"PK\x03\x04")?;
        self.out.write_all(&header)?;
        self.out.write_all(held)?;
        self.offset += 4 + header.len() + held.len();
        self.entries = self.entries.checked_add(1).ok_or_else(too_large)?;
        Ok(())
    }
}

fn size(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(|_| too_large())
}

fn too_large() -> io::Error {
    io::Error::other("the archive would need ZIP64")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn java_reads_what_is_written() {
        let mut zip = ZipWriter::new(Vec::new());
        zip.directory("a/").expect("it is written");
        zip.stored("a/stored.txt", b"as it is").expect("it is written");
        zip.deflated("a/deflated.txt", &[b'x'; 1000]).expect("it is written");
        let archive = zip.finish().expect("it is written");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.jar");
        std::fs::write(&path, archive).expect("it is written");
        let jar = Command::new("jar").arg("xf").arg(&path).current_dir(directory.path()).status();
        assert!(jar.expect("jar runs").success());
        let read =
            |name| std::fs::read(directory.path().join("a").join(name)).expect("it is there");
        assert_eq!(read("stored.txt"), b"as it is");
        assert_eq!(read("deflated.txt"), [b'x'; 1000]);
    }
}
