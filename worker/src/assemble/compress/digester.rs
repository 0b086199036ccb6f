// SPDX-License-Identifier: Apache-2.0

//! The digests of a layer: of its archive, and of the bytes that it is stored as.
//!
//! What is only stored needs two SHA-256 of nearly the same bytes, which are dearer than all else
//! (2 MiB: 1.43 ms each, the fingerprint 0.35, the CRC-32 0.05). They depend on nothing of each other, so a
//! layer is cut into tapes that hold the bytes of both streams once, and one thread takes both side
//! by side (`slipway-sha256`), beside the one that reads. Where a processor does not gain by that,
//! each thread takes one. Tapes go to the second thread through a bounded channel and come back
//! through another, so nothing is allocated on the way, and what is read from the artifact is read
//! straight into one.

use std::io;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use slipway_proto::Digest;
use slipway_sha256::Pair;

use super::{Digesting, Digests};
use crate::assemble::content::{MAX_STORED, stored_header};

/// Bytes of the archive on a tape: four of the largest stored blocks.
const LENGTH: usize = 4 * MAX_STORED;

/// Tapes of one layer: one is filled, one digested, the others even out the difference.
const TAPES: usize = 4;

/// Computes what is wanted of two streams, on this thread or another.
pub(super) struct Digester {
    /// Whether blocks are stored bytes, too.
    with_stored: bool,
    here: Hashers,
    there: Option<Second>,
    tape: Tape,
}

/// What was computed.
#[derive(Default)]
pub(super) struct Found {
    /// The archive's fingerprint.
    pub(super) fingerprint: Option<blake3::Hash>,
    /// The archive's digest.
    pub(super) archive: Option<Digest>,
    /// The digest of the stored bytes.
    pub(super) stored: Option<Digest>,
}

impl Digester {
    /// Starts a layer; `with_stored` says whether it digests the stored bytes, too.
    pub(super) fn new(digesting: Digesting, with_stored: bool) -> Self {
        let stored = Wanted { stored: with_stored, ..Wanted::default() };
        let (here, there) = match digesting {
            Digesting::No => (stored, None),
            Digesting::Here(digests) => (stored.and(Wanted::of(digests)), None),
            Digesting::Elsewhere(Digests::All)
                if with_stored && slipway_sha256::is_faster_together() =>
            {
                let fingerprint = Wanted::of(Digests::Fingerprint);
                (fingerprint, Some(stored.and(Wanted { archive: true, ..Wanted::default() })))
            }
            Digesting::Elsewhere(digests) => (stored, Some(Wanted::of(digests))),
        };
        let second = there.map(Second::start);
        // A system without another thread to spare still has this one.
        let here = match (there, &second) {
            (Some(there), Some(Err(_))) => here.and(there),
            _ => here,
        };
        let there = second.and_then(Result::ok);
        Self { with_stored, here: Hashers::new(here), there, tape: Tape::new() }
    }

    /// Takes bytes of the archive.
    pub(super) fn archive(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.room(1)?.len()));
            self.room(1)?[..now.len()].copy_from_slice(now);
            self.tape.filled += now.len();
            bytes = later;
        }
        Ok(())
    }

    /// Takes stored bytes that are not those of a block.
    pub(super) fn stored(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.tape.made.len() + bytes.len() > LENGTH {
            self.exchange()?;
        }
        self.tape.made(bytes);
        Ok(())
    }

    /// Has bytes of the archive filled in, `most` at most, and returns them. They are stored as a
    /// block of deflate, too, if the stored bytes are digested.
    pub(super) fn block(
        &mut self,
        most: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<&[u8]> {
        let length = fill(&mut self.room(most)?[..most])?;
        let tape = &mut self.tape;
        let block = tape.filled..tape.filled + length;
        tape.filled = block.end;
        if self.with_stored && length > 0 {
            tape.made(&stored_header(length));
            tape.stored.push(Part::Archive(block.clone()));
        }
        Ok(&tape.archive[block])
    }

    /// Returns what was wanted.
    pub(super) fn finish(mut self) -> io::Result<Found> {
        self.here.update(&self.tape);
        let here = self.here.finish();
        let Some(Second { full, thread, .. }) = self.there else { return Ok(here) };
        full.send(self.tape).map_err(|_| broke_down())?;
        drop(full);
        let there = thread.join().map_err(|_| broke_down())?.finish();
        Ok(Found {
            fingerprint: here.fingerprint.or(there.fingerprint),
            archive: here.archive.or(there.archive),
            stored: here.stored.or(there.stored),
        })
    }

    /// Returns room for at least `wanted` bytes of the archive.
    fn room(&mut self, wanted: usize) -> io::Result<&mut [u8]> {
        if self.tape.archive.len() - self.tape.filled < wanted {
            self.exchange()?;
        }
        Ok(&mut self.tape.archive[self.tape.filled..])
    }

    /// Has the tape digested and takes an empty one.
    fn exchange(&mut self) -> io::Result<()> {
        self.here.update(&self.tape);
        if let Some(second) = &mut self.there {
            second.exchange(&mut self.tape)?;
        }
        self.tape.clear();
        Ok(())
    }
}

