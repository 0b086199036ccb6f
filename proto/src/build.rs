// SPDX-License-Identifier: Apache-2.0

//! The record of a build: what was asked, when, and where it is now.
//!
//! The live record is kept in the key-value bucket `slipway-state`. The projection holds the same
//! record, folded from events.

use serde::{Deserialize, Serialize};

use crate::event::{Event, EventBody, Outcome};
use crate::state::Epoch;
use crate::{
    BuildRequest, BuildState, Change, Digest, Failure, Phase, Reason, Timestamp, WorkerId,
};

/// An accepted build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// What was accepted.
    pub request: BuildRequest,
    /// The digest of the submitted document. It decides whether an idempotency key was used twice
    /// for the same request.
    pub submission: Digest,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Its place in the order of acceptance, which decides who keeps a contested tag: the revision
    /// at which its record was created. Zero until the record is read back or changed.
    pub order: u64,
    /// How often it was replayed from the dead letters.
    pub replays: u32,
    /// When it was last replayed.
    pub replayed_at: Option<Timestamp>,
    /// When the first attempt started.
    pub started_at: Option<Timestamp>,
    /// When the last attempt started: the time of its `build.started`, whoever publishes it.
    pub attempt_started_at: Option<Timestamp>,
    /// When it got its outcome.
    pub finished_at: Option<Timestamp>,
    /// Whether an attempt has begun to write tags. If the build then ends without success, whoever
    /// ends it must see to it that a tag that a later build owns does not point at this one's image.
    pub tagging: bool,
    /// The worker that claimed it last.
    pub last_worker: Option<WorkerId>,
    /// Why the last attempt ended without an outcome, if one did.
    pub last_failure: Option<Failure>,
    /// Where it is.
    pub state: BuildState,
}

impl Build {
    /// Makes the record of a build that is accepted now.
    #[must_use]
    pub fn accepted(request: BuildRequest, submission: Digest, now: Timestamp) -> Self {
        Self {
            request,
            submission,
            accepted_at: now,
            order: 0,
            replays: 0,
            replayed_at: None,
            started_at: None,
            attempt_started_at: None,
            finished_at: None,
            tagging: false,
            last_worker: None,
            last_failure: None,
            state: BuildState::accepted(),
        }
    }

    /// Returns the time from which it waits, or waited, for its first attempt.
    #[must_use]
    pub fn queued_since(&self) -> Timestamp {
        self.replayed_at.unwrap_or(self.accepted_at)
    }

    /// Returns the failure of a build that has waited too long for its first attempt, if it has.
    #[must_use]
    pub fn waited_too_long(&self, now: Timestamp) -> Option<Change> {
        let limit = self.request.queue_timeout_s;
        let waiting = matches!(self.state.phase, Phase::Queued { .. }) && self.started_at.is_none();
        let seconds = now.duration_since(self.queued_since()).as_secs();
        if !waiting || seconds < i64::from(limit) {
            return None;
        }
        let message = format!(
            "no worker of the pool {} took the build within {limit} s: add workers, or raise \
            queue_timeout_s",
            self.request.pool
        );
        let failure = Failure::new(Reason::QueueTimeExceeded, message);
        Some(Change::Fail { epoch: self.state.epoch, failure, dead: false })
    }

    /// Applies a change and returns the record after it.
    ///
    /// # Errors
    ///
    /// Returns the state machine's refusal.
    pub fn apply(&self, change: &Change, now: Timestamp) -> Result<Self, crate::state::Refusal> {
        let mut next = self.clone();
        next.change(change, now)?;
        Ok(next)
    }

