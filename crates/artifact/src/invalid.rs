// SPDX-License-Identifier: Apache-2.0

//! Why an artifact is refused: a stable code and a sentence for the person who uploaded it.
//!
//! A fault of the bytes is kept apart from a fault of the storage they are read from: the first
//! concerns the person who uploaded them and stays, the second may pass.

use std::{fmt, io};

/// The stable code of a refusal; part of the API, so a code never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// Neither an archive nor an ELF executable.
    NotAnArtifact,
    /// The end of the file is missing.
    Truncated,
    /// A name inside the archive would leave the directory it is put into, or cannot be a path.
    UnsafePath,
    /// Two entries of the archive are the same path, or one is the other's directory.
    DuplicateEntry,
    /// The archive would inflate to far more than any real application.
    ArchiveBomb,
    /// An entry is encrypted, compressed by an unknown method, or neither file nor directory.
    UnsupportedEntry,
    /// The archive contradicts itself.
    CorruptArchive,
    /// The file's name promises another kind than its bytes are.
    KindMismatch,
    /// An ELF file that is not an executable for a supported processor.
    UnsupportedExecutable,
    /// The archive has too many entries.
    TooManyEntries,
}

impl Code {
    /// Returns the code as it is written in documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAnArtifact => "not_an_artifact",
            Self::Truncated => "truncated",
            Self::UnsafePath => "unsafe_path",
            Self::DuplicateEntry => "duplicate_entry",
            Self::ArchiveBomb => "archive_bomb",
            Self::UnsupportedEntry => "unsupported_entry",
            Self::CorruptArchive => "corrupt_archive",
            Self::KindMismatch => "kind_mismatch",
            Self::UnsupportedExecutable => "unsupported_executable",
            Self::TooManyEntries => "too_many_entries",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An artifact's bytes that are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidArtifact {
    /// What is wrong, for programs.
    pub code: Code,
    /// What is wrong and what to do, for people.
    pub message: String,
}

impl InvalidArtifact {
    /// Makes a refusal.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Why an artifact could not be inspected.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Its bytes are refused.
    #[error(transparent)]
    Invalid(#[from] InvalidArtifact),
    /// Its bytes could not be read.
    #[error("cannot read the artifact")]
    Read(#[from] io::Error),
}

impl InspectError {
    /// Makes a refusal.
    #[must_use]
    pub fn invalid(code: Code, message: impl Into<String>) -> Self {
        Self::Invalid(InvalidArtifact::new(code, message))
    }
}

/// Quotes a name from an archive for a message: in backticks, with control characters escaped, and
/// no longer than a line.
pub(crate) fn quoted(name: &str) -> String {
    const MAX_QUOTED: usize = 120;
    let mut characters = name.chars();
    let shown: String = characters.by_ref().take(MAX_QUOTED).flat_map(char::escape_debug).collect();
    let rest = if characters.next().is_some() { "…" } else { "" };
    format!("`{shown}{rest}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_name_cannot_disturb_a_terminal() {
        assert_eq!(quoted("a\u{1b}[2Jb\n"), r"`a\u{1b}[2Jb\n`");
        let long = quoted(&"x".repeat(5000));
        assert_eq!(long.chars().count(), 123, "{long}");
    }
}
