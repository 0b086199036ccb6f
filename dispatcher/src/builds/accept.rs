// SPDX-License-Identifier: Apache-2.0

//! Accepting builds: from a document to an answer.
//!
//! A submission is checked, then takes the durable steps of
//! [`slipway_queue::protocol::accept`]. Many at once share one connection, where each waits for its
//! own answers alone.

mod acceptance;
mod batch;
mod check;

use std::sync::Arc;

use slipway_artifact::{ArtifactStore, StoreError};
use slipway_proto::api::StateName;
use slipway_proto::environment::Catalogue;
use slipway_proto::{Build, BuildId, BuildRequest, Digest, FieldError, ProjectName, Submission};
use slipway_queue::{PublishError, Queue, RecordError};

use super::announce::Announcer;
use super::existence::Existence;
use super::find::{Builds, FindError};
use crate::events::feed::Feed;
use crate::intake::artifacts::Artifacts;
use crate::pools::Pools;
use crate::readiness::Readiness;
use acceptance::Acceptance;
use check::{Checked, check, check_again};

pub(crate) use batch::{Item, accept_batch};

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// A new build.
    Now(Build),
    /// The build that the same key named before.
    Before(Build),
}

impl Accepted {
    /// Returns the build.
    pub(crate) fn build(&self) -> &Build {
        match self {
            Self::Now(build) | Self::Before(build) => build,
        }
    }
}

/// Why a request was not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcceptError {
    /// The request has mistakes.
    #[error("the request has {} mistakes", .0.len())]
    Invalid(Vec<FieldError>),
    /// The key belongs to another request.
    #[error("the idempotency key belongs to the build {0}")]
    KeyReused(BuildId),
    /// The queue takes no more.
    #[error("the queue is full")]
    Full(#[source] PublishError),
    /// NATS does not answer. The build may have been stored nevertheless.
    #[error("the queue does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The message itself is refused.
    #[error("the queue refused the request")]
    Refused(#[source] PublishError),
    /// The artifact store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Earlier builds could not be read.
    #[error(transparent)]
    Find(#[from] FindError),
    /// It is not known yet whether the key names a build.
    #[error("the events that may belong to the key's build are not folded yet")]
    Folding,
    /// NATS does not store messages, so nothing was tried.
    #[error("NATS does not store messages")]
    Unwritable,
    /// There is no build to repeat.
    #[error("there is no build {0}")]
    NotFound(BuildId),
    /// The build to repeat is not finished.
    #[error("the build is {}", .0.as_str())]
    NotFinished(StateName),
}

impl From<RecordError> for AcceptError {
    fn from(error: RecordError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

impl From<PublishError> for AcceptError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Full(_) => Self::Full(error),
            PublishError::Unavailable(_) => Self::Unavailable(Box::new(error)),
            PublishError::Refused(_) => Self::Refused(error),
        }
    }
}

/// Accepts builds: the parts that the protocol of acceptance needs.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pub(crate) queue: Queue,
    pub(crate) store: ArtifactStore,
    pub(crate) artifacts: Arc<Artifacts>,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) pools: Pools,
    pub(crate) existence: Existence,
    pub(crate) builds: Builds,
    pub(crate) feed: Arc<Feed>,
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) announcer: Announcer,
}

/// What a client sends in headers.
#[derive(Debug, Clone, Default)]
pub(crate) struct SubmissionHeaders {
    /// The idempotency key.
    pub(crate) key: Option<String>,
    /// The W3C trace context, passed on to the worker.
    pub(crate) traceparent: Option<Arc<str>>,
}

/// Accepts a build, or returns why not.
pub(crate) async fn accept(
    acceptor: &Arc<Acceptor>,
    project: ProjectName,
    submission: Submission,
    headers: SubmissionHeaders,
) -> Result<Accepted, AcceptError> {
    let acceptance = Acceptance::new(acceptor, project, submission.digest(), &headers);
    let checked =
        check(acceptor, acceptance.id(), acceptance.project(), submission, Vec::new()).await;
    let prepared = acceptance.prepare(checked).await;
    let started = acceptance.start(prepared).await;
    acceptance.finish(started).await
}

/// Accepts a new build with the request of a finished one, or returns why not.
pub(crate) async fn retry(
    acceptor: &Arc<Acceptor>,
    project: ProjectName,
    finished: BuildId,
    headers: SubmissionHeaders,
) -> Result<Accepted, AcceptError> {
    // The same key with any other request is a mistake.
    let digest = Digest::of(format!("retry:{finished}").as_bytes());
    let acceptance = Acceptance::new(acceptor, project, digest, &headers);
    let request = request_for_retry(acceptor, &acceptance, finished).await;
    let prepared = acceptance.prepare(request).await;
    let started = acceptance.start(prepared).await;
    acceptance.finish(started).await
}

/// Makes the request that repeats a finished build's.
async fn request_for_retry(
    acceptor: &Acceptor,
    acceptance: &Acceptance,
    finished: BuildId,
) -> Result<Checked, AcceptError> {
    let Some(build) = acceptor.builds.find(acceptance.project(), finished).await? else {
        return Err(AcceptError::NotFound(finished));
    };
    if !build.state.is_finished() {
        return Err(AcceptError::NotFinished(StateName::from(&build.state.phase)));
    }
    let request =
        BuildRequest { build: acceptance.id(), retry_of: Some(finished), ..build.request };
    check_again(acceptor, request).await
}