    /// Applies a change in place; a refused one leaves the record as it is.
    fn change(&mut self, change: &Change, now: Timestamp) -> Result<(), crate::state::Refusal> {
        if self.tagging && !self.state.is_finished() && matches!(change, Change::Cancel { .. }) {
            // An earlier attempt has begun to write tags. The build owns them by now, and older
            // builds that give way to it may write them.
            return Err(crate::state::Refusal::TooLate);
        }
        let state = self.state.apply(change)?;
        match change {
            Change::Replay { .. } => {
                self.last_failure = self.failure().cloned();
                self.replays += 1;
                self.replayed_at = Some(now);
                self.started_at = None;
                self.attempt_started_at = None;
                self.tagging = false;
            }
            Change::Publish { .. } => self.tagging = true,
            Change::Claim { worker, .. } => {
                self.started_at = self.started_at.or(Some(now));
                self.attempt_started_at = Some(now);
                self.last_worker = Some(worker.clone());
            }
            Change::Retry { failure, .. } | Change::GiveBack { failure: Some(failure), .. } => {
                self.last_failure = Some(failure.clone());
            }
            _ => {}
        }
        self.finished_at = state.is_finished().then_some(self.finished_at.unwrap_or(now));
        self.state = state;
        Ok(())
    }

    /// Folds an event of this build into the record, as the projection does.
    ///
    /// An event can come twice, because its publisher retried, and one can be missing. The fold
    /// ignores what is older than the record and catches up with what is newer.
    pub fn fold(&mut self, event: &Event) {
        match &event.body {
            EventBody::Published(_) => {}
            EventBody::Queued(queued) => {
                self.order = self.order.max(queued.order);
                if queued.replays > self.replays {
                    self.advance(&Change::Replay { epoch: queued.epoch }, event.time);
                    self.replays = queued.replays;
                }
            }
            EventBody::Started(started) => {
                self.catch_up(started.epoch, started.attempt, &started.worker, event.time);
            }
            EventBody::Stage(entered) => {
                self.catch_up(entered.epoch, entered.attempt, &entered.worker, event.time);
                let change = Change::Enter { epoch: entered.epoch, stage: entered.stage };
                self.advance(&change, event.time);
            }
            EventBody::Retrying(retrying) => {
                self.catch_up(retrying.epoch, retrying.attempt, &retrying.worker, event.time);
                let (epoch, not_before) = (retrying.epoch, retrying.not_before);
                let failure = retrying.failure.clone();
                let change = if retrying.charged {
                    Change::Retry { epoch, not_before, failure }
                } else {
                    let (not_before, failure) = (Some(not_before), Some(failure));
                    Change::GiveBack { epoch, not_before, failure }
                };
                self.advance(&change, event.time);
            }
            EventBody::Finished(finished) => {
                if let Some(worker) = &finished.worker {
                    self.catch_up(finished.epoch, finished.attempt, worker, event.time);
                }
                let epoch = finished.epoch;
                match &finished.outcome {
                    Outcome::Succeeded { image } => {
                        self.advance(&Change::Publish { epoch }, event.time);
                        self.advance(&Change::Succeed { epoch, image: image.clone() }, event.time);
                    }
                    Outcome::Failed { failure } => {
                        let dead = finished.dead;
                        let change = Change::Fail { epoch, failure: failure.clone(), dead };
                        self.advance(&change, event.time);
                    }
                    Outcome::Cancelled { message } => {
                        let change = Change::Cancel { message: message.clone() };
                        self.advance(&change, event.time);
                    }
                }
            }
        }
    }

    /// Claims the record for an epoch that an event names and the record has not seen.
    fn catch_up(&mut self, epoch: Epoch, attempt: u32, worker: &WorkerId, time: Timestamp) {
        let claim = Change::Claim { epoch, worker: worker.clone() };
        if self.advance(&claim, time) {
            self.state.attempt = attempt;
        }
    }

    /// Applies what an event says; returns `false` for a repeated or older event: the record
    /// already says as much.
    fn advance(&mut self, change: &Change, time: Timestamp) -> bool {
        self.change(change, time).is_ok()
    }

    /// Returns whether the build ended without success after an attempt had begun to write tags.
    #[must_use]
    pub fn leaves_tags(&self) -> bool {
        let ended = self.state.is_finished();
        self.tagging && ended && !matches!(self.state.phase, Phase::Succeeded { .. })
    }

