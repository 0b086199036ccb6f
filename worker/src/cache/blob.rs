// SPDX-License-Identifier: Apache-2.0

//! A blob of the cache that can be read while it is downloaded.
//!
//! One download writes a temporary file. Any number of readers follow it, each at its own speed, so
//! memory does not depend on the size of the blob. The last byte is passed on only when the digest
//! of the whole is right: a reader of a corrupt download fails instead of ending.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use slipway_proto::Digest;
use tokio::sync::watch;

use super::{CHUNK, CacheError};

/// The progress of a download.
#[derive(Debug, Clone)]
pub(super) enum Progress {
    /// The other side has not answered.
    Asked,
    /// This many bytes are in the file, and more will come. If the writer fails, they come into
    /// another file, from the first one on.
    Written(Arc<File>, u64),
    /// All bytes are in the file, and have the right digest.
    Done(Arc<File>),
    /// It failed.
    Failed(CacheError),
}

/// A download into the cache, for its readers. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Followed {
    pub(super) digest: Digest,
    pub(super) progress: watch::Receiver<Progress>,
}

impl Followed {
    /// Returns whether it is still in progress.
    pub(super) fn goes_on(&self) -> bool {
        self.progress.has_changed().is_ok()
    }

    /// Waits until bytes arrive, and returns the failure if none will.
    pub(super) async fn begun(&mut self) -> Result<(), CacheError> {
        self.reached(|progress| (!matches!(progress, Progress::Asked)).then_some(())).await
    }

    /// Waits until it is complete.
    pub(super) async fn done(&mut self) -> Result<(), CacheError> {
        self.reached(|progress| matches!(progress, Progress::Done(_)).then_some(())).await
    }

    /// Waits until there are bytes after an offset that may be passed on, and returns their file
    /// and end.
    async fn readable(&mut self, offset: u64, size: u64) -> Result<(Arc<File>, u64), CacheError> {
        self.reached(|progress| {
            let (file, end) = match progress {
                Progress::Asked | Progress::Failed(_) => return None,
                Progress::Written(file, bytes) => (file, *bytes.min(&(size - 1))),
                Progress::Done(file) => (file, size),
            };
            (end > offset).then(|| (Arc::clone(file), end))
        })
        .await
    }

    /// Waits until the progress satisfies a condition.
    async fn reached<T>(
        &mut self,
        found: impl Fn(&Progress) -> Option<T>,
    ) -> Result<T, CacheError> {
        let ends = |progress: &Progress| matches!(progress, Progress::Failed(_));
        let reached =
            self.progress.wait_for(|progress| ends(progress) || found(progress).is_some());
        match reached.await.as_deref() {
            Ok(Progress::Failed(error)) => Err(error.clone()),
            Ok(progress) => Ok(found(progress).expect("it was waited for")),
            Err(_gone) => Err(CacheError::Abandoned { digest: self.digest }),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Source {
    /// It exists, and was checked.
    File(Arc<File>),
    /// It is being downloaded.
    Download(Followed),
}

/// A blob that exists or is being downloaded. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blob {
    pub(super) source: Source,
    pub(super) size: u64,
}

impl Blob {
    /// Returns its bytes from an offset to the end, as they arrive. An error holds the
    /// [`CacheError`].
    pub fn stream_from(&self, offset: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let state = Some((self.clone(), offset));
        futures::stream::unfold(state, |state| async move {
            let (mut blob, offset) = state?;
            if offset >= blob.size {
                return None;
            }
            match blob.read(offset).await {
                Ok(piece) => {
                    let next = offset + piece.len() as u64;
                    Some((Ok(piece), Some((blob, next))))
                }
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn read(&mut self, offset: u64) -> io::Result<Bytes> {
        let (file, end) = match &mut self.source {
            Source::File(file) => (Arc::clone(file), self.size),
            Source::Download(followed) => {
                followed.readable(offset, self.size).await.map_err(io::Error::other)?
            }
        };
        let length = usize::try_from(end - offset).unwrap_or(usize::MAX).min(CHUNK);
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(Bytes::from(bytes))
        });
        read.await.map_err(io::Error::other)?
    }
}
