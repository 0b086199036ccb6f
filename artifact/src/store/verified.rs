// SPDX-License-Identifier: Apache-2.0

//! Which files this process has digested, so that it need not do so again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use slipway_proto::Digest;

use crate::source::Stamp;

/// So many files are remembered, at some 100 bytes each.
const MOST: usize = 4096;

/// A file that was changed so recently is not remembered: the clock that file systems stamp
/// changes with moves every 10 ms at worst (Linux, `CONFIG_HZ=100`), and a second change within
/// one of its steps would not show.
const RECENT: Duration = Duration::from_millis(20);

/// The digests of files by what the file system says of them.
#[derive(Debug, Default)]
pub(super) struct Verified(Mutex<HashMap<Stamp, Digest>>);

impl Verified {
    /// Returns whether a file was seen to have the digest and was not touched since.
    pub(super) fn knows(&self, stamp: Stamp, digest: Digest) -> bool {
        self.files().get(&stamp) == Some(&digest)
    }

    /// Remembers what was just read from a file.
    pub(super) fn remember(&self, stamp: Stamp, digest: Digest) {
        // A time in the future is no proof of anything.
        let age = SystemTime::now().duration_since(stamp.changed()).unwrap_or_default();
        if age < RECENT {
            return;
        }
        let mut files = self.files();
        if files.len() >= MOST {
            // Whatever goes costs one digest if it comes again.
            files.clear();
        }
        files.insert(stamp, digest);
    }

    fn files(&self) -> std::sync::MutexGuard<'_, HashMap<Stamp, Digest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
