// SPDX-License-Identifier: Apache-2.0

//! Writes a layer as one gzip member: stored blocks for what is compressed already, deflate for
//! the rest.
//!
//! A JAR of 46 MB takes 30 ms this way instead of 400 to 900, for 8 % more bytes. One member
//! (RFC 1952) and not several: some readers stop after the first (SOCI until 2026, Jib). The two
//! modes switch at byte boundaries (a sync flush, RFC 1951 3.2.3), and the deflater starts afresh
//! after every stored run, because it has not seen what it would refer back to.
//!
//! Deflate is zlib-rs at level 2. Its output depends on its input alone, not on the processor; the
//! level and how input is cut belong to the assembly version.

use std::io::{self, Read};
use std::path::Path;

use super::deflate::Deflate;
use super::intake::Intake;
use super::output::{Output, Told};
use super::{Compressed, TarSink};
use crate::assemble::content::{Piece, stored_header};

/// Magic, deflate, no flags, no time, no extra flags, unknown system: a fixed header.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// An empty stored block that is the last of its stream.
const LAST_BLOCK: [u8; 5] = [1, 0, 0, 0xff, 0xff];

/// Takes the bytes of a tar archive and makes a gzip member of them.
pub struct GzipWriter {
    intake: Intake,
    output: Output,
    deflate: Deflate,
}

impl GzipWriter {
    /// Starts a member. The intake digests what is stored.
    pub(super) fn new(intake: Intake, scratch: &Path) -> io::Result<Self> {
        let mut output = Output::new(scratch, Told::Kept(Vec::new()))?;
        output.emit(&GZIP_HEADER)?;
        Ok(Self { intake, output, deflate: Deflate::new() })
    }

    pub(super) fn finish(mut self) -> io::Result<Compressed> {
        self.align()?;
        let (crc32, length) = self.intake.so_far();
        self.output.emit(&LAST_BLOCK)?;
        self.output.emit(&crc32.to_le_bytes())?;
        // The length modulo 2^32 (RFC 1952, ISIZE).
        let [a, b, c, d, ..] = length.to_le_bytes();
        self.output.emit(&[a, b, c, d])?;
        self.tell_intake()?;
        let artifact = std::sync::Arc::clone(&self.intake.artifact);
        let (passed, digest) = self.intake.finish()?;
        let (content, size, _) = self.output.finish(artifact)?;
        let digest = digest.expect("the intake digests what is stored");
        Ok(Compressed { content, digest, size, passed })
    }

    /// Brings the stream to a byte boundary.
    fn align(&mut self) -> io::Result<()> {
        self.deflate.align(&mut self.output)?;
        self.tell_intake()
    }

    /// Has what was deflated digested.
    fn tell_intake(&mut self) -> io::Result<()> {
        let kept = self.output.kept().expect("it keeps them");
        self.intake.stored(kept)?;
        kept.clear();
        Ok(())
    }
}

impl TarSink for GzipWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.intake.take(bytes)?;
        self.deflate.write(bytes, &mut self.output)?;
        self.tell_intake()
    }

    fn range(&mut self, offset: u64, length: u64) -> io::Result<u32> {
        self.align()?;
        let checksum = self.intake.range(offset, length, |_| Ok(()))?;
        if length > 0 {
            self.output.push(Piece::Stored { offset, length });
        }
        Ok(checksum)
    }

    fn reader(&mut self, reader: &mut dyn Read) -> io::Result<()> {
        self.align()?;
        let output = &mut self.output;
        self.intake.reader(reader, |block| {
            output.emit_digested(&stored_header(block.len()))?;
            output.emit_digested(block)
        })
    }
}
