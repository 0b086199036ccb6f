// SPDX-License-Identifier: Apache-2.0

//! What the parts of a dispatcher share.

use std::sync::Arc;

use slipway_artifact::ArtifactStore;
use slipway_proto::environment::Catalogue;
use slipway_queue::Queue;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::builds::existence::Known;
use crate::builds::find::Builds;
use crate::events::feed::Feed;
use crate::events::projection::Projection;
use crate::intake::artifacts::Artifacts;
use crate::metrics::Metrics;
use crate::pools::Pools;
use crate::readiness::Readiness;
use crate::reconcile::Reconciler;

/// So many batches are read at once: reading one takes milliseconds of a processor, and for that
/// time some times the memory of its bytes.
pub(crate) const MAX_BATCHES_READ: usize = 4;

/// How many bytes the batches may have that are held at once, from their first byte to the answer:
/// eight of the largest, hundreds of usual ones. What is made of them takes about as much again.
pub(crate) const MAX_BATCH_BYTES: usize = 64 << 20;

/// The parts that requests are served from.
#[derive(Debug)]
pub(crate) struct App {
    /// The connection to NATS.
    pub(crate) queue: Queue,
    /// Artifacts and archived logs.
    pub(crate) store: ArtifactStore,
    /// Remembers which artifacts there are.
    pub(crate) artifacts: Artifacts,
    /// The environments.
    pub(crate) catalogue: Catalogue,
    /// The largest artifact in bytes.
    pub(crate) max_artifact_bytes: u64,
    /// Finds one build.
    pub(crate) builds: Builds,
    /// Lists builds.
    pub(crate) projection: Projection,
    /// Knows which builds the projection knows.
    pub(crate) known: Known,
    /// Hands out events.
    pub(crate) feed: Arc<Feed>,
    /// How many more batches may be read at this moment.
    pub(crate) batches: Semaphore,
    /// How many more bytes batches may have.
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
    /// Ends uploads that are still not done when the grace period is over.
    pub(crate) cut_off: CancellationToken,
}
