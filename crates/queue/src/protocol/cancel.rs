// SPDX-License-Identifier: Apache-2.0

//! Cancelling a build.
//!
//! The record is changed first, by compare-and-set: from then on no worker can claim the build or
//! write its tags, whatever else fails. Then the worker that runs the build is told, because ending
//! its attempt takes time; a request that still waits is taken out of the queue; the events come
//! last. What a crash leaves undone, the worker and the reconciler complete.

use slipway_fault::chain;
use slipway_proto::api::StateName;
use slipway_proto::state::Refusal;
use slipway_proto::{Build, BuildId, Change, Phase, ProjectName, Timestamp};

use super::feed::announce_outcome;
use super::{Feed, Operations};
use crate::failpoint::failpoint;
use crate::{Record, RecordError};

/// How often a record is read again after a lost race. A build changes a few times in its life.
const MAX_RACES: usize = 16;

/// Which builds are cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those that wait and those that run.
    Unfinished,
    /// Only those that wait.
    Waiting,
}

/// A cancelled build.
#[derive(Debug)]
pub enum Cancelled {
    /// It was cancelled by this call.
    Now(Build),
    /// It was cancelled before.
    Before(Build),
}

impl Cancelled {
    /// Returns whether it was cancelled by this call.
    #[must_use]
    pub fn is_new(&self) -> bool {
        matches!(self, Self::Now(_))
    }

    /// Returns the build.
    #[must_use]
    pub fn into_build(self) -> Build {
        match self {
            Self::Now(build) | Self::Before(build) => build,
        }
    }
}

