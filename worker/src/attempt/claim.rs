// SPDX-License-Identifier: Apache-2.0

//! Claiming a delivered build: from now on it is this worker's, under a new epoch.

use std::time::Duration;

use async_nats::jetstream::Message;
use slipway_proto::event::Event;
use slipway_proto::{Build, Change, Failure, Phase, Reason, Timestamp};
use slipway_queue::publish::Delivered;
use slipway_queue::{Record, RecordError, topology};

use super::{Attempts, settle};

/// A build younger than this may not have its `queued` event stored yet. Half the window in which
/// the server drops a second copy.
const YOUNG: Duration = Duration::from_secs(60);

/// What became of a delivered build.
pub(super) enum Claim {
    /// It is ours.
    Claimed(Box<Record>),
    /// There is nothing to do for it, and the message has been answered.
    Settled,
}

impl Attempts {
    pub(super) async fn claim(
        &self,
        delivered: &Delivered,
        message: &Message,
    ) -> Result<Claim, RecordError> {
        let records = self.queue.records();
        let request = &delivered.request;
        loop {
            let Some(record) = records.get(&request.project, request.build).await? else {
                // The record outlived its bucket while the build waited: the message holds
                // everything that it said.
                let build =
                    Build::accepted(request.clone(), delivered.submission, delivered.accepted_at);
                match records.create(build).await {
                    Ok(_) | Err(RecordError::Conflict) => continue,
                    Err(error) => return Err(error),
                }
            };
            if record.build.state.is_finished() {
                settle::finished_before(&self.queue, &record.build, message).await;
                return Ok(Claim::Settled);
            }
            if let Some(delay) = not_yet(&record.build, message, Timestamp::now()) {
                settle::give_back(message, Some(delay)).await;
                return Ok(Claim::Settled);
            }
            let change = self.next_change(&record.build);
            let Ok(next) = record.build.apply(&change, Timestamp::now()) else { continue };
            match records.update(next, record.revision).await {
                Ok(claimed) if claimed.build.state.is_finished() => {
                    settle::exhausted(&self.queue, &claimed.build, message).await;
                    return Ok(Claim::Settled);
                }
                Ok(claimed) => {
                    self.announce(&claimed.build).await;
                    return Ok(Claim::Claimed(Box::new(claimed)));
                }
                Err(RecordError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The claim, or the end of a build that has used up its attempts.
    fn next_change(&self, build: &Build) -> Change {
        let state = &build.state;
        if state.attempt < build.request.max_attempts {
            return Change::Claim { epoch: state.epoch + 1, worker: self.worker.clone() };
        }
        let failure = Failure::new(
            Reason::AttemptsExhausted,
            format!(
                "all {} attempts ended without an outcome; the last worker stopped without a word, perhaps because the build exhausts it",
                build.request.max_attempts
            ),
        );
        Change::Fail { epoch: state.epoch, failure }
    }

    async fn announce(&self, build: &Build) {
        let age = Timestamp::now().duration_since(build.accepted_at);
        if Duration::try_from(age).is_ok_and(|age| age < YOUNG) {
            // The dispatcher publishes `queued` after the build is in the queue, and a worker may
            // be faster. The same event from here is dropped as a duplicate if the dispatcher
            // was first, and else keeps the order that subscribers rely on.
            self.queue.send_event(&Event::queued(build)).await;
        }
        let started = Event::started(build, &self.worker, Timestamp::now());
        self.queue.send_event(&started).await;
    }
}

/// How long this delivery must wait, if it must.
fn not_yet(build: &Build, message: &Message, now: Timestamp) -> Option<Duration> {
    match &build.state.phase {
        Phase::Queued { not_before: Some(time) } if *time > now => {
            Duration::try_from(time.duration_since(now)).ok()
        }
        // Somebody holds the build, and this message was never delivered before: it is a second
        // copy, and the first one's lease decides.
        Phase::Running { .. } | Phase::Publishing { .. } => {
            let first_delivery = message.info().is_ok_and(|info| info.delivered <= 1);
            first_delivery.then_some(topology::ACK_WAIT)
        }
        _ => None,
    }
}
