// SPDX-License-Identifier: Apache-2.0

//! Where an artifact comes from: a file, or standard input.
//!
//! An artifact is read more than once, by position. So standard input is copied into a file without
//! a name first, which disappears with the process however that ends.

use std::fs::File;
use std::io::{self, IsTerminal as _, Seek as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

/// Why the artifact cannot be taken from where it should come.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// There is no name for what comes from standard input.
    #[error(
        "the artifact from standard input has no name: give it one with --name, as --name app.jar"
    )]
    NoName,
    /// Somebody would have to type it.
    #[error(
        "standard input is a terminal: pipe the artifact into slipway, or name a file in place of -"
    )]
    Terminal,
    /// Nothing came.
    #[error("standard input is empty: the program before the pipe may have failed")]
    Empty,
    /// Standard input cannot be read, or not be kept.
    #[error("cannot copy standard input to {}", directory.display())]
    Copy {
        /// Where to.
        directory: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The file of an artifact.
#[derive(Debug)]
pub(crate) struct ArtifactFile {
    path: PathBuf,
    /// Keeps the copy of standard input.
    _copy: Option<File>,
}

/// Returns whether a path stands for standard input.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

impl ArtifactFile {
    /// Takes a file as it is, or copies standard input. `name` is the name that was given to it.
    pub(crate) async fn open(path: &Path, name: Option<&str>) -> Result<Self, InputError> {
        if !is_stdin(path) {
            return Ok(Self { path: path.to_owned(), _copy: None });
        }
        if name.is_none() {
            return Err(InputError::NoName);
        }
        if io::stdin().is_terminal() {
            return Err(InputError::Terminal);
        }
        let directory = std::env::temp_dir();
        let copying = directory.clone();
        let copied = tokio::task::spawn_blocking(move || copy(io::stdin().lock(), &copying)).await;
        let copied = copied.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let copy = copied.map_err(|source| InputError::Copy { directory, source })?;
        let copy = copy.ok_or(InputError::Empty)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd()));
        Ok(Self { path, _copy: Some(copy) })
    }

    /// Returns where it can be read.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Copies to a file without a name; `None` if there is nothing to copy.
fn copy(mut from: impl io::Read, directory: &Path) -> io::Result<Option<File>> {
    let mut file = tempfile::tempfile_in(directory)?;
    let size = io::copy(&mut from, &mut file)?;
    file.rewind()?;
    Ok((size > 0).then_some(file))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_was_copied_can_be_opened_again_and_has_no_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let copied = copy(&b"artifact"[..], directory.path()).expect("it is copied");
        let copied = copied.expect("it is not empty");
        let mut again = String::new();
        let path = format!("/proc/self/fd/{}", copied.as_raw_fd());
        File::open(path).and_then(|mut file| file.read_to_string(&mut again)).expect("it reads");
        assert_eq!(again, "artifact");
        assert_eq!(std::fs::read_dir(directory.path()).expect("it lists").count(), 0);
        assert!(copy(&b""[..], directory.path()).expect("it is copied").is_none());
    }

    #[tokio::test]
    async fn standard_input_needs_a_name() {
        let refused = ArtifactFile::open(Path::new("-"), None).await;
        assert!(matches!(refused, Err(InputError::NoName)), "{refused:?}");
        let file = ArtifactFile::open(Path::new("app.jar"), None).await.expect("a file");
        assert_eq!(file.path(), Path::new("app.jar"));
    }
}
