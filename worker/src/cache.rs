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
//! once is asked for again.

mod blob;
mod disk;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use slipway_proto::Digest;
use tempfile::NamedTempFile;
use tokio::sync::watch;

pub use blob::Blob;
use blob::{Download, Progress, Source};
use disk::Disk;

use crate::pulse::Pulse;
use crate::registry::RegistryError;

/// How much is read at a time.
const CHUNK: usize = 256 * 1024;

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
    /// The blob has another size than the manifest says.
    #[error("blob {digest} has {actual} bytes, and its image says {expected}")]
    Size {
        /// The blob.
        digest: Digest,
        /// The size it should have, in bytes.
        expected: u64,
        /// The size it has, in bytes.
        actual: u64,
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

/// The cache. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Disk,
    /// One place for each blob that is being fetched: many builds, one download.
    fetches: Mutex<HashMap<Digest, Place>>,
    /// Beats with each piece of any download: who waits for another's is not idle.
    pulse: Pulse,
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
        let shared = Shared { disk, fetches: Mutex::default(), pulse: Pulse::default() };
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

    /// Reads a small blob whole, such as a config.
    pub async fn read(&self, digest: Digest) -> Option<Bytes> {
        let mut file = self.get(digest).await?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        Some(bytes.into())
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

    /// Returns the signs of life of all downloads into the cache.
    #[must_use]
    pub fn pulse(&self) -> &Pulse {
        &self.shared.pulse
    }

    /// Keeps bytes whose digest is known to be right. A failure costs only time later.
    pub async fn keep(&self, digest: Digest, bytes: Bytes) {
        let one_chunk = futures::stream::iter([Ok(bytes)]);
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
    pub async fn get_or_fetch<S, F>(
        &self,
        digest: Digest,
        fetch: impl FnOnce() -> F,
    ) -> Result<File, CacheError>
    where
        S: Stream<Item = Result<Bytes, RegistryError>>,
        F: Future<Output = Result<S, RegistryError>>,
    {
        let place = self.place(digest);
        let mut turn = place.lock().await;
        if let Some(download) = turn.as_mut() {
            // Done, or to be tried again by whoever is first.
            let _failed = download.done().await;
            *turn = None;
        }
        if let Some(file) = self.get(digest).await {
            return Ok(file);
        }
        let (sink, download) = self.shared.begin(digest)?;
        let stored = sink.store(&self.shared, fetch).await;
        self.leave(digest, &place);
        stored?;
        let mut file = download.file.try_clone().map_err(|error| self.shared.disk_error(error))?;
        file.seek(SeekFrom::Start(0)).map_err(|error| self.shared.disk_error(error))?;
        Ok(file)
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
        digest: Digest,
        size: u64,
        fetch: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Blob, CacheError>
    where
        S: Stream<Item = Result<Bytes, RegistryError>> + Send + 'static,
        F: Future<Output = Result<S, RegistryError>> + Send + 'static,
    {
        let place = self.place(digest);
        let mut turn = place.lock().await;
        let running = turn.clone().filter(|download| download.progress.has_changed().is_ok());
        let mut download = match running {
            Some(download) => download,
            None => {
                if let Some(file) = self.get(digest).await {
                    return file_of(file, digest, size).map_err(|e| self.shared.disk_error(e))?;
                }
                let (sink, download) = self.shared.begin(digest)?;
                *turn = Some(download.clone());
                let (cache, place) = (self.clone(), Arc::clone(&place));
                tokio::spawn(async move {
                    // Whoever follows gets the failure.
                    let _told = sink.store(&cache.shared, fetch).await;
                    cache.leave(digest, &place);
                });
                download
            }
        };
        drop(turn);
        download.begun().await?;
        Ok(Blob { source: Source::Download(download), size })
    }

    fn place(&self, digest: Digest) -> Place {
        Arc::clone(self.shared.fetches().entry(digest).or_default())
    }

    /// Gives up a place where nothing is fetched any more, unless another stands there.
    fn leave(&self, digest: Digest, place: &Place) {
        let mut fetches = self.shared.fetches();
        if fetches.get(&digest).is_some_and(|current| Arc::ptr_eq(current, place)) {
            fetches.remove(&digest);
        }
    }
}

fn file_of(file: File, digest: Digest, size: u64) -> io::Result<Result<Blob, CacheError>> {
    let actual = file.metadata()?.len();
    if actual != size {
        return Ok(Err(CacheError::Size { digest, expected: size, actual }));
    }
    Ok(Ok(Blob { source: Source::File(Arc::new(file)), size }))
}

/// Where a download goes.
struct Sink {
    digest: Digest,
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
        let Self { digest, temporary, progress } = self;
        let named = written.and_then(|size| {
            let named = temporary.persist(shared.disk.path(digest));
            let file = named.map_err(|error| shared.disk_error(error.error))?;
            shared.disk.trust(digest, &file);
            Ok(size)
        });
        match named {
            Ok(size) => progress.send_replace(Progress::Done(size)),
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
    ) -> Result<u64, CacheError>
    where
        S: Stream<Item = Result<Bytes, RegistryError>>,
        F: Future<Output = Result<S, RegistryError>>,
    {
        let fetched = |error| CacheError::Fetch(Arc::new(error));
        let mut hasher = Sha256::new();
        let mut size = 0;
        let chunks = fetch().await.map_err(fetched)?;
        let mut chunks = std::pin::pin!(chunks);
        self.progress.send_replace(Progress::Written(0));
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(fetched)?;
            shared.pulse.beat().map_err(|error| shared.disk_error(error))?;
            hasher.update(&chunk);
            self.temporary.write_all(&chunk).map_err(|error| shared.disk_error(error))?;
            size += chunk.len() as u64;
            self.progress.send_replace(Progress::Written(size));
        }
        let actual = Digest::from(<[u8; 32]>::from(hasher.finalize()));
        if actual != self.digest {
            return Err(CacheError::Mismatch { expected: self.digest, actual });
        }
        Ok(size)
    }
}

impl Shared {
    fn fetches(&self) -> MutexGuard<'_, HashMap<Digest, Place>> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, digest: Digest) -> Result<(Sink, Download), CacheError> {
        // People may have deleted it.
        let made = std::fs::create_dir_all(&self.disk.blobs);
        let temporary = made.and_then(|()| NamedTempFile::new_in(&self.disk.blobs));
        let temporary = temporary.map_err(|error| self.disk_error(error))?;
        let file = temporary.reopen().map_err(|error| self.disk_error(error))?;
        let (progress, watched) = watch::channel(Progress::Asked);
        let download = Download { digest, file: Arc::new(file), progress: watched };
        Ok((Sink { digest, temporary, progress }, download))
    }

    fn disk_error(&self, source: io::Error) -> CacheError {
        CacheError::Disk { path: self.disk.blobs.display().to_string(), source: Arc::new(source) }
    }
}