/// Bytes of the archive, and the stored bytes that came with them.
#[derive(Default)]
struct Tape {
    /// Has its full length; `filled` bytes of it are the archive's.
    archive: Vec<u8>,
    filled: usize,
    /// The stored bytes that the archive does not have.
    made: Vec<u8>,
    /// The stored bytes, in order.
    stored: Vec<Part>,
}

/// A run of stored bytes.
enum Part {
    /// So many of those that the archive does not have.
    Made(usize),
    /// Bytes of the archive.
    Archive(Range<usize>),
}

impl Tape {
    fn new() -> Self {
        Self { archive: vec![0; LENGTH], ..Self::default() }
    }

    fn clear(&mut self) {
        self.filled = 0;
        self.made.clear();
        self.stored.clear();
    }

    fn made(&mut self, bytes: &[u8]) {
        self.made.extend_from_slice(bytes);
        match self.stored.last_mut() {
            Some(Part::Made(length)) => *length += bytes.len(),
            _ => self.stored.push(Part::Made(bytes.len())),
        }
    }
}

/// Which digests are computed.
#[derive(Clone, Copy, Default)]
struct Wanted {
    fingerprint: bool,
    archive: bool,
    stored: bool,
}

impl Wanted {
    fn of(digests: Digests) -> Self {
        Self { fingerprint: true, archive: digests == Digests::All, stored: false }
    }

    fn and(self, other: Self) -> Self {
        Self {
            fingerprint: self.fingerprint || other.fingerprint,
            archive: self.archive || other.archive,
            stored: self.stored || other.stored,
        }
    }
}

struct Hashers {
    wanted: Wanted,
    fingerprint: blake3::Hasher,
    /// Of the archive, and of the stored bytes.
    pair: Pair,
}

impl Hashers {
    fn new(wanted: Wanted) -> Self {
        Self { wanted, fingerprint: blake3::Hasher::new(), pair: Pair::new() }
    }

    fn update(&mut self, tape: &Tape) {
        let archive = &tape.archive[..tape.filled];
        if self.wanted.fingerprint {
            self.fingerprint.update(archive);
        }
        // Any bytes of the one stream go with any of the other.
        let mut rest = if self.wanted.archive { archive } else { &[] };
        if self.wanted.stored {
            let mut made = &tape.made[..];
            for part in &tape.stored {
                let bytes = match part {
                    Part::Made(length) => made.split_off(..*length).expect("made holds them"),
                    Part::Archive(range) => &tape.archive[range.clone()],
                };
                let (now, later) = rest.split_at(rest.len().min(bytes.len()));
                self.pair.update(now, bytes);
                rest = later;
            }
        }
        self.pair.update(rest, &[]);
    }

    fn finish(self) -> Found {
        let [archive, stored] = self.pair.finish().map(Digest::from);
        Found {
            fingerprint: self.wanted.fingerprint.then(|| self.fingerprint.finalize()),
            archive: self.wanted.archive.then_some(archive),
            stored: self.wanted.stored.then_some(stored),
        }
    }
}

/// The second thread.
struct Second {
    full: SyncSender<Tape>,
    empty: Receiver<Tape>,
    thread: JoinHandle<Hashers>,
    /// How many tapes were made.
    made: usize,
}

impl Second {
    fn start(wanted: Wanted) -> io::Result<Self> {
        let (full, to_digest) = sync_channel::<Tape>(TAPES);
        let (give_back, empty) = sync_channel(TAPES);
        let digest = move || {
            let mut hashers = Hashers::new(wanted);
            for tape in to_digest {
                hashers.update(&tape);
                // At the end nobody wants it back.
                let _gone = give_back.send(tape);
            }
            hashers
        };
        let thread = std::thread::Builder::new().name("digest".to_owned()).spawn(digest)?;
        Ok(Self { full, empty, thread, made: 1 })
    }

    /// Hands a tape over and brings another.
    fn exchange(&mut self, tape: &mut Tape) -> io::Result<()> {
        self.full.send(std::mem::take(tape)).map_err(|_| broke_down())?;
        *tape = match self.empty.try_recv() {
            Ok(tape) => tape,
            Err(TryRecvError::Empty) if self.made < TAPES => {
                self.made += 1;
                Tape::new()
            }
            Err(_) => self.empty.recv().map_err(|_| broke_down())?,
        };
        Ok(())
    }
}

fn broke_down() -> io::Error {
    io::Error::other("the thread that digests the layer broke down")
}
