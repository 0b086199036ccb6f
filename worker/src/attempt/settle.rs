// SPDX-License-Identifier: Apache-2.0

//! The end of an attempt: record, log, events, and last the acknowledgement.
//!
//! The order matters. The record comes first, because it is the truth; then the log is stored and
//! the outcome published, because a follower that sees the outcome expects the whole log; the
//! message is acknowledged only then, and waits for the server's confirmation. A crash between
//! any two steps makes the message come back, and whoever gets it publishes the outcome again.

use std::sync::Arc;
use std::time::Duration;

use slipway_fault::Backoff;
use slipway_proto::event::Event;
use slipway_proto::{Build, Change, Failure, Phase, Reason, Timestamp};
use slipway_queue::delivery::{Answer, Delivery, DeliveryError};
use slipway_queue::{Queue, RecordError, failpoint};

use super::claim::{REMEMBERED, is_younger};
use super::{Attempt, Attempts, End};
use crate::failure::StageError;

/// The delay of the next attempt after a failed one, spread so that builds that failed together do
/// not come back together.
const RETRY_DELAY: Backoff = Backoff::constant(1_000, 2, 60_000, 40);
/// The longest delay that a registry can ask for.
const MAX_REQUESTED_DELAY: Duration = Duration::from_secs(600);
/// How long a worker that lost a build tries to say that it was no fault of the build.
const UNCHARGE_FOR: Duration = Duration::from_secs(60);
const UNCHARGE_EVERY: Duration = Duration::from_millis(500);
/// How long a registry that does not answer is asked again about the tags of a failed build. Its
/// message must not outlive its record, which is kept for three days.
const TAGS_SEEN_TO_FOR: Duration = Duration::from_secs(60 * 60);

impl Attempt {
    pub(super) async fn settle(mut self, end: End) {
        let build = self.request.build;
        match end {
            End::Succeeded(image) => {
                tracing::info!(%build, digest = %image.digest, "build succeeded");
                let published = Event::published(&self.record.build, &image, Timestamp::now());
                self.shared.queue.tell_event(&published).await;
                failpoint("commit.succeeded");
                self.finish("Build completed successfully").await;
            }
            End::Failed(error) => Box::pin(self.failed(error)).await,
            End::HandedBack => {
                tracing::info!(%build, "giving a build back, the worker stops");
                // It may have been stopped after `Publishing` was recorded.
                self.refresh().await;
                let epoch = self.record.build.state.epoch;
                let change = Change::GiveBack { epoch, not_before: None, failure: None };
                if self.change(&self.record, &change).await.is_ok() {
                    give_back(&self.message, None).await;
                }
                self.log.finish("the worker stops and gives the build back").await;
            }
            End::CalledOff(record) => {
                self.record = *record;
                self.called_off_by_others().await;
            }
            End::Lost => self.lost().await,
        }
    }

    /// The build has an outcome that this attempt did not give it.
    async fn called_off_by_others(self) {
        let build = &self.record.build;
        tracing::info!(build = %self.request.build, "a build was ended by others");
        let last_line = match &build.state.phase {
            Phase::Cancelled { message } => format!("Build cancelled: {message}"),
            _ => "the build has ended elsewhere; this worker stops working on it".to_owned(),
        };
        self.finish(&last_line).await;
    }

