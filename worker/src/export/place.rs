// SPDX-License-Identifier: Apache-2.0

//! Where an archive is written: a file, which appears when it is complete, or something that is
//! written to as it is. A pipe or a device that was replaced by a file would be lost to everybody.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Stdout, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// What the umask is taken from, as for any new file.
const MODE: u32 = 0o666;

/// Names of this process's standard output besides `-`.
const STDOUT: [&str; 3] = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// Where an archive is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A regular file, or none yet. The path has no symbolic link at its end.
    File(PathBuf),
    /// A pipe, a device, a socket.
    Special(PathBuf),
    /// Standard output.
    Stdout,
}

/// Returns whether a path names standard output.
pub(super) fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-" || STDOUT.iter().any(|name| path.as_os_str() == *name)
}

impl Place {
    /// Finds out what a path names.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        if is_stdout(path) {
            return Ok(Self::Stdout);
        }
        let found = match std::fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let is_directory = parent(path).is_dir();
                let missing = || {
                    let parent = parent(path).display().to_string();
                    io::Error::other(format!("the directory {parent} does not exist"))
                };
                return if is_directory { Ok(Self::File(path.to_owned())) } else { Err(missing()) };
            }
            Err(error) => return Err(error),
        };
        if found.is_dir() {
            return Err(io::Error::other("it is a directory: name a file"));
        }
        if found.is_file() {
            // The file that a link points at is replaced, not the link.
            return std::fs::canonicalize(path).map(Self::File);
        }
        Ok(Self::Special(path.to_owned()))
    }

    /// Opens it for writing.
    pub(super) fn open(&self) -> io::Result<Out> {
        Ok(match self {
            Self::File(path) => Out::File(temporary(parent(path))?, path.clone()),
            Self::Special(path) => Out::Special(OpenOptions::new().write(true).open(path)?),
            Self::Stdout => Out::Stdout(io::stdout()),
        })
    }

    /// Returns a directory for what is needed only until the archive is written.
    pub(super) fn scratch(&self) -> PathBuf {
        match self {
            Self::File(path) => parent(path).to_owned(),
            Self::Special(_) | Self::Stdout => std::env::temp_dir(),
        }
    }
}

/// What an archive is written to.
#[derive(Debug)]
pub(super) enum Out {
    /// A temporary file, and the name that it gets.
    File(NamedTempFile, PathBuf),
    Special(File),
    Stdout(Stdout),
}

impl Out {
    /// Ends the writing; a file gets its name.
    pub(super) fn finish(self) -> io::Result<()> {
        match self {
            Self::File(file, name) => file.persist(name).map(drop).map_err(|error| error.error),
            Self::Special(mut file) => file.flush(),
            Self::Stdout(mut stdout) => stdout.flush(),
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file, _) => file.write(bytes),
            Self::Special(file) => file.write(bytes),
            Self::Stdout(stdout) => stdout.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file, _) => file.flush(),
            Self::Special(file) => file.flush(),
            Self::Stdout(stdout) => stdout.flush(),
        }
    }
}

/// Makes a temporary file with the mode of any new file.
pub(super) fn temporary(directory: &Path) -> io::Result<NamedTempFile> {
    let mode = Permissions::from_mode(MODE);
    tempfile::Builder::new().permissions(mode).tempfile_in(directory)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_a_device_or_directory_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().canonicalize().expect("it is there").join("a.tar");
        assert_eq!(Place::of(&file).expect("a new file"), Place::File(file.clone()));
        std::fs::write(&file, b"old").expect("it is written");
        let link = directory.path().join("link.tar");
        std::os::unix::fs::symlink(&file, &link).expect("it is linked");
        assert_eq!(Place::of(&link).expect("a link"), Place::File(file));
        let null = Path::new("/dev/null");
        assert_eq!(Place::of(null).expect("a device"), Place::Special(null.to_owned()));
        for stdout in ["-", "/dev/stdout", "/dev/fd/1"] {
            assert_eq!(Place::of(Path::new(stdout)).expect("stdout"), Place::Stdout);
        }
        let error = Place::of(directory.path()).expect_err("a directory");
        assert!(error.to_string().contains("directory"), "{error}");
        let error = Place::of(&directory.path().join("no/a.tar")).expect_err("no directory");
        assert!(error.to_string().contains("does not exist"), "{error}");
    }

    #[test]
    fn what_was_written_appears_when_it_is_finished() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.tar");
        let mut out = Place::of(&path).and_then(|place| place.open()).expect("it opens");
        out.write_all(b"archive").expect("it is written");
        assert!(!path.exists());
        out.finish().expect("it is finished");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"archive");
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        let usual = directory.path().join("usual");
        File::create(&usual).expect("it is made");
        let expected = std::fs::metadata(&usual).expect("it is there").permissions().mode();
        assert_eq!(mode, expected, "as the umask says");
    }
}
