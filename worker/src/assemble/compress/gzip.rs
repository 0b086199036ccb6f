// SPDX-License-Identifier: Apache-2.0

//! Writes a layer as one gzip member: stored blocks for compressed files, deflate for the rest.
//!
//! A JAR of 46 MB takes 30 ms this way instead of 400 to 900, for 8 % more bytes. It is one member
//! (RFC 1952) and not several, because some readers stop after the first (SOCI until 2026, Jib).
//! The two modes switch at byte boundaries (a sync flush, RFC 1951 3.2.3). The deflater starts
//! fresh after every stored run, because it has not seen the bytes it would refer back to.
//!
//! Deflate is zlib-rs at level 2. Its output depends on its input alone, not on the processor. The
//! level and the cutting of the input belong to the assembly version.

use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::deflate::Deflate;
use super::intake::Intake;
use super::output::Output;
use super::{Compressed, TarSink};
use crate::assemble::content::{Piece, stored_header};

/// Magic, deflate, no flags, no time, no extra flags, unknown system: a fixed header.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// An empty stored block that is the last of its stream.
const LAST_BLOCK: [u8; 5] = [1, 0, 0, 0xff, 0xff];

/// Makes a gzip member from the bytes of a tar archive.
pub struct GzipWriter {
    intake: Intake,
    output: Output,
    deflate: Deflate,
}

impl GzipWriter {
    pub(super) fn new(intake: Intake, scratch: &Path) -> io::Result<Self> {
        let mut output = Output::new(scratch, Some(Sha256::new()))?;
        output.emit(&GZIP_HEADER)?;
        Ok(Self { intake, output, deflate: Deflate::new() })
    }

    pub(super) fn finish(mut self) -> io::Result<Compressed> {
        self.deflate.align(&mut self.output)?;
        self.output.emit(&LAST_BLOCK)?;
        let artifact = std::sync::Arc::clone(&self.intake.artifact);
        let passed = self.intake.finish()?;
        self.output.emit(&passed.crc32.to_le_bytes())?;
        // The length modulo 2^32 (RFC 1952, ISIZE).
        let [a, b, c, d, ..] = passed.length.to_le_bytes();
        self.output.emit(&[a, b, c, d])?;
        let (content, size, digest) = self.output.finish(artifact)?;
        let digest = digest.expect("the output digests");
        Ok(Compressed { content, digest, size, passed })
    }
}

impl TarSink for GzipWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.intake.take(bytes)?;
        self.deflate.write(bytes, &mut self.output)
    }

    fn range(&mut self, offset: u64, length: u64) -> io::Result<u32> {
        let output = &mut self.output;
        self.deflate.align(output)?;
        let checksum = self.intake.range(offset, length, |block| {
            output.digest(&stored_header(block.len()));
            output.digest(block);
            Ok(())
        })?;
        if length > 0 {
            output.push(Piece::Stored { offset, length });
        }
        Ok(checksum)
    }

    fn reader(&mut self, reader: &mut dyn Read) -> io::Result<()> {
        let output = &mut self.output;
        self.deflate.align(output)?;
        self.intake.reader(reader, |block| {
            output.emit(&stored_header(block.len()))?;
            output.emit(block)
        })
    }
}
