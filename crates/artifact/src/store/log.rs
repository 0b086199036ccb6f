// SPDX-License-Identifier: Apache-2.0

//! The logs of builds that have ended.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt as _};
use slipway_proto::{BuildId, ProjectName, Timestamp};
use tokio::io::AsyncWriteExt as _;

use super::{ArtifactStore, StoreError};

/// A log up to this size is written at once, a longer one in parts of this size, the smallest that
/// clouds accept.
const LOG_PART_BYTES: usize = 5 << 20;

fn log_path(project: &ProjectName, build: BuildId) -> Path {
    Path::from_iter(["logs", project.as_str(), &format!("{build}.log")])
}

/// An archived log.
#[derive(Debug, Clone)]
pub struct StoredLog {
    /// The size of the log.
    pub size_bytes: u64,
    /// When it was archived.
    pub archived_at: Timestamp,
    path: Path,
}

impl ArtifactStore {
    /// Lists every archived log.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn logs(&self) -> Result<Vec<StoredLog>, StoreError> {
        let logs = self.listed("logs").await?.into_iter();
        let stored = |log: ObjectMeta| StoredLog {
            size_bytes: log.size,
            archived_at: self.modified(&log),
            path: log.location,
        };
        Ok(logs.map(stored).collect())
    }

    /// Removes an archived log.
    ///
    /// # Errors
    ///
    /// When the store cannot be written to.
    pub async fn remove_log(&self, log: &StoredLog) -> Result<(), StoreError> {
        self.remove(&log.path).await
    }

    /// Keeps the whole log of a build. It replaces an older one.
    ///
    /// # Errors
    ///
    /// When the store cannot be written to, or `log` ends in an error; nothing is kept then.
    pub async fn put_log<E>(
        &self,
        project: &ProjectName,
        build: BuildId,
        log: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<(), StoreError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = log_path(project, build);
        let objects = Arc::clone(&self.objects);
        let mut writer =
            BufWriter::with_capacity(objects, path, LOG_PART_BYTES).with_max_concurrency(1);
        let mut log = std::pin::pin!(log);
        while let Some(piece) = log.next().await {
            let written = match piece {
                Ok(piece) => writer
                    .put(piece)
                    .await
                    .map_err(|error| StoreError::of_object("write a log", error)),
                Err(error) => Err(StoreError::unavailable("read the log to be kept", error)),
            };
            if let Err(error) = written {
                if let Err(abort) = writer.abort().await {
                    tracing::warn!(error = %abort, %build, "cannot remove a log's parts");
                }
                return Err(error);
            }
        }
        writer.shutdown().await.map_err(|error| StoreError::of_io("write a log", error))
    }

    /// Reads the log of a build, if one was kept.
    ///
    /// # Errors
    ///
    /// When the store cannot be read, at once or in the stream.
    pub async fn get_log(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, StoreError>>>, StoreError> {
        let failed = |error| StoreError::of_object("read a log", error);
        match self.objects.get(&log_path(project, build)).await {
            Ok(found) => Ok(Some(found.into_stream().map_err(failed).boxed())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }
}
