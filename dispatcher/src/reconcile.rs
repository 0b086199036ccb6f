// SPDX-License-Identifier: Apache-2.0

//! Finishes what a crash left undone.
//!
//! Every protocol is a sequence of steps, of which any may be the last before a crash. Most are
//! completed by the next process that meets the build: the client that repeats its request, or the
//! worker that gets the message again. The reconciler finishes the others: it follows all live
//! records and sweeps by [`slipway_queue::protocol::reconcile`]. Two dispatchers that sweep at once
//! do no harm; normally an election leaves it to one.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slipway_fault::chain;
use slipway_proto::Timestamp;
use slipway_proto::api::RepairsView;
use slipway_proto::subject::bucket_stream;
use slipway_queue::election::LeaderElection;
use slipway_queue::protocol::reconcile::{self as protocol, Memory, Sweep};
use slipway_queue::read::ReadError;
use slipway_queue::reconnect::{Progress, Reading, keep_reading};
use slipway_queue::record::Changes;
use slipway_queue::{QueryError, Queue};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::builds::announce::{Announcer, EventsError};
use crate::metrics::Metrics;

/// How often the leader renews its leadership.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// How often the others try to become the leader.
const CAMPAIGN_EVERY: Duration = Duration::from_millis(500);

/// How long after its last renewal the leader still acts: less than a leadership lasts, so that it
/// has stopped when another takes over.
const ACTS_FOR: Duration = Duration::from_secs(6);

/// How long changes may gather after all were read. Of several changes to a build only the last is
/// examined. Each repair comes this much later.
const GATHERED: Duration = Duration::from_millis(500);

/// How long giving the leadership up may take at the end; it ends by itself otherwise.
const RESIGN_WITHIN: Duration = Duration::from_secs(1);

/// How long reading the records may take for a requested sweep.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// Why a sweep could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SweepError {
    /// The records could not be read.
    #[error(transparent)]
    Records(#[from] ReadError),
    /// The queue could not be listed.
    #[error(transparent)]
    Query(QueryError),
    /// The events could not be read.
    #[error(transparent)]
    Events(EventsError),
}

impl From<protocol::SweepError<EventsError>> for SweepError {
    fn from(error: protocol::SweepError<EventsError>) -> Self {
        match error {
            protocol::SweepError::Query(error) => Self::Query(error),
            protocol::SweepError::Events(error) => Self::Events(error),
        }
    }
}

/// This dispatcher's part in reconciling, whether it is the leader or not.
#[derive(Debug)]
pub(crate) struct Reconciler {
    queue: Queue,
    announcer: Announcer,
    metrics: Arc<Metrics>,
    memory: Mutex<Memory>,
    /// Until when this dispatcher is the leader.
    held: watch::Sender<Option<Instant>>,
    // One sweep at a time.
    sweeping: tokio::sync::Mutex<()>,
}

impl Reconciler {
    pub(crate) fn new(queue: Queue, announcer: Announcer, metrics: Arc<Metrics>) -> Self {
        Self {
            queue,
            announcer,
            metrics,
            memory: Mutex::default(),
            held: watch::Sender::default(),
            sweeping: tokio::sync::Mutex::default(),
        }
    }

    /// Returns whether this dispatcher is the leader.
    pub(crate) fn leads(&self) -> bool {
        self.held.borrow().is_some_and(|until| Instant::now() < until)
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes part in reconciling, until the dispatcher stops: sweeps every `every` while it is the
/// leader.
pub(crate) async fn run(reconciler: Arc<Reconciler>, every: Duration, stop: CancellationToken) {
    let candidate = format!("{}:{}", std::process::id(), Timestamp::now().as_nanosecond());
    let mut election = reconciler.queue.election("reconciler", &candidate);
    let part = async {
        tokio::join!(keep(&reconciler, &mut election), lead(&reconciler, every));
    };
    stop.run_until_cancelled(Box::pin(part)).await;
    let held = reconciler.held.send_replace(None).is_some();
    if held && tokio::time::timeout(RESIGN_WITHIN, election.resign()).await.is_err() {
        tracing::debug!("the leadership was not given up; it will end");
    }
}

/// Takes the leadership and renews it.
async fn keep(reconciler: &Reconciler, election: &mut LeaderElection) {
    loop {
        // The time before the request, because the server counts from when it received it.
        let asked = Instant::now();
        match tokio::time::timeout(ACTS_FOR, election.lead()).await {
            Ok(Ok(true)) => {
                if reconciler.held.send_replace(Some(asked + ACTS_FOR)).is_none() {
                    tracing::info!("this dispatcher is the reconciler now");
                }
            }
            Ok(Ok(false)) => {
                if reconciler.held.send_replace(None).is_some() {
                    tracing::warn!("another dispatcher is the reconciler now");
                }
            }
            Ok(Err(error)) => {
                tracing::debug!(error = chain(&error), "the leadership was not renewed");
            }
            Err(_elapsed) => tracing::debug!("the leadership was not renewed in time"),
        }
        if !reconciler.leads() {
            reconciler.held.send_replace(None);
        }
        let pause = if reconciler.leads() { RENEW_EVERY } else { CAMPAIGN_EVERY };
        tokio::time::sleep(pause).await;
    }
}

/// Follows the records and sweeps, while this dispatcher is the leader.
async fn lead(reconciler: &Reconciler, every: Duration) {
    let mut held = reconciler.held.subscribe();
    loop {
        let _sender_is_ours = held.wait_for(Option::is_some).await.is_ok();
        reconciler.metrics.set_reconciler(true, 0);
        let lost = held.wait_for(Option::is_none);
        tokio::select! {
            _ = lost => {}
            () = follow(reconciler) => {}
            () = sweep_every(reconciler, every) => {}
        }
        *reconciler.memory() = Memory::default();
        reconciler.metrics.set_reconciler(false, 0);
    }
}

/// Reads the records into the memory, without end.
async fn follow(reconciler: &Reconciler) {
    let mut reading = RecordsReading { queue: &reconciler.queue, memory: &reconciler.memory };
    match keep_reading(&mut reading).await {}
}

struct RecordsReading<'a> {
    queue: &'a Queue,
    memory: &'a Mutex<Memory>,
}

impl Reading for RecordsReading<'_> {
    type Outcome = Infallible;

