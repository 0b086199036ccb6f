// SPDX-License-Identifier: Apache-2.0

//! The base-image blobs that a worker keeps on disk, by digest.
//!
//! A blob is written to a temporary name, digested, and renamed, so a name is proof of the bytes
//! that were written under it; because disks and people are fallible it is digested again when it
//! is read, and a blob that is not what its name says is dropped and fetched again. Several
//! processes of a node may share a directory, and it may be deleted at any time: an open file
//! stays readable.

use std::collections::HashMap;
use std::fs::{File, FileTimes};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use slipway_proto::Digest;
use tempfile::NamedTempFile;

use crate::pulse::Pulse;

/// How much is read at a time.
const CHUNK: usize = 256 * 1024;

/// Why a blob is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum CacheError<E> {
    /// The cache's directory fails.
    #[error("the blob cache at {path} failed")]
    Disk {
        /// The directory.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was fetched has another digest or size.
    #[error("blob {expected} was fetched and has digest {actual}")]
    Mismatch {
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// The fetch failed.
    #[error(transparent)]
    Fetch(E),
}

/// The cache. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    blobs: PathBuf,
    max_bytes: u64,
    /// One lock for each blob that is being fetched: many builds, one download.
    fetches: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// Beats with each piece of any download: who waits for another's is not idle.
    pulse: Pulse,
}

impl Cache {
    /// Opens the cache in a directory, which is made if it is missing. Above `max_bytes` the blobs
    /// that were not used for longest are removed.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made.
    pub fn open(directory: &Path, max_bytes: u64) -> io::Result<Self> {
        let blobs = directory.join("blobs/sha256");
        std::fs::create_dir_all(&blobs)?;
        Ok(Self {
            shared: Arc::new(Shared {
                blobs,
                max_bytes,
                fetches: Mutex::default(),
                pulse: Pulse::default(),
            }),
        })
    }

    /// Returns the bytes the cache holds now.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.shared.entries().iter().map(|entry| entry.size).sum()
    }

    /// Opens a blob that is there and is what its name says.
    pub async fn get(&self, digest: Digest) -> Option<File> {
        let shared = Arc::clone(&self.shared);
        let checked = tokio::task::spawn_blocking(move || shared.open_checked(digest));
        checked.await.ok().flatten()
    }

    /// Reads a small blob whole, such as a config.
    pub async fn read(&self, digest: Digest) -> Option<Bytes> {
        let mut file = self.get(digest).await?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        Some(bytes.into())
    }

    /// Returns the signs of life of all downloads into the cache.
    #[must_use]
    pub fn pulse(&self) -> &Pulse {
        &self.shared.pulse
    }

    /// Keeps bytes whose digest is known to be right. A failure costs only time later.
    pub async fn keep(&self, digest: Digest, bytes: Bytes) {
        let one_chunk = futures::stream::iter([Ok::<_, std::convert::Infallible>(bytes)]);
        let kept = self.get_or_fetch(digest, || async { Ok(one_chunk) }).await;
        if let Err(error) = kept {
            tracing::warn!(%digest, %error, "could not keep a blob in the cache");
        }
    }

    /// Opens a blob, fetching it first if it is missing. However many callers ask at once, it is
    /// fetched once.
    ///
    /// # Errors
    ///
    /// When it cannot be fetched or stored, or is not what was asked for.
    pub async fn get_or_fetch<S, E, F>(
        &self,
        digest: Digest,
        fetch: impl FnOnce() -> F,
    ) -> Result<File, CacheError<E>>
    where
        S: Stream<Item = Result<Bytes, E>>,
        F: Future<Output = Result<S, E>>,
    {
        let turn = Arc::clone(self.shared.fetches().entry(digest).or_default());
        let _turn = turn.lock().await;
        if let Some(file) = self.get(digest).await {
            return Ok(file);
        }
        let outcome = self.store(digest, fetch).await;
        self.shared.fetches().remove(&digest);
        outcome
    }

    async fn store<S, E, F>(
        &self,
        digest: Digest,
        fetch: impl FnOnce() -> F,
    ) -> Result<File, CacheError<E>>
    where
        S: Stream<Item = Result<Bytes, E>>,
        F: Future<Output = Result<S, E>>,
    {
        let disk = |source| self.shared.disk_error(source);
        let mut temporary = NamedTempFile::new_in(&self.shared.blobs).map_err(disk)?;
        let mut hasher = Sha256::new();
        let chunks = fetch().await.map_err(CacheError::Fetch)?;
        let mut chunks = std::pin::pin!(chunks);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(CacheError::Fetch)?;
            self.shared.pulse.beat().map_err(disk)?;
            hasher.update(&chunk);
            temporary.write_all(&chunk).map_err(disk)?;
        }
        let actual = Digest::from(<[u8; 32]>::from(hasher.finalize()));
        if actual != digest {
            return Err(CacheError::Mismatch { expected: digest, actual });
        }
        let mut file = temporary.reopen().map_err(disk)?;
        file.seek(SeekFrom::Start(0)).map_err(disk)?;
        temporary.persist(self.shared.path(digest)).map_err(|error| disk(error.error))?;
        let shared = Arc::clone(&self.shared);
        let evicted = tokio::task::spawn_blocking(move || shared.evict(digest)).await;
        if let Ok(Err(error)) = evicted {
            tracing::warn!(%error, "could not evict from the blob cache");
        }
        Ok(file)
    }
}

