// SPDX-License-Identifier: Apache-2.0

//! The files of a bundle as one tree of paths, in which nothing can be understood in two ways.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::io;

use super::links;
use crate::invalid::{Code, InspectError, quoted};
use crate::source::Source;
use crate::zip::{LONGEST_DIRECTORY, MOST_ENTRIES, by_path, check_name, check_total};

/// How much of two files is compared at a time.
const PIECE: usize = 64 << 10;

/// Something at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A regular file.
    File(PlacedFile),
    /// A symbolic link to a relative path, which stays inside.
    Link(String),
}

/// A regular file and where its bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedFile {
    /// Where its bytes start.
    pub offset: u64,
    /// How many there are.
    pub size: u64,
    /// Whether its owner may execute it. Other permissions are not kept.
    pub is_executable: bool,
    /// When it was last changed, in whole seconds since the epoch and above 0, where that is told.
    pub modified: Option<i64>,
}

/// The paths of a bundle, relative to its directory, without a slash at either end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
    directory: Option<String>,
}

impl Tree {
    /// Returns everything by path, in the order of bytes.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<String, Node> {
        &self.nodes
    }

    /// Returns the name of the one directory that all paths had above them in the archive, and that
    /// was left out.
    #[must_use]
    pub fn directory(&self) -> Option<&str> {
        self.directory.as_deref()
    }

    /// Returns the regular files by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &PlacedFile)> {
        self.nodes.iter().filter_map(|(path, node)| match node {
            Node::File(file) => Some((path.as_str(), file)),
            Node::Directory | Node::Link(_) => None,
        })
    }

    /// Returns the regular file at a path, following links.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&PlacedFile> {
        let path = links::resolve(&self.nodes, path).ok()?;
        match self.nodes.get(&path)? {
            Node::File(file) => Some(file),
            Node::Directory | Node::Link(_) => None,
        }
    }

    /// Returns whether there is something below a path.
    #[must_use]
    pub fn has_directory(&self, path: &str) -> bool {
        let below = format!("{path}/");
        let next = self.nodes.range(below.clone()..).next();
        next.is_some_and(|(found, _)| found.starts_with(&below))
    }
}

/// Collects the entries of an archive.
pub(super) struct Builder<'a> {
    source: &'a dyn Source,
    nodes: BTreeMap<String, Node>,
    /// Whether the archive has an entry for the directory itself: then nothing stands above it.
    has_root: bool,
    count: u64,
    /// The length of all names and targets of links.
    names: u64,
}

impl<'a> Builder<'a> {
    /// Begins with nothing. The ranges of files are ranges of `source`.
    pub(super) fn new(source: &'a dyn Source) -> Self {
        Self { source, nodes: BTreeMap::new(), has_root: false, count: 0, names: 0 }
    }

    /// Counts an entry with the length of its name and target: they are what an archive costs in
    /// memory. Called before anything is remembered of it.
    pub(super) fn count(&mut self, length: usize) -> Result<(), InspectError> {
        self.count += 1;
        self.names += length as u64;
        if self.count > MOST_ENTRIES || self.names > LONGEST_DIRECTORY {
            let message = format!(
                "the archive has more than {MOST_ENTRIES} entries, or names of more than {} MiB: \
                split it",
                LONGEST_DIRECTORY >> 20
            );
            return Err(InspectError::invalid(Code::TooManyEntries, message));
        }
        Ok(())
    }

    /// Returns the path that an entry's name means: without `./` in front, which `tar` writes when
    /// it is told to pack `.`, and without the slash that marks a directory. Empty for the root.
    pub(super) fn path(name: &str) -> Result<&str, InspectError> {
        let mut path = name;
        while let Some(rest) = path.strip_prefix("./") {
            path = rest;
        }
        if (path.is_empty() && !name.is_empty()) || path == "." {
            return Ok("");
        }
        check_name(path)?;
        Ok(path.strip_suffix('/').unwrap_or(path))
    }

