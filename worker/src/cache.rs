// SPDX-License-Identifier: Apache-2.0

//! The base-image blobs that a worker keeps on disk, by digest.
//!
//! A blob is written to a temporary name, digested, and renamed, so a name is proof of the bytes
//! that were written under it; because disks and people are fallible it is digested again when it
//! is read, once per process and whenever the file was touched, and a blob that is not what its
//! name says is dropped and fetched again. Several processes of a node may share a directory, and
//! it may be deleted at any time: an open file stays readable.
//!
//! A download belongs to nobody: it goes on to the end when those who wanted it are gone. Others
//! may follow it, and who cancels a build must not make theirs fail; a blob that was asked for
//! once is asked for again. So it has bounds of its own: the size that the image says, and a least
//! speed. Followed is only what comes from the same place: one registry's slowness or lies are
//! nobody else's.

mod blob;
mod disk;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use slipway_proto::Digest;
use tempfile::NamedTempFile;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

pub use blob::Blob;
use blob::{Download, Progress, Source};
use disk::Disk;

use crate::registry::RegistryError;

/// How much is read at a time.
const CHUNK: usize = 256 * 1024;

/// The least that must come of a download, in bytes, within [`LEAST_WITHIN`].
const LEAST: u64 = 64 * 1024;

/// How often it is looked at how much came.
const LEAST_WITHIN: Duration = Duration::from_secs(60);

/// Why a blob is not to be had. Cheap to clone: all who wait for a download get the same.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CacheError {
    /// The cache's directory fails.
    #[error("the blob cache at {path} failed")]
    Disk {
        /// The directory.
        path: String,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// What was fetched has another digest.
    #[error("blob {expected} was fetched and has digest {actual}")]
    Mismatch {
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// The blob has another size than its image says.
    #[error("blob {digest} does not have the {expected} bytes that its image says it has")]
    Size {
        /// The blob.
        digest: Digest,
        /// The size it should have, in bytes.
        expected: u64,
    },
    /// The process ends, and with it the download.
    #[error("the download of blob {digest} was given up")]
    Abandoned {
        /// The blob.
        digest: Digest,
    },
    /// The fetch failed.
    #[error(transparent)]
    Fetch(Arc<RegistryError>),
}

/// A blob that an image names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Its digest.
    pub digest: Digest,
    /// The size that the image says, in bytes.
    pub size: u64,
    /// Where it would be downloaded from, as `registry/repository`. Those who want it from
    /// elsewhere have a download of their own.
    pub from: String,
}

/// The cache. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Disk,
    /// One place for each blob that is being fetched: many builds, one download.
    fetches: Mutex<HashMap<Wanted, Place>>,
}