    /// The lease ran out, or the record was changed by others.
    async fn lost(mut self) {
        let build = self.request.build;
        tracing::warn!(%build, "lost a build: its lease ran out or it was changed by others");
        let give_up = tokio::time::Instant::now() + UNCHARGE_FOR;
        let request = Arc::clone(&self.request);
        let records = self.shared.queue.records();
        let epoch = self.record.build.state.epoch;
        while tokio::time::Instant::now() < give_up {
            match records.get(&request.project, request.build).await {
                Ok(Some(record)) if record.build.state.is_finished() => {
                    self.record = record;
                    return self.called_off_by_others().await;
                }
                Ok(Some(record)) if record.build.state.epoch == epoch => {
                    // Nobody has taken it yet. That the server was away is no fault of the build:
                    // the attempt is given back and not charged.
                    let why = "the worker could not reach NATS for longer than its lease";
                    let failure = Some(Failure::new(Reason::LeaseLost, why));
                    let change = Change::GiveBack { epoch, not_before: None, failure };
                    if self.change(&record, &change).await.is_ok() {
                        break;
                    }
                }
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(%build, %error, "waiting for NATS to give a build back");
                }
            }
            tokio::time::sleep(UNCHARGE_EVERY).await;
        }
        self.log.finish("this worker lost the build; it stops working on it").await;
    }

    async fn failed(mut self, error: StageError) {
        let StageError { mut failure, transient, charged, retry_after } = error;
        let state = &self.record.build.state;
        let (epoch, attempt) = (state.epoch, state.attempt);
        let may_retry = transient && (!charged || attempt < self.request.max_attempts);
        if may_retry {
            return Box::pin(self.retry(failure, charged, retry_after)).await;
        }
        if transient {
            failure.message = format!("{} (attempt {attempt} was the last)", failure.message);
        }
        tracing::info!(build = %self.request.build, %failure, "build failed");
        let change = Change::Fail { epoch, failure: failure.clone(), dead: transient };
        // A failure after `Publishing` was recorded: the record is newer than the one in hand.
        self.refresh().await;
        failpoint("settle.before_record");
        match self.change(&self.record, &change).await {
            Ok(record) => self.record = record,
            Err(End::Lost) => return self.lost().await,
            Err(_) => return self.log.finish("the outcome could not be recorded").await,
        }
        failpoint("settle.recorded");
        self.finish(&format!("Build failed: {failure}")).await;
    }

    async fn retry(mut self, failure: Failure, charged: bool, retry_after: Option<Duration>) {
        self.refresh().await;
        let state = &self.record.build.state;
        let usual = RETRY_DELAY.pause(state.attempt, &mut rand::rng());
        let delay = retry_after.map_or(usual, |asked| asked.min(MAX_REQUESTED_DELAY));
        let now = Timestamp::now();
        let not_before = now.checked_add(delay).unwrap_or(now);
        let epoch = state.epoch;
        let change = if charged {
            Change::Retry { epoch, not_before, failure: failure.clone() }
        } else {
            let (not_before, failure) = (Some(not_before), Some(failure.clone()));
            Change::GiveBack { epoch, not_before, failure }
        };
        let before = self.record.build.clone();
        failpoint("settle.before_record");
        if self.change(&self.record, &change).await.is_err() {
            return self.lost().await;
        }
        failpoint("settle.recorded");
        let seconds = delay.as_secs_f32();
        let shared = &self.shared;
        let event = Event::retrying(&before, &shared.worker, &failure, charged, not_before, now);
        if let Err(error) = shared.queue.publish_event(&event).await {
            tracing::warn!(%error, "a retry was not announced");
        }
        tracing::info!(build = %self.request.build, %failure, seconds, "build will be tried again");
        self.log
            .finish(&format!("attempt failed: {failure}; trying again in {seconds:.1} s"))
            .await;
        give_back(&self.message, Some(delay)).await;
    }

    /// Reads the record again if it moved on under this attempt's own epoch.
    async fn refresh(&mut self) {
        let request = &self.request;
        if let Ok(Some(record)) =
            self.shared.queue.records().get(&request.project, request.build).await
            && record.build.state.epoch == self.record.build.state.epoch
        {
            self.record = record;
        }
    }

    async fn finish(mut self, last_line: &str) {
        self.log.finish(last_line).await;
        let shared = &self.shared;
        let build = &self.record.build;
        // Not if another has claimed it since: that attempt's `started` is the last.
        if build.state.epoch == self.epoch {
            let stored = match self.started.take() {
                Some(started) => started.ensure(&shared.queue).await,
                None => {
                    let started = Event::started(build).expect("the record is claimed");
                    shared.queue.publish_event(&started).await
                }
            };
            if let Err(error) = stored {
                // The message comes back, and with it the chance to say this before the outcome.
                tracing::warn!(build = %self.request.build, %error, "build.started was not stored");
                return;
            }
        }
        shared.ended(&self.record.build, &self.message).await;
    }
}

impl Attempts {
    /// Answers the message of a build that has its outcome already: whoever recorded it may have
    /// died before publishing it.
    pub(super) async fn finished_before(&self, build: &Build, message: &Delivery) {
        tracing::info!(build = %build.request.build, "a finished build was delivered again");
        self.ended_without_word(build, message).await;
    }

    /// Does what is left to do about a build whose last worker may have died before it said that it
    /// had started the build.
    pub(super) async fn ended_without_word(&self, build: &Build, message: &Delivery) {
        if let Some(started) = may_be_unannounced(build)
            && let Err(error) = self.queue.publish_event(&started).await
        {
            tracing::warn!(build = %build.request.build, %error, "build.started was not stored");
            return;
        }
        self.ended(build, message).await;
    }

    /// Publishes the outcome of a build, sees to the tags and the dead letter that it may leave,
    /// and acknowledges. If one of these fails the message comes back after the lease, and they are
    /// done again.
    pub(super) async fn ended(&self, build: &Build, message: &Delivery) {
        let (queue, id) = (&self.queue, build.request.build);
        if !publish_outcome(queue, build).await {
            return;
        }
        failpoint("commit.announced");
        if build.leaves_tags()
            && let Err(error) = self.leave_tags(build).await
        {
            tracing::warn!(build = %id, %error, "the tags of a failed build were not seen to");
            if error.transient && ended_within(build, TAGS_SEEN_TO_FOR) {
                return;
            }
        }
        if build.is_dead() {
            failpoint("dead.announced");
            if let Err(error) = queue.bury(build).await {
                tracing::error!(build = %id, %error, "could not write a dead letter");
                return;
            }
            failpoint("dead.buried");
        }
        if answer(message, Answer::Done).await {
            tracing::info!(build = %id, "settled");
        }
    }
}