    /// Returns what was added at a path.
    pub(super) fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Adds an entry.
    pub(super) fn add(&mut self, path: &str, node: Node) -> Result<(), InspectError> {
        if path.is_empty() {
            self.has_root = true;
            return match node {
                Node::Directory => Ok(()),
                _ => Err(InspectError::invalid(
                    Code::UnsafePath,
                    "the archive's root is no directory: build the archive again",
                )),
            };
        }
        match self.nodes.entry(path.to_owned()) {
            Slot::Vacant(slot) => {
                slot.insert(node);
                Ok(())
            }
            Slot::Occupied(slot) if is_same(slot.get(), &node, self.source)? => Ok(()),
            Slot::Occupied(_) => Err(twice(&format!(
                "the entry {} is in the archive twice and is not the same",
                quoted(path)
            ))),
        }
    }

    /// Checks the whole, and leaves out the one directory above everything. `length` is the size of
    /// the upload.
    pub(super) fn finish(self, length: u64) -> Result<Tree, InspectError> {
        let Self { mut nodes, has_root, .. } = self;
        check_parents(&nodes)?;
        let directory = if has_root { None } else { only_directory(&nodes) };
        if let Some(directory) = &directory {
            let below = format!("{directory}/");
            let inside = nodes.into_iter().filter_map(|(path, node)| {
                path.strip_prefix(&below).map(|path| (path.to_owned(), node))
            });
            nodes = inside.collect();
        }
        links::check(&nodes)?;
        let tree = Tree { nodes, directory };
        if tree.files().next().is_none() {
            return Err(InspectError::invalid(
                Code::NotAnArtifact,
                "the archive holds no file: upload one with a program in it",
            ));
        }
        // Names of one file cost nothing in the archive, and each is a file in the image.
        let total = tree.files().fold(0u64, |total, (_, file)| total.saturating_add(file.size));
        check_total(total, length)?;
        Ok(tree)
    }
}

fn twice(what: &str) -> InspectError {
    let message = format!(
        "{what}, and programs disagree about which one counts: build the archive again with one \
        of them"
    );
    InspectError::invalid(Code::DuplicateEntry, message)
}

/// Refuses a path below something that is no directory: below a link, it would be somewhere else.
fn check_parents(nodes: &BTreeMap<String, Node>) -> Result<(), InspectError> {
    let mut sorted: Vec<(&str, &Node)> =
        nodes.iter().map(|(path, node)| (path.as_str(), node)).collect();
    // Everything below a path then follows it directly.
    sorted.sort_unstable_by(|one, other| by_path(one.0, other.0));
    for pair in sorted.windows(2) {
        let [(above, node), (path, _)] = *pair else { continue };
        let what = match node {
            Node::Directory => continue,
            Node::File(_) => "a file",
            Node::Link(_) => "a symbolic link",
        };
        if path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/')) {
            return Err(twice(&format!(
                "the entry {} is {what} and the directory of {}",
                quoted(above),
                quoted(path)
            )));
        }
    }
    Ok(())
}

/// Returns the one directory at the top, if there is nothing beside it. `bin` is a directory of a
/// program, and never its name.
fn only_directory(nodes: &BTreeMap<String, Node>) -> Option<String> {
    let top = |path: &'_ str| path.split('/').next().unwrap_or_default().to_owned();
    let first = top(nodes.keys().next()?);
    let is_directory = matches!(nodes.get(&first), None | Some(Node::Directory));
    (is_directory && first != "bin" && nodes.keys().all(|path| top(path) == first)).then_some(first)
}

/// Returns whether two entries of one path say the same.
fn is_same(one: &Node, other: &Node, source: &dyn Source) -> io::Result<bool> {
    let (Node::File(one), Node::File(other)) = (one, other) else { return Ok(one == other) };
    if (one.size, one.is_executable, one.modified)
        != (other.size, other.is_executable, other.modified)
    {
        return Ok(false);
    }
    if one.offset == other.offset {
        return Ok(true);
    }
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    let mut done = 0;
    while done < one.size {
        let rest = usize::try_from(one.size - done).unwrap_or(usize::MAX).min(PIECE);
        source.read_exact_at(one.offset + done, &mut left[..rest])?;
        source.read_exact_at(other.offset + done, &mut right[..rest])?;
        if left[..rest] != right[..rest] {
            return Ok(false);
        }
        done += rest as u64;
    }
    Ok(true)
}
