// SPDX-License-Identifier: Apache-2.0

//! Accepting a build (design section 4, step 2).
//!
//! In this order: create the live record, put the request into the queue, publish `build.queued`,
//! answer. Everything behind the first step can be repeated without harm, so a client that got no
//! answer repeats its request with its idempotency key, and a build that was left half accepted by
//! a crash is completed then, or by the reconciler if nobody repeats it.

use std::sync::Arc;

use slipway_artifact::StoreError;
use slipway_proto::api::{ArtifactView, StateName};
use slipway_proto::event::Event;
use slipway_proto::submission::Uploaded;
use slipway_proto::{
    Build, BuildId, BuildRequest, Digest, FieldError, Phase, PoolName, ProjectName, Submission,
    Timestamp,
};
use slipway_queue::{PublishError, Record, RecordError, failpoint};

use crate::announce::announce;
use crate::app::App;
use crate::builds::FindError;
use crate::problem::chain;
use crate::supersede::supersede_later;

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// A new build.
    Now(Build),
    /// The build that the same key named before.
    Before(Build),
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
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beside<'a> {
    /// The idempotency key.
    pub(crate) key: Option<&'a str>,
    /// The W3C trace context, handed on to the worker.
    pub(crate) traceparent: Option<&'a str>,
}

/// Accepts a build, or says why not.
pub(crate) async fn accept(
    app: &Arc<App>,
    project: ProjectName,
    submission: Submission,
    beside: Beside<'_>,
) -> Result<Accepted, AcceptError> {
    let call = Call::new(app, project, submission.digest(), beside);
    if let Some(before) = call.repeated().await? {
        return Ok(Accepted::Before(before));
    }
    let request = check(app, call.id, &call.project, submission).await?;
    call.store(request).await
}

/// Accepts a new build with the request of a finished one, or says why not.
pub(crate) async fn retry(
    app: &Arc<App>,
    project: ProjectName,
    finished: BuildId,
    beside: Beside<'_>,
) -> Result<Accepted, AcceptError> {
    // The same key with anything else than this is a mistake.
    let digest = Digest::of(format!("retry:{finished}").as_bytes());
    let call = Call::new(app, project, digest, beside);
    if let Some(before) = call.repeated().await? {
        return Ok(Accepted::Before(before));
    }
    let Some(build) = app.builds.find(&call.project, finished).await? else {
        return Err(AcceptError::NotFound(finished));
    };
    if !build.state.is_finished() {
        return Err(AcceptError::NotFinished(StateName::from(&build.state.phase)));
    }
    let request = BuildRequest { build: call.id, retry_of: Some(finished), ..build.request };
    check_again(app, &request).await?;
    call.store(request).await
}

/// A request on its way to become a build.
struct Call<'a> {
    app: &'a Arc<App>,
    project: ProjectName,
    /// The id that the build has, or will have.
    id: BuildId,
    /// The digest of what was asked for.
    digest: Digest,
    beside: Beside<'a>,
}

impl<'a> Call<'a> {
    fn new(app: &'a Arc<App>, project: ProjectName, digest: Digest, beside: Beside<'a>) -> Self {
        let id = match beside.key {
            Some(key) => BuildId::for_idempotency_key(&project, key),
            None => BuildId::fresh(),
        };
        Self { app, project, id, digest, beside }
    }

    /// Finds the build that the key named before, if there is a key.
    async fn repeated(&self) -> Result<Option<Build>, AcceptError> {
        if self.beside.key.is_none() {
            return Ok(None);
        }
        self.earlier().await
    }

    /// Makes the build of a request that was checked.
    async fn store(&self, request: BuildRequest) -> Result<Accepted, AcceptError> {
        let app = self.app;
        self.can_store()?;
        let build = Build::accepted(request, self.digest, Timestamp::now());
        let record = match app.queue.records().create(build).await {
            Ok(record) => record,
            // The same key, at the same time.
            Err(RecordError::Conflict) => {
                return match self.earlier().await? {
                    Some(before) => Ok(Accepted::Before(before)),
                    None => Err(RecordError::Conflict.into()),
                };
            }
            Err(error) => return Err(error.into()),
        };
        failpoint("accept.created");
        if let Err(error) = app.queue.enqueue(&record.build, self.beside.traceparent).await {
            if !matches!(error, PublishError::Unavailable(_)) {
                withdraw(app, &record).await;
            }
            return Err(error.into());
        }
        failpoint("accept.queued");
        tell(app, &record.build).await;
        failpoint("accept.announced");
        Ok(Accepted::Now(record.build))
    }

    /// Refuses at once what could only run into deadlines.
    fn can_store(&self) -> Result<(), AcceptError> {
        if !self.app.queue.is_connected() {
            return Err(AcceptError::Unavailable("the connection to NATS is lost".into()));
        }
        if self.app.readiness.is_unwritable() {
            return Err(AcceptError::Unwritable);
        }
        Ok(())
    }

