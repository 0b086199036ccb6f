// SPDX-License-Identifier: Apache-2.0

//! Makes a planned layer: a tar archive inside a gzip member.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use slipway_artifact::zip::{Entry, Method};
use slipway_artifact::{FileSource, Source as _};
use slipway_proto::Digest;

use super::AssembleError;
use super::compress::GzipWriter;
use super::content::Content;
use super::layout::{Data, Node, PlannedLayer};
use super::tar;
use crate::pulse::Pulse;

/// The media type of the layers made here.
pub const MEDIA_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

const DIRECTORY_MODE: u32 = 0o755;
const ZEROS: [u8; tar::BLOCK] = [0; tar::BLOCK];

/// A layer that was made.
#[derive(Debug)]
pub struct Layer {
    /// What it holds.
    pub title: String,
    /// The digest of its stored bytes.
    pub digest: Digest,
    /// The digest of the tar archive.
    pub diff_id: Digest,
    /// The number of its stored bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: &'static str,
    /// Whether the same layer was made before.
    pub is_known: bool,
    /// Its stored bytes.
    pub content: Arc<Content>,
}

impl Layer {
    /// Returns its stored bytes.
    ///
    /// # Errors
    ///
    /// When they cannot be made again.
    #[expect(clippy::unused_async, reason = "a layer may have to be made again")]
    pub async fn content(&self) -> Result<Arc<Content>, AssembleError> {
        Ok(Arc::clone(&self.content))
    }
}

/// Makes a layer. Reads every byte that goes into it once.
///
/// # Errors
///
/// When the artifact is corrupt, or a disk fails.
pub fn make(
    planned: &PlannedLayer,
    artifact: &Arc<FileSource>,
    epoch: i64,
    scratch: &Path,
    pulse: &Pulse,
) -> Result<Layer, AssembleError> {
    let disk = || AssembleError::disk("write a layer to the scratch directory");
    let mut writer = GzipWriter::new(artifact, scratch).map_err(disk())?;
    for (path, node) in &planned.nodes {
        pulse.beat().map_err(disk())?;
        let (user, group) = planned.owner(path);
        let (kind, mode) = match node {
            Node::Directory => (tar::Kind::Directory, DIRECTORY_MODE),
            Node::File { mode, data: Data::Whole } => (tar::Kind::File(artifact.len()), *mode),
            Node::File { mode, data: Data::Entry(entry) } => (tar::Kind::File(entry.size), *mode),
        };
        let header = tar::Entry { path, kind, mode, user, group, modified: epoch };
        writer.deflate(&tar::header(&header)).map_err(disk())?;
        match node {
            Node::Directory => {}
            Node::File { data: Data::Whole, .. } => {
                whole(&mut writer, artifact, pulse).map_err(disk())?;
            }
            Node::File { data: Data::Entry(entry), .. } => {
                write_entry(&mut writer, planned, artifact, entry, pulse)?;
            }
        }
        if let tar::Kind::File(size) = kind {
            writer.deflate(&ZEROS[..tar::padding(size)]).map_err(disk())?;
        }
    }
    writer.deflate(&tar::END).map_err(disk())?;
    let compressed = writer.finish().map_err(disk())?;
    Ok(Layer {
        title: planned.title.clone(),
        digest: compressed.digest,
        diff_id: compressed.diff_id,
        size: compressed.size,
        media_type: MEDIA_TYPE,
        is_known: false,
        content: Arc::new(compressed.content),
    })
}

fn whole(writer: &mut GzipWriter, artifact: &Arc<FileSource>, pulse: &Pulse) -> io::Result<()> {
    let mut start = [0; 8];
    let known = usize::try_from(artifact.len()).unwrap_or(usize::MAX).min(start.len());
    artifact.read_exact_at(0, &mut start[..known])?;
    if is_compressed(&start) {
        writer.store_range(0, artifact.len())?;
        return Ok(());
    }
    let mut chunk = vec![0; 256 * 1024];
    let mut done = 0;
    while done < artifact.len() {
        let rest = usize::try_from(artifact.len() - done).unwrap_or(usize::MAX);
        let chunk = &mut chunk[..rest.min(256 * 1024)];
        artifact.read_exact_at(done, chunk)?;
        writer.deflate(chunk)?;
        pulse.beat()?;
        done += chunk.len() as u64;
    }
    Ok(())
}

fn write_entry(
    writer: &mut GzipWriter,
    planned: &PlannedLayer,
    artifact: &Arc<FileSource>,
    entry: &Entry,
    pulse: &Pulse,
) -> Result<(), AssembleError> {
    let corrupt =
        |why: &str| AssembleError::Artifact(format!("the entry {} is corrupt: {why}", entry.name));
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => corrupt(&error.to_string()),
        _ => AssembleError::Disk { what: "copy an entry of the artifact", source: error },
    };
    let archive = planned.archive();
    let mut start = [0; 8];
    if entry.method == Method::Stored && entry.size >= start.len() as u64 {
        let offset = archive.data_offset(&**artifact, entry)?;
        artifact.read_exact_at(offset, &mut start).map_err(failed)?;
        if is_compressed(&start) {
            let checksum = writer.store_range(offset, entry.size).map_err(failed)?;
            if checksum != entry.crc32 {
                return Err(corrupt("its checksum is wrong"));
            }
            return Ok(());
        }
    }
    let mut reader = archive.open(&**artifact, entry)?;
    let read = read_up_to(&mut reader, &mut start).map_err(failed)?;
    let mut whole = start[..read].chain(&mut reader);
    if is_compressed(&start[..read]) {
        return writer.store_reader(&mut whole).map_err(failed);
    }
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match read_up_to(&mut whole, &mut chunk).map_err(failed)? {
            0 => return Ok(()),
            read => writer.deflate(&chunk[..read]).and_then(|()| pulse.beat()).map_err(failed)?,
        }
    }
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match reader.read(&mut buffer[read..])? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

/// Returns whether a file is compressed already, by how it starts.
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

#[cfg(test)]
mod tests {
    use super::is_compressed;

    #[test]
    fn archives_and_pictures_are_not_compressed_again() {
        assert!(is_compressed(b"PK\x03\x04rest"));
        assert!(is_compressed(b"\x89PNG\r\n"));
        assert!(!is_compressed(b"\x7fELF"));
        assert!(!is_compressed(b"\xca\xfe\xba\xbe"));
        assert!(!is_compressed(b""));
    }
}