    async fn read(&mut self, progress: &Progress) -> Result<Infallible, ReadError> {
        let opened = Timestamp::now();
        let mut reader = self.queue.read_states().await?;
        let mut old = reader.pending();
        loop {
            let changes = reader.next_batch().await?;
            let more = changes.more;
            note(self.memory, changes, opened, &mut old);
            progress.made();
            if !more {
                tokio::time::sleep(GATHERED).await;
            }
        }
    }

    fn broke(&self, error: &ReadError) {
        tracing::warn!(error = chain(error), "lost the reader of records; opening another");
    }
}

async fn sweep_every(reconciler: &Reconciler, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !reconciler.leads() || !reconciler.queue.is_connected() {
            continue;
        }
        if let Err(error) = sweep_as_leader(reconciler, false).await {
            tracing::warn!(error = chain(&error), "the reconciler's sweep failed");
        }
    }
}

async fn sweep(
    reconciler: &Reconciler,
    memory: &Mutex<Memory>,
    may_act: impl Fn() -> bool + Send + Sync,
    asked: bool,
) -> Result<RepairsView, SweepError> {
    let (operations, projection) = (&reconciler.queue, &reconciler.announcer);
    let sweep = Sweep { operations, projection, memory, may_act, asked };
    Ok(Box::pin(sweep.run()).await?)
}

async fn sweep_as_leader(reconciler: &Reconciler, asked: bool) -> Result<RepairsView, SweepError> {
    let _alone = reconciler.sweeping.lock().await;
    let repairs = sweep(reconciler, &reconciler.memory, || reconciler.leads(), asked).await?;
    reconciler.metrics.set_reconciler(reconciler.leads(), repairs.unfinished);
    reconciler.metrics.count_sweep(&repairs);
    Ok(repairs)
}

/// Sweeps now, because somebody asked. A dispatcher that is not the leader reads all records
/// for it and watches them for the time that a record must have stood still.
pub(crate) async fn sweep_now(reconciler: &Reconciler) -> Result<RepairsView, SweepError> {
    if reconciler.leads() {
        return sweep_as_leader(reconciler, true).await;
    }
    let _alone = reconciler.sweeping.lock().await;
    let memory = Mutex::default();
    let watched = async {
        loop {
            match watch_records(reconciler, &memory).await {
                Err(ReadError::Reconnected { .. }) => {}
                outcome => return outcome,
            }
        }
    };
    tokio::time::timeout(READ_WITHIN, watched).await.unwrap_or_else(|_elapsed| {
        let stream = bucket_stream(&reconciler.queue.subjects().state_bucket());
        Err(ReadError::Stalled { stream })
    })?;
    let repairs = sweep(reconciler, &memory, || true, true).await?;
    reconciler.metrics.count_sweep(&repairs);
    Ok(repairs)
}

/// Reads all records, and their changes until the first one could be repaired.
async fn watch_records(reconciler: &Reconciler, memory: &Mutex<Memory>) -> Result<(), ReadError> {
    let opened = Timestamp::now();
    let until = Instant::now() + protocol::UNCHANGED_FOR.unsigned_abs() + CAMPAIGN_EVERY;
    let mut reader = reconciler.queue.read_states().await?;
    let mut old = reader.pending();
    loop {
        let next = tokio::time::timeout_at(until, reader.next_batch()).await;
        let changes = match next {
            Ok(next) => next?,
            Err(_elapsed) if reader.is_at_end().await? => return Ok(()),
            Err(_elapsed) => reader.next_batch().await?,
        };
        note(memory, changes, opened, &mut old);
    }
}

/// Notes changes. `old` of them, counting those still to come, were there when the reader was
/// `opened`, and have not changed since then.
fn note(memory: &Mutex<Memory>, changes: Changes, opened: Timestamp, old: &mut u64) {
    let since = if changes.read <= *old { opened } else { Timestamp::now() };
    *old = old.saturating_sub(changes.read);
    let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    for seen in changes.seen {
        memory.note(seen, since);
    }
}
