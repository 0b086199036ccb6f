// SPDX-License-Identifier: Apache-2.0

//! Which events of a build are published, and which must follow before its outcome.
//!
//! Subscribers see `build.queued`, `build.started` and `build.finished` of a build in this order,
//! no matter which process publishes them. Each of the three is made from the record alone, so two
//! publishers send the same event and the server drops the second copy.

use slipway_fault::chain;
use slipway_proto::api::StateName;
use slipway_proto::event::Event;
use slipway_proto::state::Epoch;
use slipway_proto::{Build, BuildId, ProjectName};

use super::Operations;

/// The state of a build according to the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectedState {
    /// Where it is.
    pub state: StateName,
    /// The last claim that an event named.
    pub epoch: Epoch,
    /// How often it was replayed.
    pub replays: u32,
}

impl ProjectedState {
    /// Returns what a folded build says.
    #[must_use]
    pub fn of(build: &Build) -> Self {
        let state = &build.state;
        Self { state: StateName::from(&state.phase), epoch: state.epoch, replays: build.replays }
    }
}

/// The projection could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the projection could not be read")]
pub struct Unreadable;

/// The events as a dispatcher has folded them, and its way to publish one later.
pub trait Feed: Send + Sync {
    /// Returns the state of a build by the events folded so far; `None` if none was of this build.
    fn state(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> impl Future<Output = Result<Option<ProjectedState>, Unreadable>> + Send;

    /// Publishes an event in the background, since it could not be stored at once. It may be lost in
    /// a crash; the reconciler publishes it then.
    fn publish_later(&self, event: Event);
}

/// Returns the events of a finished build that subscribers have yet to see, in their order: the
/// outcome, and before it what the projection has not folded. Nothing while there is no outcome.
#[must_use]
pub fn unseen(build: &Build, told: Option<ProjectedState>) -> Vec<Event> {
    let Some(finished) = Event::finished(build) else { return Vec::new() };
    let mut events = Vec::with_capacity(3);
    let known = told.filter(|told| told.replays >= build.replays);
    if known.is_none() {
        events.push(Event::queued(build));
    }
    let told_epoch = told.map_or(0, |told| told.epoch);
    events.extend(Event::started(build).filter(|_| told_epoch < build.state.epoch));
    events.push(finished);
    events
}

/// Publishes an event, now or in the background, and returns its sequence if it is stored now.
pub async fn announce<O: Operations, F: Feed>(
    operations: &O,
    feed: &F,
    event: Event,
) -> Option<u64> {
    match operations.publish(&event).await {
        Ok(sequence) => Some(sequence),
        Err(error) => {
            tracing::warn!(id = event.id, error = chain(&error), "publishing an event later");
            feed.publish_later(event);
            None
        }
    }
}

/// Publishes the outcome that a record holds, and before it what subscribers have not seen.
pub(super) async fn announce_outcome<O: Operations, F: Feed>(
    operations: &O,
    feed: &F,
    build: &Build,
) {
    let told = feed.state(&build.request.project, build.request.build).await;
    let events = match told {
        Ok(told) => unseen(build, told),
        // The reconciler publishes what is missing.
        Err(Unreadable) => Event::finished(build).into_iter().collect(),
    };
    for event in events {
        announce(operations, feed, event).await;
    }
}

#[cfg(test)]
mod tests {
    use slipway_proto::{Change, Failure, Reason};

    use super::*;
    use crate::testing;

    fn types(build: &Build, told: Option<&Build>) -> Vec<&'static str> {
        let events = unseen(build, told.map(ProjectedState::of));
        events.iter().map(|event| event.body.short_type()).collect()
    }

    fn applied(build: &Build, change: &Change) -> Build {
        build.apply(change, build.accepted_at).expect("it applies")
    }

    #[test]
    fn the_outcome_comes_behind_what_subscribers_have_not_seen() {
        let queued = testing::build();
        let claim = Change::Claim { epoch: 1, worker: "w1".parse().expect("a name") };
        let running = applied(&queued, &claim);
        let cancelled = applied(&running, &Change::Cancel { message: "no more".into() });
        assert!(types(&running, None).is_empty(), "there is no outcome");
        let (q, s, f) = ("build.queued", "build.started", "build.finished");
        assert_eq!(types(&cancelled, None), [q, s, f]);
        assert_eq!(types(&cancelled, Some(&queued)), [s, f]);
        assert_eq!(types(&cancelled, Some(&running)), [f]);
    }

    #[test]
    fn a_replay_is_queued_anew_before_its_outcome() {
        let queued = testing::build();
        let claim = Change::Claim { epoch: 1, worker: "w1".parse().expect("a name") };
        let failure = Failure::new(Reason::PushImageFailed, "reset");
        let fail = Change::Fail { epoch: 1, failure, dead: true };
        let failed = applied(&applied(&queued, &claim), &fail);
        let replayed = applied(&failed, &Change::Replay { epoch: 2 });
        let cancelled = applied(&replayed, &Change::Cancel { message: "no more".into() });
        assert_eq!(types(&cancelled, Some(&failed)), ["build.queued", "build.finished"]);
        assert_eq!(types(&cancelled, Some(&replayed)), ["build.finished"]);
    }
}
