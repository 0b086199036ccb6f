// SPDX-License-Identifier: Apache-2.0

//! Packs a directory into one plain tar archive, the same bytes each time.
//!
//! What counts: names, contents, whether the owner may execute a file, the times of files in whole
//! seconds, the targets of symbolic links. Owners, other permissions and the times of directories
//! and links do not. Not compressed: what a bundle holds mostly is, and layers are made of the files.
//!
//! The archive is a file without a name, which disappears with the process: its digest has to be known
//! before the first byte is sent, since what the server has is not sent again. It never is in memory.

use std::fs::{self, File, FileType};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use slipway_artifact::{Bundle, FileSource, InspectError};
use slipway_worker::assemble::tar::{END, Entry, Kind, header, padding};

/// How much is copied at a time.
const PIECE: usize = 256 << 10;

/// The time of what has none that counts, as of all such files in images.
const NO_TIME: i64 = slipway_worker::assemble::DEFAULT_EPOCH;

/// A file that can be uploaded: the artifact, or the archive of a directory.
#[derive(Debug)]
pub(crate) enum Uploadable {
    File(PathBuf),
    Packed {
        /// By which the open file is opened once more.
        path: PathBuf,
        /// Keeps it.
        _archive: File,
    },
}

impl Uploadable {
    /// Takes a file as it is, and packs a directory. Blocks.
    ///
    /// # Errors
    ///
    /// When something cannot be read, or cannot become part of an image.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        // What is not there is told by whoever opens it.
        if !fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            return Ok(Self::File(path.to_owned()));
        }
        let mut archive = tempfile::tempfile()?;
        pack(path, &mut archive)?;
        check(&archive)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", archive.as_raw_fd()));
        Ok(Self::Packed { path, _archive: archive })
    }

    /// Returns where it is.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Packed { path, .. } => path,
        }
    }
}

/// Reads the archive as the server will: a link that leads out is told before anything is sent.
fn check(archive: &File) -> io::Result<()> {
    let source = FileSource::new(archive.try_clone()?)?;
    match Bundle::open(&source, &std::env::temp_dir()) {
        Ok(_) => Ok(()),
        Err(InspectError::Invalid(invalid)) => Err(refused(invalid.message)),
        Err(InspectError::Read(error)) => Err(error),
    }
}

fn refused(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn pack(directory: &Path, archive: &mut File) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(PIECE, archive);
    // The root itself: so nothing is taken for a directory that stands above all.
    writer.write_all(&header(&entry(".", Kind::Directory, 0o755, NO_TIME)))?;
    contents(directory, "", &mut writer)?;
    writer.write_all(&END)?;
    writer.flush()
}

fn entry<'a>(path: &'a str, kind: Kind<'a>, mode: u32, modified: i64) -> Entry<'a> {
    Entry { path, kind, mode, user: 0, group: 0, modified }
}

/// Writes what a directory holds, sorted by name.
fn contents(directory: &Path, above: &str, writer: &mut impl io::Write) -> io::Result<()> {
    let named = |error: io::Error| about(directory, &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(named)? {
        let entry = entry.map_err(named)?;
        let name = entry.file_name().into_string().map_err(|name| {
            refused(format!("the name {} in {} is not UTF-8", name.display(), directory.display()))
        })?;
        found.push((name, entry.path()));
    }
    found.sort();
    for (name, path) in found {
        let inside = if above.is_empty() { name } else { format!("{above}/{name}") };
        one(&path, &inside, writer)?;
    }
    Ok(())
}

fn one(path: &Path, inside: &str, writer: &mut impl io::Write) -> io::Result<()> {
    let named = |error: io::Error| about(path, &error);
    let metadata = fs::symlink_metadata(path).map_err(named)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        writer.write_all(&header(&entry(inside, Kind::Directory, 0o755, NO_TIME)))?;
        return contents(path, inside, writer);
    }
    if kind.is_symlink() {
        let target = fs::read_link(path).map_err(named)?;
        let Some(target) = target.to_str() else {
            return Err(refused(format!("the target of {} is not UTF-8", path.display())));
        };
        return writer.write_all(&header(&entry(inside, Kind::Link(target), 0o777, NO_TIME)));
    }
    if let Some(what) = special(kind) {
        return Err(refused(format!(
            "{} is {what}, and only files, directories and links become part of an image",
            path.display()
        )));
    }
    let mode = if metadata.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
    let (size, modified) = (metadata.len(), metadata.mtime().max(NO_TIME));
    writer.write_all(&header(&entry(inside, Kind::File(size), mode, modified)))?;
    let mut file = File::open(path).map_err(named)?.take(size);
    // No more than the announced size, even if the file grows meanwhile.
    if io::copy(&mut file, writer).map_err(named)? != size {
        return Err(about(path, &io::Error::other("it became shorter while it was read")));
    }
    writer.write_all(&vec![0; padding(size)])
}

