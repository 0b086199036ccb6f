// SPDX-License-Identifier: Apache-2.0

//! What this worker remembers of layers: what they came to, and which repositories hold them.
//!
//! Three kinds of records. One says what a layer came to, by what it is made of and by its archive,
//! so that an unchanged layer is neither read nor compressed again; and, as a hint alone, by what
//! the artifact's directory says of it. The second says which
//! repositories of a registry hold a blob, so that it can be mounted from there. The third, for
//! builds without a server, says which digest a file of this machine has that was not touched
//! since. All lie under
//! `known` in the cache directory, where the worker processes of a node share them, and may be
//! deleted at any time: what is not known is found out again. A record is never believed further
//! than its use allows: bytes made later are held against the recorded digest, and a repository
//! is asked, unless it said so to this process a short while ago.

mod shelf;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use slipway_artifact::source::Stamp;
use slipway_proto::Digest;
use tokio::time::Instant;

use shelf::{Bounds, Shelf};
use slipway_registry::Repository;

/// So many records of each kind are kept on disk, in a block of the file system each: some
/// thousand builds' worth in 64 MiB.
const MOST_FILES: usize = 16_384;

/// So many of each kind are also kept in memory, in some 200 bytes each.
const MOST_IN_MEMORY: usize = 4096;

/// So many repositories are remembered for a blob: one is enough to mount it from, and the next
/// serves where the first was emptied.
const MOST_REPOSITORIES: usize = 4;

/// So long a repository is not asked again for a blob that it had. Garbage collectors of registries
/// leave blobs alone for longer that a manifest refers to or that are young.
const LATELY: Duration = Duration::from_secs(5 * 60);

/// What is remembered. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Known {
    shelves: Arc<Shelves>,
}

#[derive(Debug)]
struct Shelves {
    layers: Shelf<LayerRecord>,
    holders: Shelf<Vec<String>>,
    files: Shelf<Digest>,
    /// When a repository last said to this process that it holds a blob.
    seen: Mutex<HashMap<Digest, Instant>>,
}

/// What a layer came to.
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

impl Known {
    /// Opens what is remembered in a cache directory, and makes the place for it.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made.
    pub fn open(cache_dir: &Path) -> io::Result<Self> {
        let bounds = Bounds { files: MOST_FILES, in_memory: MOST_IN_MEMORY };
        let known = cache_dir.join("known");
        let layers = Shelf::open(known.join("layers"), bounds)?;
        let holders = Shelf::open(known.join("blobs"), bounds)?;
        let files = Shelf::open(known.join("files"), bounds)?;
        let seen = Mutex::default();
        Ok(Self { shelves: Arc::new(Shelves { layers, holders, files, seen }) })
    }

    /// Returns the repositories, as `team/app`, that are known to hold a blob: those of the same
    /// registry that were reached with the same credentials, the newest first, four at most.
    #[must_use]
    pub fn repositories(&self, of: &Repository, digest: Digest) -> Vec<String> {
        self.shelves.holders.get(holder_key(of, digest)).unwrap_or_default()
    }

