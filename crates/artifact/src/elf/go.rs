// SPDX-License-Identifier: Apache-2.0

//! What Go records of a build in its executables (`debug/buildinfo`): the system and the variant of
//! ARM, of which nothing else in them tells.

use std::io::Read as _;

use super::PT_LOAD;
use super::header::Segment;
use crate::invalid::InspectError;
use crate::source::{Source, SourceReader};

const MAGIC: &[u8] = b"\xff Go buildinf:";
/// The record starts at a multiple of this, and is so long without its texts.
const ALIGNMENT: usize = 16;
const FIXED: usize = 32;
/// Set in the byte of flags where the texts follow, as Go has written them since 1.18.
const INLINE: u8 = 2;
/// How far into its segment the record is looked for. Go reads as much.
const SEARCHED: u64 = 64 << 10;
/// How long the record may be. That of a program with a thousand modules has 100 kB.
const LONGEST: u64 = 1 << 20;
const PF_W: u64 = 2;

/// The settings of a build.
#[derive(Debug, Default)]
pub(super) struct Settings(String);

impl Settings {
    /// Reads the settings from the first segment that can be written to, where Go puts them.
    pub(super) fn read(source: &dyn Source, segments: &[Segment]) -> Result<Self, InspectError> {
        let is_data = |segment: &&Segment| segment.kind == PT_LOAD && segment.flags & PF_W != 0;
        let Some(data) = segments.iter().find(is_data) else { return Ok(Self::default()) };
        let mut bytes = Vec::new();
        let length = data.file_size.min(SEARCHED);
        SourceReader::new(source, data.offset, length).read_to_end(&mut bytes)?;
        let Some(at) = bytes
            .chunks(ALIGNMENT)
            .position(|chunk| chunk.starts_with(MAGIC))
            .map(|chunk| chunk * ALIGNMENT)
        else {
            return Ok(Self::default());
        };
        let start = at as u64;
        let length = (data.file_size - start).min(LONGEST);
        bytes.clear();
        SourceReader::new(source, data.offset + start, length).read_to_end(&mut bytes)?;
        Ok(Self(settings(&bytes).unwrap_or_default()))
    }

    /// Returns the value of a setting, as of `GOOS`.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix("build\t")?.strip_prefix(name)?.strip_prefix('='))
    }
}

/// Returns the second text of a record; the first is Go's version.
fn settings(record: &[u8]) -> Option<String> {
    if record.get(MAGIC.len() + 1)? & INLINE == 0 {
        return None;
    }
    let (_, rest) = text(record.get(FIXED..)?)?;
    let (settings, _) = text(rest)?;
    Some(String::from_utf8_lossy(settings).into_owned())
}

/// Splits off a text behind its length (ULEB128).
fn text(mut bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0usize;
    for shift in (0..28).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        bytes = rest;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return bytes.split_at_checked(length);
        }
    }
    None
}
