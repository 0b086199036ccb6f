// SPDX-License-Identifier: Apache-2.0

//! Accepting builds (design section 4, step 2).
//!
//! In this order: create the live record, put the request into the queue, send `build.queued`,
//! answer. Everything behind the first step can be repeated without harm, so a client that got no
//! answer repeats its request with its idempotency key, and a build that was left half accepted by
//! a crash is completed then, or by the reconciler if nobody repeats it.
//!
//! A submission waits for two answers of NATS, those that make it durable: the record's and the
//! request's. Whether its key was used before is not asked first; the record's creation tells. Many
//! at once share one connection, where each waits for its own answers alone.

mod batch;
mod call;
mod check;

use std::sync::Arc;

use slipway_artifact::StoreError;
use slipway_proto::api::StateName;
use slipway_proto::{Build, BuildId, BuildRequest, Digest, FieldError, ProjectName, Submission};
use slipway_queue::{PublishError, RecordError};

use crate::app::App;
use crate::builds::find::FindError;
use call::Call;
use check::{check, check_again};

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
    /// NATS does not answer. The build may have been stored all the same.
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
    /// Nobody knows yet whether the key names a build.
    #[error("the events that may tell of the key's build are not folded yet")]
    Folding,
    /// NATS does not store what it is sent, so nothing was tried.
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

/// What came with a request beside its document.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beside {
    /// The idempotency key.
    pub(crate) key: Option<String>,
    /// The W3C trace context, handed on to the worker.
    pub(crate) traceparent: Option<Arc<str>>,
}

/// Accepts a build, or says why not.
pub(crate) async fn accept(
    app: &Arc<App>,
    project: ProjectName,
    submission: Submission,
    beside: Beside,
) -> Result<Accepted, AcceptError> {
    let call = Call::new(app, project, submission.digest(), &beside);
    let checked = check(app, call.id(), call.project(), submission, Vec::new()).await;
    let prepared = call.prepare(checked).await;
    let begun = call.begin(prepared).await;
    call.finish(begun).await
}

/// Accepts a new build with the request of a finished one, or says why not.
pub(crate) async fn retry(
    app: &Arc<App>,
    project: ProjectName,
    finished: BuildId,
    beside: Beside,
) -> Result<Accepted, AcceptError> {
    // The same key with anything else than this is a mistake.
    let digest = Digest::of(format!("retry:{finished}").as_bytes());
    let call = Call::new(app, project, digest, &beside);
    let again = again(app, &call, finished).await;
    let prepared = call.prepare(again).await;
    let begun = call.begin(prepared).await;
    call.finish(begun).await
}

/// Makes the request that repeats a finished build's.
async fn again(app: &App, call: &Call, finished: BuildId) -> Result<BuildRequest, AcceptError> {
    let Some(build) = app.builds.find(call.project(), finished).await? else {
        return Err(AcceptError::NotFound(finished));
    };
    if !build.state.is_finished() {
        return Err(AcceptError::NotFinished(StateName::from(&build.state.phase)));
    }
    let request = BuildRequest { build: call.id(), retry_of: Some(finished), ..build.request };
    check_again(app, &request).await?;
    Ok(request)
}
