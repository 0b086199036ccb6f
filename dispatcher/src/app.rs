// SPDX-License-Identifier: Apache-2.0

//! The state that the routes share.

use std::sync::Arc;

use slipway_artifact::ArtifactStore;
use slipway_proto::environment::Catalogue;
use slipway_queue::Queue;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::builds::announce::Announcer;
use crate::builds::existence::Known;
use crate::builds::find::Builds;
use crate::events::feed::Feed;
use crate::events::projection::Projection;
use crate::intake::artifacts::Artifacts;
use crate::metrics::Metrics;
use crate::pools::Pools;
use crate::readiness::Readiness;
use crate::reconcile::Reconciler;

/// How many batches are read at once. Reading one takes milliseconds of a processor, and several
/// times the memory of its bytes for that time.
pub(crate) const MAX_BATCHES_READ: usize = 4;

/// How many bytes of batches are held at once, from the first byte to the answer: eight of the
/// largest or hundreds of usual ones. The builds made of them take about as much again.
pub(crate) const MAX_BATCH_BYTES: usize = 64 << 20;

/// The parts that serve requests.
#[derive(Debug)]
pub(crate) struct App {
    /// The connection to NATS.
    pub(crate) queue: Queue,
    /// Artifacts and archived logs.
    pub(crate) store: ArtifactStore,
    /// Remembers which artifacts exist.
    pub(crate) artifacts: Artifacts,
    /// The environments.
    pub(crate) catalogue: Catalogue,
    /// The largest artifact in bytes.
    pub(crate) max_artifact_bytes: u64,
    /// Publishes events that could not be stored at once.
    pub(crate) announcer: Announcer,
    /// Finds one build.
    pub(crate) builds: Builds,
    /// Lists builds.
    pub(crate) projection: Projection,
    /// Asks whether the projection knows a build.
    pub(crate) known: Known,
    /// Sends events to subscribers.
    pub(crate) feed: Arc<Feed>,
    /// Permits for reading a batch.
    pub(crate) batches: Semaphore,
    /// Permits for bytes of batches.
    pub(crate) batch_bytes: Semaphore,
    /// Knows the pools.
    pub(crate) pools: Pools,
    /// Knows whether this dispatcher can serve.
    pub(crate) readiness: Readiness,
    /// Finishes what a crash left undone.
    pub(crate) reconciler: Reconciler,
    /// Counts.
    pub(crate) metrics: Arc<Metrics>,
    /// Every task that outlives its request.
    pub(crate) tasks: TaskTracker,
    /// Ends them, and every stream to a client.
    pub(crate) stop: CancellationToken,
    /// Ends uploads that are unfinished when the grace period is over.
    pub(crate) cut_off: CancellationToken,
}
