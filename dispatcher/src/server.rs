// SPDX-License-Identifier: Apache-2.0

//! A dispatcher from start to stop.
//!
//! [`Dispatcher::start`] does everything that can fail by misconfiguration, before any request is
//! served. [`Dispatcher::run`] serves until it is stopped, and then ends in order: no new
//! connections, open streams end, requests in flight finish within a grace period, and the
//! background tasks follow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::serve::ListenerExt as _;
use slipway_artifact::{ArtifactStore, StoreError};
use slipway_proto::environment::{Catalogue, CatalogueError};
use slipway_queue::topology::SetupError;
use slipway_queue::{ConnectError, Queue};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::app::{App, MAX_BATCHES_READ, Parts};
use crate::builds::find;
use crate::config::Config;
use crate::events::archive::Archiver;
use crate::events::feed::{self, Feed};
use crate::events::projection::{
    self, FindRecord, Folder, Projection, ProjectionError, RecordUnavailable,
};
use crate::http::routes;
use crate::http::write_timeout::{Impatient, STUCK};
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::reconcile;
use crate::retention;

/// How long requests in flight may take after the stop: less than the 30 s after which Kubernetes
/// kills.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// How long the background tasks may take after that.
const BACKGROUND_GRACE: Duration = Duration::from_secs(5);

/// How many groups of at most a hundred events wait for the projection. More wait in the server.
const MAX_UNFOLDED: usize = 64;

/// How long the projection waits for a live record.
const FOLD_RECORD_WITHIN: Duration = Duration::from_secs(5);

/// Why a dispatcher does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The catalogue file cannot be read.
    #[error("failed to read the environment catalogue {path}")]
    CatalogueFile {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The catalogue file is wrong.
    #[error("failed to use the environment catalogue {path}")]
    Catalogue {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: CatalogueError,
    },
    /// The artifact store cannot be used.
    #[error("failed to open the artifact store")]
    Store(#[from] StoreError),
    /// NATS cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The streams are not as they must be.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The projection cannot be used.
    #[error("failed to open the projection in {directory}")]
    Projection {
        /// The data directory.
        directory: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A dispatcher that is ready to run.
pub struct Dispatcher {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
    folder: Folder,
    config: Config,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// Checks the configuration, listens, connects, makes the streams, and opens store and
    /// projection. Connections wait until [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// Says which of it failed.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let listen = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let catalogue = catalogue(&config)?;
        let store = ArtifactStore::open(config.store.store.expose()).await?;
        let queue = Queue::connect(&config.nats, "slipway-dispatcher").await?;
        let queue = queue.with_read_deadline(find::LIVE_RECORD_WITHIN);
        let readiness = Readiness::default();
        let set_up = async || {
            queue.ensure_topology(&config.limits()).await?;
            Ok(readiness.learn_durability(&queue, config.nats_sync_always).await?)
        };
        queue.when_ready(set_up).await?;
        let path = config.data_dir.join("projection.sqlite");
        let find = find_record(queue.clone(), Handle::current());
        let opened = tokio::task::spawn_blocking(move || Projection::open(&path, find)).await;
        let (projection, folder) =
            opened.unwrap_or(Err(ProjectionError::CalledOff)).map_err(|source| {
                let directory = config.data_dir.display().to_string();
                StartError::Projection { directory, source: Box::new(source) }
            })?;
        let app = App::new(Parts {
            queue,
            store,
            catalogue,
            projection,
            readiness,
            max_artifact_bytes: config.limits.max_artifact_bytes,
            retention: config.retention.bounds(),
            max_batches_read: MAX_BATCHES_READ,
        });
        Ok(Self { listener, address, app: Arc::new(app), folder, config })
    }

    /// Returns the address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is cancelled and everything has ended.
    pub async fn run(self, stop: CancellationToken) {
        let Self { listener, address, app, folder, config } = self;
        let thread = background(&app, folder, &config);
        tracing::info!(%address, "listening");
        let listener = listener.tap_io(|connection| {
            // Answers are small and latency counts, so nothing is gained by collecting them.
            if let Err(error) = connection.set_nodelay(true) {
                tracing::debug!(%error, "a connection stays slow");
            }
        });
        let listener = Impatient::new(listener, STUCK);
        let server = axum::serve(listener, routes::router(Arc::clone(&app)))
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        let mut serving = tokio::spawn(server.into_future());
        stop.cancelled().await;
        tracing::info!("stopping");
        // Ends the streams, which would never end by themselves, and the background.
        app.stop.cancel();
        app.feed.close();
        if tokio::time::timeout(DRAIN_WITHIN, &mut serving).await.is_err() {
            tracing::warn!("requests were still in flight after the grace period");
            app.cut_off.cancel();
            let _ended = tokio::time::timeout(Duration::from_secs(1), serving).await;
        }
        app.tasks.close();
        if tokio::time::timeout(BACKGROUND_GRACE, app.tasks.wait()).await.is_err() {
            tracing::warn!("background tasks were still busy after the grace period");
        }
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join());
            if tokio::time::timeout(BACKGROUND_GRACE, joined).await.is_err() {
                tracing::warn!("the projection was still busy after the grace period");
            }
        }
        if let Err(error) = app.queue.close().await {
            tracing::debug!(%error, "the connection to NATS was gone already");
        }
        tracing::info!("stopped");
    }
}

