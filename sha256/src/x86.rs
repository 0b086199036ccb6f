// SPDX-License-Identifier: Apache-2.0

//! The compression function by the SHA extensions of x86 processors, of one stream or of several
//! whose rounds alternate (Intel, "New Instructions Supporting the Secure Hash Algorithm", 2013).
//!
//! No function here may use AVX. The SHA instructions have only the old encoding, and wait where the
//! upper half of a register was written since the last `vzeroupper`: with 256-bit registers in between,
//! what takes 2.2 ms took 291.

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x,
    _mm_setzero_si128, _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32,
    _mm_shuffle_epi8, _mm_shuffle_epi32,
};

use crate::BLOCK;

/// The constants of the rounds (FIPS 180-4, 4.2.2), four for each step here.
const CONSTANTS: [[u32; 4]; 16] = [
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
    [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
    [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
    [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
    [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
    [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
    [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
    [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
    [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
];

/// The state of a stream, as the instructions want it: words A, B, E, F and C, D, G, H.
type Lanes = [__m128i; 2];

/// Returns whether this processor has the instructions, and those that move words about.
pub(crate) fn is_there() -> bool {
    is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("sse4.1")
        && is_x86_feature_detected!("ssse3")
}

/// Takes as many blocks of each stream.
///
/// # Panics
///
/// When the processor lacks the instructions.
pub(crate) fn compress<const STREAMS: usize>(
    states: &mut [[u32; 8]; STREAMS],
    blocks: [&[[u8; BLOCK]]; STREAMS],
) {
    assert!(is_there(), "asked for without looking");
    #[expect(unsafe_code, reason = "instructions that not every processor has")]
    // SAFETY: the processor has them, as was asserted.
    unsafe {
        compress_here(states, blocks);
    }
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
fn compress_here<const STREAMS: usize>(
    states: &mut [[u32; 8]; STREAMS],
    blocks: [&[[u8; BLOCK]]; STREAMS],
) {
    let mut lanes = [[_mm_setzero_si128(); 2]; STREAMS];
    for (lanes, state) in lanes.iter_mut().zip(&*states) {
        *lanes = load(*state);
    }
    let together = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
    for index in 0..together {
        let mut words = [[_mm_setzero_si128(); 4]; STREAMS];
        for (words, blocks) in words.iter_mut().zip(&blocks) {
            *words = message(&blocks[index]);
        }
        let before = lanes;
        for step in 0..4 {
            for word in 0..4 {
                rounds(&mut lanes, &words, word, CONSTANTS[4 * step + word]);
                if step < 3 {
                    schedule(&mut words, word);
                }
            }
        }
        for (lanes, before) in lanes.iter_mut().zip(before) {
            for (lane, before) in lanes.iter_mut().zip(before) {
                *lane = _mm_add_epi32(*lane, before);
            }
        }
    }
    for (state, lanes) in states.iter_mut().zip(lanes) {
        *state = store(lanes);
    }
}

/// Four rounds of each stream.
#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn rounds<const STREAMS: usize>(
    lanes: &mut [Lanes; STREAMS],
    words: &[[__m128i; 4]; STREAMS],
    word: usize,
    constants: [u32; 4],
) {
    let [a, b, c, d] = constants.map(u32::cast_signed);
    let constants = _mm_set_epi32(d, c, b, a);
    let mut sums = [_mm_setzero_si128(); STREAMS];
    for ((sum, words), lanes) in sums.iter_mut().zip(words).zip(&mut *lanes) {
        *sum = _mm_add_epi32(words[word], constants);
        lanes[1] = _mm_sha256rnds2_epu32(lanes[1], lanes[0], *sum);
    }
    for (sum, lanes) in sums.into_iter().zip(lanes) {
        // The upper two words: those of the other two rounds.
        lanes[0] = _mm_sha256rnds2_epu32(lanes[0], lanes[1], _mm_shuffle_epi32(sum, 0x0e));
    }
}

/// Replaces four words of each stream's message by the four that are 16 behind them.
#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn schedule<const STREAMS: usize>(words: &mut [[__m128i; 4]; STREAMS], word: usize) {
    for words in words {
        let [next, far, last] = [1, 2, 3].map(|ahead| words[(word + ahead) % 4]);
        let sum = _mm_sha256msg1_epu32(words[word], next);
        let sum = _mm_add_epi32(sum, _mm_alignr_epi8(last, far, 4));
        words[word] = _mm_sha256msg2_epu32(sum, last);
    }
}

/// Reads a block as sixteen words, the highest byte of each first.
#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn message(block: &[u8; BLOCK]) -> [__m128i; 4] {
    let highest_first = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let mut words = [_mm_setzero_si128(); 4];
    let (halves, _) = block.as_chunks().0.as_chunks();
    for (words, [low, high]) in words.iter_mut().zip(halves) {
        let [low, high] = [low, high].map(|half| i64::from_le_bytes(*half));
        *words = _mm_shuffle_epi8(_mm_set_epi64x(high, low), highest_first);
    }
    words
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn load(state: [u32; 8]) -> Lanes {
    let [a, b, c, d, e, f, g, h] = state.map(u32::cast_signed);
    [_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h)]
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn store([abef, cdgh]: Lanes) -> [u32; 8] {
    [
        _mm_extract_epi32::<3>(abef),
        _mm_extract_epi32::<2>(abef),
        _mm_extract_epi32::<3>(cdgh),
        _mm_extract_epi32::<2>(cdgh),
        _mm_extract_epi32::<1>(abef),
        _mm_extract_epi32::<0>(abef),
        _mm_extract_epi32::<1>(cdgh),
        _mm_extract_epi32::<0>(cdgh),
    ]
    .map(i32::cast_unsigned)
}
