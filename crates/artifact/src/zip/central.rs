// SPDX-License-Identifier: Apache-2.0

//! The records of a nested archive, read without names of their own and without a judgement.
//!
//! An artifact may hold hundreds of libraries with tens of thousands of entries. Only a few of
//! their names matter, so none is copied.

use std::ops::Range;

use super::end::{self, u16_at, u32_at};
use super::starts::Place;
use super::{LOCAL, LOCAL_LENGTH, Method};
use crate::invalid::InspectError;
use crate::source::Source;

const RECORD: &[u8] = b"PK\x01\x02";
const RECORD_LENGTH: usize = 46;
const END: &[u8] = b"PK\x05\x06";
const END_LENGTH: usize = 22;

/// Bit 3 of an entry's flags: its sizes stand behind its data.
const DESCRIBED: u16 = 1 << 3;

/// Where an archive's list of entries is.
pub(crate) struct List {
    /// Where it starts in the source.
    pub(crate) offset: u64,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// The number to add to the offset of an entry.
    pub(crate) base: u64,
}

/// Finds the list of entries of an archive. Nearly every library ends with a plain end record
/// without a comment, and finding that one reads 22 bytes.
pub(crate) fn find(source: &dyn Source) -> Result<List, InspectError> {
    if let Some(end) = source.len().checked_sub(END_LENGTH as u64) {
        let mut record = [0; END_LENGTH];
        source.read_exact_at(end, &mut record)?;
        let (size, offset) = (u32_at(&record, 12), u32_at(&record, 16));
        let is_wide = size == u32::MAX || offset == u32::MAX || u16_at(&record, 10) == u16::MAX;
        if record.starts_with(END) && u16_at(&record, 20) == 0 && !is_wide {
            let start = end.checked_sub(u64::from(size));
            if let Some(base) = start.and_then(|start| start.checked_sub(u64::from(offset))) {
                let (size, offset) = (u64::from(size), end - u64::from(size));
                return Ok(List { offset, size, base });
            }
        }
    }
    let end::Directory { offset, size, base, .. } = end::locate(source)?;
    Ok(List { offset, size, base })
}

/// One record of a list of entries.
pub(crate) struct Record {
    /// Where its name is in the list.
    pub(crate) name: Range<usize>,
    method: u16,
    compressed_size: u32,
    local: u32,
}

impl Record {
    /// Returns where the entry is, if the record says so without ZIP64.
    pub(crate) fn place(&self, base: u64) -> Option<Place> {
        let is_wide = self.compressed_size == u32::MAX || self.local == u32::MAX;
        let method = method(self.method).filter(|_| !is_wide)?;
        let local = base.checked_add(u64::from(self.local))?;
        Some(Place { local, method, compressed_size: u64::from(self.compressed_size) })
    }
}

fn method(number: u16) -> Option<Method> {
    match number {
        0 => Some(Method::Stored),
        8 => Some(Method::Deflated),
        _ => None,
    }
}

/// Returns the records of a list, up to the first thing that is none.
pub(crate) fn records(list: &[u8]) -> impl Iterator<Item = Record> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let record =
            list.get(at..at + RECORD_LENGTH).filter(|record| record.starts_with(RECORD))?;
        let [name, extra, comment] = [28, 30, 32].map(|at| usize::from(u16_at(record, at)));
        let name = at + RECORD_LENGTH..at + RECORD_LENGTH + name;
        at = name.end + extra + comment;
        (name.end <= list.len()).then(|| Record {
            name,
            method: u16_at(record, 10),
            compressed_size: u32_at(record, 20),
            local: u32_at(record, 42),
        })
    })
}

/// A local header.
pub(crate) struct LocalHeader {
    /// Where its name is.
    pub(crate) name: Range<usize>,
    /// The length of the extra fields behind the name.
    pub(crate) extra: usize,
    /// How the entry is stored; none for other methods.
    pub(crate) method: Option<Method>,
    /// The number of bytes of its data; none if that stands behind the data.
    pub(crate) compressed_size: Option<u32>,
    /// The length of what stands behind the data then.
    pub(crate) descriptor: usize,
}

/// Reads the local header at a position, if there is one, with its name.
pub(crate) fn local_header(bytes: &[u8], at: usize) -> Option<LocalHeader> {
    let length = usize::try_from(LOCAL_LENGTH).expect("30");
    let header = bytes.get(at..at.checked_add(length)?)?;
    let is_described = u16_at(header, 6) & DESCRIBED != 0;
    let method = method(u16_at(header, 8));
    // Nobody can find the end of stored data without its size.
    if !header.starts_with(LOCAL) || (is_described && method != Some(Method::Deflated)) {
        return None;
    }
    let name = at + length..at + length + usize::from(u16_at(header, 26));
    (name.end <= bytes.len()).then(|| LocalHeader {
        name,
        extra: usize::from(u16_at(header, 28)),
        method,
        compressed_size: (!is_described).then(|| u32_at(header, 18)),
        // With the signature that everybody writes.
        descriptor: 16,
    })
}
