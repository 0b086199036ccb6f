// SPDX-License-Identifier: Apache-2.0

//! Claiming a delivered build: from now on it is this worker's, under a new epoch.

use std::borrow::Cow;
use std::time::Duration;

use slipway_proto::event::Event;
use slipway_proto::{Build, Change, Failure, Phase, Reason, Timestamp};
use slipway_queue::delivery::{Delivered, Delivery};
use slipway_queue::publish::Sent;
use slipway_queue::{Record, RecordError, failpoint, topology};

use super::{Attempts, settle};
use crate::lease::Lease;

/// A build younger than this may not have its `queued` event stored yet. Half the window in which
/// the server drops a second copy.
const YOUNG: Duration = Duration::from_secs(60);

/// An announcement younger than this says that its worker lives: it is renewed every 5 s.
const ANNOUNCED: Duration = Duration::from_secs(6);

/// In the server's window for second copies, a `queued` event that was stored when its build was
/// accepted is still known for one. With some room for the time between the two.
pub(super) const REMEMBERED: Duration = Duration::from_secs(100);

/// For so long after a lost connection came back, leases that ended count as the outage's.
const OUTAGE: Duration = Duration::from_secs(30);

/// What became of a delivered build.
pub(super) enum Claim {
    /// It is ours.
    Claimed(Box<(Record, Option<Sent>)>),
    /// There is nothing to do for it, and the message has been answered.
    Settled,
}

