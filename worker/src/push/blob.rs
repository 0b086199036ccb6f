// SPDX-License-Identifier: Apache-2.0

//! Ensures that one repository holds one blob, with as few requests as the known locations allow.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::StreamExt as _;
use slipway_proto::Digest;
use slipway_proto::outcome::Transfer;

use super::{Push, PushError, Pusher};
use crate::assemble::base::BaseLayer;
use crate::assemble::layer::Layer;
use crate::base::{self, ResolvedBase};
use crate::cache::CacheError;
use slipway_registry::{Mounted, Pieces, Posted, Repository, Upload, UploadError, UploadSession};

/// The source of a blob's bytes.
pub(super) enum Source {
    /// A layer of the base.
    Base(Arc<ResolvedBase>, BaseLayer),
    /// A layer of the artifact.
    Made(Arc<Layer>),
    /// The config.
    Config(Bytes),
}

/// A blob that a repository must hold.
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) source: Source,
}

impl Blob {
    /// Returns whether no registry can have the blob yet, so that asking for it is pointless.
    fn is_fresh(&self) -> bool {
        match &self.source {
            Source::Base(..) => false,
            Source::Made(layer) => !layer.is_known,
            Source::Config(_) => true,
        }
    }

    /// Returns the repository of the target's registry that certainly holds it.
    fn origin(&self, target: &Repository) -> Option<&str> {
        let Source::Base(base, _) = &self.source else { return None };
        let source = &base.repository.reference;
        (source.registry() == target.reference.registry()).then(|| source.repository())
    }
}

