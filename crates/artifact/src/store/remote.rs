// SPDX-License-Identifier: Apache-2.0

//! A store in a cloud: uploads in parts, and reads of ranges.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, WriteMultipart};
use slipway_proto::Digest;
use tokio::runtime::Handle;

use super::{StoreError, blob_path, fresh_upload_path};
use crate::source::Source;

/// The size of a part. Clouds take at most 10,000 parts and none below 5 MiB, so this bounds an
/// artifact to 80 GB, and with [`MAX_PARTS_IN_FLIGHT`] an upload to 24 MiB of memory.
const UPLOAD_PART_BYTES: usize = 8 << 20;
const MAX_PARTS_IN_FLIGHT: usize = 2;

/// The objects of an upload in the cloud so far. They are removed unless the upload is placed.
pub(super) struct RemoteUpload {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    state: State,
}

enum State {
    Writing(WriteMultipart),
    Written,
    Gone,
}

impl RemoteUpload {
    pub(super) async fn begin(objects: Arc<dyn ObjectStore>) -> Result<Self, StoreError> {
        let path = fresh_upload_path();
        let parts = objects.put_multipart(&path).await;
        let parts = parts.map_err(|error| StoreError::of_object("begin an upload", error))?;
        let state = State::Writing(WriteMultipart::new_with_chunk_size(parts, UPLOAD_PART_BYTES));
        Ok(Self { objects, path, state })
    }

    pub(super) async fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        let State::Writing(parts) = &mut self.state else {
            return Err(StoreError::unavailable("write an artifact", "the upload has ended"));
        };
        let room = parts.wait_for_capacity(MAX_PARTS_IN_FLIGHT).await;
        room.map_err(|error| StoreError::of_object("write an artifact", error))?;
        parts.write(piece);
        Ok(())
    }

    /// Ends the writing, and returns the upload as a source of `length` bytes.
    pub(super) async fn complete(&mut self, length: u64) -> Result<RemoteSource, StoreError> {
        if let State::Writing(parts) = std::mem::replace(&mut self.state, State::Written) {
            let done = parts.finish().await;
            done.map_err(|error| StoreError::of_object("write an artifact", error))?;
        }
        Ok(RemoteSource::new(Arc::clone(&self.objects), self.path.clone(), length))
    }

    /// Copies the upload to its final name within the cloud, and removes it under its first one.
    pub(super) async fn place(&mut self, length: u64, digest: Digest) -> Result<(), StoreError> {
        let failed = |error| StoreError::of_object("keep an artifact", error);
        let blob = blob_path(digest);
        let known = match self.objects.head(&blob).await {
            Ok(known) => known.size == length,
            Err(object_store::Error::NotFound { .. }) => false,
            Err(error) => return Err(failed(error)),
        };
        if !known {
            self.objects.copy(&self.path, &blob).await.map_err(failed)?;
        }
        self.discard().await;
        Ok(())
    }

    /// Removes the upload under its first name.
    pub(super) async fn discard(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Gone);
        remove(&self.objects, &self.path, state).await;
    }
}

impl Drop for RemoteUpload {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Gone);
        if matches!(state, State::Gone) {
            return;
        }
        // The client hung up, and nobody is left to wait for this. If the process ends first, the
        // sweep removes the object, and a lifecycle rule of the bucket removes loose parts.
        if let Ok(runtime) = Handle::try_current() {
            let (objects, path) = (Arc::clone(&self.objects), self.path.clone());
            runtime.spawn(async move { remove(&objects, &path, state).await });
        }
    }
}

async fn remove(objects: &Arc<dyn ObjectStore>, path: &Path, state: State) {
    let result = match state {
        State::Writing(parts) => parts.abort().await,
        State::Written => objects.delete(path).await,
        State::Gone => return,
    };
    match result {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => tracing::warn!(%error, upload = %path, "cannot remove an upload"),
    }
}

/// Bytes read at once, ahead of what is asked for.
const AHEAD: u64 = 2 << 20;
/// How many blocks are kept: for the place that is being read, and for the one it returns to.
const MAX_CACHED_BLOCKS: usize = 3;

