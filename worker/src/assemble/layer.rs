// SPDX-License-Identifier: Apache-2.0

//! Makes a planned layer, or finds that it was made before.
//!
//! A layer is looked up by its part of the artifact first: then nothing is read. Otherwise the
//! artifact is walked over, and one walk makes the layer. If the artifact's list of entries looks like
//! that of a layer that was made before, a first walk only computes the archive's fingerprint, which
//! costs a third of one digest instead of two, and a second walk makes the layer only if it is a new
//! one. A layer that was found is made when its bytes are needed, because a registry may have lost
//! them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use slipway_artifact::FileSource;
use slipway_proto::Digest;
use slipway_proto::request::Compression;

use super::compress::{Compressed, DigestOnly, Digesting, Digests, LayerWriter, Passed};
use super::content::Content;
use super::layout::{Data, Node, PlannedLayer};
use super::records::{LayerRecord, LayerRecords};
use super::walk::{seems_compressed, walk};
use super::{AssembleError, key};
use crate::liveness::Liveness;

/// A layer of fewer bytes is digested before a second thread would have started.
const SECOND_THREAD_MIN_BYTES: u64 = 2 << 20;

/// Everything that the layers of a build share.
#[derive(Debug, Clone)]
pub struct LayerContext {
    /// The directory for temporary files, which have no names and disappear with the layers.
    pub scratch: PathBuf,
    /// The layers that were made before.
    pub records: LayerRecords,
    /// The time of files, in seconds since the epoch.
    pub epoch: i64,
    /// Signs of life of the build. Work stops when the build is over.
    pub liveness: Liveness,
}

/// The source of layers.
#[derive(Debug, Clone)]
pub struct LayerSource {
    /// The bytes of the artifact.
    pub artifact: Arc<FileSource>,
    /// The digest of the artifact, if it is known yet.
    pub digest: Option<Digest>,
    /// How layers are stored.
    pub compression: Compression,
}

/// A layer of an image.
#[derive(Debug)]
pub struct Layer {
    /// What the layer holds, for people.
    pub title: String,
    /// The digest of its stored bytes.
    pub digest: Digest,
    /// The digest of the tar archive.
    pub diff_id: Digest,
    /// The number of its stored bytes.
    pub size: u64,
    /// The media type of its stored bytes.
    pub media_type: &'static str,
    /// Whether there is a record of it: it was made before, so a registry may hold it.
    pub is_known: bool,
    /// Whether there is a record under its part of the artifact.
    is_recorded: bool,
    /// Other keys without a record yet.
    unrecorded: Vec<Digest>,
    origin: Arc<Origin>,
}

/// Where a layer's bytes come from.
#[derive(Debug)]
struct Origin {
    source: LayerSource,
    context: LayerContext,
    record: LayerRecord,
    /// The part of the artifact that it holds.
    part: key::Part,
    /// The artifact's digest, once it is known.
    digest: OnceLock<Digest>,
    state: Mutex<State>,
}

/// A layer that was made no longer needs its plan.
#[derive(Debug)]
enum State {
    Planned(PlannedLayer),
    Made(Arc<Content>),
}

impl Layer {
    /// Returns the layer's bytes. They are made now if only the record was used so far.
    ///
    /// # Errors
    ///
    /// When they cannot be made, or differ from the record, which is then dropped.
    pub async fn content(&self) -> Result<Arc<Content>, AssembleError> {
        if let Some(content) = self.origin.made() {
            return Ok(content);
        }
        let origin = Arc::clone(&self.origin);
        let made = tokio::task::spawn_blocking(move || origin.content());
        made.await.unwrap_or_else(|error| {
            let source = std::io::Error::other(error);
            Err(AssembleError::Disk { what: "finish making a layer", source })
        })
    }

    /// Does the same as [`content`](Self::content) on this thread. Blocks.
    ///
    /// # Errors
    ///
    /// As [`content`](Self::content).
    pub fn content_blocking(&self) -> Result<Arc<Content>, AssembleError> {
        self.origin.content()
    }

