// SPDX-License-Identifier: Apache-2.0

//! Turns an artifact, a recipe and a base image into layers, a config and a manifest.
//!
//! Everything here is a function of its input alone: entries are sorted, times and owners are
//! fixed, and JSON is written in a fixed order. [`ASSEMBLY_VERSION`] numbers the behaviour that
//! digests depend on, and tests compare golden digests.

pub mod base;
pub mod compress;
pub mod config;
pub mod content;
pub mod index;
mod inherited;
pub mod key;
pub mod layer;
pub mod layout;
pub mod manifest;
pub mod records;
pub mod tar;
pub mod walk;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use slipway_artifact::{Bundle, FileSource};
use slipway_proto::request::Layering;
use slipway_proto::{BuildRequest, Digest, Failure, Reason};

use crate::failure::StageError;
use base::BaseImage;
use layer::{Layer, LayerContext, LayerSource, PendingLayer};
use layout::{PlannedLayer, Start};

/// Numbers the behaviour that digests depend on: layout, tar, compression, config, manifest. Raise
/// it with every change that gives the same input another digest, including one of the zstd
/// library, and record the new digests.
pub const ASSEMBLY_VERSION: u32 = 3;

/// The time of images, and of files without a time of their own: one second after the epoch, because
/// some tools read zero as "not set".
pub const DEFAULT_EPOCH: i64 = 1;

/// An image that is ready to be pushed or written to a file.
#[derive(Debug)]
pub struct Assembled {
    /// The layers made here, in order; those of the base come before them.
    pub layers: Vec<Arc<Layer>>,
    /// The base, unless the image starts from nothing.
    pub base: Option<Arc<BaseImage>>,
    /// The bytes of the config.
    pub config: Bytes,
    /// The digest of the config.
    pub config_digest: Digest,
    /// The bytes of the manifest.
    pub manifest: Bytes,
    /// The digest of the manifest.
    pub manifest_digest: Digest,
}