/// Starts the background tasks.
fn background(app: &Arc<App>, folder: Folder, config: &Config) -> Option<JoinHandle<()>> {
    let (work, works) = mpsc::channel(MAX_UNFOLDED);
    let feed: Arc<Feed> = Arc::clone(&app.feed);
    let metrics: Arc<Metrics> = Arc::clone(&app.metrics);
    let thread = projection::spawn(folder, works, feed, Arc::clone(&metrics), app.stop.clone());
    let thread = thread
        .inspect_err(|error| tracing::error!(%error, "failed to start the projection's thread"));
    app.tasks.spawn(feed::read(app.queue.clone(), work, config.limits(), app.stop.clone()));
    let archiver = Archiver { queue: app.queue.clone(), store: app.store.clone(), metrics };
    app.tasks.spawn(archiver.run(app.stop.clone()));
    let every = Duration::from_secs(u64::from(config.reconcile_every_s));
    app.tasks.spawn(reconcile::run(Arc::clone(&app.reconciler), every, app.stop.clone()));
    let every = Duration::from_secs(u64::from(config.retention.collect_every_s));
    let (collector, reconciler) = (Arc::clone(&app.collector), Arc::clone(&app.reconciler));
    app.tasks.spawn(retention::run(collector, reconciler, every, app.stop.clone()));
    app.tasks.spawn(watch_readiness(Arc::clone(app), config.nats_sync_always));
    thread.ok()
}

async fn watch_readiness(app: Arc<App>, sync_always: bool) {
    app.readiness.watch(&app.queue, sync_always, app.stop.clone()).await;
}

fn catalogue(config: &Config) -> Result<Catalogue, StartError> {
    let Some(path) = &config.environments else { return Ok(Catalogue::default()) };
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|source| StartError::CatalogueFile { path: shown.clone(), source })?;
    Catalogue::default()
        .extended(&text)
        .map_err(|source| StartError::Catalogue { path: shown, source })
}

/// Lets the projection's thread, which is not a task, read a live record.
fn find_record(queue: Queue, runtime: Handle) -> FindRecord {
    Box::new(move |project, build| {
        runtime.block_on(async {
            let records = queue.records();
            let record =
                tokio::time::timeout(FOLD_RECORD_WITHIN, records.get(project, build)).await;
            let record = record.unwrap_or_else(|elapsed| {
                Err(slipway_queue::RecordError::Unavailable(elapsed.into()))
            });
            Ok(record.map_err(RecordUnavailable)?.map(|record| record.build))
        })
    })
}