/// An object of a cloud, read by ranges. It blocks, and therefore must be used on a thread that
/// may, within a runtime.
pub(super) struct RemoteSource {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    length: u64,
    runtime: Handle,
    /// The blocks read last, the newest first, by their index.
    blocks: Mutex<VecDeque<(u64, Bytes)>>,
}

impl RemoteSource {
    fn new(objects: Arc<dyn ObjectStore>, path: Path, length: u64) -> Self {
        let blocks = Mutex::new(VecDeque::with_capacity(MAX_CACHED_BLOCKS));
        Self { objects, path, length, runtime: Handle::current(), blocks }
    }

    fn block(&self, index: u64) -> io::Result<Bytes> {
        // The lock serialises readers; there is only one.
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = blocks.iter().position(|(known, _)| *known == index) {
            let found = blocks.remove(at).expect("the position is in range");
            let bytes = found.1.clone();
            blocks.push_front(found);
            return Ok(bytes);
        }
        let start = index * AHEAD;
        let range = start..(start + AHEAD).min(self.length);
        let bytes = self.runtime.block_on(self.objects.get_range(&self.path, range));
        let bytes = bytes.map_err(io::Error::other)?;
        blocks.truncate(MAX_CACHED_BLOCKS - 1);
        blocks.push_front((index, bytes.clone()));
        Ok(bytes)
    }
}

impl Source for RemoteSource {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_exact_at(&self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !buffer.is_empty() {
            let block = self.block(offset / AHEAD)?;
            let within = usize::try_from(offset % AHEAD).expect("less than a block");
            let found = block.get(within..).filter(|found| !found.is_empty());
            let found = found.ok_or(io::ErrorKind::UnexpectedEof)?;
            let count = found.len().min(buffer.len());
            let (now, later) = buffer.split_at_mut(count);
            now.copy_from_slice(&found[..count]);
            buffer = later;
            offset += count as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;
    use object_store::memory::InMemory;

    use super::*;

    async fn written(bytes: &[u8]) -> (Arc<dyn ObjectStore>, RemoteUpload, RemoteSource) {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let mut upload = RemoteUpload::begin(Arc::clone(&objects)).await.expect("it begins");
        upload.write(bytes).await.expect("it is written");
        let source = upload.complete(bytes.len() as u64).await.expect("it is complete");
        (objects, upload, source)
    }

    #[tokio::test]
    async fn reads_are_right_within_and_across_blocks() {
        let bytes: Vec<u8> = (0..1_500_000u32).flat_map(u32::to_be_bytes).collect();
        let (_objects, _upload, source) = written(&bytes).await;
        let read = move || {
            let block = usize::try_from(AHEAD).expect("it fits");
            let last = bytes.len() - 10;
            for at in [0, 7, block - 5, block, 2 * block - 1, last, 3, block - 5, last, 0] {
                for length in [0, 1, 10, 2 * block] {
                    let length = length.min(bytes.len() - at);
                    let mut buffer = vec![0; length];
                    source.read_exact_at(at as u64, &mut buffer).expect("it is read");
                    assert!(buffer == bytes[at..at + length], "{length} at {at}");
                }
            }
            for (at, length) in [(last + 1, 10), (bytes.len(), 1), (usize::MAX, 2)] {
                let error = source.read_exact_at(at as u64, &mut vec![0; length]);
                let error = error.expect_err("it is behind the end");
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            }
            assert!(source.blocks.lock().expect("no panic").len() <= MAX_CACHED_BLOCKS);
        };
        tokio::task::spawn_blocking(read).await.expect("no panic");
    }

    #[tokio::test]
    async fn an_upload_that_is_dropped_when_it_is_written_is_removed() {
        let (objects, upload, _source) = written(b"content").await;
        let list = || async { objects.list(None).try_collect::<Vec<_>>().await.expect("a list") };
        assert_eq!(list().await.len(), 1);
        drop(upload);
        // A task of its own removes it, and runs when this one waits.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(list().await.len(), 0);
    }
}
