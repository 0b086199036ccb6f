// SPDX-License-Identifier: Apache-2.0

//! A tar archive that may be hostile, read by position: ustar, pax, and GNU's long names.
//!
//! Written by hand for the same reason as the ZIP reader: tar readers are lenient by design and
//! differ in what they make of an archive. What no two of them agree on is refused here: sparse
//! files, devices, volumes, headers that contradict each other, names that leave the directory.
//! The formats are those of POSIX.1-2024 ("pax", "ustar Interchange Format") and of GNU tar's manual
//! ("Basic Tar Format").

mod header;
mod pax;

use super::tree::{Builder, Node, PlacedFile, Tree};
use crate::invalid::{Code, InspectError, quoted};
use crate::source::Source;
pub(super) use header::{BLOCK, is_header};
use header::{Header, Kind};
use pax::Extended;

/// The longest extended header, long name or long link that is read, in bytes.
const LONGEST_EXTENDED: u64 = 1 << 20;

/// How many zero bytes may follow the end. GNU tar fills its last record, of 10 KiB unless told
/// otherwise.
const LONGEST_PADDING: u64 = 1 << 20;

/// Returns whether a source starts with the header of a tar archive.
pub(super) fn is_tar(source: &dyn Source) -> Result<bool, InspectError> {
    let mut block = [0; BLOCK];
    if source.len() < BLOCK as u64 {
        return Ok(false);
    }
    source.read_exact_at(0, &mut block)?;
    Ok(is_header(&block))
}

/// Reads the entries of an archive. `length` is the size of the upload, which is less than that of
/// the archive if it was compressed.
///
/// # Errors
///
/// [`InspectError::Invalid`] for an archive that is refused, [`InspectError::Read`] when the source
/// cannot be read.
pub(super) fn read(source: &dyn Source, length: u64) -> Result<Tree, InspectError> {
    let mut reader = Reader { source, position: 0 };
    let mut builder = Builder::new(source);
    while let Some((name, target, header)) = reader.next()? {
        builder.count(name.len() + target.as_ref().map_or(0, String::len))?;
        let path = Builder::path(&name)?;
        let node = node(&builder, &name, path, target, &header, reader.position)?;
        reader.skip(header.size, &name)?;
        builder.add(path, node)?;
    }
    builder.finish(length)
}

/// Makes a node of an entry whose content starts at `offset`.
fn node(
    builder: &Builder<'_>,
    name: &str,
    path: &str,
    target: Option<String>,
    header: &Header,
    offset: u64,
) -> Result<Node, InspectError> {
    let has_no_content = || match header.size {
        0 => Ok(()),
        _ => Err(corrupt(&format!("the entry {} has content and is no file", quoted(name)))),
    };
    match header.kind {
        Kind::File if !name.ends_with('/') => Ok(Node::File(PlacedFile {
            offset,
            size: header.size,
            is_executable: header.mode & 0o100 != 0,
            modified: header.modified.filter(|seconds| *seconds > 0),
        })),
        // As tar wrote directories before they had a type.
        Kind::File | Kind::Directory => has_no_content().map(|()| Node::Directory),
        Kind::SymbolicLink => {
            has_no_content()?;
            match target.filter(|target| !target.is_empty() && !target.contains('\0')) {
                Some(target) => Ok(Node::Link(target)),
                None => Err(corrupt(&format!("the link {} has no target", quoted(name)))),
            }
        }
        Kind::HardLink => {
            has_no_content()?;
            let target = target.unwrap_or_default();
            let known = Builder::path(&target).ok().filter(|known| *known != path);
            match known.and_then(|known| builder.get(known)) {
                Some(Node::File(file)) => Ok(Node::File(*file)),
                _ => Err(unsupported(
                    name,
                    &format!(
                        "is a hard link to {}, which is no file before it in the archive",
                        quoted(&target)
                    ),
                )),
            }
        }
        Kind::Special(what) => {
            let what =
                format!("is {what}, and only files, directories and links become part of an image");
            Err(unsupported(name, &what))
        }
        Kind::Extended | Kind::Global | Kind::LongName | Kind::LongLink => {
            unreachable!("the reader keeps headers of headers to itself")
        }
    }
}

fn corrupt(message: &str) -> InspectError {
    InspectError::invalid(Code::CorruptArchive, format!("{message}: build the archive again"))
}

fn unsupported(name: &str, what: &str) -> InspectError {
    let message = format!("the entry {} {what}: build the archive again without it", quoted(name));
    InspectError::invalid(Code::UnsupportedEntry, message)
}

fn truncated() -> InspectError {
    InspectError::invalid(
        Code::Truncated,
        "the tar archive has no end: it was cut short, upload it again",
    )
}

