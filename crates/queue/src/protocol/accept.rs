// SPDX-License-Identifier: Apache-2.0

//! Accepting a build.
//!
//! In this order: create the record, put the request into the queue, send `build.queued`, answer.
//! Every step after the first can be repeated without harm. A client that got no answer repeats its
//! submission with its idempotency key, which completes a build that a crash left with a record
//! only. If no client repeats it, the reconciler completes it.
//!
//! A submission waits for two answers of NATS, those that make it durable: the record's and the
//! request's. It does not check first whether its key was used: a conflict in the first step shows
//! that.

use slipway_fault::chain;
use slipway_proto::event::Event;
use slipway_proto::{Build, BuildId, Digest, Phase, ProjectName};

use super::Operations;
use crate::failpoint::failpoint;
use crate::{PublishError, Record, RecordError};

/// What identifies a submission.
#[derive(Debug, Clone)]
pub struct Submitted<'a> {
    /// The project.
    pub project: &'a ProjectName,
    /// The id of the build.
    pub build: BuildId,
    /// Whether the id comes from an idempotency key, so that the build may already exist.
    pub has_key: bool,
    /// The digest of the submitted document.
    pub digest: Digest,
    /// The W3C trace context.
    pub traceparent: Option<&'a str>,
}

/// A build that was accepted.
#[derive(Debug)]
pub struct Accepted<S> {
    /// The build.
    pub build: Build,
    /// Whether it is new, and not the build that the key named before.
    pub is_new: bool,
    /// Its `build.queued`, if that was sent now. The client does not wait until it is stored: the
    /// build is in the queue, whatever becomes of its announcement.
    pub queued: Option<S>,
}

/// Why a build is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The key belongs to another submission.
    #[error("the idempotency key belongs to the build {0}")]
    KeyReused(BuildId),
    /// No record could be created, and there is none of the key; the build may be days old.
    #[error("failed to create the record")]
    Create(#[source] RecordError),
    /// The record of the key could not be read.
    #[error("failed to read the record of the key")]
    Read(#[source] RecordError),
    /// The request was not put into the queue.
    #[error("failed to queue the build")]
    Publish(#[from] PublishError),
    /// NATS does not store messages now, so nothing was tried.
    #[error("NATS does not store messages")]
    Unwritable,
    /// What was checked before the record was created no longer holds. The record is gone again.
    #[error("what was checked no longer holds")]
    Unconfirmed,
}

/// What a record says to a submission of the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repetition {
    /// It is the same submission, and a crash may have kept its request out of the queue.
    Complete,
    /// It is the same submission.
    Answer,
    /// The key belongs to another submission.
    Refuse,
}

/// Decides what becomes of a submission whose key names a build.
fn repeated(build: &Build, digest: Digest) -> Repetition {
    if build.submission != digest {
        return Repetition::Refuse;
    }
    let untouched = build.state.epoch == 0 && matches!(build.state.phase, Phase::Queued { .. });
    if untouched { Repetition::Complete } else { Repetition::Answer }
}

/// Returns the build of a key if it was submitted by the same document.
///
/// # Errors
///
/// [`AcceptError::KeyReused`] when it was not.
pub fn same_submission(build: Build, digest: Digest) -> Result<Build, AcceptError> {
    match repeated(&build, digest) {
        Repetition::Refuse => Err(AcceptError::KeyReused(build.request.build)),
        Repetition::Complete | Repetition::Answer => Ok(build),
    }
}

/// Returns whether the record of a build that was not queued is deleted: not if the request may
/// have been stored.
fn withdraws(error: &PublishError) -> bool {
    !matches!(error, PublishError::Unavailable(_))
}

impl Submitted<'_> {
    /// Takes the steps after the first, whose record was sent. `may_store` says whether NATS stores
    /// messages now, as far as this process knows. `confirmed` is awaited once the record is
    /// stored, and says whether the artifacts are still there: others remove what no record names.
    ///
    /// # Errors
    ///
    /// When the key belongs to another submission, the artifact is gone, the queue is full, or NATS
    /// does not answer; in the last case the build may have been accepted.
    pub async fn accept<O: Operations>(
        &self,
        operations: &O,
        creating: O::Creating,
        may_store: impl Fn() -> bool + Send,
        confirmed: impl Future<Output = bool> + Send,
    ) -> Result<Accepted<O::Sent>, AcceptError> {
        let error = match operations.finish_create(creating).await {
            Ok(record) => {
                if confirmed.await {
                    return self.enqueue(operations, record).await;
                }
                withdraw(operations, &record).await;
                return Err(AcceptError::Unconfirmed);
            }
            Err(error) => error,
        };
        let earlier = match self.has_key {
            true => self.earlier(operations, may_store).await?,
            false => None,
        };
        earlier.ok_or(AcceptError::Create(error))
    }

    /// Queues the build of a record that was created.
    async fn enqueue<O: Operations>(
        &self,
        operations: &O,
        record: Record,
    ) -> Result<Accepted<O::Sent>, AcceptError> {
        failpoint("accept.created");
        if let Err(error) = operations.enqueue(&record.build, self.traceparent).await {
            if withdraws(&error) {
                withdraw(operations, &record).await;
            }
            return Err(error.into());
        }
        failpoint("accept.queued");
        let queued = operations.send(Event::queued(&record.build)).await;
        failpoint("accept.announced");
        Ok(Accepted { build: record.build, is_new: true, queued: Some(queued) })
    }

    /// Finds the build that the key named before, and completes it if only its record was stored;
    /// `None` if it has no live record.
    ///
    /// # Errors
    ///
    /// When the key belongs to another submission, or NATS does not answer.
    pub async fn earlier<O: Operations>(
        &self,
        operations: &O,
        may_store: impl Fn() -> bool + Send,
    ) -> Result<Option<Accepted<O::Sent>>, AcceptError> {
        let found = operations.record(self.project, self.build).await;
        let Some(record) = found.map_err(AcceptError::Read)? else { return Ok(None) };
        let build = record.build;
        let queued = match repeated(&build, self.digest) {
            Repetition::Refuse => return Err(AcceptError::KeyReused(self.build)),
            Repetition::Answer => None,
            Repetition::Complete if !may_store() => return Err(AcceptError::Unwritable),
            Repetition::Complete => {
                // Usually refused as already queued, which is the desired result.
                operations.enqueue(&build, self.traceparent).await?;
                Some(operations.send(Event::queued(&build)).await)
            }
        };
        Ok(Some(Accepted { build, is_new: false, queued }))
    }
}

