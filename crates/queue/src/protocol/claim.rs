// SPDX-License-Identifier: Apache-2.0

//! Claims a delivered build for this worker, under a new epoch.

use std::borrow::Cow;
use std::time::Duration;

use slipway_fault::chain;
use slipway_proto::event::Event;
use slipway_proto::{Build, Change, Failure, Phase, Reason, Timestamp, WorkerId};

use super::Operations;
use super::attempt::{Registry, Worker};
use crate::delivery::{Answer, Delivered};
use crate::failpoint::failpoint;
use crate::{Record, RecordError, topology};

/// A build younger than this may not have its `queued` event stored yet. Half the window in which
/// the server drops a second copy.
const UNANNOUNCED_FOR: Duration = Duration::from_secs(60);

/// A worker whose announcement is younger than this is alive. Announcements are renewed every 5 s.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(6);

/// How long after an event was stored a second copy of it is certainly recognised. The server's
/// window is 120 s; the rest is room for the time between the event's own time and its storing.
pub(super) const COPY_NOTICED_FOR: Duration = Duration::from_secs(100);

/// How long after a reconnection the end of a lease counts as a consequence of the outage.
const OUTAGE_LEASES_END_WITHIN: Duration = Duration::from_secs(30);

/// The result of a claim.
pub enum Claim<S> {
    /// It is this worker's, and its `build.started` was sent if the lease still held.
    Claimed(Box<(Record, Option<S>)>),
    /// There is nothing to do for it, and the delivery has been answered.
    Settled,
}

/// What a worker knows about a delivered build when it decides.
struct Known<'a> {
    build: &'a Build,
    worker: &'a WorkerId,
    /// Whether the message was delivered before.
    is_repeated: bool,
    /// Whether the worker that holds the build works on it, once that was asked.
    holder_works: Option<bool>,
    /// Whether leases may have ended because NATS was away.
    after_outage: bool,
    now: Timestamp,
}

/// What to do next about a delivered build.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The build has its outcome: publish it again and acknowledge.
    Settle,
    /// Have the message delivered again later.
    GiveBack(Duration),
    /// Ask whether the worker that holds the build works on it.
    AskHolder(WorkerId),
    /// Write the record after this claim, or after the end of a build that waited too long or has
    /// used up its attempts.
    Write(Box<Build>),
    /// Read the record again.
    ReadAgain,
}

fn decide(known: &Known<'_>) -> Step {
    let Known { build, now, .. } = *known;
    if build.state.is_finished() {
        return Step::Settle;
    }
    if let Phase::Queued { not_before: Some(time) } = &build.state.phase
        && let Ok(delay) = Duration::try_from(time.duration_since(now))
    {
        return Step::GiveBack(delay);
    }
    if let Some(holder) = build.state.holder().filter(|holder| *holder != known.worker) {
        match (known.is_repeated, known.holder_works) {
            // A second copy; the lease of the first decides.
            (false, _) => return Step::GiveBack(topology::ACK_WAIT),
            // A server that was restarted may believe a lease is older than it is.
            (true, None) => return Step::AskHolder(holder.clone()),
            (true, Some(true)) => return Step::GiveBack(ANNOUNCED_WITHIN),
            (true, Some(false)) => {}
        }
    }
    next(known).map_or(Step::ReadAgain, |next| Step::Write(Box::new(next)))
}

/// The record after the claim or the end.
fn next(known: &Known<'_>) -> Option<Build> {
    let now = known.now;
    let mut build = Cow::Borrowed(known.build);
    if build.state.holder().is_some() && known.after_outage {
        // Its worker lost the lease while the server was away, as all workers did. That is no fault
        // of the build, so the attempt is not charged.
        let epoch = build.state.epoch;
        let free = Change::GiveBack { epoch, not_before: None, failure: None };
        build = Cow::Owned(build.apply(&free, now).ok()?);
    }
    let change = build.waited_too_long(now).unwrap_or_else(|| claim(&build, known.worker));
    build.apply(&change, now).ok()
}

fn claim(build: &Build, worker: &WorkerId) -> Change {
    let state = &build.state;
    if state.attempt < build.request.max_attempts {
        return Change::Claim { epoch: state.epoch + 1, worker: worker.clone() };
    }
    let failure = Failure::new(
        Reason::AttemptsExhausted,
        format!(
            "all {} attempts ended without an outcome; the last worker vanished, perhaps because \
            the build exhausts its memory or disk",
            build.request.max_attempts
        ),
    );
    Change::Fail { epoch: state.epoch, failure, dead: true }
}

/// The record at acceptance.
fn accepted(delivered: &Delivered) -> Build {
    let Delivered { request, submission, accepted_at, order } = delivered;
    Build { order: *order, ..Build::accepted(request.clone(), *submission, *accepted_at) }
}

/// The record as it is if nobody has changed it since the build was accepted: its revision is the
/// build's place in the order of acceptance. A compare-and-set shows whether it is, without a read
/// before it. Not for a repeated message: its build was claimed, most likely.
fn untouched(delivered: &Delivered, is_repeated: bool) -> Option<Record> {
    if is_repeated {
        return None;
    }
    Some(Record { build: accepted(delivered), revision: delivered.order })
}

