// SPDX-License-Identifier: Apache-2.0

//! The dynamic section: which shared libraries an executable names, and which versions of them it
//! needs (System V ABI, "Dynamic Section"; Linux Standard Base, "Symbol Versioning").
//!
//! A dynamic linker refuses to start a program for these two reasons before its first instruction.
//! What does not add up in here is passed over: a program with a broken dynamic section is not
//! better served by a refusal for another reason than its own.

use std::collections::BTreeMap;
use std::io::{BufReader, Read as _};

use super::header::{Header, Segment};
use super::{PT_LOAD, truncated};
use crate::invalid::InspectError;
use crate::source::{Source, SourceReader};

/// How many entries of a dynamic section are read; linkers write some thirty.
const MOST_ENTRIES: u64 = 4096;
/// How many libraries, and how many versions of libraries, are read. Large programs name a hundred.
const MOST_NAMES: usize = 1024;
/// The longest name of a library or version that is read (`NAME_MAX`).
const LONGEST_NAME: usize = 255;
/// The longest search path that is read (`PATH_MAX`).
const LONGEST_PATH: usize = 4096;

pub(super) const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_STRSZ: u64 = 10;
pub(super) const DT_SONAME: u64 = 14;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
pub(super) const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DT_VERNEED: u64 = 0x6fff_fffe;
const DT_VERNEEDNUM: u64 = 0x6fff_ffff;
/// The flag by which a linker marks a position-independent executable.
pub(super) const DF_1_PIE: u64 = 0x0800_0000;
/// The flag of a version that a program does without where it is missing.
const VER_FLG_WEAK: u64 = 2;

/// What the dynamic section says.
#[derive(Debug, Default)]
pub(super) struct Dynamic {
    /// It has a name for programs that link with it, and is not marked as an executable.
    pub(super) is_library: bool,
    /// The libraries it names, in its order.
    pub(super) libraries: Vec<String>,
    /// The newest version of each series that it needs, sorted.
    pub(super) versions: Vec<String>,
    /// Where libraries are looked for first.
    pub(super) search_path: Option<String>,
}

/// Reads the dynamic section that a segment holds.
pub(super) fn read(
    header: &Header,
    source: &dyn Source,
    segment: &Segment,
    segments: &[Segment],
) -> Result<Dynamic, InspectError> {
    if segment.end().is_none_or(|end| end > source.len()) {
        return Err(truncated());
    }
    let word = header.word();
    let size = segment.file_size.min(MOST_ENTRIES * 2 * word as u64);
    let mut reader = BufReader::new(SourceReader::new(source, segment.offset, size));
    let (mut named, mut executable) = (false, false);
    let (mut needed, mut numbers) = (Vec::new(), BTreeMap::new());
    let mut entry = [0; 16];
    for _ in 0..size / (2 * word as u64) {
        reader.read_exact(&mut entry[..2 * word])?;
        let value = header.number(&entry, word, word);
        match header.number(&entry, 0, word) {
            DT_NULL => break,
            DT_SONAME => named = true,
            DT_FLAGS_1 => executable = value & DF_1_PIE != 0,
            DT_NEEDED if needed.len() < MOST_NAMES => needed.push(value),
            tag => {
                numbers.insert(tag, value);
            }
        }
    }
    let mut dynamic = Dynamic { is_library: named && !executable, ..Dynamic::default() };
    let text = Text { source, segments, numbers: &numbers };
    dynamic.libraries = text.all(&needed)?;
    let path = numbers.get(&DT_RUNPATH).or_else(|| numbers.get(&DT_RPATH));
    if let Some(offset) = path {
        dynamic.search_path = text.at(*offset, LONGEST_PATH)?;
    }
    dynamic.versions = newest(versions(header, &text)?);
    Ok(dynamic)
}

/// The string table, by the addresses that the dynamic section gives.
struct Text<'a> {
    source: &'a dyn Source,
    segments: &'a [Segment],
    numbers: &'a BTreeMap<u64, u64>,
}

