// SPDX-License-Identifier: Apache-2.0

//! What must be true of every archive that the ZIP reader accepts.

use std::collections::HashSet;
use std::io::Read as _;

use slipway_artifact::{Archive, Entry, InspectError, Method};

/// Contents up to this size are read; a larger one would only take time.
const MOST_READ: u64 = 1 << 20;

/// The most that an accepted archive may inflate to, as its documentation says.
const MOST_INFLATED: u64 = 8 << 30;

/// Reads an archive and checks what an accepted one promises.
///
/// # Panics
///
/// When a promise is broken, or reading from memory fails.
pub fn check(bytes: &[u8]) -> Option<Archive> {
    let archive = read(bytes);
    let again = read(bytes);
    assert_eq!(
        archive.as_ref().map(Archive::entries),
        again.as_ref().map(Archive::entries),
        "it was read in two ways"
    );
    let archive = archive?;
    check_found(&archive);
    if let Some(unpacked) = accepted(archive.unpacked()) {
        check_names(&unpacked);
    }
    check_places(&archive, bytes);
    let inflated: u64 = archive.entries().iter().map(|entry| entry.size).sum();
    assert!(inflated <= MOST_INFLATED, "{inflated} bytes were accepted");
    let mut rest = MOST_READ;
    for entry in archive.entries() {
        if let Some(left) = rest.checked_sub(entry.size) {
            rest = left;
            check_content(&archive, bytes, entry);
        }
    }
    Some(archive)
}

fn read(bytes: &[u8]) -> Option<Archive> {
    accepted(Archive::read(&bytes))
}

fn accepted<T>(result: Result<T, InspectError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(InspectError::Invalid(invalid)) => {
            assert!(!invalid.message.is_empty());
            assert!(!invalid.message.contains('\u{1b}'), "it could disturb a terminal: {invalid}");
            None
        }
        Err(InspectError::Read(error)) => panic!("memory could not be read: {error}"),
    }
}

/// Every name finds the last entry that has it.
fn check_found(archive: &Archive) {
    let mut seen = HashSet::new();
    for entry in archive.entries().iter().rev() {
        if seen.insert(&entry.name) {
            assert!(archive.find(&entry.name).is_some_and(|found| std::ptr::eq(found, entry)));
        }
    }
}

/// Of entries that are unpacked, every name is one relative path, and no two mean the same one.
fn check_names(entries: &[&Entry]) {
    let mut paths = HashSet::new();
    let mut files = HashSet::new();
    for entry in entries {
        let path = entry.name.strip_suffix('/').unwrap_or(&entry.name);
        for component in path.split('/') {
            assert!(!matches!(component, "" | "." | ".."), "{:?}", entry.name);
        }
        assert!(!path.contains(['\0', '\\']), "{:?}", entry.name);
        assert!(paths.insert(path), "{:?} is there twice", entry.name);
        if !entry.is_directory() {
            files.insert(path);
        }
    }
    for path in paths {
        let parents = path.match_indices('/').map(|(end, _)| &path[..end]);
        for parent in parents {
            assert!(!files.contains(parent), "{parent:?} is a file and the directory of {path:?}");
        }
    }
}

/// The compressed bytes of each entry are inside the archive, and no two entries share any.
fn check_places(archive: &Archive, bytes: &[u8]) {
    let mut places: Vec<(u64, u64)> = archive
        .entries()
        .iter()
        .filter_map(|entry| {
            let start = accepted(archive.data_offset(&bytes, entry))?;
            Some((start, start + entry.compressed_size))
        })
        .collect();
    places.sort_unstable();
    for pair in places.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "two entries share bytes: {pair:?}");
    }
    assert!(places.last().is_none_or(|(_, end)| *end <= bytes.len() as u64));
}

/// An entry is the same whether it is read at once or in small pieces, and what is read has the
/// size and the checksum that the archive says.
fn check_content(archive: &Archive, bytes: &[u8], entry: &Entry) {
    let size = usize::try_from(entry.size).expect("at most a megabyte");
    let whole = accepted(archive.read_to_vec(&bytes, entry, size));
    if let Some(content) = &whole {
        assert_eq!(content.len(), size);
        assert_eq!(crc32fast::hash(content), entry.crc32);
        if entry.method == Method::Stored {
            let start = accepted(archive.data_offset(&bytes, entry)).expect("it was read");
            let start = usize::try_from(start).expect("it is in memory");
            assert_eq!(content[..], bytes[start..start + size]);
        }
    }
    let mut pieces = Vec::new();
    let read = accepted(archive.open(&bytes, entry)).map(|mut reader| {
        let mut piece = [0; 7];
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return true,
                Ok(count) => pieces.extend_from_slice(&piece[..count]),
                Err(_) => return false,
            }
            assert!(pieces.len() <= size, "more than its size was handed out");
        }
    });
    assert_eq!(whole, (read == Some(true)).then_some(pieces), "{:?}", entry.name);
}
