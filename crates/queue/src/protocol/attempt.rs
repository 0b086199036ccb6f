// SPDX-License-Identifier: Apache-2.0

//! One attempt at a build: make the image, write its tags, commit the outcome.
//!
//! Each step that others can see is a compare-and-set of the build's record under the epoch that
//! this attempt claimed, so that an attempt whose lease has passed to another worker can do no
//! harm. An attempt ends in one of the variants of [`End`]; only `settle` acts on it.

use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use slipway_proto::outcome::{Image, SupersededTag};
use slipway_proto::state::Epoch;
use slipway_proto::{BuildRequest, Change, Digest, Failure, Reason, Reference, WorkerId};

use super::Operations;
use crate::failpoint::{failpoint, is_off};
use crate::tag::TagOwner;
use crate::{Record, RecordError};

/// The pause before a success is recorded again that NATS did not confirm.
const COMMIT_EVERY: Duration = Duration::from_millis(250);

/// A stage, or the write of a tag, that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptFailure {
    /// What users see.
    pub failure: Failure,
    /// Whether another attempt may succeed.
    pub transient: bool,
    /// Whether the attempt counts against the build.
    pub charged: bool,
    /// How long the other side asked to wait.
    pub retry_after: Option<Duration>,
}

impl AttemptFailure {
    /// A fault of the infrastructure, which is not charged to the build.
    pub(super) fn unavailable(message: String) -> Self {
        let failure = Failure::new(Reason::LeaseLost, message);
        Self { failure, transient: true, charged: false, retry_after: None }
    }
}

/// How an attempt ended.
#[derive(Debug)]
pub enum End {
    /// The record is succeeded, with this image.
    Succeeded(Box<Image>),
    /// A stage failed, or took too long.
    Failed(AttemptFailure),
    /// The worker must stop and gives the build back.
    HandedBack,
    /// The build was ended by others, for example cancelled. The record says how.
    CalledOff(Box<Record>),
    /// The lease ran out, or another worker holds the build. This attempt may report nothing more
    /// about it.
    Lost,
}

/// What the protocol writes to registries.
pub trait Registry: Send + Sync {
    /// Returns whether builds have tags at all.
    fn has_tags(&self) -> bool;

    /// Points a tag at its owner's image, with the credentials of a request, and returns whether it
    /// pointed elsewhere before. `writer` tells the registry's log who writes.
    fn point(
        &self,
        request: &BuildRequest,
        owner: &TagOwner,
        writer: &str,
    ) -> impl Future<Output = Result<bool, AttemptFailure>> + Send;
}

/// What one attempt does apart from the operations of the queue.
pub trait Work: Send + Sync {
    /// An image that is in its registry by digest. No tag points at it yet.
    type Made: Send + Sync;

    /// Returns whether the lease can be trusted at this moment.
    fn holds_lease(&self) -> bool;

    /// Makes the image and pushes it by digest. Dropped when the attempt ends early.
    fn make(
        &self,
        claimed: &Record,
    ) -> impl Future<Output = Result<Self::Made, AttemptFailure>> + Send;

    /// Resolves when something ends the attempt before its image is made.
    fn interrupted(&self) -> impl Future<Output = End> + Send;

    /// Ends what still makes the image in threads of its own.
    fn stop(&self);

    /// Returns the digest of the image's manifest.
    fn digest(&self, made: &Self::Made) -> Digest;

    /// Points a tag at the image; [`End::Lost`] if the lease ended before it was sent.
    fn put_tag(
        &self,
        reference: &Reference,
        made: &Self::Made,
        writer: &str,
    ) -> impl Future<Output = Result<(), End>> + Send;

    /// Returns what the record says of the image.
    fn outcome(&self, made: Self::Made, tagged: Tagged) -> Image;

    /// Returns how long to wait after so many attempts in a row that failed, at least 1.
    fn retry_delay(&self, failures: u32) -> Duration;

    /// Appends a line to the log.
    fn line(&self, line: &str);

    /// Learns how the attempt ended, before that is settled.
    fn ended(&self, _end: &End) {}

    /// Ends the log and waits until it is stored.
    fn finish_log(&mut self, last_line: &str) -> impl Future<Output = ()> + Send;
}

/// The tags that a build got, and those that stayed with later builds.
#[derive(Debug, Default)]
pub struct Tagged {
    /// Those that point at its image.
    pub written: Vec<Reference>,
    /// Those that a later build owns.
    pub superseded: Vec<SupersededTag>,
}

/// A worker, as the queue knows it.
pub struct Worker<'a, O, R> {
    /// The queue.
    pub operations: &'a O,
    /// The registries.
    pub registry: &'a R,
    /// Its name.
    pub id: &'a WorkerId,
}

