// SPDX-License-Identifier: Apache-2.0

//! The state that the routes share.

use std::sync::Arc;

use slipway_artifact::ArtifactStore;
use slipway_proto::environment::Catalogue;
use slipway_queue::Queue;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::builds::accept::Acceptor;
use crate::builds::announce::Announcer;
use crate::builds::cancel::Cancelling;
use crate::builds::existence::Existence;
use crate::builds::find::Builds;
use crate::config::retention::Retention;
use crate::events::feed::Feed;
use crate::events::follow::Logs;
use crate::events::projection::Projection;
use crate::intake::artifacts::Artifacts;
use crate::metrics::Metrics;
use crate::pools::Pools;
use crate::readiness::Readiness;
use crate::reconcile::Reconciler;
use crate::retention::Collector;

/// How many batches are read at once. Reading one takes milliseconds of a processor, and several
/// times the memory of its bytes for that time.
pub(crate) const MAX_BATCHES_READ: usize = 4;

/// How many bytes of batches are held at once, from the first byte to the answer: eight of the
/// largest or hundreds of usual ones. The builds made of them take about as much again.
pub(crate) const MAX_BATCH_BYTES: usize = 64 << 20;

/// The parts that serve requests. Only routes know all of them; each part is given those that it
/// needs.
#[derive(Debug)]
pub(crate) struct App {
    /// The connection to NATS.
    pub(crate) queue: Queue,
    /// Artifacts and archived logs.
    pub(crate) store: ArtifactStore,
    /// Remembers which artifacts exist.
    pub(crate) artifacts: Arc<Artifacts>,
    /// The environments.
    pub(crate) catalogue: Arc<Catalogue>,
    /// The largest artifact in bytes.
    pub(crate) max_artifact_bytes: u64,
    /// Accepts builds.
    pub(crate) acceptor: Arc<Acceptor>,
    /// Publishes events that could not be stored at once.
    pub(crate) announcer: Announcer,
    /// Finds one build.
    pub(crate) builds: Builds,
    /// Lists builds.
    pub(crate) projection: Projection,
    /// Sends events to subscribers.
    pub(crate) feed: Arc<Feed>,
    /// Permits for reading a batch.
    pub(crate) batches: Semaphore,
    /// Permits for bytes of batches.
    pub(crate) batch_bytes: Semaphore,
    /// Knows whether this dispatcher can serve.
    pub(crate) readiness: Arc<Readiness>,
    /// Finishes what a crash left undone.
    pub(crate) reconciler: Arc<Reconciler>,
    /// Removes what nobody needs any more.
    pub(crate) collector: Arc<Collector>,
    /// Counts.
    pub(crate) metrics: Arc<Metrics>,
    /// Every task that outlives its request.
    pub(crate) tasks: TaskTracker,
    /// Ends them, and every stream to a client.
    pub(crate) stop: CancellationToken,
    /// Ends uploads that are unfinished when the grace period is over.
    pub(crate) cut_off: CancellationToken,
}

/// What an [`App`] is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) queue: Queue,
    pub(crate) store: ArtifactStore,
    pub(crate) catalogue: Catalogue,
    pub(crate) projection: Projection,
    pub(crate) readiness: Readiness,
    /// The largest artifact in bytes.
    pub(crate) max_artifact_bytes: u64,
    /// How much is kept, and for how long.
    pub(crate) retention: Retention,
    /// How many batches are read at once.
    pub(crate) max_batches_read: usize,
}

impl App {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { queue, store, catalogue, projection, readiness, .. } = parts;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (feed, metrics) = (Arc::<Feed>::default(), Arc::<Metrics>::default());
        let (artifacts, catalogue) = (Arc::<Artifacts>::default(), Arc::new(catalogue));
        let readiness = Arc::new(readiness);
        let builds = Builds::new(queue.clone(), projection.clone());
        let announcer = Announcer::new(
            queue.clone(),
            projection.clone(),
            Arc::clone(&feed),
            tasks.clone(),
            stop.clone(),
        );
        let acceptor = Acceptor {
            queue: queue.clone(),
            store: store.clone(),
            artifacts: Arc::clone(&artifacts),
            catalogue: Arc::clone(&catalogue),
            pools: Pools::default(),
            existence: Existence::new(projection.clone(), tasks.clone()),
            builds: builds.clone(),
            feed: Arc::clone(&feed),
            readiness: Arc::clone(&readiness),
            announcer: announcer.clone(),
        };
        let reconciler = Reconciler::new(queue.clone(), announcer.clone(), Arc::clone(&metrics));
        let collector = Collector {
            queue: queue.clone(),
            store: store.clone(),
            metrics: Arc::clone(&metrics),
            retention: parts.retention,
        };
        Self {
            queue,
            store,
            artifacts,
            catalogue,
            max_artifact_bytes: parts.max_artifact_bytes,
            acceptor: Arc::new(acceptor),
            announcer,
            builds,
            projection,
            feed,
            batches: Semaphore::new(parts.max_batches_read),
            batch_bytes: Semaphore::new(MAX_BATCH_BYTES),
            readiness,
            reconciler: Arc::new(reconciler),
            collector: Arc::new(collector),
            metrics,
            tasks,
            stop,
            cut_off: CancellationToken::new(),
        }
    }

    /// The parts that cancel builds.
    pub(crate) fn cancelling(&self) -> Cancelling<'_> {
        Cancelling { queue: &self.queue, announcer: &self.announcer, builds: &self.builds }
    }

    /// Where logs are read from.
    pub(crate) fn logs(&self) -> Logs {
        Logs {
            queue: self.queue.clone(),
            store: self.store.clone(),
            builds: self.builds.clone(),
            stop: self.stop.clone(),
        }
    }
}
