// SPDX-License-Identifier: Apache-2.0

//! What every byte of a tar archive passes on its way into a layer: the sign of life, the CRC-32
//! and the digests.

use std::io::{self, Read};
use std::sync::Arc;

use slipway_artifact::{FileSource, Source as _};
use slipway_proto::Digest;

use super::digester::Digester;
use super::{Digesting, Passed};
use crate::assemble::content::MAX_STORED;
use crate::pulse::Pulse;

/// Who digests the stored bytes of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoredDigest {
    /// Somebody else, or nobody.
    NotHere,
    /// The intake: what is not worth compressing becomes stored blocks, and it is told the rest.
    OfBlocks,
}

/// The way in of a layer's bytes.
pub(super) struct Intake {
    pub(super) artifact: Arc<FileSource>,
    pulse: Pulse,
    checksum: crc32fast::Hasher,
    length: u64,
    digester: Digester,
}

impl Intake {
    pub(super) fn new(
        artifact: &Arc<FileSource>,
        digesting: Digesting,
        stored: StoredDigest,
        pulse: &Pulse,
    ) -> Self {
        Self {
            artifact: Arc::clone(artifact),
            pulse: pulse.clone(),
            checksum: crc32fast::Hasher::new(),
            length: 0,
            digester: Digester::new(digesting, stored == StoredDigest::OfBlocks),
        }
    }

    /// Takes bytes from memory.
    pub(super) fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pulse.beat()?;
        self.checksum.update(bytes);
        self.length += bytes.len() as u64;
        self.digester.archive(bytes)
    }

    /// Takes stored bytes that are not those of a block.
    pub(super) fn stored(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digester.stored(bytes)
    }

    /// Takes a range of the artifact, shows it block by block, and returns its CRC-32.
    pub(super) fn range(
        &mut self,
        offset: u64,
        length: u64,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<u32> {
        let mut checksum = crc32fast::Hasher::new();
        let artifact = Arc::clone(&self.artifact);
        let mut done = 0;
        while done < length {
            let rest = usize::try_from(length - done).unwrap_or(usize::MAX);
            let fill = |block: &mut [u8]| {
                artifact.read_exact_at(offset + done, block)?;
                Ok(block.len())
            };
            let block = self.block(rest.min(MAX_STORED), fill)?;
            checksum.update(block);
            each(block)?;
            done += block.len() as u64;
        }
        self.checksum.combine(&checksum);
        Ok(checksum.finalize())
    }

    /// Takes what a reader yields and shows it block by block, all but the last as large as a
    /// stored block can be.
    pub(super) fn reader(
        &mut self,
        reader: &mut dyn Read,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut checksum = crc32fast::Hasher::new();
        loop {
            let block = self.block(MAX_STORED, |block| read_up_to(reader, block))?;
            if block.is_empty() {
                break;
            }
            checksum.update(block);
            each(block)?;
        }
        self.checksum.combine(&checksum);
        Ok(())
    }

    /// Returns the CRC-32 and the length of what was taken.
    pub(super) fn so_far(&self) -> (u32, u64) {
        (self.checksum.clone().finalize(), self.length)
    }

    /// Returns what is known of the archive, and the digest of the stored bytes if it was to be
    /// computed here.
    pub(super) fn finish(self) -> io::Result<(Passed, Option<Digest>)> {
        let (crc32, length) = self.so_far();
        let found = self.digester.finish()?;
        let passed =
            Passed { diff_id: found.archive, fingerprint: found.fingerprint, crc32, length };
        Ok((passed, found.stored))
    }

    /// Reads a block of `most` bytes at most to where the digests want it, and returns it.
    fn block(
        &mut self,
        most: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<&[u8]> {
        self.pulse.beat()?;
        let block = self.digester.block(most, fill)?;
        self.length += block.len() as u64;
        Ok(block)
    }
}

/// Reads until the buffer is full or the reader at its end.
pub(crate) fn read_up_to(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match reader.read(&mut buffer[read..])? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}
