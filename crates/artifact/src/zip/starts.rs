// SPDX-License-Identifier: Apache-2.0

//! The first bytes of many entries.
//!
//! A class says its version in its first eight bytes, and an artifact has thousands of classes. So
//! one inflater and one buffer serve all of them, and nothing is verified: what cannot be read
//! tells nothing. Whoever copies or runs the entry verifies it.

use std::io;

use flate2::{Decompress, FlushDecompress, Status};

use super::end::u16_at;
use super::{LOCAL, LOCAL_LENGTH, Method};
use crate::source::Source;

/// How much is read at once: a local header, and the start of an entry with the codes that its
/// first block is deflated by (RFC 1951, 3.2.7: at most some 300 bytes).
const INPUT: usize = 768;

/// What is left of the buffer behind a local header should hold the codes.
const ENOUGH: usize = 384;

/// Where an entry is and how it is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Where its local header is in the source.
    pub(crate) local: u64,
    /// How its bytes are stored.
    pub(crate) method: Method,
    /// The number of bytes it takes.
    pub(crate) compressed_size: u64,
}

/// Reads first bytes of entries.
pub(crate) struct Starts {
    inflate: Decompress,
    input: Box<[u8; INPUT]>,
}

impl Default for Starts {
    fn default() -> Self {
        Self { inflate: Decompress::new(false), input: Box::new([0; INPUT]) }
    }
}

impl Starts {
    /// Fills `output` with the first bytes of an entry and returns how many there are; 0 if the
    /// entry cannot be read.
    ///
    /// # Errors
    ///
    /// When the source cannot be read.
    pub(crate) fn read(
        &mut self,
        source: &dyn Source,
        place: Place,
        output: &mut [u8],
    ) -> io::Result<usize> {
        let mut filled = self.fill(source, place.local)?;
        let header = &self.input[..filled];
        if header.len() < usize::try_from(LOCAL_LENGTH).expect("30") || !header.starts_with(LOCAL) {
            return Ok(0);
        }
        let variable = u64::from(u16_at(header, 26)) + u64::from(u16_at(header, 28));
        let mut data = LOCAL_LENGTH + variable;
        let mut position = place.local.saturating_add(data);
        if data + ENOUGH as u64 > filled as u64 {
            filled = self.fill(source, position)?;
            data = 0;
        }
        let mut rest = place.compressed_size;
        let mut start = usize::try_from(data).expect("less than the buffer");
        self.inflate.reset(false);
        let mut written = 0;
        while written < output.len() && rest > 0 {
            let length = usize::try_from(rest).unwrap_or(usize::MAX).min(filled - start);
            let input = &self.input[start..start + length];
            let (read, wrote, is_over) = match place.method {
                Method::Stored => {
                    let count = length.min(output.len() - written);
                    output[written..written + count].copy_from_slice(&input[..count]);
                    (count, count, count == 0)
                }
                Method::Deflated => {
                    let before = (self.inflate.total_in(), self.inflate.total_out());
                    let end = FlushDecompress::None;
                    let status = self.inflate.decompress(input, &mut output[written..], end);
                    let read = self.inflate.total_in() - before.0;
                    let wrote = self.inflate.total_out() - before.1;
                    let count = |count| usize::try_from(count).expect("not more than a buffer");
                    let is_over = !matches!(status, Ok(Status::Ok)) || (read == 0 && wrote == 0);
                    (count(read), count(wrote), is_over)
                }
            };
            written += wrote;
            rest -= read as u64;
            position += read as u64;
            start += read;
            if is_over {
                break;
            }
            if start == filled {
                filled = self.fill(source, position)?;
                start = 0;
            }
        }
        Ok(written)
    }

    /// Fills the input with what is at `offset`, and returns how much that is.
    fn fill(&mut self, source: &dyn Source, offset: u64) -> io::Result<usize> {
        let rest = source.len().saturating_sub(offset);
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(INPUT);
        source.read_exact_at(offset.min(source.len()), &mut self.input[..length])?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestEntry, deflated, stored, zip};
    use crate::zip::Archive;

    fn start(entry: TestEntry, length: usize) -> Vec<u8> {
        let bytes = zip([entry]);
        let archive = Archive::read(&bytes).expect("it is read");
        let mut output = vec![0; length];
        let place = archive.entries()[0].place();
        let count = Starts::default().read(&bytes, place, &mut output).expect("memory is read");
        output.truncate(count);
        output
    }

    #[test]
    fn the_first_bytes_are_those_of_the_content() {
        let content: Vec<u8> = (0..9000u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
        let long = "n".repeat(700);
        for name in ["a", &long] {
            for entry in [stored(name, &content), deflated(name, &content)] {
                let local_extra = vec![9; 900];
                for entry in [entry.clone(), TestEntry { local_extra, ..entry }] {
                    for length in [0, 8, 5000, 36_000, 40_000] {
                        let expected = &content[..length.min(content.len())];
                        assert!(start(entry.clone(), length) == expected, "{length} of {name}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_read_tells_nothing() {
        let mut entry = deflated("a", &[7; 5000]);
        entry.data.fill(0xff);
        assert_eq!(start(entry, 8), b"");
        assert_eq!(start(stored("a", b""), 8), b"");
        assert_eq!(start(deflated("a", b""), 8), b"");
        let bytes = vec![0; 100];
        for local in [0, 90, 100, 1000, u64::MAX] {
            let place = Place { local, method: Method::Stored, compressed_size: 10 };
            let read = Starts::default().read(&bytes, place, &mut [0; 8]);
            assert_eq!(read.expect("memory is read"), 0, "{local}");
        }
    }

    #[test]
    fn one_reader_reads_many_entries() {
        let bytes = zip([deflated("a", &[1; 900]), deflated("b", b"\x02"), stored("c", &[3; 9])]);
        let archive = Archive::read(&bytes).expect("it is read");
        let mut starts = Starts::default();
        for (entry, expected) in archive.entries().iter().zip([1, 2, 3]) {
            let mut output = [0; 1];
            starts.read(&bytes, entry.place(), &mut output).expect("memory is read");
            assert_eq!(output, [expected]);
        }
    }
}
