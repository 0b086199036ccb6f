// SPDX-License-Identifier: Apache-2.0

//! What the entries of an archive claim together: where each one ends, and how much they inflate
//! to.

use std::cmp::Reverse;

use super::{Entry, LOCAL_LENGTH, Method};
use crate::invalid::{Code, InspectError, quoted};

/// An archive that inflates to more is refused, whatever its own size is. Lower would refuse
/// applications that carry large models or databases; higher lets one honest-looking upload hold
/// a worker for minutes and fill the registry's disk.
const MOST_INFLATED: u64 = 8 << 30;

/// An archive up to this size is never a bomb: inflating it takes a second of one processor.
const ALWAYS_INFLATED: u64 = 256 << 20;

/// Above [`ALWAYS_INFLATED`], an archive inflates to at most this many times its own size.
///
/// Deflate reaches 1032:1 on zeros. Applications are far from it: classes 2:1, text and XML 5:1 to
/// 20:1, and the nested JARs that fill a large one are compressed already. The rule applies to the
/// archive and not to its entries, because a file of zeros, such as an empty database, is honest.
const MOST_RATIO: u64 = 100;

/// The most that one byte of deflated data inflates to: a code of two bits for a length of 258.
const DEFLATE_RATIO: u64 = 1032;

fn bomb(message: String) -> InspectError {
    InspectError::invalid(Code::ArchiveBomb, message)
}

fn corrupt(entry: &Entry, what: &str) -> InspectError {
    let message = format!("the entry {} {what}: build the archive again", quoted(&entry.name));
    InspectError::invalid(Code::CorruptArchive, message)
}

/// Refuses an archive whose entries together claim more than a real one would hold. `length` is
/// that of the whole file.
pub(super) fn check_sizes(entries: &[Entry], length: u64) -> Result<(), InspectError> {
    let mut total: u64 = 0;
    for entry in entries {
        match entry.method {
            Method::Stored if entry.size != entry.compressed_size => {
                return Err(corrupt(entry, "is stored and has two sizes"));
            }
            Method::Deflated if entry.size / DEFLATE_RATIO > entry.compressed_size => {
                return Err(bomb(format!(
                    "the entry {} claims to inflate from {} to {} bytes, which deflate cannot do: \
                    build the archive again",
                    quoted(&entry.name),
                    entry.compressed_size,
                    entry.size
                )));
            }
            Method::Stored | Method::Deflated => {}
        }
        total = total.saturating_add(entry.size);
    }
    check_total(total, length)
}

/// Refuses an archive that becomes `total` bytes of files out of `length` bytes of an upload, if
/// that is more than a real one would.
pub(crate) fn check_total(total: u64, length: u64) -> Result<(), InspectError> {
    if total > MOST_INFLATED {
        return Err(bomb(format!(
            "the archive inflates to {total} bytes, and at most {MOST_INFLATED} are built: split it"
        )));
    }
    if total > ALWAYS_INFLATED && total / MOST_RATIO > length {
        return Err(bomb(format!(
            "the archive inflates from {length} to {total} bytes, more than {MOST_RATIO} times \
            its size: leave out the files that are almost empty"
        )));
    }
    Ok(())
}