    /// Returns whether the build failed and its request belongs in the dead-letter stream.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self.state.phase, Phase::Failed { dead: true, .. })
    }

    /// Returns why it failed for good, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match &self.state.phase {
            Phase::Failed { failure, .. } => Some(failure),
            _ => None,
        }
    }

    /// Returns the last line of its log, once it has its outcome: what that is, and why.
    #[must_use]
    pub fn last_line(&self) -> Option<String> {
        self.outcome().map(|outcome| outcome.last_line())
    }

    /// Returns the outcome, once there is one.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match &self.state.phase {
            Phase::Succeeded { image } => Some(Outcome::Succeeded { image: image.clone() }),
            Phase::Failed { failure, .. } => Some(Outcome::Failed { failure: failure.clone() }),
            Phase::Cancelled { message } => Some(Outcome::Cancelled { message: message.clone() }),
            Phase::Queued { .. } | Phase::Running { .. } | Phase::Publishing { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::request;
    use crate::state::Refusal;

    #[test]
    fn the_start_in_a_record_is_that_of_its_last_attempt() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let claim = |epoch, worker: &str| Change::Claim {
            epoch,
            worker: worker.parse().expect("a worker id"),
        };
        let failure = Failure::new(Reason::PushImageFailed, "reset");
        let retry = Change::Retry { epoch: 1, not_before: at(3), failure };
        let replay = Change::Replay { epoch: 3 };
        let failure = Failure::new(Reason::PushImageFailed, "reset");
        let fail = Change::Fail { epoch: 2, failure, dead: true };
        let told = |build: &Build| {
            let event = Event::started(build)?;
            let EventBody::Started(started) = event.body else { return None };
            Some((event.time.as_second(), started.epoch, started.worker.to_string()))
        };
        let mut build = Build::accepted(request(), Digest::of(b"submission"), at(0));
        let mut tell = |change: &Change, second| {
            build = build.apply(change, at(second)).expect("it applies");
            (told(&build), build.started_at.map(Timestamp::as_second))
        };
        let first = Some((1, 1, "w1".to_owned()));
        let second = Some((5, 2, "w2".to_owned()));
        assert_eq!(tell(&claim(1, "w1"), 1), (first.clone(), Some(1)));
        assert_eq!(tell(&retry, 2), (first, Some(1)));
        assert_eq!(tell(&claim(2, "w2"), 5), (second.clone(), Some(1)));
        assert_eq!(tell(&fail, 9), (second, Some(1)));
        assert_eq!(tell(&replay, 20), (None, None), "nothing has started since");
    }

    #[test]
    fn a_build_that_has_begun_to_write_tags_is_not_cancelled_while_it_waits_for_its_next_attempt() {
        let now = Timestamp::UNIX_EPOCH;
        let failure = Failure::new(Reason::PushImageFailed, "reset");
        let cancel = Change::Cancel { message: "x".into() };
        let waiting = |changes: &[Change]| {
            let claim = Change::Claim { epoch: 1, worker: "w".parse().expect("a worker id") };
            let retry = Change::Retry { epoch: 1, not_before: now, failure: failure.clone() };
            let changes = [&[claim], changes, &[retry]].concat();
            let build = Build::accepted(request(), Digest::of(b"submission"), now);
            changes
                .iter()
                .fold(build, |build, change| build.apply(change, now).expect("it applies"))
        };
        let untagged = waiting(&[]);
        let cancelled = untagged.apply(&cancel, now).expect("no tag is written yet");
        assert!(matches!(cancelled.state.phase, Phase::Cancelled { .. }), "{cancelled:?}");
        let tagging = waiting(&[Change::Publish { epoch: 1 }]);
        assert!(matches!(tagging.state.phase, Phase::Queued { .. }), "{tagging:?}");
        assert_eq!(tagging.apply(&cancel, now), Err(Refusal::TooLate));
    }
}