/// Returns whether this worker publishes `build.queued` before it claims. The dispatcher publishes
/// it after the build is in the queue, and a worker may be faster. The second copy is dropped, and
/// subscribers see queued before started.
fn announces_queued(delivered: &Delivered, is_repeated: bool, now: Timestamp) -> bool {
    !is_repeated && is_younger(delivered.accepted_at, UNANNOUNCED_FOR, now)
}

/// Returns whether `build.queued` may not be stored although the message was delivered before. A
/// worker sends it on the same connection before it claims; but the server may have died over it,
/// having stored the claim alone.
fn may_be_unannounced(build: &Build, now: Timestamp) -> bool {
    build.started_at.is_none()
        || (build.state.epoch == 1 && is_younger(build.accepted_at, COPY_NOTICED_FOR, now))
}

pub(super) fn is_younger(time: Timestamp, limit: Duration, now: Timestamp) -> bool {
    Duration::try_from(now.duration_since(time)).is_ok_and(|age| age < limit)
}

impl<O: Operations, R: Registry> Worker<'_, O, R> {
    /// Claims a delivered build, or answers the delivery if there is nothing to do for it.
    ///
    /// # Errors
    ///
    /// When NATS does not answer. Left alone, the message comes back when its lease ends.
    pub async fn claim(
        &self,
        delivered: &Delivered,
        delivery: &O::Delivery,
        holds_lease: impl Fn() -> bool + Send + Sync,
    ) -> Result<Claim<O::Sent>, RecordError> {
        let operations = self.operations;
        let request = &delivered.request;
        let is_repeated = operations.is_repeated(delivery);
        failpoint("claim.received");
        // At the same time as the first operation, and sent before it on one connection: when a
        // build is claimed, its `build.queued` has been published.
        let mut queued = Some(Box::pin(self.announce_queued(delivered, is_repeated)));
        let mut untouched = untouched(delivered, is_repeated);
        loop {
            let found = match untouched.take() {
                Some(record) => Some(record),
                None => {
                    let read = operations.record(&request.project, request.build);
                    after(queued.take(), read).await?
                }
            };
            let Some(record) = found else {
                // The record expired while the build waited. The message holds everything that was
                // in it.
                match operations.create(accepted(delivered)).await {
                    Ok(_) | Err(RecordError::Conflict) => continue,
                    Err(error) => return Err(error),
                }
            };
            let next = match self.next_step(&record.build, is_repeated).await? {
                Step::Settle => {
                    let build = &record.build;
                    tracing::info!(build = %request.build, "a finished build was delivered again");
                    self.ended_without_start(build, delivery).await;
                    return Ok(Claim::Settled);
                }
                Step::GiveBack(delay) => {
                    self.answer(delivery, Answer::GiveBack(Some(delay))).await;
                    return Ok(Claim::Settled);
                }
                Step::Write(next) => *next,
                Step::AskHolder(_) | Step::ReadAgain => continue,
            };
            match after(queued.take(), operations.update(next, record.revision)).await {
                Ok(ended) if ended.build.state.is_finished() => {
                    self.ended_without_start(&ended.build, delivery).await;
                    return Ok(Claim::Settled);
                }
                Ok(claimed) => {
                    failpoint("claim.claimed");
                    let event = Event::started(&claimed.build).expect("the record is claimed");
                    // A worker that slept since its claim publishes nothing, because another may
                    // have finished the build by now.
                    let started = match holds_lease() {
                        true => Some(operations.send(event).await),
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

    /// Decides about a record that was read, asking the worker that holds it where that matters.
    async fn next_step(&self, build: &Build, is_repeated: bool) -> Result<Step, RecordError> {
        let operations = self.operations;
        let after_outage = operations.reconnected_within(OUTAGE_LEASES_END_WITHIN);
        let known = |holder_works| Known {
            build,
            worker: self.id,
            is_repeated,
            holder_works,
            after_outage,
            now: operations.now(),
        };
        if !build.state.is_finished() && is_repeated && may_be_unannounced(build, operations.now())
        {
            // The dispatcher that was to publish it died, and so did the first worker.
            if let Err(error) = operations.publish(&Event::queued(build)).await {
                let build = build.request.build;
                tracing::warn!(%build, error = chain(&error), "build.queued was not stored");
            }
        }
        match decide(&known(None)) {
            Step::AskHolder(holder) => {
                let found = operations.worker(&holder).await?;
                let works = found.is_some_and(|(view, age)| {
                    age < ANNOUNCED_WITHIN && view.running.contains(&build.request.build)
                });
                Ok(decide(&known(Some(works))))
            }
            step => Ok(step),
        }
    }

    /// Publishes `build.queued` of a young build and waits until it is stored.
    async fn announce_queued(&self, delivered: &Delivered, is_repeated: bool) {
        if !announces_queued(delivered, is_repeated, self.operations.now()) {
            return;
        }
        let event = Event::queued(&accepted(delivered));
        if let Err(error) = self.operations.publish(&event).await {
            tracing::warn!(
                build = %delivered.request.build, error = chain(&error),
                "build.queued was not stored"
            );
        }
    }
}

/// Runs two futures at once. The first, if there is one, begins first.
async fn after<T>(first: Option<impl Future<Output = ()>>, second: impl Future<Output = T>) -> T {
    match first {
        Some(first) => tokio::join!(biased; first, second).1,
        None => second.await,
    }
}

#[cfg(test)]
mod tests;