    /// Remembers the layer. The artifact's digest must have been verified: otherwise the record would
    /// stand for bytes that the layer was not made from.
    pub fn remember(&self, artifact: Digest) {
        let origin = &self.origin;
        let digest = *origin.digest.get_or_init(|| artifact);
        let part = (!self.is_recorded).then(|| origin.part.of(digest));
        for key in self.unrecorded.iter().copied().chain(part) {
            origin.context.records.remember(key, origin.record);
        }
    }
}

impl Origin {
    /// Returns the keys of the records that the layer may have come from.
    fn keys(&self) -> impl Iterator<Item = Digest> {
        let part = self.digest.get().map(|digest| self.part.of(*digest));
        part.into_iter().chain([self.record.archive])
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the bytes if they were made. Does not wait for a thread that makes them now.
    fn made(&self) -> Option<Arc<Content>> {
        match &*self.state.try_lock().ok()? {
            State::Made(content) => Some(Arc::clone(content)),
            State::Planned(_) => None,
        }
    }

    fn content(&self) -> Result<Arc<Content>, AssembleError> {
        // Locked while the layer is made, so that it is made once for all callers.
        let mut state = self.state();
        let planned = match &*state {
            State::Made(content) => return Ok(Arc::clone(content)),
            State::Planned(planned) => planned,
        };
        let made = write(planned, &self.source, &self.context, Digesting::No)?;
        if (made.digest, made.size) != (self.record.digest, self.record.size) {
            for key in self.keys() {
                self.context.records.forget(key);
            }
            return Err(AssembleError::Record {
                title: planned.title.clone(),
                recorded: self.record.digest,
                made: made.digest,
            });
        }
        let content = Arc::new(made.content);
        *state = State::Made(Arc::clone(&content));
        Ok(content)
    }
}

/// A layer without a record under its part of the artifact.
pub(super) struct PendingLayer {
    planned: PlannedLayer,
    part: key::Part,
    outline: Option<Digest>,
    /// Whether a layer with this outline was made before.
    is_familiar: bool,
    weight: Weight,
}

/// How much work a layer is.
#[derive(Clone, Copy)]
struct Weight {
    /// The bytes of its files.
    length: u64,
    /// How many of those bytes are worth compressing.
    to_compress: u64,
}

impl PendingLayer {
    /// Returns the number of bytes of its files.
    pub(super) fn length(&self) -> u64 {
        self.weight.length
    }

    /// Returns whether it takes less time to make than to send. About 200 MB are sent in a second,
    /// 1,200 MB digested and 160 MB deflated.
    pub(super) fn is_made_fast(&self, source: &LayerSource) -> bool {
        match source.compression {
            Compression::None => true,
            _ => !self.is_familiar && self.weight.to_compress < self.weight.length / 3 * 2,
        }
    }

    /// Returns whether two digests, or deflating, keep two threads busy from beginning to end.
    pub(super) fn takes_two_threads(&self, source: &LayerSource) -> bool {
        !self.is_familiar && self.is_large() && source.compression != Compression::Zstd
    }

    fn is_large(&self) -> bool {
        self.weight.length >= SECOND_THREAD_MIN_BYTES
    }