impl<O, R> Clone for Worker<'_, O, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O, R> Copy for Worker<'_, O, R> {}

/// An attempt at a claimed build.
pub struct Attempt<'a, O: Operations, R, W> {
    pub(super) worker: Worker<'a, O, R>,
    pub(super) delivery: &'a O::Delivery,
    pub(super) work: W,
    pub(super) record: Record,
    /// The epoch it claimed.
    pub(super) epoch: Epoch,
    /// The event that this attempt started, if it was sent.
    pub(super) started: Option<O::Sent>,
}

impl<'a, O: Operations, R: Registry, W: Work> Attempt<'a, O, R, W> {
    /// Begins an attempt at a build that was claimed.
    pub fn new(
        worker: Worker<'a, O, R>,
        delivery: &'a O::Delivery,
        (record, started): (Record, Option<O::Sent>),
        work: W,
    ) -> Self {
        let epoch = record.build.state.epoch;
        Self { worker, delivery, work, record, epoch, started }
    }

    /// Takes the build to its outcome, or gives it back.
    pub async fn run(mut self) {
        let outcome = {
            let pushing = pin!(self.push());
            let interrupted = pin!(self.work.interrupted());
            match select(pushing, interrupted).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right((end, _)) => Err(end),
            }
        };
        self.work.stop();
        // Nothing interrupts this: an attempt that has begun to write a tag must check afterwards
        // whether the tag was still its own.
        let end = match outcome {
            Ok((made, record)) => Box::pin(self.publish(made, record)).await,
            Err(end) => end,
        };
        self.work.ended(&end);
        Box::pin(self.settle(end)).await;
    }

    /// Makes the image, and records that its tags are about to be written.
    async fn push(&self) -> Result<(W::Made, Record), End> {
        let made = self.work.make(&self.record).await;
        if made.is_ok() {
            failpoint("commit.pushed");
        }
        self.check_lease()?;
        let made = made.map_err(End::Failed)?;
        let epoch = self.record.build.state.epoch;
        let record = self.change(&self.record, &Change::Publish { epoch }).await?;
        failpoint("commit.publishing");
        Ok((made, record))
    }

    /// Writes the tags and records the success.
    async fn publish(&mut self, made: W::Made, record: Record) -> End {
        self.record = record;
        let tagged = match self.tag(&made).await {
            Ok(tagged) => tagged,
            Err(end) => return end,
        };
        failpoint("commit.tagged");
        let image = self.work.outcome(made, tagged);
        self.commit(image).await
    }

    /// Records the success of a build whose tags are written. Retried as long as the lease holds:
    /// the image is there, and only the record is missing.
    async fn commit(&mut self, image: Image) -> End {
        let epoch = self.record.build.state.epoch;
        let change = Change::Succeed { epoch, image: Box::new(image.clone()) };
        while self.work.holds_lease() {
            match self.change(&self.record, &change).await {
                Ok(record) => {
                    self.record = record;
                    return End::Succeeded(Box::new(image));
                }
                Err(End::Failed(_)) => self.worker.operations.pause(COMMIT_EVERY).await,
                Err(end) => return end,
            }
        }
        End::Lost
    }

    pub(super) fn check_lease(&self) -> Result<(), End> {
        if self.work.holds_lease() { Ok(()) } else { Err(End::Lost) }
    }

    /// Changes the record under this attempt's epoch.
    pub(super) async fn change(&self, from: &Record, change: &Change) -> Result<Record, End> {
        let operations = self.worker.operations;
        let Ok(next) = from.build.apply(change, operations.now()) else { return Err(End::Lost) };
        match operations.update(next, from.revision).await {
            Err(RecordError::Conflict) if is_off("epoch-fencing") => {
                // Over whatever is there now.
                let request = &from.build.request;
                let found = operations.record(&request.project, request.build).await;
                let (Ok(Some(now)), Ok(next)) = (found, from.build.apply(change, operations.now()))
                else {
                    return Err(End::Lost);
                };
                operations.update(next, now.revision).await.map_err(|_| End::Lost)
            }
            Ok(record) => Ok(record),
            // The record was changed by a new holder or a cancellation.
            Err(RecordError::Conflict) => Err(End::Lost),
            Err(error) => {
                let message = format!("the build's record could not be written: {error}");
                Err(End::Failed(AttemptFailure::unavailable(message)))
            }
        }
    }
}

/// Checks whether another process has ended a build that an attempt works on, as a cancellation
/// does.
///
/// # Errors
///
/// When NATS does not answer.
pub async fn called_off<O: Operations>(
    operations: &O,
    request: &BuildRequest,
) -> Result<Option<Box<Record>>, RecordError> {
    let found = operations.record(&request.project, request.build).await?;
    Ok(found.filter(|record| record.build.state.is_finished()).map(Box::new))
}