    /// Finds the build that the key named before, and completes it if it was left half accepted.
    async fn earlier(&self) -> Result<Option<Build>, AcceptError> {
        let (app, project, id) = (self.app, &self.project, self.id);
        let Some(record) = app.builds.record(project, id).await? else {
            // The record lives for 72 h after its last change, and the key for as long as the build.
            let folded = app.builds.folded(project, id).await.map_err(FindError::from)?;
            return folded.map(|build| same(build, self.digest)).transpose();
        };
        let build = same(record.build, self.digest)?;
        let untouched = build.state.epoch == 0 && matches!(build.state.phase, Phase::Queued { .. });
        if untouched {
            self.can_store()?;
            // Refused as already queued in the common case, which is what is wanted.
            app.queue.enqueue(&build, self.beside.traceparent).await?;
            tell(app, &build).await;
        }
        Ok(Some(build))
    }
}

fn same(build: Build, digest: Digest) -> Result<Build, AcceptError> {
    if build.submission == digest {
        return Ok(build);
    }
    Err(AcceptError::KeyReused(build.request.build))
}

/// Publishes `build.queued`, and supersedes older builds. The build stands in the queue and is
/// accepted, whatever happens to its announcement, so a failure is not the client's.
async fn tell(app: &Arc<App>, build: &Build) {
    if let Some(sequence) = announce(app, Event::queued(build)).await {
        supersede_later(app, build, sequence);
    }
}

/// Checks everything, and reports all mistakes at once.
async fn check(
    app: &App,
    id: BuildId,
    project: &ProjectName,
    submission: Submission,
) -> Result<BuildRequest, AcceptError> {
    let uploaded = match submission.artifact() {
        Some(digest) => app.store.record(project, digest).await?.map(uploaded),
        None => None,
    };
    let pool = submission.pool().clone();
    let known = app.pools.exists(&app.queue, &pool).await;
    let checked = submission.accept(id, project.clone(), uploaded.as_ref(), &app.catalogue);
    let (request, mistakes) = match checked {
        Ok(request) => (Some(request), Vec::new()),
        Err(mistakes) => (None, mistakes),
    };
    refuse(mistakes, known, &pool)?;
    Ok(request.expect("without mistakes there is a request"))
}

/// Checks what may have changed since a request was checked first.
async fn check_again(app: &App, request: &BuildRequest) -> Result<(), AcceptError> {
    let mut mistakes = Vec::new();
    let digest = request.artifact.digest;
    if app.store.record(&request.project, digest).await?.is_none() {
        mistakes.push(FieldError {
            field: "artifact".to_owned(),
            code: "artifact_not_found".to_owned(),
            detail: format!("the project has no artifact {digest} any more: upload it again"),
        });
    }
    let known = app.pools.exists(&app.queue, &request.pool).await;
    refuse(mistakes, known, &request.pool)
}

/// Refuses a request with mistakes, of which the pool may be another; `known` says whether there is
/// such a pool.
fn refuse(
    mut mistakes: Vec<FieldError>,
    known: Option<bool>,
    pool: &PoolName,
) -> Result<(), AcceptError> {
    if known == Some(false) {
        mistakes.push(FieldError {
            field: "pool".to_owned(),
            code: "pool_not_found".to_owned(),
            detail: format!(
                "no worker has ever served the pool `{pool}`: start one with --pool {pool}, or leave the field out"
            ),
        });
    }
    if !mistakes.is_empty() {
        return Err(AcceptError::Invalid(mistakes));
    }
    if known.is_none() {
        return Err(AcceptError::Unavailable("the pools are not known".into()));
    }
    Ok(())
}

fn uploaded(artifact: ArtifactView) -> Uploaded {
    Uploaded { size_bytes: artifact.size_bytes, filename: artifact.filename, facts: artifact.facts }
}

/// Brings back the record of a build that somebody else, who repeated the request, got queued just
/// before it was taken back.
async fn restore(app: &App, record: &Record) {
    let request = &record.build.request;
    if !matches!(app.queue.holds(request).await, Ok(true)) {
        return;
    }
    // A worker that was faster has made it anew from the message.
    if let Err(error) = app.queue.records().create(record.build.clone()).await {
        tracing::debug!(build = %request.build, error = chain(&error), "a record was not restored");
    }
}

/// Takes back the record of a build that was not queued.
async fn withdraw(app: &App, record: &Record) {
    match app.queue.records().delete(record).await {
        Ok(()) => restore(app, record).await,
        // Somebody has changed the build: it is theirs now.
        Err(RecordError::Conflict) => {}
        Err(error) => {
            let build = record.build.request.build;
            tracing::warn!(%build, error = chain(&error), "a refused build left its record");
        }
    }
}