fn special(kind: FileType) -> Option<&'static str> {
    [
        (kind.is_socket(), "a socket"),
        (kind.is_fifo(), "a named pipe"),
        (kind.is_block_device() || kind.is_char_device(), "a device"),
    ]
    .into_iter()
    .find_map(|(is, what)| is.then_some(what))
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        fs::create_dir_all(path.join("bin")).expect("made");
        fs::create_dir(path.join("empty")).expect("made");
        fs::write(path.join("bin/tool"), "tool").expect("written");
        fs::set_permissions(path.join("bin/tool"), fs::Permissions::from_mode(0o700)).expect("set");
        fs::write(path.join("a.txt"), "text").expect("written");
        symlink("bin/tool", path.join("tool")).expect("linked");
        fs::write(path.join("x".repeat(180)), "long").expect("written");
        for name in ["bin/tool", "a.txt", &"x".repeat(180)] {
            age(&path.join(name), 1_700_000_000);
        }
        directory
    }

    fn age(path: &Path, seconds: u64) {
        let file = File::options().write(true).open(path).expect("it opens");
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 250))
            .expect("its time is set");
    }

    fn packed(path: &Path) -> Vec<u8> {
        let packed = Uploadable::of(path).expect("it is packed");
        fs::read(packed.path()).expect("it is read")
    }

    fn refusal(path: &Path) -> String {
        Uploadable::of(path).expect_err("it is refused").to_string()
    }

    #[test]
    fn a_directory_gives_the_same_bytes_each_time_and_only_what_counts_changes_them() {
        let (one, other) = (directory(), directory());
        let bytes = packed(one.path());
        assert!(bytes == packed(other.path()));
        // Neither a directory's time nor what others may do with a file.
        fs::write(other.path().join("new"), "").expect("written");
        fs::remove_file(other.path().join("new")).expect("removed");
        let mode = fs::Permissions::from_mode(0o777);
        fs::set_permissions(other.path().join("bin/tool"), mode).expect("set");
        assert!(bytes == packed(other.path()));
        age(&other.path().join("a.txt"), 1_700_000_001);
        assert!(bytes != packed(other.path()));
    }

    #[test]
    fn what_is_packed_is_read_as_it_was() {
        let directory = directory();
        let bytes = packed(directory.path());
        let bundle = Bundle::open(&bytes, &std::env::temp_dir()).expect("it is read");
        let paths: Vec<&str> = bundle.tree().nodes().keys().map(String::as_str).collect();
        let long = "x".repeat(180);
        assert_eq!(paths, ["a.txt", "bin", "bin/tool", "empty", "tool", &long]);
        let tool = bundle.tree().file("tool").expect("the link leads to it");
        assert!(tool.is_executable);
        assert_eq!(tool.modified, Some(1_700_000_000));
        assert_eq!(bundle.files(&bytes).start(tool, 9).expect("it is read"), b"tool");
    }

    #[test]
    fn what_cannot_become_part_of_an_image_is_refused_by_name() {
        let directory = directory();
        let link = directory.path().join("bin/passwords");
        symlink("/etc/passwd", &link).expect("linked");
        assert!(refusal(directory.path()).contains("`bin/passwords` to `/etc/passwd`"));
        fs::remove_file(&link).expect("removed");
        let path = directory.path().join("bin/control");
        let socket = std::os::unix::net::UnixListener::bind(&path).expect("it is bound");
        let refused = refusal(directory.path());
        assert!(refused.contains("bin/control is a socket"), "{refused}");
        drop(socket);
        fs::remove_file(&path).expect("removed");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
        assert!(made.success());
        let refused = refusal(directory.path());
        assert!(refused.contains("bin/control is a named pipe"), "{refused}");
        let empty = tempfile::tempdir().expect("a directory");
        assert!(refusal(empty.path()).contains("no file"));
    }

    #[test]
    fn a_file_is_taken_as_it_is() {
        let directory = directory();
        let path = directory.path().join("a.txt");
        assert_eq!(Uploadable::of(&path).expect("it is taken").path(), path);
        let absent = directory.path().join("absent");
        assert_eq!(Uploadable::of(&absent).expect("it is taken").path(), absent);
    }
}
