// SPDX-License-Identifier: Apache-2.0

//! Replaying and dropping dead letters.
//!
//! A replay is a new epoch of the same build. In this order: the record goes back to queued,
//! `build.queued` is published, the request is put into the queue, and the letter is dropped last.
//! So a client that got no answer repeats the replay, and finds the letter as long as something is
//! left to do.

use slipway_proto::api::StateName;
use slipway_proto::event::Event;
use slipway_proto::{Build, BuildId, Change, Digest, Phase, ProjectName, Timestamp};

use super::feed::announce;
use super::{Feed, Operations};
use crate::dead::DeadLetter;
use crate::failpoint::failpoint;
use crate::{PublishError, QueryError, RecordError};

/// How often a record is read again after a lost race.
const MAX_RACES: usize = 16;

/// Why a dead letter is not replayed or dropped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Its build has no record, and its bytes are not a request to make one from.
    #[error("the dead letter holds no build request")]
    Unreadable,
    /// Its build has an outcome other than failed.
    #[error("the build has {}", .0.as_str())]
    Finished(StateName),
    /// The record could not be read or changed.
    #[error("failed to change the record")]
    Record(#[from] RecordError),
    /// The request could not be put into the queue. The record says that it belongs there.
    #[error("failed to queue the build")]
    Publish(#[from] PublishError),
    /// The letter could not be dropped.
    #[error("failed to drop the letter")]
    Drop(#[from] QueryError),
}

/// What brings a letter's build back to queued.
#[derive(Debug, PartialEq, Eq)]
enum Revival {
    /// Write this record over the one that was read.
    Update(Box<Build>),
    /// Write this record; there is none.
    Create(Box<Build>),
    /// Nothing: an earlier replay has brought it back.
    Done(Box<Build>),
}

/// Decides how a letter's build is brought back.
fn revive(
    found: Option<Build>,
    project: &ProjectName,
    letter: &DeadLetter,
    now: Timestamp,
) -> Result<Revival, ReplayError> {
    let Some(build) = found else {
        let remade = remade(project, letter, now).ok_or(ReplayError::Unreadable)?;
        return Ok(Revival::Create(Box::new(remade)));
    };
    if !build.state.is_finished() {
        return Ok(Revival::Done(Box::new(build)));
    }
    let change = Change::Replay { epoch: build.state.epoch + 1 };
    match build.apply(&change, now) {
        Ok(next) => Ok(Revival::Update(Box::new(next))),
        Err(_not_failed) => Err(ReplayError::Finished(StateName::from(&build.state.phase))),
    }
}

/// Makes the record of a replayed build whose own is gone, 72 h after the build ended. It gets a new
/// place in the order of acceptance: a replay now is the last submission.
fn remade(project: &ProjectName, letter: &DeadLetter, now: Timestamp) -> Option<Build> {
    let request = letter.request()?;
    if request.project != *project || request.build.to_string() != letter.build {
        return None;
    }
    let submission = letter.submission.unwrap_or_else(|| Digest::of(&letter.payload));
    let accepted_at = letter.accepted_at.unwrap_or(letter.died_at);
    let mut build = Build::accepted(request, submission, accepted_at);
    build.state.epoch = letter.epoch + 1;
    build.replays = letter.replays.saturating_add(1);
    build.replayed_at = Some(now);
    Some(build)
}

/// Returns whether a revived build still has to be queued: an earlier replay may have come so far
/// that a worker has taken it.
fn waits_for_first_attempt(build: &Build) -> bool {
    matches!(build.state.phase, Phase::Queued { .. }) && build.started_at.is_none()
}

/// Tries the build of a dead letter again.
///
/// # Errors
///
/// When the build has not failed, or NATS does not answer; repeating the replay is harmless.
pub async fn replay<O: Operations, F: Feed>(
    operations: &O,
    feed: &F,
    project: &ProjectName,
    letter: &DeadLetter,
) -> Result<Build, ReplayError> {
    let build = bring_back(operations, project, letter).await?;
    failpoint("replay.recorded");
    if waits_for_first_attempt(&build) {
        // Before the request, because a worker is faster than this and subscribers must see
        // `queued` first.
        announce(operations, feed, Event::queued(&build)).await;
        failpoint("replay.announced");
        // From the record, so that a fault in the letter's bytes does not matter.
        operations.enqueue(&build, None).await?;
        failpoint("replay.queued");
    }
    operations.drop_letter(letter).await?;
    tracing::info!(build = %build.request.build, epoch = build.state.epoch, "replayed");
    Ok(build)
}

/// Takes a letter's build back to queued, unless an earlier replay has.
async fn bring_back<O: Operations>(
    operations: &O,
    project: &ProjectName,
    letter: &DeadLetter,
) -> Result<Build, ReplayError> {
    let id: Option<BuildId> = letter.build.parse().ok();
    for _ in 0..MAX_RACES {
        let record = match id {
            Some(id) => operations.record(project, id).await?,
            None => None,
        };
        let revision = record.as_ref().map_or(0, |record| record.revision);
        let found = record.map(|record| record.build);
        let written = match revive(found, project, letter, operations.now())? {
            Revival::Done(build) => return Ok(*build),
            Revival::Update(next) => operations.update(*next, revision).await,
            Revival::Create(build) => operations.create(*build).await,
        };
        match written {
            Err(RecordError::Conflict) => {}
            written => return Ok(written?.build),
        }
    }
    Err(RecordError::Conflict.into())
}

/// Drops a dead letter. Its build remains failed.
///
/// # Errors
///
/// When NATS does not answer; repeating it is harmless.
pub async fn drop_letter<O: Operations>(
    operations: &O,
    project: &ProjectName,
    letter: &DeadLetter,
) -> Result<(), ReplayError> {
    // The record comes first, because a letter that is missing while the record asks for one is
    // written again.
    if let Ok(id) = letter.build.parse() {
        forget(operations, project, id).await?;
    }
    operations.drop_letter(letter).await?;
    tracing::info!(build = letter.build, "dropped a dead letter");
    Ok(())
}

/// Notes in the record, if there is one, that its letter is not wanted any more.
async fn forget<O: Operations>(
    operations: &O,
    project: &ProjectName,
    id: BuildId,
) -> Result<(), ReplayError> {
    for _ in 0..MAX_RACES {
        let Some(record) = operations.record(project, id).await? else { return Ok(()) };
        if !record.build.is_dead() {
            return Ok(());
        }
        let dropped = record.build.apply(&Change::DropLetter, operations.now());
        let dropped = dropped.expect("a dead build has failed");
        match operations.update(dropped, record.revision).await {
            Err(RecordError::Conflict) => {}
            written => return written.map(drop).map_err(ReplayError::from),
        }
    }
    Err(RecordError::Conflict.into())
}

#[cfg(test)]
mod tests {
    use slipway_proto::{Failure, Reason, codec};

    use super::*;
    use crate::testing;

    fn letter(build: &Build) -> DeadLetter {
        let payload = codec::encode(&build.request).expect("it encodes");
        DeadLetter {
            sequence: 7,
            build: build.request.build.to_string(),
            project: build.request.project.to_string(),
            pool: build.request.pool.clone(),
            reason: "AttemptsExhausted: 5 attempts failed".into(),
            died_at: Timestamp::now(),
            epoch: 5,
            replays: 1,
            submission: Some(build.submission),
            accepted_at: Some(build.accepted_at),
            payload: payload.into(),
        }
    }

    #[test]
    fn a_record_that_is_gone_is_made_anew_from_the_letter() {
        let build = testing::build();
        let project = &build.request.project;
        let now = Timestamp::now();
        let revived = revive(None, project, &letter(&build), now).expect("it is a request");
        let Revival::Create(remade) = revived else { panic!("{revived:?}") };
        assert_eq!((remade.state.epoch, remade.replays, remade.order), (6, 2, 0));
        assert_eq!((remade.replayed_at, remade.accepted_at), (Some(now), build.accepted_at));
        assert_eq!((&remade.request, remade.submission), (&build.request, build.submission));
        assert!(!remade.state.is_finished());
    }

    #[test]
    fn a_letter_that_holds_no_request_or_anothers_makes_no_record() {
        let build = testing::build();
        let project = &build.request.project;
        let now = Timestamp::now();
        let corrupt = DeadLetter { payload: "corrupt".into(), ..letter(&build) };
        assert!(remade(project, &corrupt, now).is_none());
        let other = testing::build();
        let mixed = DeadLetter { payload: letter(&other).payload, ..letter(&build) };
        assert!(remade(project, &mixed, now).is_none());
        assert!(remade(&"other".parse().expect("a name"), &letter(&build), now).is_none());
    }

    #[test]
    fn only_a_failed_build_goes_back() {
        let queued = testing::build();
        let (project, now) = (queued.request.project.clone(), queued.accepted_at);
        let letter = letter(&queued);
        let revived = |build: &Build| revive(Some(build.clone()), &project, &letter, now);
        let done = revived(&queued).expect("it is in the queue");
        assert_eq!(done, Revival::Done(Box::new(queued.clone())));
        let failure = Failure::new(Reason::AttemptsExhausted, "5 attempts failed");
        let fail = Change::Fail { epoch: 0, failure, dead: true };
        let failed = queued.apply(&fail, now).expect("it applies");
        let again = revived(&failed).expect("it applies");
        let Revival::Update(again) = again else { panic!("{again:?}") };
        assert_eq!((again.state.epoch, again.replays), (1, 1));
        let cancel = Change::Cancel { message: "no more".into() };
        let cancelled = queued.apply(&cancel, now).expect("it applies");
        let refused = revived(&cancelled);
        assert!(matches!(refused, Err(ReplayError::Finished(StateName::Cancelled))), "{refused:?}");
    }
}