/// Removes the record of a build that was not queued.
async fn withdraw<O: Operations>(operations: &O, record: &Record) {
    match operations.delete(record).await {
        Ok(()) => restore(operations, record).await,
        // Somebody has changed the build, so it is no longer ours to remove.
        Err(RecordError::Conflict) => {}
        Err(error) => {
            let build = record.build.request.build;
            tracing::warn!(%build, error = chain(&error), "a refused build left its record");
        }
    }
}

/// Restores the record of a build whose request was queued by a repeated submission just before the
/// record was deleted.
async fn restore<O: Operations>(operations: &O, record: &Record) {
    let request = &record.build.request;
    if !matches!(operations.holds(request).await, Ok(true)) {
        return;
    }
    // A faster worker has made the record again from the message.
    if let Err(error) = operations.create(record.build.clone()).await {
        tracing::debug!(build = %request.build, error = chain(&error), "a record was not restored");
    }
}

#[cfg(test)]
mod tests {
    use slipway_proto::Change;

    use super::*;
    use crate::testing;

    #[test]
    fn a_key_names_the_submission_that_used_it_first() {
        let queued = testing::build();
        let digest = queued.submission;
        assert_eq!(repeated(&queued, digest), Repetition::Complete);
        let claim = Change::Claim { epoch: 1, worker: "w1".parse().expect("a name") };
        let running = queued.apply(&claim, queued.accepted_at).expect("it applies");
        assert_eq!(repeated(&running, digest), Repetition::Answer, "it is in the queue");
        for build in [queued, running] {
            assert_eq!(repeated(&build, Digest::of(b"another")), Repetition::Refuse);
            let refused = same_submission(build, Digest::of(b"another"));
            assert!(matches!(refused, Err(AcceptError::KeyReused(_))), "{refused:?}");
        }
    }

    #[test]
    fn a_record_stays_where_the_request_may_have_been_stored() {
        assert!(withdraws(&PublishError::Full("maximum messages exceeded".into())));
        assert!(withdraws(&PublishError::Refused("too large".into())));
        assert!(!withdraws(&PublishError::Unavailable("timed out".into())));
    }
}
