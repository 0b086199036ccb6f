// SPDX-License-Identifier: Apache-2.0

//! Writes executables for tests, of either width and byte order, and with mistakes.

use super::{DT_NULL, MAGIC, PT_INTERP, PT_LOAD};

/// An ELF file of these parts, each placed in the file at its own address.
#[derive(Debug, Clone)]
pub struct TestElf {
    /// Whether it has 64 bits, not 32.
    pub wide: bool,
    /// Whether the most significant byte comes first.
    pub big: bool,
    /// `e_type`: 2 for an executable, 3 for a library or a position-independent executable.
    pub file_type: u64,
    /// `e_machine`.
    pub machine: u64,
    /// The address of the first instruction.
    pub entry: u64,
    /// Types and contents of the segments.
    pub segments: Vec<(u64, Vec<u8>)>,
}

impl TestElf {
    /// A static executable for amd64.
    #[must_use]
    pub fn executable() -> Self {
        let segments = vec![(PT_LOAD, b"code".to_vec())];
        Self { wide: true, big: false, file_type: 2, machine: 62, entry: 0x1000, segments }
    }

    /// A position-independent executable that names an interpreter.
    #[must_use]
    pub fn interpreted(path: &[u8]) -> Self {
        let mut elf = Self::executable();
        elf.file_type = 3;
        elf.segments.push((PT_INTERP, path.to_vec()));
        elf
    }

    /// The content of a dynamic section with these tags and values.
    #[must_use]
    pub fn dynamic(&self, tags: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in tags.iter().chain(&[(DT_NULL, 0)]).flat_map(|(tag, value)| [*tag, *value]) {
            self.number(&mut bytes, number, if self.wide { 8 } else { 4 });
        }
        bytes
    }

    fn number(&self, bytes: &mut Vec<u8>, number: u64, width: usize) {
        match self.big {
            true => bytes.extend_from_slice(&number.to_be_bytes()[8 - width..]),
            false => bytes.extend_from_slice(&number.to_le_bytes()[..width]),
        }
    }

    /// Writes the file. Segment `n` is at `0x1000 * (n + 1)` in memory and behind the tables in the file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let (word, header, entry) = if self.wide { (8, 64, 56) } else { (4, 52, 32) };
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&[1 + u8::from(self.wide), 1 + u8::from(self.big), 1]);
        bytes.resize(16, 0);
        let count = self.segments.len() as u64;
        let mut offset = header + entry * count;
        let behind = offset + self.segments.iter().map(|(_, data)| data.len() as u64).sum::<u64>();
        let fields = [(self.file_type, 2), (self.machine, 2), (1, 4), (self.entry, word)];
        let tables = [(header, word), (behind, word), (0, 4), (header, 2), (entry, 2), (count, 2)];
        for (number, width) in fields.into_iter().chain(tables).chain([(40, 2), (1, 2), (0, 2)]) {
            self.number(&mut bytes, number, width);
        }
        for (index, (kind, data)) in (1..).zip(&self.segments) {
            let (address, size) = (0x1000 * index, data.len() as u64);
            let places =
                [(offset, word), (address, word), (address, word), (size, word), (size, word)];
            let flags = [(5, 4)];
            self.number(&mut bytes, *kind, 4);
            let (first, second) = places.split_at(if self.wide { 0 } else { 5 });
            for (number, width) in first.iter().chain(&flags).chain(second).chain(&[(1, word)]) {
                self.number(&mut bytes, *number, *width);
            }
            offset += size;
        }
        for (_, data) in &self.segments {
            bytes.extend_from_slice(data);
        }
        bytes.resize(bytes.len() + 40, 0);
        bytes
    }
}
