// SPDX-License-Identifier: Apache-2.0

//! The base-image blobs that a worker keeps on disk, by digest.
//!
//! A blob is written to a temporary name, digested, and renamed, so its name proves its bytes.
//! Because disks and people are fallible, it is digested again when it is read, once per process
//! and whenever the file was touched. A blob that does not match its name is dropped and fetched
//! again. Several processes of a node may share a directory: one downloads a blob and the others
//! follow. The directory may be deleted at any time, because an open file stays readable.

mod blob;
mod disk;
mod download;
mod part;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::Stream;
use slipway_proto::Digest;

pub use blob::Blob;
use blob::{Followed, Source};
use disk::Disk;
use download::Download;

use slipway_registry::RegistryError;

/// How much is read at a time.
const CHUNK: usize = 256 * 1024;

/// Why a blob is not available. Cheap to clone, because all that wait for a download get the same
/// error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CacheError {
    /// The cache's directory cannot be read or written.
    #[error("the blob cache at {path} failed")]
    Disk {
        /// The directory of the blobs.
        path: String,
        /// What the file system reports.
        #[source]
        source: Arc<io::Error>,
    },
    /// The fetched bytes have another digest.
    #[error("blob {expected} was fetched and has digest {actual}")]
    Mismatch {
        /// The digest asked for.
        expected: Digest,
        /// The digest of the fetched bytes.
        actual: Digest,
    },
    /// The blob has another size than its image says.
    #[error("blob {digest} does not have the {expected} bytes that its image says it has")]
    Size {
        /// The digest that was asked for.
        digest: Digest,
        /// The size it should have, in bytes.
        expected: u64,
    },
    /// The process ends, and with it the download.
    #[error("the download of blob {digest} was given up")]
    Abandoned {
        /// The digest that was asked for.
        digest: Digest,
    },
    /// The fetch failed.
    #[error(transparent)]
    Fetch(Arc<RegistryError>),
}

/// A blob that an image names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// The digest that was asked for.
    pub digest: Digest,
    /// The size that the image says, in bytes.
    pub size: u64,
    /// Where it is downloaded from, as `registry/repository`. A blob from elsewhere has a download
    /// of its own.
    pub from: String,
}

/// The cache. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache {
    disk: Arc<Disk>,
    /// One entry for each blob that is being fetched, so that many builds share one download.
    places: Arc<Mutex<HashMap<Wanted, Place>>>,
}

/// Locked while checking whether a blob must be fetched; holds its download.
type Place = Arc<tokio::sync::Mutex<Option<Followed>>>;

impl Cache {
    /// Opens the cache in a directory, which is made if it is missing. Above `max_bytes`, the least
    /// recently used blobs are removed.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made.
    pub fn open(directory: &Path, max_bytes: u64) -> io::Result<Self> {
        let blobs = directory.join("blobs/sha256");
        std::fs::create_dir_all(&blobs)?;
        let disk = Arc::new(Disk::new(blobs, max_bytes));
        Ok(Self { disk, places: Arc::default() })
    }

    /// Returns the size of the cache in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.disk.size()
    }

    /// Opens a blob that exists and matches its name.
    pub async fn get(&self, digest: Digest) -> Option<File> {
        self.disk.get(digest).await
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

    /// Lets a blob be digested again at the next opening, because it was found wrong.
    pub fn doubt(&self, digest: Digest) {
        self.disk.doubt(digest);
    }

    /// Returns the directory of the blobs.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.disk.blobs
    }

    /// Stores bytes whose digest is known to be right. A failure only costs time later.
    pub async fn keep(&self, digest: Digest, bytes: Bytes) {
        let wanted = Wanted { digest, size: bytes.len() as u64, from: String::new() };
        let one_chunk = futures::stream::iter([Ok(bytes)]);
        let kept = self.get_or_fetch(wanted, || async { Ok(one_chunk) }).await;
        if let Err(error) = kept {
            tracing::warn!(%digest, %error, "could not keep a blob in the cache");
        }
    }

    /// Opens a blob, fetching it first if it is missing. Any number of callers at once share one
    /// fetch.
    ///
    /// # Errors
    ///
    /// When it cannot be fetched or stored, or has another digest.
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
        if let Source::Download(mut followed) = self.get_or_follow(wanted, fetch).await?.source {
            followed.done().await?;
        }
        let file = self.get(digest).await;
        file.ok_or_else(|| self.disk.error(io::ErrorKind::NotFound.into()))
    }

    /// Returns a blob of a known size as soon as its first bytes are there: from the cache, or
    /// while it is downloaded into it. Any number of callers at once share one fetch.
    ///
    /// # Errors
    ///
    /// When it has another size, or its download cannot begin. Later failures are errors of the
    /// blob's stream.
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
        let running = turn.clone().filter(Followed::goes_on);
        let mut followed = match running {
            Some(followed) => followed,
            None => {
                if let Some(file) = self.get(wanted.digest).await {
                    self.leave(&wanted, &place);
                    return self.of_file(file, &wanted);
                }
                let (download, followed) = Download::new(Arc::clone(&self.disk), wanted.clone());
                *turn = Some(followed.clone());
                let (cache, place) = (self.clone(), Arc::clone(&place));
                tokio::spawn(async move {
                    download.run(fetch).await;
                    cache.leave(&wanted, &place);
                });
                followed
            }
        };
        drop(turn);
        followed.begun().await?;
        Ok(Blob { source: Source::Download(followed), size })
    }

    fn of_file(&self, file: File, wanted: &Wanted) -> Result<Blob, CacheError> {
        let actual = file.metadata().map_err(|error| self.disk.error(error))?.len();
        if actual != wanted.size {
            return Err(wanted.other_size());
        }
        Ok(Blob { source: Source::File(Arc::new(file)), size: actual })
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Wanted, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, wanted: &Wanted) -> Place {
        Arc::clone(self.places().entry(wanted.clone()).or_default())
    }

    /// Removes the entry of a finished fetch, unless a new one has replaced it.
    fn leave(&self, wanted: &Wanted, place: &Place) {
        let mut places = self.places();
        if places.get(wanted).is_some_and(|current| Arc::ptr_eq(current, place)) {
            places.remove(wanted);
        }
    }
}

impl Wanted {
    fn other_size(&self) -> CacheError {
        CacheError::Size { digest: self.digest, expected: self.size }
    }
}