/// Returns the `build.started` of the last attempt if its worker may have died, or NATS been away,
/// before it was stored. As long as the server remembers it, a second copy is dropped. Of a build
/// that was cancelled the outcome may be stored already, without a start.
fn may_be_unannounced(build: &Build) -> Option<Event> {
    let is_cancelled = matches!(build.state.phase, Phase::Cancelled { .. });
    let started = Event::started(build)?;
    (!is_cancelled && is_younger(started.time, REMEMBERED)).then_some(started)
}

/// Returns whether a build has ended and that is not longer ago.
fn ended_within(build: &Build, period: Duration) -> bool {
    let Some(ended) = build.finished_at else { return false };
    Duration::try_from(Timestamp::now().duration_since(ended)).is_ok_and(|age| age < period)
}

async fn publish_outcome(queue: &Queue, build: &Build) -> bool {
    let event = Event::finished(build).expect("the build has its outcome");
    match queue.publish_event(&event).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(build = %build.request.build, %error, "an outcome was not published");
            false
        }
    }
}

/// Moves a message that is no build request out of the queue. If there is such a build, it fails:
/// its record still holds the request as it was accepted, from which a replay makes a new message.
pub(super) async fn bury(queue: &Queue, message: &Delivery, error: &DeliveryError) {
    let subject = message.subject();
    tracing::error!(subject, %error, "a message of the queue is no build request");
    let Ok(failed) = fail_corrupt(queue, message, error).await else { return };
    // Before the letter: once that is there somebody may replay the build.
    if let Some(build) = &failed
        && !publish_outcome(queue, build).await
    {
        return;
    }
    if let Err(error) = queue.bury_message(message, error).await {
        tracing::error!(subject, %error, "could not write a dead letter");
        return;
    }
    answer(message, Answer::Reject).await;
}

/// Fails the build that a corrupt message stands for, if it is one and has not ended.
async fn fail_corrupt(
    queue: &Queue,
    delivery: &Delivery,
    error: &DeliveryError,
) -> Result<Option<Build>, RecordError> {
    let Some((project, build)) = delivery.ids() else { return Ok(None) };
    let records = queue.records();
    loop {
        let Some(record) = records.get(&project, build).await? else { return Ok(None) };
        let message = format!("{error}; replay the dead letter to build what was accepted");
        let failure = Failure::new(Reason::InvalidRequest, message);
        let change = Change::Fail { epoch: record.build.state.epoch, failure, dead: true };
        let Ok(next) = record.build.apply(&change, Timestamp::now()) else {
            return Ok(record.build.outcome().is_some().then_some(record.build));
        };
        match records.update(next, record.revision).await {
            Ok(failed) => return Ok(Some(failed.build)),
            Err(RecordError::Conflict) => {}
            Err(error) => {
                tracing::warn!(%build, %error, "a corrupt request waits for its record");
                return Err(error);
            }
        }
    }
}

/// Gives a message back, to be delivered at once or after a delay.
pub(super) async fn give_back(message: &Delivery, delay: Option<Duration>) {
    answer(message, Answer::GiveBack(delay)).await;
}

/// Answers a message, and returns whether the server confirmed it. Without a confirmation the
/// message comes back, which is harmless: the record says what became of the build.
pub(super) async fn answer(message: &Delivery, answer: Answer) -> bool {
    let confirmed = message.answer(answer).await;
    if let Err(error) = &confirmed {
        tracing::warn!(%error, subject = message.subject(), "an answer was not confirmed");
    }
    confirmed.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_told_again_before_an_outcome_as_long_as_a_copy_is_noticed() {
        let now = Timestamp::now();
        let earlier = |seconds| now.checked_sub(Duration::from_secs(seconds)).expect("a time");
        let ended = |started: Timestamp, change: &Change| {
            let request = crate::pipeline::tests::request(b"tool");
            let digest = slipway_proto::Digest::of(b"a submission");
            let claim = Change::Claim { epoch: 1, worker: "worker-1".parse().expect("a name") };
            let accepted = Build::accepted(request, digest, started);
            let claimed = accepted.apply(&claim, started).expect("it is claimed");
            may_be_unannounced(&claimed.apply(change, now).expect("it ends"))
        };
        let failure = Failure::new(Reason::RegistryDenied, "no");
        let fail = Change::Fail { epoch: 1, failure, dead: false };
        let told = ended(earlier(1), &fail).expect("it is told");
        assert_eq!((told.body.short_type(), told.time), ("build.started", earlier(1)));
        assert!(ended(earlier(200), &fail).is_none(), "a copy would not be noticed");
        let again = Change::Claim { epoch: 2, worker: "worker-2".parse().expect("a name") };
        let told = ended(earlier(200), &again).expect("the second attempt has just started");
        assert_eq!(told.time, now);
        let cancel = Change::Cancel { message: "no more".to_owned() };
        assert!(ended(earlier(1), &cancel).is_none(), "its outcome is out");
    }
}
