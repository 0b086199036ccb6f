// SPDX-License-Identifier: Apache-2.0

//! Accepting a build (design section 4, step 2).
//!
//! In this order: create the live record, put the request into the queue, publish `build.queued`,
//! answer. Everything behind the first step can be repeated without harm, so a client that got no
//! answer repeats its request with its idempotency key, and a build that was left half accepted by
//! a crash is completed then.

use std::time::Duration;

use slipway_artifact::StoreError;
use slipway_proto::api::ArtifactView;
use slipway_proto::event::Event;
use slipway_proto::submission::Uploaded;
use slipway_proto::{
    Build, BuildId, Digest, FieldError, Phase, ProjectName, Submission, Timestamp,
};
use slipway_queue::{PublishError, Record, RecordError};

use crate::app::App;
use crate::backoff::Backoff;
use crate::builds::FindError;
use crate::problem::chain;

/// How long the announcement of an accepted build is tried again before it is left to the events
/// that follow.
const ANNOUNCE_FOR: Duration = Duration::from_secs(120);

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

/// A submission with what came beside it.
pub(crate) struct Submitted<'a> {
    pub(crate) project: ProjectName,
    pub(crate) submission: Submission,
    /// The idempotency key.
    pub(crate) key: Option<&'a str>,
    /// The W3C trace context, handed on to the worker.
    pub(crate) traceparent: Option<&'a str>,
}

/// Accepts a build, or says why not.
pub(crate) async fn accept(app: &App, submitted: Submitted<'_>) -> Result<Accepted, AcceptError> {
    let Submitted { project, submission, key, traceparent } = submitted;
    let digest = submission.digest();
    let id = match key {
        Some(key) => BuildId::for_idempotency_key(&project, key),
        None => BuildId::fresh(),
    };
    if key.is_some()
        && let Some(before) = earlier(app, &project, id, digest, traceparent).await?
    {
        return Ok(Accepted::Before(before));
    }
    let request = check(app, id, &project, submission).await?;
    if !app.queue.is_connected() {
        // Sooner than the deadlines of requests that cannot be sent.
        return Err(AcceptError::Unavailable("the connection to NATS is lost".into()));
    }
    let build = Build::accepted(request, digest, Timestamp::now());
    let record = match app.queue.records().create(build).await {
        Ok(record) => record,
        // The same key, at the same time.
        Err(RecordError::Conflict) => {
            return match earlier(app, &project, id, digest, traceparent).await? {
                Some(before) => Ok(Accepted::Before(before)),
                None => Err(RecordError::Conflict.into()),
            };
        }
        Err(error) => return Err(error.into()),
    };
    if let Err(error) = app.queue.enqueue(&record.build, traceparent).await {
        if !matches!(error, PublishError::Unavailable(_)) {
            withdraw(app, &record).await;
        }
        return Err(error.into());
    }
    announce(app, &record.build).await;
    Ok(Accepted::Now(record.build))
}

/// Finds the build that the key named before, and completes it if it was left half accepted.
async fn earlier(
    app: &App,
    project: &ProjectName,
    id: BuildId,
    digest: Digest,
    traceparent: Option<&str>,
) -> Result<Option<Build>, AcceptError> {
    let Some(record) = app.builds.record(project, id).await? else {
        // The record lives for 72 h after its last change, and the key for as long as the build.
        let folded = app.builds.folded(project, id).await.map_err(FindError::from)?;
        return folded.map(|build| same(build, digest)).transpose();
    };
    let build = same(record.build, digest)?;
    let untouched = build.state.epoch == 0 && matches!(build.state.phase, Phase::Queued { .. });
    if untouched {
        // Refused as already queued in the common case, which is what is wanted.
        app.queue.enqueue(&build, traceparent).await?;
        announce(app, &build).await;
    }
    Ok(Some(build))
}

fn same(build: Build, digest: Digest) -> Result<Build, AcceptError> {
    if build.submission == digest {
        return Ok(build);
    }
    Err(AcceptError::KeyReused(build.request.build))
}

/// Checks everything, and reports all mistakes at once.
async fn check(
    app: &App,
    id: BuildId,
    project: &ProjectName,
    submission: Submission,
) -> Result<slipway_proto::BuildRequest, AcceptError> {
    let uploaded = match submission.artifact() {
        Some(digest) => app.store.record(project, digest).await?.map(uploaded),
        None => None,
    };
    let pool = submission.pool().clone();
    let known = app.pools.exists(&app.queue, &pool).await;
    let checked = submission.accept(id, project.clone(), uploaded.as_ref(), &app.catalogue);
    let mistake = (known == Some(false)).then(|| FieldError {
        field: "pool".to_owned(),
        code: "pool_not_found".to_owned(),
        detail: format!(
            "no worker has ever served the pool `{pool}`: start one with --pool {pool}, or leave the field out"
        ),
    });
    match (checked, mistake) {
        (Ok(_), None) if known.is_none() => {
            Err(AcceptError::Unavailable("the pools are not known".into()))
        }
        (Ok(request), None) => Ok(request),
        (Ok(_), Some(mistake)) => Err(AcceptError::Invalid(vec![mistake])),
        (Err(mut mistakes), mistake) => {
            mistakes.extend(mistake);
            Err(AcceptError::Invalid(mistakes))
        }
    }
}

fn uploaded(artifact: ArtifactView) -> Uploaded {
    Uploaded { size_bytes: artifact.size_bytes, filename: artifact.filename, facts: artifact.facts }
}

/// Takes back the record of a build that was not queued.
async fn withdraw(app: &App, record: &Record) {
    match app.queue.records().delete(record).await {
        // Somebody repeated the request and got the build queued: it is theirs now.
        Ok(()) | Err(RecordError::Conflict) => {}
        Err(error) => {
            let build = record.build.request.build;
            tracing::warn!(%build, error = chain(&error), "a refused build left its record");
        }
    }
}

/// Publishes `build.queued`. The build stands in the queue and is accepted, whatever happens to its
/// announcement, so a failure is not the client's.
async fn announce(app: &App, build: &Build) {
    let event = Event::queued(build);
    let Err(error) = app.queue.publish_event(&event).await else { return };
    tracing::warn!(build = %event.subject, error = chain(&error), "publishing build.queued later");
    let (queue, stop) = (app.queue.clone(), app.stop.clone());
    app.tasks.spawn(async move {
        let mut backoff = Backoff::default();
        let announced = async {
            while queue.publish_event(&event).await.is_err() {
                if !backoff.pause(&stop).await {
                    return;
                }
            }
        };
        if tokio::time::timeout(ANNOUNCE_FOR, announced).await.is_err() {
            tracing::warn!(build = %event.subject, "gave up publishing build.queued");
        }
    });
}