impl Attempts {
    pub(super) async fn claim(
        &self,
        delivered: &Delivered,
        message: &Delivery,
        lease: &Lease,
    ) -> Result<Claim, RecordError> {
        let records = self.queue.records();
        let request = &delivered.request;
        failpoint("claim.received");
        // Beside the first thing that is done, and sent before it on one connection: who has
        // claimed a build has said that it is queued.
        let mut queued = Some(Box::pin(self.announce_queued(delivered, message)));
        let mut untouched = untouched(delivered, message);
        loop {
            let found = match untouched.take() {
                Some(record) => Some(record),
                None => after(queued.take(), records.get(&request.project, request.build)).await?,
            };
            let Some(record) = found else {
                // The record outlived its bucket while the build waited: the message holds
                // everything that it said.
                match records.create(accepted(delivered)).await {
                    Ok(_) | Err(RecordError::Conflict) => continue,
                    Err(error) => return Err(error),
                }
            };
            if record.build.state.is_finished() {
                self.finished_before(&record.build, message).await;
                return Ok(Claim::Settled);
            }
            if message.is_repeated() && may_be_unannounced(&record.build) {
                // Whoever was to say that it is queued died, and so did the first worker.
                let queued = Event::queued(&record.build);
                if let Err(error) = self.queue.publish_event(&queued).await {
                    tracing::warn!(build = %request.build, %error, "build.queued was not stored");
                }
            }
            if let Some(delay) = self.not_yet(&record.build, message).await? {
                settle::give_back(message, Some(delay)).await;
                return Ok(Claim::Settled);
            }
            let Some(next) = self.next(&record.build, Timestamp::now()) else { continue };
            match after(queued.take(), records.update(next, record.revision)).await {
                Ok(ended) if ended.build.state.is_finished() => {
                    self.ended_without_word(&ended.build, message).await;
                    return Ok(Claim::Settled);
                }
                Ok(claimed) => {
                    failpoint("claim.claimed");
                    let event = Event::started(&claimed.build).expect("the record is claimed");
                    // A worker that slept since its claim says nothing: another may have finished
                    // the build by now.
                    let started = match lease.holds() {
                        true => Some(self.queue.send_event(event).await),
                        false => None,
                    };
                    failpoint("claim.announced");
                    return Ok(Claim::Claimed(Box::new((claimed, started))));
                }
                Err(RecordError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The record after this claim, or after the end of a build that waited too long or has used
    /// up its attempts.
    fn next(&self, build: &Build, now: Timestamp) -> Option<Build> {
        let mut build = Cow::Borrowed(build);
        if build.state.holder().is_some() && self.queue.reconnected_within(OUTAGE) {
            // Its worker lost the lease while the server was away, as all did: no fault of the
            // build, so that attempt is not charged.
            let epoch = build.state.epoch;
            let free = Change::GiveBack { epoch, not_before: None, failure: None };
            build = Cow::Owned(build.apply(&free, now).ok()?);
        }
        let change = build.waited_too_long(now).unwrap_or_else(|| self.next_change(&build));
        build.apply(&change, now).ok()
    }

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
        Change::Fail { epoch: state.epoch, failure, dead: true }
    }

    /// Publishes `build.queued` of a young build and waits until it is stored.
    ///
    /// The dispatcher publishes it after the build is in the queue, and a worker may be faster.
    /// The same event from here is dropped as a duplicate if the dispatcher was first, and else
    /// keeps the order that subscribers rely on.
    async fn announce_queued(&self, delivered: &Delivered, message: &Delivery) {
        if !is_younger(delivered.accepted_at, YOUNG) || message.is_repeated() {
            return;
        }
        if let Err(error) = self.queue.publish_event(&Event::queued(&accepted(delivered))).await {
            tracing::warn!(build = %delivered.request.build, %error, "build.queued was not stored");
        }
    }

    /// How long this delivery must wait, if it must.
    async fn not_yet(
        &self,
        build: &Build,
        message: &Delivery,
    ) -> Result<Option<Duration>, RecordError> {
        if let Phase::Queued { not_before: Some(time) } = &build.state.phase {
            return Ok(Duration::try_from(time.duration_since(Timestamp::now())).ok());
        }
        let Some(holder) = build.state.holder().filter(|holder| **holder != self.worker) else {
            return Ok(None);
        };
        if !message.is_repeated() {
            // A second copy; the first one's lease decides.
            return Ok(Some(topology::ACK_WAIT));
        }
        // A server that was restarted can take a lease for older than it is. Whoever holds the
        // build announces so every few seconds.
        let works_on_it = self.queue.worker(holder).await?.is_some_and(|(view, age)| {
            age < ANNOUNCED && view.running.contains(&build.request.build)
        });
        Ok(works_on_it.then_some(ANNOUNCED))
    }
}

/// The record as it was when the build was accepted.
fn accepted(delivered: &Delivered) -> Build {
    let Delivered { request, submission, accepted_at, order } = delivered;
    Build { order: *order, ..Build::accepted(request.clone(), *submission, *accepted_at) }
}

/// The record as it stands if nobody has changed it since the build was accepted: its revision is
/// the build's place in the order of acceptance. A compare-and-set finds out without a read before
/// it. Not for a message that comes again: its build was claimed, most likely.
fn untouched(delivered: &Delivered, message: &Delivery) -> Option<Record> {
    if message.is_repeated() {
        return None;
    }
    Some(Record { build: accepted(delivered), revision: delivered.order })
}

/// Returns whether `build.queued` may not be stored although the message was delivered before. A
/// worker says it on the same connection before it claims; but the server may have died over it,
/// having stored the claim alone.
fn may_be_unannounced(build: &Build) -> bool {
    build.started_at.is_none()
        || (build.state.epoch == 1 && is_younger(build.accepted_at, REMEMBERED))
}

pub(super) fn is_younger(accepted_at: Timestamp, limit: Duration) -> bool {
    let age = Timestamp::now().duration_since(accepted_at);
    Duration::try_from(age).is_ok_and(|age| age < limit)
}

/// Runs two things at once, the first of which begins first, if it is there at all.
async fn after<T>(first: Option<impl Future<Output = ()>>, second: impl Future<Output = T>) -> T {
    match first {
        Some(first) => tokio::join!(biased; first, second).1,
        None => second.await,
    }
}
