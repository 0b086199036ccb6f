// SPDX-License-Identifier: Apache-2.0

//! Which files of a store's directory were digested, so that nobody need do so again.
//!
//! Beside the blobs lies, for each that was digested, what the file system said of its file then:
//! inode, size and times. As long as it says the same, the file has the bytes that its name says.
//! Written by whoever digested it: the process that received it, or the first that built from it.
//! Not synced and of no account: a stamp that is missing, torn or of another file (a store that was
//! restored from a backup) costs a digest.

use std::fs;
use std::path::{Path, PathBuf};

use slipway_proto::Digest;

use crate::source::Stamp;

/// The stamps of a store.
#[derive(Clone, Debug)]
pub(super) struct Stamps(PathBuf);

impl Stamps {
    /// Opens the stamps of a store, and makes the place for them if it may.
    pub(super) fn open(root: &Path) -> Self {
        let directory = root.join("stamps");
        if let Err(error) = fs::create_dir_all(&directory) {
            tracing::debug!(%error, "there is no place for the stamps of artifacts");
        }
        Self(directory)
    }

    /// Returns whether a file was seen to have the digest and was not touched since.
    pub(super) fn vouch_for(&self, digest: Digest, stamp: Stamp) -> bool {
        fs::read(self.path(digest)).is_ok_and(|known| known == document(stamp))
    }

    /// Keeps the stamp of a file that has the digest. Any later change of it must show: by a time
    /// of modification that no later write can leave, or because the file is settled.
    pub(super) fn keep(&self, digest: Digest, stamp: Stamp) {
        if let Err(error) = fs::write(self.path(digest), document(stamp)) {
            // A worker may read the store without being allowed to write to it.
            tracing::debug!(%error, %digest, "the stamp of an artifact could not be kept");
        }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.0.join(digest.hex())
    }
}

fn document(stamp: Stamp) -> Vec<u8> {
    serde_json::to_vec(&stamp).expect("a stamp is numbers")
}
