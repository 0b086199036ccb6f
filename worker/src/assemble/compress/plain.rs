// SPDX-License-Identifier: Apache-2.0

//! Writes a layer as the tar archive itself.
//!
//! Its digest is the diff id, so one is enough. Headers and inflated files are in the scratch file.
//! Files that the artifact holds uncompressed stay there.

use std::io::{self, Read};
use std::path::Path;

use super::intake::Intake;
use super::output::Output;
use super::{Compressed, TarSink};
use crate::assemble::content::Piece;

/// Keeps the bytes of a tar archive.
pub struct PlainWriter {
    intake: Intake,
    output: Output,
}

impl PlainWriter {
    pub(super) fn new(intake: Intake, scratch: &Path) -> io::Result<Self> {
        Ok(Self { intake, output: Output::new(scratch, None)? })
    }

    pub(super) fn finish(self) -> io::Result<Compressed> {
        let artifact = std::sync::Arc::clone(&self.intake.artifact);
        let passed = self.intake.finish()?;
        let (content, size, _) = self.output.finish(artifact)?;
        let digest = passed.diff_id.expect("the digest of a plain layer is its diff id");
        Ok(Compressed { content, digest, size, passed })
    }
}

impl TarSink for PlainWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.intake.take(bytes)?;
        self.output.emit(bytes)
    }

    fn range(&mut self, offset: u64, length: u64) -> io::Result<u32> {
        let output = &mut self.output;
        let checksum = self.intake.range(offset, length, |block| {
            output.digest(block);
            Ok(())
        })?;
        if length > 0 {
            output.push(Piece::Range { offset, length });
        }
        Ok(checksum)
    }

    fn reader(&mut self, reader: &mut dyn Read) -> io::Result<()> {
        let output = &mut self.output;
        self.intake.reader(reader, |block| output.emit(block))
    }

    fn prefers_ranges(&self) -> bool {
        true
    }
}
