// SPDX-License-Identifier: Apache-2.0

//! A worker process: connects, announces itself, takes builds until it is stopped, and drains.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use rand::RngExt as _;
use slipway_proto::api::WorkerView;
use slipway_proto::{Timestamp, WorkerId};
use slipway_queue::pull::Puller;
use slipway_queue::topology::{Limits, SetupError};
use slipway_queue::{ConnectError, Queue};
use slipway_service::admin::{AdminError, Latch};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::attempt::Attempts;
use crate::config::Config;
use crate::pull;
use crate::running::Running;
use crate::stages::{ImageStages, PipelineStages, StagesError};
use crate::status::Status;

/// How often a worker renews its announcement, which the bucket forgets after 15 s.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(5);
/// How long giving builds back may take after the grace period.
const HAND_BACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No connection to NATS.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The streams are not as they must be.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// Artifact store, cache or registry client cannot be used.
    #[error(transparent)]
    Stages(#[from] StagesError),
    /// The admin address cannot be listened on.
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// A worker that is ready to take builds.
pub struct Worker {
    config: Config,
    id: WorkerId,
    attempts: Attempts,
    puller: Puller,
    started_at: Timestamp,
    /// Ends the admin listener with the worker.
    admin: DropGuard,
}

impl Worker {
    /// Connects to everything a worker needs.
    ///
    /// # Errors
    ///
    /// When something of that is not available.
    pub async fn start(config: Config) -> Result<Self, WorkerError> {
        let admin = AdminListener::start(&config).await?;
        let stages = PipelineStages::open(&config).await?;
        Self::start_observed(config, Arc::new(stages), admin).await
    }

    /// Connects to NATS for a worker that makes its images with `stages`.
    ///
    /// # Errors
    ///
    /// When NATS is not available.
    pub async fn start_with(
        config: Config,
        stages: Arc<dyn ImageStages>,
    ) -> Result<Self, WorkerError> {
        let admin = AdminListener::start(&config).await?;
        Self::start_observed(config, stages, admin).await
    }

    async fn start_observed(
        config: Config,
        stages: Arc<dyn ImageStages>,
        admin: AdminListener,
    ) -> Result<Self, WorkerError> {
        let AdminListener { status, running, latch, ends } = admin;
        let id = config.id.clone().unwrap_or_else(make_id);
        let queue = Queue::connect(&config.nats, &format!("slipway-worker {id}")).await?;
        status.connected(queue.clone());
        let open = async || {
            if !queue.has_topology().await? {
                // The dispatcher makes the streams. A worker that comes first makes the same ones.
                queue.ensure_topology(&Limits::default()).await?;
            }
            queue.pull(&config.pool).await
        };
        let puller = queue.when_ready(open).await?;
        let attempts = Attempts {
            queue,
            stages,
            worker: id.clone(),
            running,
            status,
            hand_back: CancellationToken::new(),
        };
        drop(latch);
        let started_at = Timestamp::now();
        Ok(Self { config, id, attempts, puller, started_at, admin: ends })
    }

    /// Returns the worker's id.
    #[must_use]
    pub fn id(&self) -> &WorkerId {
        &self.id
    }

    /// Takes builds until cancelled. Then finishes what it holds within the grace period, gives
    /// back the rest, and returns.
    pub async fn run(self, stop: CancellationToken) {
        let Self { config, id, attempts, puller, started_at, admin } = self;
        attempts.status.drains_with(stop.clone());
        let presence = Presence {
            config: config.clone(),
            id: id.clone(),
            attempts: attempts.clone(),
            started_at,
        };
        let gone = CancellationToken::new();
        let listening = tokio::spawn(listen(attempts.clone(), id.clone(), stop.clone()));
        let announcing = tokio::spawn(presence.announce(stop.clone(), gone.clone()));
        let slots = Arc::new(Semaphore::new(config.slots as usize));
        let tracker = TaskTracker::new();
        tracing::info!(worker = %id, pool = %config.pool, slots = config.slots, "taking builds");
        pull::run(puller, slots, stop, |delivery, slot| {
            let attempts = attempts.clone();
            tracker.spawn(async move {
                Box::pin(attempts.handle(delivery)).await;
                drop(slot);
            });
        })
        .await;
        tracker.close();
        let held = attempts.running.list().len();
        tracing::info!(worker = %id, held, "taking no more builds");
        if tokio::time::timeout(config.drain_grace(), tracker.wait()).await.is_err() {
            attempts.hand_back.cancel();
            if tokio::time::timeout(HAND_BACK_TIMEOUT, tracker.wait()).await.is_err() {
                tracing::warn!(
                    "some builds were not given back; they continue elsewhere when their lease ends"
                );
            }
        }
        gone.cancel();
        listening.abort();
        if let Err(error) = announcing.await {
            tracing::warn!(%error, "the presence task panicked");
        }
        if let Err(error) = attempts.queue.close().await {
            tracing::debug!(%error, "the connection was closed already");
        }
        drop(admin);
    }
}

/// The listener that says how the worker is, from before it connects until it has drained.
struct AdminListener {
    status: Arc<Status>,
    running: Running,
    latch: Latch,
    ends: DropGuard,
}

impl AdminListener {
    async fn start(config: &Config) -> Result<Self, AdminError> {
        let running = Running::default();
        let (status, latch) = Status::new(config.slots, running.clone());
        let stop = CancellationToken::new();
        if let Some(admin) = config.admin.listen().await? {
            tokio::spawn(admin.serve(Arc::clone(&status), stop.clone()));
        }
        Ok(Self { status, running, latch, ends: stop.drop_guard() })
    }
}

/// Receives messages to workers over core NATS: cancelled builds, and drains.
async fn listen(attempts: Attempts, id: WorkerId, stop: CancellationToken) {
    let Attempts { queue, running, .. } = attempts;
    let cancels = async {
        match queue.cancellations().await {
            Ok(mut cancels) => {
                while let Some(build) = cancels.next().await {
                    running.notify(build);
                }
            }
            Err(error) => tracing::warn!(%error, "cancellations are seen at lease extensions only"),
        }
    };
    let drain = async {
        match queue.drain_requested(&id).await {
            Ok(()) => {
                tracing::info!(worker = %id, "told to drain");
                stop.cancel();
            }
            Err(error) => tracing::warn!(%error, "this worker cannot be drained through the API"),
        }
    };
    tokio::join!(cancels, drain);
}

struct Presence {
    config: Config,
    id: WorkerId,
    attempts: Attempts,
    started_at: Timestamp,
}

impl Presence {
    /// Announces the worker until it is gone, and then withdraws the announcement.
    async fn announce(self, draining: CancellationToken, gone: CancellationToken) {
        let queue = &self.attempts.queue;
        let mut ticks = tokio::time::interval(ANNOUNCE_EVERY);
        // A server that was away may have forgotten this worker.
        let mut reconnections = queue.reconnections();
        loop {
            if let Err(error) = queue.announce(&self.view(draining.is_cancelled()).await).await {
                tracing::debug!(%error, "could not announce the worker");
            }
            let drain_begins = async {
                if draining.is_cancelled() {
                    std::future::pending::<()>().await;
                }
                draining.cancelled().await;
            };
            tokio::select! {
                _ = ticks.tick() => {}
                () = drain_begins => {}
                () = reconnections.next() => {}
                () = gone.cancelled() => break,
            }
        }
        if let Err(error) = queue.withdraw(&self.id).await {
            tracing::debug!(%error, "could not withdraw the worker's announcement");
        }
    }

    async fn view(&self, draining: bool) -> WorkerView {
        let stages = Arc::clone(&self.attempts.stages);
        let cache_bytes = tokio::task::spawn_blocking(move || stages.cache_bytes()).await;
        let cache_bytes = cache_bytes.unwrap_or(0);
        self.attempts.status.note_cache_bytes(cache_bytes);
        WorkerView {
            id: self.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pool: self.config.pool.clone(),
            slots: self.config.slots,
            running: self.attempts.running.list(),
            cache_bytes,
            draining,
            started_at: self.started_at,
        }
    }
}

/// The host's name with a random part, because two workers of a host must not share an id.
fn make_id() -> WorkerId {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let label: String = host
        .trim()
        .to_lowercase()
        .chars()
        .map(|character| if character.is_ascii_alphanumeric() { character } else { '-' })
        .take(40)
        .collect();
    let label = label.trim_matches('-');
    let label = if label.is_empty() { "worker" } else { label };
    let random: u32 = rand::rng().random();
    format!("{label}-{random:08x}").parse().expect("a label with a random part is a name")
}

#[cfg(test)]
mod tests {
    #[test]
    fn made_ids_are_names_and_differ() {
        assert_ne!(super::make_id(), super::make_id());
    }
}
