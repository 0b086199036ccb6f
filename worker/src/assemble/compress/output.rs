// SPDX-License-Identifier: Apache-2.0

//! The stored bytes of a layer as they are made: what is written goes to the scratch file, what is
//! a range of the artifact is only noted.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use slipway_artifact::FileSource;
use slipway_proto::Digest;

use crate::assemble::content::{Content, Piece};

/// How much is written to the scratch file at once.
const BUFFER: usize = 256 * 1024;

/// What becomes of stored bytes beside the scratch file.
pub(super) enum Told {
    /// They are digested.
    Digested(Box<Sha256>),
    /// They are kept until somebody takes them, who digests them.
    Kept(Vec<u8>),
    /// Nothing: somebody digests the same bytes.
    Nobody,
}

/// Where the stored bytes of a layer go.
pub(super) struct Output {
    scratch: BufWriter<File>,
    scratch_length: u64,
    pieces: Vec<Piece>,
    told: Told,
    size: u64,
}

impl Output {
    /// Starts a layer with a nameless scratch file.
    pub(super) fn new(scratch: &Path, told: Told) -> io::Result<Self> {
        let scratch = BufWriter::with_capacity(BUFFER, tempfile::tempfile_in(scratch)?);
        Ok(Self { scratch, scratch_length: 0, pieces: Vec::new(), told, size: 0 })
    }

    /// Appends bytes by way of the scratch file.
    pub(super) fn emit(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.told {
            Told::Digested(digest) => digest.update(bytes),
            Told::Kept(kept) => kept.extend_from_slice(bytes),
            Told::Nobody => {}
        }
        self.emit_digested(bytes)
    }

    /// The same of bytes that somebody else digests.
    pub(super) fn emit_digested(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.scratch.write_all(bytes)?;
        let (offset, length) = (self.scratch_length, bytes.len() as u64);
        self.scratch_length += length;
        self.size += length;
        match self.pieces.last_mut() {
            Some(Piece::Scratch { length: last, .. }) => *last += length,
            _ if length > 0 => self.pieces.push(Piece::Scratch { offset, length }),
            _ => {}
        }
        Ok(())
    }

    /// Returns the bytes that were kept since it was last asked; who digests them clears them.
    pub(super) fn kept(&mut self) -> Option<&mut Vec<u8>> {
        match &mut self.told {
            Told::Kept(kept) => Some(kept),
            Told::Digested(_) | Told::Nobody => None,
        }
    }

    /// Appends a piece of the artifact, which somebody else digests.
    pub(super) fn push(&mut self, piece: Piece) {
        self.size += piece.size();
        self.pieces.push(piece);
    }

    /// Returns the content, its size and its digest.
    pub(super) fn finish(
        self,
        artifact: Arc<FileSource>,
    ) -> io::Result<(Content, u64, Option<Digest>)> {
        let scratch = self.scratch.into_inner().map_err(io::IntoInnerError::into_error)?;
        let digest = match self.told {
            Told::Digested(digest) => Some(Digest::from(*digest)),
            Told::Kept(_) | Told::Nobody => None,
        };
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
