// SPDX-License-Identifier: Apache-2.0

//! The repositories that are known to hold a blob, so that a push asks, mounts or skips instead of
//! sending.
//!
//! Two memories. One is on disk, shared by the worker processes of a machine: the repositories of a
//! registry from which a blob can be mounted. Such a record is a hint, and the registry is asked. The
//! other belongs to this process: a repository that confirmed a blob within `BLOB_TRUST_TTL` is not
//! asked again. The records on disk are not trusted that far, because they may be older than the
//! registry's last garbage collection.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slipway_artifact::record_cache::Bounds;
use slipway_artifact::{RecordCache, RecordKey};
use slipway_proto::Digest;
use slipway_registry::Repository;
use tokio::time::Instant;

/// The blobs of some thousand builds: at most 64 MiB of disk with a block for each, and 200 bytes of
/// memory for each of those used last.
const LOCATION_BOUNDS: Bounds = Bounds { files: 16_384, in_memory: 4096 };

/// The most confirmations of repositories that are remembered in memory.
const MAX_CONFIRMATIONS: usize = 4096;

/// The most repositories that are remembered for a blob. One is enough to mount it, and the next
/// serves if the first was emptied.
const MAX_REPOSITORIES: usize = 4;

/// How long a repository is trusted to hold a blob that it confirmed. Garbage collection of
/// registries spares blobs for longer than this if a manifest refers to them or if they are young.
const BLOB_TRUST_TTL: Duration = Duration::from_secs(5 * 60);

/// The known locations of blobs. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub struct BlobLocations(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Repositories, as `team/app`, the newest first, by [`registry_key`].
    repositories: RecordCache<Vec<String>>,
    /// When a repository last confirmed a blob to this process, by [`repository_key`].
    confirmed: Mutex<HashMap<Digest, Instant>>,
}

impl BlobLocations {
    /// Opens the locations that a cache directory holds.
    ///
    /// # Errors
    ///
    /// When their directory cannot be created.
    pub fn open(cache_dir: &Path) -> io::Result<Self> {
        let repositories = RecordCache::open(cache_dir.join("records/blobs"), LOCATION_BOUNDS)?;
        Ok(Self(Arc::new(Inner { repositories, confirmed: Mutex::default() })))
    }

    /// Returns the repositories, as `team/app`, that are known to hold a blob: at most four of the
    /// same registry that were reached with the same credentials, the newest first.
    #[must_use]
    pub fn repositories(&self, of: &Repository, digest: Digest) -> Vec<String> {
        self.0.repositories.get(registry_key(of, digest)).unwrap_or_default()
    }

    /// Returns whether a repository need not be asked for a blob: it confirmed the blob to this
    /// process within `BLOB_TRUST_TTL`, and did not deny it since.
    #[must_use]
    pub fn is_trusted(&self, repository: &Repository, digest: Digest) -> bool {
        let confirmed = self.confirmed().get(&repository_key(repository, digest)).copied();
        confirmed.is_some_and(|at| at.elapsed() < BLOB_TRUST_TTL)
    }

    fn confirmed(&self) -> MutexGuard<'_, HashMap<Digest, Instant>> {
        self.0.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that a repository holds a blob, which its registry has just confirmed.
    pub fn remember(&self, repository: &Repository, digest: Digest) {
        self.trust(repository_key(repository, digest));
        let (records, key) = (&self.0.repositories, registry_key(repository, digest));
        let name = repository.reference.repository();
        let mut names = records.get(key).unwrap_or_default();
        if names.first().is_some_and(|first| first == name) {
            return;
        }
        let count = names.len();
        names.retain(|known| known != name);
        let is_new = names.len() == count;
        names.insert(0, name.to_owned());
        names.truncate(MAX_REPOSITORIES);
        if is_new {
            records.put(key, names);
        } else {
            // Only the order changed, which is not worth writing a file.
            records.put_in_memory(key, names);
        }
    }

    fn trust(&self, key: Digest) {
        let mut confirmed = self.confirmed();
        if confirmed.len() >= MAX_CONFIRMATIONS {
            confirmed.retain(|_, at| at.elapsed() < BLOB_TRUST_TTL);
        }
        if confirmed.len() >= MAX_CONFIRMATIONS {
            // Each one that goes costs at most one request.
            confirmed.clear();
        }
        confirmed.insert(key, Instant::now());
    }