impl Text<'_> {
    /// Returns where the bytes at an address are in the file, and how many follow there.
    fn place(&self, address: u64) -> Option<(u64, u64)> {
        self.segments.iter().filter(|segment| segment.kind == PT_LOAD).find_map(|segment| {
            let within = address.checked_sub(segment.address)?;
            let rest = segment.file_size.checked_sub(within).filter(|rest| *rest > 0)?;
            Some((segment.offset.checked_add(within)?, rest))
        })
    }

    /// Returns the text at an offset of the table, if it is one of at most so many bytes.
    fn at(&self, offset: u64, longest: usize) -> Result<Option<String>, InspectError> {
        let size = self.numbers.get(&DT_STRSZ).copied().unwrap_or(u64::MAX);
        let start = self.numbers.get(&DT_STRTAB).and_then(|table| table.checked_add(offset));
        let Some((place, rest)) = start.and_then(|start| self.place(start)) else {
            return Ok(None);
        };
        let length = rest.min(size.saturating_sub(offset)).min(longest as u64 + 1);
        let mut bytes = Vec::new();
        SourceReader::new(self.source, place, length).read_to_end(&mut bytes)?;
        let end = bytes.iter().position(|byte| *byte == 0);
        let text = end.and_then(|end| std::str::from_utf8(&bytes[..end]).ok());
        let is_plain = |text: &&str| !text.is_empty() && !text.chars().any(char::is_control);
        Ok(text.filter(is_plain).map(str::to_owned))
    }

    fn all(&self, offsets: &[u64]) -> Result<Vec<String>, InspectError> {
        let mut names = Vec::new();
        for offset in offsets {
            names.extend(self.at(*offset, LONGEST_NAME)?);
        }
        Ok(names)
    }
}

/// Returns every version that is needed: a list of files, each with a list of versions of it. An
/// entry says how many bytes behind its start the next one is, 0 for none.
fn versions(header: &Header, text: &Text<'_>) -> Result<Vec<String>, InspectError> {
    const ENTRY: usize = 16;
    let mut names = Vec::new();
    let Some(mut file_at) = text.numbers.get(&DT_VERNEED).copied() else { return Ok(names) };
    let files = text.numbers.get(&DT_VERNEEDNUM).copied().unwrap_or(u64::MAX);
    let mut seen = 0;
    let entry = |address: u64| -> Result<Option<[u8; ENTRY]>, InspectError> {
        let Some((place, rest)) = text.place(address).filter(|(_, rest)| *rest >= ENTRY as u64)
        else {
            return Ok(None);
        };
        let mut bytes = [0; ENTRY];
        debug_assert!(rest >= ENTRY as u64);
        text.source.read_exact_at(place, &mut bytes)?;
        Ok(Some(bytes))
    };
    for _ in 0..files.min(MOST_NAMES as u64) {
        let Some(file) = entry(file_at)? else { break };
        let mut version_at = file_at.checked_add(header.number(&file, 8, 4));
        for _ in 0..header.number(&file, 2, 2) {
            seen += 1;
            let Some(address) = version_at.filter(|_| seen <= MOST_NAMES) else { break };
            let Some(version) = entry(address)? else { break };
            if header.number(&version, 4, 2) & VER_FLG_WEAK == 0 {
                names.extend(text.at(header.number(&version, 8, 4), LONGEST_NAME)?);
            }
            match header.number(&version, 12, 4) {
                0 => break,
                next => version_at = address.checked_add(next),
            }
        }
        match (header.number(&file, 12, 4), file_at) {
            (0, _) => break,
            (next, at) => match at.checked_add(next) {
                Some(next) => file_at = next,
                None => break,
            },
        }
    }
    Ok(names)
}

/// Keeps the newest version of each series, as `GLIBC_2.34` of `GLIBC_2.2.5` and `GLIBC_2.34`.
fn newest(names: Vec<String>) -> Vec<String> {
    let mut series: BTreeMap<String, String> = BTreeMap::new();
    for name in names {
        let key = slipway_proto::artifact::version_series(&name)
            .map_or_else(|| name.clone(), |(series, _)| series.to_owned());
        let known = series.entry(key).or_insert_with(|| name.clone());
        let numbers =
            |name: &str| slipway_proto::artifact::version_series(name).map(|(_, numbers)| numbers);
        if numbers(&name) > numbers(known) {
            *known = name;
        }
    }
    series.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn of_each_series_the_newest_is_kept() {
        let names = [
            "GLIBC_2.2.5",
            "GLIBC_2.34",
            "GLIBC_2.9",
            "GLIBC_PRIVATE",
            "GLIBC_ABI_DT_RELR",
            "CXXABI_1.3",
            "GLIBCXX_3.4.9",
            "GLIBCXX_3.4.30",
        ];
        let kept = newest(names.map(str::to_owned).to_vec());
        let expected =
            ["CXXABI_1.3", "GLIBC_2.34", "GLIBCXX_3.4.30", "GLIBC_ABI_DT_RELR", "GLIBC_PRIVATE"];
        assert_eq!(kept, expected);
    }
}
