// SPDX-License-Identifier: Apache-2.0

//! Takes the bytes of a tar archive and makes from them the stored bytes of a layer, or only
//! digests of the archive.
//!
//! The walk over the files of a layer writes to a [`TarSink`]. Behind it is one of the formats that
//! a request can ask for, or only a digest.

mod deflate;
mod gzip;
mod intake;
mod output;
mod plain;
mod zstd;

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use slipway_artifact::FileSource;
use slipway_proto::Digest;
use slipway_proto::request::Compression;

use super::content::Content;
use crate::liveness::Liveness;
use intake::Intake;
pub(super) use intake::read_up_to;

/// Whether and where an archive is digested while it passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digesting {
    /// Not at all, because its digests are known.
    No,
    /// On the thread that writes, for small layers.
    Here(Digests),
    /// On a second thread, so that this one can compute those of the stored bytes.
    Elsewhere(Digests),
}

/// Which digests of an archive are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digests {
    /// Only the fingerprint, by which an archive is recognised.
    Fingerprint,
    /// The fingerprint, and the diff id that an image needs.
    All,
}

/// Takes a tar archive, part by part.
pub trait TarSink {
    /// Takes bytes that are worth compressing.
    ///
    /// # Errors
    ///
    /// When the scratch file cannot be written, or the build is over.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Takes a range of the artifact, not worth compressing, and returns its CRC-32.
    ///
    /// # Errors
    ///
    /// When the artifact cannot be read or the scratch file cannot be written, or the build is
    /// over.
    fn range(&mut self, offset: u64, length: u64) -> io::Result<u32>;

    /// Takes the bytes of a reader, not worth compressing.
    ///
    /// # Errors
    ///
    /// When the reader fails or the scratch file cannot be written, or the build is over.
    fn reader(&mut self, reader: &mut dyn Read) -> io::Result<()>;

    /// Returns whether ranges of the artifact should be passed as such even if they are worth
    /// compressing.
    fn prefers_ranges(&self) -> bool {
        false
    }
}

/// The properties of a tar archive that went through a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// The digest of the tar archive, if it was computed.
    pub diff_id: Option<Digest>,
    /// Its BLAKE3 digest, if it was computed. It takes a third of the diff id's time, and other
    /// units of a processor.
    pub fingerprint: Option<blake3::Hash>,
    /// Its CRC-32, which ends a gzip member.
    pub crc32: u32,
    /// Its number of bytes.
    pub length: u64,
}

/// A layer as it is stored.
#[derive(Debug)]
pub struct Compressed {
    /// The stored bytes.
    pub content: Content,
    /// The digest of the stored bytes.
    pub digest: Digest,
    /// The number of stored bytes.
    pub size: u64,
    /// The tar archive that they unpack to.
    pub passed: Passed,
}

/// Writes a layer in one of the formats.
pub enum LayerWriter {
    /// One gzip member.
    Gzip(Box<gzip::GzipWriter>),
    /// One Zstandard frame.
    Zstd(Box<zstd::ZstdWriter>),
    /// The archive uncompressed.
    Plain(Box<plain::PlainWriter>),
}

impl LayerWriter {
    /// Starts a layer. Its scratch file is in `scratch` and has no name.
    ///
    /// # Errors
    ///
    /// When the scratch file cannot be made.
    pub fn new(
        compression: Compression,
        artifact: &Arc<FileSource>,
        scratch: &Path,
        digesting: Digesting,
        liveness: &Liveness,
    ) -> io::Result<Self> {
        let intake = Intake::new(artifact, digesting, liveness);
        Ok(match compression {
            Compression::Gzip => Self::Gzip(Box::new(gzip::GzipWriter::new(intake, scratch)?)),
            Compression::Zstd => Self::Zstd(Box::new(zstd::ZstdWriter::new(intake, scratch)?)),
            Compression::None => Self::Plain(Box::new(plain::PlainWriter::new(intake, scratch)?)),
        })
    }

    /// Returns the sink for the archive.
    pub fn sink(&mut self) -> &mut dyn TarSink {
        match self {
            Self::Gzip(writer) => &mut **writer,
            Self::Zstd(writer) => &mut **writer,
            Self::Plain(writer) => &mut **writer,
        }
    }

    /// Ends the layer.
    ///
    /// # Errors
    ///
    /// When the scratch file cannot be written.
    pub fn finish(self) -> io::Result<Compressed> {
        match self {
            Self::Gzip(writer) => writer.finish(),
            Self::Zstd(writer) => writer.finish(),
            Self::Plain(writer) => writer.finish(),
        }
    }
}

/// Keeps only the digests of an archive.
pub struct DigestOnly(Intake);

impl DigestOnly {
    /// Starts an archive.
    #[must_use]
    pub fn new(artifact: &Arc<FileSource>, digesting: Digesting, liveness: &Liveness) -> Self {
        Self(Intake::new(artifact, digesting, liveness))
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// When the digesting thread panicked.
    pub fn finish(self) -> io::Result<Passed> {
        self.0.finish()
    }
}

impl TarSink for DigestOnly {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.take(bytes)
    }

    fn range(&mut self, offset: u64, length: u64) -> io::Result<u32> {
        self.0.range(offset, length, |_| Ok(()))
    }

    fn reader(&mut self, reader: &mut dyn Read) -> io::Result<()> {
        self.0.reader(reader, |_| Ok(()))
    }
}

#[cfg(test)]
mod tests;