/// Why an image could not be assembled.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The artifact is malformed.
    #[error("{0}")]
    Artifact(String),
    /// Artifact and recipe do not fit together.
    #[error("{0}")]
    Recipe(String),
    /// A layer differs from the record of it.
    #[error(
        "the layer {title} came out as {made} and was recorded as {recorded}: the record was dropped, and another attempt makes the layer again"
    )]
    Record {
        /// The layer's title.
        title: String,
        /// The digest that was recorded.
        recorded: Digest,
        /// The digest of what was made now.
        made: Digest,
    },
    /// Reading or writing a local file failed.
    #[error("failed to {what}")]
    Disk {
        /// The work that failed, as in "write a layer".
        what: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl AssembleError {
    pub(crate) fn disk(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Disk { what, source }
    }
}

impl From<&AssembleError> for StageError {
    fn from(error: &AssembleError) -> Self {
        match error {
            AssembleError::Artifact(message) => {
                Self::permanent(Failure::new(Reason::InvalidArtifact, message))
            }
            AssembleError::Recipe(message) => {
                Self::permanent(Failure::new(Reason::InvalidRequest, message))
            }
            AssembleError::Record { .. } => {
                Self::transient(Failure::new(Reason::AssembleFailed, error.to_string()))
            }
            AssembleError::Disk { source, .. } => {
                Self::transient(Failure::new(Reason::AssembleFailed, format!("{error}: {source}")))
            }
        }
    }
}

impl From<AssembleError> for StageError {
    fn from(error: AssembleError) -> Self {
        Self::from(&error)
    }
}

impl From<slipway_artifact::InspectError> for AssembleError {
    fn from(error: slipway_artifact::InspectError) -> Self {
        match error {
            slipway_artifact::InspectError::Invalid(invalid) => Self::Artifact(invalid.to_string()),
            slipway_artifact::InspectError::Read(source) => {
                Self::Disk { what: "read the artifact", source }
            }
        }
    }
}

/// The part of an image that an artifact makes, without a base.
#[derive(Debug)]
pub struct Parts {
    /// Its layers, in order.
    pub layers: Vec<Arc<Layer>>,
    start: Start,
}

/// Follows the making of an image's layers.
pub trait Progress: Sync {
    /// A layer is made. Layers come in any order.
    fn made(&self, layer: &Arc<Layer>);

    /// From now on, one processor is free. Called once, unless making fails before.
    fn leaves_a_processor(&self);
}

/// Makes the layers of an artifact. Without its digest, no layer is found by the artifact's record.
/// Blocks: it reads the parts of the artifact for which there is no record.
///
/// # Errors
///
/// When the artifact or the request is unsuitable, or a disk fails.
pub fn make_parts(
    request: &BuildRequest,
    artifact: &Arc<FileSource>,
    digest: Option<Digest>,
    context: &LayerContext,
    progress: &dyn Progress,
) -> Result<Parts, AssembleError> {
    let bundle = (request.recipe.layering == Layering::Bundle)
        .then(|| Bundle::open(&**artifact, &context.scratch))
        .transpose()?;
    let plan = layout::plan(request, artifact, bundle.as_ref())?;
    // A compressed bundle was unpacked, and its files are ranges of that.
    let artifact = bundle.as_ref().and_then(Bundle::unpacked).unwrap_or(artifact);
    let source =
        LayerSource { artifact: Arc::clone(artifact), digest, compression: request.compression };
    let layers = make_layers(plan.layers, &source, context, progress)?;
    Ok(Parts { layers, start: plan.start })
}

/// Puts the layers of an artifact on a base. `digest` is the artifact's.
///
/// # Errors
///
/// When the base's config does not allow it.
pub fn put_together(
    request: &BuildRequest,
    digest: Digest,
    base: Option<Arc<BaseImage>>,
    parts: Parts,
    epoch: i64,
) -> Result<Assembled, AssembleError> {
    let Parts { layers, start } = parts;
    let config = config::image_config(request, digest, &start, base.as_deref(), &layers, epoch)?;
    let config_digest = Digest::of(&config);
    let manifest =
        manifest::image_manifest(request, base.as_deref(), &layers, config_digest, config.len());
    let manifest_digest = Digest::of(&manifest);
    Ok(Assembled { layers, base, config, config_digest, manifest, manifest_digest })
}

/// Makes the layers without a record, on two threads. More would not make one build faster.
///
/// Each layer is sent while the next is made. So layers that take less time to make than to send
/// come first (S. M. Johnson's rule for two machines in a row, 1954). A layer that keeps two threads
/// busy is made alone. The others are made two at a time.
fn make_layers(
    planned: Vec<PlannedLayer>,
    source: &LayerSource,
    context: &LayerContext,
    progress: &dyn Progress,
) -> Result<Vec<Arc<Layer>>, AssembleError> {
    let pass_on = |layer| {
        let layer = Arc::new(layer);
        progress.made(&layer);
        layer
    };
    let mut layers = Vec::new();
    let mut pending = Vec::new();
    for (index, planned) in planned.into_iter().enumerate() {
        match layer::find(planned, source, context) {
            Ok(layer) => layers.push((index, Ok(pass_on(layer)))),
            Err(missing) => pending.push((index, missing)),
        }
    }
    pending.sort_by_key(|(_, pending)| {
        (!pending.is_made_fast(source), std::cmp::Reverse(pending.length()))
    });
    let (alone, together): (Vec<_>, Vec<_>) =
        pending.into_iter().partition(|(_, pending)| pending.takes_two_threads(source));
    let make = |pending| layer::make(pending, source, context).map(pass_on);
    for (index, pending) in alone {
        let layer = make(pending);
        let failed = layer.is_err();
        layers.push((index, layer));
        if failed {
            break;
        }
    }
    if layers.iter().all(|(_, layer)| layer.is_ok()) {
        progress.leaves_a_processor();
        layers.extend(make_in_parallel(together, &make));
    }
    // Of several failures, that of the lowest layer is returned, whichever came first in time.
    layers.sort_by_key(|(index, _)| *index);
    layers.into_iter().map(|(_, layer)| layer).collect()
}

type Outcome = Result<Arc<Layer>, AssembleError>;

fn make_in_parallel(
    pending: Vec<(usize, PendingLayer)>,
    make: &(dyn Fn(PendingLayer) -> Outcome + Sync),
) -> Vec<(usize, Outcome)> {
    let waiting = Mutex::new(pending.into_iter());
    let failed = AtomicBool::new(false);
    let work = || {
        let mut made = Vec::new();
        while !failed.load(Relaxed) {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((index, pending)) = next else { break };
            let layer = make(pending);
            failed.fetch_or(layer.is_err(), Relaxed);
            made.push((index, layer));
        }
        made
    };
    std::thread::scope(|scope| {
        let second = scope.spawn(work);
        let mut made = work();
        made.extend(second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        made
    })
}
