// SPDX-License-Identifier: Apache-2.0

//! Finding one build: its live record, else the projection.
//!
//! The record is the truth and exists from the moment of acceptance, so a client reads its own
//! write. The projection answers when the record is gone (72 h after its last change) or NATS is
//! away, and knows the stage, which is only published as an event.

use std::time::Duration;

use slipway_proto::{Build, BuildId, Phase, ProjectName};
use slipway_queue::{Queue, Record, RecordError};

use crate::events::projection::{Projection, ProjectionError};

/// How long a read waits for the live record before it uses the projection.
pub(crate) const LIVE_RECORD_WITHIN: Duration = Duration::from_secs(2);

/// Why it is unknown whether a build exists.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    /// The live record could not be read, and the projection does not know the build.
    #[error("failed to read the live record")]
    Record(#[source] RecordError),
    /// The projection could not be read.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
}

/// Finds builds.
#[derive(Debug, Clone)]
pub(crate) struct Builds {
    queue: Queue,
    projection: Projection,
}

impl Builds {
    pub(crate) fn new(queue: Queue, projection: Projection) -> Self {
        Self { queue, projection }
    }

    /// Finds a build.
    pub(crate) async fn find(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<Build>, FindError> {
        let record = self.record(project, build).await;
        if let Ok(Some(record)) = &record
            && record.build.state.is_finished()
        {
            return Ok(Some(record.build.clone()));
        }
        let folded = self.projection.get(project, build).await?;
        match (record, folded) {
            (Ok(Some(record)), folded) => Ok(Some(merged(record.build, folded))),
            (_, Some(folded)) => Ok(Some(folded)),
            (Ok(None), None) => Ok(None),
            (Err(error), None) => Err(FindError::Record(error)),
        }
    }

    /// Reads the live record.
    pub(crate) async fn record(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<Record>, RecordError> {
        self.queue.record(project, build).await
    }

    /// Reads the projection alone.
    pub(crate) async fn folded(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<Build>, ProjectionError> {
        self.projection.get(project, build).await
    }
}

/// Adds to a live record what only events hold: the stage of the attempt, and why the previous one
/// ended.
fn merged(mut record: Build, folded: Option<Build>) -> Build {
    let Some(folded) = folded else { return record };
    if folded.state.epoch == record.state.epoch
        && let (Phase::Running { stage, .. }, Phase::Running { stage: told, .. }) =
            (&mut record.state.phase, &folded.state.phase)
    {
        *stage = (*stage).max(*told);
    }
    if record.last_failure.is_none() {
        record.last_failure = folded.last_failure;
    }
    record
}

#[cfg(test)]
mod tests {
    use slipway_proto::{Change, Stage};

    use super::*;
    use crate::testing;

    #[test]
    fn the_stage_comes_from_the_events_of_the_same_attempt() {
        let worker = "w1".parse().expect("a name");
        let accepted = testing::build("team", "r.example/app:1");
        let claim = Change::Claim { epoch: 1, worker };
        let running = accepted.apply(&claim, accepted.accepted_at).expect("it applies");
        let enter = Change::Enter { epoch: 1, stage: Stage::Push };
        let pushing = running.apply(&enter, accepted.accepted_at).expect("it applies");
        assert_eq!(merged(running.clone(), Some(pushing.clone())), pushing);
        assert_eq!(merged(running.clone(), Some(accepted.clone())), running);
        assert_eq!(merged(accepted.clone(), Some(pushing)), accepted, "another epoch");
    }
}