    /// Returns whether a repository is so certain to hold a blob that it need not be asked: it said
    /// so to this process in the last five minutes, and nothing else since.
    #[must_use]
    pub fn was_seen_lately(&self, repository: &Repository, digest: Digest) -> bool {
        self.seen().get(&place_key(repository, digest)).is_some_and(|at| at.elapsed() < LATELY)
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<Digest, Instant>> {
        self.shelves.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that a repository holds a blob, as its registry said just now.
    pub fn remember(&self, repository: &Repository, digest: Digest) {
        {
            let mut seen = self.seen();
            if seen.len() >= MOST_IN_MEMORY {
                seen.retain(|_, at| at.elapsed() < LATELY);
            }
            if seen.len() >= MOST_IN_MEMORY {
                // Whatever goes costs one question.
                seen.clear();
            }
            seen.insert(place_key(repository, digest), Instant::now());
        }
        let (holders, key) = (&self.shelves.holders, holder_key(repository, digest));
        let name = repository.reference.repository();
        let mut names = holders.get(key).unwrap_or_default();
        if names.first().is_some_and(|first| first == name) {
            return;
        }
        let count = names.len();
        names.retain(|known| known != name);
        let is_new = names.len() == count;
        names.insert(0, name.to_owned());
        names.truncate(MOST_REPOSITORIES);
        if is_new {
            holders.put(key, names);
        } else {
            // Only the order changed, which is not worth a file.
            holders.put_in_memory(key, names);
        }
    }

    /// Forgets that a repository holds a blob: its registry said that it does not.
    pub fn forget(&self, repository: &Repository, digest: Digest) {
        self.seen().remove(&place_key(repository, digest));
        let (holders, key) = (&self.shelves.holders, holder_key(repository, digest));
        let Some(mut names) = holders.get(key) else { return };
        let count = names.len();
        names.retain(|known| known != repository.reference.repository());
        if names.is_empty() {
            holders.remove(key);
        } else if names.len() < count {
            holders.put(key, names);
        }
    }

    /// Returns what the layer of a key came to.
    #[must_use]
    pub fn layer(&self, key: Digest) -> Option<LayerRecord> {
        self.shelves.layers.get(key)
    }

    /// Remembers what the layer of a key came to.
    pub fn remember_layer(&self, key: Digest, record: LayerRecord) {
        self.shelves.layers.put(key, record);
    }

    /// Forgets the layer of a key: its record was wrong.
    pub fn forget_layer(&self, key: Digest) {
        self.shelves.layers.remove(key);
    }

    /// Returns the digest of a file of which the file system says this.
    #[must_use]
    pub fn file(&self, stamp: Stamp) -> Option<Digest> {
        self.shelves.files.get(file_key(stamp))
    }

    /// Remembers the digest of a file. Any later change of it must show in its stamp: see
    /// [`FileSource::is_settled`](slipway_artifact::FileSource::is_settled).
    pub fn remember_file(&self, stamp: Stamp, digest: Digest) {
        self.shelves.files.put(file_key(stamp), digest);
    }
}

/// The key of a file of this machine.
fn file_key(stamp: Stamp) -> Digest {
    let mut key = Key::new("file");
    stamp.numbers().into_iter().for_each(|number| key.number(number));
    key.finish()
}

/// The key of a blob in one repository.
fn place_key(repository: &Repository, digest: Digest) -> Digest {
    let mut key = Key::new("place");
    key.field(holder_key(repository, digest).as_bytes());
    key.field(repository.reference.repository().as_bytes());
    key.finish()
}

/// The key of a blob in all repositories of a registry that the same credentials reach.
fn holder_key(repository: &Repository, digest: Digest) -> Digest {
    let secret = repository.secret.as_ref().map_or("", |secret| secret.as_str());
    let mut key = Key::new("holder");
    key.field(repository.reference.registry().as_bytes());
    key.field(secret.as_bytes());
    key.field(digest.as_bytes());
    key.finish()
}

/// Makes the key of a record: a digest of fields, each behind its length, so that no two lists of
/// fields run together.
#[derive(Debug, Clone)]
pub(crate) struct Key(Sha256);

impl Key {
    /// Starts the key of a kind of record.
    pub(crate) fn new(kind: &str) -> Self {
        let mut key = Self(Sha256::new());
        key.field(kind.as_bytes());
        key
    }

    /// Adds a field.
    pub(crate) fn field(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    /// Adds a number.
    pub(crate) fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    /// Returns the key.
    pub(crate) fn finish(self) -> Digest {
        Digest::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(reference: &str, secret: Option<&str>) -> Repository {
        Repository {
            reference: reference.parse().expect("a reference"),
            secret: secret.map(|name| name.parse().expect("a name")),
        }
    }

    fn open() -> (tempfile::TempDir, Known) {
        let directory = tempfile::tempdir().expect("a directory");
        let known = Known::open(directory.path()).expect("it opens");
        (directory, known)
    }

    #[test]
    fn the_repositories_of_a_blob_are_those_of_its_registry_and_secret_the_newest_first() {
        let (_directory, known) = open();
        let blob = Digest::of(b"blob");
        let here = repository("r.example/team/app:1", None);
        for name in ["a", "b", "c", "d", "e", "c"] {
            known.remember(&repository(&format!("r.example/team/{name}"), None), blob);
        }
        assert_eq!(known.repositories(&here, blob), ["team/c", "team/e", "team/d", "team/b"]);
        assert!(known.repositories(&here, Digest::of(b"other")).is_empty());
        let elsewhere = repository("s.example/team/app:1", None);
        assert!(known.repositories(&elsewhere, blob).is_empty(), "another registry");
        let secret = repository("r.example/team/app:1", Some("hub"));
        assert!(known.repositories(&secret, blob).is_empty(), "other credentials");
    }

    #[test]
    fn what_a_registry_denies_is_forgotten() {
        let (_directory, known) = open();
        let blob = Digest::of(b"blob");
        let (one, other) = (repository("r.example/a", None), repository("r.example/b", None));
        known.remember(&one, blob);
        known.remember(&other, blob);
        known.forget(&other, blob);
        assert_eq!(known.repositories(&one, blob), ["a"]);
        known.forget(&one, blob);
        known.forget(&one, blob);
        assert!(known.repositories(&one, blob).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_repository_is_believed_for_a_while() {
        let (directory, known) = open();
        let blob = Digest::of(b"blob");
        let (one, other) = (repository("r.example/a", None), repository("r.example/b", None));
        assert!(!known.was_seen_lately(&one, blob));
        known.remember(&one, blob);
        assert!(known.was_seen_lately(&one, blob));
        assert!(!known.was_seen_lately(&other, blob), "another repository");
        let secret = repository("r.example/a", Some("hub"));
        assert!(!known.was_seen_lately(&secret, blob), "other credentials");
        let process = Known::open(directory.path()).expect("it opens");
        assert!(!process.was_seen_lately(&one, blob), "another process did not hear it");
        tokio::time::advance(LATELY).await;
        assert!(!known.was_seen_lately(&one, blob), "it is long ago");
        known.remember(&one, blob);
        known.forget(&one, blob);
        assert!(!known.was_seen_lately(&one, blob), "it was taken back");
        for number in 0..=MOST_IN_MEMORY {
            known.remember(&one, Digest::of(&number.to_le_bytes()));
        }
        assert!(known.seen().len() <= MOST_IN_MEMORY);
    }

    #[test]
    fn processes_of_one_node_see_what_the_others_remember() {
        let (directory, one) = open();
        let other = Known::open(directory.path()).expect("it opens");
        let (blob, here) = (Digest::of(b"blob"), repository("r.example/a", None));
        one.remember(&here, blob);
        assert_eq!(other.repositories(&here, blob), ["a"]);
        let record = LayerRecord { archive: blob, diff_id: blob, digest: blob, size: 7 };
        other.remember_layer(blob, record);
        assert_eq!(one.layer(blob), Some(record));
        other.forget_layer(blob);
        let third = Known::open(directory.path()).expect("it opens");
        assert_eq!(third.layer(blob), None);
    }

    #[test]
    fn fields_of_a_key_do_not_run_together() {
        let key = |fields: &[&str]| {
            let mut key = Key::new("x");
            fields.iter().for_each(|field| key.field(field.as_bytes()));
            key.finish()
        };
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["a"]), key(&["a", ""]));
    }
}
