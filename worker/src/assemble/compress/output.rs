// SPDX-License-Identifier: Apache-2.0

//! The stored bytes of a layer as they are made: what is written goes to the scratch file, what is
//! a range of the artifact is only noted, and the digest sees both.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use slipway_artifact::FileSource;
use slipway_proto::Digest;

use crate::assemble::content::{Content, Piece};

/// How much is written to the scratch file at once.
const SCRATCH_BUFFER: usize = 256 * 1024;

/// The output of a layer's stored bytes.
pub(super) struct Output {
    scratch: BufWriter<File>,
    scratch_length: u64,
    pieces: Vec<Piece>,
    /// `None` if the same bytes are digested elsewhere.
    digest: Option<Sha256>,
    size: u64,
}

impl Output {
    /// Starts a layer with a nameless scratch file.
    pub(super) fn new(scratch: &Path, digest: Option<Sha256>) -> io::Result<Self> {
        let scratch = BufWriter::with_capacity(SCRATCH_BUFFER, tempfile::tempfile_in(scratch)?);
        Ok(Self { scratch, scratch_length: 0, pieces: Vec::new(), digest, size: 0 })
    }

    /// Appends bytes through the scratch file.
    pub(super) fn emit(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.scratch.write_all(bytes)?;
        self.digest(bytes);
        let (offset, length) = (self.scratch_length, bytes.len() as u64);
        self.scratch_length += length;
        match self.pieces.last_mut() {
            Some(Piece::Scratch { length: last, .. }) => *last += length,
            _ if length > 0 => self.pieces.push(Piece::Scratch { offset, length }),
            _ => {}
        }
        Ok(())
    }

    /// Notes bytes that lie in the artifact, for the digest and the size.
    pub(super) fn digest(&mut self, bytes: &[u8]) {
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
        self.size += bytes.len() as u64;
    }

    /// Appends a piece whose bytes were digested.
    pub(super) fn push(&mut self, piece: Piece) {
        self.pieces.push(piece);
    }

    /// Returns the content, its size and its digest.
    pub(super) fn finish(
        self,
        artifact: Arc<FileSource>,
    ) -> io::Result<(Content, u64, Option<Digest>)> {
        let scratch = self.scratch.into_inner().map_err(io::IntoInnerError::into_error)?;
        let digest = self.digest.map(Digest::from);
        Ok((Content::new(artifact, scratch, self.pieces), self.size, digest))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.emit(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
