// SPDX-License-Identifier: Apache-2.0

//! The end of an attempt: record, log, events, and last the acknowledgement.
//!
//! The order matters. The record comes first, because it is the truth; then the log is stored and
//! the outcome published, because a follower that sees the outcome expects the whole log; the
//! message is acknowledged only then, and waits for the server's confirmation. A crash between
//! any two steps makes the message come back, and the next worker publishes the outcome again.

use std::time::Duration;

use slipway_fault::chain;
use slipway_proto::event::Event;
use slipway_proto::outcome::Image;
use slipway_proto::state::Epoch;
use slipway_proto::{Build, BuildId, Change, Failure, Phase, ProjectName, Reason, Timestamp};

use super::Operations;
use super::attempt::{Attempt, AttemptFailure, End, Registry, Work, Worker};
use super::claim::{COPY_NOTICED_FOR, is_younger};
use crate::delivery::{Answer, DeliveryError};
use crate::failpoint::failpoint;
use crate::{Record, RecordError};

/// The longest delay that a registry can ask for. Longer ones are cut: a registry that was wrong
/// about the time would otherwise hold a build up for days.
const MAX_REQUESTED_DELAY: Duration = Duration::from_secs(60 * 60);
/// How long a worker that lost a build tries to record that it was no fault of the build.
const UNCHARGE_FOR: Duration = Duration::from_secs(60);
const UNCHARGE_EVERY: Duration = Duration::from_millis(500);
/// How long the tags of a failed build are retried while their registry does not answer. The
/// message must not outlive the record, which is kept for three days.
const LEAVE_TAGS_FOR: Duration = Duration::from_secs(60 * 60);

/// What a failure means for its build.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Another attempt follows, after a delay.
    Retry { failure: Failure, charged: bool, retry_after: Option<Duration> },
    /// The build fails; its request becomes a dead letter if another attempt might have succeeded.
    Fail { failure: Failure, dead: bool },
}

/// Returns whether an attempt ended because a registry limits its rate: it costs no attempt, and is no
/// fault of this side, as a lost lease is.
fn is_limited(failure: &Failure, charged: bool) -> bool {
    !charged && failure.reason != Reason::LeaseLost
}

/// Returns how long a build may still wait for what is no fault of its own: a worker, or a registry
/// that limits it. `None` if that time is over.
fn time_left(build: &Build, now: Timestamp) -> Option<Duration> {
    let limit = Duration::from_secs(build.request.queue_timeout_s.into());
    let waited = Duration::try_from(now.duration_since(build.queued_since())).unwrap_or_default();
    limit.checked_sub(waited).filter(|left| !left.is_zero())
}

/// Returns the delay before the next attempt: what the other side asked for, but no less than what
/// the failures in a row ask for. A build whose failures are not charged is tried once more when its
/// time is over.
fn next_delay(usual: Duration, asked: Option<Duration>, left: Option<Duration>) -> Duration {
    let asked = asked.unwrap_or_default().min(MAX_REQUESTED_DELAY);
    let delay = usual.max(asked);
    left.map_or(delay, |left| delay.min(left.max(asked)))
}

fn judge(build: &Build, error: AttemptFailure, now: Timestamp) -> Verdict {
    let AttemptFailure { mut failure, transient, charged, retry_after } = error;
    let attempt = build.state.attempt;
    let waits = retry_after.unwrap_or_default().min(MAX_REQUESTED_DELAY);
    let is_limited = transient && is_limited(&failure, charged);
    if is_limited && time_left(build, now).is_none_or(|left| left < waits) {
        // What costs no attempt would otherwise go on for ever.
        let limit = build.request.queue_timeout_s;
        failure.message =
            format!("{} (the build may wait {limit} s, its queue_timeout_s)", failure.message);
        return Verdict::Fail { failure, dead: true };
    }
    if transient && (!charged || attempt < build.request.max_attempts) {
        return Verdict::Retry { failure, charged, retry_after };
    }
    if transient {
        failure.message = format!("{} (attempt {attempt} was the last)", failure.message);
    }
    Verdict::Fail { failure, dead: transient }
}

/// What is left to do for a build that an attempt has lost.
#[derive(Debug)]
enum AfterLoss {
    /// It has its outcome: say so.
    Ended(Box<Record>),
    /// Nobody has taken it yet: give the attempt back, uncharged. That NATS was away is no fault of
    /// the build.
    GiveBack(Box<Record>),
    /// Nothing.
    Leave,
}

