// SPDX-License-Identifier: Apache-2.0

//! Deflates on two threads, into the same bytes as on one.
//!
//! The input is cut into segments. Each is deflated by itself and ends at a byte boundary (a sync
//! flush, RFC 1951 3.2.3), so that segments can follow each other. A segment may refer back to the
//! end of the previous one, which its deflater is shown first, as in pigz; so each segment loses
//! only some bytes. The output depends on the input alone: not on how it is cut into pieces, on the
//! number of threads, or on the processor.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

use flate2::{Compress, Compression, FlushCompress};

use super::output::Output;

/// Deflate's effort. Level 1 is half as fast again and makes class files a third larger.
const DEFLATE_LEVEL: u32 = 2;

/// Bytes of a segment.
const SEGMENT: usize = 256 * 1024;

/// How far deflate refers back.
const DEFLATE_WINDOW: usize = 32 * 1024;

/// Room for a deflated segment. One that does not compress grows by less.
const OUTPUT: usize = SEGMENT + SEGMENT / 8 + 1024;

/// Threads in addition to the one that reads: this many processors are worth waking for one layer.
const THREADS: usize = 2;

/// Segments that are deflated or wait for it.
const MAX_SEGMENTS_IN_FLIGHT: usize = 2 * THREADS;

/// From this number of bytes on, a last segment goes to a thread. A header between two pictures is
/// deflated faster than it would get there.
const SECOND_THREAD_MIN_SEGMENT: usize = 16 * 1024;

/// Takes bytes to deflate.
pub(super) struct Deflate {
    /// Bytes that were not cut yet; at most a segment.
    staged: Vec<u8>,
    /// The bytes that the next segment may refer back to.
    window: Vec<u8>,
    /// `None` before the first whole segment, because less is not worth a thread.
    threads: Vec<Deflater>,
    /// The largest number of threads.
    most_threads: usize,
    /// How many segments went to the threads, in turn.
    sent: usize,
    /// How many of them have not come back yet.
    under_way: usize,
    spare: Vec<Segment>,
}

/// A thread that deflates.
struct Deflater {
    todo: Sender<Segment>,
    done: Receiver<Segment>,
}

/// A segment and its deflated bytes.
struct Segment {
    window: Vec<u8>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Default for Segment {
    fn default() -> Self {
        Self {
            window: Vec::with_capacity(DEFLATE_WINDOW),
            input: Vec::with_capacity(SEGMENT),
            output: Vec::with_capacity(OUTPUT),
        }
    }
}

impl Segment {
    /// Each has a new deflater. One that is reset still has old bytes in its window, and zlib-rs
    /// 0.6 hashes four bytes even if a dictionary ends with fewer, so the output would depend on
    /// earlier input.
    fn deflate(&mut self) {
        let mut state = deflater();
        if !self.window.is_empty() {
            state.set_dictionary(&self.window).expect("a deflater at its start takes any");
        }
        self.output.clear();
        state
            .compress_vec(&self.input, &mut self.output, FlushCompress::Sync)
            .expect("deflating into memory does not fail");
        let is_whole = state.total_in() == self.input.len() as u64;
        assert!(is_whole && self.output.len() < OUTPUT, "a segment did not fit");
    }
}

impl Deflater {
    fn start() -> io::Result<Self> {
        // As many as the sender keeps under way.
        let (todo, segments) = channel::<Segment>();
        let (give_back, done) = channel();
        let work = move || {
            for mut segment in segments {
                segment.deflate();
                if give_back.send(segment).is_err() {
                    break;
                }
            }
        };
        std::thread::Builder::new().name("deflate".to_owned()).spawn(work)?;
        Ok(Self { todo, done })
    }
}

fn deflater() -> Compress {
    Compress::new(Compression::new(DEFLATE_LEVEL), false)
}

impl Deflate {
    pub(super) fn new() -> Self {
        Self::on(THREADS)
    }

    /// Starts a stream with a number of threads in addition to the one that writes.
    fn on(most_threads: usize) -> Self {
        Self {
            staged: Vec::with_capacity(SEGMENT),
            window: Vec::with_capacity(DEFLATE_WINDOW),
            threads: Vec::new(),
            most_threads,
            sent: 0,
            under_way: 0,
            spare: Vec::new(),
        }
    }

