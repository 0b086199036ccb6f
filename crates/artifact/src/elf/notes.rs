// SPDX-License-Identifier: Apache-2.0

//! The notes of an executable (System V ABI, "Note Section"): the system it was linked for, the
//! oldest kernel, and the level of the processor.

use std::io::Read as _;

use super::header::{Header, Segment};
use super::{system, truncated};
use crate::invalid::InspectError;
use crate::source::{Source, SourceReader};

/// How many bytes of notes are read of each segment; linkers write some hundred.
const LONGEST: u64 = 64 << 10;

const NT_GNU_ABI_TAG: u64 = 1;
const NT_GNU_PROPERTY_TYPE_0: u64 = 5;
/// The processor that a program needs, in levels (x86-64 psABI, "Program Property").
const GNU_PROPERTY_X86_ISA_1_NEEDED: u64 = 0xc000_8002;

/// A kernel that is older than this one is in no distribution that still gets updates, so a program
/// that needs an older one is as good as one that needs none.
const OLD_LINUX: [u64; 3] = [5, 0, 0];

/// What the notes say.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// The system, if it is not Linux.
    pub(super) system: Option<&'static str>,
    /// The level of x86-64, from 2 to 4.
    pub(super) x86_64_level: Option<u8>,
    /// The oldest Linux, if it is a recent one.
    pub(super) linux: Option<String>,
}

impl Notes {
    /// Adds the notes of a segment.
    pub(super) fn read(
        &mut self,
        header: &Header,
        source: &dyn Source,
        segment: &Segment,
    ) -> Result<(), InspectError> {
        if segment.end().is_none_or(|end| end > source.len()) {
            return Err(truncated());
        }
        let mut bytes = Vec::new();
        let length = segment.file_size.min(LONGEST);
        SourceReader::new(source, segment.offset, length).read_to_end(&mut bytes)?;
        let alignment = if segment.alignment == 8 { 8 } else { 4 };
        let mut rest = bytes.as_slice();
        while let Some((start, behind)) = rest.split_at_checked(12) {
            let [name, content, kind] = [0, 4, 8].map(|at| header.number(start, at, 4));
            let (Ok(name), Ok(content)) = (usize::try_from(name), usize::try_from(content)) else {
                break;
            };
            // Both parts are padded; the lengths are without the padding.
            let content_at = (12usize.saturating_add(name)).next_multiple_of(alignment) - 12;
            let end = content_at.saturating_add(content);
            let (Some(owner), Some(content)) = (behind.get(..name), behind.get(content_at..end))
            else {
                break;
            };
            self.note(header, owner.strip_suffix(b"\0").unwrap_or(owner), kind, content);
            let next = (12usize.saturating_add(end)).next_multiple_of(alignment);
            rest = rest.get(next..).unwrap_or_default();
        }
        Ok(())
    }

    fn note(&mut self, header: &Header, owner: &[u8], kind: u64, content: &[u8]) {
        if owner != b"GNU" {
            self.system = self.system.or(system::of_note(owner));
            return;
        }
        match kind {
            NT_GNU_ABI_TAG if content.len() >= 16 => {
                let [system, major, minor, patch] =
                    [0, 4, 8, 12].map(|at| header.number(content, at, 4));
                self.system = self.system.or(system::of_abi_tag(system));
                if system == 0 && [major, minor, patch] >= OLD_LINUX {
                    self.linux = Some(format!("{major}.{minor}.{patch}"));
                }
            }
            NT_GNU_PROPERTY_TYPE_0 => self.properties(header, content),
            _ => {}
        }
    }

    fn properties(&mut self, header: &Header, mut content: &[u8]) {
        while let Some((start, behind)) = content.split_at_checked(8) {
            let [kind, length] = [0, 4].map(|at| header.number(start, at, 4));
            let Ok(length) = usize::try_from(length) else { break };
            let Some(value) = behind.get(..length) else { break };
            if kind == GNU_PROPERTY_X86_ISA_1_NEEDED && length >= 4 && header.machine == 62 {
                let levels = header.number(value, 0, 4);
                let level = (1..=4).rev().find(|level| levels >> (level - 1) & 1 == 1);
                self.x86_64_level = level.filter(|level| *level >= 2);
            }
            let next = length.next_multiple_of(header.word());
            content = behind.get(next..).unwrap_or_default();
        }
    }
}
