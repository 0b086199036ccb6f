// SPDX-License-Identifier: Apache-2.0

//! The file header and the tables it points to, for both widths and byte orders.

use std::io::Read as _;

use slipway_proto::platform::Architecture;

use super::{truncated, unsupported};
use crate::invalid::InspectError;
use crate::source::{Source, SourceReader};

/// More program headers than this are refused; linkers write some ten.
const MOST_HEADERS: u16 = 256;

/// More section headers than this are not looked through; linkers write some thirty, and a compiler
/// that gives every function its own leaves them in object files.
const MOST_SECTIONS: u64 = 4096;

/// What the file header says.
pub(super) struct Header {
    pub(super) wide: bool,
    big: bool,
    /// `EI_OSABI`, see [`system`](super::system).
    pub(super) os_abi: u8,
    pub(super) file_type: u64,
    pub(super) machine: u64,
    pub(super) entry: u64,
    /// `e_flags`, whose meaning is the processor's.
    pub(super) flags: u64,
    headers_offset: u64,
    header_size: u64,
    header_count: u16,
    sections_offset: u64,
    section_size: u64,
    section_count: u64,
}

/// A part of the file that is mapped or that tells how to map it.
pub(super) struct Segment {
    pub(super) kind: u64,
    pub(super) flags: u64,
    pub(super) offset: u64,
    pub(super) address: u64,
    pub(super) file_size: u64,
    pub(super) memory_size: u64,
    pub(super) alignment: u64,
}

impl Segment {
    /// Returns where it ends in the file; `None` beyond 64 bits.
    pub(super) fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.file_size)
    }
}

impl Header {
    pub(super) fn read(source: &dyn Source) -> Result<Self, InspectError> {
        let mut bytes = [0; 64];
        let length = usize::try_from(source.len().min(64)).expect("at most 64");
        source.read_exact_at(0, &mut bytes[..length])?;
        let (wide, big) = match (bytes[4], bytes[5]) {
            _ if length < 20 => return Err(truncated()),
            (1, 1) => (false, false),
            (1, 2) => (false, true),
            (2, 1) => (true, false),
            (2, 2) => (true, true),
            _ => return Err(unsupported("the ELF header names an unknown width or byte order")),
        };
        if length < if wide { 64 } else { 52 } {
            return Err(truncated());
        }
        let mut header = Self {
            wide,
            big,
            os_abi: bytes[7],
            file_type: 0,
            machine: 0,
            entry: 0,
            flags: 0,
            headers_offset: 0,
            header_size: 0,
            header_count: 0,
            sections_offset: 0,
            section_size: 0,
            section_count: 0,
        };
        header.file_type = header.number(&bytes, 16, 2);
        header.machine = header.number(&bytes, 18, 2);
        let word = header.word();
        header.entry = header.number(&bytes, 24, word);
        header.headers_offset = header.number(&bytes, 24 + word, word);
        // After the two offsets of tables come flags, then the header's own size.
        let sizes = 24 + 3 * word + 6;
        header.header_size = header.number(&bytes, sizes, 2);
        header.header_count = u16::try_from(header.number(&bytes, sizes + 2, 2)).expect("16 bits");
        // A linker writes the section headers last, so they are the best sign that the end is
        // missing.
        header.flags = header.number(&bytes, 24 + 3 * word, 4);
        header.sections_offset = header.number(&bytes, 24 + 2 * word, word);
        header.section_size = header.number(&bytes, sizes + 4, 2);
        header.section_count = header.number(&bytes, sizes + 6, 2);
        let sections = header.section_size * header.section_count;
        if header.sections_offset.checked_add(sections).is_none_or(|end| end > source.len()) {
            return Err(truncated());
        }
        Ok(header)
    }

    /// Returns the number of bytes of an address.
    pub(super) fn word(&self) -> usize {
        if self.wide { 8 } else { 4 }
    }

    /// Reads a number of `width` bytes in the file's byte order.
    pub(super) fn number(&self, bytes: &[u8], at: usize, width: usize) -> u64 {
        let digits = bytes[at..at + width].iter().map(|byte| u64::from(*byte));
        let fold = |number: u64, digit: u64| number << 8 | digit;
        if self.big { digits.fold(0, fold) } else { digits.rev().fold(0, fold) }
    }