/// Sets each entry's `end` to where the next thing in the archive starts, and refuses entries that
/// overlap: the same bytes inflated under many names are a bomb that no ratio of an entry shows
/// (Fifield, "A better zip bomb", 2019). `directory` is where the central directory starts.
///
/// Only the central directory is used, without the extra fields of local headers: reading all of
/// those would touch the whole of a large file. They are compared with `end` when the entry is
/// opened.
pub(super) fn place(entries: &mut [Entry], directory: u64) -> Result<(), InspectError> {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_unstable_by_key(|index| Reverse(entries[*index].offset));
    let mut next = directory;
    for index in order {
        let entry = &mut entries[index];
        let name = u64::from(entry.raw_name_length);
        let least = [entry.offset, LOCAL_LENGTH, name, entry.compressed_size]
            .into_iter()
            .try_fold(0, u64::checked_add);
        if least.is_none_or(|least| least > next) {
            return Err(corrupt(entry, "overlaps what follows it"));
        }
        entry.end = next;
        next = entry.offset;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestEntry, deflated, stored, zip};
    use crate::zip::Archive;

    fn refusal(entries: impl IntoIterator<Item = TestEntry>) -> Option<Code> {
        match Archive::read(&zip(entries)) {
            Ok(_) => None,
            Err(InspectError::Invalid(invalid)) => Some(invalid.code),
            Err(InspectError::Read(error)) => panic!("{error}"),
        }
    }

    fn deflated_from(compressed_size: u64, size: u64) -> Entry {
        Entry {
            name: "a".into(),
            method: Method::Deflated,
            crc32: 0,
            compressed_size,
            size,
            mode: 0,
            modified: None,
            offset: 0,
            end: 0,
            raw_name_length: 1,
            special: None,
        }
    }

    /// The code for the entries of an archive that holds nothing else.
    fn sizes(entries: &[Entry]) -> Option<Code> {
        let length = entries.iter().map(|entry| entry.compressed_size).sum();
        match check_sizes(entries, length) {
            Err(InspectError::Invalid(invalid)) => Some(invalid.code),
            _ => None,
        }
    }

    #[test]
    fn an_archive_that_inflates_without_measure_is_refused() {
        let (mib, gib) = (1 << 20, 1 << 30);
        assert_eq!(sizes(&[deflated_from(30 * mib, 4 * gib)]), Some(Code::ArchiveBomb), "ratio");
        let large = deflated_from(300 * mib, 3 * gib);
        assert_eq!(sizes(&[large.clone(), large.clone()]), None, "a large application");
        assert_eq!(sizes(&[large.clone(), large.clone(), large]), Some(Code::ArchiveBomb), "sum");
        let most = deflated_from(1 << 60, 1 << 63);
        assert_eq!(sizes(&[most.clone(), most]), Some(Code::ArchiveBomb), "beyond 64 bits");
    }

    #[test]
    fn many_entries_that_are_each_modest_are_a_bomb_together() {
        let entries = vec![deflated_from(1 << 10, 1 << 20); 300];
        assert_eq!(sizes(&entries[..256]), None, "256 MiB are never a bomb");
        assert_eq!(sizes(&entries), Some(Code::ArchiveBomb));
    }

    #[test]
    fn more_than_deflate_can_do_is_refused() {
        assert_eq!(sizes(&[deflated_from(1000, 1032 * 1001)]), Some(Code::ArchiveBomb));
        let zeros = deflated("zeros", &vec![0; 10 << 20]);
        assert_eq!(sizes(&[deflated_from(zeros.compressed_size, zeros.size)]), None);
        let claiming = TestEntry { size: 1 << 30, ..deflated("a", b"content") };
        assert_eq!(refusal([claiming]), Some(Code::ArchiveBomb), "in an archive");
    }

    #[test]
    fn a_stored_entry_with_two_sizes_is_refused() {
        assert_eq!(
            refusal([TestEntry { size: 4, ..stored("a", b"x") }]),
            Some(Code::CorruptArchive)
        );
    }

    #[test]
    fn entries_that_share_bytes_are_refused() {
        let shared = TestEntry { offset: Some(0), ..stored("b", b"x") };
        assert_eq!(refusal([stored("a", b"x"), shared]), Some(Code::CorruptArchive));
        // Fifield's construction: the first entry's data holds the second one whole.
        let inner = zip([stored("b", b"quoted")]);
        let outer = stored("a", &inner);
        let quoted = TestEntry { offset: Some(31), ..stored("b", b"quoted") };
        assert_eq!(refusal([outer, quoted]), Some(Code::CorruptArchive));
    }

    #[test]
    fn an_entry_that_reaches_into_the_directory_or_behind_it_is_refused() {
        for offset in [1, 40, 1000, u64::from(u32::MAX) - 1] {
            let entry = TestEntry { offset: Some(offset), ..stored("a", b"x") };
            assert_eq!(refusal([entry]), Some(Code::CorruptArchive), "{offset}");
        }
        let far = TestEntry { offset: Some(u64::MAX), zip64: true, ..stored("a", b"x") };
        assert_eq!(refusal([far]), Some(Code::CorruptArchive));
    }
}
