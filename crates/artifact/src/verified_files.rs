// SPDX-License-Identifier: Apache-2.0

//! The digests of files that were read before, so that a file that nobody touched is read once.
//!
//! One memory for three uses: the artifacts of a store in a directory, the blobs in a worker's cache,
//! and the artifacts of builds without a server. All of them recognise a file by its
//! [`FileIdentity`]. A record that is lost, damaged or belongs to another state of the file costs one
//! digest, so records are neither synced nor backed up.

use std::path::PathBuf;

use slipway_proto::Digest;

use crate::file_identity::FileIdentity;
use crate::record_cache::{Bounds, RecordCache, RecordKey};

/// At most 256 MiB of disk with a block for each record, and 200 bytes of memory for each of those
/// used last.
const BOUNDS: Bounds = Bounds { files: 65_536, in_memory: 4096 };

/// Where the recognised files lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Anywhere on this machine.
    Machine,
    /// In one file system, which other machines may have mounted too.
    FileSystem,
}

/// Remembers the digests of files.
#[derive(Debug)]
pub struct VerifiedFiles {
    digests: RecordCache<Digest>,
    scope: Scope,
}

impl VerifiedFiles {
    /// Keeps the digests in a directory, which other processes may use at the same time. It need not
    /// exist, and a process that may only read it remembers new files for itself.
    #[must_use]
    pub fn in_directory(directory: PathBuf, scope: Scope) -> Self {
        Self { digests: RecordCache::new(Some(directory), BOUNDS), scope }
    }

    /// Keeps the digests for this process alone.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { digests: RecordCache::new(None, BOUNDS), scope: Scope::Machine }
    }

    /// Returns the digest of a file, if it was remembered for this state of the file.
    #[must_use]
    pub fn digest(&self, file: FileIdentity) -> Option<Digest> {
        self.digests.get(self.key(file))
    }

    /// Remembers the digest of a file. The caller must know that any later change gives the file
    /// another identity: see [`FileSource::is_settled`](crate::FileSource::is_settled).
    pub fn remember(&self, file: FileIdentity, digest: Digest) {
        self.digests.put(self.key(file), digest);
    }

    /// Forgets a file, so that it is read again.
    pub fn forget(&self, file: FileIdentity) {
        self.digests.remove(self.key(file));
    }

    fn key(&self, file: FileIdentity) -> Digest {
        let mut key = RecordKey::new("verified file");
        if self.scope == Scope::Machine {
            key.number(file.device());
        }
        file.within_file_system().into_iter().for_each(|number| key.number(number));
        key.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_is_recognised_until_somebody_touches_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = |scope| VerifiedFiles::in_directory(directory.path().join("verified"), scope);
        let mut file = File::create(directory.path().join("file")).expect("a file");
        let before = FileIdentity::of(&file).expect("it answers");
        for scope in [Scope::Machine, Scope::FileSystem] {
            let digest = Digest::of(b"whatever was read");
            assert_eq!(open(scope).digest(before), None, "{scope:?}");
            open(scope).remember(before, digest);
            assert_eq!(open(scope).digest(before), Some(digest), "another process knows it");
        }
        file.write_all(b"more").expect("it is written");
        let after = FileIdentity::of(&file).expect("it answers");
        assert_eq!(open(Scope::Machine).digest(after), None);
        open(Scope::Machine).forget(before);
        assert_eq!(open(Scope::Machine).digest(before), None);
        assert!(open(Scope::FileSystem).digest(before).is_some(), "a record of its own");
    }

    #[test]
    fn what_is_kept_in_memory_leaves_no_file() {
        let file = tempfile::tempfile().expect("a file");
        let identity = FileIdentity::of(&file).expect("it answers");
        let (one, other) = (VerifiedFiles::in_memory(), VerifiedFiles::in_memory());
        one.remember(identity, Digest::of(b""));
        assert_eq!(one.digest(identity), Some(Digest::of(b"")));
        assert_eq!(other.digest(identity), None);
        one.forget(identity);
        assert_eq!(one.digest(identity), None);
    }
}
