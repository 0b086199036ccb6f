// SPDX-License-Identifier: Apache-2.0

//! The layers that were made before: their digests, by what they were made from.
//!
//! An unchanged layer is neither read nor compressed again. The records lie in the cache directory,
//! where the worker processes of a machine share them, and may be deleted at any time. A record only
//! names a layer: whenever bytes are made for it, their digest is compared with the record.

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use slipway_artifact::RecordCache;
use slipway_artifact::record_cache::Bounds;
use slipway_proto::Digest;

/// The records of some thousand builds: at most 64 MiB of disk with a block for each, and 200 bytes
/// of memory for each of those used last.
const LAYER_RECORD_BOUNDS: Bounds = Bounds { files: 16_384, in_memory: 4096 };

/// The records of layers. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub struct LayerRecords(Arc<RecordCache<LayerRecord>>);

/// A layer of the artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The key of the same record by the tar archive alone.
    pub archive: Digest,
    /// The digest of the tar archive.
    pub diff_id: Digest,
    /// The digest of the stored bytes.
    pub digest: Digest,
    /// The number of stored bytes.
    pub size: u64,
}

impl LayerRecords {
    /// Opens the records of a cache directory.
    ///
    /// # Errors
    ///
    /// When their directory cannot be created.
    pub fn open(cache_dir: &Path) -> io::Result<Self> {
        let cache = RecordCache::open(cache_dir.join("records/layers"), LAYER_RECORD_BOUNDS)?;
        Ok(Self(Arc::new(cache)))
    }

    /// Returns the layer of a key, if there is a record.
    #[must_use]
    pub fn get(&self, key: Digest) -> Option<LayerRecord> {
        self.0.get(key)
    }

    /// Remembers the layer of a key.
    pub fn remember(&self, key: Digest, record: LayerRecord) {
        self.0.put(key, record);
    }

    /// Drops a record that turned out to be wrong.
    pub fn forget(&self, key: Digest) {
        self.0.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_one_machine_share_layer_records() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = || LayerRecords::open(directory.path()).expect("it opens");
        let (one, other, key) = (open(), open(), Digest::of(b"key"));
        let record = LayerRecord { archive: key, diff_id: key, digest: key, size: 7 };
        other.remember(key, record);
        assert_eq!(one.get(key), Some(record));
        other.forget(key);
        assert_eq!(open().get(key), None);
    }
}
