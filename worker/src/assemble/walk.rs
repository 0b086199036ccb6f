// SPDX-License-Identifier: Apache-2.0

//! The walk over the files of a planned layer, as one tar archive.

use std::io::{self, Read};
use std::sync::Arc;

use slipway_artifact::zip::{Entry, Method};
use slipway_artifact::{FileSource, Source as _};

use super::AssembleError;
use super::compress::{TarSink, read_up_to};
use super::layout::{Data, Node, PlannedLayer};
use super::tar;

/// How much of a compressed file is read at a time.
const READ_AT_ONCE: usize = 64 * 1024;

const ZEROS: [u8; tar::BLOCK] = [0; tar::BLOCK];

/// Writes a layer's archive to a sink, and checks every entry of the artifact on the way.
///
/// # Errors
///
/// When the artifact is corrupt, or a disk fails, or the build is over.
pub fn walk(
    planned: &PlannedLayer,
    artifact: &Arc<FileSource>,
    epoch: i64,
    sink: &mut dyn TarSink,
) -> Result<(), AssembleError> {
    let disk = || AssembleError::disk("write a layer to the scratch directory");
    let mut walk = Walk { planned, artifact, sink, chunk: vec![0; READ_AT_ONCE] };
    for (path, node) in &planned.nodes {
        let (user, group) = planned.owner(path);
        let kind = match node {
            Node::Directory { .. } => tar::Kind::Directory,
            Node::File { data, .. } => tar::Kind::File(data.size(artifact)),
            Node::Link { target } => tar::Kind::Link(target),
        };
        let mode = node.mode();
        let modified = node.modified().unwrap_or(epoch);
        let header = tar::Entry { path, kind, mode, user, group, modified };
        walk.sink.write(&tar::header(&header)).map_err(disk())?;
        match node {
            Node::Directory { .. } | Node::Link { .. } => {}
            Node::File { data: Data::Whole, .. } => {
                walk.range(0, artifact.len()).map_err(disk())?;
            }
            Node::File { data: Data::Range(file), .. } => {
                walk.range(file.offset, file.size).map_err(disk())?;
            }
            Node::File { data: Data::Text(text), .. } => {
                walk.sink.write(text.as_bytes()).map_err(disk())?;
            }
            Node::File { data: Data::Entry(entry), .. } => walk.entry(entry)?,
        }
        if let tar::Kind::File(size) = kind {
            walk.sink.write(&ZEROS[..tar::padding(size)]).map_err(disk())?;
        }
    }
    walk.sink.write(&tar::END).map_err(disk())
}

struct Walk<'a> {
    planned: &'a PlannedLayer,
    artifact: &'a Arc<FileSource>,
    sink: &'a mut dyn TarSink,
    chunk: Vec<u8>,
}

impl Walk<'_> {
    /// Writes a range of the artifact.
    fn range(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let mut start = [0; 8];
        let known = usize::try_from(length).unwrap_or(usize::MAX).min(start.len());
        self.artifact.read_exact_at(offset, &mut start[..known])?;
        if is_compressed(&start) || self.sink.prefers_ranges() {
            self.sink.range(offset, length)?;
            return Ok(());
        }
        let mut done = 0;
        while done < length {
            let rest = usize::try_from(length - done).unwrap_or(usize::MAX);
            let chunk = &mut self.chunk[..rest.min(READ_AT_ONCE)];
            self.artifact.read_exact_at(offset + done, chunk)?;
            self.sink.write(chunk)?;
            done += chunk.len() as u64;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), AssembleError> {
        let corrupt = |why: &str| {
            AssembleError::Artifact(format!("the entry {} is corrupt: {why}", entry.name))
        };
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                corrupt(&error.to_string())
            }
            _ => AssembleError::Disk { what: "copy an entry of the artifact", source: error },
        };
        let archive = self.planned.archive();
        let mut start = [0; 8];
        if entry.method == Method::Stored && entry.size >= start.len() as u64 {
            let offset = archive.data_offset(&**self.artifact, entry)?;
            self.artifact.read_exact_at(offset, &mut start).map_err(failed)?;
            if is_compressed(&start) || self.sink.prefers_ranges() {
                let checksum = self.sink.range(offset, entry.size).map_err(failed)?;
                if checksum != entry.crc32 {
                    return Err(corrupt("its checksum is wrong"));
                }
                return Ok(());
            }
        }
        let mut reader = archive.open(&**self.artifact, entry)?;
        let read = read_up_to(&mut reader, &mut start).map_err(failed)?;
        let mut whole = start[..read].chain(&mut reader);
        if is_compressed(&start[..read]) {
            return self.sink.reader(&mut whole).map_err(failed);
        }
        loop {
            match read_up_to(&mut whole, &mut self.chunk).map_err(failed)? {
                0 => return Ok(()),
                read => self.sink.write(&self.chunk[..read]).map_err(failed)?,
            }
        }
    }
}

/// Returns whether a file is already compressed, by its first bytes.
fn is_compressed(start: &[u8]) -> bool {
    const STARTS: [&[u8]; 12] = [
        b"PK\x03\x04",
        b"\x1f\x8b",
        b"\x28\xb5\x2f\xfd",
        b"\xfd7zXZ\x00",
        b"BZh",
        b"7z\xbc\xaf\x27\x1c",
        b"\x89PNG",
        b"\xff\xd8\xff",
        b"GIF8",
        b"wOFF",
        b"wOF2",
        b"OggS",
    ];
    STARTS.iter().any(|magic| start.starts_with(magic))
}

/// Guesses from a file's name whether it is already compressed. The bytes never depend on the
/// guess, only how they are made.
pub fn seems_compressed(path: &str) -> bool {
    const ENDS: [&str; 16] = [
        "jar", "war", "ear", "zip", "gz", "tgz", "zst", "xz", "bz2", "7z", "png", "jpg", "jpeg",
        "gif", "woff", "woff2",
    ];
    path.rsplit_once('.').is_some_and(|(_, end)| ENDS.contains(&end))
}

#[cfg(test)]
mod tests {
    use super::{is_compressed, seems_compressed};

    #[test]
    fn archives_and_pictures_are_not_compressed_again() {
        assert!(is_compressed(b"PK\x03\x04rest"));
        assert!(is_compressed(b"\x89PNG\r\n"));
        assert!(!is_compressed(b"\x7fELF"));
        assert!(!is_compressed(b"\xca\xfe\xba\xbe"));
        assert!(!is_compressed(b""));
    }

    #[test]
    fn names_give_a_first_guess() {
        assert!(seems_compressed("BOOT-INF/lib/a.jar") && seems_compressed("logo.png"));
        assert!(!seems_compressed("Main.class") && !seems_compressed("tool"));
    }
}
