// SPDX-License-Identifier: Apache-2.0

//! Cancelling builds, by the protocol of [`slipway_queue::protocol::cancel`]. What is decided here
//! concerns builds without a live record, which the projection alone knows.

use futures::{StreamExt as _, TryStreamExt as _};
use slipway_proto::api::StateName;
use slipway_proto::{BuildId, ProjectName};
use slipway_queue::protocol::cancel::{self as protocol, Cancelled, Scope, finished};
use slipway_queue::{QueryError, Queue, RecordError};

use super::announce::Announcer;
use super::find::{Builds, FindError};
use crate::events::projection::ProjectionError;

/// How many builds of a project are cancelled at once.
const MAX_CANCELLED_AT_ONCE: usize = 32;

/// Why a build is not cancelled.
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
    /// It is no longer waiting.
    #[error("the build does not wait")]
    NotWaiting,
    /// The build could not be looked up.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The record could not be changed.
    #[error("failed to record the cancellation")]
    Record(#[source] RecordError),
    /// The queue could not be listed.
    #[error(transparent)]
    Query(#[from] QueryError),
}

impl From<ProjectionError> for CancelError {
    fn from(error: ProjectionError) -> Self {
        Self::Find(error.into())
    }
}

impl CancelError {
    fn of(id: BuildId, error: protocol::CancelError) -> Self {
        match error {
            protocol::CancelError::NoRecord => Self::NotFound(id),
            protocol::CancelError::Finished(state) => Self::Finished(state),
            protocol::CancelError::Publishing => Self::Publishing,
            protocol::CancelError::NotWaiting => Self::NotWaiting,
            protocol::CancelError::Read(error) => Self::Find(FindError::Record(error)),
            protocol::CancelError::Write(error) => Self::Record(error),
        }
    }
}

/// Cancels builds: the parts that it takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cancelling<'a> {
    pub(crate) queue: &'a Queue,
    pub(crate) announcer: &'a Announcer,
    pub(crate) builds: &'a Builds,
}

impl Cancelling<'_> {
    /// Cancels a build.
    pub(crate) async fn cancel(
        &self,
        project: &ProjectName,
        id: BuildId,
        message: &str,
        scope: Scope,
    ) -> Result<Cancelled, CancelError> {
        match protocol::cancel(self.queue, self.announcer, project, id, message, scope).await {
            Err(protocol::CancelError::NoRecord) => self.without_record(project, id).await,
            outcome => outcome.map_err(|error| CancelError::of(id, error)),
        }
    }

    /// A record lives for 72 h after its last change; the projection knows older builds.
    async fn without_record(
        &self,
        project: &ProjectName,
        id: BuildId,
    ) -> Result<Cancelled, CancelError> {
        match self.builds.folded(project, id).await? {
            Some(build) if build.state.is_finished() => match finished(&build) {
                Ok(()) => Ok(Cancelled::Before(build)),
                Err(error) => Err(CancelError::of(id, error)),
            },
            _ => Err(CancelError::NotFound(id)),
        }
    }

    /// Cancels all builds of a project that wait, and returns them.
    pub(crate) async fn cancel_waiting(
        &self,
        project: &ProjectName,
        message: &str,
    ) -> Result<Vec<BuildId>, CancelError> {
        let queued = self.queue.builds_in_queue(project).await?;
        let cancelled = futures::stream::iter(queued)
            .map(|id| async move {
                match self.cancel(project, id, message, Scope::Waiting).await {
                    Ok(cancelled) => Ok(cancelled.is_new().then_some(id)),
                    Err(CancelError::NotFound(_) | CancelError::NotWaiting) => Ok(None),
                    Err(CancelError::Finished(_) | CancelError::Publishing) => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .buffer_unordered(MAX_CANCELLED_AT_ONCE);
        let mut cancelled: Vec<BuildId> =
            cancelled.try_filter_map(async |id| Ok(id)).try_collect().await?;
        cancelled.sort_unstable();
        Ok(cancelled)
    }
}
