// SPDX-License-Identifier: Apache-2.0

//! The download of a blob into the cache, shared by all processes of a node.
//!
//! It belongs to no build and continues when all that wanted it are gone: others may follow it, and
//! cancelling one build must not fail theirs. A blob that was needed once is often needed again. So
//! the download has limits of its own: the size that the image states, and a lowest speed. Only
//! downloads from the same origin are shared, so that a slow or lying registry affects nobody else.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use slipway_proto::Digest;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::blob::{Followed, Progress};
use super::disk::Disk;
use super::part::{Followable, Part, Taken};
use super::{CacheError, Wanted};
use slipway_registry::RegistryError;

/// The fewest bytes that must arrive within [`SPEED_WINDOW`].
const MIN_BYTES_PER_WINDOW: u64 = 64 * 1024;

/// How often the speed is checked.
pub(super) const SPEED_WINDOW: Duration = Duration::from_secs(60);

/// How often another process's progress is checked.
const FOLLOW_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A download in progress.
pub(super) struct Download {
    disk: Arc<Disk>,
    wanted: Wanted,
    progress: watch::Sender<Progress>,
}

impl Download {
    /// Makes a download that has not begun, and its handle for readers.
    pub(super) fn new(disk: Arc<Disk>, wanted: Wanted) -> (Self, Followed) {
        let (progress, watched) = watch::channel(Progress::Asked);
        let followed = Followed { digest: wanted.digest, progress: watched };
        (Self { disk, wanted, progress }, followed)
    }

    /// Fetches the blob into the cache, or waits until another process of the node has, and reports
    /// the end to its readers.
    pub(super) async fn run<S, F>(self, fetch: impl FnOnce() -> F)
    where
        S: Stream<Item = Result<Bytes, RegistryError>>,
        F: Future<Output = Result<S, RegistryError>>,
    {
        let end = match self.file(fetch).await {
            Ok(file) => Progress::Done(Arc::new(file)),
            Err(error) => Progress::Failed(error),
        };
        self.progress.send_replace(end);
    }

    async fn file<S, F>(&self, fetch: impl FnOnce() -> F) -> Result<File, CacheError>
    where
        S: Stream<Item = Result<Bytes, RegistryError>>,
        F: Future<Output = Result<S, RegistryError>>,
    {
        let Wanted { digest, .. } = self.wanted;
        let mut part = self.part().await?;
        // Another process may have finished it meanwhile.
        if let Some(file) = self.disk.get(digest).await {
            return Ok(file);
        }
        self.write(&mut part, fetch).await?;
        let named = part.persist(&self.disk.path(digest));
        let file = named.map_err(|error| self.disk.error(error))?;
        self.disk.trust(digest, &file);
        let evicting = Arc::clone(&self.disk);
        let evicted = tokio::task::spawn_blocking(move || evicting.evict(digest)).await;
        if let Ok(Err(error)) = evicted {
            tracing::warn!(%error, "could not evict from the blob cache");
        }
        Ok(file)
    }

    /// Returns the file to write to, once no other process of the node writes it. A process that
    /// makes no progress is not waited for.
    async fn part(&self) -> Result<Part, CacheError> {
        let path = self.disk.part(&self.wanted);
        let part = async {
            loop {
                let others = match Part::take(&path)? {
                    Taken::Ours(part) => return Ok(part),
                    Taken::Others(others) => others,
                };
                if !self.follow(&others).await? {
                    return Part::alone(&path);
                }
            }
        };
        part.await.map_err(|error| self.disk.error(error))
    }

    /// Reports another process's progress until it has ended, or returns `false` when it hardly
    /// moves.
    async fn follow(&self, others: &Followable) -> std::io::Result<bool> {
        let mut speed = Speed::new();
        let mut told = None;
        while let Some(written) = others.written()? {
            if told != Some(written) {
                self.progress.send_replace(Progress::Written(Arc::clone(&others.file), written));
                told = Some(written);
            }
            tokio::time::sleep(FOLLOW_POLL_INTERVAL).await;
            if speed.is_judged() && !speed.suffices(written) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fetches the blob into a file and checks it.
    async fn write<S, F>(
        &self,
        part: &mut Part,
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
        let readable = Arc::clone(&part.readable);
        let tell = |written| {
            self.progress.send_replace(Progress::Written(Arc::clone(&readable), written));
        };
        tell(0);
        let mut speed = Speed::new();
        loop {
            let chunk = match timeout_at(speed.judged_at, chunks.next()).await {
                Ok(Some(chunk)) => chunk.map_err(fetched)?,
                Ok(None) => break,
                Err(_elapsed) if speed.suffices(written) => continue,
                Err(_elapsed) => {
                    let slow = format!(
                        "blob {digest} arrives with less than {MIN_BYTES_PER_WINDOW} bytes a \
                        minute"
                    );
                    return Err(fetched(RegistryError::unavailable(slow)));
                }
            };
            written += chunk.len() as u64;
            if written > size {
                return Err(self.wanted.other_size());
            }
            hasher.update(&chunk);
            part.write_all(&chunk).map_err(|error| self.disk.error(error))?;
            tell(written);
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

/// The speed check of a download.
struct Speed {
    judged_at: Instant,
    had: u64,
}

impl Speed {
    fn new() -> Self {
        Self { judged_at: Instant::now() + SPEED_WINDOW, had: 0 }
    }

    fn is_judged(&self) -> bool {
        Instant::now() >= self.judged_at
    }

    /// Returns whether enough bytes arrived since the last check.
    fn suffices(&mut self, written: u64) -> bool {
        let came = written.saturating_sub(self.had);
        *self = Self { judged_at: Instant::now() + SPEED_WINDOW, had: written };
        came >= MIN_BYTES_PER_WINDOW
    }
}