    /// Takes bytes. Their deflated form reaches the output sooner or later.
    pub(super) fn write(&mut self, mut bytes: &[u8], output: &mut Output) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.staged.len() == SEGMENT {
                if self.threads.is_empty() {
                    // A system without a thread to spare still has this one.
                    let started = (0..self.most_threads).map_while(|_| Deflater::start().ok());
                    self.threads.extend(started);
                }
                self.cut(output)?;
            }
            let room = SEGMENT - self.staged.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.staged.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Brings the stream, with everything taken so far, to a byte boundary, and forgets the bytes
    /// that could be referred back to.
    pub(super) fn align(&mut self, output: &mut Output) -> io::Result<()> {
        if self.staged.len() >= SECOND_THREAD_MIN_SEGMENT {
            self.cut(output)?;
        }
        while self.under_way > 0 {
            self.collect(output)?;
        }
        if !self.staged.is_empty() {
            let segment = self.segment();
            self.deflate_here(segment, output)?;
        }
        self.window.clear();
        Ok(())
    }

    /// Makes a segment of the staged bytes.
    fn segment(&mut self) -> Segment {
        let mut segment = self.spare.pop().unwrap_or_default();
        std::mem::swap(&mut segment.window, &mut self.window);
        std::mem::swap(&mut segment.input, &mut self.staged);
        self.staged.clear();
        let end = segment.input.len().saturating_sub(DEFLATE_WINDOW);
        self.window.clear();
        self.window.extend_from_slice(&segment.input[end..]);
        segment
    }

    /// Deflates a segment when none is under way before it.
    fn deflate_here(&mut self, mut segment: Segment, output: &mut Output) -> io::Result<()> {
        segment.deflate();
        output.emit(&segment.output)?;
        self.spare.push(segment);
        Ok(())
    }

    /// Deflates the staged bytes.
    fn cut(&mut self, output: &mut Output) -> io::Result<()> {
        let segment = self.segment();
        if self.threads.is_empty() {
            return self.deflate_here(segment, output);
        }
        if self.under_way == MAX_SEGMENTS_IN_FLIGHT {
            self.collect(output)?;
        }
        let thread = &self.threads[self.sent % self.threads.len()];
        thread.todo.send(segment).map_err(|_| broke_down())?;
        self.sent += 1;
        self.under_way += 1;
        Ok(())
    }

    /// Waits for the oldest segment that is under way.
    fn collect(&mut self, output: &mut Output) -> io::Result<()> {
        let oldest = (self.sent - self.under_way) % self.threads.len();
        let segment = self.threads[oldest].done.recv().map_err(|_| broke_down())?;
        self.under_way -= 1;
        output.emit(&segment.output)?;
        self.spare.push(segment);
        Ok(())
    }
}

fn broke_down() -> io::Error {
    io::Error::other("a thread that deflates the layer panicked")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sha2::{Digest as _, Sha256};
    use slipway_artifact::FileSource;
    use slipway_proto::Digest;

    use super::*;

    /// Deflates bytes in pieces, with an alignment in the middle.
    fn deflated(threads: usize, bytes: &[u8], piece: usize) -> (Digest, u64) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut output = Output::new(directory.path(), Some(Sha256::new())).expect("it starts");
        let mut deflate = Deflate::on(threads);
        for half in [&bytes[..bytes.len() / 2], &bytes[bytes.len() / 2..]] {
            for piece in half.chunks(piece) {
                deflate.write(piece, &mut output).expect("it deflates");
            }
            deflate.align(&mut output).expect("it deflates");
        }
        let nothing = FileSource::new(tempfile::tempfile().expect("a file")).expect("it opens");
        let (_, size, digest) = output.finish(Arc::new(nothing)).expect("it finishes");
        (digest.expect("it was asked for"), size)
    }

    #[test]
    fn the_bytes_do_not_depend_on_how_many_threads_make_them() {
        let text: Vec<u8> =
            (0..900_000u32).flat_map(|n| (n / 5).to_string().into_bytes()).collect();
        let noise: Vec<u8> =
            (0..3_000_000u32).map(|n| n.wrapping_mul(0x9e37_79b1).to_le_bytes()[3]).collect();
        for bytes in [text, noise] {
            let one = deflated(0, &bytes, 4096);
            for threads in 1..=3 {
                assert_eq!(deflated(threads, &bytes, 100_000), one, "{threads} threads");
            }
        }
    }

    #[test]
    fn a_segment_refers_back_to_the_one_before_it() {
        let text: Vec<u8> =
            (0..900_000u32).flat_map(|n| (n / 5).to_string().into_bytes()).collect();
        let mut whole = Vec::with_capacity(text.len());
        deflater()
            .compress_vec(&text, &mut whole, FlushCompress::Finish)
            .expect("deflating into memory does not fail");
        let (_, size) = deflated(2, &text, 4096);
        assert!(size < whole.len() as u64 * 101 / 100, "{size} of {}", whole.len());
    }
}
