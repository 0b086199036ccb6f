// SPDX-License-Identifier: Apache-2.0

//! Writes executables for tests, of either width and byte order, and with mistakes.

use super::arm::SHT_ARM_ATTRIBUTES;
use super::dynamic::DT_NULL;
use super::{MAGIC, PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_NOTE};

/// An ELF file of these parts, each placed in the file at its own address.
#[derive(Debug, Clone)]
pub struct TestElf {
    /// Whether it has 64 bits, not 32.
    pub wide: bool,
    /// Whether the most significant byte comes first.
    pub big: bool,
    /// `e_type`: 2 for an executable, 3 for a library or a position-independent executable.
    pub file_type: u64,
    /// `EI_OSABI`.
    pub os_abi: u8,
    /// `e_machine`.
    pub machine: u64,
    /// `e_flags`.
    pub flags: u64,
    /// The address of the first instruction.
    pub entry: u64,
    /// Types and contents of the segments.
    pub segments: Vec<(u64, Vec<u8>)>,
    /// The section of ARM's attributes; without one the file has one empty section.
    pub attributes: Vec<u8>,
}

impl TestElf {
    /// A static executable for amd64.
    #[must_use]
    pub fn executable() -> Self {
        let segments = vec![(PT_LOAD, b"code".to_vec())];
        Self {
            wide: true,
            big: false,
            file_type: 2,
            os_abi: 0,
            machine: 62,
            flags: 0,
            entry: 0x1000,
            segments,
            attributes: Vec::new(),
        }
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

    /// Adds the segments by which the executable names shared libraries and versions of them.
    ///
    /// # Panics
    ///
    /// When there are too many for a test.
    pub fn link(&mut self, libraries: &[(&str, &[&str])], search_path: Option<&str>) {
        let mut strings = vec![0];
        let mut add = |text: &str| {
            let at = strings.len() as u64;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let path = search_path.map(&mut add);
        let names: Vec<(u64, Vec<u64>)> = libraries
            .iter()
            .map(|(name, versions)| (add(name), versions.iter().map(|v| add(v)).collect()))
            .collect();
        let mut table = Vec::new();
        let versioned = names.iter().filter(|(_, versions)| !versions.is_empty());
        let count = versioned.clone().count() as u64;
        for (index, (name, versions)) in (1..).zip(versioned) {
            let length = 16 * (versions.len() as u64 + 1);
            let next = if index == count { 0 } else { length };
            let file = [(1, 2), (versions.len() as u64, 2), (*name, 4), (16, 4), (next, 4)];
            for (number, width) in file {
                self.number(&mut table, number, width);
            }
            for (index, version) in (1..).zip(versions) {
                let next = if index == versions.len() { 0 } else { 16 };
                for (number, width) in [(7, 4), (0, 2), (2, 2), (*version, 4), (next, 4)] {
                    self.number(&mut table, number, width);
                }
            }
        }
        let address = 0x1000 * (self.segments.len() as u64 + 1);
        let strings_at = address + table.len() as u64;
        let mut tags: Vec<(u64, u64)> = names.iter().map(|(name, _)| (1, *name)).collect();
        tags.extend([(5, strings_at), (10, strings.len() as u64)]);
        tags.extend([(0x6fff_fffe, address), (0x6fff_ffff, count)]);
        tags.extend(path.map(|path| (29, path)));
        let dynamic = self.dynamic(&tags);
        self.segments.push((PT_LOAD, [table, strings].concat()));
        self.segments.push((PT_DYNAMIC, dynamic));
    }

    /// Adds a segment with one note.
    pub fn note(&mut self, owner: &str, kind: u64, content: &[u8]) {
        let mut bytes = Vec::new();
        for number in [owner.len() as u64 + 1, content.len() as u64, kind] {
            self.number(&mut bytes, number, 4);
        }
        bytes.extend_from_slice(owner.as_bytes());
        bytes.resize((bytes.len() + 1).next_multiple_of(4), 0);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.segments.push((PT_NOTE, bytes));
    }

    /// Returns numbers of four bytes, as notes hold them.
    #[must_use]
    pub fn words(&self, numbers: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in numbers {
            self.number(&mut bytes, *number, 4);
        }
        bytes
    }

    fn number(&self, bytes: &mut Vec<u8>, number: u64, width: usize) {
        match self.big {
            true => bytes.extend_from_slice(&number.to_be_bytes()[8 - width..]),
            false => bytes.extend_from_slice(&number.to_le_bytes()[..width]),
        }
    }

    /// Writes the file. Segment `n` is at `0x1000 * (n + 1)` in memory and
    /// behind the tables in the file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let (word, header, entry) = if self.wide { (8, 64, 56) } else { (4, 52, 32) };
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&[1 + u8::from(self.wide), 1 + u8::from(self.big), 1, self.os_abi]);
        bytes.resize(16, 0);
        let count = self.segments.len() as u64;
        let mut offset = header + entry * count;
        let behind = offset + self.segments.iter().map(|(_, data)| data.len() as u64).sum::<u64>();
        let fields = [(self.file_type, 2), (self.machine, 2), (1, 4), (self.entry, word)];
        let sections = behind + self.attributes.len() as u64;
        let flags = (self.flags, 4);
        let tables = [(header, word), (sections, word), flags, (header, 2), (entry, 2), (count, 2)];
        for (number, width) in fields.into_iter().chain(tables).chain([(40, 2), (1, 2), (0, 2)]) {
            self.number(&mut bytes, number, width);
        }
        for (index, (kind, data)) in (1..).zip(&self.segments) {
            let (address, size) = (0x1000 * index, data.len() as u64);
            let places =
                [(offset, word), (address, word), (address, word), (size, word), (size, word)];
            // Readable, writable and executable.
            let flags = [(7, 4)];
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
        bytes.extend_from_slice(&self.attributes);
        let mut section = Vec::new();
        if !self.attributes.is_empty() {
            let length = self.attributes.len() as u64;
            for number in [0, SHT_ARM_ATTRIBUTES, 0, 0, behind, length] {
                self.number(&mut section, number, 4);
            }
        }
        section.resize(40, 0);
        bytes.extend_from_slice(&section);
        bytes
    }
}
