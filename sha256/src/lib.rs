// SPDX-License-Identifier: Apache-2.0

//! SHA-256 (FIPS 180-4) of two streams side by side.
//!
//! A layer has two digests: of its archive, and of what that is stored as. The instructions of x86
//! processors for SHA-256 leave a processor waiting: each needs what the one before it found, four
//! cycles later. The rounds of another stream fit in between. On an Intel Xeon (family 6, model 207) two
//! streams take 0.75 of the time that one after the other takes (2 MiB each: 2.17 and 2.87 ms).
//!
//! Everything else is the `sha2` crate's, also all of it where a processor lacks the instructions.

#[cfg(target_arch = "x86_64")]
mod x86;

use sha2::compress256;
use sha2::digest::generic_array::GenericArray;

/// Bytes of a block.
const BLOCK: usize = 64;

/// The state before the first block (FIPS 180-4, 5.3.3).
const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// Returns whether this processor takes two streams side by side in less time than one after the
/// other.
#[must_use]
pub fn is_faster_together() -> bool {
    #[cfg(target_arch = "x86_64")]
    return x86::is_there();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Digests two streams. It gains where both get bytes in one call, as many as fit into a cache.
#[derive(Debug, Clone, Default)]
pub struct Pair {
    first: Stream,
    second: Stream,
}

impl Pair {
    /// Starts two streams.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes of each stream.
    pub fn update(&mut self, first: &[u8], second: &[u8]) {
        let (first, first_rest) = self.first.complete(first).as_chunks();
        let (second, second_rest) = self.second.complete(second).as_chunks();
        let both = first.len().min(second.len());
        compress_both(&mut self.first, &mut self.second, [&first[..both], &second[..both]]);
        self.first.compress(&first[both..]);
        self.second.compress(&second[both..]);
        self.first.keep(first_rest);
        self.second.keep(second_rest);
    }

    /// Returns the digests.
    #[must_use]
    pub fn finish(self) -> [[u8; 32]; 2] {
        [self.first.finish(), self.second.finish()]
    }
}

/// One stream.
#[derive(Debug, Clone)]
struct Stream {
    state: [u32; 8],
    /// The bytes that were taken.
    length: u64,
    /// The last of them, which do not make a block yet.
    kept: [u8; BLOCK],
}

impl Default for Stream {
    fn default() -> Self {
        Self { state: START, length: 0, kept: [0; BLOCK] }
    }
}

impl Stream {
    /// Returns how many bytes of a block were taken.
    fn begun(&self) -> usize {
        usize::try_from(self.length % BLOCK as u64).expect("less than a block")
    }

    /// Completes the block that was begun, as far as the bytes go, and returns those behind it.
    fn complete<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let begun = self.begun();
        if begun == 0 {
            return bytes;
        }
        let (now, later) = bytes.split_at(bytes.len().min(BLOCK - begun));
        self.keep(now);
        if self.begun() == 0 {
            compress(&mut self.state, &[self.kept]);
        }
        later
    }

    /// Keeps bytes of a block.
    fn keep(&mut self, bytes: &[u8]) {
        let begun = self.begun();
        self.kept[begun..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len() as u64;
    }

    /// Takes whole blocks, where none was begun.
    fn compress(&mut self, blocks: &[[u8; BLOCK]]) {
        compress(&mut self.state, blocks);
        self.length += blocks.as_flattened().len() as u64;
    }

    /// Ends the stream with a one, zeros, and the number of its bits (FIPS 180-4, 5.1.1).
    fn finish(mut self) -> [u8; 32] {
        let bits = self.length.wrapping_mul(8);
        let begun = self.begun();
        let mut end = [[0; BLOCK]; 2];
        end[0][..begun].copy_from_slice(&self.kept[..begun]);
        end[0][begun] = 0x80;
        let blocks = if begun < BLOCK - 8 { 1 } else { 2 };
        end[blocks - 1][BLOCK - 8..].copy_from_slice(&bits.to_be_bytes());
        compress(&mut self.state, &end[..blocks]);
        let mut digest = [0; 32];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }
}

/// Takes as many blocks of each stream.
fn compress_both(first: &mut Stream, second: &mut Stream, blocks: [&[[u8; BLOCK]]; 2]) {
    #[cfg(target_arch = "x86_64")]
    if x86::is_there() {
        let mut states = [first.state, second.state];
        x86::compress(&mut states, blocks);
        [first.state, second.state] = states;
        first.length += blocks[0].as_flattened().len() as u64;
        second.length += blocks[1].as_flattened().len() as u64;
        return;
    }
    first.compress(blocks[0]);
    second.compress(blocks[1]);
}

fn compress(state: &mut [u32; 8], blocks: &[[u8; BLOCK]]) {
    #[cfg(target_arch = "x86_64")]
    if x86::is_there() {
        let states: &mut [[u32; 8]; 1] = std::array::from_mut(state);
        return x86::compress(states, [blocks]);
    }
    for block in blocks {
        compress256(state, std::slice::from_ref(GenericArray::from_slice(block)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn pieces() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
        let piece = || prop_oneof![0..3usize, 50..70usize, 100..1000usize];
        let bytes = |length| proptest::collection::vec(any::<u8>(), length);
        let pair = (piece(), piece()).prop_flat_map(move |(a, b)| (bytes(a), bytes(b)));
        proptest::collection::vec(pair, 0..8)
    }

    proptest! {
        #[test]
        fn both_digests_are_those_of_the_streams(pieces in pieces()) {
            let mut pair = Pair::new();
            let (mut first, mut second) = (Sha256::new(), Sha256::new());
            for (a, b) in &pieces {
                pair.update(a, b);
                first.update(a);
                second.update(b);
            }
            let expected: [[u8; 32]; 2] = [first.finalize().into(), second.finalize().into()];
            prop_assert_eq!(pair.finish(), expected);
        }
    }

    #[test]
    fn a_stream_may_end_anywhere_in_a_block() {
        let bytes: Vec<u8> = (0..=255).collect();
        for length in 0..=bytes.len() {
            let mut pair = Pair::new();
            pair.update(&bytes[..length], &bytes[length..]);
            let expected: [[u8; 32]; 2] =
                [&bytes[..length], &bytes[length..]].map(|part| Sha256::digest(part).into());
            assert_eq!(pair.finish(), expected, "{length}");
        }
    }
}
