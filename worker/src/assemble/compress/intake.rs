// SPDX-License-Identifier: Apache-2.0

//! What every byte of a tar archive passes on its way into a layer: the sign of life, the CRC-32,
//! the digest that becomes the diff id, and the one that is the archive's fingerprint.
//!
//! The diff id is the dearest of them (26 to 36 ms for 46 MB, the fingerprint 10), and a layer that
//! is only stored needs two digests of that kind: a second thread computes those of the archive. It
//! receives whole buffers through a bounded channel and returns them through another, so nothing is
//! allocated on the way. What is read from the artifact is read straight into such a buffer.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};
use slipway_artifact::{FileSource, Source as _};
use slipway_proto::Digest;

use super::{Digesting, Digests, Passed};
use crate::assemble::content::MAX_STORED;
use crate::liveness::Liveness;

/// Bytes of a buffer: four of the largest stored blocks.
const INTAKE_BUFFER: usize = 4 * MAX_STORED;

/// Buffers of one layer: one is filled, one digested, the others even out the difference.
const BUFFERS: usize = 4;

/// The intake of a layer's bytes.
pub(super) struct Intake {
    pub(super) artifact: Arc<FileSource>,
    liveness: Liveness,
    checksum: crc32fast::Hasher,
    length: u64,
    digester: Digester,
    /// What is being filled; it has its full length, `filled` bytes of it are for the digest.
    buffer: Vec<u8>,
    filled: usize,
}

enum Digester {
    No,
    Here(Box<Hashers>),
    Elsewhere(Second),
}

/// The digests of an archive.
struct Hashers {
    diff_id: Option<Sha256>,
    fingerprint: blake3::Hasher,
}

impl Hashers {
    fn new(digests: Digests) -> Self {
        let diff_id = match digests {
            Digests::Fingerprint => None,
            Digests::All => Some(Sha256::new()),
        };
        Self { diff_id, fingerprint: blake3::Hasher::new() }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.fingerprint.update(bytes);
        if let Some(hasher) = &mut self.diff_id {
            hasher.update(bytes);
        }
    }
}

/// The second thread.
struct Second {
    full: SyncSender<(Vec<u8>, usize)>,
    empty: Receiver<Vec<u8>>,
    thread: JoinHandle<Hashers>,
    /// How many buffers were made.
    made: usize,
}

impl Second {
    fn start(digests: Digests) -> io::Result<Self> {
        let (full, to_digest) = sync_channel::<(Vec<u8>, usize)>(BUFFERS);
        let (give_back, empty) = sync_channel(BUFFERS);
        let digest = move || {
            let mut hashers = Hashers::new(digests);
            for (buffer, filled) in to_digest {
                hashers.update(&buffer[..filled]);
                // At the end, the other thread no longer takes buffers back.
                let _gone = give_back.send(buffer);
            }
            hashers
        };
        let thread = std::thread::Builder::new().name("digest".to_owned()).spawn(digest)?;
        Ok(Self { full, empty, thread, made: 1 })
    }

    /// Hands a buffer over and returns an empty one.
    fn exchange(&mut self, buffer: Vec<u8>, filled: usize) -> io::Result<Vec<u8>> {
        self.full.send((buffer, filled)).map_err(|_| broke_down())?;
        match self.empty.try_recv() {
            Ok(buffer) => Ok(buffer),
            Err(TryRecvError::Empty) if self.made < BUFFERS => {
                self.made += 1;
                Ok(vec![0; INTAKE_BUFFER])
            }
            Err(_) => self.empty.recv().map_err(|_| broke_down()),
        }
    }
}

fn broke_down() -> io::Error {
    io::Error::other("the thread that digests the layer panicked")
}

impl Intake {
    pub(super) fn new(
        artifact: &Arc<FileSource>,
        digesting: Digesting,
        liveness: &Liveness,
    ) -> Self {
        let here = |digests| Digester::Here(Box::new(Hashers::new(digests)));
        let digester = match digesting {
            Digesting::No => Digester::No,
            Digesting::Here(digests) => here(digests),
            Digesting::Elsewhere(digests) => match Second::start(digests) {
                Ok(second) => Digester::Elsewhere(second),
                // A system without another thread to spare still has this one.
                Err(_) => here(digests),
            },
        };
        Self {
            artifact: Arc::clone(artifact),
            liveness: liveness.clone(),
            checksum: crc32fast::Hasher::new(),
            length: 0,
            digester,
            buffer: vec![0; INTAKE_BUFFER],
            filled: 0,
        }
    }

    /// Takes bytes from memory.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.liveness.touch()?;
        self.checksum.update(bytes);
        self.length += bytes.len() as u64;
        match &mut self.digester {
            Digester::No => {}
            Digester::Here(hashers) => hashers.update(bytes),
            Digester::Elsewhere(_) => {
                while !bytes.is_empty() {
                    let room = self.room(1)?;
                    let (now, later) = bytes.split_at(bytes.len().min(room));
                    self.buffer[self.filled..][..now.len()].copy_from_slice(now);
                    self.filled += now.len();
                    bytes = later;
                }
            }
        }
        Ok(())
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

    /// Takes the bytes of a reader and shows them block by block. All but the last have the largest
    /// size of a stored block.
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

    /// Returns the digests and the rest.
    pub(super) fn finish(mut self) -> io::Result<Passed> {
        let hashers = match self.digester {
            Digester::No => None,
            Digester::Here(hashers) => Some(*hashers),
            Digester::Elsewhere(Second { full, thread, .. }) => {
                let rest = std::mem::take(&mut self.buffer);
                full.send((rest, self.filled)).map_err(|_| broke_down())?;
                drop(full);
                Some(thread.join().map_err(|_| broke_down())?)
            }
        };
        Ok(Passed {
            fingerprint: hashers.as_ref().map(|hashers| hashers.fingerprint.finalize()),
            diff_id: hashers.and_then(|hashers| hashers.diff_id).map(Digest::from),
            crc32: self.checksum.finalize(),
            length: self.length,
        })
    }

    /// Reads a block of `most` bytes at most to where the digest wants it, and returns it.
    fn block(
        &mut self,
        most: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<&[u8]> {
        self.liveness.touch()?;
        self.room(most)?;
        let start = self.filled;
        let length = fill(&mut self.buffer[start..start + most])?;
        let block = &self.buffer[start..start + length];
        match &mut self.digester {
            Digester::No => {}
            Digester::Here(hashers) => hashers.update(block),
            Digester::Elsewhere(_) => self.filled += length,
        }
        self.length += length as u64;
        Ok(block)
    }

    /// Makes room for at least `wanted` bytes, and returns how much there is.
    fn room(&mut self, wanted: usize) -> io::Result<usize> {
        if let Digester::Elsewhere(second) = &mut self.digester
            && self.buffer.len() - self.filled < wanted
        {
            let full = std::mem::take(&mut self.buffer);
            self.buffer = second.exchange(full, self.filled)?;
            self.filled = 0;
        }
        Ok(self.buffer.len() - self.filled)
    }
}

/// Reads until the buffer is full or the reader ends.
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