    /// Forgets that a repository holds a blob, because its registry denied it.
    pub fn forget(&self, repository: &Repository, digest: Digest) {
        self.confirmed().remove(&repository_key(repository, digest));
        let (records, key) = (&self.0.repositories, registry_key(repository, digest));
        let Some(mut names) = records.get(key) else { return };
        let count = names.len();
        names.retain(|known| known != repository.reference.repository());
        if names.is_empty() {
            records.remove(key);
        } else if names.len() < count {
            records.put(key, names);
        }
    }
}

/// The key of a blob in one repository.
fn repository_key(repository: &Repository, digest: Digest) -> Digest {
    let mut key = RecordKey::new("blob in repository");
    key.field(registry_key(repository, digest).as_bytes());
    key.field(repository.reference.repository().as_bytes());
    key.finish()
}

/// The key of a blob in the repositories of a registry that the same credentials reach.
fn registry_key(repository: &Repository, digest: Digest) -> Digest {
    let secret = repository.secret.as_ref().map_or("", |secret| secret.as_str());
    let mut key = RecordKey::new("blob in registry");
    key.field(repository.reference.registry().as_bytes());
    key.field(secret.as_bytes());
    key.field(digest.as_bytes());
    key.finish()
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

    fn open() -> (tempfile::TempDir, BlobLocations) {
        let directory = tempfile::tempdir().expect("a directory");
        let locations = BlobLocations::open(directory.path()).expect("it opens");
        (directory, locations)
    }

    #[test]
    fn the_repositories_of_a_blob_are_those_of_its_registry_and_secret_the_newest_first() {
        let (_directory, locations) = open();
        let blob = Digest::of(b"blob");
        let here = repository("r.example/team/app:1", None);
        for name in ["a", "b", "c", "d", "e", "c"] {
            locations.remember(&repository(&format!("r.example/team/{name}"), None), blob);
        }
        assert_eq!(locations.repositories(&here, blob), ["team/c", "team/e", "team/d", "team/b"]);
        assert!(locations.repositories(&here, Digest::of(b"other")).is_empty());
        let elsewhere = repository("s.example/team/app:1", None);
        assert!(locations.repositories(&elsewhere, blob).is_empty(), "another registry");
        let secret = repository("r.example/team/app:1", Some("hub"));
        assert!(locations.repositories(&secret, blob).is_empty(), "other credentials");
    }

    #[test]
    fn a_location_that_a_registry_denies_is_forgotten() {
        let (_directory, locations) = open();
        let blob = Digest::of(b"blob");
        let (one, other) = (repository("r.example/a", None), repository("r.example/b", None));
        locations.remember(&one, blob);
        locations.remember(&other, blob);
        locations.forget(&other, blob);
        assert_eq!(locations.repositories(&one, blob), ["a"]);
        locations.forget(&one, blob);
        locations.forget(&one, blob);
        assert!(locations.repositories(&one, blob).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_repository_is_trusted_for_a_while() {
        let (directory, locations) = open();
        let blob = Digest::of(b"blob");
        let (one, other) = (repository("r.example/a", None), repository("r.example/b", None));
        assert!(!locations.is_trusted(&one, blob));
        locations.remember(&one, blob);
        assert!(locations.is_trusted(&one, blob));
        assert!(!locations.is_trusted(&other, blob), "another repository");
        let secret = repository("r.example/a", Some("hub"));
        assert!(!locations.is_trusted(&secret, blob), "other credentials");
        let process = BlobLocations::open(directory.path()).expect("it opens");
        assert!(!process.is_trusted(&one, blob), "the confirmation was given to another process");
        tokio::time::advance(BLOB_TRUST_TTL).await;
        assert!(!locations.is_trusted(&one, blob), "it is too long ago");
        locations.remember(&one, blob);
        locations.forget(&one, blob);
        assert!(!locations.is_trusted(&one, blob), "it was denied");
        for number in 0..=MAX_CONFIRMATIONS {
            locations.remember(&one, Digest::of(&number.to_le_bytes()));
        }
        assert!(locations.confirmed().len() <= MAX_CONFIRMATIONS);
    }

    #[test]
    fn processes_of_one_machine_share_locations() {
        let (directory, one) = open();
        let other = BlobLocations::open(directory.path()).expect("it opens");
        let (blob, here) = (Digest::of(b"blob"), repository("r.example/a", None));
        one.remember(&here, blob);
        assert_eq!(other.repositories(&here, blob), ["a"]);
    }
}
