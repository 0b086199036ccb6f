// SPDX-License-Identifier: Apache-2.0

//! The compressed bytes of a layer, without holding or copying them.
//!
//! What was deflated lies in a nameless scratch file; what was only stored stays where it is, in
//! the artifact, and is framed anew each time the layer is read. So a layer of hundreds of
//! megabytes of JARs costs neither memory nor disk, and can be sent again after a broken upload.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use slipway_artifact::{FileSource, Source as _};

/// The largest stored block of deflate (RFC 1951, 3.2.4).
pub(super) const MAX_STORED: usize = 0xffff;

/// How many stored blocks make one chunk of the stream: a quarter of a mebibyte.
const BLOCKS_PER_CHUNK: u64 = 4;

/// How many chunks may wait for a slow reader.
const CHUNKS_AHEAD: usize = 2;

/// The bytes of a layer.
#[derive(Debug)]
pub struct Content {
    pub(super) artifact: Arc<FileSource>,
    pub(super) scratch: File,
    pub(super) pieces: Vec<Piece>,
}

/// A run of bytes of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Piece {
    /// Bytes of the scratch file, as they are.
    Scratch { offset: u64, length: u64 },
    /// Bytes of the artifact, framed as stored blocks.
    Stored { offset: u64, length: u64 },
}

/// Returns the header of a stored block that is not the last of its stream.
pub(super) fn stored_header(length: usize) -> [u8; 5] {
    let length = u16::try_from(length).expect("a stored block has at most 65,535 bytes");
    let [low, high] = length.to_le_bytes();
    [0, low, high, !low, !high]
}

impl Content {
    /// Returns the bytes from the start, read on a thread of its own.
    pub fn stream(self: &Arc<Self>) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        let content = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            for chunk in content.chunks() {
                let failed = chunk.is_err();
                // A receiver that is gone has no more use for the bytes.
                if sender.blocking_send(chunk).is_err() || failed {
                    break;
                }
            }
        });
        futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|chunk| (chunk, receiver))
        })
    }

    /// Returns the bytes from an offset.
    pub fn stream_from(
        self: &Arc<Self>,
        offset: u64,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let mut skip = offset;
        self.stream().filter_map(move |chunk| {
            let chunk = chunk.map(|mut chunk| {
                let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
                skip -= skipped as u64;
                chunk.split_off(skipped)
            });
            let keep = !matches!(&chunk, Ok(chunk) if chunk.is_empty());
            std::future::ready(keep.then_some(chunk))
        })
    }

    /// Returns the bytes from the start, in chunks; reads block.
    pub fn chunks(&self) -> impl Iterator<Item = io::Result<Bytes>> + '_ {
        let step = MAX_STORED as u64 * BLOCKS_PER_CHUNK;
        self.pieces.iter().flat_map(move |piece| {
            let (Piece::Scratch { length, .. } | Piece::Stored { length, .. }) = *piece;
            (0..length.div_ceil(step)).map(move |index| {
                let start = index * step;
                let length = usize::try_from((length - start).min(step)).expect("a chunk is small");
                self.chunk(piece, start, length)
            })
        })
    }

    fn chunk(&self, piece: &Piece, start: u64, length: usize) -> io::Result<Bytes> {
        match *piece {
            Piece::Scratch { offset, .. } => {
                let mut bytes = vec![0; length];
                self.scratch.read_exact_at(&mut bytes, offset + start)?;
                Ok(bytes.into())
            }
            Piece::Stored { offset, .. } => {
                let mut bytes = Vec::with_capacity(length + 5 * length.div_ceil(MAX_STORED));
                let mut done = 0;
                while done < length {
                    let block = (length - done).min(MAX_STORED);
                    bytes.extend_from_slice(&stored_header(block));
                    let from = bytes.len();
                    bytes.resize(from + block, 0);
                    let position = offset + start + done as u64;
                    self.artifact.read_exact_at(position, &mut bytes[from..])?;
                    done += block;
                }
                Ok(bytes.into())
            }
        }
    }
}
