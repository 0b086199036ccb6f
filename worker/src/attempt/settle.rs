// SPDX-License-Identifier: Apache-2.0

//! The end of an attempt: record, log, events, and last the acknowledgement.
//!
//! The order matters. The record comes first, because it is the truth; then the log is stored and
//! the outcome published, because a follower that sees the outcome expects the whole log; the
//! message is acknowledged only then, and waits for the server's confirmation. A crash between
//! any two steps makes the message come back, and whoever gets it publishes the outcome again.

use std::time::Duration;

use async_nats::jetstream::{AckKind, Message};
use rand::Rng as _;
use slipway_proto::event::Event;
use slipway_proto::{Build, Change, Failure, Timestamp};
use slipway_queue::Queue;
use slipway_queue::publish::DeliveryError;

use super::{Attempt, End};
use crate::failure::StageError;

/// The delay after the first failed attempt; it doubles with each.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const MAX_DELAY: Duration = Duration::from_secs(60);
/// How often an acknowledgement is tried before the message is left to come back.
const ACK_TRIES: u32 = 3;

impl Attempt {
    pub(super) async fn settle(mut self, end: End) {
        let build = self.request.build;
        match end {
            End::Succeeded(image) => {
                tracing::info!(%build, digest = %image.digest, "build succeeded");
                let published = Event::published(&self.record.build, &image, Timestamp::now());
                self.shared.queue.send_event(&published).await;
                self.finish("Build completed successfully", None).await;
            }
            End::Failed(error) => self.failed(error).await,
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
            End::Lost => {
                tracing::warn!(%build, "lost a build: its lease ran out or it was changed by others");
                self.log.finish("this worker lost the build; it stops working on it").await;
            }
        }
    }

    async fn failed(mut self, error: StageError) {
        let StageError { mut failure, transient, charged, retry_after } = error;
        let state = &self.record.build.state;
        let (epoch, attempt) = (state.epoch, state.attempt);
        let may_retry = transient && (!charged || attempt < self.request.max_attempts);
        if may_retry {
            return self.retry(failure, charged, retry_after).await;
        }
        if transient {
            failure.message = format!("{} (attempt {attempt} was the last)", failure.message);
        }
        tracing::info!(build = %self.request.build, %failure, "build failed");
        let change = Change::Fail { epoch, failure: failure.clone() };
        // A failure after `Publishing` was recorded: the record is newer than the one in hand.
        self.refresh().await;
        match self.change(&self.record, &change).await {
            Ok(record) => self.record = record,
            Err(_) => return self.log.finish("the outcome could not be recorded").await,
        }
        let exhausted = transient.then(|| failure.to_string());
        self.finish(&format!("Build failed: {failure}"), exhausted).await;
    }

    async fn retry(mut self, failure: Failure, charged: bool, retry_after: Option<Duration>) {
        self.refresh().await;
        let state = &self.record.build.state;
        let delay = retry_after.unwrap_or_else(|| backoff(state.attempt)).min(MAX_DELAY * 10);
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
        if self.change(&self.record, &change).await.is_err() {
            return self.log.finish("this worker lost the build; it stops working on it").await;
        }
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

    async fn finish(self, last_line: &str, dead: Option<String>) {
        self.log.finish(last_line).await;
        let queue = &self.shared.queue;
        if !publish_outcome(queue, &self.record.build).await {
            // Comes back after the lease, and is published then.
            return;
        }
        if let Some(why) = dead {
            bury_message(queue, &self.message, &why).await;
        }
        acknowledge(&self.message, AckKind::Ack).await;
    }
}

/// Exponential, with jitter so that builds that failed together do not come back together.
fn backoff(attempt: u32) -> Duration {
    let doubled = FIRST_DELAY * 2u32.saturating_pow(attempt.saturating_sub(1).min(16));
    doubled.min(MAX_DELAY).mul_f64(rand::rng().random_range(0.8..1.2))
}

async fn publish_outcome(queue: &Queue, build: &Build) -> bool {
    let event = Event::finished(build).expect("the build has its outcome");
    match queue.publish_event(&event).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(build = %build.request.build, %error, "an outcome was not published");
            false
        }
    }
}

/// Answers the message of a build that has its outcome already: whoever recorded it may have died
/// before publishing it.
pub(super) async fn finished_before(queue: &Queue, build: &Build, message: &Message) {
    if publish_outcome(queue, build).await {
        acknowledge(message, AckKind::Ack).await;
    }
}

/// Answers the message of a build whose attempts are used up.
pub(super) async fn exhausted(queue: &Queue, build: &Build, message: &Message) {
    if publish_outcome(queue, build).await {
        bury_message(queue, message, "attempts exhausted").await;
        acknowledge(message, AckKind::Ack).await;
    }
}

/// Moves a message that is no build request out of the queue.
pub(super) async fn bury(queue: &Queue, message: &Message, error: &DeliveryError) {
    tracing::error!(subject = %message.subject, %error, "a message of the queue is no build request");
    if bury_message(queue, message, &error.to_string()).await {
        acknowledge(message, AckKind::Term).await;
    }
}

async fn bury_message(queue: &Queue, message: &Message, why: &str) -> bool {
    let headers = message.headers.clone().unwrap_or_default();
    match queue.bury(&message.subject, headers, message.payload.clone(), why).await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(subject = %message.subject, %error, "could not write a dead letter");
            false
        }
    }
}

/// Gives a message back, to be delivered at once or after a delay.
pub(super) async fn give_back(message: &Message, delay: Option<Duration>) {
    acknowledge(message, AckKind::Nak(delay)).await;
}

/// Extends the lease of a message that another handle of this process works on.
pub(super) async fn extend(message: &Message) {
    acknowledge(message, AckKind::Progress).await;
}

/// Answers a message and waits for the server's confirmation. Without one the message comes back,
/// which is harmless: the record says what became of the build.
async fn acknowledge(message: &Message, kind: AckKind) {
    for _ in 0..ACK_TRIES {
        match message.double_ack_with(kind).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, subject = %message.subject, "an answer was not confirmed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_stay_bounded() {
        for (attempt, seconds) in [(1, 1), (2, 2), (3, 4), (7, 60), (40, 60)] {
            let nominal = Duration::from_secs(seconds);
            let delay = backoff(attempt);
            assert!(
                delay >= nominal.mul_f64(0.8) && delay <= nominal.mul_f64(1.2),
                "{attempt}: {delay:?}"
            );
        }
    }
}
