// SPDX-License-Identifier: Apache-2.0

//! A bundle: a directory with everything that a program needs, in an archive.
//!
//! A bundle comes as a tar archive, plain or compressed by gzip, or as a ZIP. A plain tar archive is
//! read where it lies, by position. What is compressed is unpacked once to a nameless scratch file,
//! under the limits that hold for every archive, so that everything after that is the same: a tree
//! of paths, and for each file a range of one source.

pub mod form;
mod links;
pub mod script;
mod tar;
mod tree;
mod unpack;

use std::path::Path;
use std::sync::Arc;

use crate::invalid::InspectError;
use crate::source::{FileSource, Section, Source};
pub use tree::{Node, PlacedFile, Tree};

/// The first bytes of a gzip member (RFC 1952, 2.3.1), with deflate as its method.
const GZIP: [u8; 3] = [0x1f, 0x8b, 8];

/// The archive that a bundle comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A plain tar archive.
    Tar,
    /// A file compressed by gzip, which has to hold a tar archive.
    Gzip,
}

impl Format {
    /// Recognises a tar archive or a gzip file by its first bytes. A ZIP is recognised by its end.
    ///
    /// # Errors
    ///
    /// When the source cannot be read.
    pub fn of(source: &dyn Source) -> Result<Option<Self>, InspectError> {
        let mut start = [0; GZIP.len()];
        if source.len() < start.len() as u64 {
            return Ok(None);
        }
        source.read_exact_at(0, &mut start)?;
        if start == GZIP {
            return Ok(Some(Self::Gzip));
        }
        Ok(tar::is_tar(source)?.then_some(Self::Tar))
    }
}

/// The files of a bundle, and where their bytes are.
#[derive(Debug)]
pub struct Bundle {
    tree: Tree,
    unpacked: Option<Arc<FileSource>>,
}

impl Bundle {
    /// Reads the list of a bundle's files. What is compressed is unpacked to a file without a name
    /// in the directory `scratch`.
    ///
    /// Blocks while it reads.
    ///
    /// # Errors
    ///
    /// [`InspectError::Invalid`] for an archive that is refused, [`InspectError::Read`] when source
    /// or scratch directory fail.
    pub fn open(source: &dyn Source, scratch: &Path) -> Result<Self, InspectError> {
        match Format::of(source)? {
            Some(Format::Tar) => {
                let tree = tar::read(source, source.len())?;
                Ok(Self { tree, unpacked: None })
            }
            Some(Format::Gzip) => {
                let unpacked = unpack::gzip(source, scratch)?;
                let tree = tar::read(&unpacked, source.len())?;
                Ok(Self { tree, unpacked: Some(Arc::new(unpacked)) })
            }
            None => {
                let (tree, unpacked) = unpack::zip(source, scratch)?;
                Ok(Self { tree, unpacked: Some(Arc::new(unpacked)) })
            }
        }
    }

    /// Returns its files.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Returns what the ranges of its files are ranges of, if that is not the artifact itself.
    #[must_use]
    pub fn unpacked(&self) -> Option<&Arc<FileSource>> {
        self.unpacked.as_ref()
    }

    /// Returns its files and their bytes. `source` is what the bundle was opened from.
    #[must_use]
    pub fn files<'a>(&'a self, source: &'a dyn Source) -> Files<'a> {
        let source = self.unpacked.as_ref().map_or(source, |unpacked| &**unpacked);
        Files { tree: &self.tree, source }
    }
}

/// The files of a bundle with their bytes.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    /// The tree.
    pub tree: &'a Tree,
    source: &'a dyn Source,
}

impl std::fmt::Debug for Files<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("tree", self.tree).finish_non_exhaustive()
    }
}

impl<'a> Files<'a> {
    /// Returns the bytes of a file.
    #[must_use]
    pub fn content(&self, file: &PlacedFile) -> Section<'a> {
        Section::new(self.source, file.offset, file.size)
    }

    /// Returns the first bytes of a file, at most `limit` of them.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn start(&self, file: &PlacedFile, limit: usize) -> std::io::Result<Vec<u8>> {
        let content = self.content(file);
        let mut bytes = vec![0; usize::try_from(content.len()).unwrap_or(usize::MAX).min(limit)];
        content.read_exact_at(0, &mut bytes)?;
        Ok(bytes)
    }
}
