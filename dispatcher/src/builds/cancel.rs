// SPDX-License-Identifier: Apache-2.0

//! Calling builds off.
//!
//! The record is changed first, by compare-and-set: from then on no worker can claim the build or
//! write its tags, whatever else fails. Then, because that is what takes time, the worker that runs
//! it is told; a request that still waits is taken out of the queue; the event comes last.

use futures::{StreamExt as _, TryStreamExt as _};
use slipway_fault::chain;
use slipway_proto::api::StateName;
use slipway_proto::state::Refusal;
use slipway_proto::{Build, BuildId, Change, Phase, ProjectName, Timestamp};
use slipway_queue::{QueryError, RecordError, failpoint};

use crate::app::App;
use crate::builds::announce::announce_outcome;
use crate::builds::find::FindError;
use crate::events::projection::ProjectionError;

/// How often a record is read again that somebody changed in between. A build changes a few times
/// in its life.
const MAX_RACES: usize = 16;

/// How many builds of a project are called off at once.
const CONCURRENCY: usize = 32;

/// Which builds are called off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those that wait and those that run.
    Unfinished,
    /// Only those that wait.
    Waiting,
}

/// A build that is called off.
#[derive(Debug)]
pub(crate) enum Cancelled {
    /// Just now.
    Now(Build),
    /// Already before.
    Before(Build),
}

impl Cancelled {
    pub(crate) fn is_new(&self) -> bool {
        matches!(self, Self::Now(_))
    }

    pub(crate) fn into_build(self) -> Build {
        match self {
            Self::Now(build) | Self::Before(build) => build,
        }
    }
}

/// Why a build is not called off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CancelError {
    /// There is none.
    #[error("there is no build {0}")]
    NotFound(BuildId),
    /// It has another outcome.
    #[error("the build has {}", .0.as_str())]
    Finished(StateName),
    /// Its tags are being written.
    #[error("the build is being published")]
    Publishing,
    /// It does not wait any more.
    #[error("the build does not wait")]
    NotWaiting,
    /// Nobody knows.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The record could not be changed.
    #[error("failed to record it")]
    Record(#[source] RecordError),
    /// What waits could not be listed.
    #[error(transparent)]
    Query(#[from] QueryError),
}

impl From<ProjectionError> for CancelError {
    fn from(error: ProjectionError) -> Self {
        Self::Find(error.into())
    }
}

/// Calls a build off.
pub(crate) async fn cancel(
    app: &App,
    project: &ProjectName,
    id: BuildId,
    message: &str,
    which: Which,
) -> Result<Cancelled, CancelError> {
    let change = Change::Cancel { message: message.to_owned() };
    for _ in 0..MAX_RACES {
        let found = app.builds.record(project, id).await;
        let Some(record) = found.map_err(FindError::Record)? else {
            return without_record(app, project, id).await;
        };
        let before = &record.build.state.phase;
        if which == Which::Waiting && !matches!(before, Phase::Queued { .. }) {
            return Err(CancelError::NotWaiting);
        }
        let next = match record.build.apply(&change, Timestamp::now()) {
            Ok(next) => next,
            Err(Refusal::TooLate) => return Err(CancelError::Publishing),
            Err(_finished) => return finished(record.build),
        };
        match app.queue.records().update(next, record.revision).await {
            Ok(updated) => {
                // One whose tags a worker has to see to is left to it.
                let waited = matches!(before, Phase::Queued { .. }) && !updated.build.leaves_tags();
                complete(app, &updated.build, waited).await;
                return Ok(Cancelled::Now(updated.build));
            }
            Err(RecordError::Conflict) => {}
            Err(error) => return Err(CancelError::Record(error)),
        }
    }
    Err(CancelError::Record(RecordError::Conflict))
}

fn finished(build: Build) -> Result<Cancelled, CancelError> {
    match StateName::from(&build.state.phase) {
        StateName::Cancelled => Ok(Cancelled::Before(build)),
        state => Err(CancelError::Finished(state)),
    }
}

/// A record lives for 72 h after its last change; the projection knows older builds.
async fn without_record(
    app: &App,
    project: &ProjectName,
    id: BuildId,
) -> Result<Cancelled, CancelError> {
    match app.builds.folded(project, id).await? {
        Some(build) if build.state.is_finished() => finished(build),
        _ => Err(CancelError::NotFound(id)),
    }
}

/// Does what follows from the record; what fails of it, the worker and the reconciler make good.
async fn complete(app: &App, build: &Build, waited: bool) {
    failpoint("cancel.recorded");
    let id = build.request.build;
    if let Err(error) = app.queue.announce_cancel(id).await {
        tracing::warn!(build = %id, error = chain(&error), "the worker learns of it later");
    }
    if waited && let Err(error) = app.queue.remove_request(&build.request).await {
        tracing::warn!(build = %id, error = chain(&error), "the request is removed later");
    }
    announce_outcome(app, build).await;
    failpoint("cancel.announced");
}

/// Calls off all builds of a project that wait, and returns them.
pub(crate) async fn cancel_waiting(
    app: &App,
    project: &ProjectName,
    message: &str,
) -> Result<Vec<BuildId>, CancelError> {
    let queued = app.queue.builds_in_queue(project).await?;
    let cancelled = futures::stream::iter(queued)
        .map(|id| async move {
            match cancel(app, project, id, message, Which::Waiting).await {
                Ok(cancelled) => Ok(cancelled.is_new().then_some(id)),
                Err(CancelError::NotFound(_) | CancelError::NotWaiting) => Ok(None),
                Err(CancelError::Finished(_) | CancelError::Publishing) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .buffer_unordered(CONCURRENCY);
    let mut cancelled: Vec<BuildId> =
        cancelled.try_filter_map(async |id| Ok(id)).try_collect().await?;
    cancelled.sort_unstable();
    Ok(cancelled)
}