fn after_loss(found: Option<Record>, epoch: Epoch) -> AfterLoss {
    match found {
        Some(record) if record.build.state.is_finished() => AfterLoss::Ended(Box::new(record)),
        Some(record)
            if record.build.state.epoch == epoch && record.build.state.holder().is_some() =>
        {
            AfterLoss::GiveBack(Box::new(record))
        }
        _ => AfterLoss::Leave,
    }
}

/// A step for a build that has its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    /// Publish the outcome.
    PublishOutcome,
    /// Give its tags back to their owners.
    LeaveTags,
    /// Write its dead letter. This comes after the outcome: once the letter exists the build may be
    /// replayed, and then nobody publishes its outcome.
    Bury,
    /// Acknowledge its request.
    Acknowledge,
}

/// Returns the steps that close a build, in order. If one of them fails the message comes back after
/// the lease, and all are taken again.
fn closing(build: &Build) -> impl Iterator<Item = Closing> {
    let (leaves_tags, is_dead) = (build.leaves_tags(), build.is_dead());
    [
        (Closing::PublishOutcome, true),
        (Closing::LeaveTags, leaves_tags),
        (Closing::Bury, is_dead),
        (Closing::Acknowledge, true),
    ]
    .into_iter()
    .filter_map(|(step, is_due)| is_due.then_some(step))
}

/// Returns the `build.started` of the last attempt if its worker may have died, or NATS been away,
/// before it was stored. A second copy is dropped as long as the server remembers the first. The
/// outcome of a cancelled build may be stored already, without a start.
fn may_be_unannounced(build: &Build, now: Timestamp) -> Option<Event> {
    let is_cancelled = matches!(build.state.phase, Phase::Cancelled { .. });
    let started = Event::started(build)?;
    (!is_cancelled && is_younger(started.time, COPY_NOTICED_FOR, now)).then_some(started)
}

/// Returns whether a build ended within the given time.
fn ended_within(build: &Build, period: Duration, now: Timestamp) -> bool {
    build.finished_at.is_some_and(|ended| is_younger(ended, period, now))
}

