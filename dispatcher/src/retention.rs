// SPDX-License-Identifier: Apache-2.0

//! Collects what nobody needs any more: artifacts, archived logs, and what grows in NATS.
//!
//! The dispatcher that leads the reconciling collects by itself; any other does when it is asked.
//! Either way it first takes the collector's turn, so that one dispatcher collects at a time. That
//! saves work. What keeps a build from losing its artifact is the order of the steps, which hold
//! even for a collector that slept and woke up after its turn.

mod artifacts;
mod plan;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slipway_artifact::{ArtifactStore, StoreError};
use slipway_fault::chain;
use slipway_proto::Timestamp;
use slipway_proto::api::{CollectedView, CollectionView};
use slipway_queue::election::LeaderElection;
use slipway_queue::protocol::replay::{ReplayError, drop_letter};
use slipway_queue::references::ReferencesError;
use slipway_queue::retention::{Bounds, TrimError, Trimmed};
use slipway_queue::{Queue, RecordError};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::config::retention::Retention;
use crate::metrics::Metrics;
use crate::reconcile::Reconciler;
use plan::{Item, choose};

/// How often the turn is renewed.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(2);

/// How long after its last renewal a collector still acts: less than a turn lasts.
const TURN: Duration = Duration::from_secs(6);

/// How long a collection waits for its turn, and how often it asks.
const TURN_WAIT: Duration = Duration::from_secs(10);
const TURN_INTERVAL: Duration = Duration::from_millis(500);

/// How long an archived log stays whatever the bounds say: longer than its archiver looks at it.
const LOG_GRACE: Duration = Duration::from_secs(5 * 60);

