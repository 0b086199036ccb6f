// SPDX-License-Identifier: Apache-2.0

//! An artifact that is being received.

use std::sync::Arc;

use bytes::Bytes;
use slipway_proto::api::ArtifactView;
use slipway_proto::{ArtifactFacts, Digest, ProjectName, Timestamp};
use tokio::task::spawn_blocking;

use super::digesting::Digester;
use super::local::{Directory, Partial};
use super::remote::RemoteUpload;
use super::{ArtifactStore, ReceiveError, StoreError};
use crate::invalid::InspectError;
use crate::source::{FileSource, Source};

/// An artifact that is being received. If it is dropped before it is finished, or finishing fails,
/// nothing is left.
pub struct Upload {
    store: ArtifactStore,
    digester: Digester,
    target: Target,
    received: u64,
}

enum Target {
    /// The digester has the open file and writes to it.
    Local(Directory, Partial),
    Remote(RemoteUpload),
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").field("received", &self.received).finish_non_exhaustive()
    }
}

impl Upload {
    pub(super) async fn begin(store: ArtifactStore) -> Result<Self, StoreError> {
        let (target, file) = match store.directory.clone() {
            Some(directory) => {
                let (file, partial) = directory.create_upload().await?;
                (Target::Local(directory, partial), Some(file))
            }
            None => {
                let remote = RemoteUpload::begin(Arc::clone(&store.objects)).await?;
                (Target::Remote(remote), None)
            }
        };
        Ok(Self { store, digester: Digester::new(file), target, received: 0 })
    }

    /// Takes the next bytes of the artifact. Waits while earlier bytes are still being written.
    ///
    /// # Errors
    ///
    /// When the store cannot be written to; the upload is then lost.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        self.received += chunk.len() as u64;
        if let Target::Remote(remote) = &mut self.target {
            remote.write(&chunk).await?;
        }
        self.digester.write(&chunk).await
    }

    /// Returns the number of bytes taken so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Ends the upload: compares its digest with what the client said, inspects the bytes, and
    /// keeps them for the project. When this returns, they and their record are durable.
    ///
    /// # Errors
    ///
    /// When the bytes are refused or have another digest than expected, or the store fails.
    pub async fn finish(
        self,
        project: &ProjectName,
        filename: &str,
        expected: Option<Digest>,
        now: Timestamp,
    ) -> Result<ArtifactView, ReceiveError> {
        let Self { store, digester, target, received } = self;
        let (actual, file) = digester.finish().await?;
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            if let Target::Remote(mut remote) = target {
                remote.discard().await;
            }
            return Err(ReceiveError::DigestMismatch { expected, actual });
        }
        let described = |facts| ArtifactView {
            digest: actual,
            size_bytes: received,
            filename: filename.to_owned(),
            uploaded_at: now,
            facts,
        };
        match target {
            Target::Local(directory, partial) => {
                let failed = |error| StoreError::of_io("read an upload back", error);
                let file = file.expect("the digester of a local upload has its file");
                let source = file.try_clone().and_then(FileSource::new).map_err(failed)?;
                let view = described(inspect(&store, source, filename).await?);
                announce(&store, project, &view).await?;
                directory.place(file, partial, actual).await?;
                Ok(view)
            }
            Target::Remote(mut remote) => {
                let kept = async {
                    let source = remote.complete(received).await?;
                    let view = described(inspect(&store, source, filename).await?);
                    announce(&store, project, &view).await?;
                    remote.place(received, actual).await?;
                    Ok(view)
                };
                let kept = kept.await;
                remote.discard().await;
                kept
            }
        }
    }
}

/// Writes the record of an artifact and stops its removal, before its bytes are placed: see
/// [`removal`](super::removal). A record without bytes is none.
async fn announce(
    store: &ArtifactStore,
    project: &ProjectName,
    view: &ArtifactView,
) -> Result<(), StoreError> {
    store.put_record(project, view).await?;
    store.pardon(view.digest).await
}

/// Inspects a source on a blocking thread, when its turn comes.
async fn inspect(
    store: &ArtifactStore,
    source: impl Source + 'static,
    filename: &str,
) -> Result<ArtifactFacts, ReceiveError> {
    let turn = Arc::clone(&store.inspections).acquire_owned().await;
    let turn = turn.expect("the semaphore is never closed");
    let filename = filename.to_owned();
    let scratch = store.directory.as_ref().map_or_else(std::env::temp_dir, Directory::uploads);
    let work = move || {
        let inspected = crate::inspect_in(&source, &filename, &scratch);
        // Held until here and not by the future: a client that hangs up does not end the work.
        drop(turn);
        inspected
    };
    let inspected = spawn_blocking(work).await.map_err(StoreError::of_task)?;
    inspected.map_err(|error| match error {
        InspectError::Invalid(invalid) => ReceiveError::Invalid(invalid),
        InspectError::Read(error) => StoreError::of_io("read an upload back", error).into(),
    })
}