impl<O: Operations, R: Registry, W: Work> Attempt<'_, O, R, W> {
    /// Does what follows from the end of the attempt.
    pub(super) async fn settle(mut self, end: End) {
        let build = self.record.build.request.build;
        match end {
            End::Succeeded(image) => self.succeeded(&image).await,
            End::Failed(error) => Box::pin(self.failed(error)).await,
            End::HandedBack => {
                tracing::info!(%build, "giving a build back, the worker stops");
                // It may have been stopped after `Publishing` was recorded.
                self.refresh().await;
                let epoch = self.record.build.state.epoch;
                let change = Change::GiveBack { epoch, not_before: None, failure: None };
                if self.change(&self.record, &change).await.is_ok() {
                    self.worker.answer(self.delivery, Answer::GiveBack(None)).await;
                }
                self.work.finish_log("the worker stops and gives the build back").await;
            }
            End::CalledOff(record) => {
                self.record = *record;
                self.called_off().await;
            }
            End::Lost => self.lost().await,
        }
    }

    async fn succeeded(self, image: &Image) {
        let build = &self.record.build;
        tracing::info!(build = %build.request.build, digest = %image.digest, "build succeeded");
        let published = Event::published(build, image, self.worker.operations.now());
        self.worker.operations.tell(&published).await;
        failpoint("commit.succeeded");
        self.finish("Build completed successfully").await;
    }

    /// The build has an outcome from elsewhere.
    async fn called_off(self) {
        let build = &self.record.build;
        tracing::info!(build = %build.request.build, "a build was ended by others");
        let last_line = match &build.state.phase {
            Phase::Cancelled { .. } => {
                build.last_line().expect("a cancelled build has its outcome")
            }
            _ => "the build has ended elsewhere; this worker stops working on it".to_owned(),
        };
        self.finish(&last_line).await;
    }

    /// The lease ran out, or the record was changed by others.
    async fn lost(mut self) {
        let request = &self.record.build.request;
        let (project, build) = (request.project.clone(), request.build);
        tracing::warn!(%build, "lost a build: its lease ran out or it was changed by others");
        let operations = self.worker.operations;
        let epoch = self.record.build.state.epoch;
        let begun = operations.now();
        while is_younger(begun, UNCHARGE_FOR, operations.now()) {
            match operations.record(&project, build).await {
                Ok(found) => match after_loss(found, epoch) {
                    AfterLoss::Ended(record) => {
                        self.record = *record;
                        return self.called_off().await;
                    }
                    AfterLoss::GiveBack(record) => {
                        let why = "the worker could not reach NATS for longer than its lease";
                        let failure = Some(Failure::new(Reason::LeaseLost, why));
                        let change = Change::GiveBack { epoch, not_before: None, failure };
                        if self.change(&record, &change).await.is_ok() {
                            break;
                        }
                    }
                    AfterLoss::Leave => break,
                },
                Err(error) => {
                    tracing::debug!(
                        %build, error = chain(&error),
                        "waiting for NATS to give a build back"
                    );
                }
            }
            operations.pause(UNCHARGE_EVERY).await;
        }
        self.work.finish_log("this worker lost the build; it stops working on it").await;
    }

    async fn failed(mut self, error: AttemptFailure) {
        let now = self.worker.operations.now();
        let (failure, dead) = match judge(&self.record.build, error, now) {
            Verdict::Retry { failure, charged, retry_after } => {
                return Box::pin(self.retry(failure, charged, retry_after)).await;
            }
            Verdict::Fail { failure, dead } => (failure, dead),
        };
        let epoch = self.record.build.state.epoch;
        tracing::info!(build = %self.record.build.request.build, %failure, "build failed");
        let last_line = format!("Build failed: {failure}");
        let change = Change::Fail { epoch, failure, dead };
        // After a failure in `Publishing` the record is newer than this copy.
        self.refresh().await;
        failpoint("settle.before_record");
        match self.change(&self.record, &change).await {
            Ok(record) => self.record = record,
            Err(End::Lost) => return self.lost().await,
            Err(_) => return self.work.finish_log("the outcome could not be recorded").await,
        }
        failpoint("settle.recorded");
        self.finish(&last_line).await;
    }

    async fn retry(mut self, failure: Failure, charged: bool, retry_after: Option<Duration>) {
        self.refresh().await;
        let state = &self.record.build.state;
        let operations = self.worker.operations;
        let now = operations.now();
        let usual = self.work.retry_delay(state.failures.saturating_add(1));
        let is_limited = is_limited(&failure, charged);
        let left = time_left(&self.record.build, now).filter(|_| is_limited);
        let delay = next_delay(usual, retry_after, left);
        let not_before = now.checked_add(delay).unwrap_or(now);
        let epoch = state.epoch;
        let change = if charged {
            Change::Retry { epoch, not_before, failure: failure.clone() }
        } else {
            let (not_before, failure) = (Some(not_before), Some(failure.clone()));
            Change::GiveBack { epoch, not_before, failure }
        };
        failpoint("settle.before_record");
        if self.change(&self.record, &change).await.is_err() {
            return self.lost().await;
        }
        failpoint("settle.recorded");
        let seconds = delay.as_secs_f32();
        let before = &self.record.build;
        let event = Event::retrying(before, self.worker.id, &failure, charged, not_before, now);
        if let Err(error) = operations.publish(&event).await {
            tracing::warn!(error = chain(&error), "a retry was not announced");
        }
        let build = before.request.build;
        tracing::info!(%build, %failure, seconds, "build will be tried again");
        let last_line = format!("attempt failed: {failure}; trying again in {seconds:.1} s");
        self.work.finish_log(&last_line).await;
        self.worker.answer(self.delivery, Answer::GiveBack(Some(delay))).await;
    }

    /// Reads the record again if it has changed under this attempt's own epoch.
    async fn refresh(&mut self) {
        let request = &self.record.build.request;
        let found = self.worker.operations.record(&request.project, request.build).await;
        if let Ok(Some(record)) = found
            && record.build.state.epoch == self.record.build.state.epoch
        {
            self.record = record;
        }
    }

    /// Closes the log and the build.
    async fn finish(mut self, last_line: &str) {
        self.work.finish_log(last_line).await;
        let build = &self.record.build;
        let operations = self.worker.operations;
        if build.state.epoch != self.epoch {
            // Another attempt has claimed it since, and its start may not be stored.
            return self.worker.ended_without_start(build, self.delivery).await;
        }
        let stored = match &mut self.started {
            Some(started) => operations.stored(started).await,
            None => {
                let started = Event::started(build).expect("the record is claimed");
                operations.publish(&started).await
            }
        };
        if let Err(error) = stored {
            // The message comes back, and with it the chance to publish this before the outcome.
            let build = build.request.build;
            tracing::warn!(%build, error = chain(&error), "build.started was not stored");
            return;
        }
        self.worker.close(build, self.delivery).await;
    }
}