struct Entry {
    path: PathBuf,
    size: u64,
    used: SystemTime,
}

impl Shared {
    fn path(&self, digest: Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    fn fetches(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<tokio::sync::Mutex<()>>>> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk_error<E>(&self, source: io::Error) -> CacheError<E> {
        CacheError::Disk { path: self.blobs.display().to_string(), source }
    }

    fn open_checked(&self, digest: Digest) -> Option<File> {
        let path = self.path(digest);
        let mut file = File::open(&path).ok()?;
        match digest_of(&mut file) {
            Ok(actual) if actual == digest => {
                // What was used last; a failure only makes eviction less fair.
                let _unused = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
                Some(file)
            }
            _ => {
                tracing::warn!(%digest, "dropped a corrupt blob from the cache");
                let _already_gone = std::fs::remove_file(&path);
                None
            }
        }
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

    /// Removes what was not used for longest until the bound holds, but never `newest`.
    fn evict(&self, newest: Digest) -> io::Result<()> {
        let mut entries = self.entries();
        let mut total: u64 = entries.iter().map(|entry| entry.size).sum();
        entries.sort_by_key(|entry| entry.used);
        let newest = self.path(newest);
        for entry in entries {
            if total <= self.max_bytes {
                break;
            }
            if entry.path == newest {
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

/// Digests a file from its start and leaves it there.
fn digest_of(file: &mut File) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            read => hasher.update(&chunk[..read]),
        }
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(Digest::from(<[u8; 32]>::from(hasher.finalize())))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    type Chunks = futures::stream::Iter<std::array::IntoIter<Result<Bytes, String>, 1>>;

    fn chunks(text: &'static str) -> Chunks {
        futures::stream::iter([Ok(Bytes::from(text))])
    }

    fn text(mut file: File) -> String {
        let mut text = String::new();
        file.read_to_string(&mut text).expect("it reads");
        text
    }

    #[tokio::test]
    async fn many_callers_cause_one_download() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(directory.path(), 1000).expect("it opens");
        let downloads = AtomicU32::new(0);
        let digest = Digest::of(b"layer");
        let one = || {
            cache.get_or_fetch(digest, || async {
                downloads.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok(chunks("layer"))
            })
        };
        let files = futures::future::join_all((0..20).map(|_| one())).await;
        for file in files {
            assert_eq!(text(file.expect("it is there")), "layer");
        }
        assert_eq!(downloads.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_corrupt_blob_is_dropped_and_fetched_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(directory.path(), 1000).expect("it opens");
        let digest = Digest::of(b"layer");
        let path = directory.path().join("blobs/sha256").join(digest.hex());
        std::fs::write(&path, "lawyer").expect("it can be written");
        assert!(cache.get(digest).await.is_none());
        let fetched = cache.get_or_fetch(digest, || async { Ok(chunks("layer")) }).await;
        assert_eq!(text(fetched.expect("it is fetched")), "layer");
    }

    #[tokio::test]
    async fn what_is_not_what_was_asked_for_is_not_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(directory.path(), 1000).expect("it opens");
        let digest = Digest::of(b"layer");
        let fetched = cache.get_or_fetch(digest, || async { Ok(chunks("other")) }).await;
        assert!(matches!(fetched, Err(CacheError::Mismatch { .. })));
        assert_eq!(cache.size(), 0);
    }

    #[tokio::test]
    async fn above_the_bound_the_least_recently_used_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(directory.path(), 8).expect("it opens");
        for text in ["aaaa", "bbbb"] {
            cache.keep(Digest::of(text.as_bytes()), Bytes::from(text)).await;
            let path =
                directory.path().join("blobs/sha256").join(Digest::of(text.as_bytes()).hex());
            let long_ago = SystemTime::UNIX_EPOCH
                + std::time::Duration::from_secs(u64::from(text.as_bytes()[0]));
            let file = File::open(path).expect("it is there");
            file.set_times(FileTimes::new().set_modified(long_ago)).expect("it can be set");
        }
        assert!(cache.get(Digest::of(b"aaaa")).await.is_some(), "used now");
        cache.keep(Digest::of(b"cccc"), Bytes::from("cccc")).await;
        assert!(cache.get(Digest::of(b"bbbb")).await.is_none());
        assert!(cache.get(Digest::of(b"aaaa")).await.is_some());
    }
}
