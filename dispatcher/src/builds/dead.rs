// SPDX-License-Identifier: Apache-2.0

//! Replaying and dropping dead letters.
//!
//! A replay is a new epoch of the same build. In this order: the record goes back to queued, the
//! request is put into the queue, `build.queued` is published, and the letter is dropped last; so
//! whoever got no answer repeats it, and finds the letter as long as something is left to do.

use std::sync::Arc;

use slipway_proto::api::{DeadLetterView, StateName};
use slipway_proto::event::Event;
use slipway_proto::{Build, BuildId, Change, Digest, Phase, ProjectName, Timestamp};
use slipway_queue::dead::DeadLetter;
use slipway_queue::read::ReadError;
use slipway_queue::{PublishError, QueryError, RecordError, failpoint};

use crate::app::App;
use crate::builds::announce::announce;

/// How often a record is read again that somebody changed in between.
const MAX_RACES: usize = 16;

/// Why a dead letter is not replayed or dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeadError {
    /// There is none.
    #[error("there is no such dead letter")]
    NotFound,
    /// There is no record of its build, and its bytes are no request to make one from.
    #[error("the dead letter holds no build request")]
    Unreadable,
    /// Its build has another outcome than that it failed.
    #[error("the build has {}", .0.as_str())]
    Finished(StateName),
    /// The letters could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The record could not be read or changed.
    #[error("failed to change the record")]
    Record(#[from] RecordError),
    /// The request could not be put into the queue; the record says that it belongs there.
    #[error("failed to queue the build")]
    Publish(#[from] PublishError),
    /// The letter could not be taken out of the stream.
    #[error("failed to drop the letter")]
    Drop(#[source] QueryError),
}

/// Returns a letter as clients see it.
pub(crate) fn view(letter: &DeadLetter) -> DeadLetterView {
    DeadLetterView {
        build: letter.build.clone(),
        project: letter.project.clone(),
        pool: letter.pool.clone(),
        reason: letter.reason.clone(),
        died_at: letter.died_at,
        epoch: letter.epoch,
        request: letter.request(),
    }
}

/// Has the build of a dead letter tried again.
pub(crate) async fn replay(
    app: &Arc<App>,
    project: &ProjectName,
    name: &str,
) -> Result<Build, DeadError> {
    let letter = find(app, project, name).await?;
    let build = revive(app, project, &letter).await?;
    failpoint("replay.recorded");
    // Else an earlier replay came so far that a worker has taken it.
    if matches!(build.state.phase, Phase::Queued { .. }) && build.started_at.is_none() {
        // Before the request: a worker is faster than this, and subscribers see queued first.
        announce(app, Event::queued(&build)).await;
        failpoint("replay.announced");
        // From the record, and so without what may have been wrong with the letter's bytes.
        app.queue.enqueue(&build, None).await?;
        failpoint("replay.queued");
    }
    app.queue.drop_letter(&letter).await.map_err(DeadError::Drop)?;
    tracing::info!(build = %build.request.build, epoch = build.state.epoch, "replayed");
    Ok(build)
}

/// Drops a dead letter. Its build remains failed.
pub(crate) async fn drop_letter(
    app: &App,
    project: &ProjectName,
    name: &str,
) -> Result<(), DeadError> {
    let letter = find(app, project, name).await?;
    // First, since a letter that is missing while the record asks for one is written again.
    if let Ok(id) = letter.build.parse() {
        forget(app, project, id).await?;
    }
    app.queue.drop_letter(&letter).await.map_err(DeadError::Drop)?;
    tracing::info!(build = letter.build, "dropped a dead letter");
    Ok(())
}

/// Finds the letter of a build.
pub(crate) async fn find(
    app: &App,
    project: &ProjectName,
    name: &str,
) -> Result<DeadLetter, DeadError> {
    app.queue.dead_letter(project, name).await?.ok_or(DeadError::NotFound)
}

/// Brings a letter's build back to queued, unless an earlier replay has.
async fn revive(app: &App, project: &ProjectName, letter: &DeadLetter) -> Result<Build, DeadError> {
    let id: Option<BuildId> = letter.build.parse().ok();
    for _ in 0..MAX_RACES {
        let record = match id {
            Some(id) => app.builds.record(project, id).await?,
            None => None,
        };
        let written = match record {
            Some(record) => match replayed(&record.build)? {
                Some(next) => app.queue.records().update(next, record.revision).await,
                None => return Ok(record.build),
            },
            None => {
                let build = remade(project, letter, Timestamp::now());
                app.queue.records().create(build.ok_or(DeadError::Unreadable)?).await
            }
        };
        match written {
            Err(RecordError::Conflict) => {}
            written => return Ok(written?.build),
        }
    }
    Err(RecordError::Conflict.into())
}

/// Returns the record after a replay; `None` if it is unfinished, as an earlier one left it.
fn replayed(build: &Build) -> Result<Option<Build>, DeadError> {
    if !build.state.is_finished() {
        return Ok(None);
    }
    let change = Change::Replay { epoch: build.state.epoch + 1 };
    match build.apply(&change, Timestamp::now()) {
        Ok(next) => Ok(Some(next)),
        Err(_not_failed) => Err(DeadError::Finished(StateName::from(&build.state.phase))),
    }
}

/// Makes the record of a replayed build whose own is gone, 72 h after the build ended. It is a new
/// place in the order of acceptance: whoever replays it now submits it last.
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

/// Notes in the record, if it is there, that its letter is not wanted any more.
async fn forget(app: &App, project: &ProjectName, id: BuildId) -> Result<(), DeadError> {
    for _ in 0..MAX_RACES {
        let Some(record) = app.builds.record(project, id).await? else { return Ok(()) };
        if !record.build.is_dead() {
            return Ok(());
        }
        let dropped = record.build.apply(&Change::DropLetter, Timestamp::now());
        let dropped = dropped.expect("a dead build has failed");
        match app.queue.records().update(dropped, record.revision).await {
            Err(RecordError::Conflict) => {}
            written => return written.map(drop).map_err(DeadError::from),
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
        let build = testing::build("team", "r.example/app:1");
        let project = &build.request.project;
        let now = Timestamp::now();
        let remade = remade(project, &letter(&build), now).expect("it is a request");
        assert_eq!((remade.state.epoch, remade.replays, remade.order), (6, 2, 0));
        assert_eq!((remade.replayed_at, remade.accepted_at), (Some(now), build.accepted_at));
        assert_eq!((&remade.request, remade.submission), (&build.request, build.submission));
        assert!(!remade.state.is_finished());
    }

    #[test]
    fn a_letter_that_holds_no_request_or_anothers_makes_no_record() {
        let build = testing::build("team", "r.example/app:1");
        let project = &build.request.project;
        let now = Timestamp::now();
        let corrupt = DeadLetter { payload: "corrupt".into(), ..letter(&build) };
        assert!(remade(project, &corrupt, now).is_none());
        let other = testing::build("team", "r.example/app:1");
        let mixed = DeadLetter { payload: letter(&other).payload, ..letter(&build) };
        assert!(remade(project, &mixed, now).is_none());
        assert!(remade(&"other".parse().expect("a name"), &letter(&build), now).is_none());
    }

    #[test]
    fn only_a_failed_build_goes_back() {
        let queued = testing::build("team", "r.example/app:1");
        assert!(replayed(&queued).expect("it is in the queue").is_none());
        let failure = Failure::new(Reason::AttemptsExhausted, "5 attempts failed");
        let fail = Change::Fail { epoch: 0, failure, dead: true };
        let failed = queued.apply(&fail, queued.accepted_at).expect("it applies");
        let again = replayed(&failed).expect("it applies").expect("it is replayed");
        assert_eq!((again.state.epoch, again.replays), (1, 1));
        let cancel = Change::Cancel { message: "no more".into() };
        let cancelled = queued.apply(&cancel, queued.accepted_at).expect("it applies");
        assert!(matches!(replayed(&cancelled), Err(DeadError::Finished(StateName::Cancelled))));
    }
}