impl<O: Operations, R: Registry> Worker<'_, O, R> {
    /// Does what is left to do about a build whose last worker may have died before it published
    /// that it had started the build, or before it published the outcome.
    pub(super) async fn ended_without_start(&self, build: &Build, delivery: &O::Delivery) {
        if let Some(started) = may_be_unannounced(build, self.operations.now())
            && let Err(error) = self.operations.publish(&started).await
        {
            tracing::warn!(
                build = %build.request.build, error = chain(&error),
                "build.started was not stored"
            );
            return;
        }
        self.close(build, delivery).await;
    }

    /// Publishes the outcome of a build, gives back its tags, writes its dead letter if it has one,
    /// and acknowledges its request.
    async fn close(&self, build: &Build, delivery: &O::Delivery) {
        let id = build.request.build;
        for step in closing(build) {
            let goes_on = match step {
                Closing::PublishOutcome => self.publish_outcome(build).await,
                Closing::LeaveTags => match self.leave_tags(build).await {
                    Ok(()) => true,
                    Err(error) => {
                        let failure = &error.failure;
                        tracing::warn!(
                            build = %id, %failure,
                            "the tags of a failed build may be wrong"
                        );
                        !error.transient
                            || !ended_within(build, LEAVE_TAGS_FOR, self.operations.now())
                    }
                },
                Closing::Bury => self.bury(build).await,
                Closing::Acknowledge => {
                    let acknowledged = self.answer(delivery, Answer::Done).await;
                    if acknowledged {
                        tracing::info!(build = %id, "settled");
                    }
                    acknowledged
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    async fn publish_outcome(&self, build: &Build) -> bool {
        let event = Event::finished(build).expect("the build has its outcome");
        if let Err(error) = self.operations.publish(&event).await {
            tracing::warn!(
                build = %build.request.build, error = chain(&error),
                "an outcome was not published"
            );
            return false;
        }
        failpoint("commit.announced");
        true
    }

    async fn bury(&self, build: &Build) -> bool {
        failpoint("dead.announced");
        if let Err(error) = self.operations.bury(build).await {
            let build = build.request.build;
            tracing::error!(%build, error = chain(&error), "could not write a dead letter");
            return false;
        }
        failpoint("dead.buried");
        true
    }

    /// Answers a delivery; returns whether the server confirmed that. Without, the message comes
    /// back, which is harmless: the record says what became of the build.
    pub async fn answer(&self, delivery: &O::Delivery, answer: Answer) -> bool {
        let answered = self.operations.answer(delivery, answer).await;
        if let Err(error) = &answered {
            tracing::warn!(error = chain(error), ?answer, "an answer was not confirmed");
        }
        answered.is_ok()
    }

    /// Moves a message that is not a build request out of the queue. If its subject names a build,
    /// that fails: its record still holds the request as it was accepted, from which a replay makes
    /// a new message.
    pub async fn reject(
        &self,
        delivery: &O::Delivery,
        named: Option<(ProjectName, BuildId)>,
        why: &DeliveryError,
    ) {
        let Ok(failed) = self.fail_corrupt(named, why).await else { return };
        // Before the letter, because once that exists somebody may replay the build.
        if let Some(build) = &failed
            && !self.publish_outcome(build).await
        {
            return;
        }
        if let Err(error) = self.operations.bury_delivery(delivery, why).await {
            tracing::error!(error = chain(&error), "could not write a dead letter");
            return;
        }
        self.answer(delivery, Answer::Reject).await;
    }

    /// Fails the build of a corrupt message, if it exists and has not ended.
    async fn fail_corrupt(
        &self,
        named: Option<(ProjectName, BuildId)>,
        why: &DeliveryError,
    ) -> Result<Option<Build>, RecordError> {
        let Some((project, build)) = named else { return Ok(None) };
        loop {
            let Some(record) = self.operations.record(&project, build).await? else {
                return Ok(None);
            };
            let Some(next) = corrupt(&record.build, why, self.operations.now()) else {
                return Ok(record.build.outcome().is_some().then_some(record.build));
            };
            match self.operations.update(next, record.revision).await {
                Ok(failed) => return Ok(Some(failed.build)),
                Err(RecordError::Conflict) => {}
                Err(error) => {
                    tracing::warn!(
                        %build, error = chain(&error),
                        "a corrupt request waits for its record"
                    );
                    return Err(error);
                }
            }
        }
    }
}

/// The record after its request was found corrupt; `None` if the build has ended.
fn corrupt(build: &Build, why: &DeliveryError, now: Timestamp) -> Option<Build> {
    let message = format!("{why}; replay the dead letter to build what was accepted");
    let failure = Failure::new(Reason::InvalidRequest, message);
    build.apply(&Change::Fail { epoch: build.state.epoch, failure, dead: true }, now).ok()
}

#[cfg(test)]
mod tests;
