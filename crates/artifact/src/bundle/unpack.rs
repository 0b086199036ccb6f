// SPDX-License-Identifier: Apache-2.0

//! Unpacks what is compressed to a scratch file, under the limits of every archive.
//!
//! A stream cannot be read by position, and what lies in a bundle has to be: the JARs' lists of
//! entries are at their ends, and layers are read again after a broken upload.

use std::fs::File;
use std::io::{BufWriter, Read, Write as _};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::tar;
use super::tree::{Builder, Node, PlacedFile, Tree};
use crate::invalid::{Code, InspectError, quoted};
use crate::source::{FileSource, Source, SourceReader};
use crate::zip::{Archive, check_total};

/// How much is unpacked at a time.
const PIECE: usize = 256 << 10;

/// The longest target of a symbolic link (`PATH_MAX`).
const LONGEST_TARGET: usize = 4096;

/// The type of a file in its Unix mode (`S_IFMT` of `stat`), and that of a symbolic link.
const FILE_TYPE: u32 = 0o170_000;
const SYMBOLIC_LINK: u32 = 0o120_000;

/// Makes a file without a name, which vanishes when it is closed.
fn scratch_file(directory: &Path) -> Result<File, InspectError> {
    Ok(tempfile::tempfile_in(directory)?)
}

/// Unpacks a gzip file of any number of members.
pub(super) fn gzip(source: &dyn Source, scratch: &Path) -> Result<FileSource, InspectError> {
    let mut unpacked = scratch_file(scratch)?;
    let reader =
        std::io::BufReader::with_capacity(PIECE, SourceReader::new(source, 0, source.len()));
    let mut decoder = MultiGzDecoder::new(reader);
    let mut buffer = vec![0; PIECE];
    let mut total = 0;
    loop {
        let read = match decoder.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) => return Err(broken(error)),
        };
        if total == 0 && read >= tar::BLOCK && !tar::is_header(&buffer[..tar::BLOCK]) {
            return Err(InspectError::invalid(
                Code::NotAnArtifact,
                "the gzip file holds no tar archive: upload a .tar.gz of a directory, or the \
                uncompressed file",
            ));
        }
        total += read as u64;
        check_total(total, source.len())?;
        unpacked.write_all(&buffer[..read])?;
    }
    Ok(FileSource::new(unpacked)?)
}

/// Tells a broken gzip file from a storage that fails.
fn broken(error: std::io::Error) -> InspectError {
    use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    match error.kind() {
        UnexpectedEof => InspectError::invalid(
            Code::Truncated,
            "the gzip file ends before its data does: it was cut short, upload it again",
        ),
        InvalidData | InvalidInput => InspectError::invalid(
            Code::CorruptArchive,
            "the gzip file is corrupt: build the archive again",
        ),
        _ => InspectError::Read(error),
    }
}

fn corrupt(name: &str, what: &str) -> InspectError {
    let message = format!("the entry {} {what}: build the archive again", quoted(name));
    InspectError::invalid(Code::CorruptArchive, message)
}

/// Unpacks the entries of a ZIP one behind the other.
pub(super) fn zip(source: &dyn Source, scratch: &Path) -> Result<(Tree, FileSource), InspectError> {
    let archive = Archive::read(source)?;
    let mut unpacked = BufWriter::with_capacity(PIECE, scratch_file(scratch)?);
    let mut found: Vec<(&str, Node)> = Vec::new();
    let mut offset = 0;
    for entry in archive.entries() {
        if entry.is_directory() && entry.size > 0 {
            return Err(corrupt(&entry.name, "is a directory with content"));
        }
        if entry.is_directory() {
            found.push((&entry.name, Node::Directory));
            continue;
        }
        if let Some(what) = entry.special().filter(|_| entry.mode & FILE_TYPE != SYMBOLIC_LINK) {
            let message = format!(
                "the entry {} is {what}, and only files, directories and links become part of an \
                image: build the archive again without it",
                quoted(&entry.name)
            );
            return Err(InspectError::invalid(Code::UnsupportedEntry, message));
        }
        if entry.mode & FILE_TYPE == SYMBOLIC_LINK {
            let target = archive.read_to_vec(source, entry, LONGEST_TARGET)?;
            if target.is_empty() || target.contains(&0) {
                return Err(corrupt(&entry.name, "is a link without a target"));
            }
            found.push((&entry.name, Node::Link(tar::text(&entry.name, &target)?)));
            continue;
        }
        let mut reader = archive.open(source, entry)?;
        let copied = std::io::copy(&mut reader, &mut unpacked).map_err(|error| {
            use std::io::ErrorKind::{InvalidData, UnexpectedEof};
            match error.kind() {
                InvalidData | UnexpectedEof => {
                    corrupt(&entry.name, &format!("is corrupt ({error})"))
                }
                _ => InspectError::Read(error),
            }
        })?;
        let file = PlacedFile {
            offset,
            size: copied,
            is_executable: entry.mode & 0o100 != 0,
            modified: entry.modified,
        };
        found.push((&entry.name, Node::File(file)));
        offset += copied;
    }
    let file = unpacked.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    let unpacked = FileSource::new(file)?;
    let mut builder = Builder::new(&unpacked);
    for (name, node) in found {
        builder.count(name.len())?;
        builder.add(Builder::path(name)?, node)?;
    }
    let tree = builder.finish(source.len())?;
    Ok((tree, unpacked))
}
