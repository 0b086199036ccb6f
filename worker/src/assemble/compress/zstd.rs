// SPDX-License-Identifier: Apache-2.0

//! Writes a layer as one Zstandard frame (RFC 8878).
//!
//! Level 1 takes 40 ms for a JAR of 46 MB and leaves 90.8 %, less than gzip at level 6 leaves in
//! 918 ms. Level 3 takes 112 ms for another 3 %. Class files take a third of gzip's time and are
//! smaller. At that speed, compressed files go through it too. The frame depends on its input and
//! on the library's version, which belongs to the assembly version.

use std::io::{self, Read, Write as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use zstd::stream::write::Encoder;

use super::intake::Intake;
use super::output::Output;
use super::{Compressed, TarSink};

/// The effort.
const ZSTD_LEVEL: i32 = 1;

/// Makes a Zstandard frame from the bytes of a tar archive.
pub struct ZstdWriter {
    intake: Intake,
    encoder: Encoder<'static, Output>,
}

impl ZstdWriter {
    pub(super) fn new(intake: Intake, scratch: &Path) -> io::Result<Self> {
        let output = Output::new(scratch, Some(Sha256::new()))?;
        Ok(Self { intake, encoder: Encoder::new(output, ZSTD_LEVEL)? })
    }

    pub(super) fn finish(self) -> io::Result<Compressed> {
        let artifact = std::sync::Arc::clone(&self.intake.artifact);
        let passed = self.intake.finish()?;
        let (content, size, digest) = self.encoder.finish()?.finish(artifact)?;
        let digest = digest.expect("the output digests");
        Ok(Compressed { content, digest, size, passed })
    }
}

impl TarSink for ZstdWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.intake.take(bytes)?;
        self.encoder.write_all(bytes)
    }

    fn range(&mut self, offset: u64, length: u64) -> io::Result<u32> {
        let encoder = &mut self.encoder;
        self.intake.range(offset, length, |block| encoder.write_all(block))
    }

    fn reader(&mut self, reader: &mut dyn Read) -> io::Result<()> {
        let encoder = &mut self.encoder;
        self.intake.reader(reader, |block| encoder.write_all(block))
    }
}