impl Push<'_> {
    /// Ensures that a repository holds a blob. Of several builds that need it at once, one does the
    /// work.
    pub(super) async fn ensure_blob(
        &self,
        target: &Repository,
        blob: &Blob,
    ) -> Result<Transfer, PushError> {
        let locations = self.pusher.locations;
        let is_its_own = blob.origin(target) == Some(target.reference.repository());
        if !self.trusts_nothing && (is_its_own || locations.is_trusted(target, blob.digest)) {
            return Ok(Transfer::Found);
        }
        let uploads = &self.pusher.uploads.0;
        let key = ((target.reference.name(), target.secret.clone()), blob.digest);
        let flight =
            uploads.ensuring.join_observing(key, &uploads.progress, || self.stay_alive()).await;
        if flight.result().is_some() {
            return Ok(Transfer::Found);
        }
        let transfer = Box::pin(self.transfer(target, blob)).await?;
        locations.remember(target, blob.digest);
        flight.complete(());
        Ok(transfer)
    }

    /// An upload of another build moved, which this push waits for. An attempt that is over is
    /// dropped by its runner.
    fn stay_alive(&self) {
        let _over = self.pusher.liveness.touch();
    }

    async fn transfer(&self, target: &Repository, blob: &Blob) -> Result<Transfer, PushError> {
        let locations = self.pusher.locations;
        let here = target.reference.repository();
        let mut holders = locations.repositories(target, blob.digest);
        let is_here = holders.iter().any(|holder| holder == here);
        holders.retain(|holder| holder != here);
        let from = blob.origin(target).or(holders.first().map(String::as_str));
        let is_expected = is_here || (from.is_none() && !blob.is_fresh());
        if is_expected || self.trusts_nothing {
            let found = self.pusher.registry.has_blob(target, blob.digest).await;
            if found.map_err(|source| PushError::of_registry(target, source))? {
                return Ok(Transfer::Found);
            }
            locations.forget(target, blob.digest);
        }
        let mut session = None;
        if let Some(from) = from {
            match self.mount(target, blob.digest, from).await {
                Mount::Done => return Ok(Transfer::Mounted),
                Mount::Lacking(opened) => {
                    session = Some(opened);
                    if blob.origin(target).is_none() {
                        locations.forget(&sibling(target, from), blob.digest);
                    }
                }
                Mount::Refused => {}
            }
        } else if !is_expected && matches!(blob.source, Source::Made(_)) {
            // One request that asks and opens a session: another worker may have made this layer.
            match self.mount(target, blob.digest, here).await {
                Mount::Done => return Ok(Transfer::Found),
                Mount::Lacking(opened) => session = Some(opened),
                Mount::Refused => {}
            }
        }
        self.upload(target, session, from, blob).await
    }

    async fn mount(&self, target: &Repository, digest: Digest, from: &str) -> Mount {
        if self.trusts_nothing {
            // The registry may have said that it mounted what it lacks now.
            return Mount::Refused;
        }
        let Pusher { registry, mounts, .. } = self.pusher;
        let asked = mounts.ask(target, from, async |permission| {
            match registry.mount(target, digest, from).await {
                Mounted::Yes => {
                    permission.answered();
                    Mount::Done
                }
                Mounted::No(session) => {
                    permission.answered();
                    Mount::Lacking(session)
                }
                Mounted::Refused(refusal) => {
                    tracing::debug!(%refusal, "a mount was refused; the blob is uploaded");
                    permission.refused(&refusal);
                    Mount::Refused
                }
            }
        });
        asked.await.unwrap_or(Mount::Refused)
    }

    /// Sends a blob. If another build sends it to the same registry, waits and mounts it. `refused`
    /// is a repository from which it cannot be mounted.
    async fn upload(
        &self,
        target: &Repository,
        mut session: Option<UploadSession>,
        refused: Option<&str>,
        blob: &Blob,
    ) -> Result<Transfer, PushError> {
        let uploads = &self.pusher.uploads.0;
        let registry = target.reference.registry().to_owned();
        let key = (registry, target.secret.clone(), blob.digest);
        let flight =
            uploads.sending.join_observing(key, &uploads.progress, || self.stay_alive()).await;
        // Another build may have sent it since the locations were looked up.
        let known = self.pusher.locations.repositories(target, blob.digest);
        let here = target.reference.repository();
        let other = known.iter().find(|holder| *holder != here && Some(holder.as_str()) != refused);
        if let Some(other) = other {
            match self.mount(target, blob.digest, other).await {
                Mount::Done => return Ok(Transfer::Mounted),
                Mount::Lacking(opened) => {
                    session = Some(opened);
                    self.pusher.locations.forget(&sibling(target, other), blob.digest);
                }
                Mount::Refused => {}
            }
        }
        match &blob.source {
            Source::Config(bytes) => self.send_config(target, session, blob, bytes).await?,
            Source::Made(layer) => {
                let content = layer.content().await?;
                self.send(target, session, blob, &|offset| content.stream_from(offset).boxed())
                    .await?;
            }
            Source::Base(base, layer) => {
                self.send_base_layer(target, session, blob, base, layer).await?;
            }
        }
        self.sent.fetch_add(blob.size, Ordering::Relaxed);
        self.pusher.locations.remember(target, blob.digest);
        flight.complete(());
        Ok(Transfer::Uploaded)
    }

    async fn send_config(
        &self,
        target: &Repository,
        mut session: Option<UploadSession>,
        blob: &Blob,
        bytes: &Bytes,
    ) -> Result<(), PushError> {
        if session.is_none() {
            let posted = self.pusher.registry.post_whole(target, blob.digest, bytes).await;
            match posted.map_err(|source| PushError::of_registry(target, source))? {
                Posted::Yes => return Ok(()),
                Posted::No(opened) => session = opened,
            }
        }
        let content = |offset| {
            let rest = bytes.slice(usize::try_from(offset).unwrap_or(bytes.len())..);
            futures::stream::once(std::future::ready(Ok(rest))).boxed()
        };
        self.send(target, session, blob, &content).await
    }

    async fn send_base_layer(
        &self,
        target: &Repository,
        session: Option<UploadSession>,
        blob: &Blob,
        on: &ResolvedBase,
        layer: &BaseLayer,
    ) -> Result<(), PushError> {
        let of_base = |source| PushError::BaseLayer {
            reference: on.image.reference.clone(),
            digest: layer.digest,
            source,
        };
        let Pusher { registry, cache, .. } = self.pusher;
        let (wanted, fetch) = base::download(registry, &on.repository, layer.digest, layer.size);
        let held = cache.get_or_follow(wanted, fetch).await;
        let held = held.map_err(of_base)?;
        let sent =
            self.send(target, session, blob, &|offset| held.stream_from(offset).boxed()).await;
        sent.map_err(|error| match error {
            PushError::Content(error) => of_base(unread(self.pusher.cache.directory(), error)),
            error => {
                // The registry may have noticed damage that this process no longer checks for.
                self.pusher.cache.doubt(layer.digest);
                error
            }
        })
    }

    async fn send(
        &self,
        target: &Repository,
        session: Option<UploadSession>,
        blob: &Blob,
        content: &(dyn Fn(u64) -> Pieces + Send + Sync),
    ) -> Result<(), PushError> {
        let alive = |offset| {
            let (liveness, uploads) = (self.pusher.liveness.clone(), self.pusher.uploads.clone());
            let pieces = content(offset);
            pieces
                .map(move |piece| {
                    uploads.0.progress.send_replace(());
                    liveness.touch().and(piece)
                })
                .boxed()
        };
        let upload = Upload { digest: blob.digest, size: blob.size, content: &alive };
        match self.pusher.registry.upload(target, session, &upload).await {
            Ok(()) => Ok(()),
            Err(UploadError::Registry(source)) => Err(PushError::of_registry(target, source)),
            Err(UploadError::Content(source)) => Err(PushError::Content(source)),
        }
    }
}

/// The result of a mount.
enum Mount {
    /// The blob is in the repository now.
    Done,
    /// The other repository does not have it. It must be uploaded, and this session can be used.
    Lacking(UploadSession),
    /// It must be uploaded. Whether the other repository has it is unknown.
    Refused,
}

/// Returns another repository of the same registry.
fn sibling(target: &Repository, name: &str) -> Repository {
    let path = format!("{}/{name}", target.reference.registry());
    let reference = path.parse().unwrap_or_else(|_| target.reference.clone());
    Repository { reference, secret: target.secret.clone() }
}

/// Returns why a layer of the base could not be read.
fn unread(directory: &std::path::Path, error: io::Error) -> CacheError {
    let known = error.get_ref().and_then(|error| error.downcast_ref::<CacheError>()).cloned();
    known.unwrap_or_else(|| CacheError::Disk {
        path: directory.display().to_string(),
        source: std::sync::Arc::new(error),
    })
}
