// SPDX-License-Identifier: Apache-2.0

//! The stored bytes of a layer, without holding or copying them.
//!
//! What was compressed lies in a nameless scratch file; what was only stored stays where it is, in
//! the artifact, and is framed again each time the layer is read. So a layer of hundreds of
//! megabytes of JARs costs neither memory nor disk, and can be sent again after a broken upload,
//! from wherever it broke.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::Stream;
use slipway_artifact::{FileSource, Source as _};

/// The largest stored block of deflate (RFC 1951, 3.2.4).
pub(super) const MAX_STORED: usize = 0xffff;

/// The length of a stored block's header at a byte boundary.
const STORED_HEADER_BYTES: usize = 5;

/// The size of the stream's chunks.
const CHUNK: usize = 256 * 1024;

/// How many chunks may wait for a slow reader.
const CHUNKS_AHEAD: usize = 2;

/// The bytes of a layer.
#[derive(Debug)]
pub struct Content {
    artifact: Arc<FileSource>,
    scratch: File,
    pieces: Vec<Piece>,
    size: u64,
}

/// A run of bytes of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Piece {
    /// Bytes of the scratch file, unchanged.
    Scratch { offset: u64, length: u64 },
    /// Bytes of the artifact, unchanged.
    Range { offset: u64, length: u64 },
    /// Bytes of the artifact, framed as stored blocks.
    Stored { offset: u64, length: u64 },
}

impl Piece {
    /// Returns the number of bytes it makes.
    fn size(self) -> u64 {
        match self {
            Self::Scratch { length, .. } | Self::Range { length, .. } => length,
            Self::Stored { length, .. } => {
                length + STORED_HEADER_BYTES as u64 * length.div_ceil(MAX_STORED as u64)
            }
        }
    }
}

/// Returns the header of a stored block that is not the last of its stream.
pub(super) fn stored_header(length: usize) -> [u8; STORED_HEADER_BYTES] {
    let length = u16::try_from(length).expect("a stored block has at most 65,535 bytes");
    let [low, high] = length.to_le_bytes();
    [0, low, high, !low, !high]
}

impl Content {
    pub(super) fn new(artifact: Arc<FileSource>, scratch: File, pieces: Vec<Piece>) -> Self {
        let size = pieces.iter().map(|piece| piece.size()).sum();
        Self { artifact, scratch, pieces, size }
    }

    /// Returns the number of bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the bytes from the start, read on a thread of its own.
    pub fn stream(self: &Arc<Self>) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        self.stream_from(0)
    }

    /// Returns the bytes from an offset on, read on a thread of its own. Four buffers are enough
    /// for a whole stream.
    pub fn stream_from(
        self: &Arc<Self>,
        offset: u64,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        let content = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let mut reader = content.reader_from(offset);
            let rest = usize::try_from(content.size.saturating_sub(offset)).unwrap_or(usize::MAX);
            let pool = Arc::new(Pool { buffers: Mutex::default(), length: rest.min(CHUNK) });
            loop {
                let chunk = match pool.fill(&mut reader) {
                    Ok(chunk) if chunk.is_empty() => break,
                    chunk => chunk,
                };
                let failed = chunk.is_err();
                // A dropped receiver needs no more bytes.
                if sender.blocking_send(chunk).is_err() || failed {
                    break;
                }
            }
        });
        futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|chunk| (chunk, receiver))
        })
    }

    /// Returns a reader of the bytes from an offset on. It blocks and has no buffer.
    #[must_use]
    pub fn reader_from(&self, offset: u64) -> ContentReader<'_> {
        let mut reader = ContentReader { content: self, pieces: &self.pieces, position: offset };
        reader.skip_finished();
        reader
    }
}

/// Reads the bytes of a layer.
#[derive(Debug)]
pub struct ContentReader<'a> {
    content: &'a Content,
    /// The piece that is being read, and those after it.
    pieces: &'a [Piece],
    /// The position in the first of them.
    position: u64,
}

impl ContentReader<'_> {
    fn skip_finished(&mut self) {
        while let [first, rest @ ..] = self.pieces
            && self.position >= first.size()
        {
            self.position -= first.size();
            self.pieces = rest;
        }
    }
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let [piece, ..] = self.pieces else { return Ok(0) };
        let (content, at) = (self.content, self.position);
        let most = |rest: u64| usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len());
        let read = match *piece {
            Piece::Scratch { offset, length } => {
                let read = most(length - at);
                content.scratch.read_exact_at(&mut buffer[..read], offset + at)?;
                read
            }
            Piece::Range { offset, length } => {
                let read = most(length - at);
                content.artifact.read_exact_at(offset + at, &mut buffer[..read])?;
                read
            }
            Piece::Stored { offset, length } => {
                let framed = (STORED_HEADER_BYTES + MAX_STORED) as u64;
                let start = at / framed * MAX_STORED as u64;
                let within = usize::try_from(at % framed).expect("less than a block");
                let block = (length - start).min(MAX_STORED as u64);
                let block = usize::try_from(block).expect("a block is small");
                if let Some(header) = stored_header(block).get(within..).filter(|h| !h.is_empty()) {
                    let read = header.len().min(buffer.len());
                    buffer[..read].copy_from_slice(&header[..read]);
                    read
                } else {
                    let done = within - STORED_HEADER_BYTES;
                    let read = (block - done).min(buffer.len());
                    let from = offset + start + done as u64;
                    content.artifact.read_exact_at(from, &mut buffer[..read])?;
                    read
                }
            }
        };
        self.position += read as u64;
        self.skip_finished();
        Ok(read)
    }
}

/// Buffers that return when the chunks made of them are dropped.
struct Pool {
    buffers: Mutex<Vec<Vec<u8>>>,
    length: usize,
}

impl Pool {
    /// Fills a buffer as far as the reader goes.
    fn fill(self: &Arc<Self>, reader: &mut impl Read) -> io::Result<Bytes> {
        let buffer = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let buffer = buffer.unwrap_or_else(|| vec![0; self.length]);
        let mut lent = Lent { buffer, filled: 0, pool: Arc::clone(self) };
        while lent.filled < lent.buffer.len() {
            match reader.read(&mut lent.buffer[lent.filled..])? {
                0 => break,
                read => lent.filled += read,
            }
        }
        Ok(Bytes::from_owner(lent))
    }
}

/// A buffer on its way.
struct Lent {
    buffer: Vec<u8>,
    filled: usize,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut buffers = self.pool.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        // As many as wait, are filled and are sent. A reader that keeps chunks made more.
        if buffers.len() < CHUNKS_AHEAD + 2 {
            buffers.push(buffer);
        }
    }
}