/// Locked while it is found out whether a blob must be fetched; holds its download.
type Place = Arc<tokio::sync::Mutex<Option<Download>>>;

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
        let disk = Disk::new(blobs, max_bytes);
        let shared = Shared { disk, fetches: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns the bytes the cache holds now.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.shared.disk.size()
    }

    /// Opens a blob that is there and is what its name says.
    pub async fn get(&self, digest: Digest) -> Option<File> {
        let shared = Arc::clone(&self.shared);
        let checked = tokio::task::spawn_blocking(move || shared.disk.open_checked(digest));
        checked.await.ok().flatten()
    }

    /// Reads a small blob whole, such as a config; not one of more than `limit` bytes.
    pub async fn read(&self, digest: Digest, limit: u64) -> Option<Bytes> {
        let file = self.get(digest).await?;
        let read = tokio::task::spawn_blocking(move || {
            let length = file.metadata()?.len();
            if length > limit {
                return Ok(None);
            }
            let mut bytes = Vec::new();
            file.take(length).read_to_end(&mut bytes)?;
            Ok::<_, io::Error>(Some(Bytes::from(bytes)))
        });
        read.await.ok()?.ok()?
    }

    /// Lets a blob be digested again when it is opened next: somebody found it wrong.
    pub fn doubt(&self, digest: Digest) {
        self.shared.disk.doubt(digest);
    }

    /// Returns where the blobs lie.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.shared.disk.blobs
    }

    /// Keeps bytes whose digest is known to be right. A failure costs only time later.
    pub async fn keep(&self, digest: Digest, bytes: Bytes) {
        let wanted = Wanted { digest, size: bytes.len() as u64, from: String::new() };
        let one_chunk = futures::stream::iter([Ok(bytes)]);
        let kept = self.get_or_fetch(wanted, || async { Ok(one_chunk) }).await;
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
    pub async fn get_or_fetch<S, F>(
        &self,
        wanted: Wanted,
        fetch: impl FnOnce() -> F + Send + 'static,
    ) -> Result<File, CacheError>
    where
        S: Stream<Item = Result<Bytes, RegistryError>> + Send + 'static,
        F: Future<Output = Result<S, RegistryError>> + Send + 'static,
    {
        let digest = wanted.digest;
        if let Source::Download(mut download) = self.get_or_follow(wanted, fetch).await?.source {
            download.done().await?;
        }
        let file = self.get(digest).await;
        file.ok_or_else(|| self.shared.disk_error(io::ErrorKind::NotFound.into()))
    }

    /// Returns a blob of a known size, of which the first bytes are there: from the cache, or as
    /// it is downloaded into it. However many callers ask at once, it is fetched once.
    ///
    /// # Errors
    ///
    /// When it has another size, or its download cannot begin. What goes wrong later is an error of
    /// the blob's stream.
    pub async fn get_or_follow<S, F>(
        &self,
        wanted: Wanted,
        fetch: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Blob, CacheError>
    where
        S: Stream<Item = Result<Bytes, RegistryError>> + Send + 'static,
        F: Future<Output = Result<S, RegistryError>> + Send + 'static,
    {
        let size = wanted.size;
        let place = self.place(&wanted);
        let mut turn = place.lock().await;
        let running = turn.clone().filter(|download| download.progress.has_changed().is_ok());
        let mut download = match running {
            Some(download) => download,
            None => {
                if let Some(file) = self.get(wanted.digest).await {
                    self.leave(&wanted, &place);
                    return self.of_file(file, &wanted);
                }
                let begun = self.shared.begin(wanted.clone());
                let (sink, download) = begun.inspect_err(|_| self.leave(&wanted, &place))?;
                *turn = Some(download.clone());
                let (cache, place) = (self.clone(), Arc::clone(&place));
                tokio::spawn(async move {
                    // Whoever follows gets the failure.
                    let _told = sink.store(&cache.shared, fetch).await;
                    cache.leave(&wanted, &place);
                });
                download
            }
        };
        drop(turn);
        download.begun().await?;
        Ok(Blob { source: Source::Download(download), size })
    }

    fn of_file(&self, file: File, wanted: &Wanted) -> Result<Blob, CacheError> {
        let actual = file.metadata().map_err(|error| self.shared.disk_error(error))?.len();
        if actual != wanted.size {
            return Err(wanted.other_size());
        }
        Ok(Blob { source: Source::File(Arc::new(file)), size: actual })
    }

    fn place(&self, wanted: &Wanted) -> Place {
        Arc::clone(self.shared.fetches().entry(wanted.clone()).or_default())
    }

    /// Gives up a place where nothing is fetched any more, unless another stands there.
    fn leave(&self, wanted: &Wanted, place: &Place) {
        let mut fetches = self.shared.fetches();
        if fetches.get(wanted).is_some_and(|current| Arc::ptr_eq(current, place)) {
            fetches.remove(wanted);
        }
    }
}

impl Wanted {
    fn other_size(&self) -> CacheError {
        CacheError::Size { digest: self.digest, expected: self.size }
    }
}

/// Where a download goes.
struct Sink {
    wanted: Wanted,
    temporary: NamedTempFile,
    progress: watch::Sender<Progress>,
}

impl Sink {
    /// Fetches, checks and names the blob, and tells those who follow.
    async fn store<S, F>(
        mut self,
        shared: &Arc<Shared>,
        fetch: impl FnOnce() -> F,
    ) -> Result<(), CacheError>
    where
        S: Stream<Item = Result<Bytes, RegistryError>>,
        F: Future<Output = Result<S, RegistryError>>,
    {
        let written = self.write(shared, fetch).await;
        let Self { wanted: Wanted { digest, .. }, temporary, progress } = self;
        let named = written.and_then(|()| {
            let named = temporary.persist(shared.disk.path(digest));
            let file = named.map_err(|error| shared.disk_error(error.error))?;
            shared.disk.trust(digest, &file);
            Ok(())
        });
        match named {
            Ok(()) => progress.send_replace(Progress::Done),
            Err(error) => {
                progress.send_replace(Progress::Failed(error.clone()));
                return Err(error);
            }
        };
        let evicting = Arc::clone(shared);
        let evicted = tokio::task::spawn_blocking(move || evicting.disk.evict(digest)).await;
        if let Ok(Err(error)) = evicted {
            tracing::warn!(%error, "could not evict from the blob cache");
        }
        Ok(())
    }

    async fn write<S, F>(
        &mut self,
        shared: &Shared,
        fetch: impl FnOnce() -> F,
    ) -> Result<(), CacheError>
    where
        S: Stream<Item = Result<Bytes, RegistryError>>,
        F: Future<Output = Result<S, RegistryError>>,
    {
        let fetched = |error| CacheError::Fetch(Arc::new(error));
        let Wanted { digest, size, .. } = self.wanted;
        let mut hasher = Sha256::new();
        let mut written = 0;
        let chunks = fetch().await.map_err(fetched)?;
        let mut chunks = std::pin::pin!(chunks);
        self.progress.send_replace(Progress::Written(0));
        let (mut looked_at, mut had) = (Instant::now(), 0);
        loop {
            let chunk = match timeout_at(looked_at + LEAST_WITHIN, chunks.next()).await {
                Ok(Some(chunk)) => chunk.map_err(fetched)?,
                Ok(None) => break,
                Err(_elapsed) if written - had < LEAST => {
                    let slow = format!("blob {digest} comes with less than {LEAST} bytes a minute");
                    return Err(fetched(RegistryError::unavailable(slow)));
                }
                Err(_elapsed) => {
                    (looked_at, had) = (Instant::now(), written);
                    continue;
                }
            };
            written += chunk.len() as u64;
            if written > size {
                return Err(self.wanted.other_size());
            }
            hasher.update(&chunk);
            self.temporary.write_all(&chunk).map_err(|error| shared.disk_error(error))?;
            self.progress.send_replace(Progress::Written(written));
        }
        let actual = Digest::from(hasher);
        if actual != digest {
            return Err(CacheError::Mismatch { expected: digest, actual });
        }
        if written != size {
            return Err(self.wanted.other_size());
        }
        Ok(())
    }
}

impl Shared {
    fn fetches(&self) -> MutexGuard<'_, HashMap<Wanted, Place>> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, wanted: Wanted) -> Result<(Sink, Download), CacheError> {
        // People may have deleted it.
        let made = std::fs::create_dir_all(&self.disk.blobs);
        let temporary = made.and_then(|()| NamedTempFile::new_in(&self.disk.blobs));
        let temporary = temporary.map_err(|error| self.disk_error(error))?;
        let file = temporary.reopen().map_err(|error| self.disk_error(error))?;
        let (progress, watched) = watch::channel(Progress::Asked);
        let download = Download { digest: wanted.digest, file: Arc::new(file), progress: watched };
        Ok((Sink { wanted, temporary, progress }, download))
    }

    fn disk_error(&self, source: io::Error) -> CacheError {
        CacheError::Disk { path: self.disk.blobs.display().to_string(), source: Arc::new(source) }
    }
}