/// Why nothing, or not everything, was collected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    /// Another dispatcher collects.
    #[error("another dispatcher is collecting")]
    Busy,
    /// The artifact store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not known what is needed.
    #[error(transparent)]
    References(#[from] ReferencesError),
    /// NATS could not be trimmed.
    #[error(transparent)]
    Trim(#[from] TrimError),
    /// A letter could not be dropped.
    #[error(transparent)]
    Letter(#[from] ReplayError),
    /// The turn could not be taken.
    #[error(transparent)]
    Turn(#[from] RecordError),
}

/// Collects what nobody needs any more.
#[derive(Debug)]
pub(crate) struct Collector {
    pub(crate) queue: Queue,
    pub(crate) store: ArtifactStore,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) retention: Retention,
}

/// One collection.
struct Pass<'a> {
    /// Its name in the store.
    collector: &'a str,
    dry_run: bool,
    /// Until when it may act.
    until: &'a Mutex<Instant>,
}

impl Pass<'_> {
    fn may_act(&self) -> bool {
        Instant::now() < *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<(), CollectError> {
        if self.may_act() { Ok(()) } else { Err(CollectError::Busy) }
    }
}

/// Collects every `every` while this dispatcher leads the reconciling, until it stops.
pub(crate) async fn run(
    collector: Arc<Collector>,
    reconciler: Arc<Reconciler>,
    every: Duration,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let collecting = async {
        loop {
            ticks.tick().await;
            if !reconciler.leads() || !collector.queue.is_connected() {
                continue;
            }
            if let Err(error) = collector.collect(false).await {
                tracing::warn!(error = chain(&error), "a collection was not finished");
            }
        }
    };
    stop.run_until_cancelled(Box::pin(collecting)).await;
}

impl Collector {
    /// Removes what is above the bounds and not needed, or with `dry_run` only says what that is.
    pub(crate) async fn collect(&self, dry_run: bool) -> Result<CollectionView, CollectError> {
        let name = format!("{}-{}", std::process::id(), Timestamp::now().as_nanosecond());
        let mut election = self.queue.election("collector", &name);
        let until = Mutex::new(take_turn(&mut election).await?);
        let pass = Pass { collector: &name, dry_run, until: &until };
        let collected = tokio::select! {
            collected = Box::pin(self.pass(&pass)) => collected,
            () = keep_turn(&mut election, &until) => Err(CollectError::Busy),
        };
        election.resign().await;
        self.metrics.count_collection(&collected);
        collected
    }

    async fn pass(&self, pass: &Pass<'_>) -> Result<CollectionView, CollectError> {
        let mut view = CollectionView { dry_run: pass.dry_run, ..CollectionView::default() };
        if !pass.dry_run {
            self.store.sweep(std::time::SystemTime::now()).await?;
            let undone = self.store.undo_removals().await?;
            if undone > 0 {
                tracing::info!(undone, "undid what an interrupted collection had left");
            }
        }
        self.collect_artifacts(pass, &mut view).await?;
        view.logs = self.collect_logs(pass).await?;
        let may_act = || pass.may_act();
        let Retention { records, tags, dead_letters, .. } = self.retention;
        let trimmed = self.queue.trim_records(records, pass.dry_run, &may_act).await?;
        view.records = trimmed_view(trimmed, records);
        let references = async { self.queue.references().await.map_err(CollectError::from) };
        let trimming = self.queue.trim_tags(tags, pass.dry_run, &may_act, references);
        let trimmed = Box::pin(trimming).await?;
        view.tags = trimmed_view(trimmed, tags);
        view.dead_letters = self.collect_letters(pass, dead_letters).await?;
        Ok(view)
    }

    async fn collect_logs(&self, pass: &Pass<'_>) -> Result<CollectedView, CollectError> {
        let (bounds, now) = (self.retention.logs, Timestamp::now());
        let logs = self.store.logs().await?;
        let mut view = noted(logs.iter().map(|log| log.size_bytes), bounds);
        let items: Vec<Item> = logs
            .iter()
            .map(|log| Item {
                bytes: log.size_bytes,
                used_at: Some(log.archived_at),
                is_needed: !plan::is_older(log.archived_at, LOG_GRACE, now),
            })
            .collect();
        view.needed = items.iter().filter(|item| item.is_needed).count() as u64;
        for (place, _) in choose(&items, bounds, now) {
            pass.check()?;
            if !pass.dry_run {
                self.store.remove_log(&logs[place]).await?;
            }
            view.removed += 1;
            view.removed_bytes += logs[place].size_bytes;
        }
        Ok(view)
    }

    async fn collect_letters(
        &self,
        pass: &Pass<'_>,
        bounds: Bounds,
    ) -> Result<CollectedView, CollectError> {
        let (trimmed, excess) = self.queue.excess_letters(bounds).await?;
        for (project, letter) in excess.iter().filter(|_| !pass.dry_run) {
            pass.check()?;
            drop_letter(&self.queue, project, letter).await?;
        }
        Ok(trimmed_view(trimmed, bounds))
    }
}

/// Takes the collector's turn, and returns until when it holds.
async fn take_turn(election: &mut LeaderElection) -> Result<Instant, CollectError> {
    let deadline = Instant::now() + TURN_WAIT;
    loop {
        let asked = Instant::now();
        if election.lead().await? {
            return Ok(asked + TURN);
        }
        if Instant::now() >= deadline {
            return Err(CollectError::Busy);
        }
        tokio::time::sleep(TURN_INTERVAL).await;
    }
}

/// Renews the turn until it is lost.
async fn keep_turn(election: &mut LeaderElection, until: &Mutex<Instant>) {
    loop {
        tokio::time::sleep(RENEWAL_INTERVAL).await;
        let asked = Instant::now();
        match tokio::time::timeout(TURN, election.lead()).await {
            Ok(Ok(true)) => {
                *until.lock().unwrap_or_else(PoisonError::into_inner) = asked + TURN;
            }
            Ok(Ok(false)) => return,
            Ok(Err(_)) | Err(_) => {
                if Instant::now() >= *until.lock().unwrap_or_else(PoisonError::into_inner) {
                    return;
                }
            }
        }
    }
}

fn noted(sizes: impl Iterator<Item = u64>, bounds: Bounds) -> CollectedView {
    let (found, found_bytes) = sizes.fold((0, 0), |(count, sum), size| (count + 1, sum + size));
    let (max_bytes, max_age_s) = (bounds.bytes, bounds.age.as_secs());
    CollectedView { found, found_bytes, max_bytes, max_age_s, ..CollectedView::default() }
}

fn trimmed_view(trimmed: Trimmed, bounds: Bounds) -> CollectedView {
    let Trimmed { found, bytes, removed, removed_bytes } = trimmed;
    CollectedView {
        found,
        found_bytes: bytes,
        needed: 0,
        removed,
        removed_bytes,
        max_bytes: bounds.bytes,
        max_age_s: bounds.age.as_secs(),
    }
}
