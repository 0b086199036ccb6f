// SPDX-License-Identifier: Apache-2.0

//! The cache's directory: opens blobs that are right, and removes those that were not used.

use std::fs::{File, FileTimes};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use slipway_artifact::{FileIdentity, FileSource, VerifiedFiles, source};
use slipway_proto::Digest;

use super::part::{Part, SUFFIX};
use super::{CacheError, Wanted};

/// How exact the time of last use is. It is coarse, because writing it changes the file's identity
/// for the other processes of the node, which then digest it again.
const USE_RESOLUTION: Duration = Duration::from_secs(60);

/// The blobs of a directory.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) blobs: PathBuf,
    max_bytes: u64,
    /// The files that this process has digested.
    verified: VerifiedFiles,
}

struct Entry {
    path: PathBuf,
    size: u64,
    used: SystemTime,
}

impl Disk {
    pub(super) fn new(blobs: PathBuf, max_bytes: u64) -> Self {
        Self { blobs, max_bytes, verified: VerifiedFiles::in_memory() }
    }

    pub(super) fn path(&self, digest: Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// Returns where a blob is written until it is complete: the same path for all processes of a
    /// node, and another for each origin.
    pub(super) fn part(&self, wanted: &Wanted) -> PathBuf {
        let Wanted { digest, size, from } = wanted;
        let place = Digest::of(format!("{size} {from}").as_bytes()).hex();
        self.blobs.join(format!("{}.{}{SUFFIX}", digest.hex(), &place[..16]))
    }

    pub(super) fn error(&self, source: io::Error) -> CacheError {
        CacheError::Disk { path: self.blobs.display().to_string(), source: Arc::new(source) }
    }

    /// Lets the blob be digested again when it is opened next.
    pub(super) fn doubt(&self, digest: Digest) {
        let file = File::open(self.path(digest));
        // A file that is gone has nothing to be forgotten.
        if let Ok(identity) = file.and_then(|file| FileIdentity::of(&file)) {
            self.verified.forget(identity);
        }
    }

    /// Opens a blob that exists and matches its name, on a blocking thread.
    pub(super) async fn get(self: &Arc<Self>, digest: Digest) -> Option<File> {
        let disk = Arc::clone(self);
        tokio::task::spawn_blocking(move || disk.open_checked(digest)).await.ok().flatten()
    }

    /// Opens a blob that exists and matches its name. Digests it, unless this process did and
    /// nobody has touched the file since.
    pub(super) fn open_checked(&self, digest: Digest) -> Option<File> {
        let path = self.path(digest);
        let file = File::open(&path).ok()?;
        match self.check(digest, &file) {
            Ok(true) => Some(file),
            _ => {
                tracing::warn!(%digest, "dropped a corrupt blob from the cache");
                let _already_gone = std::fs::remove_file(&path);
                None
            }
        }
    }

    fn check(&self, digest: Digest, file: &File) -> io::Result<bool> {
        let mut before = FileIdentity::of(file)?;
        let is_verified = self.verified.digest(before) == Some(digest);
        let unused = file.metadata()?.modified()?.elapsed().unwrap_or_default();
        if unused >= USE_RESOLUTION {
            // Set before digesting, so that a later write shows by its own time. A failure only
            // makes eviction less fair.
            let _unused = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
            before = FileIdentity::of(file)?;
        }
        if !is_verified {
            let content = FileSource::new(file.try_clone()?)?;
            if source::digest(&content, &|| Ok(()))? != digest {
                return Ok(false);
            }
        }
        if FileIdentity::of(file)? == before {
            self.verified.remember(before, digest);
        }
        Ok(true)
    }

    /// Remembers a file that was digested while it was written.
    pub(super) fn trust(&self, digest: Digest, file: &File) {
        if let Ok(identity) = FileIdentity::of(file) {
            self.verified.remember(identity, digest);
        }
    }

    /// Returns the bytes of all blobs.
    pub(super) fn size(&self) -> u64 {
        self.entries().iter().map(|entry| entry.size).sum()
    }

    fn entries(&self) -> Vec<Entry> {
        let Ok(listing) = std::fs::read_dir(&self.blobs) else { return Vec::new() };
        let entry = |listed: std::fs::DirEntry| {
            let metadata = listed.metadata().ok()?;
            let used = metadata.modified().ok()?;
            Some(Entry { path: listed.path(), size: metadata.len(), used })
        };
        listing.filter_map(|listed| entry(listed.ok()?)).collect()
    }

    /// Removes the least recently used blobs until the limit holds, except `newest` and files that
    /// are being written.
    pub(super) fn evict(&self, newest: Digest) -> io::Result<()> {
        let mut entries = self.entries();
        let mut total: u64 = entries.iter().map(|entry| entry.size).sum();
        entries.sort_by_key(|entry| entry.used);
        let newest = self.path(newest);
        for entry in entries {
            if total <= self.max_bytes {
                break;
            }
            let is_part = entry.path.to_str().is_some_and(|path| path.ends_with(SUFFIX));
            if entry.path == newest || (is_part && Part::is_being_written(&entry.path)) {
                continue;
            }
            match std::fs::remove_file(&entry.path) {
                Ok(()) => total -= entry.size,
                Err(error) if error.kind() == io::ErrorKind::NotFound => total -= entry.size,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_is_digested_again_only_when_somebody_touched_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = Disk::new(directory.path().to_owned(), 1000);
        let digest = Digest::of(b"layer");
        let path = disk.path(digest);
        std::fs::write(&path, "layer").expect("it can be written");
        let long_ago = SystemTime::now() - 2 * USE_RESOLUTION;
        let age = |file: &File| file.set_times(FileTimes::new().set_modified(long_ago));
        age(&File::open(&path).expect("it is there")).expect("it can be set");
        assert!(disk.open_checked(digest).is_some());
        let first = FileIdentity::of(&File::open(&path).expect("it is there")).expect("it answers");
        assert_eq!(disk.verified.digest(first), Some(digest));
        assert!(disk.open_checked(digest).is_some());
        let second = FileIdentity::of(&File::open(&path).expect("it is there"));
        assert_eq!(second.expect("it answers"), first, "used now, and not touched again");
        // A file that does not match its name, but counts as verified, is not read.
        let other = Digest::of(b"other");
        std::fs::rename(&path, disk.path(other)).expect("it can be renamed");
        disk.trust(other, &File::open(disk.path(other)).expect("it is there"));
        assert!(disk.open_checked(other).is_some());
        let mut file = File::options().write(true).open(disk.path(other));
        let file = file.as_mut().expect("it is there");
        file.write_all(b"lawyer").expect("it can be written");
        assert!(disk.open_checked(other).is_none(), "it was written to");
    }
}