    /// Machine numbers are those of `e_machine` in the ELF specification.
    pub(super) fn architecture(&self) -> Result<Architecture, InspectError> {
        Ok(match (self.machine, self.wide, self.big) {
            (3, false, false) => Architecture::I386,
            (22, true, true) => Architecture::S390x,
            (40, false, false) => Architecture::Arm,
            (62, true, false) => Architecture::Amd64,
            (21, true, false) => Architecture::Ppc64le,
            (183, true, false) => Architecture::Arm64,
            (243, true, false) => Architecture::Riscv64,
            (machine, wide, big) => {
                let known: Vec<&str> = Architecture::ALL.iter().map(|(_, name)| *name).collect();
                return Err(unsupported(format!(
                    "the executable is for {} ({} bits, {}-endian), and images are built for {}: \
                    compile it for one of them",
                    machine_name(machine),
                    if wide { 64 } else { 32 },
                    if big { "big" } else { "little" },
                    known.join(", ")
                )));
            }
        })
    }

    pub(super) fn segments(&self, source: &dyn Source) -> Result<Vec<Segment>, InspectError> {
        let size: usize = if self.wide { 56 } else { 32 };
        if self.header_count == 0 || self.header_size != size as u64 {
            return Err(unsupported("the executable has no program headers: link it as a program"));
        }
        if self.header_count > MOST_HEADERS {
            let message = format!("the executable has {} program headers", self.header_count);
            return Err(unsupported(format!("{message}, and at most {MOST_HEADERS} are read")));
        }
        let length = u64::from(self.header_count) * size as u64;
        let mut reader = SourceReader::new(source, self.headers_offset, length);
        if reader.remaining() < length {
            return Err(truncated());
        }
        let mut table = Vec::new();
        reader.read_to_end(&mut table)?;
        let word = self.word();
        let segment = |bytes: &[u8]| {
            // The wide form has its flags second, the narrow one near the end.
            let (offset, flags) = if self.wide { (8, 4) } else { (4, 24) };
            Segment {
                kind: self.number(bytes, 0, 4),
                flags: self.number(bytes, flags, 4),
                offset: self.number(bytes, offset, word),
                address: self.number(bytes, offset + word, word),
                file_size: self.number(bytes, offset + 3 * word, word),
                memory_size: self.number(bytes, offset + 4 * word, word),
                alignment: self.number(bytes, size - word, word),
            }
        };
        Ok(table.chunks_exact(size).map(segment).collect())
    }

    /// Returns place and length of the first section of a type. A file may be without sections.
    pub(super) fn section(
        &self,
        source: &dyn Source,
        wanted: u64,
    ) -> Result<Option<(u64, u64)>, InspectError> {
        let size: usize = if self.wide { 64 } else { 40 };
        if self.section_size != size as u64 {
            return Ok(None);
        }
        let length = self.section_count.min(MOST_SECTIONS) * size as u64;
        let mut table = Vec::new();
        SourceReader::new(source, self.sections_offset, length).read_to_end(&mut table)?;
        let word = self.word();
        let found = table.chunks_exact(size).find(|bytes| self.number(bytes, 4, 4) == wanted);
        Ok(found.map(|bytes| {
            let place = 8 + 2 * word;
            (self.number(bytes, place, word), self.number(bytes, place + word, word))
        }))
    }
}

/// Names a machine for people, by its number in `e_machine`.
fn machine_name(machine: u64) -> String {
    let name = match machine {
        2 | 18 | 43 => "SPARC",
        3 => "x86",
        4 => "Motorola 68000",
        8 | 10 => "MIPS",
        15 => "PA-RISC",
        20 => "32-bit PowerPC",
        21 => "big-endian PowerPC",
        22 => "31-bit S/390",
        40 => "ARM",
        42 => "SuperH",
        50 => "Itanium",
        62 => "x86-64 with 32-bit addresses (x32)",
        93 => "ARC",
        94 => "Xtensa",
        183 => "64-bit ARM",
        243 => "RISC-V",
        247 => "BPF",
        258 => "LoongArch",
        _ => return format!("machine {machine}"),
    };
    format!("{name} (machine {machine})")
}