/// Why a build is not cancelled.
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    /// It has no live record: it ended days ago, or never was.
    #[error("there is no live record of the build")]
    NoRecord,
    /// It has another outcome.
    #[error("the build has {}", .0.as_str())]
    Finished(StateName),
    /// Its tags are being written.
    #[error("the build is being published")]
    Publishing,
    /// It is no longer waiting.
    #[error("the build does not wait")]
    NotWaiting,
    /// The record could not be read.
    #[error("failed to read the record")]
    Read(#[source] RecordError),
    /// The record could not be changed.
    #[error("failed to record the cancellation")]
    Write(#[source] RecordError),
}

/// What to do about a record.
#[derive(Debug)]
enum Step {
    /// Write the next record. A request that waits then leaves the queue, unless a worker still has
    /// to give back the build's tags.
    Write { next: Box<Build>, removes_request: bool },
    /// Nothing: it is cancelled.
    Done,
}

/// Decides what a cancellation does to a build.
fn decide(build: &Build, scope: Scope, message: &str, now: Timestamp) -> Result<Step, CancelError> {
    let waits = matches!(build.state.phase, Phase::Queued { .. });
    if scope == Scope::Waiting && !waits {
        return Err(CancelError::NotWaiting);
    }
    match build.apply(&Change::Cancel { message: message.to_owned() }, now) {
        Ok(next) => {
            let removes_request = waits && !next.leaves_tags();
            Ok(Step::Write { next: Box::new(next), removes_request })
        }
        Err(Refusal::TooLate) => Err(CancelError::Publishing),
        Err(_finished) => finished(build).map(|()| Step::Done),
    }
}

/// Says whether the outcome of a finished build is that it was cancelled.
///
/// # Errors
///
/// [`CancelError::Finished`] when it has another.
pub fn finished(build: &Build) -> Result<(), CancelError> {
    match StateName::from(&build.state.phase) {
        StateName::Cancelled => Ok(()),
        state => Err(CancelError::Finished(state)),
    }
}

/// Cancels a build.
///
/// # Errors
///
/// When it has no live record, has another outcome, or comes too late for this; or when NATS does
/// not answer, and then the build may have been cancelled.
pub async fn cancel<O: Operations, F: Feed>(
    operations: &O,
    feed: &F,
    project: &ProjectName,
    id: BuildId,
    message: &str,
    scope: Scope,
) -> Result<Cancelled, CancelError> {
    for _ in 0..MAX_RACES {
        let found = operations.record(project, id).await.map_err(CancelError::Read)?;
        let Some(Record { build, revision }) = found else { return Err(CancelError::NoRecord) };
        let (next, removes_request) = match decide(&build, scope, message, operations.now())? {
            Step::Done => return Ok(Cancelled::Before(build)),
            Step::Write { next, removes_request } => (*next, removes_request),
        };
        match operations.update(next, revision).await {
            Ok(updated) => {
                complete(operations, feed, &updated.build, removes_request).await;
                return Ok(Cancelled::Now(updated.build));
            }
            Err(RecordError::Conflict) => {}
            Err(error) => return Err(CancelError::Write(error)),
        }
    }
    Err(CancelError::Write(RecordError::Conflict))
}

/// Cancels an older build of a supersede key; returns whether it was unfinished until now.
///
/// # Errors
///
/// When NATS does not answer.
pub async fn supersede<O: Operations, F: Feed>(
    operations: &O,
    feed: &F,
    project: &ProjectName,
    old: BuildId,
    by: BuildId,
) -> Result<bool, CancelError> {
    let message = format!("superseded by build {by}");
    match cancel(operations, feed, project, old, &message, Scope::Unfinished).await {
        Ok(cancelled) => {
            if cancelled.is_new() {
                tracing::info!(build = %old, %by, "superseded");
            }
            Ok(cancelled.is_new())
        }
        // Its image appears a moment before the newer one, as if there were no key.
        Err(CancelError::Publishing | CancelError::Finished(_) | CancelError::NoRecord) => {
            Ok(false)
        }
        Err(error) => {
            tracing::warn!(build = %old, %by, error = chain(&error), "superseded later");
            Err(error)
        }
    }
}

/// Does what follows from the record.
async fn complete<O: Operations, F: Feed>(
    operations: &O,
    feed: &F,
    build: &Build,
    removes_request: bool,
) {
    failpoint("cancel.recorded");
    let id = build.request.build;
    if let Err(error) = operations.announce_cancel(id).await {
        tracing::warn!(build = %id, error = chain(&error), "the worker learns of a cancellation later");
    }
    if removes_request && let Err(error) = operations.remove_request(&build.request).await {
        tracing::warn!(build = %id, error = chain(&error), "the request is removed later");
    }
    announce_outcome(operations, feed, build).await;
    failpoint("cancel.announced");
}

#[cfg(test)]
mod tests {
    use slipway_proto::{Failure, Reason};

    use super::*;
    use crate::testing;

    fn decided(build: &Build, scope: Scope) -> Result<Step, CancelError> {
        decide(build, scope, "no more", build.accepted_at)
    }

    fn applied(build: &Build, changes: &[Change]) -> Build {
        changes.iter().fold(build.clone(), |build, change| {
            build.apply(change, build.accepted_at).expect("it applies")
        })
    }

    #[test]
    fn the_request_of_a_waiting_build_leaves_the_queue_and_that_of_a_running_one_stays() {
        let queued = testing::build();
        let claim = Change::Claim { epoch: 1, worker: "w1".parse().expect("a name") };
        let running = applied(&queued, std::slice::from_ref(&claim));
        let removes = |build: &Build| match decided(build, Scope::Unfinished) {
            Ok(Step::Write { removes_request, .. }) => removes_request,
            other => panic!("{other:?}"),
        };
        assert!(removes(&queued));
        assert!(!removes(&running), "its worker acknowledges it");
        let refused = decided(&running, Scope::Waiting);
        assert!(matches!(refused, Err(CancelError::NotWaiting)), "{refused:?}");
    }

    #[test]
    fn a_build_is_not_cancelled_once_its_tags_are_written_or_it_has_ended() {
        let queued = testing::build();
        let claim = Change::Claim { epoch: 1, worker: "w1".parse().expect("a name") };
        let publishing = applied(&queued, &[claim, Change::Publish { epoch: 1 }]);
        let refused = decided(&publishing, Scope::Unfinished);
        assert!(matches!(refused, Err(CancelError::Publishing)), "{refused:?}");
        let failure = Failure::new(Reason::RegistryDenied, "no");
        let failed = applied(&publishing, &[Change::Fail { epoch: 1, failure, dead: false }]);
        let refused = decided(&failed, Scope::Unfinished);
        assert!(matches!(refused, Err(CancelError::Finished(StateName::Failed))), "{refused:?}");
        let cancelled = applied(&queued, &[Change::Cancel { message: "before".into() }]);
        assert!(matches!(decided(&cancelled, Scope::Unfinished), Ok(Step::Done)));
    }
}