/// Reads a name or a target.
pub(super) fn text(of: &str, bytes: &[u8]) -> Result<String, InspectError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| {
        let shown = String::from_utf8_lossy(bytes).into_owned();
        let of = if of.is_empty() { String::new() } else { format!(" of {}", quoted(of)) };
        InspectError::invalid(
            Code::UnsafePath,
            format!(
                "the name {}{of} is not UTF-8: rename it and build the archive again",
                quoted(&shown)
            ),
        )
    })
}

struct Reader<'a> {
    source: &'a dyn Source,
    position: u64,
}

impl Reader<'_> {
    /// Returns name, target and header of the next entry, or `None` at the end. The position is
    /// then at its content.
    fn next(&mut self) -> Result<Option<(String, Option<String>, Header)>, InspectError> {
        let (mut extended, mut long_name, mut long_link) = (None, None, None);
        loop {
            let Some(mut header) = self.header()? else {
                let is_pending = extended.is_some() || long_name.is_some() || long_link.is_some();
                return if is_pending { Err(truncated()) } else { Ok(None) };
            };
            let (slot, what) = match header.kind {
                Kind::Extended => {
                    let bytes = self.content(&header)?;
                    if extended.replace(Extended::parse(&bytes)?).is_some() {
                        return Err(corrupt("an entry has two extended headers"));
                    }
                    continue;
                }
                Kind::Global => {
                    let bytes = self.content(&header)?;
                    // What would change every entry behind it, and is read by few programs.
                    if !Extended::parse(&bytes)?.is_empty() {
                        return Err(corrupt("a global header changes names or sizes"));
                    }
                    continue;
                }
                Kind::LongName => (&mut long_name, "names"),
                Kind::LongLink => (&mut long_link, "targets"),
                _ => {
                    let Extended { path, target, size, modified } = extended.unwrap_or_default();
                    let both = (path.is_some() && long_name.is_some())
                        || (target.is_some() && long_link.is_some());
                    if both {
                        return Err(corrupt("an entry has names of two formats"));
                    }
                    let name = path.or(long_name).unwrap_or_else(|| header.name.clone());
                    let name = text("", &name)?;
                    let target = target.or(long_link).unwrap_or_else(|| header.link.clone());
                    let target = match header.kind {
                        Kind::SymbolicLink | Kind::HardLink => Some(text(&name, &target)?),
                        _ => None,
                    };
                    header.size = size.unwrap_or(header.size);
                    header.modified = modified.or(header.modified);
                    return Ok(Some((name, target, header)));
                }
            };
            let mut bytes = self.content(&header)?;
            // It ends with a NUL.
            while bytes.last() == Some(&0) {
                bytes.pop();
            }
            if slot.replace(bytes).is_some() {
                return Err(corrupt(&format!("an entry has two long {what}")));
            }
        }
    }

    /// Reads the next header, or the end.
    fn header(&mut self) -> Result<Option<Header>, InspectError> {
        let mut block = [0; BLOCK];
        if self.source.len().saturating_sub(self.position) < BLOCK as u64 {
            return Err(truncated());
        }
        self.source.read_exact_at(self.position, &mut block)?;
        self.position += BLOCK as u64;
        if block.iter().all(|byte| *byte == 0) {
            self.check_padding()?;
            return Ok(None);
        }
        Header::parse(&block).map(Some)
    }

    /// Refuses anything behind the end: some programs would read it.
    fn check_padding(&self) -> Result<(), InspectError> {
        let rest = self.source.len() - self.position;
        let behind = || corrupt("the tar archive has something behind its end");
        if rest > LONGEST_PADDING {
            return Err(behind());
        }
        let mut padding = vec![0; usize::try_from(rest).expect("at most 1 MiB")];
        self.source.read_exact_at(self.position, &mut padding)?;
        if padding.iter().any(|byte| *byte != 0) { Err(behind()) } else { Ok(()) }
    }

    /// Reads the content of a header of a header.
    fn content(&mut self, header: &Header) -> Result<Vec<u8>, InspectError> {
        if header.size > LONGEST_EXTENDED {
            return Err(corrupt("an extended header is longer than 1 MiB"));
        }
        let start = self.position;
        self.skip(header.size, "an extended header")?;
        let mut bytes = vec![0; usize::try_from(header.size).expect("at most 1 MiB")];
        self.source.read_exact_at(start, &mut bytes)?;
        Ok(bytes)
    }

    /// Passes over content and the zeros that fill its last block.
    fn skip(&mut self, size: u64, name: &str) -> Result<(), InspectError> {
        let end = size
            .checked_next_multiple_of(BLOCK as u64)
            .and_then(|length| self.position.checked_add(length))
            .filter(|end| *end <= self.source.len());
        self.position = end.ok_or_else(|| {
            let message = format!(
                "the entry {} is longer than the archive: it was cut short, upload it again",
                quoted(name)
            );
            InspectError::invalid(Code::Truncated, message)
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