    fn digesting(&self, digests: Digests) -> Digesting {
        if self.is_large() { Digesting::Elsewhere(digests) } else { Digesting::Here(digests) }
    }
}

/// Finds a layer by its part of the artifact, if the artifact's digest is known.
pub(super) fn find(
    planned: PlannedLayer,
    source: &LayerSource,
    context: &LayerContext,
) -> Result<Layer, PendingLayer> {
    let part = key::Part::new(&planned, source.compression, context.epoch);
    match source.digest.and_then(|digest| context.records.get(part.of(digest))) {
        Some(record) => {
            let title = planned.title.clone();
            let mut layer = layer(title, source, context, record, part, State::Planned(planned));
            layer.is_recorded = true;
            Ok(layer)
        }
        None => {
            let weight = weigh(&planned, source);
            let outline = key::outline(&planned, source.compression, context.epoch);
            let is_familiar = outline.is_some_and(|key| context.records.get(key).is_some());
            Err(PendingLayer { planned, part, outline, is_familiar, weight })
        }
    }
}

/// Makes a layer, unless its archive is that of one that was made before.
pub(super) fn make(
    pending: PendingLayer,
    source: &LayerSource,
    context: &LayerContext,
) -> Result<Layer, AssembleError> {
    let digesting = pending.digesting(Digests::All);
    let first_look = pending.is_familiar.then(|| pending.digesting(Digests::Fingerprint));
    let PendingLayer { planned, part, outline, is_familiar, .. } = pending;
    let title = planned.title.clone();
    if let Some(digesting) = first_look {
        let mut sink = DigestOnly::new(&source.artifact, digesting, &context.liveness);
        walk(&planned, &source.artifact, context.epoch, &mut sink)?;
        let passed = sink.finish().map_err(AssembleError::disk("digest a layer"))?;
        let archive = archive(&passed, source);
        if let Some(record) = context.records.get(archive).filter(|r| r.archive == archive) {
            return Ok(layer(title, source, context, record, part, State::Planned(planned)));
        }
    }
    let made = write(&planned, source, context, digesting)?;
    let archive = archive(&made.passed, source);
    let diff_id = made.passed.diff_id.expect("it was asked for");
    let record = LayerRecord { archive, diff_id, digest: made.digest, size: made.size };
    let mut layer =
        layer(title, source, context, record, part, State::Made(Arc::new(made.content)));
    layer.is_known = context.records.get(archive) == Some(record);
    layer.unrecorded.extend((!layer.is_known).then_some(archive));
    layer.unrecorded.extend(outline.filter(|_| !is_familiar));
    Ok(layer)
}

fn archive(passed: &Passed, source: &LayerSource) -> Digest {
    let fingerprint = passed.fingerprint.expect("it was asked for");
    key::archive(fingerprint, source.compression)
}

/// Makes a layer that has a record, but none under its part of the artifact.
fn layer(
    title: String,
    source: &LayerSource,
    context: &LayerContext,
    record: LayerRecord,
    part: key::Part,
    state: State,
) -> Layer {
    let origin = Origin {
        source: source.clone(),
        context: context.clone(),
        record,
        part,
        digest: source.digest.map(OnceLock::from).unwrap_or_default(),
        state: Mutex::new(state),
    };
    Layer {
        title,
        digest: record.digest,
        diff_id: record.diff_id,
        size: record.size,
        media_type: source.compression.media_type(),
        is_known: true,
        is_recorded: false,
        unrecorded: Vec::new(),
        origin: Arc::new(origin),
    }
}

/// Estimates the work of a layer from the sizes and names of its files.
fn weigh(planned: &PlannedLayer, source: &LayerSource) -> Weight {
    let mut length: u64 = 0;
    let mut to_compress: u64 = 0;
    for (path, node) in &planned.nodes {
        let Node::File { data, .. } = node else { continue };
        let size = data.size(&source.artifact);
        let name = match data {
            Data::Whole | Data::Range(_) | Data::Text(_) => path,
            Data::Entry(entry) => &entry.name,
        };
        length = length.saturating_add(size);
        if !seems_compressed(name) {
            to_compress = to_compress.saturating_add(size);
        }
    }
    Weight { length, to_compress }
}

fn write(
    planned: &PlannedLayer,
    source: &LayerSource,
    context: &LayerContext,
    digesting: Digesting,
) -> Result<Compressed, AssembleError> {
    let disk = || AssembleError::disk("write a layer to the scratch directory");
    let digesting = match source.compression {
        // The digest of a plain archive is its diff id, which must be computed in any case.
        Compression::None => Digesting::Here(Digests::All),
        _ => digesting,
    };
    let (artifact, scratch) = (&source.artifact, &context.scratch);
    let mut writer =
        LayerWriter::new(source.compression, artifact, scratch, digesting, &context.liveness)
            .map_err(disk())?;
    walk(planned, artifact, context.epoch, writer.sink())?;
    writer.finish().map_err(disk())
}

#[cfg(test)]
mod tests;
