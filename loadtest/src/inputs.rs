// SPDX-License-Identifier: Apache-2.0

//! The inputs of the benchmark, made from a seed.
//!
//! Bytes are fresh for every measurement: a registry and a client that have seen a layer before
//! look twice as fast as they are. Parts that never change in reality stay the same, such as the
//! classes of Spring Boot's loader. Shape and compressibility follow real artifacts. None of them
//! can run.

mod base;
mod binary;
mod boot;
mod content;
mod tiny;
mod war;
mod zip;

pub use base::{Base, write_base};
pub use binary::write_binary;
pub use boot::BootJar;
pub use tiny::tiny;
pub use war::write_war;

/// The key of one measurement's bytes. No two measurements of a run share bytes, nor do two runs
/// with different seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    /// Makes a key from the run's seed and the purpose of the bytes.
    #[must_use]
    pub fn new(seed: u64, scenario: &str, variant: &str, round: u32) -> Self {
        // FNV-1a, which never changes.
        let text = format!("{seed}/{scenario}/{variant}/{round}");
        let step = |key: u64, byte: u8| (key ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_measurement_has_a_key_of_its_own() {
        let key = Key::new(1, "new", "queue", 1);
        assert_eq!(key, Key::new(1, "new", "queue", 1));
        let others = [
            Key::new(2, "new", "queue", 1),
            Key::new(1, "war", "queue", 1),
            Key::new(1, "new", "local", 1),
            Key::new(1, "new", "queue", 2),
        ];
        assert!(!others.contains(&key));
    }
}
